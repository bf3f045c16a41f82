//! Visits to a cover on demand, for somebody who wants to know now: what its first flight is like, whose certificate it
//! shows, and what time it believes it is.
//!
//! All that the rest of the program sees of this is [`Learnt`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::fmt::rfc2822::DateTimeParser;
use proxy_header::{ProxiedAddress, ProxyHeader};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::profile::{FlightShape, Profile};
use super::remote::ProxyProtocol;
use super::scout::visit::AnyCertificate;
use crate::auth::{Domain, UnixTime};
use crate::net::{dial, sockopt};
use crate::wire::record::{self, Header, kind};
use crate::wire::{ClientHello, HelloClass};

/// Where a cover is and as what it is visited.
#[derive(Clone, Debug)]
pub struct Target {
    /// Addresses in the order in which they are tried.
    pub addresses: Vec<SocketAddr>,
    /// Whether it expects a PROXY protocol header first.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The name that visitors ask for.
    pub name: Domain,
}

/// What a few visits have taught.
#[derive(Clone, Debug, Default)]
pub struct Learnt {
    /// The first flights by class of hello.
    pub profile: Profile,
    /// How many encrypted records the flight had, visit by visit.
    pub counts: Vec<usize>,
    /// The certificates as shown, the site's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// How far the cover's clock is ahead of ours, in seconds; `None` if it did not say.
    pub ahead: Option<i64>,
}

/// How long one visit may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Visits with the same hello; three tell a cover that varies from one that does not.
const REPEATS: usize = 3;

/// Visits the cover several times at once. Fails if no visit reached the end of a handshake, with the first error.
pub async fn visit(target: &Target) -> io::Result<Learnt> {
    let looks = async {
        let mut looks = Vec::new();
        for _ in 0..REPEATS {
            looks.push(limited(look(target, aws_lc_rs::default_provider().kx_groups)).await);
        }
        looks
    };
    let classical = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    let (mut looks, classical, read) =
        tokio::join!(timeout(PATIENCE, looks), limited(look(target, classical)), limited(read(target)));
    let mut all = looks.as_mut().map(std::mem::take).unwrap_or_else(|_| vec![Err(io::ErrorKind::TimedOut.into())]);
    all.push(classical);
    let (chain, ahead) = read.unwrap_or_default();
    let mut failure = None;
    let seen: Vec<Look> =
        all.into_iter().filter_map(|look| look.map_err(|error| _ = failure.get_or_insert(error)).ok()).collect();
    match failure {
        Some(error) if seen.is_empty() => Err(error),
        _ => Ok(summary(seen, chain, ahead, SystemTime::now().into())),
    }
}

/// How a server reacted to a visitor who began a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It answered, be it with an alert.
    Answered,
    /// It ended the connection without an answer.
    Closed,
}

/// Begins one handshake and waits this long for the reaction. Fails if nobody accepts the connection, and with `TimedOut`
/// if nothing happens on it.
pub async fn knock(target: &Target, patience: Duration) -> io::Result<Reaction> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let knock = async {
        let cover = connect(target).await?;
        // Without a listener, a port that the system happens to give to this very socket connects to itself.
        if cover.local_addr()? == cover.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        match shake_hands(target, cover, aws_lc_rs::default_provider().kx_groups).await {
            Ok(_) => Ok(Reaction::Answered),
            Err(error) if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
                Ok(Reaction::Closed)
            }
            // What it said is no handshake that ends well, but it has said something.
            Err(_) => Ok(Reaction::Answered),
        }
    };
    timeout(patience, knock).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn limited<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One flight that was seen.
#[derive(Clone, Debug)]
struct Look {
    class: HelloClass,
    shape: FlightShape,
    chain: Vec<CertificateDer<'static>>,
}

fn summary(seen: Vec<Look>, chain: Vec<CertificateDer<'static>>, ahead: Option<i64>, now: UnixTime) -> Learnt {
    let counts = seen.iter().map(|look| look.shape.records.len()).collect();
    let chain = if chain.is_empty() { seen.first().map(|look| look.chain.clone()).unwrap_or_default() } else { chain };
    let mut flights: BTreeMap<String, FlightShape> = BTreeMap::new();
    for Look { class, shape, .. } in seen {
        let known = flights.entry(class.label().to_owned()).or_insert_with(|| shape.clone());
        known.stable &= known.records == shape.records;
        known.retry |= shape.retry;
    }
    Learnt { profile: Profile { flights, visit: None, learnt: now.0 }, counts, chain, ahead }
}

/// A handshake, with a look at every record of it.
async fn look(target: &Target, groups: Vec<&'static dyn SupportedKxGroup>) -> io::Result<Look> {
    shake_hands(target, connect(target).await?, groups).await
}

async fn shake_hands(
    target: &Target,
    mut cover: TcpStream,
    groups: Vec<&'static dyn SupportedKxGroup>,
) -> io::Result<Look> {
    let config = visitor(groups, &[b"h2", b"http/1.1"])?;
    let mut tls = ClientConnection::new(config, server_name(target)?).map_err(io::Error::other)?;
    let (mut class, mut records) = (None, Vec::new());
    while tls.is_handshaking() {
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out)?;
        }
        class = class.or_else(|| ClientHello::decode(&out).ok().map(|hello| HelloClass::of(&hello)));
        cover.write_all(&out).await?;
        let (kind, whole) = read_record(&mut cover).await?;
        tls.read_tls(&mut &whole[..])?;
        tls.process_new_packets().map_err(io::Error::other)?;
        if kind == kind::APPLICATION_DATA {
            records.push((whole.len() - record::HEADER) as u16);
        }
    }
    let shape = FlightShape {
        version: tls.protocol_version().map(u16::from).unwrap_or_default(),
        retry: tls.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest),
        cipher_suite: tls.negotiated_cipher_suite().map(|suite| suite.suite().into()).unwrap_or_default(),
        group: tls.negotiated_key_exchange_group().map(|group| group.name().into()).unwrap_or_default(),
        extensions: Vec::new(),
        records,
        stable: true,
    };
    let chain = tls.peer_certificates().map(owned).unwrap_or_default();
    Ok(Look { class: class.unwrap_or(HelloClass::Other), shape, chain })
}

