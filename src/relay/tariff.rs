//! What a session must ask before it moves bytes. Who answers, and by which rules, is not the relay's business.

use std::fmt::Debug;
use std::task::Waker;
use std::time::Instant;

/// The two directions of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// Whether a session may move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// As many as it likes.
    Free,
    /// This many now, at most.
    Most(u64),
    /// None before this time.
    After(Instant),
    /// None before the waker is called.
    Wait,
    /// None any more: the session ends.
    Over,
}

/// Answers for the sessions of one who shares a limit among them. Called on the threads that move bytes, so it must be
/// quick and never block.
pub trait RateLimiter: Send + Sync + Debug {
    /// Whether there is anything to ask now. Sessions without limits are asked no more than this.
    fn is_due(&self) -> bool;

    /// Whether bytes may be read this way now; there are some to be read.
    fn ask(&self, way: Direction, now: Instant, waker: &Waker) -> Allowance;

    /// So many were read.
    fn charge(&self, way: Direction, bytes: usize, now: Instant);
}
