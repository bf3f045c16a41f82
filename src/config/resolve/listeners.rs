//! Where the proxy listens: `listen`, the section `[proxy_protocol]`, `site.redirect_from` and `site.http_listen`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{ListenerAt, Resolver};
use crate::config::Proxied;
use crate::config::layer::{ProxiedWritten, Written};
use crate::config::report::{Complaint, Origin};
use crate::config::units;
use crate::cover::site::{self, FrontSettings};
use crate::net::listen::Address;
use crate::net::unix;

impl Resolver<'_> {
    /// Listeners for clients, those for clients that are handed on, and the TCP addresses of both.
    pub(super) fn listeners(
        &mut self,
        listen: Option<Vec<Written<String>>>,
        proxied: Option<ProxiedWritten>,
    ) -> (Vec<Address>, Proxied, Vec<ListenerAt>) {
        let proxied = proxied.unwrap_or_default();
        if let Some(lonely) = proxied.from.iter().flatten().next().filter(|_| proxied.listen.is_none() && self.whole) {
            let fix = "add `listen = [\"127.0.0.1:8443\"]` to this section";
            self.complaints.push(Complaint::new(&lonely.at, "nothing listens for PROXY protocol headers", fix));
        }
        let mut places: Vec<(Address, Origin)> = Vec::new();
        self.places(listen, &mut places);
        let count = places.len();
        self.places(proxied.listen, &mut places);
        let from = match proxied.from {
            Some(networks) => self.networks(Some(networks)),
            None => vec![IpNet::from(IpAddr::from(Ipv4Addr::LOCALHOST)), IpAddr::from(Ipv6Addr::LOCALHOST).into()],
        };
        let tcp = places.iter().filter_map(|(address, at)| Some((address.tcp()?, at.clone()))).collect();
        let mut addresses: Vec<Address> = places.into_iter().map(|(address, _)| address).collect();
        let handed_on = addresses.split_off(count);
        (addresses, Proxied { listen: handed_on, from }, tcp)
    }

    fn places(&mut self, written: Option<Vec<Written<String>>>, places: &mut Vec<(Address, Origin)>) {
        for text in written.unwrap_or_default() {
            let Some(address) = self.check(&text, units::listener) else { continue };
            let address = match address {
                Address::Unix(path) => Address::Unix(self.path(Written::new(path, text.at.clone()))),
                other => other,
            };
            if matches!(&address, Address::Unix(path) if path.as_os_str().len() > unix::LONGEST_PATH) {
                let what = "the path of this socket is longer than the kernel allows";
                self.complaints.push(Complaint::new(&text.at, what, "name a shorter one"));
            }
            let chosen = address.tcp().is_some_and(|address| address.port() == 0);
            match places.iter().find(|(known, _)| *known == address && !chosen) {
                Some((_, first)) => {
                    let complaint = Complaint::new(&text.at, "this listener is listed twice", "remove one");
                    self.complaints.push(complaint.and(first, "first here"));
                }
                None => places.push((address, text.at)),
            }
        }
    }

    /// Listeners for web servers in front of the site, and the header field in which they name visitors.
    pub(super) fn fronts(
        &mut self,
        written: Option<Vec<Written<String>>>,
        field: Option<Written<String>>,
        (listen, trusted): (&[ListenerAt], &[Written<String>]),
    ) -> FrontSettings {
        let mut places: Vec<(Address, Origin)> = Vec::new();
        self.places(written, &mut places);
        for (address, at) in places.iter().filter_map(|(address, at)| Some((address.tcp()?, at))) {
            if let Some((_, listener)) = listen.iter().find(|(listener, _)| collide(address, *listener)) {
                let what = "the proxy itself listens here";
                let fix = "web servers in front come to an address of their own, usually 127.0.0.1:8080";
                self.complaints.push(Complaint::new(at, what, fix).and(listener, "the listener"));
            }
            if !address.ip().is_loopback() && trusted.is_empty() && self.whole {
                let what = "plain HTTP from other machines is served to trusted proxies only, and there are none";
                let fix = "listen on 127.0.0.1, or name the addresses of your web servers in `trusted_proxies`";
                self.complaints.push(Complaint::new(at, what, fix));
            }
        }
        let field = field.and_then(|field| match hyper::header::HeaderName::from_bytes(field.value.as_bytes()) {
            Ok(name) => Some(name.as_str().to_owned()).filter(|name| name != site::USUAL_FIELD),
            Err(_) => {
                let fix = "write one like \"X-Forwarded-For\"";
                self.complaints.push(Complaint::new(&field.at, "not the name of a header field", fix));
                None
            }
        });
        FrontSettings { listen: places.into_iter().map(|(address, _)| address).collect(), field }
    }

    pub(super) fn redirects(&mut self, written: Vec<Written<String>>, listen: &[ListenerAt]) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for text in written {
            let Some(address) = self.check(&text, units::socket_address) else { continue };
            if let Some((_, listener)) = listen.iter().find(|(listener, _)| collide(address, *listener)) {
                let what = "the proxy itself listens here";
                let fix = "a redirect from plain HTTP usually listens on port 80";
                self.complaints.push(Complaint::new(&text.at, what, fix).and(listener, "the listener"));
            }
            if addresses.contains(&address) {
                self.complaints.push(Complaint::new(&text.at, "this address is listed twice", "remove one"));
            }
            addresses.push(address);
        }
        addresses
    }
}

/// Whether two listeners would be in each other's way.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_port = a.port() == b.port() && a.port() != 0;
    same_port && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
