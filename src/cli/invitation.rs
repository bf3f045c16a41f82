//! Which host and port a link names, and the links of all users.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::web;
use crate::config::{Config, Cover, Listen};
use crate::ops::links::{Form, Link, OwnAddress, WebLinks, qr};

/// Host that links name as the server, and how sure it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Host name or address literal, IPv6 without brackets.
    pub name: String,
    /// Source of the name.
    pub source: Source,
}

/// Source of the host in a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator said so.
    Configured,
    /// The domain, whose certificate is on this machine.
    Domain,
    /// A public address of this machine.
    Address,
    /// An address that no one outside the own network can reach.
    PrivateAddress,
}

impl Host {
    /// The configured host; else the domain if this machine has its certificate; else the address that the first
    /// listener is bound to; else what `own` finds; `None` if the machine has no network.
    pub fn choose(config: &Config, listeners: &[SocketAddr], own: fn() -> Option<OwnAddress>) -> Option<Self> {
        if let Some(host) = &config.link.host {
            return Some(Self { name: host.clone(), source: Source::Configured });
        }
        if matches!(config.cover, Cover::Site(_)) && !config.made_up.certificate && !config.made_up.domain {
            return Some(Self { name: config.domain.to_string(), source: Source::Domain });
        }
        let bound = listeners.first().map(SocketAddr::ip).filter(|address| !address.is_unspecified());
        let own = bound.map(OwnAddress::new).or_else(own)?;
        let source = if own.public { Source::Address } else { Source::PrivateAddress };
        Some(Self { name: own.to_string(), source })
    }
}

/// The port that links name: the configured one, else that of the first listener.
pub fn port(config: &Config, listeners: &[SocketAddr]) -> u16 {
    config.link.port.or(listeners.first().map(SocketAddr::port)).unwrap_or(Listen::candidates()[0].port())
}

/// The listeners as far as they can be known without running: of the automatic ones the first that this user may bind,
/// be it in use or not, because then it is probably the proxy that uses it.
pub fn expected_listeners(listen: &Listen) -> Vec<SocketAddr> {
    let forbidden = |address: &SocketAddr| {
        TcpListener::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    match listen {
        Listen::Given(_) => listen.tcp(),
        Listen::Automatic => {
            let [first, second] = Listen::candidates();
            vec![if forbidden(&first) { second } else { first }]
        }
    }
}

/// A user's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Name of the user.
    pub user: String,
    /// What the link names as the server.
    pub server: String,
    /// `tg://proxy?…`
    pub tg: String,
    /// `https://t.me/proxy?…`
    pub web: String,
    /// The same key for the WEB proxy, where apps can come by one.
    pub webproxy: Option<WebLinks>,
}

/// Kind of link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LinkKind {
    /// `tg://proxy`: for all apps
    Ee,
    /// `tg://webproxy`: for newer apps, by a browser of their own
    Web,
}

/// Links that are shown of each user.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkView {
    /// One kind of them; otherwise all.
    pub kind: Option<LinkKind>,
    /// Whether those of WEB proxies have `dd` before the key.
    pub dd: bool,
    /// Whether QR codes are drawn.
    pub codes: bool,
}

impl LinkView {
    /// Whether links of this kind are shown.
    pub fn has(&self, kind: LinkKind) -> bool {
        self.kind.is_none_or(|only| only == kind)
    }
}

impl Invitation {
    /// Name and links, a line each, then a QR code for each kind.
    pub fn text(&self, view: LinkView) -> String {
        let ee = [&self.tg, &self.web].map(String::as_str).into_iter().filter(|_| view.has(LinkKind::Ee));
        let web = self.webproxy.iter().filter(|_| view.has(LinkKind::Web)).flat_map(|links| links.of_form(view.dd));
        let (ee, web): (Vec<&str>, Vec<&str>) = (ee.collect(), web.collect());
        let mut text = format!("{}\n", self.user);
        ee.iter().chain(&web).for_each(|link| text += &format!("  {link}\n"));
        for first in [ee.first(), web.first()].into_iter().flatten().filter(|_| view.codes) {
            text += &qr(first).map(|code| format!("\n{code}")).unwrap_or_default();
        }
        text
    }
}

/// The links of all users, in the order of the configuration. Each carries the user's own name of the site; where names are
/// the servers of links, also in that place, so that the name that is looked up is the one in the hello.
pub fn invitations(config: &Config, host: &Host, port: u16, form: Form) -> Vec<Invitation> {
    let blocked = web::obstacle(config, port).is_some();
    let invitation = |user: &crate::config::User| {
        let webproxy = if blocked { None } else { web::links(config, user) };
        let (secret, domain) = (user.secret.clone(), config.name_of(user).clone());
        let host = if host.source == Source::Domain { domain.to_string() } else { host.name.clone() };
        let link = Link { host, port, secret, domain };
        Invitation { user: user.name.clone(), tg: link.tg(form), web: link.web(form), server: link.host, webproxy }
    };
    config.users.iter().map(invitation).collect()
}
