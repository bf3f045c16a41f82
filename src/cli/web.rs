//! Whether apps can come by Telegram's WEB proxies, and the reason why not: links name no port and no certificate, so that what
//! is in the way has to be known before a link is handed out.

use std::fmt;
use std::path::Path;

use tracing::warn;

use super::ways::Ways;
use crate::auth::Domain;
use crate::config::embedded::CoverDraft;
use crate::config::{Config, Cover, Draft, Listen, User};
use crate::cover::site;
use crate::ops::links::WebLinks;
use crate::webproxy::Host;

/// The only port of WEB proxies.
const PORT: u16 = 443;

/// Reason why no app can come by a WEB proxy, though they are switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebObstacle {
    /// The cover is a web server elsewhere.
    RemoteCover,
    /// The name of the site is made up, and leads nowhere.
    MadeUpName,
    /// The apps refuse a name of this form.
    UnfitName,
    /// The certificate is self-signed.
    SelfSigned,
    /// Clients reach this proxy at another port.
    Port(u16),
}

impl WebObstacle {
    /// Advice on what to do.
    pub fn fix(self) -> &'static str {
        match self {
            Self::RemoteCover => {
                "put the built-in site in front of your web server: `[site]` with `upstream = \"http://127.0.0.1:8080\"`"
            }
            Self::MadeUpName => "name your own, which leads to this machine: `domain = \"www.example.com\"`",
            Self::UnfitName => "use a name of letters, digits and hyphens that has a dot in it",
            Self::SelfSigned => "add an empty section `[site.acme]`, or `certificate` and `key` to `[site]`",
            Self::Port(_) => {
                "listen on port 443; or, if that port is passed on to this one, say so: `port = 443` in the section [link]"
            }
        }
    }

    /// The obstacle and what to do about it, in one sentence.
    pub fn sentence(self) -> String {
        format!("no app can come by WEB proxy: {self}; {}", self.fix())
    }
}

impl fmt::Display for WebObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoteCover => f.write_str("the built-in site serves it, and the cover is a web server elsewhere"),
            Self::MadeUpName => f.write_str("the name of the site is made up, so it leads nowhere"),
            Self::UnfitName => f.write_str("apps take no host of this form, which the name of the site has"),
            Self::SelfSigned => f.write_str("the certificate is self-signed, and browsers refuse it"),
            Self::Port(0) => f.write_str("apps come to port 443, and the port is chosen when the proxy starts"),
            Self::Port(port) => write!(f, "apps come to port 443, and clients reach this proxy at port {port}"),
        }
    }
}

/// Facts that decide it.
struct Facts<'f> {
    is_site: bool,
    /// The name, unless it is made up.
    name: Option<&'f Domain>,
    /// The certificate, unless one is made up.
    certificate: Option<&'f Path>,
    /// Whether an authority issues one.
    issued: bool,
    /// Whether a web server in front has the port and the certificate.
    fronted: bool,
    port: u16,
}

impl Facts<'_> {
    fn obstacle(&self) -> Option<WebObstacle> {
        let Some(name) = self.name else {
            return Some(if self.is_site { WebObstacle::MadeUpName } else { WebObstacle::RemoteCover });
        };
        let self_signed = || !self.issued && self.certificate.is_none_or(site::is_self_signed);
        match () {
            () if !self.is_site => Some(WebObstacle::RemoteCover),
            () if Host::lowered(name.as_str()).is_err() => Some(WebObstacle::UnfitName),
            () if self.fronted => None,
            () if self_signed() => Some(WebObstacle::SelfSigned),
            () if self.port != PORT => Some(WebObstacle::Port(self.port)),
            () => None,
        }
    }
}

/// The first obstacle for a proxy that clients reach at `port`; `None` as well where WEB proxies are off.
pub fn obstacle(config: &Config, port: u16) -> Option<WebObstacle> {
    config.web.as_ref()?;
    let site = match &config.cover {
        Cover::Site(site) => Some(site),
        Cover::Remote(_) => None,
    };
    let facts = Facts {
        is_site: site.is_some(),
        name: (!config.made_up.domain).then_some(&config.domain),
        certificate: site.filter(|_| !config.made_up.certificate).map(|site| &*site.certificate),
        issued: site.is_some_and(|site| site.acme.is_some()),
        fronted: site.is_some_and(|site| !site.fronts.listen.is_empty()),
        port,
    };
    facts.obstacle()
}

