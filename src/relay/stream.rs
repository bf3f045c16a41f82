//! A session as bytes: records on the client's side, a plain obfuscated2 stream on the data centre's.
//!
//! One task moves both directions. It waits for readiness and only then borrows a buffer that all sessions of a thread
//! share; what a slow receiver does not take at once is the only data a session owns, and while there is any nothing
//! more is read for that receiver, so back-pressure is the kernel's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::ops::RangeInclusive;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::down::{Down, Ends};
use super::downlink::{Downlink, FRAMING_BUFFER};
use super::meter::Meter;
use super::ready;
use super::tariff::{Allowance, Direction, RateLimiter};
use super::unanswered::AnswerWatch;
use super::unsent::WriteBacklog;
use super::uplink::Uplink;
use super::welcome::{Welcome, has_come};
use super::writes::Writes;
use super::{Closed, End, attempt, reset_on_close, shut};

/// Longest time for what a receiver has not taken yet when a session ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest silence behind the FIN of a cover that throws away what comes there: that of the built-in site, and of nginx where
/// it lingers.
const QUIET: Duration = Duration::from_secs(5);

/// Most that is thrown away ahead of a close, which would be a reset with data unread.
const MOST_UNREAD: usize = 1 << 20;

/// Longest time for which the data centre is listened to behind the end of a client.
const SETTLE: Duration = Duration::from_secs(5);

/// Most reads in one turn of a session, so that a busy one does not starve the others of its thread.
const TURNS: usize = 2;

/// Payload sizes of encrypted records of TLS 1.3.
const SIZES: RangeInclusive<u16> = 17..=16401;

/// Payload sizes of the records that end a connection; at most four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastRecords([u16; 4]);

impl From<&[u16]> for LastRecords {
    fn from(sizes: &[u16]) -> Self {
        let mut last = Self::default();
        let sizes = sizes.iter().filter(|size| SIZES.contains(size));
        last.0.iter_mut().zip(sizes).for_each(|(slot, size)| *slot = *size);
        last
    }
}

/// Ways in which the cover ends a connection, and the source of random bytes.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Writes that visitors get the cover's records in.
    pub writes: Writes,
    /// Records ahead of the FIN of a cover that ends a connection by itself.
    pub farewell: LastRecords,
    /// Records that answer a visitor's FIN, ahead of the cover's own.
    pub on_fin: LastRecords,
    /// Whether a visitor's FIN is answered with a reset.
    pub fin_resets: bool,
    /// Records that answer a record which cannot be decrypted.
    pub on_bad_record: LastRecords,
    /// Time that the cover takes to answer on this connection.
    pub delay: Duration,
    /// Time for which data behind the cover's FIN is thrown away; afterwards, and at once where it is zero, such data is
    /// answered with a reset.
    pub linger: Duration,
    /// Random bytes for NOP frames.
    pub filler: fn() -> u8,
}

/// Occasion on which a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The client ended its side.
    Fin,
    /// The client sent a record that no TLS server would take.
    BadRecord,
    /// None of the client's making.
    Own,
}

impl From<End> for Occasion {
    fn from(end: End) -> Self {
        match end {
            End::BadRecord | End::BadPacket => Self::BadRecord,
            _ => Self::Own,
        }
    }
}

impl Manner {
    /// Stand-ins for the cover's last records, as far as the stream allows for them.
    pub(super) fn last_records(self, occasion: Occasion, down: &mut Downlink) -> Vec<u8> {
        let LastRecords(sizes) = match occasion {
            Occasion::Fin => self.on_fin,
            Occasion::BadRecord => self.on_bad_record,
            Occasion::Own => self.farewell,
        };
        let sizes = sizes.into_iter().filter(|size| *size > 0);
        sizes.filter_map(|size| down.nops(size.into(), self.filler)).flatten().collect()
    }

    /// Earliest time of the end for an occasion of now, behind this greeting.
    pub(super) fn ends_at(self, occasion: Occasion, welcome: Option<&Welcome>) -> Instant {
        let now = Instant::now();
        let answer = if occasion == Occasion::Own { now } else { now + self.delay };
        welcome.and_then(Welcome::ends_at).map_or(answer, |greeted| answer.max(greeted))
    }
}

/// A client and its data centre.
#[derive(Debug)]
pub struct Session {
    client: TcpStream,
    dc: TcpStream,
    up: Up,
    down: Down,
    /// Needed at the end alone.
    manner: Box<Manner>,
    /// Whether the data centre may still have to take what the client sent last.
    settles: bool,
    /// Rest of the stand-in for tickets that the client is still to get, if any.
    welcome: Option<Box<Welcome>>,
    meter: Arc<Meter>,
    /// Watch over a client that may wait for ever behind an answer.
    watch: Option<Box<AnswerWatch>>,
    /// Time of the last traffic.
    alive: Instant,
    /// Earliest time at which something that has to wait now may be done.
    later: Option<Instant>,
    /// The end that was decided on; what the client still sends is thrown away.
    ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    by: End,
    occasion: Occasion,
    /// Time at which the client is told.
    due: Instant,
}

/// Some of the two directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ways {
    up: bool,
    down: bool,
}

const BOTH: Ways = Ways { up: true, down: true };

#[derive(Debug)]
struct Up {
    transform: Uplink,
    unsent: WriteBacklog,
    open: bool,
    /// Most bytes that are read at once: twice what came last, as long as the data centre takes all of it.
    room: usize,
}

