//! Searches that take long run on threads of their own, so that strangers do not keep the bytes of sessions waiting.
//!
//! ```text
//! gate ─▶ SearchPool::search ─▶ within its source's budget? ── yes, and a user came from there ─▶ known ─┐
//!                                          │                └── yes ──────────────────────────▶ new ───┼─▶ threads
//!                                          └── no, or barred ───────────────────────────────▶ last ──┘
//! ```
//!
//! A hello costs its sender nothing and us a search among all users. So each source has a budget of searches. Within it a
//! hello comes before all that are above theirs: a flood from one address, however fast, delays its own clients alone.
//! Within budget, those go first from which a user entered within the last hour, so that a flood from many addresses does
//! not keep them waiting. Above it hellos are searched with what time is left, so that a crowd behind one address is served
//! where no other hello waits for that. Thus a budget never shows in an answer; load does, as at any busy server.
//!
//! Of those that wait the first is next, so that answers come in the order of hellos and no copy overtakes its original;
//! once that has waited for [`SOON`], the latest is: where more come than can be searched, its sender is the one that still
//! waits.
//!
//! What is bounded, whatever arrives: the hellos that wait ([`MOST`], of at most 2.5 kB each; the oldest goes), how long
//! one waits ([`PATIENCE`]), and what is remembered of sources ([`PLACES`]). A hello that was not searched is a visitor's and
//! is not spent; but then its sender has not got a flight with an authenticator in it, for which it would send a header.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::verdict::Inquiry;

/// Time in which a source earns a search, and searches that one that was quiet has at once. An app opens 18 connections at
/// once, and a family shares an address.
const EARNED_IN: Duration = Duration::from_millis(50);
const AT_ONCE: u32 = 60;

/// Hellos that wait at most. A flood of more costs those that have waited for the longest.
const MOST: usize = 4096;

/// Longest wait of a hello: longer than any client waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Wait after which a hello may be overtaken by those that come later.
const SOON: Duration = Duration::from_secs(1);

/// Time for which a source counts as one of users.
const KNOWN: Duration = Duration::from_secs(60 * 60);

/// Places in the memory of sources, among which a secret hash distributes them: a flood would have to come from as many
/// addresses, each above its budget, before others shared the loss.
const PLACES: usize = 1 << 14;

/// Inquiry whose search is done; `None` if it was not searched.
pub type Searched = Pin<Box<dyn Future<Output = Option<Box<Inquiry>>> + Send>>;

/// Threads that search, and the hellos that wait for them.
pub struct SearchPool {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for SearchPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SearchPool").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    /// One queue for each [`Rank`]. The first that has a job is next.
    waiting: [VecDeque<Job>; 3],
    sources: Sources,
    over: bool,
}

/// Which queue a hello waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// From where a user came.
    Known,
    /// From elsewhere, within budget.
    New,
    /// Above budget, or from a barred address.
    Last,
}

struct Job {
    inquiry: Box<Inquiry>,
    since: Instant,
    done: oneshot::Sender<Box<Inquiry>>,
}

/// Memory of sources: of those that share a place, the budget is one, and the last user's is known.
struct Sources {
    hasher: RandomState,
    places: Vec<QueueSlot>,
}

#[derive(Clone, Copy, Default)]
struct QueueSlot {
    /// Until when searches have been paid for.
    paid_until: Option<Instant>,
    /// Source that a user entered from, and when.
    user: Option<(IpAddr, Instant)>,
}

impl SearchPool {
    /// Starts so many threads, which end with this value.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let pool = Self { shared: Arc::default() };
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            thread::Builder::new().name(format!("search-{number}")).spawn(move || work(&shared))?;
        }
        Ok(pool)
    }

    /// Half of the processors; the others relay.
    pub fn usual_threads() -> usize {
        thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2))
    }

    /// Has the key searched that made a hello, beginning now.
    pub fn search(&self, inquiry: Box<Inquiry>) -> Searched {
        let (done, waiting) = oneshot::channel();
        let now = Instant::now();
        let shed = self.shared.lock().put(Job { inquiry, since: now, done }, now);
        self.shared.filled.notify_one();
        drop(shed);
        Box::pin(async { timeout(PATIENCE, waiting).await.ok()?.ok() })
    }

    /// Notes that a user entered from there.
    pub fn note_user(&self, from: IpAddr) {
        self.shared.lock().sources.note_user(source(from), Instant::now());
    }
}

