//! From a request to what answers it: the extension of the site that speaks to Telegram's apps.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::capability::{BasePath, Entry, Host, Index, Place, PlacesOf};
use super::live::{LiveSession, SessionOrigin, StreamBackend};
use super::registry::{SessionCreation, SessionRegistry};
use super::request::{Call, Head, Request, classify};
use super::session::{Budget, End, Limits, Mode, Session};
use super::token::{Token, TokenKey, TokenKind};
use super::{frame, https, page, reply, socket};
use crate::auth;
use crate::cover::site::extension::{Claim, ExtensionAnswer, RequestBody, VisitorRequest};

/// Bytes that may wait in all sessions.
const BUDGET: usize = 512 << 20;

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
    /// The offer to the holders of these keys. `random` is for the look-up alone.
    pub fn offer(&self, keys: &[Arc<auth::Key>], random: [u8; 32]) -> WebOffer {
        let bases = [Some(BasePath::default()), Some(self.base.clone()).filter(|base| !base.is_root())];
        let places = bases
            .into_iter()
            .flatten()
            .flat_map(|base| self.hosts.iter().map(move |host| Place { host: host.clone(), base: base.clone() }));
        let places = places.collect();
        let users = keys.iter().map(|key| (Arc::clone(key), *key.secret().bytes(), PlacesOf::All));
        let index = Index::build(&random, places, users);
        WebOffer { mode: self.mode, tokens: TokenKey::new(&self.key.0), index }
    }
}

/// Carrier and holders of capabilities.
pub struct WebOffer {
    /// The carrier that pages are made for.
    mode: Mode,
    tokens: TokenKey,
    /// Keys by their capabilities.
    index: Index<Arc<auth::Key>>,
}

/// The service. One for a process: what it knows of sessions outlasts every change of the configuration.
pub struct WebProxy {
    offer: ArcSwapOption<WebOffer>,
    registry: Mutex<SessionRegistry>,
    /// Whether no session begins any more.
    closed: AtomicBool,
    budget: Arc<Budget>,
}

impl Default for WebProxy {
    /// A service that offers nothing yet.
    fn default() -> Self {
        let budget = Arc::new(Budget::new(BUDGET));
        Self { offer: ArcSwapOption::empty(), registry: Mutex::default(), closed: false.into(), budget }
    }
}

impl WebProxy {
    /// From now on this is offered. Sessions go on, unless nothing is offered any more.
    pub fn replace(&self, offer: Option<WebOffer>) {
        let ends = offer.is_none();
        self.offer.store(offer.map(Arc::new));
        if ends {
            self.end_all();
        }
    }

    /// Whether anything is offered.
    pub fn is_offered(&self) -> bool {
        self.offer.load().is_some()
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
        let over = self.registry().sweep(now, |live| stays(live.peer(), live.key()));
        over.iter().for_each(|(live, why)| live.end(*why));
    }

    /// Number of sessions.
    pub fn sessions(&self) -> usize {
        self.registry().count()
    }

    /// Takes a request that carries something authentic; `backend` carries its streams on.
    pub fn claim(
        self: &Arc<Self>,
        asked: &VisitorRequest<'_>,
        backend: impl Fn() -> Arc<dyn StreamBackend>,
    ) -> Option<Claim> {
        let offer = self.offer.load_full()?;
        let peer = asked.peer?;
        let fields = asked.fields.iter().map(|(name, value)| (&name[..], &value[..]));
        let host = asked.all("host").next();
        let head = Head { method: asked.method, target: asked.target, host, protocol: None, fields };
        let request = classify(&head, &offer.index, &offer.tokens);
        if matches!(request, Request::Stranger) {
            return None;
        }
        let (service, backend) = (Arc::clone(self), backend());
        Some(match request {
            Request::Stranger => return None,
            Request::Unusable => Box::new(|_| Box::pin(async { reply::refused() })),
            Request::Bridge(entry) => Box::new(move |_| Box::pin(async move { service.page(&offer, &entry, peer) })),
            Request::Api { token, call: Call::Create, place } => Box::new(move |body| {
                Box::pin(async move { service.create(&offer, token, place, peer, body, backend).await })
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
    fn page(&self, offer: &WebOffer, entry: &Entry<Arc<auth::Key>>, peer: SocketAddr) -> ExtensionAnswer {
        let now = SystemTime::now().into();
        let Some(place) = offer.index.place(entry).filter(|_| entry.user.stands(peer.ip(), now).is_ok()) else {
            return reply::refused();
        };
        if self.closed.load(Ordering::Acquire) {
            return reply::refused();
        }
        let bootstrap = offer.tokens.issue(TokenKind::Bootstrap, rand::random());
        if !self.registry().serve(bootstrap, &entry.user, entry.place, Instant::now()) {
            return reply::refused();
        }
        let page = page::bridge(&place.host, &place.base, &bootstrap, offer.mode, rand::random());
        let fields = page.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        ExtensionAnswer::Reply { status: 200, fields, content: vec![page.body.into()] }
    }

    /// Begins a session, or finds the one that the page has begun.
    async fn create(
        &self,
        offer: &WebOffer,
        page: Token,
        place: usize,
        peer: SocketAddr,
        body: RequestBody,
        backend: Arc<dyn StreamBackend>,
    ) -> ExtensionAnswer {
        let hello = https::body(body, frame::MAX_HELLO).await;
        if hello.is_none_or(|hello| hello[..] != frame::HELLO) {
            return reply::refused();
        }
        if self.closed.load(Ordering::Acquire) {
            return reply::refused();
        }
        let now = Instant::now();
        let mode = offer.mode;
        let created = self.registry().create(&page, place, now, |key| {
            let token = offer.tokens.issue(TokenKind::Session, rand::random());
            let session = Session::new(mode, Limits::default(), Arc::clone(&self.budget), now);
            LiveSession::new(session, SessionOrigin { token, page, key, place, peer }, backend)
        });
        match created {
            SessionCreation::Session(live) => https::welcome(&live),
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

    fn registry(&self) -> MutexGuard<'_, SessionRegistry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
