use bytes::Bytes;

use super::*;
use crate::auth::{Member, Policy, Secret};
use crate::webproxy::capability::{Capability, Form};
use crate::webproxy::live::WebStream;

const HOST: &str = "proxy.example.com";
const OTHER: &str = "second.example.com";

/// Takes no stream.
struct Closed;

impl StreamBackend for Closed {
    fn open(&self, _: WebStream) {}
}

fn settings() -> Settings {
    let hosts = [HOST, OTHER].map(|host| host.parse().unwrap()).into();
    Settings { mode: Mode::Https, hosts, base: "team".parse().unwrap(), key: TokenSeed::new([5; 32]) }
}

fn key(name: &str, secret: u8, domain: Option<&str>) -> Arc<auth::Key> {
    let policy = Policy { domain: domain.map(|name| name.parse().unwrap()), ..Policy::default() };
    let member = Member::new(name);
    member.set_policy(policy);
    Arc::new(auth::Key::new(member, Secret::new([secret; 16])))
}

/// A service that offers WEB to the holders of these keys.
fn offering(settings: &Settings, keys: &[Arc<auth::Key>]) -> Arc<WebProxy> {
    let service = Arc::<WebProxy>::default();
    service.offer(Some(settings), keys).file();
    service
}

/// A request, and who sends it.
#[derive(Clone)]
struct Sent {
    method: &'static str,
    target: String,
    fields: Vec<(&'static str, String)>,
    body: &'static [u8],
    barred: bool,
    peer: Option<SocketAddr>,
}

impl Sent {
    fn get(target: String) -> Self {
        let (fields, peer) = (vec![("host", HOST.to_owned())], Some(([192, 0, 2, 1], 1).into()));
        Self { method: "GET", target, fields, body: b"", barred: false, peer }
    }

    /// The bridge of this key.
    fn bridge(secret: u8, host: &str, base: &str) -> Self {
        let (at, base) = (host.parse().unwrap(), base.parse::<BasePath>().unwrap());
        let capability = Capability::new(&[secret; 16], Form::Plain, &at, &base).text();
        let asked = Self::get(format!("{}?bridge={capability}", base.prefix()));
        Self { fields: vec![("host", host.to_owned())], ..asked }
    }

    fn call(method: &'static str, base: &str, call: &str, token: &str) -> Self {
        let mut asked = Self::get(format!("{base}api/v1/{call}"));
        asked.fields.push(("authorization", format!("Bearer {token}")));
        Self { method, ..asked }
    }

    fn create(base: &str, bootstrap: &str) -> Self {
        let mut asked = Self::call("POST", base, "session", bootstrap);
        asked.fields.push(("content-type", "application/octet-stream".into()));
        Self { body: &frame::HELLO, ..asked }
    }

    /// Status and content of the answer, and the token of a session in it; `None` if it is the site's to answer.
    async fn to(&self, service: &Arc<WebProxy>) -> Option<(u16, String, Option<String>)> {
        let fields: Vec<_> =
            self.fields.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(value.clone()))).collect();
        let asked = VisitorRequest {
            method: self.method.as_bytes(),
            target: self.target.as_bytes(),
            fields: &fields,
            http2: false,
            length: Some(self.body.len() as u64),
            peer: self.peer,
        };
        let claim = service.claim(&asked, self.barred, || Arc::new(Closed))?;
        match claim(RequestBody::of(Bytes::from_static(self.body))).await {
            ExtensionAnswer::Reply { status, fields, content } => {
                let token = fields.iter().find(|(name, _)| *name == "X-Session-Token");
                let content = String::from_utf8_lossy(&content.concat()).into_owned();
                Some((status, content, token.map(|(_, value)| value.to_string())))
            }
            ExtensionAnswer::Socket { .. } => panic!("a socket"),
        }
    }

    async fn status(&self, service: &Arc<WebProxy>) -> Option<u16> {
        self.to(service).await.map(|(status, ..)| status)
    }
}

