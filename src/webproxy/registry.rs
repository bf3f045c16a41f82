//! Tokens that mean something: pages that wait for their session, sessions, and those that have ended a moment ago.
//!
//! That a token is authentic is found out without this; what is looked up here was issued here. Everything has a bound, since
//! one who has seen a capability can ask for pages without end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::live::LiveSession;
use super::session::End;
use super::token::Token;
use crate::auth::{Key, SecretTag};

/// Life of a page whose session has not begun.
const PAGE: Duration = Duration::from_secs(120);

/// Life of a session that is not used.
const GRACE: Duration = Duration::from_secs(120);

/// Time for which an ended token is remembered, so that a repeated end is answered alike.
const ENDED: Duration = Duration::from_secs(120);

/// Most pages of one key that wait for their session. An app has one at a time; the oldest gives way.
const PAGES_OF_KEY: usize = 64;

/// Most pages in all.
const PAGES: usize = 1 << 16;

/// Most sessions of one key. Each app has one.
const SESSIONS_OF_KEY: usize = 256;

/// Most sessions in all.
const SESSIONS: usize = 1 << 16;

/// Most ended tokens.
const ENDED_TOKENS: usize = 1 << 16;

/// Everything that tokens stand for.
#[derive(Default)]
pub struct SessionRegistry {
    pages: HashMap<Token, ServedPage>,
    /// Sessions by the token of their page.
    begun: HashMap<Token, Token>,
    sessions: HashMap<Token, Arc<LiveSession>>,
    ended: HashMap<Token, Instant>,
    keys: HashMap<SecretTag, KeyCounts>,
}

/// A page that was served.
struct ServedPage {
    key: Arc<Key>,
    place: usize,
    until: Instant,
}

/// Pages and sessions of one key.
#[derive(Default)]
struct KeyCounts {
    /// Pages that wait, the oldest first.
    pages: VecDeque<Token>,
    sessions: usize,
}

/// Outcome of a request for a session.
pub enum SessionCreation {
    /// It has one.
    Session(Arc<LiveSession>),
    /// There are too many.
    Full,
    /// The token means nothing, or not here.
    Unknown,
}

impl SessionRegistry {
    /// A page is made for the holder of this key at this place; says whether there is room for it.
    pub fn serve(&mut self, page: Token, key: &Arc<Key>, place: usize, now: Instant) -> bool {
        let counts = self.keys.entry(key.tag()).or_default();
        if counts.pages.len() >= PAGES_OF_KEY
            && let Some(oldest) = counts.pages.pop_front()
        {
            self.pages.remove(&oldest);
        }
        if self.pages.len() >= PAGES {
            self.settle(key.tag());
            return false;
        }
        counts.pages.push_back(page);
        self.pages.insert(page, ServedPage { key: Arc::clone(key), place, until: now + PAGE });
        true
    }

    /// Begins the session of a page, or finds the one that it has begun. `begin` makes one for the holder of the key.
    pub fn create(
        &mut self,
        page: &Token,
        place: usize,
        now: Instant,
        begin: impl FnOnce(Arc<Key>) -> Arc<LiveSession>,
    ) -> SessionCreation {
        if let Some(live) = self.begun.get(page).and_then(|session| self.sessions.get(session)) {
            return if live.place() == place {
                SessionCreation::Session(Arc::clone(live))
            } else {
                SessionCreation::Unknown
            };
        }
        let Some(ServedPage { key, .. }) = self.pages.get(page).filter(|page| page.place == place && page.until > now)
        else {
            return SessionCreation::Unknown;
        };
        let key = Arc::clone(key);
        let counts = self.keys.entry(key.tag()).or_default();
        if self.sessions.len() >= SESSIONS || counts.sessions >= SESSIONS_OF_KEY {
            return SessionCreation::Full;
        }
        counts.pages.retain(|other| other != page);
        counts.sessions += 1;
        self.pages.remove(page);
        let live = begin(key);
        self.begun.insert(*page, *live.token());
        self.sessions.insert(*live.token(), Arc::clone(&live));
        SessionCreation::Session(live)
    }

    /// The session of a token.
    pub fn session(&self, token: &Token) -> Option<Arc<LiveSession>> {
        self.sessions.get(token).cloned()
    }

    /// Takes a session out that is to be ended.
    pub fn take(&mut self, token: &Token, now: Instant) -> Option<Arc<LiveSession>> {
        let live = self.sessions.remove(token)?;
        self.begun.remove(live.page());
        let tag = live.key().tag();
        if let Some(counts) = self.keys.get_mut(&tag) {
            counts.sessions = counts.sessions.saturating_sub(1);
        }
        self.settle(tag);
        if self.ended.len() < ENDED_TOKENS {
            self.ended.insert(*token, now);
        }
        Some(live)
    }

    /// Whether the session of this token has ended a moment ago.
    pub fn has_ended(&self, token: &Token) -> bool {
        self.ended.contains_key(token)
    }

