//! The records that stand in for a cover's tickets and settings: when each leaves, and in which writes.
//!
//! ```text
//!  client's first record ──delay──▶ writes of the cover, one after the other ──▶ the data centre's first bytes
//!  client's second record ──delay──▶ answer to the preface of HTTP/2, or along with the data centre's first bytes
//! ```
//!
//! A cover says the first part when the handshake is over, and answers a preface that has come. What the data centre says
//! waits for the first part and not for the second: a server puts its answer in front of the page that was asked for, too.

use std::collections::VecDeque;
use std::io;

use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep_until};

use super::attempt;
use super::downlink::Downlink;

/// Resolution of the runtime's clock: what is due within it is due now.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Whether this time has come, as far as the runtime's clock can tell.
pub(super) fn has_come(due: Instant) -> bool {
    due <= Instant::now() + AT_ONCE
}

/// Records still to be sent to a client before, or along with, its data centre's first bytes.
#[derive(Debug, Default)]
pub struct Welcome {
    writes: VecDeque<Vec<u8>>,
    /// Time at which the first of them is due.
    due: Option<Instant>,
    /// Payload sizes of the records of the answer.
    answer: Vec<u16>,
    /// Delay of the answer, and the time at which it is due once the client has spoken again.
    answer_delay: Duration,
    answer_due: Option<Instant>,
}

impl Welcome {
    /// These writes, the first of them at `due`, and an answer of records of these sizes so long after the client's second
    /// record.
    pub fn new(writes: Vec<Vec<u8>>, due: Instant, answer: Vec<u16>, answer_delay: Duration) -> Self {
        let writes = writes.into_iter().filter(|write| !write.is_empty()).collect();
        Self { writes, due: Some(due), answer, answer_delay, answer_due: None }
    }

    /// The client has sent its second record.
    pub fn client_spoke(&mut self, now: Instant) {
        self.answer_due.get_or_insert(now + self.answer_delay);
    }

    /// The next write, if it is due.
    pub fn next(&mut self, now: Instant, down: &mut Downlink) -> Option<Vec<u8>> {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now + AT_ONCE);
        if self.holds_back() {
            return if is_due(self.due) { self.writes.pop_front() } else { None };
        }
        if !is_due(self.answer_due) {
            return None;
        }
        let answer = down.split_lead(&std::mem::take(&mut self.answer));
        (!answer.is_empty()).then_some(answer)
    }

    /// Returns the time at which there is something to be done, as far as that is known.
    pub fn wakes_at(&self) -> Option<Instant> {
        if self.holds_back() { self.due } else { self.answer_due.filter(|_| !self.answer.is_empty()) }
    }

    /// Whether the data centre's bytes have to wait.
    pub fn holds_back(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Time at which the last of it is said that depends on nothing but the time, if any is left.
    pub fn ends_at(&self) -> Option<Instant> {
        self.due.filter(|_| self.holds_back())
    }

    /// Whether there is nothing left to say.
    pub fn is_over(&self) -> bool {
        self.writes.is_empty() && self.answer.is_empty()
    }

    /// Takes the bytes that have to come before anything else, where the session ends now.
    pub fn rest(&mut self) -> Vec<u8> {
        self.answer.clear();
        self.writes.drain(..).flatten().collect()
    }

    /// Whether the first write is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now + AT_ONCE)
    }

    /// Says what depends on nothing but the time. Can be dropped and called again.
    pub async fn say(&mut self, client: &TcpStream) -> io::Result<()> {
        if let Some(due) = self.due.filter(|_| self.holds_back() && !self.is_due(Instant::now())) {
            sleep_until(due).await;
        }
        while let Some(write) = self.writes.front_mut() {
            client.writable().await?;
            if let Some(taken) = attempt(client.try_write(write))? {
                write.drain(..taken);
                if write.is_empty() {
                    self.writes.pop_front();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::kdf::KeyIv;
    use crate::relay::sizing::Pattern;

    const DELAY: Duration = Duration::from_millis(30);

    fn welcome(now: Instant, later: &[u16]) -> (Welcome, Downlink) {
        let keys = KeyIv { key: [3; 32], iv: [4; 16] };
        let (down, writes) =
            Downlink::behind_fillers(keys, Pattern::default(), &[vec![200, 200], vec![55]], later, || 7);
        (Welcome::new(writes, now + DELAY, later.to_vec(), DELAY), down)
    }

    #[tokio::test(start_paused = true)]
    async fn writes_leave_at_their_time_and_the_answer_behind_the_clients_word() {
        let start = Instant::now();
        let (mut welcome, mut down) = welcome(start, &[26]);
        assert!(welcome.holds_back() && !welcome.is_due(start));
        assert_eq!((welcome.next(start, &mut down), welcome.wakes_at()), (None, Some(start + DELAY)));
        // A client that is early gets no answer before the rest.
        welcome.client_spoke(start);
        let due = start + DELAY;
        let lengths: Vec<_> = std::iter::from_fn(|| welcome.next(due, &mut down)).map(|write| write.len()).collect();
        assert_eq!(lengths, [410, 60, 31]);
        assert!(welcome.is_over() && !welcome.holds_back());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_takes_its_time_and_needs_a_question() {
        let start = Instant::now();
        let (mut welcome, mut down) = welcome(start, &[26]);
        let later = start + 2 * DELAY;
        assert_eq!(std::iter::from_fn(|| welcome.next(later, &mut down)).count(), 2);
        assert_eq!((welcome.wakes_at(), welcome.is_over()), (None, false));
        welcome.client_spoke(later);
        welcome.client_spoke(later + DELAY);
        assert_eq!(welcome.wakes_at(), Some(later + DELAY));
        assert!(welcome.next(later, &mut down).is_none());
        assert_eq!(welcome.next(later + DELAY, &mut down).map(|write| write.len()), Some(31));
        assert!(welcome.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_takes_along_what_has_to_come_first() {
        let (mut welcome, _) = welcome(Instant::now(), &[]);
        assert_eq!(welcome.rest().len(), 470);
        assert!(welcome.is_over());
    }
}
