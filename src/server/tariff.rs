//! A member's limits, as the relay asks for them.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Instant, SystemTime};

use crate::auth::{self, Member};
use crate::relay::tariff::{Allowance, Direction, RateLimiter};

/// Asks the member.
#[derive(Debug)]
pub(super) struct UserLimiter(pub Arc<Member>);

impl RateLimiter for UserLimiter {
    fn is_due(&self) -> bool {
        self.0.is_metered()
    }

    fn ask(&self, way: Direction, now: Instant, waker: &Waker) -> Allowance {
        match self.0.ask(member_way(way), now, SystemTime::now().into(), waker) {
            auth::Allowance::Free => Allowance::Free,
            auth::Allowance::Most(bytes) => Allowance::Most(bytes),
            auth::Allowance::After(later) => Allowance::After(later),
            auth::Allowance::Wait => Allowance::Wait,
            auth::Allowance::Over => Allowance::Over,
        }
    }

    fn charge(&self, way: Direction, bytes: usize, now: Instant) {
        self.0.charge(member_way(way), bytes as u64, now, SystemTime::now().into());
    }
}

fn member_way(way: Direction) -> auth::Direction {
    match way {
        Direction::Up => auth::Direction::Up,
        Direction::Down => auth::Direction::Down,
    }
}
