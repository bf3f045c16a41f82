//! Headers on their way through a reverse proxy. Pure.

use std::net::IpAddr;

use hyper::header::{
    CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{HeaderMap, Uri, Version};

/// Turns a request as it came into the request for the upstream. With `upgrade` it goes on asking for the protocol
/// change that it asked for.
pub(super) fn request(parts: &mut request::Parts, upstream: &Authority, peer: Option<IpAddr>, upgrade: bool) {
    if let Some(named) = parts.uri.authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok()) {
        parts.headers.insert(HOST, named);
    }
    let wanted = upgrade.then(|| parts.headers.get(UPGRADE).cloned()).flatten();
    remove_hop_by_hop(&mut parts.headers);
    // The server in front answers this one by itself, as soon as the upstream asks for the body.
    parts.headers.remove(EXPECT);
    if let Some(protocol) = wanted {
        insert_upgrade(&mut parts.headers, protocol);
    }
    join_cookies(&mut parts.headers);
    name_client(&mut parts.headers, peer);
    parts.uri = target(upstream, parts.uri.path_and_query());
    parts.version = Version::HTTP_11;
}

/// Turns the headers of the upstream's answer into those for the client.
pub(super) fn response(headers: &mut HeaderMap, upgrade: bool) {
    let agreed = upgrade.then(|| headers.get(UPGRADE).cloned()).flatten();
    remove_hop_by_hop(headers);
    if let Some(protocol) = agreed {
        insert_upgrade(headers, protocol);
    }
}

/// Whether a request asks for another protocol, which only HTTP/1.1 lets it do.
pub(super) fn wants_upgrade(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && headers.contains_key(UPGRADE)
        && listed(headers).iter().any(|name| name.eq_ignore_ascii_case("upgrade"))
}

fn target(upstream: &Authority, path: Option<&PathAndQuery>) -> Uri {
    let path = path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(upstream.clone()).path_and_query(path);
    // All three parts were valid before.
    uri.build().unwrap_or_default()
}

/// Headers that are about one connection only, and those that `Connection` declares to be.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in listed(headers) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn listed(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

fn insert_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// HTTP/2 may send each cookie by itself, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// The list of addresses grows by ours; whatever else a client says about itself is replaced, because upstreams trust it.
fn name_client(headers: &mut HeaderMap, peer: Option<IpAddr>) {
    headers.remove(FORWARDED);
    headers.remove(REAL_IP);
    if let Some(peer) = peer {
        let peer = peer.to_canonical().to_string();
        let earlier = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let list: Vec<&str> = earlier.chain([peer.as_str()]).collect();
        insert(headers, FORWARDED_FOR, list.join(", "));
        insert(headers, REAL_IP, peer);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    match headers.get(HOST).cloned() {
        Some(host) => headers.insert(FORWARDED_HOST, host),
        None => headers.remove(FORWARDED_HOST),
    };
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn forwarded(uri: &str, headers: &[(&str, &str)], peer: Option<&str>, upgrade: bool) -> request::Parts {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let (mut parts, ()) = builder.body(()).unwrap().into_parts();
        let peer = peer.map(|peer| peer.parse().unwrap());
        request(&mut parts, &Authority::from_static("127.0.0.1:8080"), peer, upgrade);
        parts
    }

    #[test]
    fn only_what_is_meant_for_the_upstream_reaches_it() {
        let headers = [
            ("host", "example.org"),
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ];
        let parts = forwarded("/a?b", &headers, None, false);
        let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host", "x-forwarded-host", "x-forwarded-proto"]);
        assert_eq!(parts.uri, "http://127.0.0.1:8080/a?b");
        assert_eq!(parts.headers[HOST], "example.org");
    }

    #[test]
    fn client_is_named_and_cannot_name_itself() {
        let headers = [
            ("host", "example.org"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-for", "198.51.100.2"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil.example"),
            ("x-real-ip", "198.51.100.1"),
            ("forwarded", "for=198.51.100.1"),
        ];
        let parts = forwarded("/", &headers, Some("::ffff:192.0.2.7"), false);
        assert_eq!(parts.headers["x-forwarded-for"], "198.51.100.1, 198.51.100.2, 192.0.2.7");
        assert_eq!(parts.headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(parts.headers["x-forwarded-proto"], "https");
        assert_eq!(parts.headers["x-forwarded-host"], "example.org");
        assert_eq!(parts.headers["x-real-ip"], "192.0.2.7");
        assert!(!parts.headers.contains_key(FORWARDED));
    }

    #[test]
    fn http2_becomes_http1() {
        let parts = forwarded("https://example.org/x", &[("cookie", "a=1"), ("cookie", "b=2")], None, false);
        assert_eq!(parts.headers[HOST], "example.org");
        assert_eq!(parts.headers[COOKIE], "a=1; b=2");
        assert_eq!(parts.headers.get_all(COOKIE).iter().count(), 1);
        assert_eq!((parts.uri.path(), parts.version), ("/x", Version::HTTP_11));
    }

    #[test]
    fn upgrade_passes_where_it_is_wanted() {
        let headers = [("host", "a"), ("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        let parts = forwarded("/", &headers, None, true);
        assert_eq!(parts.headers[CONNECTION], "upgrade");
        assert_eq!(parts.headers[UPGRADE], "websocket");
        assert!(wants_upgrade(Version::HTTP_11, &parts.headers));
        assert!(!wants_upgrade(Version::HTTP_2, &parts.headers));
        let parts = forwarded("/", &headers, None, false);
        assert!(!wants_upgrade(Version::HTTP_11, &parts.headers));
        let mut answer = HeaderMap::new();
        answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
        answer.insert("keep-alive", HeaderValue::from_static("timeout=5"));
        response(&mut answer, true);
        assert_eq!(answer.len(), 2);
        response(&mut answer, false);
        assert!(answer.is_empty());
    }
}
