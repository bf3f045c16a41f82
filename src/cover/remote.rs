//! A cover elsewhere: the cover leg is opened when a client comes, and both are handed to the kernel as soon as the
//! connection is known to be a visit.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::gate::{Answered, FlightEnd, FromClient, FromCover, Gate, Promotion};
use super::scout::{CoverDialer, Leg, Scout};
use super::{Caller, Failure, Outcome, VisitObserver, stand_in};
use crate::auth::replay::Question;
use crate::auth::{Admission, Reason};
use crate::net::address::is_public;
use crate::net::route::{Dialer, Endpoint};
use crate::net::sockopt;
use crate::relay::splice::{AFTERMATH, Splice};
use crate::relay::{End, attempt, reset_on_close, shut};
use crate::wire::client_hello::{HelloCollector, MAX_HELLO};
use crate::wire::record;
use crate::wire::server_flight::{Flight, safe_cut};

/// Settings of a remote cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Host name or address literal.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether each connection to the cover begins with a PROXY protocol header that names the client.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The way to it.
    pub dialer: Dialer,
    /// Whether its name may lead to this machine or a private network.
    pub private: bool,
    /// Whether its first flight may have several encrypted records.
    pub accept_grade_c: bool,
}

impl Settings {
    /// Those of the addresses of the cover's name that visitors may be brought to. Anyone who rules the name could otherwise
    /// show what is inside to strangers; an address that the operator wrote is meant as it is.
    fn allowed(&self, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Unusable> {
        let written = self.host == "localhost" || self.host.parse::<IpAddr>().is_ok();
        let first = found.first().copied();
        if !written && !self.private {
            found.retain(|address| is_public(address.ip()));
        }
        match first {
            Some(first) if found.is_empty() => Err(Unusable::Private(first.ip())),
            _ => Ok(found),
        }
    }
}

/// Version of the PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// Time limit for the cover to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// Interval at which the cover's name is resolved.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);

/// Silence after which a flight is taken for whole: while the number of its records is not known, and when fewer came.
const SILENCE_UNKNOWN: Duration = Duration::from_millis(150);
const SILENCE_SHORT: Duration = Duration::from_millis(300);

/// Milliseconds that an admitted client waits for the cover's flight before it gets another. Clients give up after one
/// second that becomes eight (Desktop), ten (TDLib) and twelve (iOS). Drawn each time: one moment would be a mark.
const FLIGHT_PATIENCE: std::ops::RangeInclusive<u64> = 2_200..=3_200;

/// Within this time of its first moment no cover ends a connection on which nothing was said.
const EARLY: Duration = Duration::from_secs(3);

/// Search behind which an answer of the cover that waits may have come at any time of it.
const SHORT_SEARCH: Duration = Duration::from_millis(1);

/// Most that is kept of a hello: as much as one has that comes in records of a byte each.
const MAX_SAID: usize = MAX_HELLO * (record::HEADER + 1);

/// A web server elsewhere.
#[derive(Debug)]
pub struct Remote {
    settings: Settings,
    /// Addresses of the cover, as last resolved; empty before that has succeeded, and where a proxy resolves its name.
    addresses: ArcSwap<Vec<SocketAddr>>,
}

impl Remote {
    /// The cover that the settings name.
    pub fn new(settings: Settings) -> Self {
        Self { settings, addresses: ArcSwap::default() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (&self.settings.host, self.settings.port)
    }

    /// Finds out where the cover is, and keeps the addresses that it had where that fails. A name behind a proxy is left to
    /// that.
    ///
    /// Fails with [`Unusable::Ourselves`] if the cover is the proxy itself, listening on `listeners`: then every visit
    /// would make another, without end.
    pub async fn resolve(&self, listeners: &[SocketAddr]) -> Result<(), Unusable> {
        if self.settings.dialer.route().via.proxy().is_some() {
            return Ok(());
        }
        let names = self.settings.dialer.names();
        let found = names.lookup(&self.settings.host, self.settings.port).await.map_err(Unusable::Unresolved)?;
        let found = self.settings.allowed(found)?;
        if found.iter().any(|address| leads_to_us(*address, listeners)) {
            return Err(Unusable::Ourselves);
        }
        self.addresses.store(Arc::new(found));
        Ok(())
    }

    /// Keeps the cover's addresses fresh.
    pub(super) async fn watch_name(&self, listeners: &[SocketAddr]) {
        let mut failing = false;
        loop {
            sleep(RESOLVE_EVERY).await;
            match self.resolve(listeners).await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    warn!(%error, "keeping the cover's last addresses");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }

    pub(super) async fn receive(&self, caller: Caller, scout: &Scout) -> Outcome {
        // What comes before and in place of the watch is boxed, so that a visitor who says nothing does not carry it.
        match Box::pin(self.open_leg(&caller.client, caller.peer)).await {
            Ok(cover) => stand_between(caller, cover, scout).await,
            Err(error) => {
                caller.witness.cover_away(&error);
                Box::pin(stand_in::receive(caller, &scout.profile())).await
            }
        }
    }

    async fn open_leg(&self, client: &TcpStream, peer: SocketAddr) -> io::Result<TcpStream> {
        let mut cover = self.connect().await?;
        if self.settings.proxy_protocol.is_some() {
            // A client that was handed on to us came to another address, perhaps of the other family.
            let any = if peer.ip().to_canonical().is_ipv4() {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let here = client.local_addr().ok().filter(|here| here.ip().to_canonical().is_ipv4() == any.is_ipv4());
            let header = self.proxy_header(peer, here.unwrap_or(SocketAddr::new(any, 0)))?;
            cover.write_all(&header).await?;
        }
        Ok(cover)
    }

    fn proxy_header(&self, from: SocketAddr, to: SocketAddr) -> io::Result<Vec<u8>> {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let header = ProxyHeader::with_address(ProxiedAddress::stream(plain(from), plain(to)));
        let mut bytes = Vec::new();
        match self.settings.proxy_protocol {
            Some(ProxyProtocol::V1) => header.encode_v1(&mut bytes),
            Some(ProxyProtocol::V2) => header.encode_v2(&mut bytes),
            None => Ok(()),
        }
        .map_err(io::Error::other)?;
        Ok(bytes)
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let (dialer, addresses) = (&self.settings.dialer, self.addresses.load_full());
        let cover = if dialer.route().via.proxy().is_some() {
            dialer.connect(&Endpoint::new(&self.settings.host, self.settings.port), CONNECT_PATIENCE).await?
        } else if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the cover's name could not be resolved yet"));
        } else {
            dialer.connect_to_any(&addresses, CONNECT_PATIENCE).await?
        };
        sockopt::no_delay(&cover);
        // This leg no stranger sees. A visitor's own gets no probes that the cover would not send: the cover ends it, and
        // then the kernel gives up on a visitor that does not confirm the end.
        sockopt::keep_alive(&cover);
        Ok(cover)
    }
}

async fn stand_between(caller: Caller, cover: TcpStream, scout: &Scout) -> Outcome {
    let Caller { client, peer, barred, judge, witness, extension: _ } = caller;
    let gate = Gate::new(Arc::clone(&judge), peer.ip(), FlightEnd::Counted(scout.profile())).barred(barred);
    let (said, due) = (Vec::new(), Instant::now() + EARLY);
    let (witness, asked) = (Some(witness), Instant::now());
    let (alive, failed, answered) = (None, false, None);
    let mut watch = Watch { client, cover, gate, scout, peer, alive, witness, said, due, failed, asked, answered };
    let decided = match watch.until_decided().await {
        Err(End::FarBroke) => Box::pin(watch.cover_broke()).await,
        decided => decided,
    };
    match decided {
        Ok(Decision::StandIn(waiting)) => {
            let (Some(witness), (admission, flight)) = (watch.witness, *waiting) else { return Outcome::Visited };
            let caller = Caller { client: watch.client, peer, barred: None, judge, witness, extension: None };
            Box::pin(stand_in::answer(caller, admission, flight)).await
        }
        Ok(Decision::Promote(mut promotion)) => {
            promotion.answered = watch.answered.filter(|answered| !answered.is_zero());
            Outcome::Promoted(watch.client, promotion)
        }
        Ok(Decision::Visit) => Outcome::PassThrough(Splice::new(watch.client, watch.cover)),
        Err(broke) => {
            // Boxed, so that those who do not break anything do not carry it.
            Box::pin(watch.end(broke)).await;
            Outcome::Visited
        }
    }
}

impl CoverDialer for Remote {
    async fn open(&self) -> io::Result<Leg> {
        Ok(Box::new(self.visit().await?))
    }
}

impl Remote {
    /// Goes to the cover as a client of our own would be brought to it.
    pub async fn visit(&self) -> io::Result<TcpStream> {
        let mut cover = self.connect().await?;
        if self.settings.proxy_protocol.is_some() {
            let (here, there) = (cover.local_addr()?, cover.peer_addr()?);
            cover.write_all(&self.proxy_header(here, there)?).await?;
        }
        Ok(cover)
    }
}

/// Reason why a cover cannot be used.
#[derive(Debug)]
pub enum Unusable {
    /// Its name has no address.
    Unresolved(io::Error),
    /// It is the proxy itself.
    Ourselves,
    /// Its name leads to this machine or into a private network, and nothing allows that.
    Private(IpAddr),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(error) => write!(f, "the cover's name cannot be resolved: {error}"),
            Self::Ourselves => f.write_str("the cover is this proxy itself"),
            Self::Private(address) => {
                write!(f, "the cover's name leads to {address}, which is no address of the public internet")
            }
        }
    }
}

impl std::error::Error for Unusable {}

/// Whether a connection from this machine to `address` would come to one of `listeners`.
pub fn leads_to_us(address: SocketAddr, listeners: &[SocketAddr]) -> bool {
    // A connection to no address in particular arrives at this machine.
    let target = match address.ip().to_canonical() {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        named => named,
    };
    listeners.iter().any(|listener| {
        let same = [target, address.ip().to_canonical()].contains(&listener.ip().to_canonical());
        listener.port() == address.port() && (same || listener.ip().is_unspecified() && is_local(target))
    })
}

/// Whether this machine has the address: only such a one can be bound.
fn is_local(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// A client and its cover leg with the gate between them.
struct Watch<'a> {
    client: TcpStream,
    cover: TcpStream,
    gate: Gate,
    scout: &'a Scout,
    peer: SocketAddr,
    /// Time when something moved last, once the cover has ended its side.
    alive: Option<Instant>,
    /// Until it has heard that the connection is a visit.
    witness: Option<Arc<dyn VisitObserver>>,
    /// Bytes of the client's hello, until that is answered.
    said: Vec<u8>,
    /// Due time of the cover's flight; before there is a hello, the time until which the cover has no reason to leave.
    due: Instant,
    /// Whether the witness has heard that the cover failed this client.
    failed: bool,
    /// Time at which the last bytes of the hello were handed on.
    asked: Instant,
    /// Time that the cover took to answer them; zero where that could not be seen.
    answered: Option<Duration>,
}

enum Decision {
    Visit,
    /// The cover has no flight for a client of ours, which is to get this one.
    StandIn(Box<(Admission, Flight)>),
    Promote(Box<Promotion>),
}

impl Watch<'_> {
    /// Hands bytes both ways until the connection is known to be a visit or has proved itself twice; fails with the side
    /// that broke.
    async fn until_decided(&mut self) -> Result<Decision, End> {
        loop {
            self.note_visit();
            if self.gate.is_open() {
                return Ok(Decision::Visit);
            }
            if !self.gate.is_before_flight() {
                self.said = Vec::new();
            }
            let wake = self.wake();
            tokio::select! {
                ready = self.client.readable() => {
                    let read = ready.and_then(|()| read_some(&self.client)).map_err(|_| End::ClientBroke)?;
                    if let Some(bytes) = read
                        && let Some(promotion) = self.client_said(&bytes).await?
                    {
                        return Ok(Decision::Promote(promotion));
                    }
                }
                ready = self.cover.readable() => {
                    let read = ready.and_then(|()| read_some(&self.cover)).map_err(|_| End::FarBroke)?;
                    match read {
                        Some(bytes) if bytes.is_empty() => return Box::pin(self.cover_ended()).await,
                        Some(bytes) => self.cover_said(&bytes).await?,
                        None => {}
                    }
                }
                () = sleep_until(wake.unwrap_or(self.due)), if wake.is_some() => {
                    if let Some(decision) = self.waited().await? {
                        return Ok(decision);
                    }
                }
            }
            // Nothing is read meanwhile, so that whatever either side says comes out when it would for anybody else. What the
            // cover says to a hello may have to be kept from a client of ours, too.
            if self.gate.is_judging() {
                Box::pin(self.search()).await?;
            }
            // Twice in a connection, and boxed for those who say nothing.
            if let Some(question) = self.gate.question()
                && let Some(promotion) = Box::pin(self.ask_memory(question)).await?
            {
                return Ok(Decision::Promote(promotion));
            }
            if let Some(why) = self.gate.failure() {
                if let Some(decision) = self.fail(Failure::Unfit(why)) {
                    return Ok(decision);
                }
                let release = self.gate.release(why);
                self.tell_client(&release).await?;
            }
        }
    }

