//! TCP segments as they pass on the interfaces of this machine, where the system lets us listen (`CAP_NET_RAW`).
//!
//! Only heads are kept, only of connections that were named before, and never more than a fixed number at a time: the machine of
//! an operator has other traffic as well.

use std::collections::HashSet;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Most segments that are kept.
const MOST: usize = 200_000;

/// Time between two checks whether the listener is still wanted.
const TURN: Duration = Duration::from_millis(200);

/// Head of a segment that carries data or ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSegment {
    /// Time at which it passed.
    pub at: Instant,
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Number of its first byte.
    pub sequence: u32,
    /// Bytes of data.
    pub length: usize,
    /// Bytes of TCP options.
    pub options: usize,
    /// With FIN.
    pub fin: bool,
    /// With RST.
    pub reset: bool,
}

/// Listener on all interfaces; it ends with the last copy of this value.
#[derive(Clone, Debug)]
pub struct PacketCapture(Arc<Mutex<CaptureLog>>);

#[derive(Debug, Default)]
struct CaptureLog {
    /// Ports of our own whose connections are noted.
    ports: HashSet<u16>,
    segments: Vec<TcpSegment>,
}

impl PacketCapture {
    /// Listens from now on; the error says why that may not be.
    pub fn open() -> io::Result<Self> {
        let seen = Arc::<Mutex<CaptureLog>>::default();
        // What arrives: on loopback each packet does so once.
        for version in [0x0800_u16, 0x86dd] {
            let protocol = Protocol::from(i32::from(version.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
            socket.set_read_timeout(Some(TURN))?;
            // A burst must not be lost while others have the processor.
            let _ = socket.set_recv_buffer_size(32 << 20);
            let into = Arc::downgrade(&seen);
            thread::Builder::new().name("line".into()).spawn(move || note(socket, &into))?;
        }
        Ok(Self(seen))
    }

    fn seen(&self) -> MutexGuard<'_, CaptureLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the connections of this port of our own.
    pub fn watch(&self, port: u16) {
        self.seen().ports.insert(port);
    }

    /// Forgets the connections of this port.
    pub fn forget(&self, port: u16) {
        let mut seen = self.seen();
        seen.ports.remove(&port);
        seen.segments.retain(|segment| segment.from.port() != port && segment.to.port() != port);
    }

    /// Segments from one address to the other, without what was sent again, in the order of the stream.
    pub fn between(&self, from: SocketAddr, to: SocketAddr) -> Vec<TcpSegment> {
        let seen = self.seen();
        let mut found: Vec<TcpSegment> = Vec::new();
        for segment in seen.segments.iter().filter(|segment| (segment.from, segment.to) == (from, to)) {
            let again = |old: &TcpSegment| (old.sequence, old.length) == (segment.sequence, segment.length);
            if segment.length == 0 || !found.iter().any(again) {
                found.push(segment.clone());
            }
        }
        found.sort_by(|a, b| (a.sequence.wrapping_sub(b.sequence) as i32).cmp(&0));
        found
    }

    /// The same once so many bytes have passed; `None` if they were not seen within some seconds.
    pub async fn whole(&self, from: SocketAddr, to: SocketAddr, bytes: usize) -> Option<Vec<TcpSegment>> {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            let found = self.between(from, to);
            if found.iter().map(|segment| segment.length).sum::<usize>() >= bytes {
                return Some(found);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        None
    }
}

fn note(mut socket: Socket, into: &Weak<Mutex<CaptureLog>>) {
    let mut packet = vec![0; 1 << 16];
    loop {
        let read = socket.read(&mut packet);
        let at = Instant::now();
        let Some(seen) = into.upgrade() else { return };
        let length = match read {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(_) => return,
        };
        let Some(segment) = segment(&packet[..length], at) else { continue };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = seen.ports.contains(&segment.from.port()) || seen.ports.contains(&segment.to.port());
        if ours && seen.segments.len() < MOST {
            seen.segments.push(segment);
        }
    }
}

/// Reads a packet of IPv4 or IPv6 from its head on; `None` for one without data that ends nothing.
fn segment(packet: &[u8], at: Instant) -> Option<TcpSegment> {
    const TCP: u8 = 6;
    let (protocol, head, total, addresses) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, usize::from(packet[0] & 15) * 4, number(packet, 2)?.into(), packet.get(12..20)?),
        6 => (*packet.get(6)?, 40, 40 + usize::from(number(packet, 4)?), packet.get(8..40)?),
        _ => return None,
    };
    if protocol != TCP {
        return None;
    }
    let (from, to) = addresses.split_at(addresses.len() / 2);
    // A packet larger than any that the head can name was joined on the way.
    let total = if total <= head { packet.len() } else { total };
    let tcp = packet.get(head..total)?;
    let (flags, start) = (*tcp.get(13)?, usize::from(tcp[12] >> 4) * 4);
    let length = tcp.len().checked_sub(start)?;
    let [fin, reset] = [1, 4].map(|flag| flags & flag != 0);
    let sequence = u32::from_be_bytes(tcp[4..8].try_into().ok()?);
    let [from, to] =
        [(from, 0), (to, 2)].map(|(address, port)| Some(SocketAddr::new(ip(address)?, number(tcp, port)?)));
    (length > 0 || fin || reset).then_some(())?;
    Some(TcpSegment { at, from: from?, to: to?, sequence, length, options: start.checked_sub(20)?, fin, reset })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TCP head with twelve bytes of options, and four bytes of data.
    fn tcp(flags: u8, data: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0x01, 0xbb, 0x30, 0x39, 0, 0, 0, 7, 0, 0, 0, 0, 8 << 4, flags, 0, 0, 0, 0, 0, 0];
        tcp.extend([1; 12]);
        tcp.extend(data);
        tcp
    }

    fn v4(payload: &[u8]) -> Vec<u8> {
        let length = (20 + payload.len()) as u8;
        let head = [0x45, 0, 0, length, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        [&head[..], payload].concat()
    }

    #[test]
    fn heads_of_both_versions_are_read() {
        let at = Instant::now();
        let four = segment(&v4(&tcp(0x18, b"data")), at).unwrap();
        assert_eq!((four.from, four.to), ("192.0.2.1:443".parse().unwrap(), "192.0.2.2:12345".parse().unwrap()));
        assert_eq!((four.sequence, four.length, four.options, four.fin, four.reset), (7, 4, 12, false, false));
        let mut six = vec![0x60, 0, 0, 0, 0, 36, 6, 64];
        six.extend([0x20; 16]);
        six.extend([0x30; 16]);
        six.extend(tcp(0x11, b"data"));
        let six = segment(&six, at).unwrap();
        assert!(six.from.is_ipv6() && six.fin && six.length == 4);
    }

    #[test]
    fn what_is_no_segment_or_says_nothing_is_left_out() {
        let whole = v4(&tcp(0x18, b"data"));
        for end in 0..whole.len() {
            assert_eq!(segment(&whole[..end], Instant::now()), None, "{end}");
        }
        assert_eq!(segment(&v4(&tcp(0x10, b"")), Instant::now()), None, "a bare acknowledgement");
        assert!(segment(&v4(&tcp(0x14, b"")), Instant::now()).is_some_and(|segment| segment.reset));
        let mut udp = whole;
        udp[9] = 17;
        assert_eq!(segment(&udp, Instant::now()), None);
    }
}
