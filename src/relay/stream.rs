//! A session as bytes: records on the client's side, a plain obfuscated2 stream on the data centre's.
//!
//! One task moves both directions. It waits for readiness and only then borrows a buffer that all sessions of a thread
//! share; what a slow receiver does not take at once is the only data a session owns, and while there is any nothing
//! more is read for that receiver, so back-pressure is the kernel's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::halves::{Downlink, FRAMING_BUFFER, Uplink};
use super::meter::Meter;
use super::unsent::Unsent;
use super::{Closed, End, attempt, reset_on_close, shut};

/// How long a client may take to end its side after we have ended ours. What it still sends is thrown away: closing with
/// unread data would be a reset.
const LINGER: Duration = Duration::from_secs(30);

/// Most reads in one turn of a session, so that a busy one does not starve the others of its thread.
const TURNS: usize = 8;

/// How the cover ends a connection, and where random bytes come from.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Payload of the record that the cover's close alert comes in; `None` if it sends none.
    pub close_alert: Option<u16>,
    /// Random bytes for NOP frames.
    pub filler: fn() -> u8,
}

impl Manner {
    /// What stands in for the close alert, where the stream allows for it.
    fn close_alert(self, down: &mut Downlink) -> Vec<u8> {
        self.close_alert.and_then(|length| down.nops(length.into(), self.filler)).unwrap_or_default()
    }
}

/// A client and its data centre.
#[derive(Debug)]
pub struct Session {
    client: TcpStream,
    dc: TcpStream,
    up: Up,
    down: Down,
    manner: Manner,
    meter: Arc<Meter>,
    /// Why and when the session was ended from our side; what the client still sends is thrown away.
    ended: Option<(End, Instant)>,
}

#[derive(Debug)]
struct Up {
    transform: Uplink,
    unsent: Unsent,
    open: bool,
}

#[derive(Debug)]
struct Down {
    transform: Downlink,
    unsent: Unsent,
    open: bool,
}

impl Session {
    /// A session whose header and first payload have been sent. It counts what it moves from now on in `meter`, and ends
    /// when that says so.
    pub fn new(
        client: TcpStream,
        dc: TcpStream,
        up: Uplink,
        down: Downlink,
        manner: Manner,
        meter: Arc<Meter>,
    ) -> Self {
        let up = Up { transform: up, unsent: Unsent::default(), open: true };
        let down = Down { transform: down, unsent: Unsent::default(), open: true };
        Self { client, dc, up, down, manner, meter, ended: None }
    }

