use super::*;
use crate::fixtures::web_vectors;
use crate::webproxy::capability::{Capability, Form, Place};

const HOST: &str = "proxy.example.com";
const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn index() -> Index<&'static str> {
    let place = |base: &str| Place { host: HOST.parse().unwrap(), base: base.parse().unwrap() };
    Index::build(&[1; 32], vec![place(""), place("dobry-cola-super-app")], [("ann", KEY)])
}

fn tokens() -> TokenKey {
    TokenKey::new(&[2; 32])
}

fn token(kind: TokenKind) -> Token {
    tokens().issue(kind, [3; 16])
}

#[derive(Clone)]
struct Asked {
    method: &'static str,
    target: String,
    host: String,
    protocol: Option<&'static str>,
    fields: Vec<(&'static str, String)>,
}

impl Asked {
    fn new(method: &'static str, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), host: HOST.into(), protocol: None, fields: vec![] }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(found, _)| *found != name);
        self
    }

    fn head(&self) -> Head<'_, impl Iterator<Item = (&[u8], &[u8])> + Clone> {
        let fields = self.fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Head {
            method: self.method.as_bytes(),
            target: self.target.as_bytes(),
            host: Some(self.host.as_bytes()),
            protocol: self.protocol.map(str::as_bytes),
            fields,
        }
    }

    fn is(&self) -> Request<&'static str> {
        classify(&self.head(), &index(), &tokens())
    }

    fn call(&self) -> Option<Call> {
        match self.is() {
            Request::Api { call, .. } => Some(call),
            Request::Unusable => None,
            other => panic!("{} {}: {other:?}", self.method, self.target),
        }
    }
}

fn bearer(kind: TokenKind) -> String {
    format!("Bearer {}", token(kind).text())
}

fn create() -> Asked {
    let asked = Asked::new("POST", "/api/v1/session").with("Authorization", bearer(TokenKind::Bootstrap));
    asked.with("Content-Type", "application/octet-stream")
}

fn up() -> Asked {
    let asked = Asked::new("POST", "/api/v1/up").with("authorization", bearer(TokenKind::Session));
    asked.with("content-type", "application/octet-stream").with("x-up-seq", "7")
}

fn down() -> Asked {
    Asked::new("POST", "/api/v1/down").with("Authorization", bearer(TokenKind::Session)).with("X-Down-Cursor", "0")
}

fn end() -> Asked {
    Asked::new("DELETE", "/api/v1/session").with("Authorization", bearer(TokenKind::Session))
}

fn socket(protocol: &str) -> Asked {
    let asked = Asked::new("GET", "/api/v1/ws").with("Connection", "keep-alive, Upgrade").with("Upgrade", "websocket");
    let asked = asked.with("Sec-WebSocket-Version", "13").with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    asked.with("Sec-WebSocket-Protocol", protocol.replace("$S", &token(TokenKind::Session).text()))
}

#[test]
fn bridge_requests_are_those_of_the_vectors() {
    let rows = web_vectors("bridge_requests");
    assert!(rows.as_array().unwrap().len() >= 15);
    for row in rows.as_array().unwrap() {
        let method = row["method"].as_str().unwrap().to_owned().leak();
        let mut asked = Asked::new(method, row["target"].as_str().unwrap());
        asked.host = row["host"].as_str().unwrap().to_owned();
        let visitor =
            row["why"].as_str().is_some_and(|why| why.ends_with("a visitor") || why.contains("not canonical"));
        match asked.is() {
            Request::Bridge(entry) => assert_eq!((entry.user, row["bridge"].as_bool()), ("ann", Some(true)), "{row}"),
            Request::Stranger => assert!(visitor, "{row}"),
            Request::Unusable => assert!(row["bridge"] == false && !visitor, "{row}"),
            Request::Api { .. } => panic!("{row}"),
        }
    }
}

#[test]
fn a_bridge_belongs_to_the_place_and_form_of_its_capability() {
    for (place, base) in ["", "dobry-cola-super-app"].into_iter().enumerate() {
        let base: crate::webproxy::BasePath = base.parse().unwrap();
        for form in Form::ALL {
            let capability = Capability::new(&KEY, form, &HOST.parse().unwrap(), &base);
            let asked = Asked::new("GET", format!("{}?bridge={}", base.prefix(), capability.text()));
            assert_eq!(asked.is(), Request::Bridge(Entry { user: "ann", form, place }));
            for wrong in [asked.clone().with("Content-Length", "3"), asked.clone().with("Transfer-Encoding", "chunked")]
            {
                assert_eq!(wrong.is(), Request::Unusable);
            }
            assert_eq!(Asked { protocol: Some("websocket"), ..asked }.is(), Request::Unusable);
        }
    }
}