impl Session {
    /// A session whose header and first payload have been sent and counted. It counts what it moves from now on in
    /// `meter`, and ends when that says so.
    pub fn new(
        client: TcpStream,
        dc: TcpStream,
        up: Uplink,
        down: Downlink,
        manner: Manner,
        meter: Arc<Meter>,
    ) -> Self {
        let up = Up { transform: up, unsent: WriteBacklog::default(), open: true, room: PIECE };
        let (down, alive) = (Down::new(down, manner.writes), Instant::now());
        let manner = Box::new(manner);
        let (welcome, watch, later, ended) = (None, None, None, None);
        Self { client, dc, up, down, manner, settles: false, welcome, meter, watch, alive, later, ended }
    }

    /// The same with what is still to be said to the client by itself.
    pub fn with_welcome(self, welcome: Option<Box<Welcome>>) -> Self {
        Self { welcome, ..self }
    }

    /// The same with a watch over its answers, if any: it may end the session with [`End::Unanswered`].
    pub fn watched(self, watch: Option<AnswerWatch>) -> Self {
        Self { watch: watch.map(Box::new), ..self }
    }

    /// Moves bytes until both sides are done, one of them broke, or nothing moved for `idle`. The counts are of bytes on
    /// the client's side, without those that opened the session: hellos and the header.
    ///
    /// Whatever ends a session ends it as the cover would end a connection on the same [`Occasion`]; only a caller that
    /// drops this future does not wait for that. Half-close is not passed on: a web server answers the end of a visitor's
    /// side with its own, and no app of Telegram's ends one side alone. What a client sent before its end still goes to
    /// the data centre. `in_vain` is called as soon as the data centre's connection breaks without ever having brought
    /// anything, for the client may take its time to leave.
    // Borrows the session: a future that owned it would have room for it twice.
    pub async fn run(&mut self, idle: Duration, in_vain: impl Fn()) -> Closed {
        let mut timer = pin!(sleep_until(self.alive + idle));
        let by = poll_fn(|context| self.poll(context, timer.as_mut(), idle, &in_vain)).await;
        match by {
            End::ClientBroke => reset_on_close(&self.dc),
            _ => throw_away(&self.client),
        }
        Closed { by, up: self.meter.up(), down: self.meter.down() }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        idle: Duration,
        in_vain: impl Fn(),
    ) -> Poll<End> {
        let mut due = BOTH;
        for _ in 0..TURNS {
            if self.meter.is_ending() && self.say_goodbye(End::Closed) {
                due = BOTH;
            }
            due = match self.step(due, context) {
                Ok(moved) => moved,
                Err(End::ClientBroke) => return Poll::Ready(End::ClientBroke),
                Err(end) => {
                    if end == End::FarBroke && self.ended.is_none() && !self.down.heard {
                        in_vain();
                    }
                    if self.say_goodbye(end) { BOTH } else { Ways::default() }
                }
            };
            if !self.up.open && !self.down.open && self.up.unsent.is_empty() && self.down.unsent.is_empty() {
                return Poll::Ready(self.reason());
            }
            // A client that sends without end behind the cover's FIN does not keep it from closing.
            if self.ended.is_some() && self.deadline(idle) <= Instant::now() && !self.down.open {
                return Poll::Ready(self.reason());
            }
            if due != Ways::default() {
                self.alive = Instant::now();
                continue;
            }
            due = BOTH;
            if self.meter.poll_end(context) && self.say_goodbye(End::Closed) {
                continue;
            }
            if self.poll_deadline(context, timer.as_mut(), idle).is_pending() {
                return Poll::Pending;
            }
            if self.later.is_none_or(|later| later >= self.deadline(idle)) {
                self.end_silence(idle);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Time at which the session has waited for too long.
    fn deadline(&self, idle: Duration) -> Instant {
        let Some(Ended { due, .. }) = self.ended else {
            let idle_end = self.alive + idle;
            return self.watch.as_ref().and_then(|watch| watch.due()).map_or(idle_end, |due| due.min(idle_end));
        };
        if self.up.unsent.is_empty() && self.down.unsent.is_empty() {
            (due + self.manner.linger).min(due.max(self.alive) + QUIET)
        } else {
            due + PATIENCE
        }
    }

    /// Ready when the session has waited for too long, or for long enough to go on. A deadline that moves away moves the
    /// timer only when that rings, so a busy session leaves it alone.
    fn poll_deadline(&self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>, idle: Duration) -> Poll<()> {
        let last = self.deadline(idle);
        let deadline = self.later.map_or(last, |later| later.min(last));
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if deadline <= timer.deadline() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// Ends a session in which nothing has moved for too long, or one that its client has left alone behind an answer.
    fn end_silence(&mut self, idle: Duration) {
        let now = Instant::now();
        let by = if self.ended.is_some() || self.alive + idle <= now {
            Some(End::Idle)
        } else {
            // What the client's kernel has not taken is no answer yet, and a phone that reads nothing is none that waits.
            let all = !self.down.is_behind() && ready::has_room(&self.client);
            let watch = self.watch.as_mut();
            watch.is_some_and(|watch| watch.judge(all, now)).then_some(End::Unanswered)
        };
        if let Some(by) = by {
            self.say_goodbye(by);
        }
    }

    fn reason(&self) -> End {
        self.ended.map_or(End::Finished, |ended| ended.by)
    }

    /// Moves what can be moved now, in the directions that are due, and says in which anything moved. The task is woken
    /// when there is something to do in one in which nothing did, so that is not due again before.
    fn step(&mut self, due: Ways, context: &mut Context<'_>) -> Result<Ways, End> {
        if due == BOTH {
            self.later = None;
        }
        let up = due.up && self.step_up(context)?;
        let down = due.down && self.step_down(context)?;
        Ok(Ways { up, down })
    }

    fn step_up(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let up = &mut self.up;
        let mut moved = false;
        if !up.unsent.is_empty() {
            match up.unsent.poll_write(&self.dc, context, |_| moved = true) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(outcome) => outcome.map_err(|_| End::FarBroke)?,
            }
            if !up.open {
                shut(&self.dc);
            }
        }
        if !up.open {
            return Ok(moved);
        }
        let far_gone = self.ended.is_some();
        // What is thrown away costs nothing.
        let tariff = self.meter.tariff().filter(|_| !far_gone);
        let most = match tariff {
            Some(_) if self.client.poll_read_ready(context).is_pending() => return Ok(moved),
            Some(tariff) => match leave(tariff, Direction::Up, context, &mut self.later)? {
                Some(most) => most,
                None => return Ok(moved),
            },
            None => usize::MAX,
        };
        let read = with_buffer(|buffer| {
            let held = up.transform.held().len();
            let room = up.room.min(most).min(buffer.len() - held);
            buffer[..held].copy_from_slice(up.transform.held());
            let read = || ready::read(&self.client, &mut buffer[held..held + room]);
            match ready::poll_read(&self.client, context, read) {
                Poll::Pending => Ok(None),
                Poll::Ready(Err(_)) => Err(End::ClientBroke),
                Poll::Ready(Ok(read)) => {
                    self.meter.add_up(read);
                    if let Some(tariff) = tariff {
                        tariff.charge(Direction::Up, read, Instant::now().into_std());
                    }
                    if let Some(watch) = self.watch.as_mut().filter(|_| read > 0) {
                        watch.client_spoke(Instant::now());
                    }
                    if read > 0
                        && !far_gone
                        && up.forward(&self.dc, &mut buffer[..held + read])?
                        && let Some(welcome) = &mut self.welcome
                    {
                        welcome.client_spoke(Instant::now());
                    }
                    up.room = if up.unsent.is_empty() { (2 * read).clamp(PIECE, MOST) } else { PIECE };
                    Ok(Some(read))
                }
            }
        })?;
        if read == Some(0) {
            up.open = false;
            if up.unsent.is_empty() {
                shut(&self.dc);
            }
            self.end(End::Finished, Occasion::Fin);
        }
        Ok(moved || read.is_some())
    }

    /// Says to the client what the cover would say by now; whether the data centre's bytes may follow.
    fn say_welcome(&mut self) -> Result<bool, End> {
        let Some(welcome) = &mut self.welcome else { return Ok(true) };
        let down = &mut self.down;
        while let Some(write) = welcome.next(Instant::now(), &mut down.transform) {
            if down.unsent.is_empty() {
                down.unsent.write(&self.client, &[IoSlice::new(&write)]).map_err(|_| End::ClientBroke)?;
            } else {
                down.unsent.append(&write);
            }
        }
        let goes_on = !welcome.holds_back();
        let wakes_at = welcome.wakes_at();
        if welcome.is_over() || down.heard {
            self.welcome = None;
        }
        if let Some(at) = wakes_at {
            self.wake_at(at);
        }
        Ok(goes_on)
    }

    fn step_down(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let before = self.meter.down();
        let moved = self.move_down(context);
        if let Some(watch) = &mut self.watch
            && self.meter.down() > before
        {
            watch.client_was_answered(!self.down.is_behind(), Instant::now());
        }
        moved
    }

    fn move_down(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        if self.down.open && !self.down.is_behind() && !self.say_welcome()? {
            return Ok(false);
        }
        let ended = self.say_end();
        let (down, mut moved) = (&mut self.down, ended);
        let ends = Ends { client: &self.client, dc: &self.dc };
        let mut taken = |bytes| {
            self.meter.add_down(bytes);
            moved |= bytes > 0;
        };
        if down.is_behind() {
            match down.poll_rest(ends, context, &mut taken) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(sent) => sent?,
            }
            if !down.open {
                shut(&self.client);
            }
        }
        if !down.open || self.ended.is_some() || self.client.poll_write_ready(context).is_pending() {
            return Ok(moved);
        }
        let tariff = self.meter.tariff();
        let most = match tariff {
            Some(tariff) if down.has_more(&self.dc, context) => {
                leave(tariff, Direction::Down, context, &mut self.later)?
            }
            Some(_) => None,
            None => Some(usize::MAX),
        };
        let charge = |bytes| {
            if let Some(tariff) = tariff {
                tariff.charge(Direction::Down, bytes, Instant::now().into_std());
            }
        };
        let read = down.pass(ends, context, most, self.manner.filler, taken, charge)?;
        if read == Some(0) {
            self.end(End::Finished, Occasion::Own);
            self.say_end();
        }
        Ok(moved || read.is_some())
    }

    /// The session is over for a reason of ours or the data centre's: the client gets the cover's kind of ending, and
    /// what it still sends is thrown away. Says whether that changed anything.
    fn say_goodbye(&mut self, end: End) -> bool {
        if self.ended.is_none() || end == End::FarBroke {
            self.up.unsent.clear();
            shut(&self.dc);
        }
        self.end(end, end.into())
    }

    /// Decides on the end, which the client is told of when that is due. Says whether there was none yet.
    fn end(&mut self, by: End, occasion: Occasion) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let due = self.manner.ends_at(occasion, self.welcome.as_deref());
        self.ended = Some(Ended { by, occasion, due });
        self.settles = occasion == Occasion::Fin;
        self.wake_at(due);
        // Nothing more is read from the data centre.
        self.down.collect(&self.dc);
        true
    }

    fn wake_at(&mut self, time: Instant) {
        self.later = Some(self.later.map_or(time, |other| other.min(time)));
    }

    /// Tells the client of the end, once that is due; says whether it was told now.
    fn say_end(&mut self) -> bool {
        let Some(ended) = self.ended.filter(|_| self.down.open) else { return false };
        if !has_come(ended.due) {
            self.wake_at(ended.due);
            return false;
        }
        let resets = ended.occasion == Occasion::Fin && self.manner.fin_resets;
        if resets {
            reset_on_close(&self.client);
        }
        let down = &mut self.down;
        down.open = false;
        let first = self.welcome.take().map(|mut welcome| welcome.rest()).unwrap_or_default();
        let last = [first, down.transform.cut_short(), self.manner.last_records(ended.occasion, &mut down.transform)];
        let last = last.concat();
        if down.unsent.is_empty() {
            // If the client is gone, its side tells so at the next read.
            self.meter.add_down(down.unsent.write(&self.client, &[IoSlice::new(&last)]).unwrap_or(0));
            // A socket that has sent its FIN behind the other's resets nothing any more.
            if down.unsent.is_empty() && !resets {
                shut(&self.client);
            }
        } else {
            down.unsent.append(&last);
        }
        true
    }

    /// Leaves the client, and has the data centre take what it sent last: a socket that is closed with unread data in it
    /// forgets what it was still to send.
    pub async fn settle(self) {
        let Self { client, dc, settles, .. } = self;
        drop(client);
        if !settles {
            return;
        }
        let throw_away = async {
            while dc.readable().await.is_ok() {
                let read = with_buffer(|buffer| attempt(dc.try_read(buffer)));
                if matches!(read, Err(_) | Ok(Some(0))) {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(SETTLE, throw_away).await;
    }
}

impl Up {
    /// Says whether there was a whole record.
    fn forward(&mut self, dc: &TcpStream, bytes: &mut [u8]) -> Result<bool, End> {
        let (payload, outcome) = self.transform.transform(bytes);
        self.unsent.write(dc, &[IoSlice::new(payload)]).map_err(|_| End::FarBroke)?;
        outcome.map(|()| !payload.is_empty()).map_err(|_| End::BadRecord)
    }
}

/// Ends a session that has no data centre as the cover would end a connection on this occasion, behind what is left of its
/// greeting. What the client still sends is thrown away for as long as the cover does that.
pub async fn goodbye(
    client: TcpStream,
    mut down: Downlink,
    manner: Manner,
    welcome: Option<Box<Welcome>>,
    occasion: Occasion,
) {
    let due = manner.ends_at(occasion, welcome.as_deref());
    let mut welcome = welcome.unwrap_or_default();
    if say_to_the_end(&client, &mut welcome, due).await {
        part(&client, &manner.last_records(occasion, &mut down), manner, occasion).await;
    }
}

/// Says what is left of a greeting, each part at its time, and waits until `due`; whether the client is still there.
pub(super) async fn say_to_the_end(client: &TcpStream, welcome: &mut Welcome, due: Instant) -> bool {
    let said = welcome.say(client).await;
    if !has_come(due) {
        sleep_until(due).await;
    }
    said.is_ok()
}

/// Sends these last bytes and a FIN.
pub(super) async fn part(client: &TcpStream, mut last: &[u8], manner: Manner, occasion: Occasion) {
    if occasion == Occasion::Fin && manner.fin_resets {
        return reset_on_close(client);
    }
    let write = async {
        // If the client is gone already, there is no one left to be told.
        while !last.is_empty() && client.writable().await.is_ok() {
            match attempt(client.try_write(last)) {
                Ok(taken) => last = &last[taken.unwrap_or(0)..],
                Err(_) => return,
            }
        }
        shut(client);
    };
    let written = tokio::time::timeout(PATIENCE, write).await.is_ok();
    let silent = async {
        loop {
            throw_away(client);
            match tokio::time::timeout(QUIET, client.readable()).await {
                Ok(Ok(())) if !has_left(client) => tokio::task::yield_now().await,
                _ => break,
            }
        }
    };
    if written && occasion != Occasion::Fin {
        let _ = tokio::time::timeout(manner.linger, silent).await;
    }
    throw_away(client);
}

/// Whether the client has ended its side, behind all that was read.
fn has_left(client: &TcpStream) -> bool {
    with_buffer(|buffer| attempt(client.try_read(buffer))).map_or(true, |read| read == Some(0))
}

/// Throws away what has arrived.
fn throw_away(client: &TcpStream) {
    let mut left = MOST_UNREAD;
    while left > 0
        && let Ok(read @ 1..) = with_buffer(|buffer| client.try_read(buffer))
    {
        left = left.saturating_sub(read);
    }
}

/// Returns the number of bytes that may be read now; `None` if none may, and then the task is woken when that changes,
/// or at `later`. Not to be asked where there is nothing to read.
fn leave(
    tariff: &dyn RateLimiter,
    way: Direction,
    context: &mut Context<'_>,
    later: &mut Option<Instant>,
) -> Result<Option<usize>, End> {
    match tariff.ask(way, Instant::now().into_std(), context.waker()) {
        Allowance::Free => Ok(Some(usize::MAX)),
        Allowance::Most(bytes) => Ok(Some(usize::try_from(bytes).unwrap_or(usize::MAX))),
        Allowance::After(time) => {
            let time = Instant::from_std(time);
            *later = Some(later.map_or(time, |other| other.min(time)));
            Ok(None)
        }
        Allowance::Wait => Ok(None),
        Allowance::Over => Err(End::Closed),
    }
}

/// Most bytes that are read at once where they may have to wait in our memory.
pub(super) const PIECE: usize = 64 << 10;

/// Most bytes that are read at once where the receiver takes whatever comes. The less often there is something to do
/// for both ends, the less it costs: with half as much, sixteen uplinks take a tenth more CPU time for each byte.
const MOST: usize = 512 << 10;

/// Lends the thread's buffer for the length of a call.
pub(super) fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    const { assert!(FRAMING_BUFFER <= MOST) }
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; MOST].into_boxed_slice());
    }
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A cover that says goodbye before it ends, and is waited for.
    pub const MANNER: Manner = Manner {
        writes: Writes::by_record(),
        farewell: LastRecords([34, 19, 0, 0]),
        on_fin: LastRecords([0; 4]),
        fin_resets: false,
        on_bad_record: LastRecords([19, 0, 0, 0]),
        delay: Duration::ZERO,
        linger: Duration::from_secs(30),
        filler: || 7,
    };
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::testing::MANNER;
    use super::*;
    use crate::crypto::kdf::KeyIv;
    use crate::relay::sizing::Pattern;
    use crate::relay::unanswered::testing::Strict;
    use crate::wire::record::{HEADER, Header, MAX_ENCRYPTED};

