//! Connections to data centres that stand ready for the next session, which then waits for no handshake.
//!
//! How many there are follows what was asked for lately, so a proxy that no one uses holds none. Each waits for a short
//! time only: whatever stands between us and the data centre forgets connections on which nothing moves. One that has
//! ended meanwhile, or on which someone spoke before us, is thrown away when it is found or asked for.
//!
//! Here it is decided; `Upstream` opens and looks after what waits. Time is an argument, and so is what waits.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::DcId;

/// Longest time for which a connection stands ready.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// In this time what was asked for counts half.
const HALF: Duration = Duration::from_secs(120);

/// Pause in opening connections after an attempt failed, or after one that stood ready has ended by itself.
const PAUSE: Duration = Duration::from_secs(30);

/// Connections that stand ready, by data centre.
#[derive(Debug)]
pub(super) struct Pool<C> {
    kept: Mutex<Kept<C>>,
    /// Someone came for a connection.
    pub asked: Notify,
}

#[derive(Debug)]
struct Kept<C> {
    shelves: BTreeMap<DcId, Shelf<C>>,
    /// Changes with the settings: what is still being opened under older ones is not wanted any more.
    round: u64,
}

/// Purpose of a connection that is being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub dc: DcId,
    round: u64,
}

#[derive(Debug)]
struct Shelf<C> {
    demand: Demand,
    /// Oldest first.
    waiting: Vec<Waiting<C>>,
    opening: usize,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Waiting<C> {
    connection: C,
    until: Instant,
}

/// Number of requests for connections, the longer ago the less they count.
#[derive(Clone, Copy, Debug)]
struct Demand {
    level: f64,
    at: Instant,
}

/// Connection that can stand ready.
pub(super) trait Rests {
    /// Whether nothing has happened on it since it was opened.
    fn rests(&self) -> bool;
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self { kept: Mutex::new(Kept { shelves: BTreeMap::new(), round: 0 }), asked: Notify::new() }
    }
}

impl<C: Rests> Pool<C> {
    /// Someone needs a connection to this data centre: the youngest that waits, if one does.
    pub fn take(&self, dc: DcId, now: Instant) -> Option<C> {
        let mut kept = self.lock();
        let shelf = kept.shelves.entry(dc).or_insert_with(|| Shelf::new(now));
        shelf.demand.add(now);
        let found = shelf.take(now);
        drop(kept);
        self.asked.notify_one();
        found
    }

    /// Throws away what has waited long enough or has ended, and says what is to be opened so that at most `most` wait for
    /// each data centre. What was asked for must be answered by [`Pool::put`] or [`Pool::failed`].
    pub fn tend(&self, most: usize, now: Instant) -> Vec<Order> {
        let mut kept = self.lock();
        let round = kept.round;
        let mut orders = Vec::new();
        kept.shelves.retain(|dc, shelf| {
            let lacking = shelf.tend(most, now);
            orders.extend(std::iter::repeat_n(Order { dc: *dc, round }, lacking));
            !shelf.is_idle(now)
        });
        orders
    }

    /// An order is carried out. `until` is when the connection has waited long enough.
    pub fn put(&self, order: Order, connection: C, until: Instant) {
        self.answer(order, |shelf| shelf.waiting.push(Waiting { connection, until }));
    }

    /// An order cannot be carried out.
    pub fn failed(&self, order: Order, now: Instant) {
        self.answer(order, |shelf| shelf.not_before = Some(now + PAUSE));
    }

    fn answer(&self, order: Order, change: impl FnOnce(&mut Shelf<C>)) {
        let mut kept = self.lock();
        if order.round == kept.round
            && let Some(shelf) = kept.shelves.get_mut(&order.dc)
        {
            shelf.opening = shelf.opening.saturating_sub(1);
            change(shelf);
        }
    }

    /// Throws away what waits and is like this.
    pub fn discard(&self, is_bad: impl Fn(&C) -> bool) {
        for shelf in self.lock().shelves.values_mut() {
            shelf.waiting.retain(|waiting| !is_bad(&waiting.connection));
        }
    }

    /// Throws everything away. What is asked for from now on is remembered again.
    pub fn clear(&self) {
        let mut kept = self.lock();
        kept.shelves.clear();
        kept.round += 1;
    }

    /// Returns the number of connections that stand ready.
    pub fn len(&self) -> usize {
        self.lock().shelves.values().map(|shelf| shelf.waiting.len()).sum()
    }

    /// Whether there is nothing to look after until someone comes.
    pub fn is_at_rest(&self) -> bool {
        self.lock().shelves.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Kept<C>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Rests> Shelf<C> {
    fn new(now: Instant) -> Self {
        Self { demand: Demand { level: 0.0, at: now }, waiting: Vec::new(), opening: 0, not_before: None }
    }

    fn take(&mut self, now: Instant) -> Option<C> {
        while let Some(Waiting { connection, until }) = self.waiting.pop() {
            match (now < until, connection.rests()) {
                (true, true) => return Some(connection),
                (_, false) => self.not_before = Some(now + PAUSE),
                (false, true) => {}
            }
        }
        None
    }

    /// Drops the connections that are not needed any more, and returns the number to be opened.
    fn tend(&mut self, most: usize, now: Instant) -> usize {
        self.waiting.retain(|waiting| now < waiting.until);
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.connection.rests());
        if self.waiting.len() < before {
            self.not_before = Some(now + PAUSE);
        }
        let wanted = self.demand.wanted(now).min(most);
        let surplus = self.waiting.len().saturating_sub(wanted);
        self.waiting.drain(..surplus);
        if self.not_before.is_some_and(|when| now < when) {
            return 0;
        }
        let lacking = wanted.saturating_sub(self.waiting.len() + self.opening);
        self.opening += lacking;
        lacking
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.waiting.is_empty() && self.opening == 0 && self.demand.wanted(now) == 0
    }
}

impl Demand {
    fn level(self, now: Instant) -> f64 {
        let halves = now.saturating_duration_since(self.at).as_secs_f64() / HALF.as_secs_f64();
        self.level * (-halves).exp2()
    }

