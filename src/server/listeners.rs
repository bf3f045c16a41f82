//! The listeners of the running proxy, which can be opened and shut one by one.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::Server;
use crate::net::listen::{self, Address, Listener};

/// Purpose of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Clients and visitors of the cover.
    Cover,
    /// The same, handed on by a program that names them in a PROXY protocol header.
    Proxied,
    /// Plain HTTP, answered with the way to the built-in site.
    Redirect,
    /// The built-in site over plain HTTP, for a web server in front.
    Front,
}

/// A listener that is wanted: what for, and the address as it was asked for. Port 0 lets the system choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Purpose of the listener.
    pub purpose: Purpose,
    /// Address that it listens on.
    pub address: Address,
}

/// A listener that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Purpose and address as they were asked for.
    pub wanted: ListenerSpec,
    /// The TCP address that the system gave.
    pub local: Option<SocketAddr>,
}

/// A listener that one process passes on to another.
#[derive(Debug)]
pub struct InheritedListener {
    /// Purpose and address as they were asked for.
    pub wanted: ListenerSpec,
    /// Whether clients of both families come to it.
    pub both: bool,
    /// The sockets.
    pub sockets: Vec<OwnedFd>,
}

/// Listeners that are wanted from now on, those among them bound that were not open yet.
#[derive(Debug)]
pub struct Bound {
    wanted: Vec<ListenerKey>,
    fresh: Vec<BoundListener>,
}

/// Identity of a listener: two with the same are one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ListenerKey {
    wanted: ListenerSpec,
    /// Whether clients of both families come to it, which depends on what stands beside it.
    both: bool,
}

/// A listener that accepts no one yet.
#[derive(Debug)]
struct BoundListener {
    spot: ListenerKey,
    listeners: Vec<Listener>,
}

impl Bound {
    /// Binds all of these.
    pub fn new(wanted: &[ListenerSpec]) -> Result<Self, CannotListen> {
        let wanted = ListenerKey::all(wanted);
        let fresh = wanted.iter().map(ListenerKey::open).collect::<Result<_, _>>()?;
        Ok(Self { wanted, fresh })
    }

    /// The same, where another process passes on what it has open; what is not wanted of that is closed.
    pub fn taken(wanted: &[ListenerSpec], mut passed: Vec<InheritedListener>) -> Result<Self, CannotListen> {
        let wanted = ListenerKey::all(wanted);
        let mut open = |spot: &ListenerKey| {
            let same = |passed: &InheritedListener| (&passed.wanted, passed.both) == (&spot.wanted, spot.both);
            match passed.iter().position(same) {
                Some(at) => spot.adopt(passed.swap_remove(at)),
                None => spot.open(),
            }
        };
        let fresh = wanted.iter().map(&mut open).collect::<Result<_, _>>()?;
        Ok(Self { wanted, fresh })
    }

    /// The addresses of those that are new, as the system gave them.
    pub fn addresses(&self, purpose: Purpose) -> Vec<SocketAddr> {
        let fresh = self.fresh.iter().filter(|fresh| fresh.spot.wanted.purpose == purpose);
        fresh.flat_map(|fresh| fresh.listeners.iter().filter_map(Listener::local)).collect()
    }

    /// Returns the number of new ones among them.
    pub fn fresh(&self) -> usize {
        self.fresh.len()
    }
}

impl ListenerKey {
    fn all(wanted: &[ListenerSpec]) -> Vec<Self> {
        let tcp: Vec<SocketAddr> = wanted.iter().filter_map(|wanted| wanted.address.tcp()).collect();
        let both =
            |wanted: &ListenerSpec| wanted.address.tcp().is_some_and(|address| listen::takes_both(address, &tcp));
        wanted.iter().map(|wanted| Self { both: both(wanted), wanted: wanted.clone() }).collect()
    }

    fn open(&self) -> Result<BoundListener, CannotListen> {
        self.open_at(&self.wanted.address)
    }

