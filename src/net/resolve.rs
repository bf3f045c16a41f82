//! From names to addresses: by the system, or by DNS over HTTPS (RFC 8484), which no one on the way reads.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Uri};
use rustls::RootCertStore;
use tokio::time::timeout;

use super::https::{Bounds, Client};
use super::race::interleaved;
use super::route::Dialer;
use crate::wire::dns::{self, Kind, NoAnswer};

/// Time limit of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Resolver of host names. Cheap to clone; clones share their cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resolver {
    /// The system.
    #[default]
    System,
    /// A server.
    Https(Arc<Https>),
}

impl Resolver {
    /// The server at `url`, over this way; `roots` are the authorities whose certificates it may show, if they are not
    /// those that browsers trust, and the file that they come from.
    pub fn https(url: Uri, roots: Option<(PathBuf, RootCertStore)>, dialer: Dialer) -> Self {
        let (file, client) = match roots {
            Some((file, store)) => (Some(file), Client::trusting(store)),
            None => (None, Client::default()),
        };
        let way = dialer.clone();
        let client = client.reaching(move |addresses| {
            let way = way.clone();
            Box::pin(async move { way.connect_to_any(&addresses, PATIENCE).await })
        });
        Self::Https(Arc::new(Https { url, file, dialer, client, known: Mutex::default() }))
    }

    /// The addresses of a host name or an address literal, at least one, with this port.
    pub async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let addresses = match self {
            Self::Https(server) if !is_local(host) => Box::pin(server.lookup(host, port)).await?,
            _ => timeout(PATIENCE, tokio::net::lookup_host((host, port))).await??.collect(),
        };
        if addresses.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "no address")) } else { Ok(addresses) }
    }
}

/// Whether this machine knows best: addresses, and names that mean something here only.
fn is_local(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok() || !host.contains('.') || host.ends_with(".localhost")
}

/// A server that answers questions about names.
pub struct Https {
    url: Uri,
    file: Option<PathBuf>,
    dialer: Dialer,
    client: Client,
    known: Mutex<HashMap<String, Known>>,
}

/// Cached answer and the end of its lifetime.
#[derive(Clone)]
struct Known {
    addresses: Vec<IpAddr>,
    until: Instant,
}

/// Most names that are remembered: those of covers and of proxies.
const MOST: usize = 64;

/// Shortest and longest lifetime of an answer, whatever it says.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);

impl Https {
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let old = self.known(host);
        let known = match old {
            Some(known) if Instant::now() < known.until => known,
            old => match (self.ask_anew(host).await, old) {
                (Ok(known), _) => {
                    self.remember(host, known.clone());
                    known
                }
                // What was true an hour ago is better than nothing.
                (Err(_), Some(old)) => old,
                (Err(error), None) => return Err(error),
            },
        };
        let addresses: Vec<_> = known.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
        Ok(interleaved(&addresses))
    }

    async fn ask_anew(&self, host: &str) -> io::Result<Known> {
        let (four, six) = tokio::join!(self.ask(host, Kind::A), self.ask(host, Kind::Aaaa));
        let answers = match (four, six) {
            (Err(error), Err(_)) => return Err(error),
            (four, six) => [four, six].into_iter().flatten(),
        };
        let (mut addresses, mut ttl) = (Vec::new(), LONGEST);
        for answer in answers {
            addresses.extend(answer.addresses);
            ttl = answer.ttl.map_or(ttl, |seconds| ttl.min(Duration::from_secs(seconds.into())));
        }
        Ok(Known { addresses, until: Instant::now() + ttl.max(SHORTEST) })
    }

    async fn ask(&self, host: &str, kind: Kind) -> io::Result<dns::Answer> {
        const BOUNDS: Bounds = Bounds { size: 64 * 1024, time: PATIENCE };
        const MESSAGE: HeaderValue = HeaderValue::from_static("application/dns-message");
        let question = dns::question(host, kind).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut request = Request::new(Bytes::from(question));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        request.headers_mut().insert(CONTENT_TYPE, MESSAGE);
        request.headers_mut().insert(ACCEPT, MESSAGE);
        let answer = self.client.request(request, BOUNDS).await.map_err(|error| unanswered(&error))?;
        if !answer.status().is_success() {
            return Err(unanswered(&answer.status()));
        }
        dns::answer(answer.body(), kind).map_err(|error| match error {
            NoAnswer::Malformed(error) => unanswered(&error),
            NoAnswer::Failed(code) => unanswered(&format_args!("it fails with {code}")),
        })
    }

    fn known(&self, host: &str) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    fn remember(&self, host: &str, answer: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(host.to_owned(), answer);
    }
}

