//! The clients of one link: who sits on it under which number, and what waits for each of them.
//!
//! A middle proxy sends answers of all clients over one connection, as fast as that is read, and cannot be told to wait
//! with those of one of them. So what a client does not take in time has to be kept here. How much that may be is
//! bounded: for each client, and more tightly the more waits for all of them together. A client above its bound is let
//! go, for it cannot be made to wait without making all others wait.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::relay::End;
use crate::relay::packets::Reply;
use crate::wire::rpc::ConnectionId;

/// Most bytes that wait for one client, if little waits for others: more than clients ask for at once when they load
/// files, which is 16 MiB in a session of Telegram Desktop and less elsewhere, so that a slow one loses nothing but time.
pub const MOST_FOR_ONE: usize = 20 << 20;

/// Bytes that may wait for every client, however many wait for others.
pub const LEAST_FOR_ONE: usize = 64 << 10;

/// Most bytes that wait for all clients together, but for [`LEAST_FOR_ONE`] of each.
pub const MOST_FOR_ALL: usize = 128 << 20;

/// Bytes that a session takes at once.
const BATCH: usize = 64 << 10;

/// Number of bytes that wait for all clients of all links.
#[derive(Debug, Default)]
pub struct Waiting(AtomicUsize);

impl Waiting {
    /// Returns the number of bytes that wait.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns the most bytes that may wait for one client: a part of what is left, so that many slow ones get less
    /// each.
    fn bound(&self) -> usize {
        bound(self.bytes())
    }
}

fn bound(waiting: usize) -> usize {
    (MOST_FOR_ALL.saturating_sub(waiting) / 4).clamp(LEAST_FOR_ONE, MOST_FOR_ONE)
}

/// One client's place on a link.
#[derive(Debug)]
pub struct StreamSlot {
    waiting: Arc<Waiting>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    replies: VecDeque<Reply>,
    bytes: usize,
    ended: Option<End>,
    waker: Option<Waker>,
}

impl StreamSlot {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts it into the queue, unless too much is in there: then the queue is emptied and the client's time is over.
    fn push(&self, reply: Reply) -> bool {
        let mut queue = self.lock();
        if queue.ended.is_some() {
            return true;
        }
        let fits = queue.bytes == 0 || queue.bytes + reply.size() <= self.waiting.bound();
        if fits {
            queue.bytes += reply.size();
            self.waiting.0.fetch_add(reply.size(), Ordering::Relaxed);
            queue.replies.push_back(reply);
        } else {
            self.waiting.0.fetch_sub(queue.bytes, Ordering::Relaxed);
            (queue.replies, queue.bytes, queue.ended) = (VecDeque::new(), 0, Some(End::Slow));
        }
        wake(queue);
        fits
    }

    fn end(&self, end: End) {
        let mut queue = self.lock();
        queue.ended.get_or_insert(end);
        wake(queue);
    }

