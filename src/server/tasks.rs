//! The tasks of connections, and the end of all of them.
//!
//! A connection is polled for each of its messages, so nothing that all connections share may be asked there: anyone who ends
//! them does it from outside.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

use tokio::task::JoinSet;

/// Tasks that are running.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    running: JoinSet<()>,
    over: bool,
}

impl Tasks {
    /// Runs this in a task of its own, unless all were ended before.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut held = self.lock();
        if !held.over {
            held.running.spawn(task);
        }
    }

    /// Returns the number of running tasks.
    pub fn len(&self) -> usize {
        self.lock().running.len()
    }

    /// Waits until none is running.
    pub async fn wait(&self) {
        poll_fn(|context| {
            let mut held = self.lock();
            while ready!(held.running.poll_join_next(context)).is_some() {}
            Poll::Ready(())
        })
        .await;
    }

    /// Ends all of them, and those to come.
    pub fn end(&self) {
        let mut held = self.lock();
        held.over = true;
        held.running.abort_all();
    }

    /// Locks the tasks and drops those that have ended; a panic has reported itself.
    fn lock(&self) -> MutexGuard<'_, Held> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while held.running.try_join_next().is_some() {}
        held
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn tasks_are_counted_and_waited_for() {
        let (tasks, go) = (Tasks::default(), Arc::new(Notify::new()));
        tasks.wait().await;
        for _ in 0..2 {
            let go = Arc::clone(&go);
            tasks.spawn(async move { go.notified().await });
        }
        tasks.spawn(async { panic!("its own affair") });
        tokio::task::yield_now().await;
        assert_eq!(tasks.len(), 2);
        go.notify_one();
        tokio::task::yield_now().await;
        assert_eq!(tasks.len(), 1);
        go.notify_one();
        tasks.wait().await;
        assert_eq!(tasks.len(), 0);
    }

    #[tokio::test]
    async fn all_are_ended_and_none_begins_any_more() {
        let (tasks, held) = (Tasks::default(), Arc::new(()));
        for _ in 0..3 {
            let held = Arc::clone(&held);
            tasks.spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        tokio::task::yield_now().await;
        tasks.end();
        tasks.wait().await;
        let late = Arc::clone(&held);
        tasks.spawn(async move { drop(late) });
        assert_eq!((tasks.len(), Arc::strong_count(&held)), (0, 1));
    }
}
