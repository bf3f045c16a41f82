//! Every route for every role, what comes in from outside, and the pages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::control::{Changed, Control, Heard, Links, NewUser, Settings, Trouble};
use super::desk::{AdminState, Shared};
use super::events::Events;
use super::guard::{Caller, Peer};
use super::token::{Role, Token, TokenHash};
use super::{AdminAddress, Keys, LARGEST_BODY, Refusal, routes};
use crate::auth::{Member, Secret, UnixTime};
use crate::ops::counts::Counts;
use crate::ops::links::WebLinks;
use crate::ops::metrics::Metrics;
use crate::ops::snapshot::{QuotaState, Replay, Snapshot, UserState};
use crate::server::sessions::{Live, Sessions};
use crate::telegram::DcId;
use crate::wire::HelloClass;

const SECRET: &str = "ee00112233445566778899aabbccddeeff6578616d706c652e636f6d";
const HERE: Peer = Peer::Tcp(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

#[derive(Default)]
struct Fake {
    counts: Arc<Counts>,
    sessions: Arc<Sessions>,
    knocks: AtomicUsize,
    changes: AtomicUsize,
}

fn done(fake: &Fake) -> Changed {
    fake.changes.fetch_add(1, Ordering::Relaxed);
    Changed { changed: vec!["user alice changed".into()], ..Changed::default() }
}

impl Control for Fake {
    fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    fn look(&self) -> Snapshot {
        let quota = QuotaState { bytes: 100, used: 90, period: "month".into(), resets: None };
        let alice = UserState { name: "alice".into(), quota: Some(quota), ..UserState::default() };
        let odd = UserState { name: "<b>&\"'.é".into(), note: Some("<script>".into()), ..UserState::default() };
        Snapshot { users: vec![alice, odd], replay: Replay { well: true, ..Replay::default() }, ..Snapshot::default() }
    }

    fn ping(&self) -> Result<Heard, String> {
        self.knocks.fetch_add(1, Ordering::Relaxed);
        Ok(Heard::Cover)
    }

    fn links(&self, user: &str) -> Result<Links, Trouble> {
        let link = |scheme: &str| format!("{scheme}?server=example.com&port=443&secret={SECRET}");
        match user {
            "alice" => {
                let (host, path) = ("site.example.com".parse().unwrap(), "team".parse().unwrap());
                let webproxy = Some(WebLinks::new(&host, &path, &Secret::new([7; 16])));
                let (tg, web) = (link("tg://proxy"), link("https://t.me/proxy"));
                Ok(Links { user: user.into(), tg, web, webproxy, no_webproxy: None })
            }
            _ => Err(Trouble::no_user()),
        }
    }

    fn create(&self, _: &NewUser) -> Result<Changed, Trouble> {
        Ok(done(self))
    }

    fn create_all(&self, users: &[NewUser]) -> Result<Changed, Trouble> {
        if users.is_empty() { Err(Trouble::no_user()) } else { Ok(done(self)) }
    }

    fn change(&self, user: &str, _: &Settings) -> Result<Changed, Trouble> {
        if user == "alice" { Ok(done(self)) } else { Err(Trouble::no_user()) }
    }

    fn rotate(&self, user: &str, _: Option<&str>) -> Result<Changed, Trouble> {
        self.change(user, &Settings::default())
    }

    fn remove(&self, user: &str) -> Result<Changed, Trouble> {
        self.change(user, &Settings::default())
    }

    fn reload(&self) -> Result<Changed, Trouble> {
        Ok(done(self))
    }

    fn drain(&self) {}
}

fn text_of(role: Role) -> String {
    format!("vizard_{role}")
}

fn desk() -> (Shared, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let token = |role: Role| Token { name: format!("the-{role}"), role, hash: TokenHash::of(&text_of(role)) };
    let settings = super::Settings {
        place: AdminAddress::Unix("x".into()),
        tls: None,
        tokens: Role::ALL.map(token).to_vec(),
        hosts: vec!["panel.example".into()],
        per_user_metrics: true,
    };
    let keys = Keys::open(&settings).unwrap();
    let looked = Arc::clone(&fake);
    let metrics = Metrics::new(Arc::clone(&fake.counts), Arc::new(move || looked.look()), UnixTime(0), true);
    let desk = AdminState::new(fake.clone(), keys, metrics, Arc::new(Events::default()), UnixTime(0), None);
    (desk, fake)
}

/// Sends one request.
async fn send(desk: &Shared, peer: Peer, request: Request<Body>) -> Response {
    let mut request = request;
    request.extensions_mut().insert(peer);
    request.headers_mut().entry(header::HOST).or_insert(header::HeaderValue::from_static("localhost"));
    routes(desk.clone()).oneshot(request).await.unwrap()
}

async fn body(response: Response) -> String {
    String::from_utf8_lossy(&response.into_body().collect().await.unwrap().to_bytes()).into_owned()
}

fn request(method: &str, path: &str, token: Option<&str>, body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

/// Every route with the least role that it takes; `None`: anybody.
const ROUTES: &[(&str, &str, Option<Role>)] = &[
    ("GET", "/api/v1/health", None),
    ("GET", "/api/v1/readiness", None),
    ("GET", "/openapi.json", None),
    ("GET", "/metrics", Some(Role::Metrics)),
    ("GET", "/api/v1/status", Some(Role::Viewer)),
    ("GET", "/api/v1/users", Some(Role::Viewer)),
    ("GET", "/api/v1/users/{name}", Some(Role::Viewer)),
    ("GET", "/api/v1/users/{name}/usage", Some(Role::Viewer)),
    ("GET", "/api/v1/sessions", Some(Role::Viewer)),
    ("GET", "/api/v1/events", Some(Role::Viewer)),
    ("POST", "/api/v1/users", Some(Role::Operator)),
    ("POST", "/api/v1/bulk/users", Some(Role::Operator)),
    ("PATCH", "/api/v1/users/{name}", Some(Role::Operator)),
    ("DELETE", "/api/v1/users/{name}", Some(Role::Operator)),
    ("POST", "/api/v1/users/{name}/rotate", Some(Role::Operator)),
    ("GET", "/api/v1/users/{name}/link", Some(Role::Operator)),
    ("DELETE", "/api/v1/users/{name}/sessions", Some(Role::Operator)),
    ("DELETE", "/api/v1/sessions/{id}", Some(Role::Operator)),
    ("POST", "/api/v1/reload", Some(Role::Admin)),
    ("POST", "/api/v1/drain", Some(Role::Admin)),
];

fn filled(path: &str) -> String {
    path.replace("{name}", "alice").replace("{id}", "7")
}

fn sample(method: &str, path: &str) -> &'static str {
    match (method, path) {
        ("POST", "/api/v1/users") => r#"{"name": "bob", "settings": {"quota": "5GB/month"}}"#,
        ("POST", "/api/v1/bulk/users") => r#"[{"name": "bob"}]"#,
        _ => "{}",
    }
}

#[tokio::test]
async fn every_route_answers_every_role_as_it_should() {
    for (method, path, least) in ROUTES {
        for role in [None, Some("wrong")] {
            let (desk, _) = desk();
            let response = send(&desk, HERE, request(method, &filled(path), role, sample(method, path))).await;
            let status = response.status();
            match least {
                None => assert!(status.is_success(), "{method} {path} {role:?}: {status}"),
                Some(_) => {
                    assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} {role:?}");
                    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
                    assert!(body(response).await.contains("\"next\""));
                }
            }
        }
        for role in Role::ALL {
            let (desk, fake) = desk();
            let sent = request(method, &filled(path), Some(&text_of(role)), sample(method, path));
            let response = send(&desk, HERE, sent).await;
            let status = response.status();
            if least.is_some_and(|least| role < least) {
                assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} {role}");
                assert_eq!(fake.changes.load(Ordering::Relaxed), 0, "nothing was done");
                continue;
            }
            let missing = path.contains("{id}");
            let fine = if missing { status == StatusCode::NOT_FOUND } else { status.is_success() };
            assert!(fine, "{method} {path} {role}: {status} {}", body(response).await);
        }
    }
}

