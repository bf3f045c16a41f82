//! From a request to what answers it: the extension of the site that speaks to Telegram's apps.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, Guard as ArcSwapGuard};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::budget::Budget;
use super::capability::{BasePath, Entry, Host, Index, Place};
use super::live::{LiveSession, SessionOrigin, StreamBackend};
use super::registry::{AskingPage, SessionCreation, SessionRegistry};
use super::request::{Call, Head, Request, classify};
use super::session::{End, Limits, Mode, Session};
use super::token::{PageClaims, Token, TokenKey, TokenKind};
use super::{frame, https, page, registry, reply, socket};
use crate::auth::{self, KeyId, UnixTime};
use crate::cover::site::extension::{Claim, ExtensionAnswer, RequestBody, VisitorRequest};

/// Memory that all sessions may take together, of what this process may use in all (`usable`, if that is known): a quarter,
/// since as many bytes wait in the buffers of sockets, and the site and other clients are to find some too.
pub fn memory(usable: Option<u64>) -> usize {
    const LEAST: usize = 16 << 20;
    const USUAL: usize = 512 << 20;
    usable.map_or(USUAL, |usable| usize::try_from(usable / 4).unwrap_or(usize::MAX).max(LEAST))
}

/// Keys that are filed at a stretch: less than a millisecond.
const FILED_AT_ONCE: usize = 64;

/// Keys of removed users, and old ones, whose values are still known for authentic.
const REMOVED_KEYS: usize = 4096;

/// TokenSeed that tokens are made with. Hidden in `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TokenSeed([u8; 32]);

impl TokenSeed {
    /// A key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for TokenSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSeed(hidden)")
    }
}

/// Settings of WEB on a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The carrier that pages are made for.
    pub mode: Mode,
    /// The names of the site.
    pub hosts: Vec<Host>,
    /// The path besides the root; empty for none.
    pub base: BasePath,
    /// Makes tokens.
    pub key: TokenSeed,
}

impl Settings {
    /// The places that bridges are served at.
    fn places(&self) -> impl Iterator<Item = Place> {
        let below = Some(&self.base).filter(|base| !base.is_root()).cloned();
        let bases = [Some(BasePath::default()), below].into_iter().flatten();
        bases.flat_map(|base| self.hosts.iter().map(move |host| Place { host: host.clone(), base: base.clone() }))
    }

    /// The host that the links of this key name.
    fn host_of(&self, key: &auth::Key) -> Option<&Host> {
        let named = |host: &&Host| key.domain().is_some_and(|name| host.as_str().eq_ignore_ascii_case(name.as_str()));
        self.hosts.iter().find(named).or(self.hosts.first())
    }
}

/// State of the offer: carrier and holders of keys.
struct WebOffer {
    /// Without them nothing is offered, and what is authentic is of no use.
    settings: Option<Settings>,
    tokens: TokenKey,
    keys: HashMap<KeyId, Arc<auth::Key>>,
}

impl WebOffer {
    /// The settings and the key of a page that is to be served at this place, if its links lead there.
    fn holder(&self, id: KeyId, place: &Place) -> Option<(&Settings, &Arc<auth::Key>)> {
        let (settings, key) = (self.settings.as_ref()?, self.keys.get(&id)?);
        let served = place.base.is_root() || place.base == settings.base;
        (served && settings.host_of(key) == Some(&place.host)).then_some((settings, key))
    }
}

/// Keys whose capabilities are not known yet. They are to be filed, which takes time linear in their number.
#[must_use = "their holders get no page before they are filed"]
pub struct UnfiledKeys {
    service: Arc<WebProxy>,
    keys: Vec<Arc<auth::Key>>,
}

impl UnfiledKeys {
    /// Number of keys.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Files them, a few at a time, so that requests are not held up.
    pub fn file(self) {
        for some in self.keys.chunks(FILED_AT_ONCE) {
            let mut index = self.service.index.write().unwrap_or_else(PoisonError::into_inner);
            some.iter().for_each(|key| index.file(key.id(), key.secret().bytes()));
        }
    }
}

/// The service. One for a process: what it knows of sessions, and of values that were authentic once, outlasts every change of
/// the configuration.
pub struct WebProxy {
    offer: ArcSwap<WebOffer>,
    /// Capabilities of all keys that there are and, up to a bound, that there were.
    index: RwLock<Index<KeyId>>,
    registry: Mutex<SessionRegistry>,
    /// Whether no session begins any more.
    closed: AtomicBool,
    budget: Arc<Budget>,
}

impl Default for WebProxy {
    /// A service in as much memory as is usual.
    fn default() -> Self {
        Self::new(memory(None))
    }
}

