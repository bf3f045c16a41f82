//! The first configuration file: from answers to text.
//!
//! What comes out is meant to be read and changed by people, so it says what each part is for and leaves out what has a
//! good default.

use std::path::PathBuf;

use super::edit::Changes;
use super::resolve::acme;
use crate::auth::{Domain, Secret};
use crate::cover::site::acme::Authority;
use crate::webproxy::BasePath;
use crate::webproxy::session::Mode;
use crate::wire::rpc::AdTag;

/// Contents of a first configuration file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Starter {
    /// Folder for what must survive a restart, where it is not the usual one.
    pub state_dir: Option<PathBuf>,
    /// The name that links carry; without one, a name is made up at the first start.
    pub domain: Option<Domain>,
    /// Further names of the same site.
    pub names: Vec<Domain>,
    /// Addresses to accept clients on; empty lets the program choose.
    pub listen: Vec<String>,
    /// Users who may enter.
    pub users: Vec<Person>,
    /// The tag of a promoted channel.
    pub ad_tag: Option<AdTag>,
    /// Host that links name as the server.
    pub link_host: Option<String>,
    /// The port in links, where it is not that of the first listener.
    pub link_port: Option<u16>,
    /// Site that strangers meet.
    pub cover: Cover,
    /// WEB proxies that the built-in site serves.
    pub web: Option<WebStart>,
}

/// WEB proxies of a first configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebStart {
    /// A path besides the root; empty for none.
    pub path: BasePath,
    /// The carrier, where it is not the usual one.
    pub carrier: Option<Mode>,
}

/// A user of a first configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// The name.
    pub name: String,
    /// The key.
    pub secret: Secret,
    /// Limits of the user.
    pub limits: Changes,
}

impl Person {
    /// One who may do everything.
    pub fn new(name: impl Into<String>, secret: Secret) -> Self {
        Self { name: name.into(), secret, limits: Changes::default() }
    }
}

/// Site that strangers meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// The built-in site.
    Site {
        /// Its certificate.
        certificate: Certificate,
        /// Content that it serves.
        content: Content,
        /// Whether plain HTTP on port 80 is answered with a redirect.
        redirect: bool,
    },
    /// A web server elsewhere.
    Remote {
        /// Host and port; without them, where the domain leads.
        address: Option<String>,
        /// Whether its first flight may have several encrypted records.
        accept_grade_c: bool,
    },
}

impl Default for Cover {
    fn default() -> Self {
        Self::Site { certificate: Certificate::SelfSigned, content: Content::Sample, redirect: false }
    }
}

/// The certificate of the built-in site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// One that the first start makes: good for trying out.
    SelfSigned,
    /// These files.
    Files {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// One that this authority issues and renews.
    Issued(Box<Authority>),
}

/// Content of the built-in site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The pages that come with the program: good for trying out.
    Sample,
    /// Files below a folder.
    Folder(PathBuf),
    /// Another web server over plain HTTP.
    Upstream(String),
}

impl Starter {
    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        if let Some(folder) = &self.state_dir {
            text += &format!("\n# What must survive a restart is kept here.\nstate_dir = {}\n", path(folder));
        }
        if let Some(domain) = &self.domain {
            text += &format!("\n# The name that links carry.{}\n", self.about_the_domain());
            text += &format!("domain = {}\n", quoted(domain.as_str()));
        } else {
            text += "\n# The name that links carry. Without one, a name is made up, which is good for trying out.\n";
            text += "#domain = \"www.example.com\"\n";
        }
        if !self.names.is_empty() {
            let list: Vec<_> = self.names.iter().map(|name| quoted(name.as_str())).collect();
            text +=
                "\n# Further names of the same site, over which users are spread; its certificate holds them all.\n";
            text += &format!("names = [{}]\n", list.join(", "));
        }
        if !self.listen.is_empty() {
            let list: Vec<_> = self.listen.iter().map(|address| quoted(address)).collect();
            text += &format!("\n# Where clients and visitors are accepted.\nlisten = [{}]\n", list.join(", "));
        }
        if let Some(tag) = &self.ad_tag {
            text += &format!("\n# The channel that Telegram shows to the users of this proxy.\nad_tag = \"{tag}\"\n");
        }
        text += "\n# The users. Give each person a secret: `vizard user add NAME --config THIS_FILE`.\n";
        text += &self.users.iter().map(section).collect::<Vec<_>>().join("\n");
        text += &self.link();
        text += &self.cover.text();
        text + &self.web.as_ref().map(WebStart::text).unwrap_or_default()
    }

    fn about_the_domain(&self) -> &'static str {
        match self.cover {
            Cover::Site { .. } => " It should lead to this machine.",
            Cover::Remote { .. } => " It is that of the site that visitors see.",
        }
    }

    fn link(&self) -> String {
        if self.link_host.is_none() && self.link_port.is_none() {
            return String::new();
        }
        let mut text = "\n# What links name as the server.\n[link]\n".to_owned();
        text += &self.link_host.as_ref().map(|host| format!("host = {}\n", quoted(host))).unwrap_or_default();
        text += &self.link_port.map(|port| format!("port = {port}\n")).unwrap_or_default();
        text
    }
}

