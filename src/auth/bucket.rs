//! A limit of bytes in a second, as arithmetic on given times.

use std::time::{Duration, Instant};

/// Burst after a quiet time, as time at the full rate.
const BURST: Duration = Duration::from_millis(250);

/// Divisor of the rate that gives the largest single read, a twentieth of a second: the smaller the read, the smoother.
const GRAIN: u64 = 20;

/// Smallest single read that is worth it.
const LEAST: u64 = 4096;

/// One direction of one member. What was moved is paid for afterwards: who moved something may move nothing more before
/// it would have gone through at the given rate. So the average holds whatever the sizes are.
#[derive(Debug, Default)]
pub struct Bucket {
    paid_until: Option<Instant>,
}

impl Bucket {
    /// Returns the most bytes that may be moved now at `rate` bytes in a second; or when to ask again.
    pub fn ask(&self, rate: u64, now: Instant) -> Result<u64, Instant> {
        match self.paid_until {
            Some(until) if until > now => Err(until),
            _ => Ok((rate / GRAIN).max(LEAST)),
        }
    }

    /// So much was moved.
    pub fn charge(&mut self, rate: u64, bytes: u64, now: Instant) {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.paid_until.map_or(earliest, |until| until.max(earliest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_until = Some(from.checked_add(cost).unwrap_or(now));
    }

    /// Forgets what is still to be paid: another rate holds from now on.
    pub fn forget(&mut self) {
        self.paid_until = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Moves as much as may be moved within `time`, in pieces of at most `piece` bytes.
    fn moved(rate: u64, piece: u64, time: Duration) -> u64 {
        let start = Instant::now();
        let (mut bucket, mut now, mut sum) = (Bucket::default(), start, 0);
        while now < start + time {
            match bucket.ask(rate, now) {
                Ok(most) => {
                    bucket.charge(rate, most.min(piece), now);
                    sum += most.min(piece);
                }
                Err(later) => now = later,
            }
        }
        sum
    }

    #[test]
    fn who_was_quiet_is_a_burst_ahead_and_no_more() {
        let (mut bucket, start) = (Bucket::default(), Instant::now() + Duration::from_secs(10));
        bucket.charge(1000, 250, start);
        assert!(bucket.ask(1000, start).is_ok());
        bucket.charge(1000, 100, start);
        assert_eq!(bucket.ask(1000, start), Err(start + Duration::from_millis(100)));
        let hour = start + Duration::from_secs(3600);
        bucket.charge(1000, 350, hour);
        assert_eq!(bucket.ask(1000, hour), Err(hour + Duration::from_millis(100)));
    }

    proptest! {
        #[test]
        fn the_average_is_the_rate(rate in 1_000u64..2_000_000_000, piece in 1_000u64..70_000, seconds in 1u64..20) {
            let piece = piece.max(rate / 1_000);
            let sum = moved(rate, piece, Duration::from_secs(seconds));
            let largest = (rate / GRAIN).max(LEAST).min(piece);
            prop_assert!(sum >= rate * seconds && sum <= rate * seconds + rate / 4 + 2 * largest, "{sum}");
        }

        #[test]
        fn any_number_is_survived(rate: u64, bytes: u64) {
            let (mut bucket, now) = (Bucket::default(), Instant::now());
            bucket.charge(rate, bytes, now);
            bucket.charge(rate, bytes, now);
            let _ = bucket.ask(rate, now);
        }
    }
}
