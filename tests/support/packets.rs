//! What a watcher on the line sees: TCP segments as they pass, one by one. Needs a network of its own, where raw sockets
//! may be had and where the kernel can be told not to join segments on the way.

use std::collections::HashSet;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, Socket, Type};

use super::network;

/// Bytes of a packet on Ethernet.
pub const ETHERNET: usize = 1500;

/// What the kernel may hold for us while others have the processor.
const BUFFER: usize = 64 << 20;

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
        Self::listen(usize::MAX)
    }

    /// Also makes loopback an Ethernet, whose card cuts what the kernel hands over in one piece: the kernel is as free to join
    /// what was written as it is there.
    pub fn ethernet() -> Self {
        network::command("ip", ["link", "set", "lo", "mtu", &ETHERNET.to_string()]);
        Self::listen(ETHERNET)
    }

    fn listen(mtu: usize) -> Self {
        // What arrives as IPv4: on loopback every packet passes once that way.
        const IPV4: i32 = 0x0800u16.to_be() as i32;
        let mut socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(IPV4))).expect("a raw socket");
        // A burst must not be lost while others have the processor.
        if set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
            let _ = socket.set_recv_buffer_size(BUFFER);
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        thread::spawn(move || {
            let mut packet = vec![0; 1 << 16];
            while let Ok(length) = socket.read(&mut packet) {
                let segments = segments(&packet[..length], mtu).unwrap_or_default();
                into.lock().expect("no panic while noting").extend(segments);
            }
        });
        Self(seen)
    }

    /// What has passed from one address to the other so far, without what was sent again, in the order of the stream.
    pub fn between(&self, from: SocketAddr, to: SocketAddr) -> Vec<Segment> {
        let all = self.0.lock().expect("no panic while noting");
        let mut known = HashSet::new();
        let between = all.iter().filter(|segment| (segment.from, segment.to) == (from, to));
        let new =
            |segment: &&Segment| segment.payload.is_empty() || known.insert((segment.sequence, segment.payload.len()));
        between.filter(new).cloned().collect()
    }

    /// The same once so many bytes of data have passed.
    pub fn whole(&self, from: SocketAddr, to: SocketAddr, bytes: usize) -> Vec<Segment> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            // To look for what was sent again takes long, and that there is any makes no wait shorter that was needed.
            if self.count(from, to) >= bytes {
                let found = self.between(from, to);
                if found.iter().map(|segment| segment.payload.len()).sum::<usize>() >= bytes {
                    return found;
                }
            }
            let have = self.count(from, to);
            assert!(Instant::now() < end, "{have} of {bytes} bytes were seen on the line");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn count(&self, from: SocketAddr, to: SocketAddr) -> usize {
        let all = self.0.lock().expect("no panic while noting");
        let between = all.iter().filter(|segment| (segment.from, segment.to) == (from, to));
        between.map(|segment| segment.payload.len()).sum()
    }

    /// All that has passed so far.
    pub fn all(&self) -> Vec<Segment> {
        self.0.lock().expect("no panic while noting").clone()
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

/// The segments of a packet, which a card would cut to this size; `None` if it is no TCP, or a mere acknowledgement.
fn segments(packet: &[u8], mtu: usize) -> Option<Vec<Segment>> {
    const TCP: u8 = 6;
    let (head, total) = (usize::from(packet.first()? & 15) * 4, usize::from(number(packet, 2)?));
    if packet[0] >> 4 != 4 || *packet.get(9)? != TCP {
        return None;
    }
    let address =
        |at: usize| packet.get(at..at + 4).map(|four| IpAddr::from(<[u8; 4]>::try_from(four).unwrap_or_default()));
    let (from, to) = (address(12)?, address(16)?);
    // A packet that only the card cuts may be too long to say how long it is.
    let tcp = packet.get(head..if total == 0 { packet.len() } else { total })?;
    let flags = *tcp.get(13)?;
    let behind = usize::from(tcp[12] >> 4) * 4;
    let payload = tcp.get(behind..)?;
    let [fin, reset, push] = [1, 4, 8].map(|flag| flags & flag != 0);
    let sequence = u32::from_be_bytes(tcp[4..8].try_into().ok()?);
    let (from, to) = (SocketAddr::new(from, number(tcp, 0)?), SocketAddr::new(to, number(tcp, 2)?));
    let (at, most) = (Instant::now(), mtu.saturating_sub(head + behind).max(1));
    let segment =
        |sequence, payload: &[u8]| Segment { at, from, to, sequence, payload: payload.to_vec(), push, fin, reset };
    if payload.is_empty() {
        return (fin || reset).then(|| vec![segment(sequence, payload)]);
    }
    // Only the last of them has the flags.
    let whole = (payload.len() - 1) / most;
    let cut = payload.chunks(most).enumerate().map(|(number, piece)| {
        let segment = segment(sequence.wrapping_add((number * most) as u32), piece);
        if number == whole { segment } else { Segment { push: false, fin: false, reset: false, ..segment } }
    });
    Some(cut.collect())
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}
