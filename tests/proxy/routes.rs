//! Every way to Telegram and to the cover, over real proxies.

mod world;

use std::net::SocketAddr;
use std::process::Command;

use crate::support::browser::curl;
use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, Session};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role, refusing, synthetic};
use crate::support::nginx::Nginx;
use crate::support::origin::{NAME, Origin, PAGE};
use crate::support::stage::{Kind, Stage};
use crate::support::vizard::Setup;
use crate::support::{KEY, OTHER_KEY, take_all};
use data_encoding::HEXLOWER;
use world::{Gate, Names, PASSWORD, Program, USER};

const MB: usize = 1 << 20;

/// The key of the proxy that is the next hop.
const NEXT_KEY: crate::support::hello::Key = [0x1d; 16];

/// No connections that stand ready: they would be counted too.
const COLD: &str = "telegram.warm = 0\n";

/// A proxy with the built-in site, these sections of a configuration file, and these data centres.
async fn proxy(sections: &str, centres: &[(i16, SocketAddr)]) -> Stage {
    let origin = Origin::make();
    let file = origin.path().join("vizard.toml");
    let arrange = |setup: Setup| {
        let site = std::fs::read_to_string(&file).expect("the configuration of the site");
        std::fs::write(&file, format!("{COLD}{site}\n{sections}")).expect("writes the configuration");
        let setup = setup.usual(&KEY).user("bob", &OTHER_KEY);
        centres.iter().fold(setup, |setup, (number, address)| setup.dc(*number, *address))
    };
    Stage::with(Kind::Site, origin, arrange).await.expect("the built-in site is always there")
}

fn login() -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen())
}

async fn enter(stage: &Stage, login: Login) -> Session {
    login.enter(stage.proxy.addr).await.expect("the user may enter")
}

/// What a session to data centre 2 does, however it gets there: small packets and large come back, bulk arrives whole.
async fn works(stage: &Stage, what: &str) {
    let mut session = enter(stage, login()).await;
    let mut dice = Dice::new(1);
    for size in [40, 4, 12, 16, 300, 2878, 16_401, 100_000, 1] {
        let mut packet = dice.bytes(size);
        packet[0] |= 1;
        session.echo(&packet).await.unwrap_or_else(|end| panic!("{what}: {end:?} at {size} bytes"));
    }
    session.up.finish().await.expect("the proxy is there");
    assert_eq!(session.down.end().await, End::Fin, "{what}");

    let mut session = enter(stage, login().dc(4)).await;
    session.up.packet(b"go on").await.expect("the proxy is there");
    assert_eq!(take_all(&mut session).await, (synthetic(50, 8 * MB), End::Fin), "{what}");
}

/// Whether a session gets an answer; one that does not must end as every session ends.
async fn is_served(stage: &Stage, login: Login) -> bool {
    let mut session = enter(stage, login).await;
    let sent = session.up.packet(&[9; 40]).await;
    match session.down.frame().await {
        Ok(_) => true,
        Err(end) => {
            assert!(sent.is_ok() && end == End::Fin, "{end:?}");
            false
        }
    }
}

struct Centres {
    echo: MockDc,
    pour: MockDc,
}

impl Centres {
    async fn start() -> Self {
        Self { echo: MockDc::start(Role::Echo).await, pour: MockDc::start(Role::Pour(50, 8 * MB)).await }
    }

    fn list(&self) -> [(i16, SocketAddr); 2] {
        [(2, self.echo.addr), (4, self.pour.addr)]
    }
}

fn route(name: &str, kind: &str, rest: &str) -> String {
    format!("[[routes]]\nname = \"{name}\"\nkind = \"{kind}\"\n{rest}\n")
}

fn at(address: SocketAddr) -> String {
    format!("address = \"{address}\"")
}

