//! Memory that waits in sessions: bounded in all, and shared fairly between keys.
//!
//! A key may hold as much as is free, and no more: one alone has half of everything, *n* of them have one part in *n* + 1 each,
//! and as much is left for the next. Switches share their buffers by this rule (dynamic thresholds, Choudhury and Hahne). So
//! no key takes what others need, and nothing has to be divided before it is known who comes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::auth::SecretTag;

/// Memory that a piece takes besides its bytes: its place in queues, its allocation, its frame's head.
pub const ITEM: usize = 256;

/// Memory that a share may take however little is left, so that no session stands still for good: one frame of DATA of the
/// usual length, and what is around it.
pub const FLOOR: usize = 68 << 10;

/// What a key holds at most for the sake of [`FLOOR`]: however many ask for little, they leave others their part.
const MODEST: usize = 16 * FLOOR;

/// Parts of the budget of which one has to be given back before those who wait are told.
const STEPS: usize = 64;

/// Memory that may wait in all sessions together.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    keys: Mutex<HashMap<SecretTag, Weak<KeyBudget>>>,
    /// Whether room is waited for.
    wanted: AtomicBool,
    /// Bytes that were given back since.
    returned: AtomicUsize,
    freed: Notify,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            keys: Mutex::default(),
            wanted: AtomicBool::new(false),
            returned: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    /// Bytes that wait now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The part of a key, which its sessions share.
    pub fn key(self: &Arc<Self>, tag: SecretTag) -> Arc<KeyBudget> {
        let mut keys = self.keys();
        if let Some(known) = keys.get(&tag).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(KeyBudget { budget: Arc::clone(self), tag, used: AtomicUsize::new(0) });
        keys.insert(tag, Arc::downgrade(&new));
        new
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        // Not at each byte: all who wait look then, and most of them in vain.
        if self.wanted.load(Ordering::Acquire)
            && self.returned.fetch_add(bytes, Ordering::Relaxed) + bytes >= self.limit / STEPS
        {
            self.returned.store(0, Ordering::Relaxed);
            self.wanted.store(false, Ordering::Release);
            self.freed.notify_waiters();
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<SecretTag, Weak<KeyBudget>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Part of one key in the budget.
#[derive(Debug)]
pub struct KeyBudget {
    budget: Arc<Budget>,
    tag: SecretTag,
    used: AtomicUsize,
}

impl KeyBudget {
    /// Whether the key holds as much as is free. Its sessions then keep what they have and take in no more than a reserve.
    pub fn is_spent(&self) -> bool {
        let free = self.budget.limit.saturating_sub(self.budget.used());
        self.used.load(Ordering::Relaxed) >= free
    }

    /// Waits until some memory was given back by any session, from this call on. A caller that waits should look from time to time,
    /// since a little of it is not told.
    pub fn freed(&self) -> Notified<'_> {
        self.budget.wanted.store(true, Ordering::Release);
        self.budget.freed.notified()
    }
}

impl Drop for KeyBudget {
    fn drop(&mut self) {
        let mut keys = self.budget.keys();
        if keys.get(&self.tag).is_some_and(|known| known.strong_count() == 0) {
            keys.remove(&self.tag);
        }
    }
}

/// Memory that is held by a session, or by a message on its way in; given back when dropped.
#[derive(Debug)]
pub struct BudgetShare {
    key: Arc<KeyBudget>,
    bytes: usize,
}

impl BudgetShare {
    /// A share that holds nothing yet.
    pub fn new(key: Arc<KeyBudget>) -> Self {
        Self { key, bytes: 0 }
    }

    /// From now on it holds so much, whatever is left.
    pub fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            self.key.used.fetch_add(bytes - before, Ordering::Relaxed);
            self.key.budget.take(bytes - before);
        } else if before > bytes {
            self.key.used.fetch_sub(before - bytes, Ordering::Relaxed);
            self.key.budget.give_back(before - bytes);
        }
    }

    /// Holds so much from now on if its key has room, or if it is little; says whether it does.
    pub fn try_set(&mut self, bytes: usize) -> bool {
        let modest = bytes <= FLOOR && self.key.used.load(Ordering::Relaxed) < MODEST;
        let may = bytes <= self.bytes || modest || !self.is_spent();
        if may {
            self.set(bytes);
        }
        may
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The part that it belongs to.
    pub fn key(&self) -> &Arc<KeyBudget> {
        &self.key
    }

    /// Whether its key may hold no more.
    pub fn is_spent(&self) -> bool {
        self.key.is_spent()
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: u8) -> SecretTag {
        SecretTag::of(&[number; 16])
    }

    /// Takes as much as it can in steps.
    fn greedy(budget: &Arc<Budget>, number: u8) -> BudgetShare {
        let mut share = BudgetShare::new(budget.key(tag(number)));
        while share.try_set(share.bytes() + (64 << 10)) {}
        share
    }

    #[test]
    fn a_greedy_key_leaves_others_their_part() {
        let budget = Arc::new(Budget::new(64 << 20));
        let first = greedy(&budget, 1);
        assert!(first.bytes().abs_diff(32 << 20) <= 64 << 10, "half for one: {}", first.bytes());
        let second = BudgetShare::new(budget.key(tag(1)));
        assert!(second.is_spent(), "another session of the key has no more of it");
        let other = greedy(&budget, 2);
        assert!(other.bytes() >= 15 << 20, "a newcomer finds its part: {}", other.bytes());
        drop(first);
        assert!(!other.is_spent());
        drop((other, second));
        assert_eq!((budget.used(), budget.keys().len()), (0, 0));
    }

    #[test]
    fn little_is_taken_however_little_is_left() {
        let budget = Arc::new(Budget::new(4 << 20));
        let mut share = BudgetShare::new(budget.key(tag(1)));
        share.set(4 << 20);
        let mut late = BudgetShare::new(budget.key(tag(2)));
        assert!(!late.try_set(FLOOR + 1) && late.try_set(FLOOR) && late.bytes() == FLOOR);
        assert!(late.try_set(10) && late.bytes() == 10);
    }

    #[test]
    fn many_who_ask_for_little_leave_others_their_part() {
        let budget = Arc::new(Budget::new(16 << 20));
        let mut crowd = Vec::new();
        loop {
            let mut share = BudgetShare::new(budget.key(tag(1)));
            if !share.try_set(FLOOR) {
                break;
            }
            crowd.push(share);
        }
        assert!(budget.used() <= (8 << 20) + FLOOR, "half for one key: {}", budget.used());
        assert!(BudgetShare::new(budget.key(tag(2))).try_set(2 << 20), "another key finds its part");
        crowd.clear();
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn those_who_wait_are_told_when_others_give_back() {
        let budget = Arc::new(Budget::new(1 << 20));
        let (mut holder, waiter) = (BudgetShare::new(budget.key(tag(1))), budget.key(tag(2)));
        holder.set(1 << 20);
        assert!(waiter.is_spent());
        let freed = waiter.freed();
        holder.set(0);
        tokio::time::timeout(std::time::Duration::from_secs(10), freed).await.unwrap();
        assert!(!waiter.is_spent());
    }
}