/// The bootstrap token of a page.
async fn page(service: &Arc<WebProxy>, asked: &Sent) -> String {
    let (status, page, _) = asked.to(service).await.expect("a page");
    assert_eq!(status, 200);
    page.split("bootstrap=\"").nth(1).unwrap()[..43].to_owned()
}

#[tokio::test]
async fn a_page_is_served_where_the_links_of_its_user_lead() {
    let keys = [key("ann", 1, None), key("bob", 2, Some(OTHER)), key("eve", 3, Some("gone.example.com"))];
    let service = offering(&settings(), &keys);
    for (secret, host, expected) in [(1, HOST, 200), (1, OTHER, 404), (2, OTHER, 200), (2, HOST, 404), (3, HOST, 200)] {
        for base in ["", "team"] {
            assert_eq!(Sent::bridge(secret, host, base).status(&service).await, Some(expected), "{secret} {host}");
        }
    }
    assert_eq!(Sent::bridge(9, HOST, "").status(&service).await, None, "no key of ours");
}

#[tokio::test]
async fn nothing_authentic_reaches_what_is_behind_the_site_whatever_it_is_worth() {
    let (ann, bob) = (key("ann", 1, None), key("bob", 2, None));
    let service = offering(&settings(), &[Arc::clone(&ann), bob]);
    let bridge = Sent::bridge(1, HOST, "team");
    let bootstrap = page(&service, &bridge).await;
    let (_, _, session) = Sent::create("/team/", &bootstrap).to(&service).await.unwrap();
    let session = session.expect("a session");
    let poll = Sent::call("DELETE", "/team/", "session", &session);
    for barred in [&bridge, &Sent::create("/team/", &bootstrap), &poll] {
        assert_eq!(Sent { barred: true, ..barred.clone() }.status(&service).await, Some(404), "a barred address");
        assert_eq!(Sent { peer: None, ..barred.clone() }.status(&service).await, Some(404), "no address");
    }
    ann.member().set_policy(Policy { enabled: false, ..Policy::default() });
    let again = page(&service, &Sent::bridge(2, HOST, "")).await;
    assert_eq!(bridge.status(&service).await, Some(404), "a disabled user");
    assert_eq!(Sent::create("/team/", &bootstrap).status(&service).await, Some(404), "a page of a disabled user");
    // Removed, and another path.
    let moved = Settings { base: "elsewhere".parse().unwrap(), ..settings() };
    service.offer(Some(&moved), &[key("bob", 2, None)]).file();
    assert_eq!(bridge.status(&service).await, Some(404), "a removed user");
    assert_eq!(Sent::bridge(2, HOST, "team").status(&service).await, Some(404), "a path of before");
    assert_eq!(Sent::bridge(2, HOST, "elsewhere").status(&service).await, Some(200));
    // Nothing is offered any more.
    service.offer(None, &[]).file();
    for asked in [&bridge, &Sent::bridge(2, HOST, ""), &Sent::create("/", &again), &poll] {
        assert_eq!(asked.status(&service).await, Some(404), "{}", asked.target);
    }
    assert_eq!(Sent::get("/".into()).status(&service).await, None);
}

#[tokio::test]
async fn a_page_begins_its_session_with_the_carrier_that_it_knows_whatever_has_changed() {
    let keys = [key("ann", 1, None)];
    let service = offering(&settings(), &keys);
    let (bootstrap, lost) =
        (page(&service, &Sent::bridge(1, HOST, "team")).await, page(&service, &Sent::bridge(1, HOST, "team")).await);
    let (_, _, session) = Sent::create("/team/", &bootstrap).to(&service).await.unwrap();
    // Another carrier, another path, another host in the first place, and enrolled again.
    let hosts = [OTHER, HOST].map(|host| host.parse().unwrap()).into();
    let changed = Settings { mode: Mode::WebsocketLanes, hosts, base: "new".parse().unwrap(), ..settings() };
    service.offer(Some(&changed), &[key("ann", 1, Some(HOST))]).file();
    let same = Sent::create("/team/", &bootstrap).to(&service).await.unwrap();
    assert_eq!((same.0, &same.2), (200, &session), "the session goes on where it was begun");
    assert_eq!(Sent::create("/new/", &bootstrap).status(&service).await, Some(404), "and nowhere else");
    let (status, _, session) = Sent::create("/team/", &lost).to(&service).await.unwrap();
    assert_eq!(status, 200);
    let live = service.registry().session(&read(&session.unwrap())).unwrap();
    assert_eq!(live.ask(|session| session.mode()), Mode::Https, "the page was made for it");
}