#[tokio::test]
async fn the_description_has_exactly_the_routes_with_their_roles() {
    let (desk, _) = desk();
    let text = body(send(&desk, HERE, request("GET", "/openapi.json", None, "")).await).await;
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let role = operation["security"][0]["token"][0].as_str().map(str::to_owned);
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            described.insert((method.to_uppercase(), path.clone(), role));
        }
    }
    let routes = ROUTES.iter().map(|(method, path, role)| {
        ((*method).to_owned(), (*path).to_owned(), role.map(|role| role.label().to_owned()))
    });
    assert_eq!(described, routes.collect());
    assert!(document["components"]["securitySchemes"]["token"].is_object());
}

/// The names of a described schema, so that answers and description cannot part.
#[tokio::test]
async fn answers_have_the_fields_that_are_described() {
    let (desk, _) = desk();
    let token = text_of(Role::Viewer);
    let get = |path: &'static str| {
        let (desk, token) = (desk.clone(), token.clone());
        async move {
            let text = body(send(&desk, HERE, request("GET", path, Some(&token), "")).await).await;
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        }
    };
    let document = get("/openapi.json").await;
    let fields = |schema: &str| -> BTreeSet<String> {
        document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().cloned().collect()
    };
    let keys = |value: &serde_json::Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(keys(&get("/api/v1/status").await), fields("Status"));
    assert_eq!(keys(&get("/api/v1/users").await[0]), fields("User"));
    assert_eq!(keys(&get("/api/v1/users/alice/usage").await), fields("Usage"));
    assert_eq!(keys(&get("/api/v1/health").await), fields("Health"));
    assert_eq!(keys(&get("/api/v1/readiness").await), fields("Readiness"));
}

