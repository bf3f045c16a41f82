//! Sessions by their tokens, and the pages that have begun one.
//!
//! That a token is authentic is found out without this, and a page that waits for its session is not kept anywhere: its token
//! says what it was made for. What is here has a bound, since one who has seen a capability can begin sessions without end.
//! Such a session shows no more than that. One of whose streams has opened under the key is *proven*; the others give way when
//! there are many, so that a stranger who saw an address cannot lock out those who have the link.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::live::LiveSession;
use super::token::Token;
use crate::auth::{Key, SecretTag};

/// Life of a session that is not used.
pub const GRACE: Duration = Duration::from_secs(120);

/// Time for which an ended token is remembered, so that a repeated end is answered alike.
const ENDED: Duration = Duration::from_secs(120);

/// Most sessions of one key. Each app has one.
const SESSIONS_OF_KEY: usize = 256;

/// Most sessions in all.
const SESSIONS: usize = 1 << 16;

/// Most ended tokens.
const ENDED_TOKENS: usize = 1 << 16;

/// Most pages of one key that are remembered because their session is over, the oldest forgotten first: such a page could
/// begin another one then, as its holder can anyway with a new page.
const SPENT_PAGES_OF_KEY: usize = 512;

/// Everything that tokens stand for.
#[derive(Default)]
pub struct SessionRegistry {
    /// Pages that have begun a session, for as long as they could begin one.
    pages: HashMap<Token, BegunPage>,
    sessions: HashMap<Token, Arc<LiveSession>>,
    ended: HashMap<Token, Instant>,
    keys: HashMap<SecretTag, KeySessions>,
}

/// A page that has begun a session.
struct BegunPage {
    session: Token,
    until: Instant,
}

/// Sessions of one key.
#[derive(Default)]
struct KeySessions {
    count: usize,
    /// Those that were not proven when they were last looked at, the oldest first.
    unproven: VecDeque<Token>,
    /// Pages whose session is over, the oldest first.
    spent: VecDeque<Token>,
}

/// Page that asks for its session.
pub struct AskingPage<'p> {
    /// Its token.
    pub token: &'p Token,
    /// Number of the place where it asks.
    pub place: usize,
    /// The key that it was made for.
    pub key: &'p Arc<Key>,
    /// End of its life.
    pub until: Instant,
}

/// Outcome of a request for a session.
pub enum SessionCreation {
    /// It has one, for which another may have given way.
    Session(Arc<LiveSession>, Option<Arc<LiveSession>>),
    /// There are too many.
    Full,
    /// The page's session is over, or at another place.
    Unknown,
}

