//! A client of whatever is measured: enters it and moves checked payload.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::{TcpSocket, TcpStream};
use vizard::audit::captured::{self, Captured};
use vizard::audit::dice::Dice;
use vizard::audit::fake_tls::{CCS, read_flight};
use vizard::audit::hello::{self, Key, RANDOM};
use vizard::audit::obfuscated::{Header, PADDED};

use super::far::{Command, receipt, send_all};
use super::pattern::Pattern;
use super::wire::{Inbound, Opening, Outbound, broken, check, in_time, receive, send};

/// How a client gets through.
#[derive(Clone, Debug)]
pub enum Door {
    /// By a FakeTLS greeting.
    FakeTls(Greeting),
    /// Without a greeting: a bare relay with a mirror behind it. All else is as behind a greeting.
    Bare { key: Key },
    /// As a stranger whom the proxy passes on to its site.
    Visit { name: String },
}

/// How a client greets.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The secret.
    pub key: Key,
    /// The name in the hello.
    pub name: String,
    /// The data centre that it asks for.
    pub dc: i16,
    /// Whose hello it sends.
    pub hello: &'static Captured,
}

/// Payload of the longest record that most clients send.
const CLIENT_RECORD: usize = 2878;

/// Connections of one source address: all addresses of 127.0.0.0/8 are ours.
const PER_SOURCE: usize = 20_000;

/// A client that has entered.
pub struct Link {
    stream: TcpStream,
    inbound: Inbound,
    outbound: Outbound,
    seed: u64,
}

impl Link {
    /// Connects and enters. `number` tells the client from others of the same run.
    pub async fn open(addr: SocketAddr, door: &Door, number: usize) -> io::Result<Self> {
        let stream = connect(addr, number).await?;
        let seed = number as u64 + 1;
        match door {
            Door::FakeTls(greeting) => {
                let stream = greet(stream, greeting).await?;
                Ok(Self::behind_greeting(stream, &greeting.key, greeting.dc, seed))
            }
            Door::Bare { key } => Ok(Self::behind_greeting(stream, key, 2, seed)),
            Door::Visit { name } => Self::visit(stream, name, seed).await,
        }
    }

    fn behind_greeting(stream: TcpStream, key: &Key, dc: i16, seed: u64) -> Self {
        let header = Header::make(Some(key), PADDED, dc, &mut Dice::unseen());
        let outbound = Outbound {
            ahead: (CCS.to_vec(), header.wire.to_vec()),
            cipher: Some(header.up),
            record: Some(CLIENT_RECORD),
        };
        Self { stream, inbound: Inbound::new(Opening::None, true, Some(header.down)), outbound, seed }
    }

    async fn visit(stream: TcpStream, name: &str, seed: u64) -> io::Result<Self> {
        let hello = captured::tdesktop().parts_for(name).fresh(&mut Dice::unseen()).record();
        send(&stream, &hello).await?;
        let inbound = Inbound::new(Opening::None, false, None);
        let mut link = Self { stream, inbound, outbound: Outbound::default(), seed };
        link.expect("the site's greeting", &receipt(0)).await?;
        Ok(link)
    }

    /// Sends a message and waits until it comes back; gives the time that took.
    pub async fn ping(&mut self, size: usize) -> io::Result<Duration> {
        self.seed = self.seed.wrapping_add(1 << 32);
        let mut body = vec![0; size];
        Pattern::new(self.seed).fill(&mut body);
        let wire = self.outbound.seal(|out| out.copy_from_slice(&body), size);
        let began = Instant::now();
        send(&self.stream, &wire).await?;
        self.expect("a message", &body).await?;
        Ok(began.elapsed())
    }

    /// Has the far end send so many bytes.
    pub async fn download(&mut self, count: u64) -> io::Result<()> {
        let seed = self.command(true, count).await?;
        let mut pattern = Pattern::new(seed);
        let mut left = count;
        while left > 0 {
            let take = &mut |piece: super::wire::Piece<'_>| {
                check(piece.bytes.len() as u64 <= left, || "more came than was asked for".to_owned())?;
                left -= piece.bytes.len() as u64;
                check(pattern.holds(piece.bytes), || format!("wrong bytes, {left} before the end of {count}"))
            };
            let step = in_time("a download", receive(&self.stream, &mut self.inbound, take)).await?;
            check(step > 0, || format!("the connection ended {left} bytes before the end of {count}"))?;
        }
        Ok(())
    }

    /// Sends so many bytes and waits until the far end has checked them.
    pub async fn upload(&mut self, count: u64) -> io::Result<()> {
        let seed = self.command(false, count).await?;
        send_all(&self.stream, &mut self.outbound, seed, count).await?;
        self.expect("the receipt of an upload", &receipt(count)).await
    }

    /// Asks for more than there is room for, and never reads it.
    pub async fn get_stuck(&mut self) -> io::Result<()> {
        self.command(true, u64::MAX / 2).await.map(drop)
    }

    /// Ends the connection without the wait that a port has after a FIN.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    async fn command(&mut self, down: bool, count: u64) -> io::Result<u64> {
        self.seed = self.seed.wrapping_add(1 << 32);
        let command = Command { down, seed: self.seed, count }.encode();
        let wire = self.outbound.seal(|out| out.copy_from_slice(&command), command.len());
        send(&self.stream, &wire).await?;
        Ok(self.seed)
    }

    async fn expect(&mut self, what: &str, wanted: &[u8]) -> io::Result<()> {
        let mut got = 0;
        while got < wanted.len() {
            let take = &mut |piece: super::wire::Piece<'_>| {
                let right = wanted.get(piece.at..piece.at + piece.bytes.len()) == Some(piece.bytes);
                check(right && piece.at == got, || format!("{what} came back wrong"))?;
                got += piece.bytes.len();
                Ok(())
            };
            let step = in_time(what, receive(&self.stream, &mut self.inbound, take)).await?;
            check(step > 0, || format!("the connection ended instead of {what}"))?;
        }
        Ok(())
    }
}

/// Connects from a loopback address that has ports left.
pub async fn connect(addr: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let source = number / PER_SOURCE;
    if addr.ip().is_loopback() && addr.is_ipv4() && source > 0 {
        socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, source as u8)), 0))?;
    }
    let stream = in_time("connecting", socket.connect(addr)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a signed hello and waits for the flight.
pub async fn greet(mut stream: TcpStream, greeting: &Greeting) -> io::Result<TcpStream> {
    let Greeting { key, name, hello, .. } = greeting;
    let mut record = hello.parts_for(name).fresh(&mut Dice::unseen()).record();
    hello::sign(&mut record, key, hello::now());
    send(&stream, &record).await?;
    let flight =
        async { read_flight(&mut stream, key, &record[RANDOM]).await.map_err(|why| broken(format!("{why:?}"))) };
    in_time("the flight", flight).await?;
    Ok(stream)
}
