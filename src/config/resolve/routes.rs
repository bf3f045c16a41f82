//! The sections `[[routes]]`, and the keys that name one of them.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::Resolver;
use crate::auth::{SecretText, link_part};
use crate::config::keys::nearest;
use crate::config::layer::{DnsWritten, RouteWritten, Written};
use crate::config::report::{Complaint, Origin, quoted};
use crate::config::{User, units};
use crate::net::route::{Dialer, Endpoint, LocalEnd, Login, Route, Via, shadowsocks};
use crate::net::{https, resolve};
use crate::telegram::DcId;
use crate::telegram::routes::{self, Way};

/// The routes that could be read, and where they were written.
pub(super) struct Ways(Vec<Known>);

struct Known {
    name: String,
    at: Origin,
    /// None if there was something to complain about.
    route: Option<routes::Route>,
    used: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Direct,
    Socks5,
    Socks4a,
    Http,
    Shadowsocks,
    MtProto,
}

const KINDS: &[(&str, Kind)] = &[
    ("direct", Kind::Direct),
    ("socks5", Kind::Socks5),
    ("socks4a", Kind::Socks4a),
    ("http", Kind::Http),
    ("shadowsocks", Kind::Shadowsocks),
    ("mtproto", Kind::MtProto),
];

impl Resolver<'_> {
    /// All routes.
    pub(super) fn ways(&mut self, written: Vec<RouteWritten>, users: &[User]) -> Ways {
        let mut ways: Vec<Known> = Vec::new();
        for (index, route) in written.into_iter().enumerate() {
            let Some(name) = self.route_name(route.name.as_ref(), &route.at) else { continue };
            if let Some(first) = ways.iter().find(|known| known.name == name.value) {
                let what = format!("two routes have the name {}", quoted(&name.value));
                let complaint = Complaint::new(&name.at, what, "give each route a name of its own");
                self.complaints.push(complaint.and(&first.at, "first here"));
            }
            let before = self.complaints.len();
            let read = self.route(name.value.clone(), index, route, users);
            let route = read.filter(|_| self.complaints[before..].iter().all(Complaint::is_warning));
            ways.push(Known { name: name.value, at: name.at, route, used: Cell::new(false) });
        }
        Ways(ways)
    }

    /// Resolver that is asked about names, and the routes with it.
    pub(super) fn dns(&mut self, written: Option<DnsWritten>, ways: Ways) -> (Ways, resolve::Resolver) {
        let Some(DnsWritten { https, route, ca_file, at }) = written else { return (ways, resolve::Resolver::System) };
        let dialer = route.as_ref().and_then(|route| self.dialer(route, &ways)).unwrap_or_default();
        let roots = ca_file.and_then(|file| self.roots(file));
        let Some(https) = https else {
            if self.whole {
                let fix = "add a line like `https = \"https://192.0.2.53/dns-query\"`, or remove the section";
                self.complaints.push(Complaint::new(&at, "this section does not name a DNS server", fix));
            }
            return (ways, resolve::Resolver::System);
        };
        let Some(url) = https.value.parse().ok().filter(https::is_fit) else {
            let fix = "write the URL of a server for DNS over HTTPS: \"https://192.0.2.53/dns-query\"";
            self.complaints.push(Complaint::new(&https.at, "not a DNS server", fix));
            return (ways, resolve::Resolver::System);
        };
        let names = resolve::Resolver::https(url, roots, dialer);
        let asking = |route: routes::Route| routes::Route { way: route.way.asking(&names), ..route };
        let ways = ways.0.into_iter().map(|known| Known { route: known.route.map(asking), ..known }).collect();
        (Ways(ways), names)
    }

    fn roots(&mut self, file: Written<PathBuf>) -> Option<(PathBuf, RootCertStore)> {
        let at = file.at.clone();
        let path = self.readable(file)?;
        self.files.push(path.clone());
        let roots = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut store = RootCertStore::empty();
        if store.add_parsable_certificates(roots.unwrap_or_default()).0 == 0 {
            let fix = "name a PEM file with the roots of the server's certificate";
            self.complaints.push(Complaint::new(&at, "there is no certificate in this file", fix));
            return None;
        }
        Some((path, store))
    }

    /// Those that `telegram.routes` names, or all.
    pub(super) fn telegram_routes(&mut self, names: Option<Vec<Written<String>>>, ways: &Ways) -> Vec<routes::Route> {
        let Some(names) = names else {
            ways.0.iter().for_each(|known| known.used.set(true));
            return ways.0.iter().filter_map(|known| known.route.clone()).collect();
        };
        names.iter().filter_map(|name| self.named(name, ways)?.route.clone()).collect()
    }

    /// The route that a key other than those of Telegram names.
    pub(super) fn dialer(&mut self, name: &Written<String>, ways: &Ways) -> Option<Dialer> {
        match &self.named(name, ways)?.route.as_ref()?.way {
            Way::Straight(dialer) => Some(dialer.clone()),
            Way::Hop { .. } => {
                let what = "a route of the kind \"mtproto\" leads to Telegram only";
                self.complaints.push(Complaint::new(&name.at, what, "name a route of another kind"));
                None
            }
        }
    }

    /// Warns of a tag that no one's sessions have.
    pub(super) fn tag_beside(&mut self, routes: &[routes::Route], tag: &Origin) {
        if !routes.iter().all(routes::Route::is_plain) {
            let what = "sessions go without the promoted channel, because middle proxies cannot be reached over these \
                        routes";
            let fix = "remove the tag, or let only routes of the kind \"direct\" lead to Telegram, which are for all";
            self.complaints.push(Complaint::new(tag, what, fix).as_warning());
        }
    }

    /// Warns of middle proxies that no one's sessions go through.
    pub(super) fn middle_beside(&mut self, routes: &[routes::Route], wish: &Origin) {
        if !routes.iter().all(routes::Route::is_plain) {
            let what =
                "sessions do without middle proxies, because these cannot be reached over the routes to Telegram";
            let fix = "remove the line, or let only routes of the kind \"direct\" lead to Telegram, which are for all";
            self.complaints.push(Complaint::new(wish, what, fix).as_warning());
        }
    }

    /// The route that `cover.route` names.
    pub(super) fn cover_dialer(&mut self, name: &Written<String>, ways: &Ways) -> Option<Dialer> {
        let dialer = self.dialer(name, ways)?;
        if matches!(dialer.route().via, Via::Shadowsocks(_)) {
            let what = "visitors would notice that resets do not pass through Shadowsocks";
            self.complaints.push(Complaint::new(&name.at, what, "name a route of another kind"));
            return None;
        }
        Some(dialer)
    }

    /// Warns of routes that no one takes.
    pub(super) fn unused(&mut self, ways: &Ways) {
        for known in ways.0.iter().filter(|known| !known.used.get()) {
            let complaint = Complaint::new(
                &known.at,
                "nothing goes over this route",
                "name it in `telegram.routes`, `cover.route` or `dns.route`, or remove it",
            );
            self.complaints.push(complaint.as_warning());
        }
    }

    fn named<'w>(&mut self, name: &Written<String>, ways: &'w Ways) -> Option<&'w Known> {
        let found = ways.0.iter().find(|known| known.name == name.value);
        match found {
            Some(known) => known.used.set(true),
            None if self.whole => {
                let fix = match nearest(&name.value, ways.0.iter().map(|known| known.name.as_str())) {
                    Some(near) => format!("did you mean {}?", quoted(near)),
                    None => "add a section `[[routes]]` with this `name`".into(),
                };
                self.complaints.push(Complaint::new(&name.at, "there is no route of this name", fix));
            }
            None => {}
        }
        found
    }

    fn route_name(&mut self, name: Option<&Written<String>>, at: &Origin) -> Option<Written<String>> {
        let Some(name) = name else {
            if self.whole {
                let fix = "add a line like `name = \"abroad\"`";
                self.complaints.push(Complaint::new(at, "this route has no name", fix));
            }
            return None;
        };
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=32).contains(&name.value.len()) || !name.value.chars().all(fine) {
            let fix = "use 1 to 32 letters, digits, `-`, `_` and `.`";
            self.complaints.push(Complaint::new(&name.at, "this cannot be the name of a route", fix));
            return None;
        }
        Some(name.clone())
    }

    fn route(&mut self, name: String, index: usize, written: RouteWritten, users: &[User]) -> Option<routes::Route> {
        let RouteWritten { kind, address, method, user, password, password_file, link, link_file, at, .. } = &written;
        let Some(kind) = kind else {
            if self.whole {
                let fix = "add `kind = \"direct\"`, \"socks5\", \"socks4a\", \"http\", \"shadowsocks\" or \"mtproto\"";
                self.complaints.push(Complaint::new(at, "this route has no kind", fix));
            }
            return None;
        };
        let kind = kind.clone();
        let chosen = self.choice(Some(kind.clone()), KINDS)?;
        if chosen == Kind::Shadowsocks && !shadowsocks::BUILT_IN {
            let fix = "build it with `--features shadowsocks`, or take a route of another kind";
            self.complaints.push(Complaint::new(&kind.at, "this program was built without Shadowsocks", fix));
            return None;
        }
        let logs_in = matches!(chosen, Kind::Socks5 | Kind::Http);
        let place = |path: &Option<Written<_>>| path.as_ref().map(|path: &Written<PathBuf>| path.at.clone());
        let text = |text: &Option<Written<String>>| text.as_ref().map(|text| text.at.clone());
        for (key, meant) in [
            (text(address), !matches!(chosen, Kind::Direct | Kind::MtProto)),
            (text(method), chosen == Kind::Shadowsocks),
            (text(user), logs_in || chosen == Kind::Socks4a),
            (text(password), logs_in || chosen == Kind::Shadowsocks),
            (place(password_file), logs_in || chosen == Kind::Shadowsocks),
            (text(link), chosen == Kind::MtProto),
            (place(link_file), chosen == Kind::MtProto),
        ] {
            if let (Some(at), false) = (key, meant) {
                let what = format!("this has no effect on a route of the kind {}", quoted(&kind.value));
                self.complaints.push(Complaint::new(&at, what, "remove the line"));
            }
        }
        let rules = self.rules(&written, users);
        let leave = self.leave(&written);
        let order = self.natural(written.order.clone()).unwrap_or(index as u32 + 1);
        let weight = self.natural(written.weight.clone()).unwrap_or(1);
        let way = match chosen {
            Kind::Direct => Way::Straight(dialer(leave, Via::Direct)),
            Kind::MtProto => {
                let (place, pass) = self.link(written.link, written.link_file, &written.at)?;
                Way::Hop { dialer: dialer(leave, Via::Direct), place, pass }
            }
            Kind::Shadowsocks => Way::Straight(dialer(leave, Via::Shadowsocks(self.shadowsocks(written)?))),
            proxy => {
                let login = self.login(written.user, written.password, written.password_file);
                let place = self.proxy(written.address, &written.at);
                Way::Straight(dialer(leave, via(proxy, place?, login)))
            }
        };
        Some(routes::Route { name, way, order, weight, data_centres: rules.0, users: rules.1 })
    }

    fn natural(&mut self, written: Option<Written<String>>) -> Option<u32> {
        let written = written?;
        let parsed = units::count(&written.value).ok();
        if parsed.is_none() {
            self.complaints.push(Complaint::new(&written.at, "not a whole number from 1 on", "write 1, 2, 3 …"));
        }
        parsed
    }

    /// Data centres and users that a route is for.
    fn rules(&mut self, written: &RouteWritten, users: &[User]) -> (BTreeSet<DcId>, BTreeSet<String>) {
        let mut centres = BTreeSet::new();
        for number in &written.data_centres {
            match number.value.parse::<DcId>() {
                Ok(id) if id.number() > 0 => _ = centres.insert(id),
                _ => {
                    let fix = "write a number such as 2, 203 or 10002 for a test centre; media go the same way";
                    self.complaints.push(Complaint::new(&number.at, "not the number of a data centre", fix));
                }
            }
        }
        let known: HashSet<&str> = match written.users.is_empty() {
            true => HashSet::new(),
            false => users.iter().map(|user| user.name.as_str()).collect(),
        };
        for name in &written.users {
            if self.whole && !users.is_empty() && !known.contains(name.value.as_str()) {
                let fix = match nearest(&name.value, users.iter().map(|user| user.name.as_str())) {
                    Some(near) => format!("did you mean {}?", quoted(near)),
                    None => "remove the name, or add the user".into(),
                };
                // Anyone who removes a user should not be kept from it.
                self.complaints.push(Complaint::new(&name.at, "there is no user of this name", fix).as_warning());
            }
        }
        (centres, written.users.iter().map(|name| name.value.clone()).collect())
    }

    fn leave(&mut self, written: &RouteWritten) -> LocalEnd {
        let source = written.source.as_ref().and_then(|text| {
            let parsed = text.value.parse();
            if parsed.is_err() {
                let fix = "write an address of this machine: \"192.0.2.1\"";
                self.complaints.push(Complaint::new(&text.at, "not an address", fix));
            }
            parsed.ok()
        });
        let interface = written.interface.as_ref().and_then(|text| {
            // The kernel's limit is 15 bytes.
            let fine = (1..=15).contains(&text.value.len()) && !text.value.contains(['/', ' ', '\0']);
            if !fine {
                let fix = "write a name that `ip link` shows: \"eth1\"";
                self.complaints.push(Complaint::new(&text.at, "this cannot be the name of an interface", fix));
            }
            fine.then(|| text.value.clone())
        });
        let mark = written.mark.as_ref().and_then(|text| {
            let parsed = text.value.parse();
            if parsed.is_err() {
                self.complaints.push(Complaint::new(&text.at, "not a mark", "write a number from 0 to 4294967295"));
            }
            parsed.ok()
        });
        LocalEnd { source, interface, mark }
    }

    fn proxy(&mut self, address: Option<Written<String>>, route: &Origin) -> Option<Endpoint> {
        let Some(address) = address else {
            if self.whole {
                let fix = "add a line like `address = \"192.0.2.1:1080\"`";
                self.complaints.push(Complaint::new(route, "this route does not say where its proxy is", fix));
            }
            return None;
        };
        let (host, port) = self.check(&address, units::host_and_port)?;
        Some(Endpoint::new(&host, port))
    }

    fn shadowsocks(&mut self, written: RouteWritten) -> Option<shadowsocks::Server> {
        let RouteWritten { address, method, password, password_file, at, .. } = written;
        let place = self.proxy(address, &at);
        let mut lacks = |what: &str, fix: &str| {
            if self.whole {
                self.complaints.push(Complaint::new(&at, format!("this route has no {what}"), fix));
            }
        };
        if method.is_none() {
            lacks("method", "add the one that the server has, such as `method = \"aes-256-gcm\"`");
        }
        if password.is_none() && password_file.is_none() {
            lacks("password", "add the one that the server has: `password = \"…\"`, or `password_file`");
        }
        let method = self.choice(method, shadowsocks::METHODS);
        let (password, password_at) = self.one_of(password, password_file, "password")?;
        let (place, method) = (place?, method?);
        let server = shadowsocks::Server::new(place, method, &password);
        if server.is_none() {
            let (what, fix) = match method.key_length() {
                None => ("the password is empty", "write that of the server".to_owned()),
                Some(length) => (
                    "not a password for this method",
                    format!("write {length} bytes in base64, as the server has them"),
                ),
            };
            self.complaints.push(Complaint::new(&password_at, what, fix));
        }
        server
    }

    fn login(
        &mut self,
        user: Option<Written<String>>,
        password: Option<Written<String>>,
        file: Option<Written<PathBuf>>,
    ) -> Option<Login> {
        let password_at = password.as_ref().map(|password| password.at.clone());
        let at = password_at.or_else(|| file.as_ref().map(|file| file.at.clone()));
        let password = self.one_of(password, file, "password");
        match (user, password) {
            (Some(user), password) => Some(Login {
                user: user.value,
                password: Zeroizing::new(password.map(|(password, _)| password).unwrap_or_default()),
            }),
            (None, _) => {
                if let (Some(at), true) = (at, self.whole) {
                    let what = "there is a password without a user";
                    self.complaints.push(Complaint::new(&at, what, "add `user = \"NAME\"`"));
                }
                None
            }
        }
    }

    /// Value that is written here or in a file.
    fn one_of(
        &mut self,
        text: Option<Written<String>>,
        file: Option<Written<PathBuf>>,
        what: &str,
    ) -> Option<(String, Origin)> {
        match (text, file) {
            (Some(text), None) => Some((text.value, text.at)),
            (None, Some(file)) => self.secret_file(&file).map(|text| (text, file.at)),
            (Some(text), Some(file)) => {
                let what = format!("this route has both a {what} and a file with a {what}");
                let complaint = Complaint::new(&file.at, what, "keep one of the two");
                self.complaints.push(complaint.and(&text.at, "the other one"));
                None
            }
            (None, None) => None,
        }
    }

    fn link(
        &mut self,
        link: Option<Written<String>>,
        file: Option<Written<PathBuf>>,
        route: &Origin,
    ) -> Option<(Endpoint, SecretText)> {
        if link.is_none() && file.is_none() {
            if self.whole {
                let what = "this route does not say where the other proxy is";
                let fix = "add the link that the other proxy prints: `link = \"tg://proxy?…\"`, or `link_file`";
                self.complaints.push(Complaint::new(route, what, fix));
            }
            return None;
        }
        let (text, at) = self.one_of(link, file, "link")?;
        let read = proxy_link(&text);
        if let Err(what) = &read {
            let fix = "write the whole link that the other proxy prints: \"tg://proxy?server=…&port=…&secret=…\"";
            self.complaints.push(Complaint::new(&at, what.clone(), fix));
        }
        read.ok()
    }
}