    /// Takes out what is over, and gives the sessions among that with the reason. Called every second; `stays` says whether
    /// the holder of its key may still be here.
    pub fn sweep(&mut self, now: Instant, stays: impl Fn(&LiveSession) -> bool) -> Vec<(Arc<LiveSession>, End)> {
        let idle = now.checked_sub(GRACE);
        let over = |live: &LiveSession| match () {
            () if !stays(live) => Some(End::Revoked),
            () => live.is_over(idle),
        };
        let ends: Vec<_> = self.sessions.values().filter_map(|live| Some((Arc::clone(live), over(live)?))).collect();
        for (live, _) in &ends {
            self.take(live.token(), now);
        }
        let Self { pages, keys, .. } = self;
        keys.retain(|_, counts| {
            while let Some(oldest) = counts.pages.front()
                && pages.get(oldest).is_none_or(|page| page.until <= now)
            {
                pages.remove(oldest);
                counts.pages.pop_front();
            }
            counts.sessions > 0 || !counts.pages.is_empty()
        });
        self.ended.retain(|_, since| *since + ENDED > now);
        ends
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

    /// Forgets a key of which there is nothing.
    fn settle(&mut self, key: SecretTag) {
        if self.keys.get(&key).is_some_and(|counts| counts.sessions == 0 && counts.pages.is_empty()) {
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Member, Secret};
    use crate::webproxy::live::{SessionOrigin, StreamBackend, WebStream};
    use crate::webproxy::session::{Budget, Limits, Mode, Session};
    use crate::webproxy::token::{TokenKey, TokenKind};

    /// Takes no stream.
    struct Closed;

    impl StreamBackend for Closed {
        fn open(&self, _: WebStream) {}
    }

    fn key() -> Arc<Key> {
        Arc::new(Key::new(Member::new("alice"), Secret::new([1; 16])))
    }

    fn token(kind: TokenKind, number: u8) -> Token {
        TokenKey::new(&[7; 32]).issue(kind, [number; 16])
    }

    fn page(number: u8) -> Token {
        token(TokenKind::Bootstrap, number)
    }

    fn begin(page: Token, now: Instant) -> impl FnOnce(Arc<Key>) -> Arc<LiveSession> {
        move |key| {
            let session = Session::new(Mode::Https, Limits::default(), Arc::new(Budget::new(1 << 20)), now);
            let number = page.bytes()[0];
            let peer = ([192, 0, 2, 1], 1).into();
            let token = token(TokenKind::Session, number);
            LiveSession::new(session, SessionOrigin { token, page, key, place: 0, peer }, Arc::new(Closed))
        }
    }

    fn created(outcome: SessionCreation) -> Option<Arc<LiveSession>> {
        match outcome {
            SessionCreation::Session(live) => Some(live),
            _ => None,
        }
    }

    #[test]
    fn a_page_begins_one_session_and_then_finds_it_until_it_ends() {
        let (mut registry, now) = (SessionRegistry::default(), Instant::now());
        assert!(registry.serve(page(1), &key(), 0, now));
        assert!(created(registry.create(&page(1), 1, now, begin(page(1), now))).is_none(), "another place");
        assert!(created(registry.create(&page(2), 0, now, begin(page(2), now))).is_none(), "no page");
        let live = created(registry.create(&page(1), 0, now, begin(page(1), now))).unwrap();
        let again = created(registry.create(&page(1), 0, now, |_| unreachable!())).unwrap();
        assert!(Arc::ptr_eq(&live, &again) && registry.count() == 1);
        assert!(registry.take(live.token(), now).is_some() && registry.has_ended(live.token()));
        assert!(created(registry.create(&page(1), 0, now, begin(page(1), now))).is_none(), "it died with its session");
        registry.sweep(now + ENDED, |_| true);
        assert!(!registry.has_ended(live.token()) && registry.keys.is_empty());
    }

    #[test]
    fn pages_end_with_their_time_and_the_oldest_of_many() {
        let (mut registry, now, key) = (SessionRegistry::default(), Instant::now(), key());
        for number in 0..=PAGES_OF_KEY as u8 {
            assert!(registry.serve(page(number), &key, 0, now));
        }
        assert_eq!(registry.pages.len(), PAGES_OF_KEY);
        assert!(created(registry.create(&page(0), 0, now, begin(page(0), now))).is_none());
        assert!(created(registry.create(&page(1), 0, now + PAGE, begin(page(1), now))).is_none());
        registry.sweep(now + PAGE, |_| true);
        assert!(registry.pages.is_empty() && registry.keys.is_empty());
    }

    #[test]
    fn sessions_end_that_are_not_used_or_whose_holder_has_to_go() {
        let (mut registry, now, key) = (SessionRegistry::default(), Instant::now(), key());
        for number in [1, 2] {
            registry.serve(page(number), &key, 0, now);
            created(registry.create(&page(number), 0, now, begin(page(number), now))).unwrap();
        }
        assert!(registry.sweep(now + GRACE / 2, |_| true).is_empty());
        assert!(matches!(registry.sweep(now, |live| *live.page() != page(1))[..], [(_, End::Revoked)]));
        assert!(matches!(registry.sweep(now + GRACE, |_| true)[..], [(_, End::Idle)]));
        assert!(registry.count() == 0 && registry.begun.is_empty());
    }
}
