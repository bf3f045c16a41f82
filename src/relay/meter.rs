//! What the rest of the program may know of a running session and do to it: how much it has moved, and that it shall end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};

/// The outside of one session. Whoever else holds it can read its counters at any time and end the session.
#[derive(Debug, Default)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
    ending: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Meter {
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

    pub(super) fn add_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Whether the session shall end; if not, the task is woken once it shall.
    pub(super) fn poll_end(&self, context: &Context<'_>) -> bool {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match &*waker {
            Some(known) if known.will_wake(context.waker()) => {}
            _ => *waker = Some(context.waker().clone()),
        }
        // Behind the lock, or within it: `end` finds the waker, or this finds the word.
        self.ending.load(Ordering::Acquire)
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

    #[test]
    fn counters_can_be_read_while_they_grow() {
        let meter = Meter::default();
        meter.add_up(5);
        meter.add_down(7);
        meter.add_up(1);
        assert_eq!((meter.up(), meter.down()), (6, 7));
    }
}