    const IDLE: Duration = Duration::from_secs(1800);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    fn keys() -> KeyIv {
        KeyIv { key: [3; 32], iv: [4; 16] }
    }

    /// A session, and what its client and its data centre hold.
    async fn session(meter: &Arc<Meter>) -> (Session, TcpStream, TcpStream) {
        let ((client, ours), (dc, theirs)) = (pair().await, pair().await);
        let up = Uplink::new(keys().stream(), keys().stream(), 0).without_frames();
        let down = Downlink::new(keys(), Pattern::default());
        (Session::new(ours, theirs, up, down, MANNER, Arc::clone(meter)), client, dc)
    }

    #[tokio::test]
    async fn the_meter_counts_the_clients_bytes_and_ends_the_session_as_the_cover_would() {
        let meter = Arc::default();
        let (mut session, mut client, mut dc) = session(&meter).await;
        let running = tokio::spawn(async move { session.run(IDLE, || ()).await });
        let record = [&Header::application_data(20).encode()[..], &[9; 20]].concat();
        client.write_all(&record).await.unwrap();
        let mut got = [0; 20];
        dc.read_exact(&mut got).await.unwrap();
        assert_eq!((got, meter.up(), meter.down()), ([9; 20], 25, 0));
        meter.end();
        let mut last = Vec::new();
        client.read_to_end(&mut last).await.unwrap();
        assert_eq!(sizes(&last), [34, 19]);
        assert_eq!(dc.read(&mut got).await.unwrap(), 0);
        drop(client);
        assert_eq!(running.await.unwrap(), Closed { by: End::Closed, up: 25, down: last.len() as u64 });
    }

