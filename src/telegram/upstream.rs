//! The way to Telegram: every connection that the running proxy opens to a data centre, or to a place near one, is opened
//! here.
//!
//! There is one [`Upstream`] for as long as the server lives. A reload gives it other [`Settings`]; what it has learnt of
//! addresses survives. It is meant to be used like this:
//!
//! - a session asks for a data centre by its number: [`Upstream::connect`];
//! - whoever has addresses of its own, such as those of middle proxies, asks for one of them: [`Upstream::dial`]. The memory
//!   is the same, so an address that failed for one is tried last by the other;
//! - who finds later that an address accepts connections and breaks them says so: [`Upstream::broke`].
//!
//! All of them race the addresses ([`net::race`](crate::net::race)), and each single TCP connection of a race comes out of
//! one function, `Inner::open`. What is to stand between this machine and Telegram belongs there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;

use super::{DcId, Settings};
use crate::net::health::Health;
use crate::net::race::race;
use crate::net::sockopt;

/// How long a data centre has to accept a connection, all of its addresses together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reaches Telegram. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: ArcSwap<Settings>,
    health: Health,
}

/// A connection on which nothing has been sent yet.
#[derive(Debug)]
pub struct Reached {
    /// The connection.
    pub stream: TcpStream,
    /// Whose it is: one of the addresses that were asked for.
    pub address: SocketAddr,
}

/// Why there is no connection to a data centre.
#[derive(Debug)]
pub enum ReachError {
    /// There is no data centre of this number.
    Unknown,
    /// None of its addresses could be reached.
    Unreachable(io::Error),
}

impl Upstream {
    /// A way to the data centres of these settings. Nothing is known of them yet.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner { settings: ArcSwap::from_pointee(settings), health: Health::default() }))
    }

    /// From now on these settings hold. Connections that there are stay as they are.
    pub fn replace(&self, settings: Settings) {
        self.0.settings.store(Arc::new(settings));
    }

    /// Connects to a data centre.
    pub async fn connect(&self, dc: DcId) -> Result<Reached, ReachError> {
        let addresses = self.0.settings.load().addresses(dc);
        if addresses.is_empty() {
            return Err(ReachError::Unknown);
        }
        self.dial(&addresses).await.map_err(ReachError::Unreachable)
    }

    /// Connects to one of these addresses.
    pub async fn dial(&self, addresses: &[SocketAddr]) -> io::Result<Reached> {
        let inner = &*self.0;
        let (address, stream) = race(addresses, &inner.health, PATIENCE, |address| inner.open(address)).await?;
        Ok(Reached { stream, address })
    }

    /// A connection to this address broke before the first byte came over it. Others are tried before it for a while.
    pub fn broke(&self, address: SocketAddr) {
        self.0.health.failed(address, Instant::now());
    }
}

impl Inner {
    /// One TCP connection, ready for what a session sends.
    async fn open(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        sockopt::no_delay(&stream);
        sockopt::keep_alive(&stream);
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn settings(number: i16, addresses: &[SocketAddr]) -> Settings {
        Settings { overrides: [(DcId::new(number), addresses.to_vec())].into(), ..Settings::default() }
    }

    #[tokio::test]
    async fn a_number_that_is_not_known_is_no_failure_of_the_network() {
        let upstream = Upstream::new(Settings::default());
        for number in [0, 6, 10_004, i16::MIN] {
            assert!(matches!(upstream.connect(DcId::new(number)).await, Err(ReachError::Unknown)), "{number}");
        }
    }

    #[tokio::test]
    async fn what_was_learnt_of_an_address_survives_other_settings() {
        let dead = listener().await.1;
        let (_alive, alive) = listener().await;
        let upstream = Upstream::new(settings(2, &[dead, alive]));
        assert_eq!(upstream.connect(DcId::new(-2)).await.unwrap().address, alive);
        upstream.replace(settings(4, &[dead, alive]));
        assert!(matches!(upstream.connect(DcId::new(6)).await, Err(ReachError::Unknown)));
        assert!(upstream.0.health.is_bad(&dead));
        assert_eq!(upstream.connect(DcId::new(4)).await.unwrap().address, alive);
    }

    #[tokio::test]
    async fn an_address_that_breaks_what_it_accepts_is_avoided() {
        let ((_first, first), (_second, second)) = (listener().await, listener().await);
        let upstream = Upstream::new(settings(2, &[first, second]));
        assert_eq!(upstream.connect(DcId::new(2)).await.unwrap().address, first);
        upstream.broke(first);
        assert_eq!(upstream.connect(DcId::new(2)).await.unwrap().address, second);
    }
}
