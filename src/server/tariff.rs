//! A member's limits, as the relay asks for them.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Instant, SystemTime};

use crate::auth::{self, Member};
use crate::relay::tariff::{Leave, Tariff, Way};

/// Asks the member.
#[derive(Debug)]
pub(super) struct Charges(pub Arc<Member>);

impl Tariff for Charges {
    fn is_due(&self) -> bool {
        self.0.is_metered()
    }

    fn ask(&self, way: Way, now: Instant, waker: &Waker) -> Leave {
        match self.0.ask(member_way(way), now, SystemTime::now().into(), waker) {
            auth::Leave::Free => Leave::Free,
            auth::Leave::Most(bytes) => Leave::Most(bytes),
            auth::Leave::After(later) => Leave::After(later),
            auth::Leave::Wait => Leave::Wait,
            auth::Leave::Over => Leave::Over,
        }
    }

    fn charge(&self, way: Way, bytes: usize, now: Instant) {
        self.0.charge(member_way(way), bytes as u64, now, SystemTime::now().into());
    }
}

fn member_way(way: Way) -> auth::Way {
    match way {
        Way::Up => auth::Way::Up,
        Way::Down => auth::Way::Down,
    }
}