fn unanswered(why: &dyn fmt::Display) -> io::Error {
    io::Error::other(format!("the DNS server gives no answer: {why}"))
}

/// Compares the settings; the cache makes no difference.
impl PartialEq for Https {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && self.file == other.file && self.dialer == other.dialer
    }
}

impl Eq for Https {}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").field("host", &self.url.host()).field("dialer", &self.dialer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper::{Response, StatusCode};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// A server that knows 192.0.2.7 and 2001:db8::7 for everybody, counts questions, and fails where `well` says so.
    async fn server(asked: Arc<AtomicUsize>, fail_from: usize) -> (Resolver, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/dns-query", listener.local_addr().unwrap()).parse().unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let asked = Arc::clone(&asked);
                let service = service_fn(move |request: Request<Incoming>| {
                    let number = asked.fetch_add(1, Ordering::SeqCst);
                    async move {
                        assert_eq!(request.uri().path(), "/dns-query");
                        assert_eq!(request.headers()[CONTENT_TYPE], "application/dns-message");
                        let question = request.into_body().collect().await?.to_bytes();
                        let mut response = Response::new(Full::<Bytes>::from(reply(&question)));
                        if number >= fail_from {
                            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                        }
                        Ok::<_, hyper::Error>(response)
                    }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        (Resolver::https(url, None, Dialer::default()), AbortOnDropHandle::new(serving))
    }

    fn reply(question: &[u8]) -> Vec<u8> {
        let mut reply = question.to_vec();
        reply[2..4].copy_from_slice(&[0x81, 0x80]);
        reply[7] = 1;
        let six = question[question.len() - 3] == 28;
        let data: &[u8] = if six { &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7] } else { &[192, 0, 2, 7] };
        reply.extend([0xc0, 12, 0, if six { 28 } else { 1 }, 0, 1, 0, 0, 0, 90, 0, data.len() as u8]);
        reply.extend(data);
        reply
    }

    #[tokio::test]
    async fn a_server_is_asked_for_both_families_and_what_it_said_is_remembered() {
        let asked = Arc::default();
        let (resolver, _serving) = server(Arc::clone(&asked), usize::MAX).await;
        let expected: [SocketAddr; 2] = ["192.0.2.7:443", "[2001:db8::7]:443"].map(|text| text.parse().unwrap());
        for _ in 0..2 {
            assert_eq!(resolver.lookup("www.example.com", 443).await.unwrap(), expected);
            assert_eq!(asked.load(Ordering::SeqCst), 2);
        }
        assert_eq!(resolver.lookup("192.0.2.1", 1).await.unwrap(), ["192.0.2.1:1".parse().unwrap()]);
        assert!(resolver.lookup("localhost", 1).await.unwrap()[0].ip().is_loopback());
        assert_eq!(asked.load(Ordering::SeqCst), 2, "this machine knows best");
    }

    #[tokio::test]
    async fn a_server_that_fails_is_named_and_what_it_said_before_holds() {
        let (resolver, _serving) = server(Arc::default(), 0).await;
        let error = resolver.lookup("www.example.com", 443).await.unwrap_err().to_string();
        assert!(error.starts_with("the DNS server gives no answer: 503"), "{error}");
        let (resolver, _serving) = server(Arc::default(), 2).await;
        let first = resolver.lookup("www.example.com", 443).await.unwrap();
        let Resolver::Https(server) = &resolver else { panic!() };
        server.known.lock().unwrap().values_mut().for_each(|known| known.until = Instant::now());
        assert_eq!(resolver.lookup("www.example.com", 443).await.unwrap(), first);
    }
}