    /// Moment when something is to be done though nothing arrives.
    fn wake(&self) -> Option<Instant> {
        if self.gate.flight_may_be_whole() {
            let silence = if self.gate.flight_is_counted() { SILENCE_SHORT } else { SILENCE_UNKNOWN };
            return Some(Instant::now() + silence);
        }
        (self.gate.owes_flight() && !self.failed).then_some(self.due)
    }

    /// That moment has come.
    async fn waited(&mut self) -> Result<Option<Decision>, End> {
        if !self.gate.flight_may_be_whole() {
            return Ok(self.fail(Failure::Slow));
        }
        self.scout.note_stale();
        let flight = self.gate.cover_waits().unwrap_or_default();
        self.tell_client(&flight).await?;
        Ok(None)
    }

    /// The cover fails the client of ours that waits for its flight, if there is one: another flight in its place, where it
    /// is known what the cover would have said.
    fn fail(&mut self, failure: Failure) -> Option<Decision> {
        if !self.gate.owes_flight() {
            return None;
        }
        self.note_failure(failure);
        let mut hello = HelloCollector::default();
        let _ = hello.feed(&self.said);
        let flight = stand_in::flight(&self.scout.profile(), &hello.into_record())?;
        let admission = self.gate.take_waiting()?;
        Some(Decision::StandIn(Box::new((admission, flight))))
    }

