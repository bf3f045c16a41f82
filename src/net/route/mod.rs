//! Ways out of this machine: from which address and interface, and through which proxy.
//!
//! A [`Route`] is settings; a [`Dialer`] is a route in use. Whatever way a connection takes, what comes out is a socket on
//! which nothing has been said to the far end yet. Names are left to the proxy where there is one, so that no one near
//! this machine learns them.

mod http;
pub mod shadowsocks;
mod socks;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::health::Health;
use super::race::race;
use super::resolve::Resolver;
use super::sockopt;

/// A way out of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Local side of its connections.
    pub leave: LocalEnd,
    /// Proxy that they go through, if any.
    pub via: Via,
}

/// Local side of outgoing connections; the system decides where nothing is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalEnd {
    /// From this address.
    pub source: Option<IpAddr>,
    /// Through this interface (`SO_BINDTODEVICE`).
    pub interface: Option<String>,
    /// With this mark, for the system's rules of routing (`SO_MARK`); takes CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

/// Proxy that connections go through, if any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// Nothing.
    #[default]
    Direct,
    /// A SOCKS5 proxy (RFC 1928), with user and password (RFC 1929) if there are any.
    Socks5 {
        /// Host and port of the proxy.
        proxy: Endpoint,
        /// Credentials for the proxy, if it asks for any.
        login: Option<Login>,
    },
    /// A SOCKS4 proxy that takes names.
    Socks4a {
        /// Host and port of the proxy.
        proxy: Endpoint,
        /// Its user; may be empty.
        user: String,
    },
    /// A Shadowsocks server.
    Shadowsocks(shadowsocks::Server),
    /// An HTTP proxy with the method CONNECT (RFC 9110 §9.3.6).
    Http {
        /// Host and port of the proxy.
        proxy: Endpoint,
        /// Credentials for the proxy, if it asks for any.
        login: Option<Login>,
    },
}

/// Name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Destination of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// A name that has yet to be resolved, and a port.
    Name(String, u16),
}

