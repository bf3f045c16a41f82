//! One TCP conversation, noted byte by byte: which pieces came, when, in which records, and how it ended.
//!
//! Pieces are segments where the line can be listened to, and reads otherwise: a read that comes late takes two segments
//! for one.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::fake_tls::End;
use super::line::{PacketCapture, TcpSegment};
use super::transcript::After;

/// A pause that shows that a server has said what it had to say.
pub const PAUSE: Duration = Duration::from_millis(300);

/// Bytes that arrived together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivedPiece {
    /// Since the last act of the client.
    pub after: Duration,
    /// Bytes of payload.
    pub length: usize,
    /// Bytes of TCP options beside them; 0 where reads are noted.
    pub options: usize,
}

/// Head of a whole TLS record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Place of its payload.
    pub at: usize,
    /// Its type.
    pub kind: u8,
    /// Bytes of payload.
    pub length: usize,
}

/// Whole records from the first byte on.
pub fn records(bytes: &[u8]) -> Vec<RecordHead> {
    let (mut at, mut records) = (0, Vec::new());
    while let Some([kind, _, _, high, low]) = bytes.get(at..at + 5) {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        at += 5;
        if bytes.len() < at + length {
            break;
        }
        records.push(RecordHead { at, kind: *kind, length });
        at += length;
    }
    records
}

/// A connection and all that came over it.
#[derive(Debug)]
pub struct Conversation {
    stream: Option<TcpStream>,
    near: SocketAddr,
    far: SocketAddr,
    line: Option<PacketCapture>,
    /// All that came.
    pub reply: Vec<u8>,
    reads: Vec<(Instant, usize)>,
    said: usize,
    acted_at: Instant,
    end: Option<(End, Instant)>,
}

impl Conversation {
    /// Connects, announcing segments of this size if one is named.
    pub async fn start(target: SocketAddr, line: Option<&PacketCapture>, announced: Option<u16>) -> Option<Self> {
        let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.ok()?;
        let any = match target {
            SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        socket.bind(any).ok()?;
        if let Some(size) = announced {
            SockRef::from(&socket).set_tcp_mss(size.into()).ok()?;
        }
        let port = socket.local_addr().ok()?.port();
        if let Some(line) = line {
            line.watch(port);
        }
        let connected = timeout(super::fake_tls::PATIENCE, socket.connect(target)).await;
        let stream = connected.ok().and_then(Result::ok)?;
        stream.set_nodelay(true).ok()?;
        let (near, far) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        let (reply, reads, acted_at) = (Vec::new(), Vec::new(), Instant::now());
        let stream = Some(stream);
        Some(Self { stream, near, far, line: line.cloned(), reply, reads, said: 0, acted_at, end: None })
    }

    /// One write. A server that has ended takes nothing more, which its end tells.
    pub async fn send(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        self.acted_at = Instant::now();
        if stream.write_all(bytes).await.is_ok() {
            self.said += bytes.len();
        }
    }

    /// FIN.
    pub async fn finish(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        self.acted_at = Instant::now();
        let _ = stream.shutdown().await;
    }

    /// RST.
    pub fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.set_zero_linger();
        }
    }

    /// Takes what comes next; whether bytes came before then.
    pub async fn hear(&mut self, until: Instant) -> bool {
        let (Some(stream), None) = (&mut self.stream, self.end) else { return false };
        self.reply.reserve(64 << 10);
        let Ok(read) = timeout_at(until, stream.read_buf(&mut self.reply)).await else { return false };
        let now = Instant::now();
        if let Ok(count @ 1..) = read {
            self.reads.push((now, count));
            return true;
        }
        self.end = Some((if read.is_ok() { End::Fin } else { End::Reset }, now));
        false
    }

    /// Takes all that comes until there is nothing for a pause, waiting so long for the first of it.
    pub async fn listen(&mut self, patience: Duration) {
        let mut until = Instant::now() + patience;
        while self.hear(until).await {
            until = Instant::now() + PAUSE;
        }
    }

    /// Takes all that comes within this time.
    pub async fn hear_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while self.hear(until).await {}
    }

    /// Kind of the end, and its time since the last act of the client.
    pub fn end(&self) -> (End, Duration) {
        self.end.map_or((End::Open, Duration::ZERO), |(end, at)| (end, at.saturating_duration_since(self.acted_at)))
    }

    /// Reaction to bytes behind a FIN.
    pub async fn poke(&mut self, bytes: &[u8]) -> After {
        let (Some(stream), Some((End::Fin, _))) = (&mut self.stream, self.end) else { return After::NotTried };
        let wrote = stream.write_all(bytes).await;
        let reset = timeout(Duration::from_secs(1), stream.ready(tokio::io::Interest::ERROR)).await;
        if wrote.is_err() || reset.is_ok() { After::Reset } else { After::Quiet }
    }

    /// Whole records behind this place.
    pub fn records(&self, from: usize) -> Vec<RecordHead> {
        records(self.reply.get(from..).unwrap_or_default())
    }

    /// Pieces in which all came that is behind this place, with their time since the last act.
    pub async fn pieces(&self, from: usize) -> Vec<ArrivedPiece> {
        let mut pieces = match self.segments().await {
            Some((acted_at, segments)) => {
                let data = segments.iter().filter(|segment| segment.length > 0);
                let piece = |segment: &TcpSegment| ArrivedPiece {
                    after: segment.at.saturating_duration_since(acted_at),
                    length: segment.length,
                    options: segment.options,
                };
                data.map(piece).collect()
            }
            None => {
                let piece = |(at, length): &(Instant, usize)| ArrivedPiece {
                    after: at.saturating_duration_since(self.acted_at),
                    length: *length,
                    options: 0,
                };
                self.reads.iter().map(piece).collect::<Vec<_>>()
            }
        };
        let mut at = 0;
        pieces.retain(|piece| {
            at += piece.length;
            at > from
        });
        pieces
    }

    /// Time of the client's last segment, and all of the server's.
    async fn segments(&self) -> Option<(std::time::Instant, Vec<TcpSegment>)> {
        let line = self.line.as_ref()?;
        let segments = line.whole(self.far, self.near, self.reply.len()).await?;
        // On the way to another machine ours are not among what arrives.
        let acts = line.between(self.near, self.far);
        let acted_at = acts.iter().map(|act| act.at).max().unwrap_or_else(|| self.acted_at.into_std());
        Some((acted_at, segments))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.forget(self.near.port());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_records_are_found_and_torn_ones_are_not() {
        let bytes = [&[22, 3, 3, 0, 2, 7, 7][..], &[20, 3, 3, 0, 1, 1], &[23, 3, 3, 0, 9, 1]].concat();
        let found = records(&bytes);
        assert_eq!(found, [RecordHead { at: 5, kind: 22, length: 2 }, RecordHead { at: 12, kind: 20, length: 1 }]);
        assert_eq!(records(&bytes[..4]), []);
    }

    #[tokio::test]
    async fn a_talk_notes_what_came_and_how_it_ended() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut said = [0; 5];
            stream.read_exact(&mut said).await.unwrap();
            stream.write_all(b"answer").await.unwrap();
        });
        let mut talk = Conversation::start(addr, None, Some(536)).await.unwrap();
        talk.send(b"hello").await;
        talk.hear_for(Duration::from_secs(10)).await;
        server.await.unwrap();
        let sum: usize = talk.pieces(0).await.iter().map(|piece| piece.length).sum();
        assert_eq!((sum, &talk.reply[..], talk.end().0), (6, &b"answer"[..], End::Fin));
        assert_eq!(talk.poke(b"x").await, After::Reset);
    }
}
