//! A cover that is no web server: its first byte tells it how to end, and it notes how the visitor ended.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::fake_tls::End;

const PATIENCE: Duration = Duration::from_secs(5);

/// The cover; it ends with this value.
pub struct RawCover {
    pub addr: SocketAddr,
    notes: mpsc::UnboundedReceiver<(Vec<u8>, End)>,
    task: JoinHandle<()>,
}

impl RawCover {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (tell, notes) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, tell.clone()));
            }
        });
        Self { addr, notes, task }
    }

    /// What the next visitor that spoke said after its first byte, and how it ended.
    async fn note(&mut self) -> (Vec<u8>, End) {
        let none = (Vec::new(), End::Open);
        timeout(PATIENCE, self.notes.recv()).await.ok().flatten().unwrap_or(none)
    }
}

impl Drop for RawCover {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, tell: mpsc::UnboundedSender<(Vec<u8>, End)>) -> std::io::Result<()> {
    let mut first = [0];
    stream.read_exact(&mut first).await?;
    match &first {
        // Waits for the visitor's end, and speaks after it.
        b"w" => {}
        b"f" => stream.shutdown().await?,
        b"r" => return stream.set_zero_linger(),
        // The proxy looks at its cover by itself.
        _ => return Ok(()),
    }
    let (said, end) = rest(&mut stream).await;
    if end == End::Fin {
        let _ = stream.write_all(b"late").await;
    }
    let _ = tell.send((said, end));
    Ok(())
}

async fn rest(stream: &mut TcpStream) -> (Vec<u8>, End) {
    let mut said = Vec::new();
    loop {
        match timeout(PATIENCE, stream.read_buf(&mut said)).await {
            Err(_) => return (said, End::Open),
            Ok(Ok(0)) => return (said, End::Fin),
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return (said, End::Reset),
        }
    }
}

/// Every way in which a close between visitor and cover is not what it was on the other side of `front`.
pub async fn misread_closes(front: SocketAddr, cover: &mut RawCover) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |what: &str, got: (Vec<u8>, End), wanted: (&[u8], End)| {
        if (got.0.as_slice(), got.1) != wanted {
            wrong.push(format!("{what}: {got:?} in place of {wanted:?}"));
        }
    };
    let visit = || async { TcpStream::connect(front).await.expect("someone listens") };

    let mut visitor = visit().await;
    visitor.write_all(b"w12").await.expect("writes");
    visitor.shutdown().await.expect("half-closes");
    expect("FIN of the visitor, at the cover", cover.note().await, (b"12", End::Fin));
    expect("what the cover says after it", rest(&mut visitor).await, (b"late", End::Fin));

    let mut visitor = visit().await;
    visitor.write_all(b"w").await.expect("writes");
    visitor.set_zero_linger().expect("a socket option");
    drop(visitor);
    expect("RST of the visitor, at the cover", cover.note().await, (b"", End::Reset));

    let mut visitor = visit().await;
    visitor.write_all(b"f").await.expect("writes");
    expect("FIN of the cover", rest(&mut visitor).await, (b"", End::Fin));
    let _ = visitor.write_all(b"more").await;
    let _ = visitor.shutdown().await;
    expect("what the visitor says after it", cover.note().await, (b"more", End::Fin));

    let mut visitor = visit().await;
    visitor.write_all(b"f").await.expect("writes");
    expect("FIN of the cover before RST", rest(&mut visitor).await, (b"", End::Fin));
    visitor.set_zero_linger().expect("a socket option");
    drop(visitor);
    expect("RST of the visitor after the cover's FIN", cover.note().await, (b"", End::Reset));

    let mut visitor = visit().await;
    visitor.write_all(b"r").await.expect("writes");
    expect("RST of the cover", rest(&mut visitor).await, (b"", End::Reset));
    wrong
}