    fn note_failure(&mut self, failure: Failure) {
        if let Some(witness) = self.witness.as_ref().filter(|_| !self.failed) {
            witness.cover_failed(failure);
        }
        self.failed = true;
    }

    /// The cover has ended its side. A hello that is there already is judged first: its client may be one of ours.
    async fn cover_ended(&mut self) -> Result<Decision, End> {
        if let Some(bytes) = self.hello_that_waits() {
            self.client_said(&bytes).await?;
            self.judge().await?;
        }
        if let Some(decision) = self.fail(Failure::Ended) {
            return Ok(decision);
        }
        let left_early = self.left_early();
        self.cover_said(&[]).await?;
        self.note_early_end(left_early);
        if self.gate.is_open() { Ok(Decision::Visit) } else { self.without_cover().await }
    }

    /// The cover leg is broken. The same holds, and what the cover said before is heard.
    async fn cover_broke(&mut self) -> Result<Decision, End> {
        if self.gate.is_before_flight() {
            if let Some(bytes) = self.hello_that_waits() {
                self.said.extend_from_slice(&bytes);
                let _ = self.gate.client_data(&bytes, SystemTime::now().into());
            }
            self.judge_unheard().await;
        }
        if self.gate.owes_flight() {
            self.hear_cover().await;
        }
        let failure = self.gate.failure().map_or(Failure::Reset, Failure::Unfit);
        if let Some(decision) = self.fail(failure) {
            return Ok(decision);
        }
        self.note_early_end(self.left_early());
        Err(End::FarBroke)
    }

