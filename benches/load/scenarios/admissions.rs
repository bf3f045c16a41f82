//! Entering: how many can, and how long it takes them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;
use vizard::audit::captured;
use vizard::audit::dice::Dice;
use vizard::cover::scout::AnyCertificate;

use crate::contestants::{Contestant, NAME};
use crate::link::{Door, Link, connect, greet};
use crate::report::{Report, quantile};
use crate::wire::{broken, in_time, send};

/// The metrics.
pub const RATE: &str = "admissions/s";
/// See [`RATE`].
pub const PER_CPU: &str = "admissions/CPU-s";
/// See [`RATE`].
pub const P50: &str = "p50, ms";
/// See [`RATE`].
pub const P99: &str = "p99, ms";

/// How many are at the door at the same time.
const TOGETHER: usize = 32;

/// How many clients enter; those of a site complete a handshake of TLS with it, which is what entering costs there.
pub async fn rate(name: &str, count: usize, contestants: &[Contestant], report: &mut Report) -> io::Result<()> {
    let tls = connector()?;
    let each = count.div_ceil(TOGETHER);
    for contestant in contestants {
        let before = contestant.meter.map(|meter| meter.cpu()).transpose()?;
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..TOGETHER {
            let (addr, door, tls) = (contestant.addr, contestant.door.clone(), tls.clone());
            clients.spawn(async move {
                for _ in 0..each {
                    match &door {
                        Door::Visit { .. } => in_time("a handshake", handshake(&tls, addr)).await?,
                        door => {
                            let mut link = Link::open(addr, door, 0).await?;
                            link.ping(64).await?;
                            link.reset();
                        }
                    }
                }
                Ok::<(), io::Error>(())
            });
        }
        while let Some(client) = clients.join_next().await {
            client.map_err(io::Error::other)??;
        }
        let count = (each * TOGETHER) as f64;
        report.add(name, &contestant.name, RATE, count / began.elapsed().as_secs_f64());
        if let (Some(meter), Some(before)) = (contestant.meter, before) {
            report.add(name, &contestant.name, PER_CPU, count / meter.cpu()?.saturating_sub(before).as_secs_f64());
        }
    }
    Ok(())
}

/// A whole handshake, up to the first byte of what the server sends behind it, its tickets.
async fn handshake(tls: &TlsConnector, addr: SocketAddr) -> io::Result<()> {
    visit(tls, addr, 0).await?.set_zero_linger()
}

/// The same, and the connection stays.
pub async fn visit(tls: &TlsConnector, addr: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let stream = connect(addr, number).await?;
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let mut stream = tls.connect(name, stream).await?;
    // The server's part is over when it has taken the Finished, which its tickets show.
    let mut byte = [0];
    stream.get_mut().0.read_exact(&mut byte).await?;
    Ok(stream.into_inner().0)
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The flight that answers its hello.
    Flight,
    /// Its first message to come back from the data centre.
    Message,
}

/// How long one client after the other waits, with `pause` between them; gives milliseconds.
pub async fn latency(contestant: &Contestant, wait: Wait, count: usize, pause: Duration) -> io::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        match (wait, &contestant.door) {
            (Wait::Flight, Door::FakeTls(greeting)) => {
                let stream = greet(connect(contestant.addr, 0).await?, greeting).await?;
                times.push(began.elapsed().as_secs_f64() * 1e3);
                stream.set_zero_linger()?;
            }
            (Wait::Flight, _) => {
                first_answer(contestant.addr).await?;
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
            (Wait::Message, _) => {
                let mut link = contestant.enter(0).await?;
                link.ping(64).await?;
                times.push(began.elapsed().as_secs_f64() * 1e3);
                link.reset();
            }
        }
    }
    Ok(times)
}

/// Adds the quantiles of one round.
pub fn add_latency(name: &str, contestant: &str, mut times: Vec<f64>, report: &mut Report) {
    times.sort_by(f64::total_cmp);
    report.add(name, contestant, P50, quantile(&times, 0.5));
    report.add(name, contestant, P99, quantile(&times, 0.99));
}

/// An unsigned hello, until the site has said something.
async fn first_answer(addr: SocketAddr) -> io::Result<()> {
    let mut stream = connect(addr, 0).await?;
    send(&stream, &stranger()).await?;
    let mut bytes = vec![0; 16 << 10];
    let count = in_time("the flight", stream.read(&mut bytes)).await?;
    stream.set_zero_linger()?;
    if count > 0 { Ok(()) } else { Err(broken("the site closed instead of answering")) }
}

fn stranger() -> Vec<u8> {
    captured::tdlib().parts_for(NAME).fresh(&mut Dice::unseen()).record()
}

/// Strangers with hellos of real clients, so many in a second; they end with this value.
pub struct Junk(JoinHandle<()>);

impl Junk {
    /// Sends them to `addr`.
    pub fn start(addr: SocketAddr, per_second: u32) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
            loop {
                ticks.tick().await;
                tokio::spawn(first_answer(addr));
            }
        }))
    }
}

impl Drop for Junk {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// TLS as the load tool speaks it: any certificate will do, it is not what is measured.
pub fn connector() -> io::Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