impl Drop for SearchPool {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.filled.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next job; `None` at the end.
    fn next(&self) -> Option<Job> {
        let idle = |state: &mut State| state.count() == 0 && !state.over;
        let waited = self.filled.wait_while(self.lock(), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.over { None } else { state.take(Instant::now()) }
    }
}

impl State {
    fn count(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// Puts a job into its queue; returns one that has to go for it.
    fn put(&mut self, job: Job, now: Instant) -> Option<Job> {
        let rank =
            if job.inquiry.is_barred() { Rank::Last } else { self.sources.rank(source(job.inquiry.from()), now) };
        self.waiting[rank as usize].push_back(job);
        let crowded = self.count() > MOST;
        self.waiting.iter_mut().rev().filter(|_| crowded).find_map(VecDeque::pop_front)
    }

    fn take(&mut self, now: Instant) -> Option<Job> {
        let queue = self.waiting.iter_mut().find(|queue| !queue.is_empty())?;
        let is_late = queue.front().is_some_and(|first| now.saturating_duration_since(first.since) > SOON);
        if is_late { queue.pop_back() } else { queue.pop_front() }
    }
}

impl Default for Sources {
    fn default() -> Self {
        Self { hasher: RandomState::new(), places: vec![QueueSlot::default(); PLACES] }
    }
}

impl Sources {
    fn place(&mut self, source: IpAddr) -> &mut QueueSlot {
        let place = self.hasher.hash_one(source) as usize % PLACES;
        &mut self.places[place]
    }

    /// Rank of a hello that comes from there now. What is above the budget is not charged to it.
    fn rank(&mut self, source: IpAddr, now: Instant) -> Rank {
        let place = self.place(source);
        let from = place.paid_until.map_or(now, |until| until.max(now));
        if from.duration_since(now) > EARNED_IN * (AT_ONCE - 1) {
            return Rank::Last;
        }
        place.paid_until = Some(from + EARNED_IN);
        let known = |(user, when): (IpAddr, Instant)| user == source && now.saturating_duration_since(when) < KNOWN;
        if place.user.is_some_and(known) { Rank::Known } else { Rank::New }
    }

    fn note_user(&mut self, source: IpAddr, now: Instant) {
        self.place(source).user = Some((source, now));
    }
}

impl Job {
    /// Searches, unless the hello has waited too long. Its sender's leaving is no reason not to: it is to be spent.
    fn finish(mut self) {
        if !self.done.is_closed() {
            while !self.inquiry.go_on() {}
            let _ = self.done.send(self.inquiry);
        }
    }
}

fn work(shared: &Shared) {
    while let Some(job) = shared.next() {
        // A panic ends the connection whose hello it was, not the thread that all others need.
        let _ = catch_unwind(AssertUnwindSafe(|| job.finish()));
    }
}

/// Reduces an address to the source that has one budget: an IPv4 address, or the /64 of an IPv6 address.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{
        Judge, Key, Keyring, Member, Reason, ReplayMemory, Rules, Secret, TimeWindow, UnixTime, Verdict,
    };
    use crate::fixtures::{vector, vector_array};

    const TIME: UnixTime = UnixTime(1_767_225_600);

    fn judge(others: u32) -> Judge {
        let others = (0..others).map(|number| {
            let mut key = [0x55; 16];
            key[..4].copy_from_slice(&number.to_le_bytes());
            Key::new(Member::new(number.to_string()), Secret::new(key))
        });
        let ours = Key::new(Member::new("user"), Secret::new(vector_array("const", "key")));
        let window = TimeWindow::new(Duration::from_secs(600));
        Judge::new(Rules { keyring: Keyring::new(others.chain([ours])), window, names: None }, ReplayMemory::volatile())
    }

    fn from(host: u8) -> IpAddr {
        [192, 0, 2, host].into()
    }

    fn inquiry(judge: &Judge, host: u8) -> Box<Inquiry> {
        Box::new(judge.inquire(&vector("helloB", "record"), from(host), TIME).unwrap())
    }

    fn job(judge: &Judge, host: u8) -> Job {
        Job { inquiry: inquiry(judge, host), since: Instant::now(), done: oneshot::channel().0 }
    }

