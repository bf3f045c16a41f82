//! From an admitted client to a session with its data centre.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::seq::IndexedRandom;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span, debug, field};

use super::Server;
use super::connection::{Rest, span_to_the_end};
use super::event::Event;
use super::sessions::{Entry, Live};
use super::understanding::AT_ONCE;
use crate::auth::{MiddleWay, Permit, Secret, UnixTime};
use crate::base::summary::{self, Cause};
use crate::cover::Cover;
use crate::cover::gate::Promotion;
use crate::cover::profile::{Ending, GreetingShape, IdleEnd, LEAST_IDLE, Profile};
use crate::crypto::Ctr;
use crate::crypto::kdf::KeyIv;
use crate::net::sockopt;
use crate::relay::downlink::Downlink;
use crate::relay::packets::{self, Packer, Unpacker};
use crate::relay::sizing::Pattern;
use crate::relay::stream::{self, LastRecords, Manner, Occasion, Session};
use crate::relay::unanswered::AnswerWatch;
use crate::relay::uplink::{BadRecord, Uplink};
use crate::relay::welcome::Welcome;
use crate::relay::writes::Writes;
use crate::relay::{Closed, End};
use crate::telegram::middle::{self, Caller};
use crate::telegram::routes::{By, Route};
use crate::telegram::{DcId, ReachError, Reached, Upstream};
use crate::wire::obfuscated::{self, HEADER};
use crate::wire::packets::Framing;
use crate::wire::record::CLOSE_NOTIFY;
use crate::wire::rpc::AdTag;

/// Connects the client to the data centre that its header names. What this returns moves their bytes until they are done.
pub(super) async fn session(
    server: Arc<Server>,
    cover: &Cover,
    client: TcpStream,
    peer: SocketAddr,
    promotion: Promotion,
) -> Option<Rest> {
    let Promotion { admission, permit, opened, leftover, record_left, answered, .. } = promotion;
    let dc = DcId::new(opened.dc);
    // Not before: a visitor's connection has no probes that the cover would not send.
    sockopt::keep_alive(&client);
    Span::current().record("user", admission.member().name()).record("dc", field::display(dc));

    let settings = server.settings();
    let profile = cover.profile();
    // Nothing is known where the cover could not be visited yet.
    let visit = profile.visit.as_ref().filter(|visit| visit.has_greetings());
    let http2 = admission.offers_http2();
    let delay =
        |learnt| profile.visit.as_ref().map_or(Duration::from_micros(learnt), |visit| visit.delay(learnt, answered));
    // Visitors of a cover elsewhere are shown its records in the writes of our relay.
    let writes = if cover.elsewhere().is_none() { Writes::by_record() } else { Writes::at_once() };
    let manner = Manner { writes, ..manner(&profile, http2, delay) };
    let idle = idle_limit(settings.idle, profile.rests.get(http2));
    let pattern = visit.map_or((&[][..], &[][..]), |visit| (&visit.bulk, &visit.bulk_stalled));
    let pattern = server.patterns.seen(pattern.0, pattern.1);
    let (class, fingerprint) = (admission.class(), admission.fingerprint());
    let (name, now) = (admission.member().name(), std::time::Instant::now());
    let fills = server.understanding.gets_fillers(&settings.fillers, class, name, fingerprint, now);
    let greetings = visit.filter(|_| fills).map_or(&[][..], |visit| visit.greetings(http2));
    let (down, mut welcome) = greet(opened.down, pattern, greetings.choose(&mut rand::rng()), delay);
    let greeted = welcome.is_some();
    if let Some(welcome) = welcome.as_mut().filter(|welcome| welcome.is_due(Instant::now()))
        && welcome.say(&client).await.is_err()
    {
        debug!("the client left right behind its header");
        return None;
    }

    let mut up = Uplink::in_clear(opened.up, record_left);
    let came_along = leftover.len();
    let first = match first_payload(&mut up, leftover) {
        Ok(first) => first,
        Err(BadRecord) => {
            let user = admission.member().name();
            summary::note(Cause::info("the client sent no data record").of(Some(user)), String::new);
            return Some(Box::pin(stream::goodbye(client, down, manner, welcome, Occasion::BadRecord)));
        }
    };
    if let Some(welcome) = welcome.as_mut().filter(|_| first.len() > record_left) {
        welcome.client_spoke(Instant::now());
    }
    let mut live = Live::inside(server.sessions.number(), &permit, (dc, class), peer.ip(), came_along);
    live.greeted = Some(fingerprint).filter(|_| greeted);
    let entry = server.sessions.enter(live);
    // What came along with the header is paid for before it is moved, as everything that follows.
    if timeout(idle, entry.live().meter.opened_with(came_along)).await != Ok(true) {
        return Some(Box::pin(stream::goodbye(client, down, manner, welcome, Occasion::Own)));
    }
    let watched = settings.end_unanswered.covers(admission.has_apples_shape(), dc);
    let mut entered = Entered { server, client, up, down, manner, welcome, first, entry, permit, idle, watched };
    // Links to middle proxies take plain routes, which must not be a way round others.
    let policy = entered.permit.member().policy();
    let way = policy.middle_way(settings.ad_tag, settings.middle_use, dc.is_for_media());
    match way.filter(|_| settings.telegram.routes.iter().all(Route::is_plain)) {
        None => entered.direct(dc).await,
        Some(MiddleWay { tag }) => {
            // Who has left meanwhile is noticed at the next step.
            let seat = tokio::select! {
                biased;
                seat = attach(&entered.server, dc, peer, tag) => seat,
                () = sockopt::peer_gone(&entered.client) => None,
                () = say(&mut entered.welcome, &entered.client) => None,
            };
            match seat {
                Some(port) => Some(entered.promoted(port)),
                None => entered.direct(dc).await,
            }
        }
    }
}