    fn adopt(&self, passed: InheritedListener) -> Result<BoundListener, CannotListen> {
        let address = &self.wanted.address;
        let sockets = passed.sockets.into_iter().map(|socket| Listener::adopt(address, socket));
        let listeners: io::Result<Vec<_>> = sockets.collect();
        let listeners = listeners.map_err(|error| CannotListen { address: address.clone(), error })?;
        Ok(BoundListener { spot: self.clone(), listeners })
    }

    fn open_at(&self, address: &Address) -> Result<BoundListener, CannotListen> {
        let opened = Listener::open(address, self.both);
        let listeners = opened.map_err(|error| CannotListen { address: self.wanted.address.clone(), error })?;
        Ok(BoundListener { spot: self.clone(), listeners })
    }
}

/// An address that cannot be had.
#[derive(Debug)]
pub struct CannotListen {
    /// The address.
    pub address: Address,
    /// Error of the system.
    pub error: io::Error,
}

impl fmt::Display for CannotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.error)
    }
}

impl std::error::Error for CannotListen {}

/// All open listeners.
#[derive(Default)]
pub(super) struct ListenerSet {
    open: Mutex<Vec<OpenListener>>,
    acceptors: TaskTracker,
}

struct OpenListener {
    spot: ListenerKey,
    listeners: Vec<Arc<Listener>>,
    local: Option<SocketAddr>,
    shut: CancellationToken,
    acceptors: TaskTracker,
}

impl OpenListener {
    /// Accepts no one any more, from when this is done on.
    async fn end(&self) {
        self.shut.cancel();
        self.acceptors.close();
        self.acceptors.wait().await;
    }

    /// Whether this keeps the other from being opened, and is not wanted as it is.
    fn is_in_the_way(&self, other: &ListenerKey, wanted: &[ListenerKey]) -> bool {
        let here = self.local.zip(other.wanted.address.tcp());
        here.is_some_and(|(here, there)| listen::overlap(here, there)) && !wanted.contains(&self.spot)
    }
}

impl ListenerSet {
    /// Binds those of `wanted` that are not open. What is in the way of one of them is closed for it, and opened again if
    /// that was in vain: two listeners on overlapping addresses cannot stand side by side, not even for a moment.
    pub(super) async fn rebind(&self, server: &Arc<Server>, wanted: &[ListenerSpec]) -> Result<Bound, CannotListen> {
        let wanted = ListenerKey::all(wanted);
        let (mut fresh, mut blocked) = (Vec::new(), Vec::new());
        for spot in self.missing(&wanted) {
            match spot.open() {
                Ok(opened) => fresh.push(opened),
                Err(why) if why.error.kind() == io::ErrorKind::AddrInUse && self.blocks(&spot, &wanted) => {
                    blocked.push(spot);
                }
                Err(why) => return Err(why),
            }
        }
        let freed = self.free(&blocked, &wanted).await;
        for spot in blocked {
            match spot.open() {
                Ok(opened) => fresh.push(opened),
                Err(why) => {
                    drop(fresh);
                    self.put_back(server, freed);
                    return Err(why);
                }
            }
        }
        Ok(Bound { wanted, fresh })
    }

    /// Those that are not open.
    fn missing(&self, wanted: &[ListenerKey]) -> Vec<ListenerKey> {
        let mut missing = wanted.to_vec();
        for door in self.lock().iter() {
            if let Some(at) = missing.iter().position(|spot| *spot == door.spot) {
                missing.swap_remove(at);
            }
        }
        missing
    }

    fn blocks(&self, spot: &ListenerKey, wanted: &[ListenerKey]) -> bool {
        self.lock().iter().any(|door| door.is_in_the_way(spot, wanted))
    }

    /// Shuts what is in the way of these, and is done when the addresses are free.
    async fn free(&self, blocked: &[ListenerKey], wanted: &[ListenerKey]) -> Vec<OpenListener> {
        let blocks = |door: &mut OpenListener| blocked.iter().any(|spot| door.is_in_the_way(spot, wanted));
        let freed: Vec<OpenListener> = self.lock().extract_if(.., blocks).collect();
        let mut freed = freed;
        for door in &mut freed {
            door.end().await;
            door.listeners.clear();
        }
        freed
    }

