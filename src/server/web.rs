//! StreamSpawner of Telegram's WEB proxies: what comes out of a browser is carried on to a data centre here, as the sessions of
//! other clients are.
//!
//! ```text
//! stream ─▶ 64-byte header ─▶ under the key of its session? ─▶ never seen? ─▶ a place inside? ─▶ data centre
//!                                        │ no to any of these
//!                                        ▼ the stream is closed
//! ```

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, field};

use super::Server;
use super::event::Event;
use super::promote::{Opening, over, reach};
use super::sessions::{Entry, Live};
use super::streams::StreamPlace;
use crate::auth::{Key, Permit, Secret, replay};
use crate::base::summary::{self, Cause};
use crate::cover::site::extension::{Claim, SiteExtension, VisitorRequest};
use crate::crypto::Ctr;
use crate::relay::meter::Meter;
use crate::relay::tariff::Direction;
use crate::relay::{Closed, End, attempt};
use crate::telegram::{DcId, Reached};
use crate::webproxy::live::{StreamBackend, StreamHandle, WebStream};
use crate::webproxy::service::UnfiledKeys;
use crate::wire::HelloClass;
use crate::wire::obfuscated::{self, HEADER, Opened};

/// Time for a stream to show its header.
const HEADER_PATIENCE: Duration = Duration::from_secs(60);

/// Silence after which a stream ends where the operator says nothing of it: no connection of its own shows it.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// Most that is read from a data centre at once: what a frame takes.
const MOST: usize = 64 << 10;

/// Least room that is made for what a data centre says.
const PIECE: usize = 4 << 10;

/// From now on WEB is offered as the settings have it, to all who may enter. The keys that are new to it are still to be filed.
pub(super) fn offer(server: &Server) -> UnfiledKeys {
    let rules = server.judge.rules();
    server.web.offer(server.settings().web.as_ref(), rules.keyring.keys())
}

/// The same while clients are served: many new keys are filed beside them, since that takes time. Their links are not even
/// known to anyone yet.
pub(super) fn offer_again(server: &Server) {
    let unfiled = offer(server);
    match Handle::try_current() {
        Ok(runtime) if unfiled.count() > AT_ONCE => drop(runtime.spawn_blocking(|| unfiled.file())),
        _ => unfiled.file(),
    }
}

/// New keys that are filed at once: about a millisecond.
const AT_ONCE: usize = 64;

/// Ends the sessions of browsers that are not used, and of those who may not enter any more.
pub(super) fn sweep(server: &Server) {
    let (now, rules) = (SystemTime::now().into(), server.judge.rules());
    let stays = |from: SocketAddr, key: &Key| {
        let stands = rules.keyring.standing(key.tag(), now).is_ok() && key.member().standing(from.ip(), now).is_ok();
        stands && server.barrier.bars(from.ip()).is_none()
    };
    server.web.sweep(Instant::now().into_std(), stays);
}

/// The extension that is asked for the requests of a connection. It looks at them all, whether or not WEB is offered and to whom,
/// so that time tells neither; who is barred gets nothing from it.
pub(super) fn entrance(server: &Arc<Server>, barred: bool) -> Arc<dyn SiteExtension> {
    Arc::new(WebEntrance { server: Arc::clone(server), barred })
}

/// Stands before the site for the visitors of a connection.
struct WebEntrance {
    server: Arc<Server>,
    barred: bool,
}

impl SiteExtension for WebEntrance {
    fn claim(&self, asked: &VisitorRequest<'_>) -> Option<Claim> {
        // Behind a web server in front each request may come from someone else.
        let named = || asked.peer.is_some_and(|peer| self.server.barrier.bars(peer.ip()).is_some());
        self.server.web.claim(asked, self.barred || named(), || Arc::new(StreamSpawner(Arc::clone(&self.server))))
    }

    fn leaving(&self) -> CancellationToken {
        self.server.leaving.clone()
    }
}

/// Carries streams on.
struct StreamSpawner(Arc<Server>);

impl StreamBackend for StreamSpawner {
    fn open(&self, stream: WebStream) {
        let server = Arc::clone(&self.0);
        self.0.streams.spawn(async move { serve(server, stream).await });
    }
}