    fn add(&mut self, now: Instant) {
        *self = Self { level: self.level(now) + 1.0, at: now };
    }

    fn wanted(self, now: Instant) -> usize {
        self.level(now).round() as usize
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// A connection that ends when someone says so.
    #[derive(Clone, Debug, Default)]
    struct Toy(Rc<Cell<bool>>);

    impl Rests for Toy {
        fn rests(&self) -> bool {
            !self.0.get()
        }
    }

    const DC: DcId = DcId::new(2);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// Carries out all orders.
    fn fill(pool: &Pool<Toy>, most: usize, now: Instant) -> usize {
        let orders = pool.tend(most, now);
        orders.iter().for_each(|order| pool.put(*order, Toy::default(), now + LONGEST));
        orders.len()
    }

    #[test]
    fn nothing_waits_before_somebody_came_and_nothing_long_after() {
        let (pool, now) = (Pool::default(), Instant::now());
        assert!(pool.tend(8, now).is_empty() && pool.is_at_rest());
        assert!(pool.take(DC, now).is_none());
        assert_eq!(fill(&pool, 8, now), 1);
        assert_eq!((pool.len(), pool.is_at_rest()), (1, false));
        assert!(pool.take(DC, after(now, 1)).is_some());
        assert_eq!(fill(&pool, 8, after(now, 1)), 2);
        assert_eq!(fill(&pool, 8, after(now, 1)), 0, "there are enough");
        for seconds in (0..600).step_by(5) {
            fill(&pool, 8, after(now, seconds));
        }
        assert_eq!((pool.len(), pool.is_at_rest()), (0, true));
    }

    #[test]
    fn demand_has_a_bound_and_sinks() {
        let (pool, now) = (Pool::default(), Instant::now());
        (0..100).for_each(|_| assert!(pool.take(DC, now).is_none()));
        assert_eq!(fill(&pool, 8, now), 8);
        assert_eq!(fill(&pool, 3, now), 0);
        assert_eq!(pool.len(), 3, "the bound has changed");
        let (pool, now) = (Pool::default(), Instant::now());
        (0..8).for_each(|_| assert!(pool.take(DC, now).is_none()));
        for (seconds, wait) in [(0, 8), (120, 4), (240, 2), (360, 1), (479, 1), (481, 0)] {
            fill(&pool, 8, after(now, seconds));
            assert_eq!(pool.len(), wait, "{seconds}");
        }
        assert_eq!(fill(&pool, 0, now), 0);
    }

    #[test]
    fn none_waits_too_long_and_the_youngest_goes_first() {
        let (pool, now) = (Pool::default(), Instant::now());
        (0..2).for_each(|_| assert!(pool.take(DC, now).is_none()));
        let orders = pool.tend(8, now);
        let (old, young) = (Toy::default(), Toy::default());
        pool.put(orders[0], old.clone(), after(now, 10));
        pool.put(orders[1], young.clone(), after(now, 20));
        assert!(Rc::ptr_eq(&pool.take(DC, after(now, 5)).unwrap().0, &young.0));
        assert!(pool.take(DC, after(now, 10)).is_none());
        assert_eq!(Rc::strong_count(&old.0), 1, "it is closed");
    }

    #[test]
    fn what_has_ended_is_not_handed_out_and_not_replaced_at_once() {
        let (pool, now) = (Pool::default(), Instant::now());
        (0..3).for_each(|_| assert!(pool.take(DC, now).is_none()));
        let toys: Vec<_> = pool.tend(8, now).into_iter().map(|order| (order, Toy::default())).collect();
        toys.iter().for_each(|(order, toy)| pool.put(*order, toy.clone(), after(now, 60)));
        toys[2].1.0.set(true);
        assert!(Rc::ptr_eq(&pool.take(DC, now).unwrap().0, &toys[1].1.0));
        assert_eq!(fill(&pool, 8, after(now, 1)), 0, "someone ends what waits");
        toys[0].1.0.set(true);
        assert_eq!(fill(&pool, 8, after(now, 29)), 0);
        assert_eq!(pool.len(), 0);
        assert_eq!(fill(&pool, 8, after(now, 59)), 3);
    }

    #[test]
    fn a_failure_is_followed_by_a_pause() {
        let (pool, now) = (Pool::<Toy>::default(), Instant::now());
        assert!(pool.take(DC, now).is_none());
        let orders = pool.tend(8, now);
        assert!(pool.tend(8, now).is_empty(), "it is being opened");
        pool.failed(orders[0], now);
        assert!(pool.tend(8, after(now, 29)).is_empty());
        assert_eq!(pool.tend(8, after(now, 30)).len(), 1);
    }

    #[test]
    fn what_was_ordered_under_other_settings_is_thrown_away() {
        let (pool, now) = (Pool::default(), Instant::now());
        (0..2).for_each(|_| assert!(pool.take(DC, now).is_none()));
        let orders = pool.tend(8, now);
        pool.put(orders[0], Toy::default(), after(now, 60));
        pool.clear();
        assert!(pool.take(DC, now).is_none());
        pool.put(orders[1], Toy::default(), after(now, 60));
        assert_eq!(pool.len(), 0);
        assert_eq!(pool.tend(8, now).len(), 1);
    }
}