impl Endpoint {
    /// A host name or an address without brackets, and a port.
    pub fn new(host: &str, port: u16) -> Self {
        match host.parse::<IpAddr>() {
            Ok(address) => Self::Address(SocketAddr::new(address.to_canonical(), port)),
            Err(_) => Self::Name(host.to_owned(), port),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Address(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl Via {
    /// The proxy, if there is one.
    pub fn proxy(&self) -> Option<&Endpoint> {
        match self {
            Self::Direct => None,
            Self::Shadowsocks(server) => Some(server.place()),
            Self::Socks5 { proxy, .. } | Self::Socks4a { proxy, .. } | Self::Http { proxy, .. } => Some(proxy),
        }
    }
}

/// Connects over a route. Cheap to clone; clones share what is known of addresses.
#[derive(Clone, Default)]
pub struct Dialer {
    route: Arc<Route>,
    names: Resolver,
    /// Of what is connected to from here.
    health: Arc<Health>,
    /// Of what a proxy connects to.
    targets: Arc<Health>,
}

impl Dialer {
    /// One that takes this route and asks `names` about names.
    pub fn new(route: Route, names: Resolver) -> Self {
        Self { route: Arc::new(route), names, health: Arc::default(), targets: Arc::default() }
    }

    /// The same route with someone else to ask about names.
    pub fn asking(&self, names: &Resolver) -> Self {
        Self { names: names.clone(), ..self.clone() }
    }

    /// The route.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Returns the resolver of host names.
    pub fn names(&self) -> &Resolver {
        &self.names
    }

    /// A connection to `target`, whose other end has not been told anything yet.
    pub async fn connect(&self, target: &Endpoint, patience: Duration) -> io::Result<TcpStream> {
        // Boxed, for all that may be asked on the way has room in it.
        let reaching = Box::pin(async {
            let addresses = self.addresses(self.route.via.proxy().unwrap_or(target)).await?;
            let (_, stream) = self.race(&addresses, patience).await?;
            self.hand_over(stream, target).await
        });
        timeout(patience, reaching).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The same for a target whose addresses are known, whichever of them answers first.
    pub async fn connect_to_any(&self, addresses: &[SocketAddr], patience: Duration) -> io::Result<TcpStream> {
        if self.route.via == Via::Direct {
            return Ok(self.race(addresses, patience).await?.1);
        }
        let reach = async |address| self.connect(&Endpoint::from(address), patience).await;
        Ok(race(addresses, &self.targets, patience, reach).await?.1)
    }

    /// A connection to one of these addresses as they are, and which one it is: no proxy is asked.
    pub async fn race(&self, addresses: &[SocketAddr], patience: Duration) -> io::Result<(SocketAddr, TcpStream)> {
        let leave = &self.route.leave;
        race(addresses, &self.health, patience, |address| leave.connect(address)).await
    }

    /// A connection to this address broke before the first byte came over it. Others are tried before it for a while.
    pub fn broke(&self, address: SocketAddr) {
        self.health.failed(address, Instant::now());
    }

    /// Whether a connection to this address failed or broke, and none has come about since.
    pub fn is_bad(&self, address: SocketAddr) -> bool {
        self.health.is_bad(&address)
    }

    async fn addresses(&self, place: &Endpoint) -> io::Result<Vec<SocketAddr>> {
        match place {
            Endpoint::Address(address) => Ok(vec![*address]),
            Endpoint::Name(name, port) => self.names.lookup(name, *port).await,
        }
    }

    /// Lets the proxy at the other end connect to `target`.
    async fn hand_over(&self, mut stream: TcpStream, target: &Endpoint) -> io::Result<TcpStream> {
        sockopt::no_delay(&stream);
        match &self.route.via {
            Via::Direct => {}
            Via::Socks5 { login, .. } => socks::connect5(&mut stream, target, login.as_ref()).await?,
            Via::Socks4a { user, .. } => socks::connect4a(&mut stream, target, user).await?,
            Via::Http { login, .. } => http::connect(&mut stream, target, login.as_ref()).await?,
            Via::Shadowsocks(server) => return server.enter(stream, target),
        }
        Ok(stream)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("route", &self.route).field("names", &self.names).finish_non_exhaustive()
    }
}

/// Compares the settings; what is known of addresses makes no difference.
impl PartialEq for Dialer {
    fn eq(&self, other: &Self) -> bool {
        self.route == other.route && self.names == other.names
    }
}

impl Eq for Dialer {}

impl LocalEnd {
    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        if *self == Self::default() {
            return TcpStream::connect(address).await;
        }
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let options = SockRef::from(&socket);
        if let Some(interface) = &self.interface {
            options.bind_device(Some(interface.as_bytes())).map_err(|error| named("the interface", &error))?;
        }
        if let Some(mark) = self.mark {
            options.set_mark(mark).map_err(|error| named("the mark", &error))?;
        }
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0)).map_err(|error| named("the source address", &error))?;
        }
        socket.connect(address).await
    }
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} cannot be used: {error}"))
}