#[tokio::test]
async fn only_those_who_may_see_secrets_see_them() {
    let paths = ROUTES.iter().filter(|(method, ..)| *method == "GET").map(|(_, path, _)| filled(path));
    for path in paths.chain(["/api/v1/users/alice/link".into()]) {
        let (desk, _) = desk();
        let text = body(send(&desk, HERE, request("GET", &path, Some(&text_of(Role::Viewer)), "")).await).await;
        assert!(!text.contains(SECRET) && !text.contains("tg://webproxy?server"), "{path}");
    }
    let (desk, _) = desk();
    let sent = request("GET", "/api/v1/users/alice/link", Some(&text_of(Role::Operator)), "");
    let text = body(send(&desk, HERE, sent).await).await;
    assert!(text.contains(SECRET) && text.contains("tg://webproxy?server=site.example.com&"), "{text}");
    let entries = desk.events.list(0, 10);
    assert_eq!(entries.last().unwrap().detail, "see link alice", "and that is noted");
    assert!(!format!("{entries:?}").contains(SECRET));
}

#[tokio::test]
async fn the_owner_of_the_socket_needs_no_token_and_others_do() {
    let (desk, _) = desk();
    let ask = |owner: bool| send(&desk, Peer::Unix { owner }, request("POST", "/api/v1/reload", None, ""));
    assert_eq!(ask(true).await.status(), StatusCode::OK);
    assert_eq!(ask(false).await.status(), StatusCode::UNAUTHORIZED);
    let wrong = request("POST", "/api/v1/reload", Some("wrong"), "");
    assert_eq!(send(&desk, Peer::Unix { owner: true }, wrong).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down_and_right_ones_are_not() {
    let (desk, _) = desk();
    let status = async |token: &str| send(&desk, HERE, request("GET", "/metrics", Some(token), "")).await.status();
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        seen.insert(status("wrong").await.as_u16());
    }
    assert_eq!(seen, [401, 429].into());
    assert_eq!(status(&text_of(Role::Metrics)).await, StatusCode::OK);
}

#[tokio::test]
async fn a_token_that_is_taken_away_opens_nothing() {
    let (desk, _) = desk();
    desk.keys().tokens().store(Arc::default());
    let sent = request("GET", "/metrics", Some(&text_of(Role::Admin)), "");
    assert_eq!(send(&desk, HERE, sent).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn bodies_have_a_bound_and_failures_are_json() {
    let (desk, fake) = desk();
    let token = text_of(Role::Admin);
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(LARGEST_BODY));
    for (method, path, sent, status) in [
        ("POST", "/api/v1/users", long.as_str(), 413),
        ("POST", "/api/v1/users", "{", 400),
        ("POST", "/api/v1/users", "{\"name\": 5}", 422),
        ("POST", "/api/v1/users", "{\"name\": \"bob\", \"role\": \"admin\"}", 422),
        ("PATCH", "/api/v1/users/alice", "{\"secret\": \"x\"}", 422),
        ("PUT", "/api/v1/users", "{}", 405),
        ("GET", "/api/v1/nothing", "", 404),
        ("GET", "/api/v1/users/nobody", "", 404),
        ("DELETE", "/api/v1/sessions/x", "", 400),
        ("GET", "/api/v1/events?after=x", "", 400),
    ] {
        let response = send(&desk, HERE, request(method, path, Some(&token), sent)).await;
        assert_eq!(response.status().as_u16(), status, "{method} {path} {sent:.40}");
        let text = body(response).await;
        let failure: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}"));
        assert!(failure["error"].is_string() && failure["next"].is_string(), "{text}");
    }
    let plain = Request::post("/api/v1/users").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let response = send(&desk, HERE, plain.body(Body::from("{}")).unwrap()).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "a form of another site cannot send JSON");
    assert_eq!(fake.changes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn many_health_checks_are_one_visit() {
    let (desk, fake) = desk();
    for _ in 0..20 {
        assert_eq!(send(&desk, HERE, request("GET", "/api/v1/health", None, "")).await.status(), StatusCode::OK);
    }
    assert_eq!(fake.knocks.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_session_is_ended_by_its_number_and_by_its_user() {
    let (desk, fake) = desk();
    let enter = |name: &str| {
        fake.sessions.enter(Live {
            id: fake.sessions.number(),
            member: Member::new(name),
            dc: DcId::new(2),
            class: HelloClass::Chrome,
            since: UnixTime(0),
            from: std::net::Ipv4Addr::new(192, 0, 2, 77).into(),
            key: None,
            greeted: None,
            opened_with: 0,
            meter: Arc::default(),
        })
    };
    let (first, _second) = (enter("alice"), enter("bob"));
    let token = text_of(Role::Operator);
    let ask =
        async |method: &str, path: &str| body(send(&desk, HERE, request(method, path, Some(&token), "")).await).await;
    let list = ask("GET", "/api/v1/sessions?user=bob").await;
    assert!(list.contains("\"user\":\"bob\"") && !list.contains("alice") && !list.contains("192.0.2"), "{list}");
    let one = format!("/api/v1/sessions/{}", first.live().id);
    assert_eq!(ask("DELETE", &one).await, "{\"closed\":1}");
    assert_eq!(ask("DELETE", "/api/v1/users/bob/sessions").await, "{\"closed\":1}");
    assert_eq!(ask("DELETE", "/api/v1/users/nobody/sessions").await, "{\"closed\":0}");
}

#[test]
fn settings_that_give_things_away_are_refused() {
    let token = Token { name: "a".into(), role: Role::Admin, hash: TokenHash::of("x") };
    let settings = |place: &str, tls: bool, tokens: usize| super::Settings {
        place: place.parse::<AdminAddress>().unwrap(),
        tls: tls.then(|| ("c".into(), "k".into())),
        tokens: vec![token.clone(); tokens],
        hosts: Vec::new(),
        per_user_metrics: true,
    };
    for (place, tls, tokens, refusal) in [
        ("127.0.0.1:1", false, 1, None),
        ("127.0.0.1:1", false, 0, Some(Refusal::NoToken)),
        ("0.0.0.0:1", false, 1, Some(Refusal::PublicWithoutTls)),
        ("[::]:1", false, 1, Some(Refusal::PublicWithoutTls)),
        ("192.0.2.1:1", false, 1, Some(Refusal::PublicWithoutTls)),
        ("192.0.2.1:1", true, 0, Some(Refusal::NoToken)),
        ("192.0.2.1:1", true, 1, None),
        ("unix:/x", false, 0, None),
    ] {
        assert_eq!(settings(place, tls, tokens).refusal(), refusal, "{place}");
    }
}

#[tokio::test]
async fn foreign_pages_neither_read_nor_change_anything_through_the_socket() {
    let (desk, fake) = desk();
    let owner = Peer::Unix { owner: true };
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(&desk, owner, request.body(Body::empty()).unwrap()).await.status()
    };
    let json = ("content-type", "application/json");
    for path in ["/api/v1/users/alice/link", "/metrics", "/", "/login", "/openapi.json", "/api/v1/health", "/nowhere"] {
        let rebound = ask("GET", path, &[("host", "evil.example:9443")]).await;
        assert_eq!(rebound, StatusCode::MISDIRECTED_REQUEST, "{path}");
        let foreign = ask("GET", path, &[("origin", "https://evil.example")]).await;
        assert_eq!(foreign, StatusCode::FORBIDDEN, "{path}");
    }
    for (method, path) in [("POST", "/api/v1/reload"), ("POST", "/api/v1/drain"), ("DELETE", "/api/v1/users/alice")] {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            assert_eq!(ask(method, path, &[("content-type", kind)]).await, StatusCode::FORBIDDEN, "{path} {kind}");
        }
        assert_eq!(ask(method, path, &[]).await, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(ask(method, path, &[json, ("origin", "null")]).await, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(fake.changes.load(Ordering::Relaxed), 0);
    assert_eq!(ask("POST", "/api/v1/reload", &[json]).await, StatusCode::OK);
    assert_eq!(ask("POST", "/api/v1/reload", &[json, ("host", "panel.example")]).await, StatusCode::OK);
    assert_eq!(fake.changes.load(Ordering::Relaxed), 2);
}

// Pages.

/// Logs in and returns the cookie and the word that forms repeat.
async fn logged_in(desk: &Shared, role: Role) -> (String, String) {
    let response = form(desk, "/login", None, &format!("token={}", text_of(role))).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let page = page(desk, "/", &cookie).await;
    let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
    (cookie, rest.split('"').next().unwrap().to_owned())
}

async fn page(desk: &Shared, path: &str, cookie: &str) -> String {
    let request = Request::get(path).header(header::COOKIE, cookie).body(Body::empty()).unwrap();
    let response = send(desk, HERE, request).await;
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    body(response).await
}

async fn form(desk: &Shared, path: &str, cookie: Option<&str>, fields: &str) -> Response {
    let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    send(desk, HERE, request.body(Body::from(fields.to_owned())).unwrap()).await
}

#[tokio::test]
async fn pages_take_a_login_and_forms_the_word_of_our_pages() {
    let (desk, fake) = desk();
    for path in ["/", "/users", "/users/alice", "/sessions", "/events"] {
        let response = send(&desk, HERE, Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.headers()[header::LOCATION], "/login", "{path}");
        let bearer = request("GET", path, Some(&text_of(Role::Admin)), "");
        assert_eq!(send(&desk, HERE, bearer).await.headers()[header::LOCATION], "/login", "a token is no cookie");
    }
    assert_eq!(form(&desk, "/login", None, "token=wrong").await.status(), StatusCode::UNAUTHORIZED);
    let metrics = format!("token={}", text_of(Role::Metrics));
    assert_eq!(form(&desk, "/login", None, &metrics).await.status(), StatusCode::UNAUTHORIZED);

    let (cookie, csrf) = logged_in(&desk, Role::Operator).await;
    let actions = ["enable", "disable", "rotate", "close"];
    for action in actions {
        let path = format!("/users/alice/{action}");
        for wrong in ["csrf=", "csrf=x", &format!("csrf={}", csrf.to_lowercase())] {
            assert_eq!(form(&desk, &path, Some(&cookie), wrong).await.status(), StatusCode::FORBIDDEN, "{action}");
        }
    }
    assert_eq!(fake.changes.load(Ordering::Relaxed), 0);
    for action in actions {
        let response = form(&desk, &format!("/users/alice/{action}"), Some(&cookie), &format!("csrf={csrf}")).await;
        assert_eq!(response.headers()[header::LOCATION], "/users/alice", "{action}");
    }
    assert_eq!(fake.changes.load(Ordering::Relaxed), 3);
    assert!(page(&desk, "/users/alice", &cookie).await.contains("class=\"notice\""));
    assert!(!page(&desk, "/users/alice", &cookie).await.contains("class=\"notice\""), "it is said once");
    let reload = form(&desk, "/reload", Some(&cookie), &format!("csrf={csrf}")).await;
    assert_eq!(reload.status(), StatusCode::FORBIDDEN, "an operator may not");

    form(&desk, "/logout", Some(&cookie), &format!("csrf={csrf}")).await;
    let gone = Request::get("/").header(header::COOKIE, &cookie).body(Body::empty()).unwrap();
    assert_eq!(send(&desk, HERE, gone).await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_viewer_sees_no_secret_and_no_button() {
    let (desk, fake) = desk();
    let (cookie, csrf) = logged_in(&desk, Role::Viewer).await;
    for path in ["/", "/users", "/users/alice", "/sessions", "/events"] {
        let page = page(&desk, path, &cookie).await;
        assert!(!page.contains(SECRET) && !page.contains("Remove") && !page.contains("New user"), "{path}");
    }
    for path in ["/users/alice/disable", "/users", "/sessions/1/close"] {
        let response = form(&desk, path, Some(&cookie), &format!("csrf={csrf}&name=bob")).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(fake.changes.load(Ordering::Relaxed), 0);
    let (cookie, _) = logged_in(&desk, Role::Operator).await;
    let page = page(&desk, "/users/alice", &cookie).await;
    assert!(page.contains(&SECRET[..40]) && page.contains("tg://webproxy?server=site.example.com&amp;"), "{page}");
    assert!(page.contains("site.example.com%2Fteam"), "{page}");
    assert_eq!(page.matches("aria-label=\"QR code\"").count(), 2, "one for each kind");
}

#[tokio::test]
async fn what_others_wrote_is_escaped_on_pages() {
    let (desk, _) = desk();
    desk.note(&Caller { name: "<i>".into(), role: Role::Admin, token: None }, "see", "<u>", Some("<s>"));
    let (cookie, _) = logged_in(&desk, Role::Admin).await;
    for path in ["/users", "/events", "/users/%3Cb%3E&%22'.%C3%A9"] {
        let page = page(&desk, path, &cookie).await;
        for tag in ["<b>&", "<script", "<i>", "<u>", "<s>", "style=\"", "onclick"] {
            assert!(!page.contains(tag), "{path} has {tag}");
        }
    }
    assert!(page(&desk, "/users", &cookie).await.contains("/users/%3Cb%3E%26%22%27%2E%C3%A9"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_request_makes_it_fail(
        route in prop::sample::select(ROUTES),
        name in "\\PC{0,20}",
        query in "[ -~]{0,20}",
        sent in prop_oneof![any::<Vec<u8>>(), "[{}\\[\\]\",:a-z0-9 ]{0,60}".prop_map(String::into_bytes), a_user()],
        kind in prop::sample::select(&["application/json", "application/x-www-form-urlencoded", "text/plain", ""][..]),
        form in any::<bool>(),
    ) {
        let (method, path, _) = route;
        let name = super::page::encoded(&name);
        let path = if form { format!("/users/{name}/disable") } else { path.replace("{name}", &name).replace("{id}", &name) };
        let query: String = query.chars().filter(|c| !matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '}' | '|' | '#')).collect();
        let Ok(method) = method.parse::<Method>() else { panic!("{method}") };
        let request = Request::builder().method(method).uri(format!("{path}?{query}")).header(header::CONTENT_TYPE, kind);
        let request = request.header(header::AUTHORIZATION, format!("Bearer {}", text_of(Role::Admin)));
        let Ok(request) = request.body(Body::from(sent)) else { return Ok(()) };
        let (desk, _) = desk();
        let status = Runtime::new().unwrap().block_on(async { send(&desk, HERE, request).await.status() });
        prop_assert!(!status.is_server_error(), "{status}");
    }
}

fn a_user() -> impl Strategy<Value = Vec<u8>> {
    let key = prop::sample::select(&["enabled", "expires", "quota", "max_sessions", "allow", "note", "secret"][..]);
    let value =
        prop::sample::select(&["true", "null", "-1", "1e99", "\"x\"", "[]", "[1]", "{}", "99999999999999999999"][..]);
    (".{0,5}", key, value).prop_map(|(name, key, value)| {
        let name = serde_json::Value::from(name);
        format!("{{\"name\": {name}, \"settings\": {{\"{key}\": {value}}}}}").into_bytes()
    })
}