    fn put_back(&self, server: &Arc<Server>, freed: Vec<OpenListener>) {
        if server.stop.is_cancelled() {
            return;
        }
        for OpenListener { spot, local, .. } in freed {
            let address = match (&spot.wanted.address, local) {
                // The very port that the system had given.
                (Address::Tcp(_), Some(local)) => local.into(),
                (address, _) => address.clone(),
            };
            match spot.open_at(&address) {
                Ok(opened) => self.accept(server, opened),
                Err(error) => error!(%error, "a listener that was closed for another cannot be opened again"),
            }
        }
    }

    /// Shuts what is no longer wanted and opens what is new; the others are not touched. Says whether that changed
    /// anything.
    pub(super) fn apply(&self, server: &Arc<Server>, bound: Bound) -> bool {
        let Bound { mut wanted, fresh } = bound;
        let mut open = self.lock();
        let before = open.len();
        open.retain(|door| {
            let still = wanted.iter().position(|spot| *spot == door.spot);
            match still {
                Some(at) => _ = wanted.swap_remove(at),
                None => door.shut.cancel(),
            }
            still.is_some()
        });
        let changed = open.len() != before || !fresh.is_empty();
        drop(open);
        fresh.into_iter().for_each(|opened| self.accept(server, opened));
        changed
    }

    /// Lets clients in.
    fn accept(&self, server: &Arc<Server>, BoundListener { spot, listeners }: BoundListener) {
        self.watch(server, spot, listeners.into_iter().map(Arc::new).collect());
    }

    fn watch(&self, server: &Arc<Server>, spot: ListenerKey, listeners: Vec<Arc<Listener>>) {
        let local = listeners.first().and_then(|listener| listener.local());
        let (shut, acceptors) = (CancellationToken::new(), TaskTracker::new());
        let purpose = spot.wanted.purpose;
        for listener in &listeners {
            let (until, server, listener) = (shut.clone(), Arc::clone(server), Arc::clone(listener));
            let accepting = async move {
                match purpose {
                    Purpose::Cover | Purpose::Proxied => server.accept(listener, purpose).await,
                    Purpose::Redirect => server.redirect(listener).await,
                    Purpose::Front => server.serve_fronts(listener).await,
                }
            };
            let accepting = async move { until.run_until_cancelled(accepting).await };
            self.acceptors.spawn(acceptors.track_future(accepting));
        }
        self.lock().push(OpenListener { spot, listeners, local, shut, acceptors });
    }

    /// All that is open, once more for another process.
    pub(super) fn pass(&self) -> io::Result<Vec<InheritedListener>> {
        let passed = |door: &OpenListener| {
            let sockets: io::Result<_> = door.listeners.iter().map(|listener| listener.pass()).collect();
            Ok(InheritedListener { wanted: door.spot.wanted.clone(), both: door.spot.both, sockets: sockets? })
        };
        self.lock().iter().map(passed).collect()
    }

    /// Accepts no one for now. Anyone who comes waits in the listeners' queues, for whichever process accepts next.
    pub(super) async fn pause(&self) {
        let paused: Vec<OpenListener> = self.lock().drain(..).collect();
        for door in &paused {
            door.end().await;
        }
        self.lock().extend(paused);
        self.leave_files(true);
    }

    /// Leaves the files of sockets to another process, or takes them over.
    pub(super) fn leave_files(&self, left: bool) {
        self.lock().iter().flat_map(|door| &door.listeners).for_each(|listener| listener.leave_file(left));
    }

    /// Goes on accepting.
    pub(super) fn resume(&self, server: &Arc<Server>) {
        let paused: Vec<OpenListener> = self.lock().drain(..).collect();
        for OpenListener { spot, listeners, .. } in paused {
            self.watch(server, spot, listeners);
        }
        self.leave_files(false);
    }

    /// Shuts all of them, and is done when no client can come any more.
    pub(super) async fn shut(&self) {
        self.lock().drain(..).for_each(|door| door.shut.cancel());
        self.acceptors.close();
        self.acceptors.wait().await;
    }

    pub(super) fn list(&self) -> Vec<Listening> {
        let listening = |door: &OpenListener| Listening { wanted: door.spot.wanted.clone(), local: door.local };
        self.lock().iter().map(listening).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OpenListener>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