/// Reason why a proxy refuses a connection. A closed set, which never holds what the proxy was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not speak the protocol.
    NotAProxy,
    /// It wants a user and a password, and there are none.
    LoginWanted,
    /// User and password are wrong.
    LoginWrong,
    /// Its rules forbid this connection.
    Forbidden,
    /// It could not reach the target.
    Unreachable,
    /// It cannot do what it is asked for, for instance IPv6.
    Unsupported,
    /// User, password or name is longer than the protocol has room for.
    TooLong,
    /// Something went wrong there: the number or status that it gave.
    Failed(u16),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAProxy => f.write_str("what answers is no proxy of this kind"),
            Self::LoginWanted => f.write_str("the proxy wants a user and a password"),
            Self::LoginWrong => f.write_str("the proxy does not take this user and password"),
            Self::Forbidden => f.write_str("the proxy's rules forbid the connection"),
            Self::Unreachable => f.write_str("the proxy cannot reach the target"),
            Self::Unsupported => f.write_str("the proxy does not support such a target"),
            Self::TooLong => f.write_str("user, password or host name is too long for this kind of proxy"),
            Self::Failed(code) => write!(f, "the proxy refuses with {code}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::LoginWanted | Refusal::LoginWrong | Refusal::Forbidden => io::ErrorKind::PermissionDenied,
            Refusal::Unreachable => io::ErrorKind::HostUnreachable,
            Refusal::NotAProxy => io::ErrorKind::InvalidData,
            Refusal::TooLong => io::ErrorKind::InvalidInput,
            Refusal::Unsupported => io::ErrorKind::Unsupported,
            Refusal::Failed(_) => io::ErrorKind::Other,
        };
        Self::new(kind, refusal)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn leaving(leave: LocalEnd) -> Dialer {
        Dialer::new(Route { leave, via: Via::Direct }, Resolver::default())
    }

    #[tokio::test]
    async fn connections_come_from_the_source_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Endpoint::from(listener.local_addr().unwrap());
        let source = Some([127, 0, 0, 7].into());
        let dialer = leaving(LocalEnd { source, interface: Some("lo".into()), mark: None });
        let stream = dialer.connect(&target, PATIENCE).await.unwrap();
        assert_eq!(Some(stream.local_addr().unwrap().ip()), source);
        assert_eq!(Some(listener.accept().await.unwrap().1.ip()), source);
    }

    #[tokio::test]
    async fn what_the_system_refuses_is_named() {
        let target = Endpoint::Address("127.0.0.1:9".parse().unwrap());
        let none = LocalEnd { interface: Some("no-such-one".into()), ..LocalEnd::default() };
        let error = leaving(none).connect(&target, PATIENCE).await.unwrap_err();
        assert!(error.to_string().starts_with("the interface cannot be used: "), "{error}");
        let foreign = LocalEnd { source: Some([192, 0, 2, 1].into()), ..LocalEnd::default() };
        let error = leaving(foreign).connect(&target, PATIENCE).await.unwrap_err();
        assert!(error.to_string().starts_with("the source address cannot be used: "), "{error}");
    }

    #[tokio::test]
    async fn a_proxy_that_is_silent_is_not_waited_for() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Endpoint::from(silent.local_addr().unwrap());
        let target = Endpoint::new("example.com", 443);
        for via in [
            Via::Socks5 { proxy: proxy.clone(), login: None },
            Via::Socks4a { proxy: proxy.clone(), user: String::new() },
            Via::Http { proxy, login: None },
        ] {
            let dialer = Dialer::new(Route { leave: LocalEnd::default(), via }, Resolver::default());
            let error = dialer.connect(&target, Duration::from_millis(50)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[test]
    fn passwords_stay_out_of_debug() {
        let login = Login { user: "someone".into(), password: Zeroizing::new("mute".into()) };
        let text = format!("{login:?}");
        assert!(text.contains("someone") && !text.contains("mute"));
    }
}

/// A proxy that follows a script.
#[cfg(test)]
mod script {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::JoinHandle;

    /// The client's end, and a proxy that expects the one and answers with the other, again and again, and then ends.
    pub fn proxy(turns: &[(&[u8], &[u8])]) -> (DuplexStream, JoinHandle<()>) {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let turns: Vec<_> = turns.iter().map(|(expected, answer)| (expected.to_vec(), answer.to_vec())).collect();
        let talking = tokio::spawn(async move {
            for (expected, answer) in turns {
                let mut got = vec![0; expected.len()];
                far.read_exact(&mut got).await.unwrap();
                assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string());
                far.write_all(&answer).await.unwrap();
            }
        });
        (near, talking)
    }
}