#[test]
fn valid_calls_are_known() {
    assert_eq!(create().call(), Some(Call::Create));
    assert_eq!(end().call(), Some(Call::End));
    assert_eq!(up().call(), Some(Call::Up { sequence: 7, lane: None }));
    assert_eq!(up().with("X-Lane-ID", "16777215").call(), Some(Call::Up { sequence: 7, lane: Some(0xff_ffff) }));
    assert_eq!(down().call(), Some(Call::Down { cursor: 0, lane: None }));
    assert_eq!(down().with("X-Lane-ID", "0").call(), Some(Call::Down { cursor: 0, lane: Some(0) }));
    assert_eq!(down().with("Content-Type", "").with("Content-Length", "0").call(), down().call());
    for (protocol, kind) in [
        ("tproxy-v1.$S", Socket::Plain),
        ("tproxy-lane-v1.$S.1", Socket::Lane(1)),
        ("tproxy-lane-v1.$S.16777215", Socket::Lane(0xff_ffff)),
        ("tproxy-resume-v1.$S", Socket::Resumable),
    ] {
        assert_eq!(socket(protocol).with("Cookie", "a=b").call(), Some(Call::Socket(kind)));
        assert_eq!(
            kind.protocol(&token(TokenKind::Session)),
            protocol.replace("$S", &token(TokenKind::Session).text())
        );
        let tunnel = socket(protocol).without("Connection").without("Upgrade").without("Sec-WebSocket-Key");
        let tunnel = Asked { method: "CONNECT", protocol: Some("websocket"), ..tunnel };
        assert_eq!(tunnel.call(), Some(Call::Socket(kind)));
    }
    let below = Asked { target: "/dobry-cola-super-app/api/v1/up".into(), ..up() };
    assert!(matches!(below.is(), Request::Api { place: 1, .. }));
}

