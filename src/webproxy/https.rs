//! The carriers `https` and `https-lanes`: frames in the bodies of requests and answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{sleep_until, timeout};

use super::frame::{MAX_BATCH, WELCOME};
use super::live::LiveSession;
use super::reply::{answer, busy, refused};
use super::session::{Down, Poll, Up};
use crate::cover::site::extension::{ExtensionAnswer, RequestBody};

/// Time for a body to arrive.
const BODY: Duration = Duration::from_secs(30);

/// Time that a poll waits for frames.
const POLL: Duration = Duration::from_secs(25);

const FRAMES: (&str, std::borrow::Cow<'static, str>) =
    ("Content-Type", std::borrow::Cow::Borrowed("application/octet-stream"));

/// A body of so many bytes at most, if it comes whole and in time.
pub(super) async fn body(body: RequestBody, most: usize) -> Option<Bytes> {
    timeout(BODY, body.whole(most)).await.ok().flatten()
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
    let Some(batch) = body(incoming, MAX_BATCH).await.filter(|batch| !batch.is_empty()) else { return refused() };
    live.heard_from(peer);
    match live.act(|session| session.up(lane, sequence, batch, Instant::now())) {
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
    // A poll sends an earlier one home, so all of them have to look.
    let mut down = live.act(|session| session.down(lane, cursor, Instant::now()));
    let mut waiting = WaitingPoll { live: Arc::clone(&live), poll: None };
    let mut late = false;
    while let Down::Wait(poll) = down {
        waiting.poll = Some(poll);
        let mut changed = std::pin::pin!(live.changed());
        changed.as_mut().enable();
        // What has changed before it was enabled is seen by asking now.
        down = waiting.ask(late);
        if let Down::Wait(poll) = down {
            waiting.poll = Some(poll);
            tokio::select! {
                () = changed => {}
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