impl WebStart {
    fn text(&self) -> String {
        let mut text = "\n# Newer apps of Telegram come through the site, in a browser of their own: docs/web.md\n[web]\nenabled = true\n".to_owned();
        text += &self.carrier.map(|carrier| format!("carrier = \"{carrier}\"\n")).unwrap_or_default();
        if !self.path.is_root() {
            text += &format!("path = \"{}\"\n", self.path);
        }
        text
    }
}

const HEAD: &str = "\
# A configuration of vizard, made by `vizard init`. `vizard check --config THIS_FILE` shows every mistake at once;
# docs/configuration.md has all keys. A running proxy applies changes by itself.
#
# This file holds secrets: keep it readable for its owner only.
";

impl Cover {
    fn text(&self) -> String {
        match self {
            Self::Remote { address, accept_grade_c } => {
                let mut text =
                    "\n# What visitors see: a web server elsewhere, to which they are passed through.\n[cover]\n\
                                kind = \"remote\"\n"
                        .to_owned();
                text += &address.as_ref().map(|address| format!("address = {}\n", quoted(address))).unwrap_or_default();
                if *accept_grade_c {
                    text += "accept_grade_c = true\n";
                }
                text
            }
            Self::Site { certificate, content, redirect } => {
                let mut text = "\n# What visitors see: the built-in web server.\n[site]\n".to_owned();
                text += &certificate.files();
                text += &match content {
                    Content::Sample => "# Without this, pages that every such installation begins with. Put your own \
                                        there.\n#folder = \"public\"\n"
                        .to_owned(),
                    Content::Folder(folder) => format!("folder = {}\n", path(folder)),
                    Content::Upstream(url) => format!("upstream = {}\n", quoted(url)),
                };
                if *redirect {
                    text += "# Plain HTTP is answered with a redirect, as sites do.\nredirect_from = [\"[::]:80\"]\n";
                }
                text + &certificate.section()
            }
        }
    }
}

impl Certificate {
    /// Lines about it in the section `[site]`.
    fn files(&self) -> String {
        match self {
            Self::SelfSigned => "# Without these a self-signed certificate is made, of which browsers warn: good for \
                                 trying out.\n#certificate = \"fullchain.pem\"\n#key = \"privkey.pem\"\n"
                .to_owned(),
            Self::Files { certificate, key } => {
                format!("# Read again when they change.\ncertificate = {}\nkey = {}\n", path(certificate), path(key))
            }
            Self::Issued(_) => String::new(),
        }
    }

    /// The section of its own that it needs.
    fn section(&self) -> String {
        match self {
            Self::Issued(authority) => format!(
                "\n# An authority issues and renews the certificate; this accepts its terms. docs/certificates.md\n{}",
                acme::section(authority)
            ),
            Self::SelfSigned | Self::Files { .. } => String::new(),
        }
    }
}

fn section(person: &Person) -> String {
    let mut text = format!("[[users]]\nname = {}\nsecret = {}\n", quoted(&person.name), quoted(&person.secret.hex()));
    let Changes {
        enabled,
        expires,
        quota,
        bandwidth_up,
        bandwidth_down,
        max_sessions,
        max_addresses,
        ad_tag,
        domain,
        note,
        ..
    } = &person.limits;
    let texts = [
        ("expires", expires),
        ("quota", quota),
        ("bandwidth_up", bandwidth_up),
        ("bandwidth_down", bandwidth_down),
        ("ad_tag", ad_tag),
        ("domain", domain),
        ("note", note),
    ];
    for (key, value) in texts {
        text += &value.as_ref().map(|value| format!("{key} = {}\n", quoted(value))).unwrap_or_default();
    }
    for (key, value) in [("max_sessions", max_sessions), ("max_addresses", max_addresses)] {
        text += &value.map(|value| format!("{key} = {value}\n")).unwrap_or_default();
    }
    text += &enabled.map(|enabled| format!("enabled = {enabled}\n")).unwrap_or_default();
    text
}