/// A client that is inside, with everything that its session needs but a far side.
struct Entered {
    server: Arc<Server>,
    client: TcpStream,
    up: Uplink,
    down: Downlink,
    manner: Manner,
    /// Rest of the stand-in for the cover's tickets that has not been sent.
    welcome: Option<Box<Welcome>>,
    /// Payload that the client sent along with its header, in clear.
    first: Vec<u8>,
    entry: Entry,
    permit: Permit,
    idle: Duration,
    /// Whether the client's silence behind an answer ends the session.
    watched: bool,
}

impl Entered {
    /// The watch over the session's answers, if it gets one.
    fn watch(&self) -> Option<AnswerWatch> {
        let live = self.entry.live();
        let budget = || self.server.silences.budget(live.member.name(), live.from, live.dc);
        self.watched.then(|| AnswerWatch::new(budget(), Instant::now()))
    }

    /// To the data centre itself.
    async fn direct(self, dc: DcId) -> Option<Rest> {
        let watch = self.watch();
        let Self { server, client, mut up, down, manner, mut welcome, first, entry, permit, idle, .. } = self;
        let opening = |proxy: Option<&Secret>| Opening::new(dc, proxy, &down, &first);
        let reached = tokio::select! {
            biased;
            reached = reach(&server, dc, permit.member().name(), opening) => reached.map_err(|()| Occasion::Own),
            () = sockopt::peer_gone(&client) => {
                debug!("the client has left while its data centre was dialled");
                Err(Occasion::Fin)
            }
            () = say(&mut welcome, &client) => Err(Occasion::Fin),
        };
        let (far, opening) = match reached {
            Ok(reached) => reached,
            Err(occasion) => return Some(Box::pin(stream::goodbye(client, down, manner, welcome, occasion))),
        };
        let Reached { stream, by, .. } = far;
        up.encrypt(opening.up);
        let down = match opening.down {
            Some(keys) => down.from_keys(keys),
            None => down,
        };
        debug!(address = stream.peer_addr().ok().map(field::display::<SocketAddr>), "session");
        let session = Session::new(client, stream, up, down, manner, Arc::clone(&entry.live().meter));
        let session = session.with_welcome(welcome).watched(watch);
        Some(Box::pin(relay(server, session, by, entry, permit, idle).instrument(span_to_the_end())))
    }

    /// Through a middle proxy.
    fn promoted(self, port: middle::Port) -> Rest {
        let watch = self.watch();
        let Self { server, client, up, down, manner, welcome, first, entry, permit, idle, .. } = self;
        debug!(address = %port.address(), "session through a middle proxy");
        let (up, down) = (Unpacker::new(up, FRAMING, &first), Packer::new(down, FRAMING));
        let session = packets::Session::new(client, up, down, manner, Arc::clone(&entry.live().meter), port);
        let session = session.with_welcome(welcome).watched(watch);
        let session = async move {
            let since = Instant::now();
            let closed = session.run(idle).await;
            over(&server, &entry, &permit, closed, since);
        };
        Box::pin(session.instrument(span_to_the_end()))
    }
}