    /// Reads what the client has said, if its hello is not whole yet and nothing of it was read.
    fn hello_that_waits(&self) -> Option<Vec<u8>> {
        if !self.gate.awaits_hello() {
            return None;
        }
        let mut bytes = vec![0; PIECE];
        let count = rustix::io::read(&self.client, &mut *bytes).ok().filter(|count| *count > 0)?;
        bytes.truncate(count);
        Some(bytes)
    }

    /// Whether the cover leaves though it was told nothing that it could dislike.
    fn left_early(&self) -> bool {
        self.gate.awaits_hello() && self.said.is_empty() && self.alive.is_none() && Instant::now() < self.due
    }

    /// Every visitor meets that, and a client whose hello is still under way too.
    fn note_early_end(&self, left_early: bool) {
        if let Some(witness) = self.witness.as_ref().filter(|_| left_early) {
            witness.cover_away(&io::Error::other("it accepts connections and leaves before anything is said"));
        }
    }

    /// Goes on when the cover has ended its side, as the pass-through would, until nothing is left to be judged of the client:
    /// what it says now opens no session, and is spent.
    async fn without_cover(&mut self) -> Result<Decision, End> {
        shut(&self.client);
        loop {
            self.alive = Some(Instant::now());
            self.judge().await?;
            self.note_visit();
            if self.gate.is_open() {
                return Ok(Decision::Visit);
            }
            tokio::select! {
                ready = self.client.readable() => {
                    let read = ready.and_then(|()| read_some(&self.client)).map_err(|_| End::ClientBroke)?;
                    if let Some(bytes) = read {
                        self.client_said(&bytes).await?;
                    }
                }
                _ = self.cover.ready(Interest::ERROR) => return Err(End::FarBroke),
            }
        }
    }