    /// Payload sizes of the records in what came.
    fn sizes(mut wire: &[u8]) -> Vec<u16> {
        let mut sizes = Vec::new();
        while let Some((header, rest)) = wire.split_first_chunk::<HEADER>() {
            sizes.push(Header::decode(*header).length);
            wire = &rest[usize::from(sizes[sizes.len() - 1])..];
        }
        sizes
    }

    /// Ends what the clock calls silent, so a test need not wait. A client that speaks is not left, and what comes unasked
    /// begins no silence.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_its_answer_alone_is_ended_as_one_at_rest_and_one_that_speaks_is_not() {
        let start = Instant::now();
        let (session, mut client, mut dc) = session(&Arc::default()).await;
        let mut session = session.watched(Some(AnswerWatch::new(Arc::new(Strict), start)));
        let running = tokio::spawn(async move { session.run(IDLE, || ()).await });
        let (mut got, mut far) = ([0; 20], keys().stream());
        for silence in [14, 14] {
            client.write_all(&record()).await.unwrap();
            dc.read_exact(&mut got).await.unwrap();
            // A whole frame, as a data centre sends it.
            let mut answer = [0; 100];
            answer[0] = 96;
            far.apply(&mut answer);
            dc.write_all(&answer).await.unwrap();
            client.read_exact(&mut [0; 105]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(silence)).await;
        }
        let mut last = Vec::new();
        client.read_to_end(&mut last).await.unwrap();
        assert_eq!(sizes(&last), [34, 19]);
        let lasted = start.elapsed();
        assert!(Duration::from_secs(29) <= lasted && lasted < Duration::from_secs(31), "{lasted:?}");
        drop(client);
        assert_eq!(running.await.unwrap().by, End::Unanswered);
    }

    #[test]
    fn no_last_record_has_a_size_that_tls_cannot_make() {
        let records = LastRecords::from(&[0, 2, 16, 34, 16402, 19][..]);
        assert_eq!(records, LastRecords([34, 19, 0, 0]));
    }

    fn record() -> Vec<u8> {
        [&Header::application_data(20).encode()[..], &[9; 20]].concat()
    }

    /// The data centre has its connection open and says nothing, and may be slow to take what there is.
    #[tokio::test]
    async fn the_end_of_a_client_is_answered_at_once_and_what_it_said_before_arrives() {
        for on_fin in [[0; 4], [19, 0, 0, 0]] {
            let (mut session, mut client, mut dc) = session(&Arc::default()).await;
            session.manner.on_fin = LastRecords(on_fin);
            let running = tokio::spawn(async move {
                let closed = session.run(IDLE, || ()).await;
                session.settle().await;
                closed
            });
            client.write_all(&record()).await.unwrap();
            client.shutdown().await.unwrap();
            let mut last = Vec::new();
            let answered = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut last)).await;
            assert!(answered.is_ok(), "the end waits for the data centre");
            assert_eq!(sizes(&last), on_fin.into_iter().filter(|size| *size > 0).collect::<Vec<_>>());
            let mut got = Vec::new();
            dc.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, [9; 20]);
            drop(dc);
            assert_eq!(running.await.unwrap().by, End::Finished);
        }
    }

    #[tokio::test]
    async fn a_cover_that_resets_at_the_end_of_a_visitor_is_followed() {
        let (mut session, mut client, _dc) = session(&Arc::default()).await;
        session.manner.fin_resets = true;
        tokio::spawn(async move {
            session.run(IDLE, || ()).await;
            session.settle().await;
        });
        client.shutdown().await.unwrap();
        let end = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    }

    /// A session that ends before its greeting was due is greeted at its time, and ended behind that; what the client
    /// causes is answered no sooner than the cover could.
    #[tokio::test]
    async fn an_end_waits_for_the_greeting_and_for_the_distance_of_the_cover() {
        let wait = Duration::from_millis(300);
        for (greeted, by_meter) in [(true, true), (true, false), (false, false)] {
            let meter = Arc::default();
            let (mut session, mut client, _dc) = session(&meter).await;
            let since = Instant::now();
            if greeted {
                let writes = [vec![200], vec![55]];
                let (down, writes) = Downlink::behind_fillers(keys(), Pattern::default(), &writes, &[], || 7);
                let welcome = Some(Box::new(Welcome::new(writes, since + wait, Vec::new(), Duration::ZERO)));
                session = Session { down: Down::new(down, Writes::by_record()), ..session }.with_welcome(welcome);
            } else {
                session.manner.delay = wait;
            }
            tokio::spawn(async move { session.run(IDLE, || ()).await });
            if by_meter {
                meter.end();
            } else {
                client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            }
            let mut first = [0];
            client.read_exact(&mut first).await.unwrap();
            assert!(since.elapsed() + Duration::from_millis(2) >= wait, "{greeted} {by_meter}: too early");
            let mut rest = first.to_vec();
            client.read_to_end(&mut rest).await.unwrap();
            let expected: &[u16] = match (greeted, by_meter) {
                (true, true) => &[200, 55, 34, 19],
                (true, false) => &[200, 55, 19],
                (false, _) => &[19],
            };
            assert_eq!(sizes(&rest), expected);
        }
    }

    /// Like the cover: one swallows what comes behind its end for a while, another resets.
    #[tokio::test]
    async fn data_behind_the_end_meets_what_it_meets_at_the_cover() {
        for linger in [Duration::ZERO, Duration::from_secs(30)] {
            let (meter, running);
            let mut client;
            {
                meter = Arc::default();
                let (mut session, near, _dc) = session(&meter).await;
                (session.manner.linger, client) = (linger, near);
                running = tokio::spawn(async move { session.run(IDLE, || ()).await });
            }
            meter.end();
            client.read_to_end(&mut Vec::new()).await.unwrap();
            if linger.is_zero() {
                assert_eq!(running.await.unwrap().by, End::Closed);
                let resets = async { while client.write_all(&record()).await.is_ok() {} };
                tokio::time::timeout(Duration::from_secs(10), resets).await.expect("a reset");
            } else {
                client.write_all(&record()).await.unwrap();
                client.write_all(&record()).await.unwrap();
                assert!(!running.is_finished(), "what is sent behind the end is thrown away");
            }
        }
    }

    /// Nothing waits for the greeting but what comes behind it, and the data centre's bytes take along what the client has
    /// not asked for.
    #[tokio::test]
    async fn the_welcome_leaves_at_its_time_and_does_not_hold_the_client_up() {
        for asks in [true, false] {
            let (session, mut client, mut dc) = session(&Arc::default()).await;
            let writes = [vec![200], vec![55]];
            let (down, writes) = Downlink::behind_fillers(keys(), Pattern::default(), &writes, &[26], || 7);
            let due = Instant::now() + Duration::from_millis(if asks { 3000 } else { 300 });
            let welcome = Some(Box::new(Welcome::new(writes, due, vec![26], Duration::ZERO)));
            let mut session = Session { down: Down::new(down, Writes::by_record()), ..session }.with_welcome(welcome);
            tokio::spawn(async move { session.run(IDLE, || ()).await });
            if asks {
                let record = [&Header::application_data(20).encode()[..], &[9; 20]].concat();
                client.write_all(&record).await.unwrap();
                dc.read_exact(&mut [0; 20]).await.unwrap();
                assert!(Instant::now() < due, "the client was held up");
            }
            dc.write_all(&[9; 100]).await.unwrap();
            let mut head = [0; HEADER];
            client.read_exact(&mut head).await.unwrap();
            assert!(Instant::now() + Duration::from_millis(2) >= due, "too early");
            let mut sizes = vec![Header::decode(head).length];
            for _ in 0..if asks { 2 } else { 1 } {
                client.read_exact(&mut vec![0; usize::from(sizes[sizes.len() - 1])]).await.unwrap();
                client.read_exact(&mut head).await.unwrap();
                sizes.push(Header::decode(head).length);
            }
            assert_eq!(sizes, if asks { &[200, 55, 26][..] } else { &[200, 55] });
        }
    }

    #[tokio::test]
    async fn a_data_centre_that_breaks_unheard_is_told_of_while_its_client_lingers() {
        for heard in [false, true] {
            let (mut session, mut client, mut dc) = session(&Arc::default()).await;
            let vain = Arc::new(tokio::sync::Notify::new());
            let told = Arc::clone(&vain);
            let running = tokio::spawn(async move { session.run(IDLE, || told.notify_one()).await });
            let mut byte = [0];
            if heard {
                // More than is kept for a larger record.
                dc.write_all(&[9; 3 * MAX_ENCRYPTED]).await.unwrap();
                client.read_exact(&mut byte).await.unwrap();
            }
            dc.set_zero_linger().unwrap();
            drop(dc);
            client.read_to_end(&mut Vec::new()).await.unwrap();
            let news = tokio::time::timeout(Duration::ZERO, vain.notified()).await;
            assert_eq!(news.is_ok(), !heard);
            assert!(!running.is_finished(), "the client is still there");
            drop(client);
            assert_eq!(running.await.unwrap().by, End::FarBroke);
        }
    }

    /// What docs/architecture.md says of the memory of sessions rests on this size.
    #[tokio::test]
    async fn an_idle_session_is_small() {
        let (mut session, _client, _dc) = session(&Arc::default()).await;
        let size = size_of::<Session>() + size_of_val(&session.run(IDLE, || ()));
        assert!(size <= 1024, "{size} bytes");
    }

    /// Moves what can be moved now; says whether anything moved.
    async fn step(session: &mut Session) -> bool {
        poll_fn(|context| Poll::Ready(session.step(BOTH, context).unwrap() != Ways::default())).await
    }

    /// Has a session move what `send` sends, which says how much that was, until nothing moves any more.
    async fn until_stuck(session: &mut Session, mut send: impl FnMut() -> usize) {
        let mut still = 0;
        while still < 100 {
            let sent = send();
            still = if step(session).await || sent > 0 { 0 } else { still + 1 };
            tokio::task::yield_now().await;
        }
    }

    /// A session whose client has stopped reading, the client, its data centre, and what that has sent.
    async fn get_stuck(pattern: Pattern, piece: usize) -> (Session, TcpStream, TcpStream, Vec<u8>) {
        let (mut session, client, dc) = session(&Arc::default()).await;
        session.down.transform = Downlink::new(keys(), pattern);
        let mut stream = vec![0; 32 << 20];
        stream[..4].copy_from_slice(&(16u32 << 20).to_le_bytes());
        keys().stream().apply(&mut stream);
        let mut sent = 0;
        let send = || {
            let taken = dc.try_write(&stream[sent..stream.len().min(sent + piece)]).unwrap_or(0);
            sent += taken;
            taken
        };
        until_stuck(&mut session, send).await;
        assert!((1 << 20..stream.len()).contains(&sent), "{sent} bytes got it stuck");
        stream.truncate(sent);
        (session, client, dc, stream)
    }

    /// Moves whole records from what came to their payload.
    fn unwrap(wire: &mut Vec<u8>, payload: &mut Vec<u8>) {
        while let Some((header, rest)) = wire.split_first_chunk::<HEADER>()
            && let Some(record) = rest.get(..Header::decode(*header).length.into())
        {
            payload.extend_from_slice(record);
            wire.drain(..HEADER + record.len());
        }
    }

    /// Records that do not change, and some that do so with a stall: then the client's socket is filled to the brim. Both
    /// with as much at once as the socket takes, and with less than a record.
    fn ways() -> impl Iterator<Item = (Pattern, usize)> {
        let patterns = [Pattern::default(), Pattern::seen(&[16_401], &[16_401, 8_000])];
        patterns.into_iter().flat_map(|pattern| [usize::MAX / 2, 5_000].map(|piece| (pattern.clone(), piece)))
    }

    #[tokio::test]
    async fn what_a_client_that_stopped_reading_does_not_take_stays_with_the_kernel() {
        for (pattern, piece) in ways() {
            let (mut session, client, _dc, stream) = get_stuck(pattern, piece).await;
            let held = session.down.unsent.held() + session.down.transform.held();
            assert!(held < HEADER, "{held} bytes, where only a part of the head of a record has no other place");
            let (mut wire, mut payload) = (Vec::new(), Vec::new());
            while stream.len() - payload.len() > 2 * MAX_ENCRYPTED {
                let _ = client.try_read_buf(&mut wire);
                unwrap(&mut wire, &mut payload);
                step(&mut session).await;
                tokio::task::yield_now().await;
            }
            assert!(payload == stream[..payload.len()], "something was lost or repeated");
        }
    }

    #[tokio::test]
    async fn a_record_that_has_begun_is_ended_whoever_ends_the_session() {
        for (pattern, piece) in ways() {
            for reset in [false, true] {
                let (mut session, mut client, dc, stream) = get_stuck(pattern.clone(), piece).await;
                if reset {
                    dc.set_zero_linger().unwrap();
                    drop(dc);
                } else {
                    session.meter.end();
                }
                let running = tokio::spawn(async move { session.run(IDLE, || ()).await });
                let (mut wire, mut payload) = (Vec::new(), Vec::new());
                client.read_to_end(&mut wire).await.unwrap();
                unwrap(&mut wire, &mut payload);
                assert!(wire.is_empty(), "{} bytes of a record", wire.len());
                assert!(payload == stream[..payload.len()], "something was lost or repeated");
                drop(client);
                assert_eq!(running.await.unwrap().by, if reset { End::FarBroke } else { End::Closed });
            }
        }
    }

    #[tokio::test]
    async fn what_a_data_centre_that_stopped_reading_does_not_take_is_bounded() {
        let (mut session, client, dc) = session(&Arc::default()).await;
        let record = [&Header::application_data(2000).encode()[..], &[9; 2000]].concat();
        let flood = record.repeat(1000);
        let mut sent = 0;
        let send = || {
            let taken = client.try_write(&flood[sent % record.len()..]).unwrap_or(0);
            sent += taken;
            taken
        };
        until_stuck(&mut session, send).await;
        let held = session.up.unsent.held();
        assert!((1..=MOST).contains(&held), "{held} bytes");
        assert_eq!(session.up.room, PIECE);
        while !session.up.unsent.is_empty() {
            let _ = dc.try_read(&mut [0; PIECE]);
            step(&mut session).await;
            tokio::task::yield_now().await;
        }
        assert!(session.up.room > PIECE, "what was taken whole may be followed by more");
    }

    /// Gives clients leave for what it was told to, and remembers what it was charged.
    #[derive(Debug, Default)]
    struct Purse {
        left: Mutex<Vec<Allowance>>,
        charged: Mutex<Vec<(Direction, usize)>>,
        waiting: Mutex<Option<Waker>>,
    }

    impl RateLimiter for Purse {
        fn is_due(&self) -> bool {
            true
        }

        fn ask(&self, way: Direction, _: std::time::Instant, waker: &Waker) -> Allowance {
            // A socket may be said to be readable when it is not.
            if way == Direction::Down {
                return Allowance::Free;
            }
            let leave = self.left.lock().unwrap().pop().unwrap_or(Allowance::Wait);
            if leave == Allowance::Wait {
                *self.waiting.lock().unwrap() = Some(waker.clone());
            }
            leave
        }

        fn charge(&self, way: Direction, bytes: usize, _: std::time::Instant) {
            self.charged.lock().unwrap().push((way, bytes));
        }
    }

    #[tokio::test]
    async fn nothing_is_read_without_leave_and_no_more_than_it_is_for() {
        let purse = Arc::new(Purse::default());
        let later = std::time::Instant::now() + Duration::from_millis(5);
        *purse.left.lock().unwrap() =
            vec![Allowance::Free, Allowance::Most(7), Allowance::After(later), Allowance::Most(10)];
        let meter = Arc::new(Meter::with_tariff(Arc::clone(&purse) as _));
        let (mut session, mut client, mut dc) = session(&meter).await;
        let running = tokio::spawn(async move { session.run(IDLE, || ()).await });
        let record = [&Header::application_data(20).encode()[..], &[9; 20]].concat();
        client.write_all(&record).await.unwrap();
        let mut got = [0; 20];
        dc.read_exact(&mut got).await.unwrap();
        let charged = [(Direction::Up, 10), (Direction::Up, 7), (Direction::Up, 8)];
        assert_eq!(got, [9; 20]);
        assert_eq!(purse.charged.lock().unwrap()[..], charged);
        // There is no leave for more, until there is none any more at all.
        client.write_all(&record).await.unwrap();
        let waker = loop {
            let waiting = purse.waiting.lock().unwrap().take();
            match waiting {
                Some(waker) => break waker,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(meter.up(), 25);
        purse.left.lock().unwrap().push(Allowance::Over);
        waker.wake();
        let mut last = Vec::new();
        client.read_to_end(&mut last).await.unwrap();
        assert_eq!((sizes(&last), dc.read(&mut got).await.unwrap()), (vec![34, 19], 0));
        drop(client);
        assert_eq!(running.await.unwrap().by, End::Closed);
        assert_eq!(purse.charged.lock().unwrap().len(), charged.len(), "what is thrown away costs nothing");
    }
}