/// Ends of this connection as the cover would make them. `delay` is the time of this connection for one that visits have
/// seen, in microseconds.
fn manner(profile: &Profile, http2: bool, delay: impl Fn(u64) -> Duration) -> Manner {
    let alert = profile.visit.as_ref().map_or(Some(CLOSE_NOTIFY), |visit| visit.close_alert);
    let alert = LastRecords::from(alert.as_slice());
    let endings = profile.visit.as_ref().and_then(|visit| visit.endings.get(http2));
    let rest = profile.rests.get(http2).filter(|rest| rest.after_ms.is_some());
    let records = |ending: &Ending| LastRecords::from(&ending.records[..]);
    Manner {
        writes: Writes::at_once(),
        farewell: rest.map_or(alert, |rest| records(&rest.ending)),
        on_fin: endings.map_or(alert, |endings| records(&endings.fin)),
        fin_resets: endings.is_some_and(|endings| endings.fin.reset),
        on_bad_record: endings.map_or(alert, |endings| records(&endings.bad_record)),
        delay: endings.map_or(Duration::ZERO, |seen| delay(seen.fin.delay_us.min(seen.bad_record.delay_us))),
        linger: rest.map_or(LINGER, |rest| Duration::from_millis(rest.linger_ms)),
        filler: rand::random,
    }
}

/// Silence after which a session ends: what the operator says, else what the cover bears. No session ends sooner than after
/// [`LEAST_IDLE`], for most of Telegram's apps say something within that time, and would otherwise connect again all day.
fn idle_limit(configured: Option<Duration>, rest: Option<&IdleEnd>) -> Duration {
    let of_cover = || rest.and_then(|rest| rest.after_ms).map(Duration::from_millis);
    configured.or_else(|| of_cover().map(|limit| limit.max(LEAST_IDLE))).unwrap_or(MOST_IDLE)
}

/// Time for which data behind the end is thrown away where it is not known yet what the cover does.
const LINGER: Duration = Duration::from_secs(30);

/// Silence after which a session ends where the cover bears any, or it is not known yet what it bears.
const MOST_IDLE: Duration = Duration::from_secs(30 * 60);

/// The downlink behind what a visitor of the cover would be greeted with, and that, said at the times of this connection.
fn greet(
    keys: KeyIv,
    pattern: Pattern,
    shape: Option<&GreetingShape>,
    delay: impl Fn(u64) -> Duration,
) -> (Downlink, Option<Box<Welcome>>) {
    let Some(shape) = shape else { return (Downlink::new(keys, pattern), None) };
    let (down, writes) = Downlink::behind_fillers(keys, pattern, &shape.writes, &shape.answer, rand::random);
    let answer = if writes.is_empty() && !shape.writes.is_empty() { Vec::new() } else { shape.answer.clone() };
    let due = Instant::now() + delay(shape.delay_us);
    let welcome = Welcome::new(writes, due, answer, delay(shape.answer_delay_us));
    (down, (!welcome.is_over()).then(|| Box::new(welcome)))
}

/// Says what is due while something else is waited for; done only when the client is gone.
async fn say(welcome: &mut Option<Box<Welcome>>, client: &TcpStream) {
    if let Some(welcome) = welcome
        && welcome.say(client).await.is_err()
    {
        return;
    }
    std::future::pending().await
}

/// The only one inside fake TLS.
const FRAMING: Framing = Framing::Padded;

/// A seat on a link to a middle proxy, or none: then the client goes the direct way, and the operator is told.
async fn attach(server: &Server, dc: DcId, peer: SocketAddr, tag: Option<AdTag>) -> Option<middle::Port> {
    let since = Instant::now();
    let client = server.middle.tells_addresses().then_some(peer);
    match server.middle.attach(dc, Caller { client, framing: FRAMING, tag }).await {
        Ok(port) => {
            server.observer.observe(&Event::MiddleAttached { dc, took: since.elapsed() });
            Some(port)
        }
        Err(why) => {
            server.observer.observe(&Event::MiddleFallback { dc });
            let cause = "no middle proxy: the session goes directly, without the promoted channel if it has one";
            summary::note(Cause::info(cause).because(why.label()), || why.to_string());
            None
        }
    }
}

/// The place inside and the one on the list are given back at the end.
#[expect(clippy::manual_async_fn, reason = "an async function has room for its arguments twice")]
fn relay(
    server: Arc<Server>,
    mut session: Session,
    by: By,
    entry: Entry,
    permit: Permit,
    idle: Duration,
) -> impl Future<Output = ()> + Send {
    async move {
        let since = Instant::now();
        let closed = session.run(idle, || server.upstream.broke(by)).await;
        note_understanding(&server, entry.live(), closed, since.elapsed());
        over(&server, &entry, &permit, closed, since);
        drop((entry, permit));
        Box::pin(session.settle()).await;
    }
}

