//! Visits that end in another way than by a goodbye: what the cover answers to a bare FIN and to a record that it cannot
//! decrypt, and how it leaves a visitor who rests.
//!
//! Each visitor has made one request first, as every visitor has whom a session is like: servers bear those longer who
//! have shown what they came for. The request is `HEAD /`, whose answer ends by itself.

use std::io::{self, Read, Write};
use std::time::Duration;

use rustls::ClientConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::visit::{HTTP2, HTTP2_PREFACE, send, shake_hands, take_in};
use super::{CoverDialer, HANDSHAKE, Leg, within};
use crate::cover::profile::{ByProtocol, Ending, Endings, IdleEnd};
use crate::wire::record::{self, Header, kind};

/// Longest time for the cover's answer to a request, and silence behind it that says that nothing more belongs to it.
const ANSWER: Duration = Duration::from_secs(4);
const NEXT: Duration = Duration::from_millis(150);

/// Longest time for its answer to what ends a connection.
const ENDS: Duration = Duration::from_secs(3);

/// Longest rest of a visitor. Servers that bear more are taken to have no limit.
pub(super) const RESTS: Duration = Duration::from_secs(330);

/// The same beside a server that now and then says something.
const MOST_RESTS: Duration = Duration::from_secs(660);

/// Pause between two bytes that are sent behind the cover's end, and the number of them.
const PAUSE: Duration = Duration::from_millis(500);
const BYTES: u32 = 70;

/// Most bytes that are read behind a handshake, and most records of an end.
const MOST: usize = 256 << 10;
const MOST_RECORDS: usize = 16;

/// Empty SETTINGS with the flag that acknowledges the other side's (RFC 9113 §6.5).
const SETTINGS_ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";

/// Answers to what ends a connection, over HTTP/2 if that is offered and over HTTP/1.1; `None` where it was not to be seen.
pub(super) async fn endings(door: &impl CoverDialer, name: &str, limit: Duration) -> ByProtocol<Endings> {
    let one = async |protocols| {
        let fin = within(limit, async { Resting::start(door.open().await?, name, protocols).await?.fin().await });
        let bad =
            within(limit, async { Resting::start(door.open().await?, name, protocols).await?.bad_record().await });
        let (fin, bad_record) = tokio::join!(fin, bad);
        Some(Endings { fin: fin.ok()?, bad_record: bad_record.ok()? })
    };
    let (http2, http1) = tokio::join!(one(HTTP2), one(super::HTTP1));
    ByProtocol { http2, http1 }
}

/// Ends that the cover makes of visitors who rest.
pub(super) async fn rests(door: &impl CoverDialer, name: &str) -> ByProtocol<IdleEnd> {
    let one = async |protocols| {
        let start = within(HANDSHAKE, async { Resting::start(door.open().await?, name, protocols).await });
        start.await.ok()?.rest().await.ok()
    };
    let (http2, http1) = tokio::join!(one(HTTP2), one(super::HTTP1));
    ByProtocol { http2, http1 }
}

/// A visitor whose request was answered.
struct Resting {
    leg: Leg,
    /// Time at which the last byte moved.
    since: Instant,
}

/// Records up to an end, or to silence.
struct LastHeard {
    records: Vec<u16>,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Time at which the connection ended, and whether by a reset.
    end: Option<(Instant, bool)>,
}

impl Resting {
    async fn start(mut leg: Leg, name: &str, protocols: &[&[u8]]) -> io::Result<Self> {
        let (mut tls, ..) = shake_hands(&mut leg, name, protocols).await?;
        let two = tls.alpn_protocol() == Some(b"h2");
        let request = if two { http2_request(name) } else { http1_request(name) };
        say(&mut tls, &mut leg, &request).await?;
        let since = take_answer(&mut tls, &mut leg, two).await?;
        Ok(Self { leg, since })
    }

    async fn fin(mut self) -> io::Result<Ending> {
        self.leg.shutdown().await?;
        self.ending().await
    }

    async fn bad_record(mut self) -> io::Result<Ending> {
        let mut bytes = Header::application_data(LENGTH).encode().to_vec();
        bytes.extend((0..LENGTH).map(|_| rand::random::<u8>()));
        self.leg.write_all(&bytes).await?;
        self.leg.flush().await?;
        self.ending().await
    }

    async fn ending(mut self) -> io::Result<Ending> {
        let asked = Instant::now();
        let heard = hear(&mut self.leg, ENDS, ENDS).await?;
        let Some((end, reset)) = heard.end else {
            return Err(without_end("does not end the connection"));
        };
        let answered = heard.first.unwrap_or(end);
        Ok(Ending { records: heard.records, reset, delay_us: (answered - asked).as_micros() as u64 })
    }