    /// Judges what the client has said where no session follows from it.
    async fn judge(&mut self) -> Result<(), End> {
        self.search().await?;
        if let Some(question) = self.gate.question() {
            self.ask_memory(question).await?;
        }
        Ok(())
    }

    /// Has the hello searched for.
    async fn search(&mut self) -> Result<(), End> {
        let Some(search) = self.gate.search() else { return Ok(()) };
        let begun = Instant::now();
        let release = self.gate.searched(search.await);
        // The cover could not be heard meanwhile.
        self.due += begun.elapsed();
        // Nor is it known when it answered, if that was before the search was over.
        if begun.elapsed() > SHORT_SEARCH && !sockopt::is_at_rest(&self.cover) {
            self.answered = Some(Duration::ZERO);
        }
        self.tell_client(&release).await
    }

    /// Has the gate's question answered and does what follows from that. Nothing is read meanwhile from either side.
    async fn ask_memory(&mut self, question: Question) -> Result<Option<Box<Promotion>>, End> {
        let new = self.gate.memory().ask(question).await;
        match self.gate.answered(new) {
            Answered::Promote(promotion) => Ok(Some(promotion)),
            Answered::GoOn { client, cover } => {
                self.tell_client(&client).await?;
                self.tell_cover(&cover).await?;
                Ok(None)
            }
        }
    }

    /// Ends both sides when one of them broke. What has arrived of the client is judged and spent all the same: it was on
    /// the wire, and may be shown again.
    async fn end(&mut self, broke: End) {
        if broke == End::FarBroke {
            self.hear_cover_out().await;
        }
        match broke {
            End::ClientBroke => reset_on_close(&self.cover),
            _ if self.alive.is_some_and(|alive| alive.elapsed() >= AFTERMATH) => {}
            _ => reset_on_close(&self.client),
        }
        self.gate.break_off();
        self.judge_unheard().await;
        // Once is enough: a hello, or a header, is smaller than that.
        let mut bytes = vec![0; PIECE];
        if let Ok(count @ 1..) = rustix::io::read(&self.client, &mut *bytes) {
            let _ = self.gate.client_data(&bytes[..count], SystemTime::now().into());
            self.judge_unheard().await;
        }
        let _ = self.gate.client_end();
        self.note_visit();
    }

    /// Judges what the client has said when neither side is there to be told anything.
    async fn judge_unheard(&mut self) {
        let _ = self.search().await;
        if let Some(question) = self.gate.question() {
            let new = self.gate.memory().ask(question).await;
            let _ = self.gate.answered(new);
        }
    }

    /// Called when there is nothing to be said to the client: a line in the log takes time that it could measure.
    fn note_visit(&mut self) {
        let Some(declined) = self.gate.declined() else { return };
        let Some(witness) = self.witness.take() else { return };
        witness.declined(self.peer, declined);
        if let (Reason::Cover(why), Some(_), false) = (declined.reason, &declined.member, self.failed) {
            witness.cover_failed(Failure::Unfit(why));
        }
    }