/// What one visitor easily has many addresses of: 64 bits of IPv6, and an address of IPv4.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl SessionRegistry {
    /// Begins the session of a page, or finds the one that it has begun. `begin` makes one.
    pub fn create(
        &mut self,
        page: &AskingPage<'_>,
        now: Instant,
        begin: impl FnOnce() -> Arc<LiveSession>,
    ) -> SessionCreation {
        if let Some(BegunPage { session, .. }) = self.pages.get(page.token) {
            let live = self.sessions.get(session).filter(|live| live.place() == page.place);
            return live.map_or(SessionCreation::Unknown, |live| SessionCreation::Session(Arc::clone(live), None));
        }
        if page.until <= now {
            return SessionCreation::Unknown;
        }
        let Some(gone) = self.make_room(page.key.tag(), now) else { return SessionCreation::Full };
        let live = begin();
        let counts = self.keys.entry(page.key.tag()).or_default();
        counts.count += 1;
        counts.unproven.push_back(*live.token());
        self.pages.insert(*page.token, BegunPage { session: *live.token(), until: page.until });
        self.sessions.insert(*live.token(), Arc::clone(&live));
        SessionCreation::Session(live, gone)
    }

    /// Makes room for one more session of this key: of those that are not proven, the oldest of the network that has most of
    /// them gives way. `None` if there is none.
    fn make_room(&mut self, key: SecretTag, now: Instant) -> Option<Option<Arc<LiveSession>>> {
        let full = self.sessions.len() >= SESSIONS;
        let Some(counts) = self.keys.get_mut(&key) else { return (!full).then_some(None) };
        if !full && counts.count < SESSIONS_OF_KEY {
            return Some(None);
        }
        let sessions = &self.sessions;
        counts.unproven.retain(|token| sessions.get(token).is_some_and(|live| !live.is_proven()));
        let network_of = |token: &Token| sessions.get(token).map(|live| network(live.peer().ip()));
        let mut sizes: HashMap<Option<IpAddr>, usize> = HashMap::new();
        counts.unproven.iter().for_each(|token| *sizes.entry(network_of(token)).or_default() += 1);
        let most = sizes.values().copied().max()?;
        let at = counts.unproven.iter().position(|token| sizes.get(&network_of(token)) == Some(&most))?;
        let gone = counts.unproven.remove(at)?;
        Some(self.take(&gone, now))
    }

    /// The session of a token.
    pub fn session(&self, token: &Token) -> Option<Arc<LiveSession>> {
        self.sessions.get(token).cloned()
    }

    /// Takes a session out that is to be ended.
    pub fn take(&mut self, token: &Token, now: Instant) -> Option<Arc<LiveSession>> {
        let live = self.sessions.remove(token)?;
        let counts = self.keys.entry(live.key().tag()).or_default();
        counts.count = counts.count.saturating_sub(1);
        counts.spent.push_back(*live.page());
        if counts.spent.len() > SPENT_PAGES_OF_KEY
            && let Some(oldest) = counts.spent.pop_front()
        {
            self.pages.remove(&oldest);
        }
        if self.ended.len() < ENDED_TOKENS {
            self.ended.insert(*token, now);
        }
        Some(live)
    }

    /// Whether the session of this token has ended a moment ago.
    pub fn has_ended(&self, token: &Token) -> bool {
        self.ended.contains_key(token)
    }

    /// All sessions.
    pub fn all(&self) -> Vec<Arc<LiveSession>> {
        self.sessions.values().cloned().collect()
    }

    /// Forgets pages and ended tokens whose time is over. To be called every second.
    pub fn forget(&mut self, now: Instant) {
        let Self { pages, sessions, keys, .. } = self;
        pages.retain(|_, page| page.until > now || sessions.contains_key(&page.session));
        keys.retain(|_, counts| {
            counts.unproven.retain(|token| sessions.get(token).is_some_and(|live| !live.is_proven()));
            counts.spent.retain(|page| pages.contains_key(page));
            counts.count > 0 || !counts.spent.is_empty()
        });
        self.ended.retain(|_, since| *since + ENDED > now);
    }

    /// Takes everything out, and gives the sessions.
    pub fn clear(&mut self) -> Vec<Arc<LiveSession>> {
        let sessions = std::mem::take(&mut self.sessions);
        *self = Self::default();
        sessions.into_values().collect()
    }

    /// Number of sessions.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Member, Secret};
    use crate::webproxy::budget::Budget;
    use crate::webproxy::live::{SessionOrigin, StreamBackend, WebStream};
    use crate::webproxy::session::{Limits, Mode, Session};
    use crate::webproxy::token::{TokenKey, TokenKind};

    /// Takes no stream.
    struct Closed;

    impl StreamBackend for Closed {
        fn open(&self, _: WebStream) {}
    }

    fn key() -> Arc<Key> {
        Arc::new(Key::new(Member::new("alice"), Secret::new([1; 16])))
    }

    fn token(kind: TokenKind, number: u32) -> Token {
        let mut content = [0; 16];
        content[..4].copy_from_slice(&number.to_be_bytes());
        TokenKey::new(&[7; 32]).issue(kind, content)
    }

    fn page(number: u32) -> Token {
        token(TokenKind::Bootstrap, number)
    }

    /// Time for which the pages of these tests may begin a session.
    const PAGE: Duration = Duration::from_secs(60);

    /// Asks for the session of a page at a place.
    fn ask(registry: &mut SessionRegistry, number: u32, place: usize, now: Instant) -> SessionCreation {
        ask_from(registry, number, place, [192, 0, 2, 1], now)
    }

    fn ask_from(
        registry: &mut SessionRegistry,
        number: u32,
        place: usize,
        peer: [u8; 4],
        now: Instant,
    ) -> SessionCreation {
        let (page, key) = (page(number), key());
        let asking = AskingPage { token: &page, place, key: &key, until: now + PAGE };
        registry.create(&asking, now, || {
            let session =
                Session::new(Mode::Https, Limits::default(), Arc::new(Budget::new(1 << 20)).key(key.tag()), now);
            let (token, peer) = (token(TokenKind::Session, number), (peer, 1).into());
            LiveSession::new(
                session,
                SessionOrigin { token, page, key: Arc::clone(&key), place, peer },
                Arc::new(Closed),
            )
        })
    }

    fn created(outcome: SessionCreation) -> Option<Arc<LiveSession>> {
        match outcome {
            SessionCreation::Session(live, _) => Some(live),
            _ => None,
        }
    }

    #[test]
    fn a_page_begins_one_session_and_then_finds_it_until_it_ends() {
        let (mut registry, now) = (SessionRegistry::default(), Instant::now());
        let live = created(ask(&mut registry, 1, 0, now)).unwrap();
        let again = created(ask(&mut registry, 1, 0, now)).unwrap();
        assert!(Arc::ptr_eq(&live, &again) && registry.count() == 1);
        assert!(created(ask(&mut registry, 1, 1, now)).is_none(), "another place");
        assert!(registry.take(live.token(), now).is_some() && registry.has_ended(live.token()));
        assert!(created(ask(&mut registry, 1, 0, now)).is_none(), "it died with its session");
        registry.forget(now + ENDED);
        assert!(!registry.has_ended(live.token()) && registry.keys.is_empty() && registry.pages.is_empty());
    }

    #[test]
    fn a_page_is_kept_for_as_long_as_its_session_or_as_it_could_begin_one() {
        let (mut registry, now) = (SessionRegistry::default(), Instant::now());
        let live = created(ask(&mut registry, 1, 0, now)).unwrap();
        live.act(|session| session.down(None, 0, now + PAGE));
        registry.forget(now + PAGE);
        assert!(Arc::ptr_eq(&live, &created(ask(&mut registry, 1, 0, now + PAGE)).unwrap()));
        registry.take(live.token(), now + PAGE);
        registry.forget(now + PAGE);
        assert!(registry.pages.is_empty() && registry.keys.is_empty());
    }

    #[test]
    fn sessions_without_proof_give_way_the_oldest_first_and_proven_ones_never() {
        let (mut registry, now) = (SessionRegistry::default(), Instant::now());
        for number in 0..SESSIONS_OF_KEY as u32 {
            let live = created(ask(&mut registry, number, 0, now)).unwrap();
            if number % 2 == 0 {
                live.prove();
            }
        }
        for (round, number) in (1000..1000 + SESSIONS_OF_KEY as u32 / 2).enumerate() {
            let SessionCreation::Session(live, Some(gone)) = ask(&mut registry, number, 0, now) else {
                panic!("round {round}: the user is locked out");
            };
            assert_eq!(*gone.page(), page(2 * round as u32 + 1), "the oldest that is not proven");
            live.prove();
            assert_eq!(registry.count(), SESSIONS_OF_KEY);
        }
        assert!(matches!(ask(&mut registry, 2000, 0, now), SessionCreation::Full), "all are proven");
        assert!(created(ask(&mut registry, 0, 0, now)).is_some(), "and each is still there");
    }

    #[test]
    fn a_crowd_of_one_network_gives_way_before_the_few_of_another() {
        let (mut registry, now) = (SessionRegistry::default(), Instant::now());
        let user = created(ask_from(&mut registry, 0, 0, [198, 51, 100, 7], now)).unwrap();
        for number in 1..2 * SESSIONS_OF_KEY as u32 {
            assert!(created(ask(&mut registry, number, 0, now)).is_some());
        }
        assert_eq!(registry.count(), SESSIONS_OF_KEY);
        assert!(registry.session(user.token()).is_some(), "it has not proven itself yet, and is there all the same");
    }

    #[test]
    fn a_page_whose_time_is_over_begins_nothing() {
        let (mut registry, now, page, key) = (SessionRegistry::default(), Instant::now(), page(1), key());
        let asking = AskingPage { token: &page, place: 0, key: &key, until: now };
        let outcome = registry.create(&asking, now, || unreachable!("it begins no session"));
        assert!(matches!(outcome, SessionCreation::Unknown) && registry.pages.is_empty());
    }

    #[test]
    fn what_one_key_leaves_behind_has_a_bound() {
        let (mut registry, now) = (SessionRegistry::default(), Instant::now());
        for number in 0..3 * SPENT_PAGES_OF_KEY as u32 {
            let live = created(ask(&mut registry, number, 0, now)).unwrap();
            registry.take(live.token(), now);
        }
        assert_eq!((registry.pages.len(), registry.count()), (SPENT_PAGES_OF_KEY, 0));
        registry.forget(now + PAGE);
        assert!(registry.pages.is_empty() && registry.keys.is_empty());
    }
}
