//! The links to the middle proxies of one data centre: as few as will do, opened when someone needs one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::link::{self, Link, OpenError};
use super::port::{Caller, Port};
use super::{Common, Directory, Unavailable};
use crate::base::summary::{self, Cause};

/// Clients of a link from which on another one is opened.
const CROWD: usize = 250;

/// Most links to one data centre.
const MOST: usize = 8;

/// Time limit of a link from the first packet to the end of its handshake, the search for our address included.
const PATIENCE: Duration = Duration::from_millis(3500);

/// Pause in dialling after a failure: the first, and the longest. Clients go the direct way meanwhile.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Links to these addresses.
#[derive(Debug)]
pub struct Pool {
    addresses: Vec<SocketAddr>,
    state: Mutex<State>,
    /// Something of the state is other than before.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<Arc<Link>>,
    dialling: bool,
    /// Number of links that were tried, for beginning with another address each time.
    tried: usize,
    failures: u32,
    rest: Option<(Instant, String)>,
    retired: bool,
}

enum Look {
    Take(Arc<Link>),
    Wait,
    Rest(String),
}

impl Pool {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, state: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// A seat on the link with the fewest clients, of those that answer; waits while one is being opened if there is none.
    pub(super) async fn attach(
        self: &Arc<Self>,
        common: &Arc<Common>,
        directory: &Arc<Directory>,
        caller: Caller,
    ) -> Result<Port, Unavailable> {
        let mut news = self.changed.subscribe();
        loop {
            match self.look(common, directory) {
                Look::Take(link) => {
                    if let Some(port) = Port::on(&link, rand::random(), caller) {
                        return Ok(port);
                    }
                }
                Look::Wait => _ = news.changed().await,
                Look::Rest(why) => return Err(Unavailable::Failed(why)),
            }
        }
    }

    fn look(self: &Arc<Self>, common: &Arc<Common>, directory: &Arc<Directory>) -> Look {
        let mut state = self.lock();
        if state.retired {
            return Look::Rest("middle proxies have just changed".to_owned());
        }
        state.links.retain(|link| link.is_open());
        let sound = state.links.iter().filter(|link| !link.is_doubtful());
        let best = sound.min_by_key(|link| link.streams.count()).cloned();
        state.rest.take_if(|(until, _)| *until <= Instant::now());
        let rest = state.rest.as_ref().map(|(_, why)| why.clone());
        let wanted = best.as_ref().is_none_or(|link| link.streams.count() >= CROWD && state.links.len() < MOST);
        if wanted && !state.dialling && rest.is_none() {
            state.dialling = true;
            tokio::spawn(Arc::clone(self).dial(Arc::clone(common), Arc::clone(directory)));
        }
        match (best, rest) {
            (Some(link), _) => Look::Take(link),
            (None, Some(why)) => Look::Rest(why),
            (None, None) => Look::Wait,
        }
    }

    async fn dial(self: Arc<Self>, common: Arc<Common>, directory: Arc<Directory>) {
        let outcome = timeout(PATIENCE, self.open(&common, &directory)).await.unwrap_or(Err(OpenError::TooSlow));
        let mut state = self.lock();
        state.dialling = false;
        match outcome {
            Ok(link) => {
                (state.failures, state.rest) = (0, None);
                if state.retired {
                    link.retire();
                }
                state.links.push(link);
            }
            Err(error) => {
                common.found.forget();
                common.counts.failed();
                let rest = rest(state.failures).mul_f64(rand::random_range(0.75..1.25));
                let why = error.to_string();
                if state.failures == 0 {
                    warn!(addresses = ?self.addresses, "there is no link to a middle proxy: {why}");
                } else {
                    debug!(addresses = ?self.addresses, failures = state.failures, "still no link: {why}");
                }
                state.failures = state.failures.saturating_add(1);
                state.rest = Some((Instant::now() + rest, why));
            }
        }
        drop(state);
        self.changed.send_replace(());
    }

    async fn open(self: &Arc<Self>, common: &Arc<Common>, directory: &Directory) -> Result<Arc<Link>, OpenError> {
        let mut addresses = self.addresses.clone();
        {
            let mut state = self.lock();
            addresses.rotate_left(state.tried % self.addresses.len().max(1));
            state.tried = state.tried.wrapping_add(1);
        }
        let settings = common.settings.load_full();
        let own = (&settings.own, &common.found);
        let fresh = link::dial(&common.upstream, &addresses, &directory.secret, own, common.start).await?;
        let theirs = fresh.theirs;
        let (link, running) = Link::start(fresh, Arc::clone(&common.waiting));
        info!(%theirs, "a link to a middle proxy is open");
        common.counts.opened();
        let (pool, common) = (Arc::downgrade(self), Arc::clone(common));
        tokio::spawn(async move {
            let end = running.await;
            match end.cause {
                link::Cause::Stalled => summary::note(Cause::warn("a middle proxy does not answer any more"), || {
                    format!("{theirs}: {}; its clients will reconnect", end.detail)
                }),
                _ => info!(%theirs, cause = end.cause.label(), "a link to a middle proxy is over: {}", end.detail),
            }
            common.counts.closed(end.cause);
            if let Some(pool) = pool.upgrade() {
                pool.lock().links.retain(|link| !link.is_over());
            }
        });
        Ok(link)
    }

    /// The middle proxies or their secret are others now. Anyone who has a seat keeps it.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        state.retired = true;
        state.links.iter().for_each(|link| link.retire());
    }

    /// There may be hope again.
    pub(super) fn reset_backoff(&self) {
        let mut state = self.lock();
        (state.failures, state.rest) = (0, None);
    }

    /// Returns the number of clients on the links that take any.
    pub(super) fn clients(&self) -> usize {
        self.lock().links.iter().map(|link| link.streams.count()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rest(failures: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << failures.min(10)).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::super::link::tests::linked;
    use super::super::{Middle, Settings};
    use super::*;
    use crate::crypto::middle_kdf::MiddleSecret;
    use crate::telegram::{self, Upstream};

    #[tokio::test(start_paused = true)]
    async fn nobody_new_sits_down_where_a_ping_is_not_answered() {
        let (link, _running, _far) = linked().await;
        let pool = Arc::new(Pool::new(vec![link.theirs]));
        pool.lock().links.push(Arc::clone(&link));
        let middle = Middle::new(Settings::default(), Upstream::new(telegram::Settings::default()));
        let secret = MiddleSecret::new(&[3; 64]).unwrap();
        let directory = Arc::new(Directory { secret, clusters: Default::default(), default: None });
        let _seat = link.streams.take(crate::wire::rpc::ConnectionId(1)).unwrap();
        assert!(matches!(pool.look(&middle.common, &directory), Look::Take(_)));
        assert!(!pool.lock().dialling);
        while !link.is_doubtful() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(matches!(pool.look(&middle.common, &directory), Look::Wait), "for another link");
        assert!(pool.lock().dialling && !link.is_over());
    }

    #[test]
    fn rests_grow_and_end_growing() {
        assert_eq!([0, 1, 5, 6, 1000].map(|failures| rest(failures).as_secs()), [1, 2, 32, 60, 60]);
    }
}