    /// The end behind the longest silence of this visit, with everything that was said from then on: a server may say that
    /// it will leave some time before it does, and one that speaks of its own accord bears no silence longer than that.
    async fn rest(mut self) -> io::Result<IdleEnd> {
        let (mut since, mut longest, mut records) = (self.since, Duration::ZERO, Vec::new());
        while self.since.elapsed() < MOST_RESTS {
            let heard = hear(&mut self.leg, RESTS, ENDS).await?;
            let Some(first) = heard.first.or(heard.end.map(|(end, _)| end)) else {
                let silent = since == self.since;
                return silent
                    .then(IdleEnd::default)
                    .ok_or_else(|| without_end("speaks to who rests, and does not leave"));
            };
            if first - since >= longest {
                longest = first - since;
                records.clear();
            }
            records.extend(heard.records);
            records.truncate(MOST_RECORDS);
            if let Some((_, reset)) = heard.end {
                let linger_ms = if reset { 0 } else { self.linger().await.as_millis() as u64 };
                let ending = Ending { records, reset, delay_us: 0 };
                return Ok(IdleEnd { after_ms: Some(longest.as_millis() as u64), ending, linger_ms });
            }
            since = heard.last.unwrap_or(first);
        }
        Err(without_end("does not stop speaking to who rests"))
    }

    /// Sends a byte now and then until the connection is reset. The first that meets a closed socket is taken by our own
    /// side, and the next one is refused.
    async fn linger(&mut self) -> Duration {
        let since = Instant::now();
        let mut before = Duration::ZERO;
        for _ in 0..BYTES {
            let now = since.elapsed();
            if self.leg.write_all(&[kind::APPLICATION_DATA]).await.is_err() || self.leg.flush().await.is_err() {
                return if before < PAUSE { Duration::ZERO } else { before };
            }
            before = now;
            sleep(PAUSE).await;
        }
        before
    }
}

/// Payload of a record that is none of this connection's.
const LENGTH: u16 = 64;

async fn say(tls: &mut ClientConnection, leg: &mut Leg, bytes: &[u8]) -> io::Result<()> {
    tls.writer().write_all(bytes)?;
    send(tls, leg).await
}

fn without_end(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the cover {what}"))
}