fn path(path: &std::path::Path) -> String {
    quoted(&path.to_string_lossy())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Draft, Environment, Flags, load_text};

    fn read_back(starter: &Starter) -> Draft {
        let environment = Environment::from_iter([("VIZARD_STATE_DIR", "/state")]);
        let loaded = load_text(&starter.text(), Some("vizard.toml".into()), &Flags::default(), &environment);
        loaded.unwrap_or_else(|error| panic!("{error}\n{}", starter.text())).draft
    }

    fn person(name: &str) -> Person {
        Person::new(name, Secret::new([7; 16]))
    }

    #[test]
    fn a_trial_is_what_no_configuration_is() {
        let draft = read_back(&Starter { users: vec![person("first")], ..Starter::default() });
        assert_eq!((draft.users[0].name.as_str(), draft.domain), ("first", None));
        assert_eq!(draft.listen, crate::config::Listen::Automatic);
        assert!(matches!(draft.cover, crate::config::embedded::CoverDraft::Site { certificate: None, .. }));
    }

    #[test]
    fn what_is_answered_is_what_is_read_back() {
        let limits = Changes {
            enabled: Some(false),
            expires: Some("2030-12-31".into()),
            quota: Some("5GB".into()),
            bandwidth_up: Some("1MB".into()),
            bandwidth_down: Some("2MB".into()),
            max_sessions: Some(60),
            max_addresses: Some(3),
            ad_tag: Some("none".into()),
            domain: Some("two.example.com".into()),
            note: Some("says \"hello\"\n".into()),
            ..Changes::default()
        };
        let starter = Starter {
            state_dir: Some("/srv/a \"quoted\" folder".into()),
            domain: Some("www.example.com".parse().unwrap()),
            names: vec!["two.example.com".parse().unwrap()],
            listen: vec!["[::]:8443".into(), "127.0.0.1:443".into()],
            users: vec![Person { limits, ..person("alice") }],
            link_host: Some("2001:db8::1".into()),
            link_port: Some(443),
            ad_tag: Some(AdTag([0xab; 16])),
            cover: Cover::Remote { address: Some("192.0.2.1:443".into()), accept_grade_c: true },
            web: Some(WebStart { path: "a/b".parse().unwrap(), carrier: Some(Mode::Https) }),
        };
        let draft = read_back(&starter);
        let web = draft.web.unwrap();
        assert_eq!((web.path.as_str(), web.carrier), ("a/b", Mode::Https));
        assert_eq!(draft.domain.unwrap().as_str(), "www.example.com");
        assert_eq!((draft.link.host.as_deref(), draft.link.port), (Some("2001:db8::1"), Some(443)));
        assert_eq!(format!("{:?}", draft.listen), "Given([Tcp([::]:8443), Tcp(127.0.0.1:443)])");
        let user = &draft.users[0];
        assert_eq!(user.secret, Secret::new([7; 16]));
        let policy = &user.policy;
        assert!(!policy.enabled && policy.expires.is_some() && policy.quota.is_some());
        assert_eq!((policy.max_sessions, policy.max_addresses), (Some(60), Some(3)));
        assert_eq!((policy.bandwidth_up, policy.bandwidth_down), (Some(1_000_000), Some(2_000_000)));
        assert_eq!((draft.ad_tag, policy.ad_tag), (starter.ad_tag, crate::auth::Tagging::Without));
        assert_eq!((&draft.names, policy.domain.as_ref()), (&starter.names, starter.names.first()));
        assert_eq!(policy.note.as_deref(), Some("says \"hello\"\n"));
        assert!(format!("{:?}", draft.cover).starts_with("Remote"));
    }

    #[test]
    fn a_site_of_ones_own_has_its_certificate_issued() {
        let authority = Authority { email: Some("you@example.com".into()), ..Authority::lets_encrypt(true) };
        let starter = Starter {
            domain: Some("www.example.com".parse().unwrap()),
            users: vec![person("alice")],
            cover: Cover::Site {
                certificate: Certificate::Issued(Box::new(authority.clone())),
                content: Content::Sample,
                redirect: true,
            },
            ..Starter::default()
        };
        let crate::config::embedded::CoverDraft::Site { acme, certificate: None, .. } = read_back(&starter).cover
        else {
            panic!("no site, or one with files")
        };
        assert_eq!(acme, Some(Box::new(authority)));
    }

    #[test]
    fn a_site_of_ones_own_has_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            std::fs::write(folder.path().join(name), "x").unwrap();
            folder.path().join(name)
        };
        let certificate = Certificate::Files { certificate: file("chain.pem"), key: file("key.pem") };
        for content in [Content::Folder(folder.path().into()), Content::Upstream("http://127.0.0.1:8080".into())] {
            let starter = Starter {
                domain: Some("www.example.com".parse().unwrap()),
                users: vec![person("alice")],
                cover: Cover::Site { certificate: certificate.clone(), content, redirect: true },
                ..Starter::default()
            };
            let draft = read_back(&starter);
            let crate::config::embedded::CoverDraft::Site { certificate, content, redirect_from, .. } = draft.cover
            else {
                panic!("no site")
            };
            assert!(certificate.is_some() && content.is_some() && redirect_from.len() == 1);
        }
    }
}
