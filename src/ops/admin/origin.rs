//! Which web page a request may come from.
//!
//! Browsers send what any page tells them to, with the cookies of the target. Three checks keep foreign pages out, also
//! where a token is not needed (the socket, forwarded to a port):
//!
//! - `Host` must be a name of this listener: a page of `evil.example` whose name suddenly resolves to 127.0.0.1 (DNS
//!   rebinding) reads nothing.
//! - `Origin` must be absent or the listener's own, so that no foreign page sends anything.
//! - What changes something through the API carries a header or a content type that HTML forms cannot send, so that this
//!   holds even for a browser that sends no `Origin`. Forms of our own pages repeat a word instead (see `page`).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::answer::refuse;
use super::desk::Shared;
use crate::base::summary::{self, Cause};

/// Local address of the connection that a request came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here(pub IpAddr);

/// Names that a browser may know the listener by, besides `localhost` and loopback addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Configured names and those of the listener's certificate; `*.` stands for one label.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether `host`, a name or an address without a port, is one of this listener, which was reached at `here`.
    ///
    /// The address that was connected to is no danger: a page that has it as its host came from this listener.
    pub fn allow(&self, host: &str, here: Option<IpAddr>) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                let own = here.is_some_and(|here| here.to_canonical() == address);
                own || address.is_loopback() || self.0.iter().any(|name| name.parse() == Ok(address))
            }
            Err(_) => host == "localhost" || self.0.iter().any(|name| covers(name, &host)),
        }
    }
}

fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest == parent),
        None => name == host,
    }
}

/// Reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// `Host` is missing, twice there, or not a name of this listener.
    Host,
    /// The page that sent it is another's.
    Origin,
    /// An HTML form could have sent it.
    Form,
}

impl Foreign {
    /// Name for logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Origin => "origin",
            Self::Form => "form",
        }
    }

    fn answer(self) -> Response {
        let (status, error, next) = match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "the admin listener is not known by this name",
                "ask for localhost or 127.0.0.1, or add the name to `hosts` in the section [admin]",
            ),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "a page of another site may not use the admin listener",
                "open the page of the admin listener itself",
            ),
            Self::Form => (
                StatusCode::FORBIDDEN,
                "a form could have sent this",
                "send the header `Authorization: Bearer TOKEN` or `Content-Type: application/json`",
            ),
        };
        refuse(status, error, next)
    }
}

/// Checks `Host`, `Origin` and what browsers say of the page that a request comes from.
pub fn examine(
    hosts: &Hosts,
    here: Option<IpAddr>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<Foreign> {
    let mut sent = headers.get_all(header::HOST).into_iter();
    let host = match (sent.next(), sent.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()),
        _ => None,
    };
    let Some(host) = host else { return Some(Foreign::Host) };
    let named = |authority: &Authority| !authority.as_str().contains('@') && hosts.allow(authority.host(), here);
    if !named(&host) || uri.authority().is_some_and(|authority| !named(authority)) {
        return Some(Foreign::Host);
    }
    let own = |value: &header::HeaderValue| value.to_str().is_ok_and(|origin| is_of(origin, &host));
    if !headers.get_all(header::ORIGIN).into_iter().all(own) {
        return Some(Foreign::Origin);
    }
    // Links from elsewhere may lead here, but nothing else of a foreign page.
    let says = |name: &str, words: &[&str]| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| words.contains(&value))
    };
    let led = method == Method::GET && says("sec-fetch-mode", &["navigate"]);
    (says("sec-fetch-site", &["cross-site", "same-site"]) && !led).then_some(Foreign::Origin)
}

/// Whether this origin is a page of the very host and port that are asked.
fn is_of(origin: &str, host: &Authority) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else { return false };
    let usual = match origin.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let same = origin.host().is_some_and(|name| name.eq_ignore_ascii_case(host.host()));
    same && origin.port_u16().unwrap_or(usual) == host.port_u16().unwrap_or(usual)
}

/// Whether an HTML form could send this: forms have three content types, and no headers of their own.
pub fn could_be_a_form(method: &Method, headers: &HeaderMap) -> bool {
    let says = |name: header::HeaderName, fits: fn(&str) -> bool| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(fits)
    };
    let json = |kind: &str| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json");
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    changes && !says(header::AUTHORIZATION, |value| value.starts_with("Bearer ")) && !says(header::CONTENT_TYPE, json)
}

/// Refuses what a foreign page sent.
pub async fn from_our_pages(State(desk): State<Shared>, request: Request, next: Next) -> Response {
    let here = request.extensions().get::<Here>().map(|here| here.0);
    let hosts: Arc<Hosts> = desk.hosts();
    match examine(&hosts, here, request.method(), request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(foreign) => turn_away(foreign),
    }
}

