//! A small HTTPS client: one request, one answer of bounded size within a bounded time.
//!
//! Plain HTTP is spoken to this machine only. Nothing in a request says which program sends it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::address::is_public;
use super::dial;

/// Asks web servers. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
    reach: Arc<dyn Fn(Vec<SocketAddr>) -> Reaching + Send + Sync>,
    /// The host that the operator named, where servers may name others.
    home: Option<Arc<str>>,
}

/// A connection to one of several addresses that is being opened.
pub type Reaching = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Limits on the size and the time of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of the body.
    pub size: usize,
    /// Time from the first lookup to the last byte, redirects included.
    pub time: Duration,
}

/// Reason why there is no answer. Names no more of the URL than its host.
#[derive(Debug)]
pub enum Error {
    /// Neither `https://`, nor `http://` to this machine.
    Unfit,
    /// The server could not be reached, or it is not who it should be.
    Connection(io::Error),
    /// It speaks no HTTP.
    Protocol(hyper::Error),
    /// It gave another status than a good one.
    Status(StatusCode),
    /// The answer is too long.
    TooLong,
    /// It took too long.
    TooLate,
    /// It sends from one place to the next without end.
    Redirects,
    /// It sends to this machine or into a private network.
    Inside,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit => f.write_str("the URL is neither https nor http to this machine"),
            Self::Connection(error) => write!(f, "the server cannot be reached: {error}"),
            Self::Protocol(error) => write!(f, "the server's answer is not understood: {error}"),
            Self::Status(status) => write!(f, "the server answers {status}"),
            Self::TooLong => f.write_str("the answer is too long"),
            Self::TooLate => f.write_str("the answer took too long"),
            Self::Inside => f.write_str("the server sends to an address that is none of the public internet"),
            Self::Redirects => f.write_str("the server sends from one place to the next"),
        }
    }
}

impl std::error::Error for Error {}

/// Most redirects that are followed.
const REDIRECTS: usize = 3;

impl Default for Client {
    /// Trusts the authorities that browsers trust.
    fn default() -> Self {
        Self::trusting(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }
}

impl Client {
    /// Trusts these authorities only.
    pub fn trusting(roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let versions = builder.with_safe_default_protocol_versions().expect("the provider has what TLS needs");
        let tls = Arc::new(versions.with_root_certificates(roots).with_no_client_auth());
        Self { tls, reach: Arc::new(|addresses| Box::pin(async move { directly(&addresses).await })), home: None }
    }

    /// The same for requests whose places the server at `url` names, be it in redirects or in its answers: other hosts must
    /// be of the public internet, unless that server itself is this machine.
    pub fn named_by(self, url: &Uri) -> Self {
        let host = Target::of(url).map(|target| target.host);
        Self { home: host.map(Arc::from), ..self }
    }

    /// Those of the addresses that may be asked.
    fn allowed(&self, host: &str, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
        let free = self.home.as_deref().is_none_or(|home| home == host || is_here(home));
        found.retain(|address| free || is_public(address.ip()));
        if found.is_empty() { Err(Error::Inside) } else { Ok(found) }
    }

    /// The same, but servers elsewhere are reached like this.
    pub fn reaching(self, reach: impl Fn(Vec<SocketAddr>) -> Reaching + Send + Sync + 'static) -> Self {
        Self { reach: Arc::new(reach), ..self }
    }

    /// Fetches the content of `url`.
    pub async fn get(&self, url: &Uri, bounds: Bounds) -> Result<Bytes, Error> {
        self.fetch(url, bounds).await.map(Response::into_body)
    }

    /// The same with the head of the answer.
    pub async fn fetch(&self, url: &Uri, bounds: Bounds) -> Result<Response<Bytes>, Error> {
        let following = async {
            let client = match self.home {
                None => &self.clone().named_by(url),
                Some(_) => self,
            };
            let mut url = url.clone();
            for _ in 0..=REDIRECTS {
                let response = client.send(Method::GET, &url, &[], Bytes::new(), bounds.size).await?;
                let (parts, body) = response.into_parts();
                match (parts.status, parts.headers.get(LOCATION)) {
                    (status, _) if status.is_success() => return Ok(Response::from_parts(parts, body)),
                    (status, Some(place)) if status.is_redirection() => {
                        url = elsewhere(&url, place).ok_or(Error::Status(status))?;
                    }
                    (status, _) => return Err(Error::Status(status)),
                }
            }
            Err(Error::Redirects)
        };
        timeout(bounds.time, following).await.unwrap_or(Err(Error::TooLate))
    }