    /// Whether no more comes.
    pub fn is_over(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// Takes what waits, as [`crate::relay::packets::Port::poll_receive`].
    pub fn poll_receive(&self, context: &mut Context<'_>, replies: &mut Vec<Reply>) -> Poll<Result<(), End>> {
        let mut queue = self.lock();
        let mut taken = 0;
        while taken < BATCH
            && let Some(reply) = queue.replies.pop_front()
        {
            taken += reply.size();
            replies.push(reply);
        }
        if replies.is_empty() {
            return match queue.ended {
                Some(end) => Poll::Ready(Err(end)),
                None => {
                    queue.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            };
        }
        queue.bytes -= taken;
        if queue.replies.is_empty() {
            // Anyone who rests holds no memory.
            queue.replies = VecDeque::new();
        }
        drop(queue);
        self.waiting.0.fetch_sub(taken, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let left = self.lock().bytes;
        self.waiting.0.fetch_sub(left, Ordering::Relaxed);
    }
}

fn wake(mut queue: MutexGuard<'_, Queue>) {
    let waker = queue.waker.take();
    drop(queue);
    waker.into_iter().for_each(Waker::wake);
}

/// Outcome of a delivery to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It waits for the client, or the client is about to go anyway.
    Done,
    /// No one sits there any more.
    Unknown,
    /// It was too much, and the client has to go.
    TooMuch,
}

/// All clients of a link.
#[derive(Debug, Default)]
pub struct StreamTable {
    waiting: Arc<Waiting>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    streams: HashMap<ConnectionId, Arc<StreamSlot>>,
    /// No one sits down any more.
    shut: bool,
}

impl StreamTable {
    /// An empty link; what waits for its clients is counted here.
    pub fn new(waiting: Arc<Waiting>) -> Self {
        Self { waiting, taken: Mutex::default() }
    }

    /// A place under this number, which is random; `None` if no one sits down any more, or the number is someone's.
    pub fn take(&self, id: ConnectionId) -> Option<Arc<StreamSlot>> {
        let mut taken = self.lock();
        if taken.shut || taken.streams.contains_key(&id) {
            return None;
        }
        let seat = Arc::new(StreamSlot { waiting: Arc::clone(&self.waiting), queue: Mutex::default() });
        taken.streams.insert(id, Arc::clone(&seat));
        Some(seat)
    }

    /// The client is gone. Says whether that was the last, and no other comes.
    pub fn leave(&self, id: ConnectionId) -> bool {
        let mut taken = self.lock();
        taken.streams.remove(&id);
        taken.shut && taken.streams.is_empty()
    }

    /// No one sits down from now on. Says whether no one sits there.
    pub fn shut(&self) -> bool {
        let mut taken = self.lock();
        taken.shut = true;
        taken.streams.is_empty()
    }

    /// Whether no one sits down any more.
    pub fn is_shut(&self) -> bool {
        self.lock().shut
    }

    /// Returns the number of clients.
    pub fn count(&self) -> usize {
        self.lock().streams.len()
    }

    /// Something for a client.
    pub fn deliver(&self, id: ConnectionId, reply: Reply) -> Delivery {
        let Some(seat) = self.lock().streams.get(&id).cloned() else { return Delivery::Unknown };
        if seat.push(reply) { Delivery::Done } else { Delivery::TooMuch }
    }

    /// The far side has ended one of them.
    pub fn end(&self, id: ConnectionId, end: End) {
        let seat = self.lock().streams.get(&id).cloned();
        if let Some(seat) = seat {
            seat.end(end);
        }
    }

    /// The link is gone, and everybody on it has to go.
    pub fn end_all(&self, end: End) {
        let mut taken = self.lock();
        taken.shut = true;
        let streams: Vec<_> = taken.streams.values().cloned().collect();
        drop(taken);
        streams.iter().for_each(|seat| seat.end(end));
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ConnectionId = ConnectionId(1);

    fn reply(bytes: usize) -> Reply {
        Reply::Packet(vec![1; bytes].into())
    }

    fn receive(seat: &StreamSlot) -> Poll<Result<usize, End>> {
        let mut replies = Vec::new();
        let outcome = seat.poll_receive(&mut Context::from_waker(Waker::noop()), &mut replies);
        outcome.map(|outcome| outcome.map(|()| replies.iter().map(Reply::size).sum()))
    }

    #[test]
    fn what_waits_is_handed_out_in_order_and_before_the_end() {
        let streams = StreamTable::default();
        let seat = streams.take(ID).unwrap();
        assert!(streams.take(ID).is_none(), "a number is someone's");
        assert!(receive(&seat).is_pending());
        for bytes in [40, BATCH, 100] {
            assert_eq!(streams.deliver(ID, reply(bytes)), Delivery::Done);
        }
        streams.end(ID, End::Finished);
        assert_eq!(streams.deliver(ID, reply(4)), Delivery::Done, "no one is told of what came too late");
        assert_eq!(streams.waiting.bytes(), 140 + BATCH);
        assert_eq!(receive(&seat), Poll::Ready(Ok(40 + BATCH)));
        assert_eq!(receive(&seat), Poll::Ready(Ok(100)));
        assert_eq!(streams.waiting.bytes(), 0);
        assert_eq!(receive(&seat), Poll::Ready(Err(End::Finished)));
        assert!(!streams.leave(ID), "others may come");
        assert_eq!(streams.deliver(ID, reply(4)), Delivery::Unknown);
    }

    #[test]
    fn who_takes_nothing_goes_and_the_others_stay() {
        let streams = StreamTable::default();
        let (slow, quick) = (streams.take(ID).unwrap(), streams.take(ConnectionId(2)).unwrap());
        let mut held = 0;
        while streams.deliver(ID, reply(1 << 20)) == Delivery::Done {
            held += 1 << 20;
            assert!(held <= MOST_FOR_ONE);
        }
        assert_eq!(held, MOST_FOR_ONE);
        assert_eq!((streams.waiting.bytes(), receive(&slow)), (0, Poll::Ready(Err(End::Slow))));
        assert_eq!(streams.deliver(ConnectionId(2), reply(2 << 20)), Delivery::Done);
        assert_eq!(receive(&quick), Poll::Ready(Ok(2 << 20)));
        let _ = streams.deliver(ConnectionId(2), reply(77));
        streams.leave(ConnectionId(2));
        drop(quick);
        assert_eq!(streams.waiting.bytes(), 0, "what no one takes any more is given back");
    }

    #[test]
    fn many_slow_clients_share_what_there_is() {
        let streams = StreamTable::default();
        let held: Vec<_> = (0..2000).map(|id| streams.take(ConnectionId(id)).unwrap()).collect();
        // Everybody is sent a megabyte, piece by piece, and takes nothing.
        for _ in 0..64 {
            (0..2000).for_each(|id| _ = streams.deliver(ConnectionId(id), reply(16 << 10)));
        }
        assert!(streams.waiting.bytes() <= MOST_FOR_ALL + 2000 * LEAST_FOR_ONE, "{}", streams.waiting.bytes());
        assert!(held.iter().any(|seat| seat.is_over()) && held.iter().any(|seat| !seat.is_over()));
        assert_eq!((bound(0), bound(usize::MAX)), (MOST_FOR_ONE, LEAST_FOR_ONE));
    }

    #[test]
    fn nobody_sits_down_on_a_link_that_is_gone() {
        let streams = StreamTable::default();
        let seat = streams.take(ID).unwrap();
        streams.end_all(End::FarBroke);
        assert_eq!(receive(&seat), Poll::Ready(Err(End::FarBroke)));
        assert!(streams.take(ConnectionId(2)).is_none() && streams.is_shut());
        assert!(streams.leave(ID), "no one is left");
    }
}