/// A GET of the first page, for the certificate and the time.
async fn read(target: &Target) -> io::Result<(Vec<CertificateDer<'static>>, Option<i64>)> {
    const LONGEST_HEAD: u64 = 32 << 10;
    let cover = connect(target).await?;
    let config = visitor(aws_lc_rs::default_provider().kx_groups, &[b"http/1.1"])?;
    let mut tls = TlsConnector::from(config).connect(server_name(target)?, cover).await?;
    let chain = tls.get_ref().1.peer_certificates().map(owned).unwrap_or_default();
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\nConnection: close\r\n\r\n", target.name);
    tls.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut answer = tls.take(LONGEST_HEAD);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && answer.read_buf(&mut head).await? > 0 {}
    let now = UnixTime::from(SystemTime::now());
    Ok((chain, date(&head).map(|date| date.0 - now.0)))
}

/// The header `Date` of an answer.
fn date(head: &[u8]) -> Option<UnixTime> {
    let text = String::from_utf8_lossy(head);
    let fields = text.lines().skip(1).take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let (_, value) = fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    DateTimeParser::new().parse_timestamp(value.trim()).ok().map(|time| UnixTime(time.as_second()))
}

async fn connect(target: &Target) -> io::Result<TcpStream> {
    let mut cover = dial::dial(&target.addresses, PATIENCE).await?;
    sockopt::no_delay(&cover);
    if let Some(version) = target.proxy_protocol {
        let header = ProxyHeader::with_address(ProxiedAddress::stream(cover.local_addr()?, cover.peer_addr()?));
        let mut bytes = Vec::new();
        match version {
            ProxyProtocol::V1 => header.encode_v1(&mut bytes),
            ProxyProtocol::V2 => header.encode_v2(&mut bytes),
        }
        .map_err(io::Error::other)?;
        cover.write_all(&bytes).await?;
    }
    Ok(cover)
}

async fn read_record(cover: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut whole = vec![0; record::HEADER];
    cover.read_exact(&mut whole).await?;
    let mut header = [0; record::HEADER];
    header.copy_from_slice(&whole);
    let Header { kind, length, .. } = Header::decode(header);
    whole.resize(record::HEADER + usize::from(length), 0);
    cover.read_exact(&mut whole[record::HEADER..]).await?;
    Ok((kind, whole))
}

fn server_name(target: &Target) -> io::Result<ServerName<'static>> {
    ServerName::try_from(target.name.to_string()).map_err(io::Error::other)
}

/// A visitor that offers TLS 1.2 too, so that a cover without TLS 1.3 says what it has instead.
fn visitor(kx_groups: Vec<&'static dyn SupportedKxGroup>, alpn: &[&[u8]]) -> io::Result<Arc<ClientConfig>> {
    let provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn owned(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
}

/// The public half of a key exchange that nobody will finish; `None` for a group that we do not know.
pub fn fresh_share(group: u16) -> Option<Vec<u8>> {
    let mut known = aws_lc_rs::ALL_KX_GROUPS.iter();
    let exchange = known.find(|known| u16::from(known.name()) == group)?.start().ok()?;
    Some(exchange.pub_key().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(records: &[u16]) -> Look {
        let shape = FlightShape { records: records.to_vec(), stable: true, ..FlightShape::default() };
        Look { class: HelloClass::Other, shape, chain: Vec::new() }
    }

    #[test]
    fn a_flight_is_stable_while_all_visits_see_the_same() {
        for (looks, stable, counts) in [
            (vec![look(&[900])], true, vec![1]),
            (vec![look(&[900]), look(&[900])], true, vec![1, 1]),
            (vec![look(&[900]), look(&[900]), look(&[901])], false, vec![1, 1, 1]),
            (vec![look(&[900]), look(&[400, 500])], false, vec![1, 2]),
        ] {
            let learnt = summary(looks, Vec::new(), None, UnixTime(0));
            assert_eq!((learnt.profile.flights["other"].stable, learnt.counts), (stable, counts));
        }
    }

    #[test]
    fn the_date_is_found_among_the_headers() {
        let head = |fields: &str| date(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nDate: in the page\r\n").as_bytes());
        assert_eq!(head("Server: x\r\ndate: Tue, 15 Nov 1994 08:12:31 GMT"), Some(UnixTime(784_887_151)));
        assert_eq!(head("Date: soon"), None);
        assert_eq!(head("Server: x"), None);
        assert_eq!(date(b"\xff\xfe"), None);
    }

    #[test]
    fn shares_have_the_sizes_of_their_groups() {
        let size = |group| fresh_share(group).map(|share| share.len());
        assert_eq!([0x1d, 0x17, 0x11ec, 0x4a4a].map(size), [Some(32), Some(65), Some(1216), None]);
    }
}
