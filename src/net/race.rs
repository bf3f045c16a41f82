//! Reaching one of several places: staggered attempts, the first success wins (RFC 8305, "Happy Eyeballs").
//!
//! How a place is reached is the caller's: by a TCP connection, through another proxy, with a handshake on top.

use std::future::poll_fn;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::{Instant, timeout_at};

use super::health::Health;

/// Head start of one attempt before the next begins beside it (RFC 8305 §8).
pub const STAGGER: Duration = Duration::from_millis(250);

/// Reaches whichever of `places` answers first, and says which it was. They are tried in the order that `health` makes of
/// the given one; each attempt begins as soon as one has failed, or [`STAGGER`] after the one before it. Those that are
/// still under way when another has won are dropped.
///
/// `health` is told who won, with the time at which the order was made, and who failed. Failed has also one that began before
/// the winner and was overtaken, so that a place that hangs is waited for once and not by everybody.
///
/// Fails with the first attempt's error when all have failed, or with `TimedOut` after `patience`.
pub async fn race<K, T, F>(
    places: &[K],
    health: &Health<K>,
    patience: Duration,
    mut reach: impl FnMut(K) -> F,
) -> io::Result<(K, T)>
where
    K: Copy + Eq + Hash,
    F: Future<Output = io::Result<T>>,
{
    let now = || Instant::now().into_std();
    let end = Instant::now() + patience;
    // Of what was found since, neither the order nor its success knows.
    let began = now();
    let mut waiting = health.order(places, began).into_iter();
    let (mut attempts, mut failure) = (Attempts(Vec::new()), None);
    loop {
        match waiting.next() {
            Some(place) => attempts.0.push((place, Box::pin(reach(place)))),
            None if attempts.0.is_empty() => {
                return Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address")));
            }
            None => {}
        }
        let next = if waiting.len() > 0 { end.min(Instant::now() + STAGGER) } else { end };
        match timeout_at(next, attempts.first()).await {
            Ok((at, place, Ok(reached))) => {
                health.worked(place, began, now());
                attempts.0[..at].iter().for_each(|(overtaken, _)| health.failed(*overtaken, now()));
                return Ok((place, reached));
            }
            Ok((_, place, Err(error))) => {
                if !is_ours(&error) {
                    health.failed(place, now());
                }
                failure.get_or_insert(error);
            }
            Err(_) if Instant::now() >= end => {
                attempts.0.iter().for_each(|(place, _)| health.failed(*place, now()));
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(_) => {}
        }
    }
}

/// Attempts under way, in the order in which they began.
struct Attempts<K, F>(Vec<(K, Pin<Box<F>>)>);

impl<K: Copy, T, F: Future<Output = io::Result<T>>> Attempts<K, F> {
    /// Waits for the first attempt that ends. Returns the number of those that began before it and go on, its place,
    /// and its result.
    async fn first(&mut self) -> (usize, K, io::Result<T>) {
        // They are few, so each may be asked whenever one of them calls.
        poll_fn(|context| {
            for at in 0..self.0.len() {
                if let Poll::Ready(outcome) = self.0[at].1.as_mut().poll(context) {
                    let (place, _) = self.0.remove(at);
                    return Poll::Ready((at, place, outcome));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Whether an error says something about this machine and nothing about the place.
pub fn is_ours(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// These addresses with the two families in turn, beginning with the family of the first (RFC 8305 §4). A family that is
/// broken as a whole then costs one attempt, not as many as it has addresses.
pub fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (leading, other): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut other = other.into_iter();
    let mut ordered: Vec<_> = leading.into_iter().flat_map(|address| [Some(address), other.next()]).flatten().collect();
    ordered.extend(other);
    ordered
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// What a place does.
    #[derive(Clone, Copy)]
    enum Manner {
        Answers(u64),
        Refuses(u64),
        Hangs,
    }

    use Manner::*;

    /// Races the places of these manners by their index; gives the winner, the time and the order of attempts.
    async fn run(manners: &[Manner], health: &Health<usize>) -> (io::Result<usize>, Duration, Vec<usize>) {
        let (tried, start) = (RefCell::new(Vec::new()), Instant::now());
        let places: Vec<usize> = (0..manners.len()).collect();
        let reach = |place: usize| {
            tried.borrow_mut().push(place);
            async move {
                match manners[place] {
                    Answers(after) => sleep(Duration::from_millis(after)).await,
                    Refuses(after) => {
                        sleep(Duration::from_millis(after)).await;
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    Hangs => pending().await,
                }
                Ok(())
            }
        };
        let outcome = race(&places, health, PATIENCE, reach).await.map(|(place, ())| place);
        (outcome, start.elapsed(), tried.into_inner())
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_wins_and_nobody_waits_for_a_dead_one_twice() {
        let health = Health::default();
        let manners = [Hangs, Answers(40), Answers(10)];
        let (winner, took, tried) = run(&manners, &health).await;
        assert_eq!((winner.unwrap(), took, tried), (1, ms(290), vec![0, 1]));
        for _ in 0..10 {
            let (winner, took, tried) = run(&manners, &health).await;
            assert_eq!((winner.unwrap(), took, tried), (1, ms(40), vec![1]));
        }
        sleep(super::super::health::FIRST).await;
        assert_eq!(run(&manners, &health).await.1, ms(290), "one gives it a chance");
        assert_eq!(run(&manners, &health).await.1, ms(40));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_lets_the_next_begin_at_once() {
        let (winner, took, tried) = run(&[Refuses(5), Refuses(5), Answers(10)], &Health::default()).await;
        assert_eq!((winner.unwrap(), took, tried), (2, ms(20), vec![0, 1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_one_may_still_win() {
        let health = Health::default();
        let (winner, took, _) = run(&[Answers(300), Answers(100)], &health).await;
        assert_eq!((winner.unwrap(), took), (0, ms(300)));
        assert!(!health.is_bad(&0) && !health.is_bad(&1), "who began later was not overtaken");
        let (winner, took, _) = run(&[Answers(400), Answers(100)], &health).await;
        assert_eq!((winner.unwrap(), took), (1, ms(350)));
        assert!(health.is_bad(&0));
    }

    /// Someone else finds out while a race is under way.
    async fn finds_bad(place: usize, health: &Health<usize>) {
        sleep(ms(5)).await;
        health.failed(place, Instant::now().into_std());
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_stays_bad_if_it_was_found_to_be_since_it_was_asked() {
        let health = Health::default();
        let ((winner, ..), ()) = tokio::join!(run(&[Answers(10)], &health), finds_bad(0, &health));
        assert_eq!(winner.unwrap(), 0);
        assert!(health.is_bad(&0));
        run(&[Answers(10)], &health).await.0.unwrap();
        assert!(!health.is_bad(&0), "that is a new attempt");
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_that_was_made_before_somebody_was_found_bad_knows_nothing_of_it() {
        let health = Health::default();
        let ((winner, _, tried), ()) = tokio::join!(run(&[Refuses(10), Answers(10)], &health), finds_bad(1, &health));
        assert_eq!((winner.unwrap(), tried), (1, vec![0, 1]));
        assert!(health.is_bad(&1));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_first_error_counts_and_patience_has_an_end() {
        let error = run(&[Refuses(5), Refuses(0)], &Health::default()).await.0.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let health = Health::default();
        let (outcome, took, tried) = run(&[Hangs, Refuses(1), Hangs], &health).await;
        assert_eq!((outcome.unwrap_err().kind(), took, tried.len()), (io::ErrorKind::TimedOut, PATIENCE, 3));
        assert!((0..3).all(|place| health.is_bad(&place)));
        assert_eq!(run(&[], &health).await.0.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_without_descriptors_blames_nobody() {
        let health = Health::default();
        let outcome: io::Result<(usize, ())> =
            race(&[1], &health, PATIENCE, async |_| Err(io::Error::from(Errno::MFILE))).await;
        assert!(outcome.is_err() && !health.is_bad(&1));
    }

    #[test]
    fn families_take_turns() {
        let [a, b, c]: [SocketAddr; 3] = ["1.1.1.1:1", "2.2.2.2:2", "3.3.3.3:3"].map(|text| text.parse().unwrap());
        let [x, y]: [SocketAddr; 2] = ["[2001:db8::1]:1", "[2001:db8::2]:2"].map(|text| text.parse().unwrap());
        assert_eq!(interleaved(&[a, b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(interleaved(&[x, y, a]), [x, a, y]);
        assert_eq!(interleaved(&[x, a, b, c]), [x, a, b, c]);
        assert_eq!(interleaved(&[]), []);
    }
}