    /// Moves bytes until both sides are done, one of them broke, or nothing moved for `idle`. The counts are of bytes on
    /// the wire, without those that opened the session.
    ///
    /// Half-close is passed on: the end of one direction leaves the other open. Whatever ends a session ends it as the
    /// cover would, with a close alert and a FIN, and never with a reset that the client did not cause; only a caller
    /// that drops this future does not wait for that.
    pub async fn run(mut self, idle: Duration) -> Closed {
        let mut timer = pin!(sleep_until(Instant::now() + idle));
        let mut alive = Instant::now();
        let by = poll_fn(|context| self.poll(context, timer.as_mut(), &mut alive, idle)).await;
        if by == End::ClientBroke {
            reset_on_close(&self.dc);
        }
        Closed { by, up: self.meter.up(), down: self.meter.down() }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        alive: &mut Instant,
        idle: Duration,
    ) -> Poll<End> {
        for _ in 0..TURNS {
            let before = self.written();
            let progress = match self.step(context) {
                Ok(progress) => progress || self.written() != before,
                Err(End::ClientBroke) => return Poll::Ready(End::ClientBroke),
                Err(end) => self.say_goodbye(end),
            };
            if !self.up.open && !self.down.open && self.up.unsent.is_empty() && self.down.unsent.is_empty() {
                return Poll::Ready(self.reason());
            }
            if progress {
                *alive = Instant::now();
                continue;
            }
            let deadline = self.ended.map_or(*alive + idle, |(_, since)| since + LINGER);
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if self.ended.is_some() || !self.down.open {
                return Poll::Ready(self.reason());
            }
            self.say_goodbye(End::Idle);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn reason(&self) -> End {
        self.ended.map_or(End::Finished, |(end, _)| end)
    }

    fn written(&self) -> u64 {
        self.up.unsent.written() + self.down.unsent.written()
    }

    /// Moves what can be moved now, in both directions; says whether anything came.
    fn step(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let up = self.step_up(context)?;
        let down = self.step_down(context)?;
        Ok(up || down)
    }

    fn step_up(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let up = &mut self.up;
        if !up.unsent.is_empty() {
            match up.unsent.poll_write(&self.dc, context) {
                Poll::Pending => return Ok(false),
                Poll::Ready(outcome) => outcome.map_err(|_| End::FarBroke)?,
            }
            if !up.open {
                shut(&self.dc);
            }
        }
        if !up.open {
            return Ok(false);
        }
        let far_gone = self.ended.is_some();
        with_buffer(|buffer| match poll_read(&self.client, context, |client| client.try_read(buffer)) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_)) => Err(End::ClientBroke),
            Poll::Ready(Ok(0)) => {
                up.open = false;
                if up.unsent.is_empty() {
                    shut(&self.dc);
                }
                Ok(true)
            }
            Poll::Ready(Ok(_)) if far_gone => Ok(true),
            Poll::Ready(Ok(read)) => up.forward(&self.dc, &mut buffer[..read]).map(|()| true),
        })
    }

    fn step_down(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let down = &mut self.down;
        if !down.unsent.is_empty() {
            match down.unsent.poll_write(&self.client, context) {
                Poll::Pending => return Ok(false),
                Poll::Ready(outcome) => outcome.map_err(|_| End::ClientBroke)?,
            }
            if !down.open {
                shut(&self.client);
            }
        }
        if !down.open {
            return Ok(false);
        }
        let filler = self.manner.filler;
        let read = with_buffer(|buffer| {
            let into = |dc: &TcpStream| dc.try_read_vectored(&mut down.transform.room(buffer));
            let read = match poll_read(&self.dc, context, into) {
                Poll::Pending => None,
                Poll::Ready(read) => Some(read.map_err(|_| End::FarBroke)?),
            };
            if read.is_none() && down.transform.is_waiting() {
                down.transform.room(buffer);
            }
            // With nothing more to be read for now, what was kept for a larger record goes out as it is.
            if read.is_some_and(|read| read > 0) || down.transform.is_waiting() {
                let length = down.transform.frame(buffer, read.unwrap_or(0), filler);
                let records = IoSlice::new(&buffer[..length]);
                down.unsent.write(&self.client, &[records]).map_err(|_| End::ClientBroke)?;
            }
            Ok(read)
        })?;
        if read == Some(0) {
            self.end_downlink();
        }
        Ok(read.is_some())
    }

    /// The session is over for a reason of ours or the data centre's: the client gets the cover's kind of ending, and
    /// what it still sends is thrown away. Says whether that changed anything.
    fn say_goodbye(&mut self, end: End) -> bool {
        if self.ended.is_some() {
            return false;
        }
        self.ended = Some((end, Instant::now()));
        self.up.unsent.clear();
        shut(&self.dc);
        if self.down.open {
            self.end_downlink();
        }
        true
    }

    fn end_downlink(&mut self) {
        let down = &mut self.down;
        down.open = false;
        let last = [down.transform.cut_short(), self.manner.close_alert(&mut down.transform)].concat();
        if down.unsent.is_empty() {
            // If the client is gone, its side tells so at the next read.
            let _ = down.unsent.write(&self.client, &[IoSlice::new(&last)]);
            if down.unsent.is_empty() {
                shut(&self.client);
            }
        } else {
            down.unsent.append(&last);
        }
    }
}

impl Up {
    fn forward(&mut self, dc: &TcpStream, bytes: &mut [u8]) -> Result<(), End> {
        let mut ranges = Vec::with_capacity(1 + bytes.len() / 1024);
        let outcome = self.transform.transform(bytes, |range| ranges.push(range));
        let slices: Vec<IoSlice<'_>> = ranges.into_iter().map(|range| IoSlice::new(&bytes[range])).collect();
        self.unsent.write(dc, &slices).map_err(|_| End::FarBroke)?;
        outcome.map_err(|_| End::BadRecord)
    }
}

/// Ends a session that has no data centre as the cover would end one: with a close alert and a FIN. What the client still
/// sends is thrown away.
pub async fn goodbye(client: TcpStream, mut down: Downlink, manner: Manner) {
    let alert = manner.close_alert(&mut down);
    let throw_away = async {
        // If the client is gone already, nobody is left to be told.
        if client.writable().await.is_ok() && client.try_write(&alert).is_ok() {
            shut(&client);
        }
        while client.readable().await.is_ok() {
            let read = with_buffer(|buffer| attempt(client.try_read(buffer)));
            if matches!(read, Err(_) | Ok(Some(0))) {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, throw_away).await;
}

/// Reads when there is something to be read. `Pending` only after the socket has said that there is nothing, for only
/// then will it wake the task.
fn poll_read(
    from: &TcpStream,
    context: &mut Context<'_>,
    mut read: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(context))?;
        if let Some(read) = attempt(read(from))? {
            return Poll::Ready(Ok(read));
        }
    }
}

/// Lends the thread's buffer for the length of a call.
fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; FRAMING_BUFFER].into_boxed_slice());
    }
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}
