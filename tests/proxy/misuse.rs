//! Who is above a limit or on a list is a visitor, and cannot find out that it is anything else; and what an operator
//! hears of misuse.

use std::path::Path;
use std::time::Duration;

use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, PATIENCE, Refused};
use crate::support::hello::{self, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::Origin;
use crate::support::probe::{Probe, compare_once};
use crate::support::stage::{BOTH, Kind, Stage};
use crate::support::vizard::Setup;
use crate::support::{KEY, corpus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A stage whose proxy has these sections in its configuration, a data centre that echoes, and one user.
async fn stage(kind: Kind, dc: &MockDc, sections: &str) -> Option<Stage> {
    let origin = Origin::make();
    let file = origin.path().join("vizard.toml");
    let arrange = |setup: Setup| {
        let setup = setup.usual(&KEY).dc(2, dc.addr);
        let known = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(&file, format!("{known}{sections}")).expect("writes the configuration");
        if kind == Kind::Site { setup } else { setup.arg("--config", file.display()) }
    };
    Stage::with(kind, origin, arrange).await
}

fn login(dice: u64) -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::new(dice ^ u64::from(hello::now())))
}

/// Some of the probes that know the secret, and some that do not.
fn probes() -> Vec<Probe> {
    let all = corpus::all();
    let some = |word: &str| -> Vec<String> {
        all.iter().map(|probe| probe.name.clone()).filter(|name| name.contains(word)).step_by(5).take(12).collect()
    };
    let names = [some("by Us"), some("tdlib"), some("by Nobody")].concat();
    assert!(names.len() > 20, "the corpus has lost its names: {names:?}");
    all.into_iter().filter(|probe| names.contains(&probe.name)).collect()
}

/// Whether the cover itself has answered: one that sends several records says too much for a client.
fn is_a_visit<T>(answered: &Result<T, Refused>) -> bool {
    matches!(answered, Err(Refused::Digest | Refused::TooMuch))
}

