//! The client's side: a plain socket for anyone who connects, and a task that encrypts what comes over it.
//!
//! ```text
//! session ◀─ plain ─▶ near ═ pair of sockets ═ inner ◀─ carry ─▶ outer ◀─ encrypted ─▶ the server
//! ```

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use shadowsocks::ProxyClientStream;
use shadowsocks::config::{ServerConfig, ServerType};
use shadowsocks::context::{Context, SharedContext};
use shadowsocks::crypto::CipherKind;
use shadowsocks::relay::socks5::Address;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Method;
use crate::net::route::{Endpoint, Refusal};
use crate::net::sockopt;

/// Time for which the server may be silent once the session has nothing more to send: whether it still has a reader
/// cannot be seen.
const LINGER: Duration = Duration::from_secs(60);

/// Most bytes that are read at once: what a chunk of the protocol can hold.
const ROOM: usize = 16 * 1024;

/// Longest name that the protocol has room for.
const LONGEST_NAME: usize = 255;

/// A Shadowsocks server. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    place: Endpoint,
    config: Arc<ServerConfig>,
    /// Shared, for it knows what may not come twice.
    context: SharedContext,
}

impl Server {
    /// A server at this place; `None` if the method takes another kind of password.
    pub fn new(place: Endpoint, method: Method, password: &str) -> Option<Self> {
        // The library would take several keys here, those of servers behind the server, too.
        if password.is_empty() || (method.key_length().is_some() && password.contains(':')) {
            return None;
        }
        let address = match &place {
            Endpoint::Address(address) => (address.ip().to_string(), address.port()),
            Endpoint::Name(name, port) => (name.clone(), *port),
        };
        let config = ServerConfig::new(address, password, cipher(method)).ok()?;
        Some(Self { place, config: Arc::new(config), context: Context::new_shared(ServerType::Local) })
    }

    /// Returns the host and port of the server.
    pub fn place(&self) -> &Endpoint {
        &self.place
    }

    /// A socket that leads to `target` through the server at the other end of `stream`.
    pub(in crate::net::route) fn enter(&self, stream: TcpStream, target: &Endpoint) -> io::Result<TcpStream> {
        let target = match target {
            Endpoint::Address(address) => Address::SocketAddress(*address),
            Endpoint::Name(name, _) if name.len() > LONGEST_NAME => return Err(Refusal::TooLong.into()),
            Endpoint::Name(name, port) => Address::DomainNameAddress(name.clone(), *port),
        };
        sockopt::keep_alive(&stream);
        let outer = ProxyClientStream::from_stream(SharedContext::clone(&self.context), stream, &self.config, target);
        let (near, inner) = UnixStream::pair()?;
        // One socket is like another to what is done with them.
        let near = TcpStream::from_std(OwnedFd::from(near.into_std()?).into())?;
        tokio::spawn(carry(inner, outer));
        Ok(near)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("place", &self.place).finish_non_exhaustive()
    }
}

impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        let known = |server: &Self| (server.config.method(), server.config.password().to_owned());
        self.place == other.place && known(self) == known(other)
    }
}

impl Eq for Server {}

fn cipher(method: Method) -> CipherKind {
    match method {
        Method::Aes128Gcm => CipherKind::AES_128_GCM,
        Method::Aes256Gcm => CipherKind::AES_256_GCM,
        Method::ChaCha20 => CipherKind::CHACHA20_POLY1305,
        Method::Blake3Aes128Gcm => CipherKind::AEAD2022_BLAKE3_AES_128_GCM,
        Method::Blake3Aes256Gcm => CipherKind::AEAD2022_BLAKE3_AES_256_GCM,
        Method::Blake3ChaCha20 => CipherKind::AEAD2022_BLAKE3_CHACHA20_POLY1305,
    }
}

/// Moves bytes until both sides have said all they wanted, one of them broke, or no one seems to be there. The end of one
/// direction is passed on and leaves the other open.
async fn carry(inner: UnixStream, outer: impl AsyncRead + AsyncWrite) {
    let (mut from_session, mut to_session) = inner.into_split();
    let (mut from_server, mut to_server) = split(outer);
    let said_all = CancellationToken::new();
    let silence = async || {
        said_all.cancelled().await;
        sleep(LINGER).await;
    };
    // The cipher has to be asked again with the bytes that did not fit before and no others: it says that it has
    // taken all it is given then. `copy` adds what has come meanwhile, and that would be lost.
    let up = async {
        let mut buffer = vec![0; ROOM];
        loop {
            let read = from_session.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            to_server.write_all(&buffer[..read]).await?;
            to_server.flush().await?;
        }
        to_server.shutdown().await?;
        said_all.cancel();
        Ok(())
    };
    let down = async {
        let mut buffer = vec![0; ROOM];
        loop {
            let read = tokio::select! {
                read = from_server.read(&mut buffer) => read?,
                () = silence() => return Err(io::ErrorKind::TimedOut.into()),
            };
            if read == 0 {
                return to_session.shutdown().await;
            }
            to_session.write_all(&buffer[..read]).await?;
        }
    };
    // What either of them has to tell, the session sees in the end of its socket.
    let _: io::Result<((), ())> = tokio::try_join!(up, down);
}

#[cfg(test)]
mod tests {
    use shadowsocks::relay::tcprelay::proxy_stream::ProxyServerStream;
    use tokio::io::duplex;
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::route::shadowsocks::METHODS;