/// Serves one stream to the end.
async fn serve(server: Arc<Server>, mut stream: WebStream) {
    let since = Instant::now();
    let header = timeout(HEADER_PATIENCE, header(&mut stream.uplink)).await;
    let Ok(Some((header, rest))) = header else { return };
    let Some((opened, permit, place)) = admit(&server, &stream.handle, &header).await else { return };
    let (peer, member) = (stream.handle.peer(), permit.member());
    let (class, took) = (HelloClass::Other, since.elapsed());
    server.observer.observe(&Event::Admitted { from: peer, member, class, took, by_cover: false });
    let asked = (DcId::new(opened.dc), class);
    let live = Live::inside(server.sessions.number(), &permit, asked, peer.ip(), rest.len());
    let entry = server.sessions.enter(live);
    AdmittedStream { server, stream, opened, permit, entry, rest }.carry().await;
    drop(place);
}

/// The header and what came along with it; `None` if the stream is over before.
async fn header(uplink: &mut UnboundedReceiver<Bytes>) -> Option<([u8; HEADER], BytesMut)> {
    let mut bytes = BytesMut::new();
    loop {
        bytes.extend_from_slice(&uplink.recv().await?);
        if let Some(header) = bytes.first_chunk::<HEADER>().copied() {
            let rest = bytes.split_off(HEADER);
            return Some((header, rest));
        }
    }
}

/// Lets a stream in whose header is under the key of its session and new, if there is a place for it. It is above a rate where
/// a connection of the same address would be.
async fn admit(server: &Server, handle: &StreamHandle, header: &[u8; HEADER]) -> Option<(Opened, Permit, StreamPlace)> {
    let key = handle.key();
    let user = Some(key.member().name());
    let opened = obfuscated::open_any(header, key.secret().bytes())?;
    // Whatever is decided afterwards, it is spent.
    let question = replay::Question::Spend(replay::Entry::of_header(key.tag(), header));
    if !server.judge.replay.ask(question).await {
        let cause = Cause::info("a stream of a WEB session began with a header that was seen before");
        summary::note(cause.of(user), String::new);
        return None;
    }
    handle.prove();
    let peer = handle.peer().ip();
    // What its key is refused takes no turn from the clients of others.
    let refused = match server.stream_places.take(key.tag()) {
        Err(reason) => reason.label(),
        Ok(place) => match server.limits.load_full().turn(peer).await {
            Some(limit) => limit.label(),
            None => match key.admit(peer, SystemTime::now().into()) {
                Ok(permit) => return Some((opened, permit, place)),
                Err(refusal) => refusal.label(),
            },
        },
    };
    let cause = Cause::info("a stream of a WEB session was refused");
    summary::note(cause.of(user).because(refused), String::new);
    None
}

/// Time for which an app's last words may still be passed on when its stream is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Done when a stream is over, by its app or with its session, and had time to pass on what came before. Neither a limited
/// bandwidth nor a data centre that takes nothing holds it up for longer.
async fn gone(handle: &StreamHandle) {
    handle.over().await;
    sleep(LAST_WORDS).await;
}

/// A stream that is inside, with everything that it needs but a far side.
struct AdmittedStream {
    server: Arc<Server>,
    stream: WebStream,
    opened: Opened,
    permit: Permit,
    entry: Entry,
    /// Bytes that came along with the header.
    rest: BytesMut,
}

