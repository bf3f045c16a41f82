//! The smallest thing that a client takes for the proxy: no cover, no memory, no care for record sizes. It exists so that
//! the client and the data centre of these tests can be tried without the program.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::dice::Dice;
use super::hello::{self, Key, RANDOM, push_counted};
use super::obfuscated::Header;

/// A listener that admits everybody and signs its flight with `key`.
pub struct Toy {
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Toy {
    pub async fn start(key: Key, dc: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, key, dc));
            }
        });
        Self { addr, task }
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, key: Key, dc: SocketAddr) -> std::io::Result<()> {
    let (_, hello) = record(&mut client).await?;
    let random: [u8; 32] = hello[6..38].try_into().expect("32 bytes");
    client.write_all(&flight(&key, &random)).await?;
    let mut first = record(&mut client).await?;
    if first.0 == 20 {
        first = record(&mut client).await?;
    }
    let (header, mut rest) = (first.1[..64].try_into().expect("64 bytes"), first.1.split_off(64));
    let mut ours = Header::open(header, Some(&key));
    let mut theirs = Header::make(None, ours.tag, ours.dc, &mut Dice::unseen());
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_dc, mut to_dc) = TcpStream::connect(dc).await?.into_split();
    to_dc.write_all(&theirs.wire).await?;
    let up = async move {
        loop {
            ours.up.apply(&mut rest);
            theirs.up.apply(&mut rest);
            to_dc.write_all(&rest).await?;
            let Ok((_, next)) = record(&mut from_client).await else { return to_dc.shutdown().await };
            rest = next;
        }
    };
    let down = async move {
        let mut chunk = vec![0; 16384];
        while let Ok(count @ 1..) = from_dc.read(&mut chunk).await {
            theirs.down.apply(&mut chunk[..count]);
            ours.down.apply(&mut chunk[..count]);
            let mut wire = vec![23, 3, 3];
            push_counted(&mut wire, 2, &chunk[..count]);
            to_client.write_all(&wire).await?;
        }
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

fn flight(key: &Key, random: &[u8]) -> Vec<u8> {
    let mut flight = vec![22, 3, 3];
    push_counted(&mut flight, 2, &[2; 122]);
    flight.extend([20, 3, 3, 0, 1, 1, 23, 3, 3]);
    push_counted(&mut flight, 2, &[4; 900]);
    flight[RANDOM].fill(0);
    let code = hello::mac(key, &[random, &flight]);
    flight[RANDOM].copy_from_slice(&code);
    flight
}

async fn record(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head).await?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    from.read_exact(&mut body).await?;
    Ok((head[0], body))
}