/// The same of a configuration whose gaps are not filled, by the listeners that are known without changing anything.
pub(super) fn expected_obstacle(draft: &Draft) -> Option<WebObstacle> {
    draft.web.as_ref()?;
    let (is_site, certificate, issued, fronted) = match &draft.cover {
        CoverDraft::Site { certificate, acme, fronts, .. } => {
            (true, certificate.as_ref(), acme.is_some(), !fronts.listen.is_empty())
        }
        CoverDraft::Remote(_) => (false, None, false, false),
    };
    let certificate = certificate.map(|(certificate, _)| &**certificate);
    let listeners = Ways::of(&draft.listen, &draft.proxied, &draft.state_dir).tcp();
    let first = listeners.first().map(std::net::SocketAddr::port);
    let port = draft.link.port.or(first).unwrap_or(Listen::candidates()[0].port());
    Facts { is_site, name: draft.domain.as_ref(), certificate, issued, fronted, port }.obstacle()
}

/// Says once in the log why no app can come, if so.
pub(super) fn log_obstacle(config: &Config, port: u16) {
    if let Some(obstacle) = obstacle(config, port) {
        warn!("{}", obstacle.sentence());
    }
}

/// The links of a user's WEB proxy. The caller has seen that there is no obstacle.
pub(super) fn links(config: &Config, user: &User) -> Option<WebLinks> {
    let (web, _) = config.web.as_ref()?;
    let host = Host::lowered(config.name_of(user).as_str()).ok()?;
    Some(WebLinks::new(&host, &web.path, &user.secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Flags, load_text};

    const SITE: &str = "domain = \"www.example.com\"\nlisten = [\"127.0.0.1:443\"]\n[site.acme]\n";

    fn found(text: &str) -> (Option<WebObstacle>, Option<WebObstacle>) {
        let state = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("VIZARD_STATE_DIR", state.path().to_str().unwrap())]);
        let draft = load_text(text, None, &Flags::default(), &environment).unwrap().draft;
        let before = expected_obstacle(&draft);
        let config = draft.settle(&mut rand::rng()).unwrap();
        let port = super::super::invitation::port(&config, &config.listen.tcp());
        (before, obstacle(&config, port))
    }

    #[test]
    fn each_obstacle_is_found_before_and_after_the_first_start() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = site::self_signed(&["www.example.com"], folder.path()).unwrap();
        let files = format!("certificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display());
        for (text, expected) in [
            (SITE.to_owned(), None),
            (SITE.replace("443", "8443"), Some(WebObstacle::Port(8443))),
            (format!("{}[link]\nport = 443\n", SITE.replace("443", "8443")), None),
            (format!("{SITE}[link]\nport = 8443\n"), Some(WebObstacle::Port(8443))),
            (SITE.replace("[site.acme]", "cover = \"site\""), Some(WebObstacle::SelfSigned)),
            // A web server in front has the port and the certificate.
            (SITE.replace("443", "8443").replace("[site.acme]", "[site]\nhttp_listen = [\"127.0.0.1:8080\"]"), None),
            (SITE.replace("[site.acme]\n", &format!("[site]\n{files}")), Some(WebObstacle::SelfSigned)),
            ("listen = [\"127.0.0.1:443\"]\n".to_owned(), Some(WebObstacle::MadeUpName)),
            (SITE.replace("[site.acme]", "[cover]\naddress = \"192.0.2.1:443\""), Some(WebObstacle::RemoteCover)),
            (SITE.replace("www.example.com", "localhost"), Some(WebObstacle::UnfitName)),
        ] {
            let text = text.replace("cover = \"site\"\n", "[cover]\nkind = \"site\"\n");
            assert_eq!(found(&format!("{text}[web]\nenabled = true\n")), (expected, expected), "{text}");
            assert_eq!(found(&text), (None, None), "{text}");
            if let Some(obstacle) = expected {
                let said = obstacle.sentence();
                assert!(said.starts_with("no app can come by WEB proxy: ") && said.contains("; "), "{said}");
            }
        }
    }
}