impl AdmittedStream {
    /// Carries the stream to its data centre until either side ends it.
    async fn carry(self) {
        let Self { server, mut stream, opened, permit, entry, mut rest } = self;
        let Opened { dc, up: mut from_app, down: keys, framing } = opened;
        let (dc, meter) = (DcId::new(dc), &entry.live().meter);
        let idle = server.settings().idle.unwrap_or(IDLE);
        let paid = tokio::select! {
            paid = timeout(idle, meter.opened_with(rest.len())) => paid == Ok(true),
            () = gone(&stream.handle) => false,
        };
        if !paid {
            return;
        }
        from_app.apply(&mut rest);
        let opening = |proxy: Option<&Secret>| Opening::keyed((dc, framing), proxy, &keys, &rest);
        // A stream that is closed meanwhile is noticed by what its uplink says; more data waits.
        let mut waiting = Vec::new();
        let reached = tokio::select! {
            biased;
            reached = reach(&server, dc, permit.member().name(), opening) => reached.ok(),
            () = closed(&mut stream.uplink, &mut waiting) => None,
            () = meter.ended() => None,
        };
        let Some((Reached { stream: far, by, .. }, opening)) = reached else { return };
        debug!(address = far.peer_addr().ok().map(field::display::<SocketAddr>), "stream");
        stream.handle.consumed(HEADER + rest.len());
        let recoded = opening.down.map(|theirs| (theirs.stream(), keys.stream()));
        let relay = StreamRelay { far, handle: &stream.handle, meter, up: (from_app, opening.up), down: recoded };
        let since = Instant::now();
        let (by_end, heard) = relay.run(&mut stream.uplink, waiting, idle).await;
        if by_end == End::FarBroke && !heard {
            server.upstream.broke(by);
        }
        let closed = Closed { by: by_end, up: meter.up(), down: meter.down() };
        over(&server, &entry, &permit, closed, since);
        // What was revoked, or has used up its quota, gets nothing that waits.
        if by_end == End::Closed {
            stream.handle.abort();
        }
    }
}

/// Gathers what comes until the stream is closed.
async fn closed(uplink: &mut UnboundedReceiver<Bytes>, waiting: &mut Vec<Bytes>) {
    while let Some(bytes) = uplink.recv().await {
        waiting.push(bytes);
    }
}

/// A stream and its data centre. Bytes of the data centre are under the client's own keys and pass as they are, unless
/// another proxy is between; they are read only as far as the app has given credit and its carrier takes them, so the
/// back-pressure is the kernel's.
struct StreamRelay<'s> {
    far: TcpStream,
    handle: &'s StreamHandle,
    meter: &'s Meter,
    /// Of the app's bytes: theirs and ours.
    up: (Ctr, Ctr),
    /// Of the far side's bytes, where they are not under the app's keys: theirs and the app's.
    down: Option<(Ctr, Ctr)>,
}

impl StreamRelay<'_> {
    /// Moves bytes until either side is done, nothing moves for `idle`, or the session shall end. Says whether the far side
    /// has said anything.
    async fn run(self, uplink: &mut UnboundedReceiver<Bytes>, waiting: Vec<Bytes>, idle: Duration) -> (End, bool) {
        let Self { far, handle, meter, up, down } = self;
        let before = meter.down();
        let by = {
            let up = pass_up(&far, handle, meter, up, uplink, waiting);
            let down = pass_down(&far, handle, meter, down);
            let mut up = pin!(up);
            let mut down = pin!(down);
            let mut over = pin!(meter.ended());
            let mut gone = pin!(gone(handle));
            let mut late = pin!(silence(meter, idle));
            poll_fn(|context| {
                if over.as_mut().poll(context).is_ready() {
                    return Poll::Ready(End::Closed);
                }
                for direction in [up.as_mut().poll(context), down.as_mut().poll(context)] {
                    if let Poll::Ready(end) = direction {
                        return Poll::Ready(end);
                    }
                }
                if gone.as_mut().poll(context).is_ready() {
                    return Poll::Ready(End::Finished);
                }
                late.as_mut().poll(context).map(|()| End::Idle)
            })
            .await
        };
        (by, meter.down() > before)
    }
}

/// Done when nothing has moved for so long.
async fn silence(meter: &Meter, idle: Duration) {
    let moved = || meter.up().wrapping_add(meter.down());
    let (mut before, mut alive) = (moved(), Instant::now());
    while alive.elapsed() < idle {
        sleep(idle / 8).await;
        let now = moved();
        if now != before {
            (before, alive) = (now, Instant::now());
        }
    }
}

/// From the app to the data centre. Each piece gives the app credit for as much when it has been passed on.
async fn pass_up(
    far: &TcpStream,
    handle: &StreamHandle,
    meter: &Meter,
    (mut from_app, mut to_far): (Ctr, Ctr),
    uplink: &mut UnboundedReceiver<Bytes>,
    waiting: Vec<Bytes>,
) -> End {
    let mut waiting = waiting.into_iter();
    loop {
        let next = match waiting.next() {
            Some(bytes) => Some(bytes),
            None => uplink.recv().await,
        };
        let Some(bytes) = next else { return End::Finished };
        let size = bytes.len();
        if !meter.opened_with(size).await {
            return End::Closed;
        }
        let mut bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        from_app.apply(&mut bytes);
        to_far.apply(&mut bytes);
        if write_all(far, &bytes).await.is_err() {
            return End::FarBroke;
        }
        handle.consumed(size);
    }
}