#[test]
fn calls_with_anything_wrong_are_unusable() {
    let target = |asked: Asked, target: &str| Asked { target: target.into(), ..asked };
    let method = |asked: Asked, method| Asked { method, ..asked };
    let twice = bearer(TokenKind::Session);
    for (number, wrong) in [
        target(up(), "/api/v1/up?"),
        target(up(), "/api/v1/up/"),
        target(up(), "/api/v1/other"),
        target(up(), "/API/v1/up"),
        target(up(), "//api/v1/up"),
        target(up(), "/elsewhere/api/v1/up"),
        method(up(), "PUT"),
        method(down(), "GET"),
        method(create(), "DELETE"),
        method(end(), "POST"),
        Asked { host: "other.example.com".into(), ..up() },
        Asked { protocol: Some("websocket"), ..up() },
        up().with("Cookie", "a=b"),
        up().with("Authorization", twice.clone()),
        up().without("content-type"),
        up().without("content-type").with("content-type", "application/octet-stream; charset=x"),
        up().with("Content-Type", "application/octet-stream"),
        up().without("authorization").with("authorization", twice.replace("Bearer", "bearer")),
        up().without("authorization").with("authorization", format!("{twice} ")),
        up().without("authorization").with("authorization", bearer(TokenKind::Bootstrap)),
        create().without("Authorization").with("Authorization", twice.clone()),
        down().with("Content-Type", "text/plain;charset=UTF-8"),
        down().with("Content-Length", "1"),
        down().with("Transfer-Encoding", "chunked"),
        down().without("X-Down-Cursor"),
        end().with("Content-Type", "application/octet-stream"),
        up().with("X-Lane-ID", "16777216"),
        up().with("X-Lane-ID", "1").with("X-Lane-ID", "1"),
        socket("tproxy-v1.$S").with("Authorization", twice),
        socket("tproxy-v1.$S").with("Sec-WebSocket-Protocol", "x"),
        socket("tproxy-v1.$S, x"),
        socket("tproxy-v2.$S"),
        socket("tproxy-lane-v1.$S.0"),
        socket("tproxy-lane-v1.$S.01"),
        socket("tproxy-lane-v1.$S.16777216"),
        socket("tproxy-lane-v1.$S"),
        socket("tproxy-v1.$S").without("Sec-WebSocket-Version"),
        socket("tproxy-v1.$S").without("Sec-WebSocket-Key"),
        socket("tproxy-v1.$S").without("Upgrade"),
        socket("tproxy-v1.$S").without("Connection"),
        target(socket("tproxy-v1.$S"), "/api/v1/ws?x"),
        method(socket("tproxy-v1.$S"), "CONNECT"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(wrong.is(), Request::Unusable, "case {number}");
    }
    for sequence in ["0", "01", "+1", "-1", "1 ", "", "x", "18446744073709551616"] {
        assert_eq!(up().without("x-up-seq").with("x-up-seq", sequence).is(), Request::Unusable, "{sequence}");
    }
    assert!(up().without("x-up-seq").with("x-up-seq", u64::MAX.to_string()).call().is_some());
}

#[test]
fn requests_without_an_authentic_value_are_the_sites() {
    let foreign = TokenKey::new(&[9; 32]).issue(TokenKind::Session, [3; 16]).text();
    let capability = Capability::new(&[9; 16], Form::Plain, &HOST.parse().unwrap(), &Default::default()).text();
    for asked in [
        Asked::new("GET", "/"),
        Asked::new("GET", format!("/?bridge={capability}")),
        Asked::new("POST", "/api/v1/session"),
        Asked::new("POST", "/api/v1/up").with("Authorization", format!("Bearer {foreign}")),
        socket(&format!("tproxy-v1.{foreign}")),
        Asked { method: "CONNECT", protocol: Some("websocket"), ..socket(&format!("tproxy-v1.{foreign}")) },
        Asked::new("OPTIONS", "*").with("Authorization", "Basic Og=="),
        Asked::new("GET", "/".repeat(9000)),
        Asked::new("GET", "A".repeat(9000)),
        Asked::new("GET", format!("/?{}", "%".repeat(9000))).with("Authorization", "%4"),
    ] {
        assert_eq!(asked.is(), Request::Stranger);
    }
}

/// Authentic values of each kind.
fn authentic() -> [String; 3] {
    [
        token(TokenKind::Bootstrap).text(),
        token(TokenKind::Session).text(),
        Capability::new(&KEY, Form::Dd, &HOST.parse().unwrap(), &Default::default()).text(),
    ]
}

#[test]
fn authentic_values_are_found_where_the_apps_and_their_pages_put_them() {
    for value in authentic() {
        let escaped: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for form in [value.clone(), escaped, format!("%2F{value}%2f")] {
            for asked in [
                Asked::new("HEAD", format!("/a?b={form}#c")),
                Asked::new("GET", format!("/?bridge={form}&from=link")),
                Asked::new("GET", "/").with("AUTHORIZATION", form.clone()),
                Asked::new("GET", "/").with("Authorization", format!("bearer {form}")),
                Asked::new("GET", "/").with("Sec-WebSocket-Protocol", format!("chat, {form}")),
            ] {
                assert_eq!(asked.is(), Request::Unusable, "{}", asked.target);
            }
        }
        // No app and no page of ours puts one there, and runs of another length are no values.
        for asked in [
            Asked::new("GET", format!("/{value}")),
            Asked::new("GET", "/").with("Cookie", value.clone()),
            Asked::new("GET", format!("/?bridge={value}A")),
            Asked::new("GET", format!("/?bridge=-{value}")),
        ] {
            assert_eq!(asked.is(), Request::Stranger, "{}", asked.target);
        }
    }
}

#[test]
fn a_head_of_any_size_costs_no_more_than_a_few_look_ups() {
    let (value, run) = ("A".repeat(TEXT), "A".repeat(8000));
    let many = format!("{value},").repeat(180);
    for (asked, expected) in [
        (Asked::new("GET", "/"), 0),
        (socket("tproxy-lane-v1.$S.7"), 1),
        (create(), 1),
        (Asked::new("GET", format!("/?{run}")).with("Authorization", run.clone()), 0),
        (Asked::new("GET", format!("/{many}")).with("Cookie", many.clone()).with("Referer", many.clone()), 0),
        (Asked::new("GET", format!("/?{many}")), CANDIDATES),
        (create().with("Authorization", many.clone()).with("Authorization", many.clone()), CANDIDATES),
        (Asked::new("GET", format!("/?{many}")).with("Sec-WebSocket-Protocol", many.clone()), CANDIDATES),
    ] {
        assert_eq!(asked.head().candidates().len(), expected, "{}", &asked.target[..asked.target.len().min(60)]);
    }
    // The first ones count.
    let [_, session, _] = authentic();
    let behind = |count: usize| Asked::new("GET", format!("/?{}{session}", format!("{value},").repeat(count)));
    assert_eq!((behind(CANDIDATES - 1).is(), behind(CANDIDATES).is()), (Request::Unusable, Request::Stranger));
}

proptest::proptest! {
    #[test]
    fn no_head_is_too_odd(method: Vec<u8>, target: Vec<u8>, host: Option<Vec<u8>>, fields: Vec<(Vec<u8>, Vec<u8>)>) {
        let fields = fields.iter().map(|(name, value)| (&name[..], &value[..]));
        let head = Head { method: &method, target: &target, host: host.as_deref(), protocol: None, fields };
        proptest::prop_assert_eq!(classify(&head, &index(), &tokens()), Request::Stranger);
    }
}