impl WebProxy {
    /// A service that offers nothing yet, and whose sessions take so much memory at most. It looks requests through all the
    /// same, so that time does not tell it from one that does.
    pub fn new(memory: usize) -> Self {
        let tokens = TokenKey::new(&rand::random());
        Self {
            offer: ArcSwap::from_pointee(WebOffer { settings: None, tokens, keys: HashMap::new() }),
            index: RwLock::new(Index::new(&rand::random())),
            registry: Mutex::default(),
            closed: false.into(),
            budget: Arc::new(Budget::new(memory)),
        }
    }

    /// From now on this is offered to the holders of these keys. Sessions go on, unless nothing is offered any more.
    pub fn offer(self: &Arc<Self>, settings: Option<&Settings>, keys: &[Arc<auth::Key>]) -> UnfiledKeys {
        let Some(settings) = settings else {
            let tokens = self.offer.load().tokens.clone();
            self.offer.store(Arc::new(WebOffer { settings: None, tokens, keys: HashMap::new() }));
            self.end_all();
            return UnfiledKeys { service: Arc::clone(self), keys: Vec::new() };
        };
        let by_id: HashMap<_, _> = keys.iter().map(|key| (key.id(), Arc::clone(key))).collect();
        let missing = {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            settings.places().for_each(|place| _ = index.number(&place));
            if index.users() > by_id.len() + REMOVED_KEYS {
                // Not those that this change has removed.
                let before = self.offer.load();
                index.retain(|id| by_id.contains_key(id) || before.keys.contains_key(id));
            }
            by_id.values().filter(|key| index.lacks(&key.id())).cloned().collect()
        };
        let (settings, tokens) = (settings.clone(), TokenKey::new(&settings.key.0));
        self.offer.store(Arc::new(WebOffer { settings: Some(settings), tokens, keys: by_id }));
        UnfiledKeys { service: Arc::clone(self), keys: missing }
    }

    /// Whether anything is offered.
    pub fn is_offered(&self) -> bool {
        self.offer.load().settings.is_some()
    }

