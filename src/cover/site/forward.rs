//! Headers on their way through a reverse proxy. Pure.

use std::net::IpAddr;

use super::fronts::Fronts;
use super::message::{Fields, Request, Version};
use bytes::Bytes;

/// The other end of a visit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visitor<'n> {
    pub(super) address: IpAddr,
    /// If it is a proxy that says truly for whom it asks: all such proxies.
    pub(super) proxies: Option<&'n Fronts>,
}

/// The head of a request as the upstream gets it: the visitor's fields in their order, then what the upstream may
/// believe about the visitor.
///
/// Whatever a visitor says about where it comes from or how it was forwarded is left out, for upstreams believe it. A proxy
/// that the operator trusts is believed what it adds to `X-Forwarded-For`, and `X-Forwarded-Proto`; the others it may well
/// pass on as they came from its visitor.
pub(super) fn request(request: &Request, peer: Option<Visitor<'_>>, upgrade: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(1024);
    text.extend_from_slice(&request.method);
    text.push(b' ');
    if request.target.raw.first() != Some(&b'/') {
        text.push(b'/');
    }
    text.extend_from_slice(&request.target.raw);
    // Older versions are answered otherwise, and the answer is to be the one that the visitor would get.
    let version = if request.version >= Version::Http11 { " HTTP/1.1\r\n" } else { " HTTP/1.0\r\n" };
    text.extend_from_slice(version.as_bytes());
    let listed = listed(&request.fields);
    let believed = |name: &[u8]| peer.is_some_and(|peer| peer.proxies.is_some()) && is(name, &[SCHEME]);
    let passes = |name: &[u8]| !is_hop_by_hop(name) && (!is_claim(name) || believed(name)) && !names(&listed, name);
    let mut cookies = Vec::new();
    for (name, value) in &request.fields.0 {
        match () {
            () if name.eq_ignore_ascii_case(b"cookie") => cookies.push(&value[..]),
            // The server in front has told the visitor to go on, and frames the body itself.
            () if name.eq_ignore_ascii_case(b"expect") || name.eq_ignore_ascii_case(b"content-length") => {}
            () if passes(name) => push(&mut text, name, value),
            () => {}
        }
    }
    if !cookies.is_empty() {
        // HTTP/2 may send each by itself, HTTP/1 may not.
        push(&mut text, b"Cookie", &cookies.join(&b"; "[..]));
    }
    match request.length {
        Some(0) if request.fields.get("content-length").is_none() => {}
        Some(length) => push(&mut text, b"Content-Length", length.to_string().as_bytes()),
        None => push(&mut text, b"Transfer-Encoding", b"chunked"),
    }
    if upgrade {
        push(&mut text, b"Connection", b"Upgrade");
        push(&mut text, b"Upgrade", b"websocket");
    }
    match peer {
        Some(Visitor { address, proxies: Some(proxies) }) => name_proxy(&mut text, request, address, proxies),
        peer => name_client(&mut text, request, peer.map(|peer| peer.address)),
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Whether a request asks to go on as a websocket. Nothing else is switched to: an upstream that speaks HTTP/2 in the
/// clear would take the rest of the connection as requests that no one has looked at.
pub(super) fn wants_websocket(request: &Request) -> bool {
    request.version == Version::Http11
        && &request.method[..] == b"GET"
        && is_websocket(&request.fields)
        && options(&request.fields).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether the other protocol that is spoken of is a websocket.
pub(super) fn is_websocket(fields: &Fields) -> bool {
    let mut named = fields.all("upgrade");
    named.next().is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket")) && named.next().is_none()
}

/// Takes from the upstream's answer what is about its connection to us. Where it speaks of its connection and of
/// chunks is where we speak of ours.
pub(super) fn response(fields: &mut Fields, switches: bool) {
    let listed = listed(fields);
    fields.0.retain(|(name, _)| {
        let kept = is(name, &["connection", "transfer-encoding"]) || (switches && is(name, &["upgrade"]));
        kept || (!is_hop_by_hop(name) && !names(&listed, name))
    });
}

/// Takes out what only HTTP/1 knows.
pub(super) fn keep_end_to_end(fields: &mut Fields) {
    fields.0.retain(|(name, _)| !is_hop_by_hop(name));
}

fn push(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        text.extend_from_slice(part);
    }
}

/// Writes the header fields that tell an upstream about the visitor.
fn name_client(text: &mut Vec<u8>, request: &Request, peer: Option<IpAddr>) {
    if let Some(peer) = peer {
        let peer = peer.to_string();
        push(text, b"X-Forwarded-For", peer.as_bytes());
        push(text, b"X-Real-IP", peer.as_bytes());
    }
    push(text, b"X-Forwarded-Proto", b"https");
    if let Some(host) = request.fields.get("host") {
        push(text, b"X-Forwarded-Host", host);
    }
}

/// The same where the visitor is a proxy: what it has said stands already, and it is the next on the way.
fn name_proxy(text: &mut Vec<u8>, request: &Request, proxy: IpAddr, proxies: &Fronts) {
    let own = proxy.to_string();
    // Several fields are one list, of which not every upstream reads more than the first field.
    let way: Vec<&[u8]> = request.fields.all("x-forwarded-for").chain([own.as_bytes()]).collect();
    let way = way.join(&b", "[..]);
    let client = proxies.visitor(&request.fields.0).unwrap_or(proxy).to_string();
    push(text, b"X-Forwarded-For", &way);
    push(text, b"X-Real-IP", client.as_bytes());
    if request.fields.get(SCHEME).is_none() {
        push(text, b"X-Forwarded-Proto", b"https");
    }
    if let Some(host) = request.fields.get("host") {
        push(text, b"X-Forwarded-Host", host);
    }
}

/// The options that `Connection` lists.
fn options(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    fields.all("connection").flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// Fields that `Connection` declares to be about one connection. Those that frame a message, say whom it is for or who
/// sends it are never that, whatever is declared.
fn listed(fields: &Fields) -> Vec<Bytes> {
    options(fields).filter(|name| !is(name, &ESSENTIAL)).map(Bytes::copy_from_slice).collect()
}

fn names(list: &[Bytes], name: &[u8]) -> bool {
    list.iter().any(|listed| listed.eq_ignore_ascii_case(name))
}

/// Fields that are about one connection only (RFC 9110, section 7.6.1).
fn is_hop_by_hop(name: &[u8]) -> bool {
    is(name, &HOP_BY_HOP)
}

/// Fields by which proxies tell upstreams about visitors, or make one request look like another.
fn is_claim(name: &[u8]) -> bool {
    let begins = |start: &&str| {
        let start = start.as_bytes();
        name.len() >= start.len() && name[..start.len()].eq_ignore_ascii_case(start)
    };
    is(name, &CLAIMS) || CLAIM_FAMILIES.iter().any(begins)
}

fn is(name: &[u8], list: &[&str]) -> bool {
    list.iter().any(|listed| name.eq_ignore_ascii_case(listed.as_bytes()))
}

const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const ESSENTIAL: [&str; 8] = [
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "location",
    "set-cookie",
    "transfer-encoding",
];

const CLAIMS: [&str; 29] = [
    "cdn-loop",
    "client-ip",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "front-end-https",
    // Taken for the environment variable of that name by old CGI programs.
    "proxy",
    "proxy-client-ip",
    "remote-user",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-authenticated-user",
    "x-client-ip",
    "x-clientip",
    "x-cluster-client-ip",
    "x-coming-from",
    "x-forward-for",
    "x-host",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-real-port",
    "x-remote-addr",
    "x-remote-ip",
    "x-remote-user",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
];

/// Header field with the scheme that the visitor used for the proxy in front.
const SCHEME: &str = "x-forwarded-proto";

const CLAIM_FAMILIES: [&str; 10] = [
    "cf-connecting-",
    "cf-pseudo-",
    "ssl-client-",
    "x-appengine-",
    "x-azure-",
    "x-client-cert",
    "x-envoy-",
    "x-forwarded",
    "x-original-",
    "x-ssl-",
];

#[cfg(test)]
mod tests {
    use super::super::message::Target;
    use super::*;

    fn asked(list: &[(&'static str, &'static str)]) -> Request {
        let mut fields = Fields::default();
        list.iter().for_each(|(name, value)| fields.push(*name, *value));
        let target = Target { raw: "/a?b".into(), path: b"/a".to_vec(), query: Some("b".into()) };
        let method = Bytes::from_static(b"GET");
        Request { method, target, version: Version::Http11, host: Some("example.org".into()), fields, length: Some(0) }
    }

    fn forwarded(list: &[(&'static str, &'static str)], upgrade: bool) -> String {
        told(list, upgrade, false)
    }

    fn told(list: &[(&'static str, &'static str)], upgrade: bool, is_proxy: bool) -> String {
        let proxies = Fronts::new(vec!["192.0.2.0/24".parse().unwrap()], None);
        let peer = Visitor { address: "192.0.2.7".parse().unwrap(), proxies: is_proxy.then_some(&proxies) };
        String::from_utf8(request(&asked(list), Some(peer), upgrade)).unwrap()
    }

    const OURS: &str = "X-Forwarded-For: 192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
                        X-Forwarded-Host: example.org\r\n\r\n";

    #[test]
    fn only_what_is_meant_for_the_upstream_reaches_it() {
        let headers = [
            ("Host", "example.org"),
            ("Connection", "close, X-Private, Host, Content-Length, Cookie"),
            ("X-Private", "1"),
            ("Keep-Alive", "1"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
            ("Expect", "100-continue"),
            ("accePt", "*/*"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ];
        let text = forwarded(&headers, false);
        assert_eq!(
            text,
            format!("GET /a?b HTTP/1.1\r\nHost: example.org\r\naccePt: */*\r\nCookie: a=1; b=2\r\n{OURS}")
        );
    }

    #[test]
    fn client_is_named_and_cannot_name_itself() {
        let names = [
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Prefix",
            "X-Forwarded-Client-Cert",
            "X-Forwarded",
            "Forwarded",
            "X-Real-IP",
            "X-Client-IP",
            "Client-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "Fastly-Client-IP",
            "X-Cluster-Client-IP",
            "X-Original-URL",
            "X-Original-Host",
            "X-Rewrite-URL",
            "X-SSL-Client-Verify",
            "Proxy",
        ];
        for name in names {
            let text = forwarded(&[("Host", "example.org"), (name, "198.51.100.1")], false);
            assert_eq!(text, format!("GET /a?b HTTP/1.1\r\nHost: example.org\r\n{OURS}"), "{name}");
        }
        for name in ["X-HTTP-Method-Override", "X-Requested-With", "Via", "Origin", "X-Own"] {
            assert!(
                forwarded(&[("Host", "example.org"), (name, "1")], false).contains(&format!("{name}: 1\r\n")),
                "{name}"
            );
        }
    }

    #[test]
    fn a_trusted_proxy_names_the_client_and_is_named_behind_it() {
        // What the visitor of a proxy says, and the proxy only adds to, or does not look at.
        let said = [
            ("Host", "example.org"),
            ("X-Forwarded-For", "203.0.113.9"),
            ("X-Forwarded-For", "198.51.100.1, 192.0.2.8"),
            ("X-Real-IP", "203.0.113.9"),
            ("Forwarded", "for=203.0.113.9"),
            ("CF-Connecting-IP", "203.0.113.9"),
            ("X-Forwarded-Host", "inner.example"),
            ("X-Forwarded-Proto", "http"),
            ("X-Original-URL", "/admin"),
            ("X-Forwarded-Client-Cert", "x"),
        ];
        assert_eq!(
            told(&said, false, true),
            "GET /a?b HTTP/1.1\r\nHost: example.org\r\nX-Forwarded-Proto: http\r\n\
             X-Forwarded-For: 203.0.113.9, 198.51.100.1, 192.0.2.8, 192.0.2.7\r\nX-Real-IP: 198.51.100.1\r\n\
             X-Forwarded-Host: example.org\r\n\r\n"
        );
        // Nothing behind what is no address is believed.
        assert!(told(&[("X-Forwarded-For", "198.51.100.1, x")], false, true).contains("X-Real-IP: 192.0.2.7\r\n"));
        assert_eq!(
            told(&[("Host", "example.org")], false, true),
            format!("GET /a?b HTTP/1.1\r\nHost: example.org\r\n{OURS}")
        );
        assert_eq!(told(&said, false, false), format!("GET /a?b HTTP/1.1\r\nHost: example.org\r\n{OURS}"));
    }

    #[test]
    fn only_a_websocket_is_switched_to() {
        let with = |protocol, connection| asked(&[("Connection", connection), ("Upgrade", protocol)]);
        assert!(wants_websocket(&with("websocket", "keep-alive, Upgrade")));
        assert!(wants_websocket(&with("WebSocket", "upgrade")));
        for (protocol, connection) in [
            ("h2c", "Upgrade, HTTP2-Settings"),
            ("websocket, h2c", "upgrade"),
            ("websocket", "keep-alive"),
            ("TLS/1.0", "upgrade"),
        ] {
            assert!(!wants_websocket(&with(protocol, connection)), "{protocol} {connection}");
        }
        let mut post = with("websocket", "upgrade");
        post.method = Bytes::from_static(b"POST");
        assert!(!wants_websocket(&post));
        let mut two = with("websocket", "upgrade");
        two.fields.push("Upgrade", "h2c");
        assert!(!wants_websocket(&two));
        let text = forwarded(&[("Host", "example.org"), ("Upgrade", "websocket"), ("Connection", "upgrade")], true);
        assert!(text.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"), "{text}");
    }

    #[test]
    fn answers_lose_what_is_about_the_connection() {
        let list = [("Server", "x"), ("Connection", "X-Own"), ("X-Own", "1"), ("Keep-Alive", "5"), ("ETag", "y")];
        let mut fields = asked(&list).fields;
        response(&mut fields, false);
        let names: Vec<_> = fields.0.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, ["Server", "Connection", "ETag"]);
        keep_end_to_end(&mut fields);
        assert_eq!(fields.0.len(), 2);
    }
}
