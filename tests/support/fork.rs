//! One port before two covers: the hello decides which of them answers.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Group and length of an X25519MLKEM768 share, as they stand in a hello.
const HYBRID: [u8; 4] = [0x11, 0xec, 0x04, 0xc0];

/// The port; it ends with this value.
pub struct Fork {
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Fork {
    /// Hellos with a post-quantum share go to `hybrid`, all others to `plain`.
    pub async fn start(hybrid: SocketAddr, plain: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((visitor, _)) = listener.accept().await {
                tokio::spawn(serve(visitor, hybrid, plain));
            }
        });
        Self { addr, task }
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut visitor: TcpStream, hybrid: SocketAddr, plain: SocketAddr) -> std::io::Result<()> {
    let mut hello = vec![0; 5];
    visitor.read_exact(&mut hello).await?;
    hello.resize(5 + usize::from(u16::from_be_bytes([hello[3], hello[4]])), 0);
    visitor.read_exact(&mut hello[5..]).await?;
    let has_share = hello.windows(HYBRID.len()).any(|window| window == HYBRID);
    let mut cover = TcpStream::connect(if has_share { hybrid } else { plain }).await?;
    cover.set_nodelay(true)?;
    visitor.set_nodelay(true)?;
    cover.write_all(&hello).await?;
    copy_bidirectional(&mut visitor, &mut cover).await.map(drop)
}
