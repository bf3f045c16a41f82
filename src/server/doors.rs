//! The listeners of the running proxy, which can be opened and shut one by one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Server;
use crate::net::listen::{Address, Listener};

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Clients and visitors of the cover.
    Cover,
    /// The same, handed on by a program that names them in a PROXY protocol header.
    Proxied,
    /// Plain HTTP, answered with the way to the built-in site.
    Redirect,
}

/// A listener that is wanted: what for, and the address as it was asked for. Port 0 lets the system choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What for.
    pub purpose: Purpose,
    /// Where.
    pub address: Address,
}

/// A listener that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// What was asked for.
    pub wanted: Wanted,
    /// The TCP address that the system gave.
    pub local: Option<SocketAddr>,
}

/// Listeners that are wanted from now on, those among them bound that were not open yet. Dropped, it changes nothing.
#[derive(Debug)]
pub struct Bound {
    wanted: Vec<Wanted>,
    fresh: Vec<(Wanted, Vec<Listener>)>,
}

impl Bound {
    /// Binds all of these.
    pub fn new(wanted: &[Wanted]) -> Result<Self, CannotListen> {
        Doors::default().bind(wanted)
    }

    /// The addresses of those that are new, as the system gave them.
    pub fn addresses(&self, purpose: Purpose) -> Vec<SocketAddr> {
        let fresh = self.fresh.iter().filter(|(wanted, _)| wanted.purpose == purpose);
        fresh.flat_map(|(_, listeners)| listeners.iter().filter_map(Listener::local)).collect()
    }

    /// How many of them are new.
    pub fn fresh(&self) -> usize {
        self.fresh.len()
    }
}

/// An address that cannot be had.
#[derive(Debug)]
pub struct CannotListen {
    /// The address.
    pub address: Address,
    /// What the system says.
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
pub(super) struct Doors {
    open: Mutex<Vec<Door>>,
    acceptors: TaskTracker,
}

struct Door {
    listening: Listening,
    shut: CancellationToken,
}

impl Doors {
    /// Binds those of `wanted` that are not open.
    pub(super) fn bind(&self, wanted: &[Wanted]) -> Result<Bound, CannotListen> {
        let mut missing = wanted.to_vec();
        for known in self.list() {
            if let Some(at) = missing.iter().position(|wanted| *wanted == known.wanted) {
                missing.swap_remove(at);
            }
        }
        let all: Vec<SocketAddr> = wanted.iter().filter_map(|wanted| wanted.address.tcp()).collect();
        let bind = |wanted: Wanted| match Listener::open(&wanted.address, &all) {
            Ok(listeners) => Ok((wanted, listeners)),
            Err(error) => Err(CannotListen { address: wanted.address, error }),
        };
        Ok(Bound { wanted: wanted.to_vec(), fresh: missing.into_iter().map(bind).collect::<Result<_, _>>()? })
    }

    /// Shuts what is no longer wanted and opens what is new; the others are not touched. Says whether that changed
    /// anything.
    pub(super) fn apply(&self, server: &Arc<Server>, bound: Bound) -> bool {
        let mut open = self.lock();
        let Bound { mut wanted, fresh } = bound;
        let before = open.len();
        open.retain(|door| {
            let still = wanted.iter().position(|wanted| *wanted == door.listening.wanted);
            match still {
                Some(at) => _ = wanted.swap_remove(at),
                None => door.shut.cancel(),
            }
            still.is_some()
        });
        let changed = open.len() != before || !fresh.is_empty();
        for (wanted, listeners) in fresh {
            let local = listeners.first().and_then(Listener::local);
            let (shut, purpose) = (CancellationToken::new(), wanted.purpose);
            for listener in listeners {
                let (until, server) = (shut.clone(), Arc::clone(server));
                self.acceptors.spawn(async move {
                    until
                        .run_until_cancelled(async {
                            match purpose {
                                Purpose::Cover | Purpose::Proxied => server.accept(listener, purpose).await,
                                Purpose::Redirect => server.redirect(listener).await,
                            }
                        })
                        .await
                });
            }
            open.push(Door { listening: Listening { wanted, local }, shut });
        }
        changed
    }

    /// Shuts all of them, and is done when no client can come any more.
    pub(super) async fn shut(&self) {
        self.lock().drain(..).for_each(|door| door.shut.cancel());
        self.acceptors.close();
        self.acceptors.wait().await;
    }

    pub(super) fn list(&self) -> Vec<Listening> {
        self.lock().iter().map(|door| door.listening.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Door>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