    #[test]
    fn passwords_are_of_the_kind_that_the_method_takes_and_stay_out_of_debug() {
        let place = Endpoint::new("192.0.2.1", 8388);
        let short = "AAECAwQFBgcICQoLDA0ODw==";
        let long = "AAECAwQFBgcICQoLDA0ODwABAgMEBQYHCAkKCwwNDg8=";
        for (name, method) in METHODS {
            let taken = ["mute", "", short, long, &format!("{short}:{short}")]
                .map(|password| Server::new(place.clone(), *method, password).is_some());
            let expected = match method.key_length() {
                None => [true, false, true, true, true],
                Some(16) => [false, false, true, false, false],
                _ => [false, false, false, true, false],
            };
            assert_eq!(taken, expected, "{name}");
        }
        let server = |password| Server::new(place.clone(), Method::Aes256Gcm, password).unwrap();
        assert!(server("mute") == server("mute") && server("mute") != server("hash"));
        assert!(!format!("{:?}", server("mute")).contains("mute"));
    }

    #[tokio::test]
    async fn every_method_leads_to_its_target() {
        for (name, method) in METHODS {
            let password = match method.key_length() {
                None => "mute",
                Some(16) => "AAECAwQFBgcICQoLDA0ODw==",
                Some(_) => "AAECAwQFBgcICQoLDA0ODwABAgMEBQYHCAkKCwwNDg8=",
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = Server::new(address.into(), *method, password).unwrap();
            let mut near = server
                .enter(TcpStream::connect(address).await.unwrap(), &Endpoint::new("www.example.com", 443))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            near.write_all(b"question").await.unwrap();
            let (context, accepted) = (Context::new_shared(ServerType::Server), listener.accept().await.unwrap().0);
            let mut far = ProxyServerStream::from_stream(context, accepted, cipher(*method), server.config.key());
            assert_eq!(far.handshake().await.unwrap().to_string(), "www.example.com:443", "{name}");
            let mut got = [0; 8];
            far.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"question", "{name}");
            far.write_all(b"answer").await.unwrap();
            far.flush().await.unwrap();
            let mut got = [0; 6];
            near.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"answer", "{name}");
        }
    }

    /// What comes while the server's socket is full must not get lost.
    #[tokio::test]
    async fn a_slow_server_gets_every_byte() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(address.into(), Method::Aes256Gcm, "mute").unwrap();
        let near =
            server.enter(TcpStream::connect(address).await.unwrap(), &Endpoint::new("www.example.com", 443)).unwrap();
        let (context, accepted) = (Context::new_shared(ServerType::Server), listener.accept().await.unwrap().0);
        let mut far = ProxyServerStream::from_stream(context, accepted, CipherKind::AES_256_GCM, server.config.key());
        let sent: Vec<u8> = (0..16_000_000u32).map(|at| (at / 251) as u8 ^ at as u8).collect();
        let (_from, mut to) = near.into_split();
        let copy = sent.clone();
        tokio::spawn(async move {
            // One by one, so that what cannot be sent on is less than there is room for.
            for piece in copy.chunks(3001) {
                to.write_all(piece).await.unwrap();
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            }
        });
        // Until then sockets fill.
        sleep(Duration::from_millis(500)).await;
        far.handshake().await.unwrap();
        let (mut got, mut buffer) = (Vec::new(), vec![0; 100_000]);
        while got.len() < sent.len() {
            let read =
                tokio::time::timeout(Duration::from_secs(20), far.read(&mut buffer)).await.expect("bytes are lost");
            match read.unwrap() {
                0 => break,
                read => got.extend_from_slice(&buffer[..read]),
            }
        }
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    }

    #[tokio::test]
    async fn the_end_of_one_direction_leaves_the_other_open() {
        for session_first in [true, false] {
            let (near, inner) = UnixStream::pair().unwrap();
            let (outer, server) = duplex(64);
            let carrying = tokio::spawn(carry(inner, outer));
            let (mut from_session, mut to_session) = near.into_split();
            let (mut from_server, mut to_server) = split(server);
            let mut got = Vec::new();
            if session_first {
                to_session.write_all(b"question").await.unwrap();
                to_session.shutdown().await.unwrap();
                from_server.read_to_end(&mut got).await.unwrap();
                to_server.write_all(&[7; 1000]).await.unwrap();
                to_server.shutdown().await.unwrap();
                from_session.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, [&b"question"[..], &[7; 1000]].concat());
            } else {
                to_server.write_all(b"answer").await.unwrap();
                to_server.shutdown().await.unwrap();
                from_session.read_to_end(&mut got).await.unwrap();
                let writing = tokio::spawn(async move {
                    to_session.write_all(&[7; 1000]).await.unwrap();
                    to_session.shutdown().await.unwrap();
                });
                from_server.read_to_end(&mut got).await.unwrap();
                writing.await.unwrap();
                assert_eq!(got, [&b"answer"[..], &[7; 1000]].concat());
            }
            carrying.await.unwrap();
        }
    }

    #[tokio::test]
    async fn whoever_breaks_or_is_silent_for_too_long_ends_it() {
        for who in ["the server", "the session"] {
            let (mut near, inner) = UnixStream::pair().unwrap();
            let (outer, mut server) = duplex(64);
            let carrying = tokio::spawn(carry(inner, outer));
            if who == "the server" {
                drop(server);
                assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
                near.write_all(b"is anybody there").await.unwrap();
            } else {
                drop(near);
                assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
                server.write_all(b"is anybody there").await.unwrap();
            }
            carrying.await.expect(who);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_not_waited_for_forever_by_a_session_that_has_said_all() {
        let (near, inner) = UnixStream::pair().unwrap();
        let (outer, _server) = duplex(64);
        drop(near);
        let start = tokio::time::Instant::now();
        carry(inner, outer).await;
        assert_eq!(start.elapsed(), LINGER);
    }
}