    /// Nothing read means that the client ended its side; the pass-through meets that end again.
    async fn client_said(&mut self, bytes: &[u8]) -> Result<Option<Box<Promotion>>, End> {
        if bytes.is_empty() {
            let release = self.gate.client_end();
            return self.tell_client(&release).await.map(|()| None);
        }
        if self.gate.awaits_hello() {
            let room = MAX_SAID.saturating_sub(self.said.len()).min(bytes.len());
            self.said.extend_from_slice(&bytes[..room]);
            self.due = Instant::now() + Duration::from_millis(rand::random_range(FLIGHT_PATIENCE));
        }
        if self.gate.awaits_hello() {
            self.asked = Instant::now();
        }
        let forwarded = !self.gate.judges_first();
        // What the cover would not take was said all the same.
        let told = if forwarded { self.tell_cover(bytes).await } else { Ok(()) };
        match self.gate.client_data(bytes, SystemTime::now().into()) {
            FromClient::Hold => told,
            FromClient::Promote(promotion) => return Ok(Some(promotion)),
            FromClient::Forward { release } => {
                self.tell_client(&release).await?;
                if forwarded { told } else { self.tell_cover(bytes).await }
            }
        }
        .map(|()| None)
    }

    async fn cover_said(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            let release = self.gate.cover_end();
            return self.tell_client(&release).await;
        }
        if self.gate.is_before_flight() {
            self.answered.get_or_insert_with(|| self.asked.elapsed());
        }
        match self.gate.cover_data(bytes) {
            FromCover::Pass => self.tell_client(bytes).await,
            FromCover::Withhold => Ok(()),
            FromCover::Send(flight) => self.tell_client(&flight).await,
        }?;
        if self.gate.cover_went_on() {
            self.scout.note_stale();
        }
        Ok(())
    }

    /// Hands on what the cover said before it broke: that can be known from an attempt to write to it, before there was
    /// word that it could be read.
    async fn hear_cover_out(&mut self) {
        self.hear_cover().await;
        let release = self.gate.cover_end();
        // A client that is gone has missed nothing.
        let _ = self.tell_client(&release).await;
    }

    async fn hear_cover(&mut self) {
        let mut bytes = vec![0; PIECE];
        while let Ok(count @ 1..) = rustix::io::read(&self.cover, &mut *bytes) {
            if self.cover_said(&bytes[..count]).await.is_err() {
                return;
            }
        }
    }

    async fn tell_client(&mut self, bytes: &[u8]) -> Result<(), End> {
        let cuts = self.gate.cuts_flight();
        write_flight(&mut self.client, bytes, cuts).await.map_err(|_| End::ClientBroke)
    }

    async fn tell_cover(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.cover.write_all(bytes).await.map_err(|_| End::FarBroke)
    }
}

/// Writes what may be a flight, in two pieces where the client minds the end of a read (`cuts`).
pub(super) async fn write_flight(client: &mut TcpStream, bytes: &[u8], cuts: bool) -> io::Result<()> {
    let cut = sockopt::segment_size(client).filter(|_| cuts).and_then(|segment| safe_cut(bytes, segment));
    let (first, rest) = bytes.split_at(cut.unwrap_or(0));
    client.write_all(first).await?;
    client.write_all(rest).await
}

/// Most bytes that are handed on in one piece. As many as a socket is likely to hold: a server that gives up in the midst
/// of what came at once, and one that has more coming when it does, end a connection differently.
const PIECE: usize = 64 * 1024;