/// Learns from the end of a session whether a client that was greeted with fillers understands them. One that only
/// looks how far away the proxy is ends at once, too, so no session counts while another goes on.
fn note_understanding(server: &Server, live: &Live, closed: Closed, lasted: Duration) {
    let Some(fingerprint) = live.greeted else { return };
    // A reset may come from anybody on the way, and before the first filler there is nothing to be misunderstood.
    let left = closed.by == End::Finished && closed.down > 0;
    let said_more = closed.up > live.opened_with;
    if said_more || left && lasted < AT_ONCE {
        let now = UnixTime::from(SystemTime::now());
        let goes_on = |other: &Arc<Live>| {
            let same = Arc::ptr_eq(&other.member, &live.member) && other.greeted == live.greeted;
            same && other.id != live.id && now.0 - other.since.0 > AT_ONCE.as_secs() as i64
        };
        let went_on = said_more || server.sessions.list().iter().any(goes_on);
        if server.understanding.note(live.member.name(), fingerprint, went_on, std::time::Instant::now()) {
            let cause = Cause::info("the client ends its sessions at the first filler, so it gets none any more");
            summary::note(cause.of(Some(live.member.name())), String::new);
        }
    }
}

pub(super) fn over(server: &Server, entry: &Entry, permit: &Permit, closed: Closed, since: Instant) {
    debug!(by = closed.by.label(), up = closed.up, down = closed.down, "session is over");
    let (member, dc) = (permit.member(), entry.live().dc);
    server.observer.observe(&Event::SessionOver { member, dc, closed, lasted: since.elapsed() });
}

/// Returns the payload that the client sent along with its header, in clear.
fn first_payload(up: &mut Uplink, mut leftover: Vec<u8>) -> Result<Vec<u8>, BadRecord> {
    let (payload, outcome) = up.transform(&mut leftover);
    outcome.map(|()| payload.to_vec())
}

/// Beginning of the stream to the far side.
pub(super) struct Opening {
    /// The header and what the client sent along with its own.
    bytes: Vec<u8>,
    /// The keystream of what follows.
    pub up: Ctr,
    /// The keys of what comes back, where the far side does not use the client's.
    pub down: Option<KeyIv>,
}

impl Opening {
    /// For a data centre, or for another proxy with this secret.
    fn new(dc: DcId, proxy: Option<&Secret>, down: &Downlink, payload: &[u8]) -> Self {
        Self::keyed((dc, FRAMING), proxy, down.dc_keys(), payload)
    }

    /// The same for a client of this framing with these keys.
    pub(super) fn keyed((dc, framing): (DcId, Framing), proxy: Option<&Secret>, down: &KeyIv, payload: &[u8]) -> Self {
        let (header, mut up, down) = match proxy {
            None => {
                let (header, up) = obfuscated::seal_for_dc(dc.number(), framing, down, rand::random);
                (header, up, None)
            }
            Some(secret) => {
                let (header, up, keys) = obfuscated::seal_for_proxy(dc.number(), framing, secret.bytes(), rand::random);
                (header, up, Some(keys))
            }
        };
        let mut bytes = [&header[..], payload].concat();
        up.apply(&mut bytes[HEADER..]);
        Self { bytes, up, down }
    }
}

/// Connects and sends the first bytes. Failures are for the operator: the client only sees a session that ends.
pub(super) async fn reach(
    server: &Server,
    dc: DcId,
    user: &str,
    opening: impl Fn(Option<&Secret>) -> Opening,
) -> Result<(Reached, Opening), ()> {
    let since = Instant::now();
    let failed = match open(&server.upstream, dc, user, opening).await {
        Ok((far, opening)) => {
            server.observer.observe(&Event::Dialled { dc, took: since.elapsed(), warm: far.warm });
            return Ok((far, opening));
        }
        Err(error) => error,
    };
    let unknown = matches!(failed, ReachError::Unknown);
    server.observer.observe(&Event::Undialled { dc, unknown });
    match failed {
        ReachError::Unknown => {
            let cause = Cause::info("the client asked for a data centre that does not exist").of(Some(user));
            summary::note(cause, || dc.to_string());
        }
        ReachError::Unreachable(error) => {
            let centre = dc.to_string();
            summary::note(Cause::warn("the data centre cannot be reached").because(&centre), || error.to_string());
        }
    }
    Err(())
}

