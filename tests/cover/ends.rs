//! Ends and silences: a session ends as a visit to the cover ends in the same run, whatever ends it.

use std::time::{Duration, Instant};

use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, PATIENCE, Session};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::nginx;
use crate::support::origin::Origin;
use crate::support::stage::{BOTH, Kind, Stage};
use crate::support::tap::{Resting, Visit, meets_reset};
use crate::support::{KEY, turn};
use serde_json::Value;

/// As every captured hello of a client offers them.
const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// What the log says when the cover's own habits are known.
const KNOWN: &str = "the cover was visited";

/// How much later than a visit a session may end on a busy machine.
const LATE: Duration = Duration::from_secs(2);

async fn visit(stage: &Stage) -> Resting {
    Visit::start(&stage.origin, stage.cover, &PROTOCOLS).await.at_rest().await
}

async fn enter(stage: &Stage) -> Session {
    let login = Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen());
    let mut session = login.enter(stage.proxy.addr).await.expect("the proxy admits");
    session.echo(&[7; 40]).await.expect("an answer");
    session.echo(&[8; 40]).await.expect("another");
    session
}

/// Sizes of the records from now on up to the end, and whether that was a FIN.
async fn end(session: &mut Session) -> (Vec<usize>, bool) {
    let known = session.down.sizes.len();
    let end = session.down.end().await;
    assert_ne!(end, End::Open, "no end");
    (session.down.sizes[known..].to_vec(), end == End::Fin)
}

/// The data centre echoes, and would keep its side open.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_ends_is_ended_as_a_visit_is() {
    let _turn = turn().await;
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        stage.proxy.logged(KNOWN).await;
        for bare_fin in [true, false] {
            let (mut visitor, mut session) = (visit(&stage).await, enter(&stage).await);
            let since = Instant::now();
            if bare_fin {
                visitor.fin().await;
            } else {
                visitor.bad_record().await;
            }
            let (seen, visit_took) = (visitor.end().await, since.elapsed());
            let since = Instant::now();
            if bare_fin {
                session.up.finish().await.expect("the proxy is there");
            } else {
                session.up.piece(&[23, 3, 4, 0, 40]).await.expect("the proxy is there");
            }
            let (ended, took) = (end(&mut session).await, since.elapsed());
            assert_eq!(ended, seen, "{kind:?}, FIN {bare_fin}");
            assert!(took < visit_took + LATE, "{kind:?}, FIN {bare_fin}: {took:?}, a visit {visit_took:?}");
        }
    }
}

/// The end of a session that rests, and what data behind that meets; an operator's own time decides when.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_rests_is_left_as_a_visitor_is() {
    let dc = MockDc::start(Role::Echo).await;
    let origin = Origin::make();
    let file = origin.path().join("sessions.toml");
    std::fs::write(&file, "[session]\nidle = \"2s\"\n").expect("writes the configuration");
    let arrange =
        |setup: crate::support::vizard::Setup| setup.arg("--config", file.display()).usual(&KEY).dc(2, dc.addr);
    let Some(stage) = Stage::with(Kind::Nginx, origin, arrange).await else { return };
    let mut visitor = visit(&stage).await;
    let since = Instant::now();
    let seen = visitor.end().await;
    assert!(since.elapsed() + Duration::from_secs(1) > nginx::TIMEOUT, "the cover ends it");
    let refused = visitor.meets_reset().await;
    let learnt = rests(&stage).await;
    let after = learnt["after_ms"].as_u64().map(Duration::from_millis).expect("a limit");
    assert!(after.abs_diff(nginx::TIMEOUT) < Duration::from_secs(1), "{learnt}");
    let mut session = enter(&stage).await;
    assert_eq!(end(&mut session).await, seen);
    assert_eq!(meets_reset(session.into_stream()).await, refused, "data behind the end");
}

/// What is known of visitors who rest, once it is.
async fn rests(stage: &Stage) -> Value {
    let since = Instant::now();
    loop {
        let file = std::fs::read(stage.state.path().join("cover-profile.json")).unwrap_or_default();
        let profile: Value = serde_json::from_slice(&file).unwrap_or_default();
        let rest = &profile["profile"]["rests"]["http2"];
        if !rest.is_null() {
            return rest.clone();
        }
        assert!(since.elapsed() < 4 * PATIENCE, "it is not learnt: {profile}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