/// Refuses what a form could have sent to the API.
pub async fn no_form(request: Request, next: Next) -> Response {
    match could_be_a_form(request.method(), request.headers()) {
        false => next.run(request).await,
        true => turn_away(Foreign::Form),
    }
}

fn turn_away(foreign: Foreign) -> Response {
    let cause = Cause::info("requests to the admin listener were rejected as coming from other sites");
    summary::note(cause.because(foreign.label()), String::new);
    foreign.answer()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: &str, uri: &str, headers: &[(&str, &str)]) -> Option<Foreign> {
        let hosts = Hosts::new(["Panel.example.com".into(), "*.wild.example".into(), "192.0.2.9".into()]);
        let here = Some([203, 0, 113, 5].into());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        examine(&hosts, here, &method.parse().unwrap(), &uri.parse().unwrap(), &map)
    }

    #[test]
    fn only_names_of_the_listener_are_hosts() {
        for host in [
            "localhost",
            "LOCALHOST:9443",
            "127.0.0.1",
            "127.8.9.1:1",
            "[::1]:9443",
            "[::ffff:127.0.0.1]:80",
            "localhost.",
            "203.0.113.5:9443",
            "panel.example.com:9443",
            "PANEL.EXAMPLE.COM.",
            "a.wild.example",
            "192.0.2.9:1",
        ] {
            assert_eq!(verdict("GET", "/", &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:9443",
            "203.0.113.6",
            "[::2]",
            "example.com",
            "a.b.wild.example",
            "wild.example",
            ".wild.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "",
            "0.0.0.0",
            "2130706433",
            "xpanel.example.com",
        ] {
            assert_eq!(verdict("GET", "/", &[("host", host)]), Some(Foreign::Host), "{host}");
        }
        assert_eq!(verdict("GET", "/", &[]), Some(Foreign::Host));
        assert_eq!(verdict("GET", "/", &[("host", "localhost"), ("host", "localhost")]), Some(Foreign::Host));
        assert_eq!(verdict("GET", "http://evil.example/", &[("host", "localhost")]), Some(Foreign::Host));
        assert_eq!(verdict("GET", "http://localhost/", &[("host", "localhost")]), None);
    }

    #[test]
    fn only_own_pages_are_origins() {
        let host = ("host", "127.0.0.1:9443");
        for origin in ["http://127.0.0.1:9443", "https://127.0.0.1:9443"] {
            assert_eq!(verdict("POST", "/", &[host, ("origin", origin)]), None, "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://127.0.0.1",
            "http://127.0.0.1:8000",
            "http://localhost:9443",
            "https://evil.example",
            "file://127.0.0.1:9443",
            "http://127.0.0.1:9443.evil.example",
        ] {
            for method in ["GET", "POST"] {
                let verdict = verdict(method, "/", &[host, ("origin", origin)]);
                assert_eq!(verdict, Some(Foreign::Origin), "{method} {origin}");
            }
        }
        let named = ("host", "panel.example.com");
        assert_eq!(verdict("POST", "/", &[named, ("origin", "https://panel.example.com")]), None);
        let site = |value| ("sec-fetch-site", value);
        for (method, headers, fine) in [
            ("GET", &[host, site("cross-site"), ("sec-fetch-mode", "navigate")][..], true),
            ("GET", &[host, site("cross-site"), ("sec-fetch-mode", "no-cors")], false),
            ("POST", &[host, site("same-site"), ("sec-fetch-mode", "navigate")], false),
            ("POST", &[host, site("same-origin"), ("sec-fetch-mode", "navigate")], true),
            ("GET", &[host, site("none"), ("sec-fetch-mode", "navigate")], true),
        ] {
            assert_eq!(verdict(method, "/", headers).is_none(), fine, "{method} {headers:?}");
        }
    }

    #[test]
    fn what_changes_something_is_not_what_forms_send() {
        let could = |method: &str, name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            could_be_a_form(&method.parse().unwrap(), &headers)
        };
        for kind in
            ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain; application/json"]
        {
            assert!(could("POST", "content-type", kind) && could("DELETE", "content-type", kind), "{kind}");
            assert!(!could("GET", "content-type", kind));
        }
        assert!(could("POST", "authorization", "Basic eDp5") && could("PUT", "accept", "application/json"));
        assert!(
            !could("POST", "authorization", "Bearer x")
                && !could("POST", "content-type", "Application/JSON; charset=utf-8")
        );
    }
}