/// Takes in the answer to a request and what comes along with it. Returns the time at which the last byte moved; fails if
/// the answer does not come in time, for it would be taken for a part of the end then.
async fn take_answer(tls: &mut ClientConnection, leg: &mut Leg, two: bool) -> io::Result<Instant> {
    let mut last = Instant::now();
    let (until, mut plain, mut acknowledged) = (last + ANSWER, Vec::new(), !two);
    while plain.len() < MOST {
        let whole = acknowledged && if two { ends_stream(&plain) } else { ends_head(&plain) };
        let wait = if whole { NEXT } else { until.saturating_duration_since(Instant::now()) };
        let mut bytes = Vec::with_capacity(4096);
        match timeout(wait, leg.read_buf(&mut bytes)).await {
            Err(_) if whole => return Ok(last),
            Err(elapsed) => return Err(elapsed.into()),
            Ok(Ok(0)) => return Err(io::Error::other("the cover ended the connection behind its answer")),
            Ok(read) => read?,
        };
        last = Instant::now();
        take_in(tls, &bytes)?;
        match tls.reader().read_to_end(&mut plain) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        if !acknowledged && frames(&plain).any(|(kind, flags, _)| (kind, flags & 1) == (4, 0)) {
            say(tls, leg, SETTINGS_ACK).await?;
            (acknowledged, last) = (true, Instant::now());
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the cover sends more than it was asked for"))
}

/// Whether an answer over HTTP/1.1 has its whole head, behind those of status 1xx. One to HEAD has no more.
fn ends_head(plain: &[u8]) -> bool {
    const END: &[u8] = b"\r\n\r\n";
    let mut rest = plain;
    while let Some(end) = rest.windows(END.len()).position(|window| window == END) {
        if rest.get(9) != Some(&b'1') {
            return true;
        }
        rest = &rest[end + END.len()..];
    }
    false
}

/// Whether HEADERS or DATA have ended stream 1 of HTTP/2.
fn ends_stream(plain: &[u8]) -> bool {
    frames(plain).any(|(kind, flags, stream)| kind <= 1 && flags & 1 == 1 && stream == 1)
}

/// Types, flags and streams of the frames of HTTP/2 that are there whole (RFC 9113 §4.1).
fn frames(mut plain: &[u8]) -> impl Iterator<Item = (u8, u8, u32)> {
    std::iter::from_fn(move || {
        let [a, b, c, kind, flags, stream @ ..] = *plain.first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        plain = plain.get(9 + length..)?;
        Some((kind, flags, u32::from_be_bytes(stream)))
    })
}

fn http1_request(name: &str) -> Vec<u8> {
    format!("HEAD / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n").into_bytes()
}

/// The preface and `HEAD /` on stream 1, in literals without Huffman coding (RFC 7541 §6.2.2).
fn http2_request(name: &str) -> Vec<u8> {
    let mut head = vec![0x02, 4];
    head.extend(b"HEAD");
    // The static table's `:scheme: https` and `:path: /`, then `:authority` and `user-agent`.
    head.extend([0x87, 0x84, 0x01, name.len().min(126) as u8]);
    head.extend(name.bytes().take(126));
    head.extend([0x0f, 58 - 15, 11]);
    head.extend(b"Mozilla/5.0");
    let mut request = HTTP2_PREFACE.to_vec();
    request.extend([0, 0, head.len() as u8, 0x01, 0x05, 0, 0, 0, 1]);
    request.extend(head);
    request
}

/// Hears records until nothing comes for so long, or the connection ends.
async fn hear(leg: &mut Leg, first: Duration, next: Duration) -> io::Result<LastHeard> {
    let mut heard = LastHeard { records: Vec::new(), first: None, last: None, end: None };
    let (mut bytes, mut total) = (Vec::new(), 0);
    while total < MOST {
        bytes.reserve(4096);
        let wait = if heard.first.is_none() { first } else { next };
        let Ok(read) = timeout(wait, leg.read_buf(&mut bytes)).await else { return Ok(heard) };
        let now = Instant::now();
        match read {
            Ok(0) | Err(_) => {
                heard.end = Some((now, read.is_err()));
                return Ok(heard);
            }
            Ok(read) => total += read,
        }
        heard.first.get_or_insert(now);
        heard.last = Some(now);
        take_records(&mut bytes, &mut heard.records);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the cover sends more than it was asked for"))
}

fn take_records(bytes: &mut Vec<u8>, sizes: &mut Vec<u16>) {
    while let Some(header) = bytes.first_chunk() {
        let length = Header::decode(*header).length;
        let whole = record::HEADER + usize::from(length);
        if bytes.len() < whole {
            return;
        }
        bytes.drain(..whole);
        sizes.push(length);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio_rustls::TlsAcceptor;

    use super::super::visit::tests::server;
    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(75);

    /// A server with a keep-alive time that swallows for so long what comes behind its end, and takes so long to answer.
    struct Lingering(TlsAcceptor, Duration, Duration);

    impl CoverDialer for Lingering {
        async fn open(&self) -> io::Result<Leg> {
            let (near, far) = duplex(1 << 16);
            tokio::spawn(serve(self.0.clone(), far, self.1, self.2));
            Ok(Box::new(near))
        }
    }

    async fn serve(acceptor: TlsAcceptor, far: DuplexStream, linger: Duration, late: Duration) -> io::Result<()> {
        let mut stream = acceptor.accept(far).await?;
        let mut request = [0; 1024];
        let read = stream.read(&mut request).await?;
        assert!(request[..read].starts_with(b"HEAD / HTTP/1.1\r\nHost: cover.example\r\n"));
        sleep(late).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await?;
        let _ = timeout(KEEP_ALIVE, stream.read(&mut request)).await;
        stream.shutdown().await?;
        let (mut far, _) = stream.into_inner();
        let _ = timeout(linger, far.read_to_end(&mut Vec::new())).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn who_rests_learns_when_the_cover_leaves_and_what_it_swallows_then() {
        for linger in [0, 5, 30] {
            let door = Lingering(server(1000, None), Duration::from_secs(linger), Duration::ZERO);
            let rest = rests(&door, "cover.example").await.http1.unwrap();
            assert_eq!(rest.ending, Ending { records: vec![19], reset: false, delay_us: 0 });
            let after = Duration::from_millis(rest.after_ms.unwrap());
            assert!(after.abs_diff(KEEP_ALIVE) < Duration::from_secs(1), "{after:?}");
            assert!(rest.linger_ms.abs_diff(linger * 1000) <= 1000, "{linger} s: {rest:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_visitor_ends_is_seen_to_be_answered() {
        for late in [0, 500, 2000] {
            let door = Lingering(server(1000, None), Duration::ZERO, Duration::from_millis(late));
            let seen = endings(&door, "cover.example", HANDSHAKE).await;
            let Endings { fin, bad_record } = seen.http1.unwrap();
            assert_eq!((&fin.records[..], fin.reset), (&[19][..], false), "an answer after {late} ms");
            assert!(!bad_record.records.is_empty() && !bad_record.reset);
            assert!(fin.delay_us.max(bad_record.delay_us) < 100_000, "an answer after {late} ms");
            let rest = rests(&door, "cover.example").await.http1.unwrap();
            assert!(rest.after_ms.unwrap().abs_diff(75_000) < 1000, "an answer after {late} ms: {rest:?}");
        }
        let door = Lingering(server(1000, None), Duration::ZERO, 2 * ANSWER);
        assert_eq!(rests(&door, "cover.example").await, ByProtocol::default(), "nothing without an answer");
    }

    /// A server that says something at these times, each so many seconds after the last, and leaves at the last of them or
    /// stays.
    #[tokio::test(start_paused = true)]
    async fn what_is_said_to_who_rests_is_no_end() {
        struct Chatting(TlsAcceptor, &'static [u64], bool);
        impl CoverDialer for Chatting {
            async fn open(&self) -> io::Result<Leg> {
                let (near, far) = duplex(1 << 16);
                let (acceptor, pauses, leaves) = (self.0.clone(), self.1, self.2);
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(far).await?;
                    assert!(stream.read(&mut [0; 1024]).await? > 0);
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                    for pause in pauses {
                        sleep(Duration::from_secs(*pause)).await;
                        stream.write_all(&[0; 17]).await?;
                    }
                    if leaves {
                        return stream.shutdown().await;
                    }
                    let _left = stream.read(&mut [0; 1024]).await?;
                    io::Result::Ok(())
                });
                Ok(Box::new(near))
            }
        }
        let rest =
            async |pauses, leaves| rests(&Chatting(server(1000, None), pauses, leaves), "cover.example").await.http1;
        for (pauses, after, records) in
            [(&[75, 6][..], 75, &[34, 34, 19][..]), (&[30, 60], 60, &[34, 19]), (&[30; 20], 30, &[34, 19])]
        {
            let seen = rest(pauses, true).await.unwrap();
            assert!(seen.after_ms.unwrap().abs_diff(after * 1000) < 1000, "{pauses:?}: {seen:?}");
            assert_eq!(seen.ending.records, records, "{pauses:?}");
        }
        for pauses in [&[60][..], &[30; 50]] {
            assert_eq!(rest(pauses, false).await, None, "no end was seen, and no silence that is borne");
        }
    }

    #[test]
    fn an_answer_is_whole_behind_its_head_or_its_stream() {
        for (plain, whole) in [
            (&b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"[..], true),
            (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", true),
            (b"HTTP/1.1 103 Early Hints\r\n\r\n", false),
            (b"HTTP/1.1 200 OK\r\n", false),
            (b"", false),
        ] {
            assert_eq!(ends_head(plain), whole, "{plain:?}");
        }
        let settings = b"\0\0\0\x04\0\0\0\0\0";
        let end = |frame: &[u8]| ends_stream(&[settings, frame].concat());
        assert!(end(b"\0\0\x01\x01\x05\0\0\0\x01\x88") && end(b"\0\0\0\0\x01\0\0\0\x01"));
        for other in [&b""[..], b"\0\0\x01\x01\x04\0\0\0\x01\x88", b"\0\0\x02\x01\x05\0\0\0\x01\x88", SETTINGS_ACK] {
            assert!(!end(other), "{other:?}");
        }
    }

    /// A server that bears a visitor for ever, and one that ends behind its first answer.
    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_not_seen_is_none() {
        struct Patient(TlsAcceptor, bool);
        impl CoverDialer for Patient {
            async fn open(&self) -> io::Result<Leg> {
                let (near, far) = duplex(1 << 16);
                let (acceptor, stays) = (self.0.clone(), self.1);
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(far).await?;
                    assert!(stream.read(&mut [0; 1024]).await? > 0);
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                    if stays {
                        let _left = stream.read(&mut [0; 1024]).await?;
                    }
                    io::Result::Ok(())
                });
                Ok(Box::new(near))
            }
        }
        let rest = async |stays| rests(&Patient(server(1000, None), stays), "cover.example").await.http1;
        assert_eq!(rest(true).await, Some(IdleEnd::default()));
        assert_eq!(rest(false).await, None);
    }
}
