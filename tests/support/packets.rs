//! What a watcher on the line sees: TCP segments as they pass, one by one. Needs a network of its own, where raw sockets
//! may be had and where the kernel can be told not to join segments on the way.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::network;

/// A segment with data or with a flag that ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub at: Instant,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Number of its first byte.
    pub sequence: u32,
    pub payload: Vec<u8>,
    pub push: bool,
    pub fin: bool,
    pub reset: bool,
}

/// Notes all IPv4 segments of this network from now on.
#[derive(Clone)]
pub struct Capture(Arc<Mutex<Vec<Segment>>>);

impl Capture {
    /// Also makes loopback a line that carries each segment by itself.
    pub fn start() -> Self {
        network::command("ip", ["link", "set", "lo", "gso_max_segs", "1"]);
        // What arrives as IPv4: on loopback every packet passes once that way.
        const IPV4: i32 = 0x0800u16.to_be() as i32;
        let mut socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(IPV4))).expect("a raw socket");
        // A burst must not be lost while others have the processor.
        let _ = socket.set_recv_buffer_size(64 << 20);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        thread::spawn(move || {
            let mut packet = vec![0; 1 << 16];
            while let Ok(length) = socket.read(&mut packet) {
                if let Some(segment) = segment(&packet[..length]) {
                    into.lock().expect("no panic while noting").push(segment);
                }
            }
        });
        Self(seen)
    }

    /// What has passed from one address to the other so far, without what was sent again, in the order of the stream.
    pub fn between(&self, from: SocketAddr, to: SocketAddr) -> Vec<Segment> {
        let all = self.0.lock().expect("no panic while noting");
        let mut found: Vec<Segment> = Vec::new();
        for segment in all.iter().filter(|segment| (segment.from, segment.to) == (from, to)) {
            let again = |old: &Segment| old.sequence == segment.sequence && old.payload.len() == segment.payload.len();
            if segment.payload.is_empty() || !found.iter().any(again) {
                found.push(segment.clone());
            }
        }
        found
    }

    /// The same once so many bytes of data have passed.
    pub fn whole(&self, from: SocketAddr, to: SocketAddr, bytes: usize) -> Vec<Segment> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let found = self.between(from, to);
            let have: usize = found.iter().map(|segment| segment.payload.len()).sum();
            if have >= bytes {
                return found;
            }
            assert!(Instant::now() < end, "{have} of {bytes} bytes were seen on the line");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Forgets what has passed.
    pub fn forget(&self) {
        self.0.lock().expect("no panic while noting").clear();
    }
}

/// How many bytes of data each segment carries.
pub fn lengths(segments: &[Segment]) -> Vec<usize> {
    segments.iter().map(|segment| segment.payload.len()).filter(|length| *length > 0).collect()
}

fn segment(packet: &[u8]) -> Option<Segment> {
    const TCP: u8 = 6;
    let (head, total) = (usize::from(packet.first()? & 15) * 4, number(packet, 2)?);
    if packet[0] >> 4 != 4 || *packet.get(9)? != TCP {
        return None;
    }
    let address =
        |at: usize| packet.get(at..at + 4).map(|four| IpAddr::from(<[u8; 4]>::try_from(four).unwrap_or_default()));
    let (from, to) = (address(12)?, address(16)?);
    let tcp = packet.get(head..total.into())?;
    let flags = *tcp.get(13)?;
    let payload = tcp.get(usize::from(tcp[12] >> 4) * 4..)?.to_vec();
    let [fin, reset, push] = [1, 4, 8].map(|flag| flags & flag != 0);
    let sequence = u32::from_be_bytes(tcp[4..8].try_into().ok()?);
    let worth = !payload.is_empty() || fin || reset;
    let ends = [SocketAddr::new(from, number(tcp, 0)?), SocketAddr::new(to, number(tcp, 2)?)];
    worth.then(|| Segment { at: Instant::now(), from: ends[0], to: ends[1], sequence, payload, push, fin, reset })
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}