async fn write_all(far: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        far.writable().await?;
        bytes = &bytes[attempt(far.try_write(bytes))?.unwrap_or(0)..];
    }
    Ok(())
}

/// From the data centre to the app.
async fn pass_down(far: &TcpStream, handle: &StreamHandle, meter: &Meter, mut recode: Option<(Ctr, Ctr)>) -> End {
    let mut usual = PIECE;
    loop {
        let room = handle.room().await;
        if far.readable().await.is_err() {
            return End::FarBroke;
        }
        let Some(leave) = meter.leave(Direction::Down).await else { return End::Closed };
        let most = room.min(leave).min(usual);
        let mut bytes = BytesMut::with_capacity(most);
        // Capacities are rounded up, and no more than this may be read.
        let read = attempt(far.try_read_buf(&mut bytes::BufMut::limit(&mut bytes, most)));
        match read {
            Ok(None) => continue,
            Ok(Some(0)) => return End::Finished,
            Err(_) => return End::FarBroke,
            Ok(Some(read)) => {
                meter.add_down(read);
                meter.charge(Direction::Down, read);
                if let Some((theirs, ours)) = &mut recode {
                    theirs.apply(&mut bytes);
                    ours.apply(&mut bytes);
                }
                handle.push(if read < most / 2 { Bytes::copy_from_slice(&bytes) } else { bytes.freeze() });
                usual = (2 * read).clamp(PIECE, MOST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::DescriptorRoom;
    use super::super::connection::tests::server;
    use super::super::streams::StreamPlaces;
    use super::*;
    use crate::auth::{Member, Policy, SecretTag};
    use crate::telegram;
    use crate::webproxy::budget::Budget;
    use crate::webproxy::frame::{Kind, MAX_DATA, whole};
    use crate::webproxy::live::{LiveSession, SessionOrigin};
    use crate::webproxy::session::{Down, Limits, Mode, Session, Up};
    use crate::webproxy::token::{TokenKey, TokenKind};
    use crate::wire::packets::Framing;

    const SECRET: [u8; 16] = [7; 16];

    /// A session of a member with this policy, whose streams are carried on by the server.
    fn session(server: &Arc<Server>, policy: Policy) -> Arc<LiveSession> {
        let member = Member::new("alice");
        member.set_policy(policy);
        let (key, tokens) = (Arc::new(Key::new(member, Secret::new(SECRET))), TokenKey::new(&[2; 32]));
        let budget = Arc::new(Budget::new(1 << 30)).key(SecretTag::NONE);
        let session = Session::new(Mode::Https, Limits::default(), budget, Instant::now().into_std());
        let token = tokens.issue(TokenKind::Session, [1; 16]);
        let page = tokens.issue(TokenKind::Bootstrap, [1; 16]);
        let peer = ([192, 0, 2, 1], 1).into();
        LiveSession::new(
            session,
            SessionOrigin { token, page, key, place: 0, peer },
            Arc::new(StreamSpawner(Arc::clone(server))),
        )
    }

    /// An app in such a session.
    struct App {
        live: Arc<LiveSession>,
        sequence: u64,
        cursor: u64,
    }

    impl App {
        fn new(live: Arc<LiveSession>) -> Self {
            Self { live, sequence: 0, cursor: 0 }
        }

        fn send(&mut self, frames: &[Bytes]) {
            self.sequence += 1;
            let (sequence, batch) = (self.sequence, frames.concat().into());
            let up = self.live.act(|session| session.up(None, sequence, batch, Instant::now().into_std()));
            assert_eq!(up, Up::Acknowledged(sequence));
        }

        fn open(&mut self, id: u32) {
            let (header, ..) = obfuscated::seal_for_proxy(2, Framing::Padded, &SECRET, rand::random);
            self.send(&[whole(Kind::Open, id, &[]), whole(Kind::Data, id, &header)]);
        }

        fn data(&mut self, id: u32, length: usize) {
            self.send(&[whole(Kind::Data, id, &vec![0; length])]);
        }

        /// Waits for the next stream that is closed.
        async fn closed(&mut self) -> u32 {
            let close = |batch: Vec<u8>| {
                let head = batch.first_chunk::<8>().copied().expect("a frame");
                (head[0] == Kind::Close as u8).then(|| u32::from_be_bytes([0, head[1], head[2], head[3]]))
            };
            loop {
                let cursor = self.cursor;
                let down = self.live.act(|session| session.down(None, cursor, Instant::now().into_std()));
                match down {
                    Down::Batch { cursor, batch } => {
                        self.cursor = cursor;
                        if let Some(id) = close(batch.to_bytes().to_vec()) {
                            return id;
                        }
                    }
                    _ => sleep(Duration::from_millis(5)).await,
                }
            }
        }
    }

    /// Waits until so many streams are inside.
    async fn inside(server: &Server, count: usize) {
        let waiting = async {
            while server.sessions.len() != count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("{} are inside", server.sessions.len()));
    }

    /// A server whose data centre is this listener.
    async fn before(listener: &TcpListener) -> Arc<Server> {
        let server = server();
        let overrides = [(DcId::new(2), vec![listener.local_addr().unwrap()])].into();
        server.upstream.replace(telegram::Settings { overrides, ..telegram::Settings::default() });
        server
    }

    fn with_room(room: DescriptorRoom, mut server: Arc<Server>) -> Arc<Server> {
        let inner = Arc::get_mut(&mut server).expect("it was just made");
        (inner.room, inner.stream_places) = (room, Arc::new(StreamPlaces::new(room.streams)));
        server
    }

    #[tokio::test]
    async fn streams_keep_no_client_out() {
        let room = DescriptorRoom { connections: 4, beside_streams: 4, streams: 64 };
        let server = with_room(room, server());
        let mut app = App::new(session(&server, Policy::default()));
        (1..=20).for_each(|id| app.send(&[whole(Kind::Open, id, &[])]));
        assert_eq!(server.streams.len(), 20);
        timeout(Duration::from_secs(10), server.room()).await.expect("clients are accepted");
    }

    #[tokio::test]
    async fn a_stream_without_a_place_is_closed_and_the_others_go_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let room = DescriptorRoom { connections: 4, beside_streams: 4, streams: 4 };
        let server = with_room(room, before(&listener).await);
        let mut app = App::new(session(&server, Policy::default()));
        for id in 1..=2 {
            app.open(id);
            inside(&server, id as usize).await;
        }
        app.open(3);
        let closed = timeout(Duration::from_secs(20), app.closed()).await;
        assert_eq!((closed, server.sessions.len()), (Ok(3), 2));
    }

    #[tokio::test]
    async fn a_stream_that_is_closed_is_held_up_by_no_bandwidth() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = before(&listener).await;
        // What has come would take minutes.
        let slow = Policy { bandwidth_up: Some(1024), ..Policy::default() };
        for ends in [false, true] {
            let mut app = App::new(session(&server, slow.clone()));
            app.open(1);
            inside(&server, 1).await;
            (0..8).for_each(|_| app.data(1, MAX_DATA));
            match ends {
                true => app.live.end(crate::webproxy::session::End::Left),
                false => app.send(&[whole(Kind::Close, 1, &[])]),
            }
            inside(&server, 0).await;
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_closed_is_held_up_by_no_data_centre() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(8).unwrap();
        let server = before(&listener).await;
        let mut app = App::new(session(&server, Policy::default()));
        app.open(1);
        inside(&server, 1).await;
        let (far, _) = listener.accept().await.unwrap();
        // It never reads, so that this much cannot go through.
        let sent = 60 * MAX_DATA;
        (0..60).for_each(|_| app.data(1, MAX_DATA));
        // Until it stands still.
        let mut passed = 0;
        while passed != app.live.ask(Session::passed) {
            passed = app.live.ask(Session::passed);
            sleep(Duration::from_millis(200)).await;
        }
        assert!(passed < sent as u64, "{passed} of {sent} bytes went through");
        app.send(&[whole(Kind::Close, 1, &[])]);
        inside(&server, 0).await;
        drop(far);
    }
}