    /// No two of the hosts below ten share a place.
    fn state() -> State {
        loop {
            let state = State::default();
            let place = |host| state.sources.hasher.hash_one(from(host)) as usize % PLACES;
            let mut places: Vec<usize> = (0..10).map(place).collect();
            places.sort_unstable();
            places.dedup();
            if places.len() == 10 {
                return state;
            }
        }
    }

    /// Where the jobs that wait come from, in the order in which they are searched.
    fn order(state: &mut State, now: Instant) -> Vec<IpAddr> {
        std::iter::from_fn(|| state.take(now)).map(|job| job.inquiry.from()).collect()
    }

    #[tokio::test]
    async fn a_long_search_runs_elsewhere_and_comes_to_the_same_verdict_as_a_short_one() {
        for others in [0, 300] {
            let judge = judge(others);
            let mut searched = judge.search(inquiry(&judge, 1)).await.unwrap();
            assert_eq!(judge.pool_is_running(), others > 0);
            searched.question();
            let Verdict::Admit(admission) = searched.verdict(true) else { panic!("declined") };
            assert_eq!(admission.member().name(), "user");
        }
    }

    #[test]
    fn users_come_first_and_those_above_their_budget_last_and_the_latest_goes_before_who_has_waited_for_long() {
        let (judge, now) = (judge(0), Instant::now());
        for (later, expected) in [(Duration::ZERO, [3, 1, 1, 2, 9, 4]), (2 * SOON, [3, 2, 1, 1, 4, 9])] {
            assert_eq!(order(&mut crowded(&judge, now), now + later), expected.map(from), "{later:?}");
        }
    }

    fn crowded(judge: &Judge, now: Instant) -> State {
        let mut state = state();
        state.sources.note_user(from(3), now);
        for _ in 0..AT_ONCE {
            state.sources.rank(from(9), now);
        }
        let barred = Box::new(inquiry(judge, 4).barred(Some(Reason::Barred("list"))));
        let barred = Job { inquiry: barred, ..job(judge, 4) };
        for job in [1, 1, 9, 3, 2].map(|host| job(judge, host)).into_iter().chain([barred]) {
            assert!(state.put(job, now).is_none());
        }
        state
    }

    #[test]
    fn a_budget_is_for_one_source_and_comes_back_with_time() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        let ranks =
            |sources: &mut Sources, now| (0..AT_ONCE + 50).map(|_| sources.rank(from(1), now)).collect::<Vec<_>>();
        let within = |ranks: Vec<Rank>| ranks.into_iter().filter(|rank| *rank == Rank::New).count();
        assert_eq!(within(ranks(&mut sources, now)), AT_ONCE as usize);
        assert_eq!(within(ranks(&mut sources, now)), 0);
        assert_eq!(within(ranks(&mut sources, now + Duration::from_secs(1))), 20);
        sources.note_user(from(1), now);
        assert_eq!(sources.rank(from(1), now + Duration::from_secs(2)), Rank::Known);
        assert_eq!(sources.rank(from(1), now + KNOWN), Rank::New);
    }

    #[test]
    fn the_queues_are_bounded_and_the_oldest_of_the_last_go() {
        let (judge, mut state, now) = (judge(0), State::default(), Instant::now());
        for n in 0..MOST {
            assert!(state.put(job(&judge, if n < 160 { 200 } else { (n % 100) as u8 }), now).is_none());
        }
        let (last, within) = (state.waiting[Rank::Last as usize].len(), state.waiting[Rank::New as usize].len());
        assert!(last >= 100 && last + within == MOST);
        for _ in 0..last {
            assert!(state.put(job(&judge, 101), now).is_some());
        }
        assert_eq!(state.count(), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hello_waits_for_its_search_no_longer_than_is_said() {
        let (judge, pool) = (judge(0), SearchPool { shared: Arc::default() });
        assert!(pool.search(inquiry(&judge, 1)).await.is_none());
        let job = pool.shared.next().expect("it waits still");
        assert!(job.done.is_closed(), "and is not searched in vain");
        let searched = pool.search(inquiry(&judge, 1));
        pool.shared.next().expect("it waits").finish();
        assert!(searched.await.is_some());
    }

    #[test]
    fn neighbours_share_the_budget_of_their_network() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(source(ip("2001:db8::1")), source(ip("2001:db8::ffff:2")));
        assert_ne!(source(ip("2001:db8::1")), source(ip("2001:db8:0:1::1")));
        assert_eq!(source(ip("::ffff:192.0.2.1")), from(1));
    }
}