fn read(token: &str) -> Token {
    let bytes = crate::webproxy::capability::read_text(token.as_bytes()).unwrap();
    TokenKey::new(&[5; 32]).recognise(&bytes).unwrap().1
}

#[tokio::test]
async fn pages_are_kept_nowhere_and_lock_no_one_out() {
    let keys = [key("ann", 1, None)];
    let service = offering(&settings(), &keys);
    let bridge = Sent::bridge(1, HOST, "");
    let first = page(&service, &bridge).await;
    for _ in 0..300 {
        page(&service, &bridge).await;
    }
    assert_eq!(Sent::create("/", &first).status(&service).await, Some(200), "others may ask for pages");
    // Another process with the same key of tokens knows the page too, and its holder.
    let later = page(&service, &bridge).await;
    let successor = offering(&settings(), &keys);
    assert_eq!(Sent::create("/", &later).status(&successor).await, Some(200));
    // Sessions that a stranger with the address begins give way.
    for _ in 0..300 {
        let stranger = page(&service, &bridge).await;
        assert_eq!(Sent::create("/", &stranger).status(&service).await, Some(200));
    }
    assert_eq!(Sent::create("/", &page(&service, &bridge).await).status(&service).await, Some(200));
}

#[test]
fn nothing_secret_is_in_debug() {
    let debug = format!("{:?}", settings());
    assert!(debug.contains("TokenSeed(hidden)"), "{debug}");
}

/// Begins a session of this key.
async fn begin(service: &Arc<WebProxy>, secret: u8) {
    let page = page(service, &Sent::bridge(secret, HOST, "")).await;
    assert_eq!(Sent::create("/", &page).status(service).await, Some(200));
}

#[tokio::test]
async fn sessions_end_that_are_not_used_or_whose_holder_has_to_go() {
    let service = offering(&settings(), &[key("ann", 1, None), key("bob", 2, None)]);
    let now = Instant::now();
    begin(&service, 1).await;
    begin(&service, 2).await;
    let all = service.registry().all();
    service.sweep(now + registry::GRACE / 2, |_, _| true);
    assert_eq!(service.sessions(), 2);
    service.sweep(now, |_, key| key.member().name() != "bob");
    assert_eq!(service.sessions(), 1);
    service.sweep(Instant::now() + registry::GRACE, |_, _| true);
    assert_eq!(service.sessions(), 0);
    for live in all {
        let why = if live.key().member().name() == "bob" { End::Revoked } else { End::Idle };
        assert_eq!(live.is_over(None), Some(why));
    }
}

#[tokio::test]
async fn requests_do_not_wait_for_the_sweep_of_all_sessions() {
    let service = offering(&settings(), &[key("ann", 1, None)]);
    begin(&service, 1).await;
    let sweeper = Arc::clone(&service);
    // While it goes on sessions can be found.
    let sweep = move || sweeper.sweep(Instant::now(), |_, _| sweeper.sessions() == 1);
    let (done, swept) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sweep();
        let _ = done.send(());
    });
    swept.recv_timeout(std::time::Duration::from_secs(20)).expect("the sweep keeps all sessions from everyone");
    assert_eq!(service.sessions(), 1);
}

#[test]
fn memory_follows_the_machine() {
    assert_eq!([None, Some(8 << 30), Some(1 << 20)].map(memory), [512 << 20, 2 << 30, 16 << 20]);
}