/// A link to a proxy, disguised or with a padded secret.
fn link(address: SocketAddr, disguised: bool) -> String {
    let key = HEXLOWER.encode(&NEXT_KEY);
    let secret = if disguised { format!("ee{key}{}", HEXLOWER.encode(NAME.as_bytes())) } else { format!("dd{key}") };
    format!("link = \"tg://proxy?server={}&port={}&secret={secret}\"", address.ip(), address.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_take_every_kind_of_route_and_no_other_way() {
    let password = format!("user = \"{USER}\"\npassword = \"{PASSWORD}\"");
    let basic = format!("user = \"{USER}\"\npassword = \"{}\"", PASSWORD.replace(' ', ""));
    for (what, program, kind, more) in [
        ("microsocks", Program::microsocks(false).await, "socks5", ""),
        ("microsocks with a password", Program::microsocks(true).await, "socks5", &*password),
        ("dante", Program::dante().await, "socks5", ""),
        ("dante with SOCKS4", Program::dante().await, "socks4a", ""),
        ("tinyproxy", Program::tinyproxy(false).await, "http", ""),
        ("tinyproxy with a password", Program::tinyproxy(true).await, "http", &basic),
    ] {
        let Some(program) = program else { continue };
        let centres = Centres::start().await;
        let gate = Gate::to(program.addr).await;
        let routes = route("way", kind, &format!("{}\n{more}", at(gate.addr)));
        let stage = proxy(&routes, &centres.list()).await;
        works(&stage, what).await;
        assert_eq!((gate.came(), centres.echo.seen().len(), centres.pour.seen().len()), (2, 1, 1), "{what}");
        drop(program);
        assert!(!is_served(&stage, login()).await, "{what}: there is another way");
        assert_eq!(centres.echo.seen().len(), 1, "{what}");
    }
}

#[cfg(feature = "shadowsocks")]
#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_through_shadowsocks() {
    for method in ["aes-256-gcm", "chacha20-ietf-poly1305"] {
        let Some(program) = Program::shadowsocks(method).await else { return };
        let centres = Centres::start().await;
        let gate = Gate::to(program.addr).await;
        let more = format!("{}\nmethod = \"{method}\"\npassword = \"{PASSWORD}\"", at(gate.addr));
        let stage = proxy(&route("way", "shadowsocks", &more), &centres.list()).await;
        works(&stage, method).await;
        assert_eq!((gate.came(), centres.echo.seen().len(), centres.pour.seen().len()), (2, 1, 1), "{method}");
        drop(program);
        assert!(!is_served(&stage, login()).await, "{method}: there is another way");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_route_leaves_as_it_is_told() {
    let centres = Centres::start().await;
    let fine = route("way", "direct", "source = \"127.0.0.9\"\ninterface = \"lo\"");
    works(&proxy(&fine, &centres.list()).await, "loopback").await;
    let stage = proxy(&route("way", "direct", "interface = \"no-such-one\""), &centres.list()).await;
    assert!(!is_served(&stage, login()).await);
    stage.proxy.logged("way: the interface cannot be used").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_through_another_vizard() {
    let centres = Centres::start().await;
    let setup = |setup: Setup| {
        let setup = setup.domain(NAME).user("home", &NEXT_KEY);
        centres.list().into_iter().fold(setup, |setup, (number, address)| setup.dc(number, address))
    };
    let abroad = Stage::with(Kind::Site, Origin::make(), setup).await.unwrap();
    let gate = Gate::to(abroad.proxy.addr).await;
    let stage = proxy(&route("abroad", "mtproto", &link(gate.addr, true)), &[]).await;
    works(&stage, "a next hop").await;
    let seen = centres.echo.seen();
    assert_eq!((gate.came(), seen.len(), seen[0].dc), (2, 1, 2));
    // Media and what no data centre has are the business of the next hop.
    assert!(is_served(&stage, login().dc(-2)).await);
    assert_eq!(centres.echo.seen()[1].dc, -2);
    drop(abroad);
    assert!(!is_served(&stage, login()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_through_a_proxy_without_disguise() {
    let (echo, pour) =
        (MockDc::behind(Role::Echo, NEXT_KEY).await, MockDc::behind(Role::Pour(50, 8 * MB), NEXT_KEY).await);
    let of = |number, addr| {
        route(&format!("to{number}"), "mtproto", &format!("{}\ndata_centres = [{number}]", link(addr, false)))
    };
    let stage = proxy(&(of(2, echo.addr) + &of(4, pour.addr)), &[]).await;
    works(&stage, "a padded secret").await;
    assert_eq!((echo.seen()[0].dc, pour.seen()[0].dc), (2, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_hop_that_does_not_know_the_secret_is_named_in_the_log() {
    let stranger = proxy("", &[]).await;
    let stage = proxy(&route("abroad", "mtproto", &link(stranger.proxy.addr, true)), &[]).await;
    assert!(!is_served(&stage, login()).await);
    let line = stage.proxy.logged("abroad: it answers as to a visitor").await;
    assert!(!line.contains(&HEXLOWER.encode(&NEXT_KEY)), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_and_never_told() {
    let Some(program) = Program::microsocks(true).await else { return };
    let wrong = format!("{}\nuser = \"{USER}\"\npassword = \"battery staple\"", at(program.addr));
    let stage = proxy(&route("way", "socks5", &wrong), &Centres::start().await.list()).await;
    assert!(!is_served(&stage, login()).await);
    stage.proxy.logged("way: the proxy does not take this user and password").await;
    assert!(!stage.proxy.log().concat().contains("battery"));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_route_fails_the_next_one_takes_over_and_nobody_is_cut_off() {
    let Some(program) = Program::microsocks(false).await else { return };
    let (mut first, second) = (Gate::to(program.addr).await, Gate::to(program.addr).await);
    let centres = Centres::start().await;
    let routes = route("first", "socks5", &at(first.addr)) + &route("second", "socks5", &at(second.addr));
    let stage = proxy(&routes, &centres.list()).await;
    let mut before = enter(&stage, login()).await;
    before.echo(b"over the first").await.unwrap();
    assert_eq!((first.came(), second.came()), (1, 0));
    first.shut().await;
    let mut after = enter(&stage, login()).await;
    after.echo(b"over the second").await.unwrap();
    assert_eq!((first.came(), second.came()), (1, 1));
    before.echo(b"still over the first").await.unwrap();
    for expected in 2..5 {
        assert!(is_served(&stage, login()).await);
        assert_eq!(second.came(), expected);
    }
    before.echo(b"and still").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_for_their_data_centres_and_users() {
    let Some(program) = Program::microsocks(false).await else { return };
    let centres = Centres::start().await;
    let (four, bobs, rest) = (Gate::to(program.addr).await, Gate::to(program.addr).await, Gate::to(program.addr).await);
    let routes = route("four", "socks5", &format!("{}\ndata_centres = [4]", at(four.addr)))
        + &route("bobs", "socks5", &format!("{}\nusers = [\"bob\"]", at(bobs.addr)))
        + &route("rest", "socks5", &at(rest.addr));
    let stage = proxy(&routes, &centres.list()).await;
    let bob = || Login::of(capture("tdlib-1.8.69-1"), OTHER_KEY, &mut Dice::unseen());
    let came = || [four.came(), bobs.came(), rest.came()];
    for (login, expected) in [
        (login(), [0, 0, 1]),
        (login().dc(4), [1, 0, 1]),
        (login().dc(-4), [2, 0, 1]),
        (bob(), [2, 1, 1]),
        (bob().dc(4), [3, 1, 1]),
    ] {
        assert!(is_served(&stage, login).await);
        assert_eq!(came(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_asked_for_ipv6_too() {
    let echo = MockDc::start(Role::Echo).await;
    let Some(six) = Gate::at("[::1]:0", echo.addr).await else { return };
    for kind in ["socks5", "http"] {
        let program = if kind == "http" { Program::tinyproxy(false).await } else { Program::dante().await };
        let Some(program) = program else { return };
        let stage = proxy(&route("way", kind, &at(program.addr)), &[(2, six.addr)]).await;
        assert!(is_served(&stage, login()).await, "{kind}");
    }
    assert_eq!(six.came(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_routes_of_sessions_to_come() {
    let Some(program) = Program::microsocks(false).await else { return };
    let centres = Centres::start().await;
    let gate = Gate::to(program.addr).await;
    let stage = proxy(&route("way", "socks5", &at(refusing().await)), &centres.list()).await;
    assert!(!is_served(&stage, login()).await);
    let file = stage.origin.path().join("vizard.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let site = text.split("[[routes]]").next().unwrap();
    std::fs::write(&file, format!("{site}{}", route("way", "socks5", &at(gate.addr)))).unwrap();
    stage.proxy.hangup();
    stage.proxy.logged("the configuration was reloaded").await;
    assert!(is_served(&stage, login()).await);
    assert_eq!(gate.came(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cover_is_visited_over_its_route() {
    for (program, kind) in [(Program::dante().await, "socks5"), (Program::tinyproxy(false).await, "http")] {
        let Some(program) = program else { return };
        let gate = Gate::to(program.addr).await;
        let origin = Origin::make();
        let file = origin.path().join("routes.toml");
        let arrange = |setup: Setup| {
            let routes = route("way", kind, &at(gate.addr));
            let text = format!("{COLD}telegram.routes = [\"way\"]\ncover.route = \"way\"\n{routes}");
            std::fs::write(&file, text).expect("writes the configuration");
            setup.usual(&KEY).arg("--config", file.display())
        };
        let Some(stage) = Stage::with(Kind::Nginx, origin, arrange).await else { return };
        let before = gate.came();
        assert!(before > 0, "the proxy has looked at its cover");
        let Some(page) = curl(&stage.origin, stage.proxy.addr, "/", &[]).await else { return };
        assert_eq!(page, PAGE);
        assert!(gate.came() > before);
    }
}

/// The name is known to no one else, so the cover is found with this answer or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn the_covers_name_is_asked_for_over_https_and_over_a_route() {
    let (Some(program), names) = (Program::microsocks(false).await, Names::start().await) else { return };
    let gate = Gate::to(program.addr).await;
    let origin = Origin::make();
    let file = origin.path().join("names.toml");
    std::fs::write(origin.path().join("names.pem"), &names.certificate).unwrap();
    let Some(nginx) = Nginx::start(&origin, refusing().await).await else { return };
    let state = tempfile::tempdir().unwrap();
    let text = format!(
        "cover.address = \"{NAME}:{}\"\ncover.private_addresses = true\ntelegram.routes = [\"way\"]\n{}\
         [dns]\nhttps = \"https://{}/dns-query\"\nroute = \"way\"\nca_file = \"names.pem\"\n",
        nginx.addr.port(),
        route("way", "socks5", &at(gate.addr)),
        names.addr
    );
    std::fs::write(&file, text).unwrap();
    let setup = Setup::bare(state.path()).usual(&KEY).arg("--config", file.display());
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    assert!(gate.came() > 0);
    let Some(page) = curl(&origin, proxy.addr, "/", &[]).await else { return };
    assert_eq!(page, PAGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_fails_is_seen_by_those_who_look() {
    let Some(program) = Program::microsocks(false).await else { return };
    let centres = Centres::start().await;
    let routes = route("gone", "socks5", &at(refusing().await)) + &route("well", "socks5", &at(program.addr));
    let stage = proxy(&format!("{routes}[admin]\n"), &centres.list()).await;
    assert!(is_served(&stage, login()).await);
    let said = status(&stage).await;
    for line in ["gone (socks5), DOWN, reached 0 times, 1 failures", "well (socks5), up, reached 1 times, 0 failures"] {
        assert!(said.contains(line), "{said}");
    }
}

async fn status(stage: &Stage) -> String {
    let socket = format!("unix:{}", stage.state.path().join("admin").display());
    let ask = move || Command::new(env!("CARGO_BIN_EXE_vizard")).args(["status", "--admin", &socket]).output();
    let output = tokio::task::spawn_blocking(ask).await.expect("no panic").expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