    /// Hands a JSON text to `url`, with these headers beside the usual ones.
    pub async fn post_json(
        &self,
        url: &Uri,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        bounds: Bounds,
    ) -> Result<(), Error> {
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let headers = [&[json], headers].concat();
        let sending = self.send(Method::POST, url, &headers, body, bounds.size);
        let status = timeout(bounds.time, sending).await.unwrap_or(Err(Error::TooLate))?.status();
        if status.is_success() { Ok(()) } else { Err(Error::Status(status)) }
    }

    /// Sends a request to the URL in it and takes whatever answer comes. No redirect is followed.
    pub async fn request(&self, request: Request<Bytes>, bounds: Bounds) -> Result<Response<Bytes>, Error> {
        let (parts, body) = request.into_parts();
        let headers: Vec<_> = parts.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let sending = self.send(parts.method, &parts.uri, &headers, body, bounds.size);
        timeout(bounds.time, sending).await.unwrap_or(Err(Error::TooLate))
    }

    async fn send(
        &self,
        method: Method,
        url: &Uri,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        most: usize,
    ) -> Result<Response<Bytes>, Error> {
        let target = Target::of(url).ok_or(Error::Unfit)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.path.into();
        let fields = request.headers_mut();
        fields.insert(HOST, target.authority);
        fields.insert(ACCEPT, HeaderValue::from_static("*/*"));
        fields.insert(USER_AGENT, HeaderValue::from_static("Mozilla/5.0"));
        for (name, value) in headers {
            fields.insert(name, value.clone());
        }

        let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await.map_err(Error::Connection)?;
        let addresses = self.allowed(&target.host, found.collect())?;
        if !target.secure && !addresses.iter().all(|address| address.ip().to_canonical().is_loopback()) {
            return Err(Error::Unfit);
        }
        if !target.secure {
            return exchange(directly(&addresses).await.map_err(Error::Connection)?, request, most).await;
        }
        let stream = (self.reach)(addresses).await.map_err(Error::Connection)?;
        let name = ServerName::try_from(target.host).map_err(|_| Error::Unfit)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        exchange(connector.connect(name, stream).await.map_err(Error::Connection)?, request, most).await
    }
}

/// The caller's limit of time is the shorter one.
async fn directly(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    dial::dial(addresses, Duration::from_secs(60)).await
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// Whether `url` is one that the client asks: `https://`, or `http://` to a name or an address of this machine.
pub fn is_fit(url: &Uri) -> bool {
    Target::of(url).is_some()
}

/// Whether a host is this machine by what it is called.
fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

struct Target {
    secure: bool,
    /// An IPv6 address without its brackets.
    host: String,
    port: u16,
    authority: HeaderValue,
    path: PathAndQuery,
}

impl Target {
    fn of(url: &Uri) -> Option<Self> {
        let secure = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let local = is_here(&host);
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = url.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let authority = HeaderValue::try_from(authority.as_str()).ok()?;
        (!host.is_empty() && (secure || local)).then_some(Self { secure, host, port, authority, path })
    }
}

/// Resolves the target of a redirect; `None` if it leads from https to less.
fn elsewhere(from: &Uri, place: &HeaderValue) -> Option<Uri> {
    let place: Uri = place.to_str().ok()?.parse().ok()?;
    if place.scheme().is_some() {
        let worse = from.scheme_str() == Some("https") && place.scheme_str() != Some("https");
        return (!worse).then_some(place);
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = Some(place.path_and_query().filter(|path| path.as_str().starts_with('/'))?.clone());
    Uri::from_parts(parts).ok()
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>, most: usize) -> Result<Response<Bytes>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Error::Protocol)?;
    let _driving = AbortOnDropHandle::new(tokio::spawn(async move { _ = connection.await }));
    let (parts, body) = sender.send_request(request).await.map_err(Error::Protocol)?.into_parts();
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(Error::Protocol(*error)),
            Err(_) => Err(Error::TooLong),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const BOUNDS: Bounds = Bounds { size: 1000, time: Duration::from_secs(10) };

    /// Answers each connection with the next of these, after the head of the request.
    async fn serve(answers: Vec<String>) -> (SocketAddr, AbortOnDropHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                asked.push(talk(&mut stream, &answer).await);
            }
            asked
        });
        (address, AbortOnDropHandle::new(serving))
    }

    async fn talk(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &str) -> String {
        let mut head = Vec::new();
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.shutdown().await;
        String::from_utf8(head).unwrap()
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn url(text: impl AsRef<str>) -> Uri {
        text.as_ref().parse().unwrap()
    }

    #[tokio::test]
    async fn a_body_comes_whole_and_redirects_are_followed() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: /there?x\r\nContent-Length: 0\r\n\r\n".to_owned();
        let (address, asked) = serve(vec![moved, ok("hello")]).await;
        let body = Client::default().get(&url(format!("http://{address}/here")), BOUNDS).await.unwrap();
        assert_eq!(&body[..], b"hello");
        let asked = asked.await.unwrap();
        assert!(asked[0].starts_with("GET /here HTTP/1.1\r\n") && asked[1].starts_with("GET /there?x HTTP/1.1\r\n"));
        assert!(!asked.concat().contains(env!("CARGO_PKG_NAME")), "{asked:?}");
    }

    #[tokio::test]
    async fn what_is_too_long_late_or_bad_is_an_error() {
        let huge = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n".to_owned() + &"x".repeat(2000);
        let (address, _asked) = serve(vec![ok(&"x".repeat(1001)), huge, "HTTP/1.1 503 No\r\n\r\n".into()]).await;
        let place = url(format!("http://{address}/"));
        let client = Client::default();
        assert!(matches!(client.get(&place, BOUNDS).await, Err(Error::TooLong)));
        assert!(matches!(client.get(&place, BOUNDS).await, Err(Error::TooLong)));
        assert!(matches!(client.get(&place, BOUNDS).await, Err(Error::Status(StatusCode::SERVICE_UNAVAILABLE))));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = url(format!("http://{}/", silent.local_addr().unwrap()));
        let hasty = Bounds { time: Duration::from_millis(50), ..BOUNDS };
        assert!(matches!(client.get(&place, hasty).await, Err(Error::TooLate)));
    }

    #[tokio::test]
    async fn https_takes_a_certificate_that_is_trusted() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = url(format!("https://localhost:{}/", listener.local_addr().unwrap().port()));
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    talk(&mut stream, &ok("secret")).await;
                }
            }
        });
        let _serving = AbortOnDropHandle::new(serving);
        assert!(matches!(Client::default().get(&place, BOUNDS).await, Err(Error::Connection(_))));
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        assert_eq!(&Client::trusting(roots).get(&place, BOUNDS).await.unwrap()[..], b"secret");
    }

    #[test]
    fn what_a_server_names_is_not_inside() {
        let found = |text: &str| vec![text.parse().unwrap()];
        let client = Client::default().named_by(&url("https://lists.example/a"));
        for inner in ["127.0.0.1:443", "10.0.0.1:443", "169.254.169.254:443", "[fd00::1]:443"] {
            assert!(matches!(client.allowed("other.example", found(inner)), Err(Error::Inside)), "{inner}");
            assert!(client.allowed("lists.example", found(inner)).is_ok(), "the operator named it: {inner}");
            assert!(Client::default().allowed("other.example", found(inner)).is_ok());
            let here = Client::default().named_by(&url("https://127.0.0.1:14000/dir"));
            assert!(here.allowed("other.example", found(inner)).is_ok());
        }
        assert!(client.allowed("other.example", found("203.0.113.7:443")).is_ok());
    }

    #[tokio::test]
    async fn a_redirect_leads_to_no_inner_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = listener.local_addr().unwrap();
        let place = HeaderValue::try_from(format!("https://{inner}/secret")).unwrap();
        let next = elsewhere(&url("https://lists.example/a"), &place).unwrap();
        let client = Client::default().named_by(&url("https://lists.example/a"));
        assert!(matches!(client.get(&next, BOUNDS).await, Err(Error::Inside)));
        assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err(), "no one came");
    }

    #[test]
    fn plain_http_leaves_this_machine_by_no_way() {
        for (text, fit) in [
            ("https://example.com/list", true),
            ("http://127.0.0.1:8080/", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("http://example.com/", false),
            ("http://127.0.0.1.example.com/", false),
            ("ftp://localhost/", false),
            ("https://user@example.com/", false),
            ("/path", false),
        ] {
            assert_eq!(is_fit(&url(text)), fit, "{text}");
        }
        let from = url("https://example.com/a");
        for (place, to) in [
            ("http://example.com/", None),
            ("https://b.example/x", Some("https://b.example/x")),
            ("/c", Some("https://example.com/c")),
        ] {
            assert_eq!(elsewhere(&from, &HeaderValue::from_static(place)), to.map(url), "{place}");
        }
    }
}