fn dialer(leave: LocalEnd, via: Via) -> Dialer {
    Dialer::new(Route { leave, via }, resolve::Resolver::default())
}

fn via(kind: Kind, proxy: Endpoint, login: Option<Login>) -> Via {
    match kind {
        Kind::Direct | Kind::MtProto | Kind::Shadowsocks => Via::Direct,
        Kind::Socks5 => Via::Socks5 { proxy, login },
        Kind::Socks4a => Via::Socks4a { proxy, user: login.map(|login| login.user).unwrap_or_default() },
        Kind::Http => Via::Http { proxy, login },
    }
}

/// Endpoint and secret in a link, `tg://proxy?…` or `https://t.me/proxy?…`. What is wrong is said without any of it.
fn proxy_link(text: &str) -> Result<(Endpoint, SecretText), String> {
    let part = |wanted: &str| {
        let part = link_part(text, wanted).ok_or("not the link of a proxy")?;
        part.ok_or(format!("the link has no {wanted}"))
    };
    let host = units::host(&part("server")?).map_err(|error| format!("in the link: {error}"))?;
    let port = units::port(&part("port")?).map_err(|error| format!("in the link: {error}"))?;
    let pass = SecretText::parse(&part("secret")?).map_err(|error| error.to_string())?;
    Ok((Endpoint::new(&host, port), pass))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;

    #[test]
    fn links_of_every_form_are_read_and_none_is_repeated() {
        let key = "000102030405060708090a0b0c0d0e0f";
        let secret = Secret::new(std::array::from_fn(|at| at as u8));
        for (start, host, text, domain) in [
            ("tg://proxy?", "192.0.2.1", key.to_owned(), None),
            ("https://t.me/proxy?", "2001:db8::1", format!("dd{key}"), None),
            ("tg://proxy?", "proxy.example.com", format!("ee{key}6578616d706c652e636f6d"), Some("example.com")),
            ("tg://proxy?", "192.0.2.1", "7gABAgMEBQYHCAkKCwwNDg9leGFtcGxlLmNvbQ%3D%3D".into(), Some("example.com")),
        ] {
            let (place, pass) = proxy_link(&format!("{start}server={host}&port=443&secret={text}")).unwrap();
            assert_eq!(place, Endpoint::new(host, 443));
            assert!(pass.secret == secret && pass.domain.as_ref().map(|name| name.as_str()) == domain, "{text}");
        }
        for text in [
            key.to_owned(),
            format!("https://example.com/proxy?server=192.0.2.1&port=443&secret={key}"),
            format!("tg://proxy?port=443&secret={key}"),
            format!("tg://proxy?server=192.0.2.1&port=0&secret={key}"),
            format!("tg://proxy?server=192.0.2.1&port=443&secret=cc{key}"),
        ] {
            let what = proxy_link(&text).unwrap_err();
            assert!(!what.contains("0203"), "{what}");
        }
    }
}