/// A connection that took the first bytes. One that stood ready may be dead, which shows here at the latest.
async fn open(
    upstream: &Upstream,
    dc: DcId,
    user: &str,
    opening: impl Fn(Option<&Secret>) -> Opening,
) -> Result<(Reached, Opening), ReachError> {
    let mut far = upstream.connect(dc, user).await?;
    let mut first = opening(far.proxy.as_ref());
    let mut sent = far.stream.write_all(&first.bytes).await;
    if sent.is_err() && far.warm {
        far = upstream.connect_anew(dc, user).await?;
        first = opening(far.proxy.as_ref());
        sent = far.stream.write_all(&first.bytes).await;
    }
    sent.map(|()| (far, first)).map_err(ReachError::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::super::connection::tests::{server, socket};
    use super::*;
    use crate::auth::Member;
    use crate::cover::profile::{ByProtocol, Endings, VisitShape};
    use crate::crypto::kdf::KeyIv;
    use crate::relay::sizing::Pattern;
    use crate::relay::stream::testing::MANNER;
    use crate::telegram;

    #[test]
    fn a_session_rests_as_long_as_a_visitor_but_longer_than_an_app_is_silent() {
        let seconds = Duration::from_secs;
        let rest = |after: Option<u64>| IdleEnd { after_ms: after.map(|after| after * 1000), ..IdleEnd::default() };
        for (configured, of_cover, limit) in [
            (None, None, MOST_IDLE),
            (None, Some(None), MOST_IDLE),
            (None, Some(Some(75)), seconds(75)),
            (None, Some(Some(300)), seconds(300)),
            (None, Some(Some(5)), LEAST_IDLE),
            // TDLib pings after 60 seconds and a random part.
            (None, Some(Some(60)), seconds(75)),
            (Some(3), Some(Some(75)), seconds(3)),
            (Some(3600), None, seconds(3600)),
        ] {
            let rest = of_cover.map(rest);
            assert_eq!(idle_limit(configured.map(seconds), rest.as_ref()), limit, "{configured:?} {of_cover:?}");
        }
    }

    #[test]
    fn ends_are_those_of_the_protocol_that_the_hello_offers_and_of_this_connection() {
        let ending = |records: &[u16]| Ending { records: records.to_vec(), reset: false, delay_us: 100_000 };
        let endings = |alert: u16| Endings { fin: ending(&[]), bad_record: ending(&[alert]) };
        let rest = |records: &[u16]| IdleEnd { after_ms: Some(75_000), ending: ending(records), linger_ms: 0 };
        let mut profile = Profile::default();
        // Until something is known, as nearly all covers.
        let first = manner(&profile, true, Duration::from_micros);
        assert_eq!((first.farewell, first.on_fin, first.linger), ([19][..].into(), [19][..].into(), LINGER));
        let endings = ByProtocol { http2: Some(endings(19)), http1: Some(endings(26)) };
        profile.visit = Some(VisitShape { close_alert: Some(19), endings, ..VisitShape::default() });
        profile.rests = ByProtocol { http2: Some(rest(&[34, 19])), http1: Some(rest(&[19])) };
        for (http2, farewell, bad) in [(true, &[34, 19][..], 19), (false, &[19], 26)] {
            let manner = manner(&profile, http2, |learnt| Duration::from_micros(2 * learnt));
            assert_eq!((manner.farewell, manner.on_bad_record), (farewell.into(), [bad][..].into()));
            assert_eq!((manner.on_fin, manner.linger), (LastRecords::default(), Duration::ZERO));
            assert_eq!(manner.delay, Duration::from_millis(200));
        }
    }

    /// What docs/architecture.md says of the memory of sessions rests on this size.
    #[tokio::test]
    async fn a_session_is_small() {
        let keys = KeyIv { key: [1; 32], iv: [2; 16] };
        let up = Uplink::new(keys.stream(), keys.stream(), 0);
        let down = Downlink::new(keys, Pattern::default());
        let server = server();
        let from = [192, 0, 2, 2].into();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let overrides = [(DcId::new(2), vec![listener.local_addr().unwrap()])].into();
        let upstream = Upstream::new(telegram::Settings { overrides, ..telegram::Settings::default() });
        let by = upstream.connect(DcId::new(2), "somebody").await.unwrap().by;
        let permit = Member::new("somebody").admit(from, UnixTime(0)).unwrap();
        let entry = server.sessions.enter(Live {
            id: 1,
            member: Arc::clone(permit.member()),
            dc: DcId::new(2),
            class: crate::wire::HelloClass::Chrome,
            since: UnixTime(0),
            from,
            key: permit.key(),
            greeted: None,
            opened_with: 0,
            meter: Arc::default(),
        });
        let session = Session::new(socket().await, socket().await, up, down, MANNER, Arc::default());
        let idle = Duration::from_secs(1800);
        let size = size_of_val(&relay(Arc::clone(&server), session, by, entry, permit, idle));
        assert!(size <= 1024, "{size} bytes");
    }
}
