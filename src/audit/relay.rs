//! The bare relay: what an extra hop alone does to a conversation. Its faulty versions prove that a fault is seen.
//!
//! It shares no code with the proxy's own pass-through, whose mistakes would otherwise count as noise.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::Duration;

use proxy_header::{ProxiedAddress, ProxyHeader};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cover::remote::ProxyProtocol;

/// A mistake that a proxy could make and that the comparison must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The honest relay.
    None,
    /// Closes when the first byte is not that of a TLS record.
    RefusesStrangers,
    /// Ends a connection on which the client has not spoken for a second.
    Impatient,
    /// Answers RST with FIN.
    FinForReset,
    /// Answers FIN of one side by closing both.
    FullClose,
    /// Sends a ServerHello without the session id that was echoed.
    ForgetsSession,
    /// Sends a plaintext alert before it passes FIN on.
    AddsAlert,
    /// Cuts the last byte of the first flight off.
    CutsFlight,
    /// Writes the first flight in two.
    TwoWrites,
    /// Says a record to whatever comes of the client behind its hello, whole or not.
    SpeaksEarly,
    /// Passes on what follows the first flight 400 ms later.
    Late,
    /// Ends a connection on which the client is silent for two seconds.
    Bored,
}

/// A relay on loopback; it ends with this value.
#[derive(Debug)]
pub struct Relay {
    /// Address that it listens on.
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// A relay in front of `to`, on a port of its own.
    pub async fn start(to: SocketAddr, fault: Fault) -> io::Result<Self> {
        Self::introducing(to, fault, None).await
    }

    /// The same; each connection to `to` begins with a PROXY protocol header that names the client.
    pub async fn introducing(to: SocketAddr, fault: Fault, introduction: Option<ProxyProtocol>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let task = tokio::spawn(async move {
            loop {
                // What hinders accepting, such as too many open files, passes.
                match listener.accept().await {
                    Ok((client, _)) => drop(tokio::spawn(relay(client, to, fault, introduction))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(Self { addr, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, to: SocketAddr, fault: Fault, introduction: Option<ProxyProtocol>) {
    let Ok(cover) = TcpStream::connect(to).await else { return };
    for stream in [&client, &cover] {
        let _ = stream.set_nodelay(true);
    }
    if let Some(version) = introduction
        && introduce(&client, &cover, version).await.is_err()
    {
        return;
    }
    if converse(&client, &cover, fault).await.is_err() && fault != Fault::FinForReset {
        for stream in [&client, &cover] {
            let _ = stream.set_zero_linger();
        }
    }
}

async fn introduce(client: &TcpStream, cover: &TcpStream, version: ProxyProtocol) -> io::Result<()> {
    let header = ProxyHeader::with_address(ProxiedAddress::stream(client.peer_addr()?, client.local_addr()?));
    let mut bytes = Vec::new();
    match version {
        ProxyProtocol::V1 => header.encode_v1(&mut bytes),
        ProxyProtocol::V2 => header.encode_v2(&mut bytes),
    }
    .map_err(io::Error::other)?;
    write(cover, &bytes).await
}

/// Passes bytes until both sides have sent FIN; an error means that one of them was reset.
async fn converse(client: &TcpStream, cover: &TcpStream, fault: Fault) -> io::Result<()> {
    let (client_done, cover_done) = (Notify::new(), Notify::new());
    let up = async {
        copy(client, cover, fault, true).await?;
        client_done.notify_one();
        SockRef::from(cover).shutdown(Shutdown::Write)
    };
    let down = async {
        copy(cover, client, fault, false).await?;
        cover_done.notify_one();
        SockRef::from(client).shutdown(Shutdown::Write)
    };
    // A socket can still be reset after its FIN, and the other side must hear of it.
    let late_reset = async {
        tokio::select! {
            _ = async { client_done.notified().await; client.ready(Interest::ERROR).await } => {}
            _ = async { cover_done.notified().await; cover.ready(Interest::ERROR).await } => {}
        }
        Err(io::ErrorKind::ConnectionReset.into())
    };
    if fault == Fault::FullClose {
        return tokio::select! { first = up => first, first = down => first };
    }
    let both = async { tokio::try_join!(up, down).map(|_| ()) };
    tokio::select! { outcome = both => outcome, outcome = late_reset => outcome }
}

async fn copy(from: &TcpStream, to: &TcpStream, fault: Fault, up: bool) -> io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    for number in 0_u64.. {
        let (first, second) = (number == 0, number == 1);
        let read = read(from, &mut chunk);
        let patience = match fault {
            Fault::Impatient if up && first => Some(Duration::from_secs(1)),
            Fault::Bored if up => Some(Duration::from_secs(2)),
            _ => None,
        };
        let count = match patience {
            Some(patience) => timeout(patience, read).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())),
            None => read.await,
        }?;
        if count == 0 {
            return match fault == Fault::AddsAlert && !up {
                true => write(to, &[21, 3, 3, 0, 2, 1, 0]).await,
                false => Ok(()),
            };
        }
        let bytes = &mut chunk[..count];
        match fault {
            Fault::RefusesStrangers if up && first && bytes[0] != 22 => return Err(io::ErrorKind::InvalidData.into()),
            Fault::ForgetsSession if !up && first && count > 76 => bytes[44..76].fill(1),
            Fault::SpeaksEarly if up && !first => write(from, &[&[23, 3, 3, 0, 19][..], &[7; 19]].concat()).await?,
            Fault::Late if !up && second => tokio::time::sleep(Duration::from_millis(400)).await,
            _ => {}
        }
        let flight = !up && first && count > 1000;
        if flight && fault == Fault::TwoWrites {
            write(to, &bytes[..607]).await?;
        }
        let begin = if flight && fault == Fault::TwoWrites { 607 } else { 0 };
        let end = count - usize::from(fault == Fault::CutsFlight && flight);
        write(to, &bytes[begin..end]).await?;
    }
    Ok(())
}

async fn read(from: &TcpStream, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