/// The cover itself answers a client that knows the secret, and all probes see the cover.
async fn expect_visitors(stage: &Stage, what: &str) {
    let answered = login(1).enter(stage.proxy.addr).await;
    assert!(is_a_visit(&answered), "{what}: {:?}", answered.err());
    compare_once(probes(), stage.lineup(Duration::from_secs(6))).await.expect_none();
    assert!(is_a_visit(&login(2).enter(stage.proxy.addr).await), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_address_sees_the_cover_and_nothing_else() {
    let lists = tempfile::tempdir().unwrap();
    let list = lists.path().join("deny.netset");
    std::fs::write(&list, "# everybody here\n127.0.0.0/8\n").unwrap();
    let dc = MockDc::start(Role::Echo).await;
    for kind in BOTH {
        let sections = format!("[log]\nlevel = \"debug\"\n[lists]\ndeny = [\"{}\"]\n", list.display());
        let Some(stage) = stage(kind, &dc, &sections).await else { continue };
        expect_visitors(&stage, "denied").await;
        stage.proxy.logged("rejected by a limit or a list").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_too_many_connections_sees_the_cover() {
    let dc = MockDc::start(Role::Echo).await;
    for (kind, key) in [(Kind::Site, "address_connections"), (Kind::Nginx, "network_connections")] {
        let Some(stage) = stage(kind, &dc, &format!("[limits]\n{key} = 1\n")).await else { continue };
        let first = login(9).enter(stage.proxy.addr).await;
        let mut first = first.unwrap_or_else(|why| panic!("{key}: {why:?}"));
        first.echo(&[7; 40]).await.unwrap();
        expect_visitors(&stage, key).await;
        first.echo(&[7; 40]).await.unwrap();
        drop(first);
        // The places of those who have gone are free, sooner or later.
        let again = async { while login(rand::random()).enter(stage.proxy.addr).await.is_err() {} };
        tokio::time::timeout(PATIENCE, again).await.expect("a place is given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_too_fast_sees_the_cover() {
    let dc = MockDc::start(Role::Echo).await;
    for (kind, key) in [(Kind::Site, "address_rate"), (Kind::Nginx, "network_rate"), (Kind::Site, "rate")] {
        let Some(stage) = stage(kind, &dc, &format!("[limits]\n{key} = 1\n")).await else { continue };
        login(9).enter(stage.proxy.addr).await.unwrap_or_else(|why| panic!("{key}: {why:?}"));
        let addr = stage.proxy.addr;
        // However slow the machine is, a turn that comes free meanwhile is one of the crowd's.
        let crowd = tokio::spawn(async move {
            loop {
                let _ = TcpStream::connect(addr).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        for _ in 0..120 {
            TcpStream::connect(addr).await.unwrap();
        }
        // One turn a second is free, and one of several clients may come just then.
        let mut answered = Vec::new();
        for n in 1..=3 {
            answered.push(login(n).enter(addr).await.map(drop));
        }
        crowd.abort();
        assert!(answered.iter().any(is_a_visit), "{key}: {answered:?}");
        compare_once(probes(), stage.lineup(Duration::from_secs(6))).await.expect_none();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_clients_get_in() {
    let dc = MockDc::start(Role::Echo).await;
    let stage = stage(Kind::Site, &dc, "[limits]\naddress_rate = 40\nexcess = \"delay\"\n").await.unwrap();
    let crowd: Vec<_> = (0..100).map(|_| TcpStream::connect(stage.proxy.addr)).collect();
    for client in crowd {
        client.await.unwrap();
    }
    login(1).enter(stage.proxy.addr).await.unwrap().echo(&[7; 40]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_limit_on_all_clients_wait_their_turn() {
    let dc = MockDc::start(Role::Echo).await;
    let stage = stage(Kind::Site, &dc, "[limits]\nconnections = 2\n").await.unwrap();
    let first = login(1).enter(stage.proxy.addr).await.unwrap();
    let mut second = login(2).enter(stage.proxy.addr).await.unwrap();
    let address = stage.proxy.addr;
    let third = tokio::spawn(async move { login(3).enter(address).await.unwrap().echo(&[7; 40]).await });
    second.echo(&[7; 40]).await.unwrap();
    assert!(!third.is_finished(), "it waits in the queue");
    drop(first);
    tokio::time::timeout(PATIENCE, third).await.expect("its turn comes").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_hellos_keeps_nobody_of_the_same_address_out() {
    let _turn = crate::support::turn().await;
    let dc = MockDc::start(Role::Echo).await;
    let stage = stage(Kind::Site, &dc, "").await.unwrap();
    let mut bad = login(5).wire;
    bad[20] ^= 1;
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (address, bad) = (stage.proxy.addr, bad.clone());
        flood.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&bad).await.unwrap();
            stream
        });
    }
    for dice in 0..20 {
        login(dice).enter(stage.proxy.addr).await.unwrap().echo(&[7; 40]).await.unwrap();
    }
    assert_eq!(flood.join_all().await.len(), 1000);
}

/// Answers every request with this list.
async fn list_server(list: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/firehol.netset", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", list.len());
            let _ = stream.write_all(&[head.as_bytes(), list.as_bytes()].concat()).await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_from_the_web_holds_once_it_was_fetched_and_after_a_restart_without_a_network() {
    let url = list_server("# firehol_test\n#\n127.0.0.0/8\n").await;
    let dc = MockDc::start(Role::Echo).await;
    let mut stage = stage(Kind::Site, &dc, &format!("[lists]\ndeny = [\"{url}\"]\n")).await.unwrap();
    stage.proxy.logged("a list was fetched").await;
    assert!(matches!(login(1).enter(stage.proxy.addr).await, Err(Refused::Digest)));
    // No one answers there any more.
    let file = stage.origin.path().join("vizard.toml");
    let gone = std::fs::read_to_string(&file).unwrap();
    let kept = std::fs::read_dir(stage.state.path().join("lists")).unwrap().count();
    assert_eq!((kept, gone.contains(&url)), (1, true));
    let setup = stage.setup.clone();
    stage.proxy.kill();
    stage.proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    assert!(matches!(login(2).enter(stage.proxy.addr).await, Err(Refused::Digest)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_an_address_that_is_denied_later_end() {
    let lists = tempfile::tempdir().unwrap();
    let list = lists.path().join("deny");
    std::fs::write(&list, "192.0.2.1\n").unwrap();
    let dc = MockDc::start(Role::Echo).await;
    let stage = stage(Kind::Site, &dc, &format!("[lists]\ndeny = [\"{}\"]\n", list.display())).await.unwrap();
    let mut session = login(1).enter(stage.proxy.addr).await.unwrap();
    session.echo(&[7; 40]).await.unwrap();
    std::fs::write(&list, "192.0.2.1\n127.0.0.0/8\n").unwrap();
    stage.proxy.logged("the configuration was reloaded").await;
    assert_eq!(tokio::time::timeout(PATIENCE, session.down.end()).await, Ok(End::Fin));
    assert_eq!(session.down.sizes.last(), Some(&19), "a close alert comes last");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_of_users_and_a_webhook_of_replays() {
    let hook = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", hook.local_addr().unwrap());
    let dc = MockDc::start(Role::Echo).await;
    let sections = format!("[alarms]\nwebhook = \"{url}\"\nreplays = 2\n[audit_log]\nfile = \"audit.log\"\n");
    let stage = stage(Kind::Site, &dc, &sections).await.unwrap();
    let recorded = login(1);
    recorded.enter(stage.proxy.addr).await.unwrap().echo(&[7; 40]).await.unwrap();
    for _ in 0..3 {
        assert!(recorded.enter(stage.proxy.addr).await.is_err());
    }
    let posted = async {
        // The first time no one answers.
        drop(hook.accept().await.unwrap());
        let (mut stream, _) = hook.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8(request).unwrap()
    };
    let request = tokio::time::timeout(PATIENCE, posted).await.expect("the alarm is posted");
    assert!(request.contains("\"alarm\":\"replays\"") && request.contains("alice"), "{request}");
    assert!(!request.contains("127.0.0.1\""), "no address but that of the host itself: {request}");

    let log = stage.origin.path().join("audit.log");
    let Stage { proxy, origin, .. } = stage;
    tokio::task::spawn_blocking(move || proxy.terminate()).await.unwrap();
    let words = events(&log);
    // The first at once, and the others together with their number.
    assert_eq!(words, ["admitted alice ", "declined alice replay", "declined alice replay"]);
    assert!(std::fs::read_to_string(&log).unwrap().ends_with("\"count\":2}\n"));
    drop(origin);
}

fn events(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).expect("an audit log");
    assert!(!text.contains("127.0.0.1"), "{text}");
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        ["event", "user", "reason"].map(|key| line[key].as_str().unwrap_or_default().to_owned()).join(" ")
    };
    text.lines().map(line).collect()
}