    /// Ends all sessions, and lets none begin any more: apps come again, to another process if there is one.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.end_all();
    }

    /// Ends all sessions.
    fn end_all(&self) {
        let ended = self.registry().clear();
        ended.iter().for_each(|live| live.end(End::Shutdown));
    }

    /// Ends what is over: sessions that are not used, and those whose holder is not let in any more by `stays`. To be called
    /// every second.
    pub fn sweep(&self, now: Instant, stays: impl Fn(SocketAddr, &auth::Key) -> bool) {
        let over = |live: &LiveSession| match () {
            () if !stays(live.peer(), live.key()) => Some(End::Revoked),
            () => live.is_over(now.checked_sub(registry::GRACE)),
        };
        // Each of them is locked for that, and requests must not wait for all of them.
        let all = self.registry().all();
        for (live, why) in all.into_iter().filter_map(|live| Some((Arc::clone(&live), over(&live)?))) {
            self.registry().take(live.token(), now);
            live.end(why);
        }
        self.registry().forget(now);
    }

    /// Number of sessions.
    pub fn sessions(&self) -> usize {
        self.registry().count()
    }

    /// Takes a request that carries something authentic, also where that is of no use here: nothing authentic may reach what
    /// is behind the site. A visitor who is barred gets nothing for it. `backend` carries its streams on.
    pub fn claim(
        self: &Arc<Self>,
        asked: &VisitorRequest<'_>,
        barred: bool,
        backend: impl Fn() -> Arc<dyn StreamBackend>,
    ) -> Option<Claim> {
        let offer = self.offer.load();
        let fields = asked.fields.iter().map(|(name, value)| (&name[..], &value[..]));
        let host = asked.all("host").next();
        let head = Head { method: asked.method, target: asked.target, host, protocol: None, fields };
        let request = classify(&head, &self.index(), &offer.tokens);
        if matches!(request, Request::Stranger) {
            return None;
        }
        let peer = asked.peer.filter(|_| !barred && offer.settings.is_some());
        let Some(peer) = peer else { return Some(refusal()) };
        let (service, backend, offer) = (Arc::clone(self), backend(), ArcSwapGuard::into_inner(offer));
        Some(match request {
            Request::Stranger | Request::Unusable => refusal(),
            Request::Bridge(entry) => Box::new(move |_| Box::pin(async move { service.page(&offer, &entry, peer) })),
            Request::Api { token, call: Call::Create, place } => Box::new(move |body| {
                let asking = CreateCall { token, place, peer };
                Box::pin(async move { service.create(&offer, asking, body, backend).await })
            }),
            Request::Api { token, call, place } => {
                let Some(live) = self.registry().session(&token).filter(|live| live.place() == place) else {
                    return Some(Box::new(move |_| Box::pin(async move { service.gone(&call, &token) })));
                };
                let key = asked.all("sec-websocket-key").next().map(<[u8]>::to_vec);
                Box::new(move |body| Box::pin(async move { service.call(live, call, peer, key, body).await }))
            }
        })
    }

    /// The page with what begins a session.
    fn page(&self, offer: &WebOffer, entry: &Entry<KeyId>, peer: SocketAddr) -> ExtensionAnswer {
        let now: UnixTime = SystemTime::now().into();
        let place = self.index().place(entry).cloned();
        let Some(place) = place.filter(|_| !self.closed.load(Ordering::Acquire)) else { return reply::refused() };
        let holder = offer.holder(entry.user, &place).filter(|(_, key)| key.stands(peer.ip(), now).is_ok());
        let Some((settings, _)) = holder else { return reply::refused() };
        let claims = PageClaims { issued: now.0 as u32, key: entry.user, place: place.mark(), mode: settings.mode };
        let bootstrap = offer.tokens.bootstrap(&claims, rand::random());
        let page = page::bridge(&place.host, &place.base, &bootstrap, settings.mode, rand::random());
        let fields = page.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        ExtensionAnswer::Reply { status: 200, fields, content: vec![page.body.into()] }
    }

    /// Begins a session, or finds the one that the page has begun.
    async fn create(
        &self,
        offer: &WebOffer,
        CreateCall { token, place, peer }: CreateCall,
        body: RequestBody,
        backend: Arc<dyn StreamBackend>,
    ) -> ExtensionAnswer {
        let hello = https::hello(body).await;
        if hello.is_none_or(|hello| hello[..] != frame::HELLO) || self.closed.load(Ordering::Acquire) {
            return reply::refused();
        }
        let (claims, now, time) = (token.claims(), Instant::now(), SystemTime::now().into());
        let here = self.index().places().get(place).is_some_and(|place| place.mark() == claims.place);
        let key = offer.keys.get(&claims.key).filter(|key| here && key.stands(peer.ip(), time).is_ok());
        let Some(key) = key else { return reply::refused() };
        let until = now + claims.left(time).unwrap_or_default();
        let asking = AskingPage { token: &token, place, key, until };
        let created = self.registry().create(&asking, now, || {
            let session = Session::new(claims.mode, Limits::default(), self.budget.key(key.tag()), now);
            let (page, key) = (token, Arc::clone(key));
            let token = offer.tokens.issue(TokenKind::Session, rand::random());
            LiveSession::new(session, SessionOrigin { token, page, key, place, peer }, backend)
        });
        match created {
            SessionCreation::Session(live, gone) => {
                gone.iter().for_each(|gone| gone.end(End::Replaced));
                https::welcome(&live)
            }
            SessionCreation::Full => reply::busy(),
            SessionCreation::Unknown => reply::refused(),
        }
    }

    /// A call for a session.
    async fn call(
        &self,
        live: Arc<LiveSession>,
        call: Call,
        peer: SocketAddr,
        key: Option<Vec<u8>>,
        body: RequestBody,
    ) -> ExtensionAnswer {
        match call {
            Call::Create => reply::refused(),
            Call::End => {
                let taken = self.registry().take(live.token(), Instant::now());
                taken.iter().for_each(|live| live.end(End::Left));
                reply::answer(204, &[], Vec::new())
            }
            Call::Up { sequence, lane } => https::up(&live, sequence, lane, peer, body).await,
            Call::Down { cursor, lane } => https::down(live, cursor, lane).await,
            Call::Socket(wanted) => socket::open(live, wanted, peer, key.unwrap_or_default()),
        }
    }

    /// A call for a session that is not there.
    fn gone(&self, call: &Call, token: &Token) -> ExtensionAnswer {
        match call {
            Call::End if self.registry().has_ended(token) => reply::answer(204, &[], Vec::new()),
            _ => reply::refused(),
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index<KeyId>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> MutexGuard<'_, SessionRegistry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that asks for the session of a page.
struct CreateCall {
    /// The token of the page.
    token: Token,
    /// Number of the place where it is asked for.
    place: usize,
    peer: SocketAddr,
}

/// The fixed answer to what is authentic and of no use.
fn refusal() -> Claim {
    Box::new(|_| Box::pin(async { reply::refused() }))
}

#[cfg(test)]
mod tests;