/// Reads what has arrived; `None` if readiness was a false alarm.
fn read_some(stream: &TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(PIECE);
    Ok(attempt(stream.try_read_buf(&mut bytes))?.map(|_| bytes))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::super::scout::Whose;
    use super::*;
    use crate::auth::{Judge, Key, Keyring, Member, ReplayMemory, Rules, Secret, TimeWindow};
    use crate::cover::NoObserver;
    use crate::fixtures::{vector, vector_array};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_leads_inside_only_if_that_is_allowed() {
        let settings = |host: &str, private| {
            let dialer = Dialer::default();
            Settings { host: host.into(), port: 443, dialer, private, ..Settings::default() }
        };
        let (inner, public) = (at("169.254.169.254:443"), at("203.0.113.7:443"));
        let named = settings("www.example.com", false);
        assert!(matches!(named.allowed(vec![inner]), Err(Unusable::Private(ip)) if ip == inner.ip()));
        assert_eq!(named.allowed(vec![inner, public]).unwrap(), [public], "what is inside is left out");
        assert!(named.allowed(Vec::new()).unwrap().is_empty());
        for (host, private) in [("localhost", false), ("169.254.169.254", false), ("www.example.com", true)] {
            assert_eq!(settings(host, private).allowed(vec![inner]).unwrap(), [inner], "{host}");
        }
    }

    #[test]
    fn a_cover_is_ourselves_where_a_listener_would_get_the_connection() {
        for (cover, listener, ours) in [
            ("127.0.0.1:443", "127.0.0.1:443", true),
            ("127.0.0.1:443", "[::ffff:127.0.0.1]:443", true),
            ("127.0.0.1:443", "[::]:443", true),
            ("[::1]:443", "0.0.0.0:443", true),
            ("0.0.0.0:443", "127.0.0.1:443", true),
            ("[::]:443", "0.0.0.0:443", true),
            ("127.0.0.1:444", "[::]:443", false),
            ("127.0.0.2:443", "127.0.0.1:443", false),
            ("192.0.2.77:443", "[::]:443", false),
        ] {
            assert_eq!(leads_to_us(at(cover), &[at(listener)]), ours, "{cover} {listener}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_ourselves_is_refused_and_another_is_not() {
        let remote = |host: &str| {
            let settings = Settings { host: host.into(), port: 8443, ..Settings::default() };
            Remote::new(settings)
        };
        let listeners = [at("[::]:8443")];
        assert!(matches!(remote("localhost").resolve(&listeners).await, Err(Unusable::Ourselves)));
        assert!(remote("localhost").resolve(&[at("[::]:443")]).await.is_ok());
        assert!(remote("192.0.2.77").resolve(&listeners).await.is_ok());
    }

    /// A client and a cover, as they are seen from outside, with the proxy between them, and its memory.
    async fn between() -> (TcpStream, TcpStream, Arc<Judge>, impl Future<Output = Outcome>) {
        let member = Key::new(Member::new("user"), Secret::new(vector_array("const", "key")));
        let window = TimeWindow::new(Duration::from_secs(600));
        let rules = Rules { keyring: Keyring::new([member]), window, names: None };
        let judge = Arc::new(Judge::new(rules, ReplayMemory::volatile()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        let outer_client = TcpStream::connect(place).await.unwrap();
        let (client, peer) = listener.accept().await.unwrap();
        let cover = TcpStream::connect(place).await.unwrap();
        let (outer_cover, _) = listener.accept().await.unwrap();
        let witness = Arc::new(NoObserver);
        let caller = Caller { client, peer, barred: None, judge: Arc::clone(&judge), witness, extension: None };
        let whose = Whose { host: String::new(), port: 0, domain: String::new() };
        let scout = Scout::new("www.example.com".parse().unwrap(), whose, None);
        (outer_client, outer_cover, judge, async move { stand_between(caller, cover, &scout).await })
    }

    #[tokio::test]
    async fn a_hello_that_arrived_is_spent_though_the_cover_is_gone() {
        for _ in 0..10 {
            let (mut client, cover, judge, between) = between().await;
            reset_on_close(&cover);
            drop(cover);
            client.write_all(&vector("helloB", "record")).await.unwrap();
            let outcome = tokio::time::timeout(Duration::from_secs(20), between).await.unwrap();
            assert!(matches!(outcome, Outcome::Visited), "{outcome:?}");
            assert_eq!(judge.replay.len(), 1);
            let error = client.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_hello_behind_the_end_of_the_cover_is_handed_on_and_spent() {
        let (mut client, mut cover, judge, between) = between().await;
        let hello = vector("helloB", "record");
        cover.shutdown().await.unwrap();
        let outside = async {
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the end is passed on at once");
            client.write_all(&hello).await.unwrap();
            let mut got = vec![0; hello.len()];
            cover.read_exact(&mut got).await.unwrap();
            assert_eq!(got, hello);
        };
        let both = async { tokio::join!(between, outside) };
        let (outcome, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        assert!(matches!(outcome, Outcome::PassThrough(_)), "{outcome:?}");
        assert_eq!(judge.replay.len(), 1);
    }
}
