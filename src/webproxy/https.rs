//! The carriers `https` and `https-lanes`: frames in the bodies of requests and answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::time::{sleep_until, timeout};

use super::budget::BudgetShare;
use super::frame::{MAX_BATCH, MAX_HELLO, WELCOME};
use super::live::LiveSession;
use super::reply::{answer, busy, refused};
use super::session::{Down, Poll, Up};
use crate::cover::site::extension::{ExtensionAnswer, RequestBody};

/// Time for a body to arrive, as long as it is short.
const BODY: Duration = Duration::from_secs(30);

/// Longest silence within a longer one.
const SILENCE: Duration = Duration::from_secs(20);

/// Least rate of a longer body, in bytes a second. A batch is made up before it is known what the line takes, so that two
/// megabytes may well be on their way for minutes; what comes has to come, and no faster.
const RATE: u64 = 1 << 10;

/// Time that a poll waits for frames.
const POLL: Duration = Duration::from_secs(25);

const FRAMES: (&str, std::borrow::Cow<'static, str>) =
    ("Content-Type", std::borrow::Cow::Borrowed("application/octet-stream"));

/// The body that asks for a session, if it comes whole and in time.
pub(super) async fn hello(body: RequestBody) -> Option<Bytes> {
    timeout(BODY, body.whole(MAX_HELLO)).await.ok().flatten()
}

/// Outcome of receiving a batch.
enum Received {
    Batch(Bytes),
    /// It is longer than it may be, or broke off, or came too slowly.
    Unusable,
    /// There is no memory for it now.
    NoMemory,
}

/// Receives a batch. Each piece of it is counted in `memory` before it is kept.
async fn receive(mut body: RequestBody, memory: &mut BudgetShare) -> Received {
    let (begun, mut all) = (tokio::time::Instant::now(), BytesMut::new());
    loop {
        let earned = BODY + Duration::from_secs(all.len() as u64 / RATE);
        let patience = SILENCE.min(earned.saturating_sub(begun.elapsed()));
        let piece = match timeout(patience, body.next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(None) => return Received::Batch(all.freeze()),
            Ok(Some(Err(_))) | Err(_) => return Received::Unusable,
        };
        let length = all.len() + piece.len();
        if length > MAX_BATCH {
            return Received::Unusable;
        }
        // The buffer grows to twice what it has.
        let room =
            if length <= all.capacity() { all.capacity() } else { length.max(2 * all.capacity()).min(MAX_BATCH) };
        if !memory.try_set(room) {
            return Received::NoMemory;
        }
        all.reserve(room - all.len());
        all.extend_from_slice(&piece);
    }
}

/// The answer that begins a session.
pub(super) fn welcome(live: &LiveSession) -> ExtensionAnswer {
    let mode = live.ask(|session| session.mode());
    let fields = [
        FRAMES,
        ("X-Session-Token", live.token().text().into()),
        ("X-Carrier-Mode", mode.name().into()),
        ("X-Down-Cursor", "0".into()),
    ];
    answer(200, &fields, vec![Bytes::from_static(&WELCOME)])
}

/// Frames from the app.
pub(super) async fn up(
    live: &Arc<LiveSession>,
    sequence: u64,
    lane: Option<u32>,
    peer: std::net::SocketAddr,
    incoming: RequestBody,
) -> ExtensionAnswer {
    let mut memory = live.memory();
    let batch = match receive(incoming, &mut memory).await {
        Received::Batch(batch) if !batch.is_empty() => batch,
        Received::Batch(_) | Received::Unusable => return refused(),
        Received::NoMemory => return busy(),
    };
    live.heard_from(peer);
    match live.act_on(lane.unwrap_or(0), |session| session.up(lane, sequence, batch, Instant::now())) {
        Up::Acknowledged(sequence) => answer(204, &[("X-Up-Ack", sequence.to_string().into())], Vec::new()),
        Up::Busy => busy(),
        Up::Refused | Up::Ended => refused(),
    }
}

/// A poll that waits, which the session has to know about when it is given up.
struct WaitingPoll {
    live: Arc<LiveSession>,
    poll: Option<Poll>,
}

impl WaitingPoll {
    /// Asks whether there is something for the poll by now.
    fn ask(&mut self, give_up: bool) -> Down {
        match self.poll.take() {
            Some(poll) => self.live.take(|session| session.waited(poll, Instant::now(), give_up)),
            None => Down::Refused,
        }
    }
}

impl Drop for WaitingPoll {
    fn drop(&mut self) {
        if let Some(poll) = self.poll.take() {
            self.live.act(|session| session.abandoned(poll, Instant::now()));
        }
    }
}

/// Frames for the app, as soon as there are some.
pub(super) async fn down(live: Arc<LiveSession>, cursor: u64, lane: Option<u32>) -> ExtensionAnswer {
    let give_up = tokio::time::Instant::now() + POLL;
    // A poll sends an earlier one home, so all of its lane have to look.
    let mut down = live.act_on(lane.unwrap_or(0), |session| session.down(lane, cursor, Instant::now()));
    let mut waiting = WaitingPoll { live: Arc::clone(&live), poll: None };
    let mut late = false;
    while let Down::Wait(poll) = down {
        waiting.poll = Some(poll);
        // What has changed before is seen by asking now.
        let mut changed = live.changed(lane);
        down = waiting.ask(late);
        if let Down::Wait(poll) = down {
            waiting.poll = Some(poll);
            tokio::select! {
                () = changed.wait() => {}
                () = sleep_until(give_up) => late = true,
            }
            down = waiting.ask(late);
        }
    }
    match down {
        Down::Batch { cursor, batch } => {
            answer(200, &[FRAMES, ("X-Down-Cursor", cursor.to_string().into())], batch.into_parts())
        }
        Down::Empty { cursor } => answer(204, &[("X-Down-Cursor", cursor.to_string().into())], Vec::new()),
        Down::LaneClosed { cursor } => {
            let fields = [("X-Down-Cursor", cursor.to_string().into()), ("X-Lane-Closed", "1".into())];
            answer(204, &fields, Vec::new())
        }
        Down::Wait(_) | Down::Refused | Down::Ended => refused(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::SecretTag;
    use crate::webproxy::budget::{Budget, FLOOR};

    const PIECE: usize = 8 << 10;

    fn share(budget: &Arc<Budget>) -> BudgetShare {
        BudgetShare::new(budget.key(SecretTag::NONE))
    }

    /// Has so many pieces received, of which one comes in each of these times; says how many bytes that made.
    async fn received(pieces: usize, length: usize, each: Duration) -> Option<usize> {
        let (send, body) = RequestBody::in_pieces();
        tokio::spawn(async move {
            for _ in 0..pieces {
                tokio::time::sleep(each).await;
                send(vec![0; length].into());
            }
        });
        match receive(body, &mut share(&Arc::new(Budget::new(64 << 20)))).await {
            Received::Batch(batch) => Some(batch.len()),
            Received::Unusable | Received::NoMemory => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_its_time_as_long_as_it_comes() {
        let seconds = Duration::from_secs;
        assert_eq!(received(255, PIECE, seconds(1)).await, Some(255 * PIECE), "two megabytes at 64 kbit/s");
        assert_eq!(received(3, 100, seconds(1)).await, Some(300));
        assert_eq!(received(10, PIECE, seconds(25)).await, None, "it stands still");
        assert_eq!(received(1000, 10, seconds(5)).await, None, "it is dripped");
        assert_eq!(received(257, PIECE, Duration::ZERO).await, None, "it is too long");
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_are_being_received_are_bounded_together() {
        let budget = Arc::new(Budget::new(8 << 20));
        let (mut refused, mut bodies) = (0, Vec::new());
        for _ in 0..100 {
            let (send, body) = RequestBody::in_pieces();
            (0..128).for_each(|_| assert!(send(vec![0; PIECE].into())));
            let mut memory = share(&budget);
            // The end of none of them comes.
            match timeout(Duration::from_secs(1), receive(body, &mut memory)).await {
                Ok(outcome) => refused += usize::from(matches!(outcome, Received::NoMemory)),
                Err(_) => bodies.push((send, memory)),
            }
        }
        assert!(budget.used() <= (4 << 20) + 2 * MAX_BATCH + 100 * FLOOR, "{}", budget.used());
        assert!(refused > 50 && bodies.len() >= 2, "{refused} refused");
        drop(bodies);
        assert_eq!(budget.used(), 0);
    }
}
