//! What the rest of the program may know of a running session and do to it: how much it has moved, and that it shall end.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, sleep_until};

use super::tariff::{Allowance, Direction, RateLimiter};

/// The outside of one session. Anyone else who holds it can read its counters at any time and end the session.
#[derive(Debug, Default)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
    ending: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// Counts that [`Meter::news`] has already told.
    told: Mutex<(u64, u64)>,
    tariff: Option<Arc<dyn RateLimiter>>,
}

impl Meter {
    /// The meter of a session that asks before it moves anything.
    pub fn with_tariff(tariff: Arc<dyn RateLimiter>) -> Self {
        Self { tariff: Some(tariff), ..Self::default() }
    }

    /// Bytes from and to the client since this was last asked for: each is told once.
    pub fn news(&self) -> (u64, u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.up(), self.down());
        let before = std::mem::replace(&mut *told, now);
        (now.0 - before.0, now.1 - before.1)
    }

    /// Bytes that came from the client, record headers included.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes that left for the client, record headers included.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Ends the session as the cover would end a connection, soon. Does nothing to one that is over.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn add_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whom to ask before anything is moved, if anybody.
    pub(super) fn tariff(&self) -> Option<&dyn RateLimiter> {
        self.tariff.as_deref().filter(|tariff| tariff.is_due())
    }

    /// Counts bytes from the client that were read before there was a session, and waits until they may be moved; says
    /// whether they may.
    pub(crate) async fn opened_with(&self, bytes: usize) -> bool {
        self.add_up(bytes);
        let mut left = bytes;
        while left > 0 {
            let Some(most) = self.leave(Direction::Up).await else { return false };
            let most = most.min(left);
            self.charge(Direction::Up, most);
            left -= most;
        }
        true
    }

    /// Waits until bytes may be moved this way, and says how many at most; `None` if none may any more.
    pub(crate) async fn leave(&self, way: Direction) -> Option<usize> {
        loop {
            let Some(tariff) = self.tariff() else { return Some(usize::MAX) };
            let leave = poll_fn(|context| match tariff.ask(way, Instant::now().into_std(), context.waker()) {
                Allowance::Wait if !self.poll_end(context) => Poll::Pending,
                leave => Poll::Ready(leave),
            });
            match leave.await {
                Allowance::Free => return Some(usize::MAX),
                Allowance::Most(most) => return Some(usize::try_from(most).unwrap_or(usize::MAX)),
                Allowance::After(later) => tokio::select! {
                    () = sleep_until(later.into()) => {}
                    () = self.ended() => return None,
                },
                Allowance::Wait | Allowance::Over => return None,
            }
        }
    }

    /// So many bytes were moved this way.
    pub(crate) fn charge(&self, way: Direction, bytes: usize) {
        if let Some(tariff) = self.tariff() {
            tariff.charge(way, bytes, Instant::now().into_std());
        }
    }

    /// Whether [`Meter::end`] was called.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Whether the session shall end; if not, the task is woken once it shall.
    pub(crate) fn poll_end(&self, context: &Context<'_>) -> bool {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match &*waker {
            Some(known) if known.will_wake(context.waker()) => {}
            _ => *waker = Some(context.waker().clone()),
        }
        // Behind the lock, or within it: `end` finds the waker, or this finds the word.
        self.ending.load(Ordering::Acquire)
    }

    /// Waits until the session shall end. Only the task that asked last is woken.
    pub(crate) async fn ended(&self) {
        poll_fn(|context| if self.poll_end(context) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_end_is_noticed_before_and_after_it_was_asked_for() {
        let (meter, bell) = (Meter::default(), Arc::new(Bell::default()));
        let waker = Waker::from(Arc::clone(&bell));
        let context = Context::from_waker(&waker);
        assert!(!meter.poll_end(&context) && !meter.poll_end(&context));
        meter.end();
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        assert!(meter.poll_end(&context));
    }

    /// Has this much to give, then lets everybody wait, then is over.
    #[derive(Debug)]
    struct Purse(AtomicU64, AtomicBool);

    impl RateLimiter for Purse {
        fn is_due(&self) -> bool {
            true
        }

        fn ask(&self, _: Direction, _: std::time::Instant, waker: &Waker) -> Allowance {
            match self.0.load(Ordering::Relaxed) {
                0 if self.1.swap(true, Ordering::Relaxed) => Allowance::Over,
                0 => {
                    waker.wake_by_ref();
                    Allowance::Wait
                }
                left => Allowance::Most(left.min(4)),
            }
        }

        fn charge(&self, _: Direction, bytes: usize, _: std::time::Instant) {
            self.0.fetch_sub(bytes as u64, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn what_came_before_the_session_counts_and_is_paid_for() {
        let free = Meter::default();
        assert!(free.opened_with(9).await);
        assert_eq!((free.up(), free.news()), (9, (9, 0)));
        let purse = Arc::new(Purse(AtomicU64::new(10), AtomicBool::new(false)));
        let meter = Meter::with_tariff(Arc::clone(&purse) as _);
        assert!(meter.opened_with(9).await);
        assert_eq!(purse.0.load(Ordering::Relaxed), 1);
        assert!(!meter.opened_with(9).await, "more than there was");
        let purse = Arc::new(Purse(AtomicU64::new(0), AtomicBool::new(false)));
        let ended = Meter::with_tariff(purse as _);
        ended.end();
        assert!(!ended.opened_with(9).await, "no one waits in a session that shall end");
    }

    /// Lets nothing pass for an hour.
    #[derive(Debug)]
    struct Narrow;

    impl RateLimiter for Narrow {
        fn is_due(&self) -> bool {
            true
        }

        fn ask(&self, _: Direction, now: std::time::Instant, _: &Waker) -> Allowance {
            Allowance::After(now + std::time::Duration::from_secs(3600))
        }

        fn charge(&self, _: Direction, _: usize, _: std::time::Instant) {}
    }

    #[tokio::test]
    async fn a_session_that_shall_end_does_not_wait_for_its_bandwidth() {
        let meter = Arc::new(Meter::with_tariff(Arc::new(Narrow)));
        let waiting = tokio::spawn({
            let meter = Arc::clone(&meter);
            async move { meter.opened_with(9).await }
        });
        tokio::task::yield_now().await;
        meter.end();
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await;
        assert!(!waited.expect("it ends").expect("no panic"));
    }

    #[test]
    fn counters_can_be_read_while_they_grow() {
        let meter = Meter::default();
        meter.add_up(5);
        meter.add_down(7);
        meter.add_up(1);
        assert_eq!((meter.up(), meter.down()), (6, 7));
        assert_eq!((meter.news(), meter.news()), ((6, 7), (0, 0)));
    }
}
