//! The server's first flight: ServerHello, change_cipher_spec, encrypted records (RFC 8446 §4.1.3, Appendix D.4).
//!
//! Clients of the fake-TLS transport accept exactly one encrypted record here, so several are joined into one of the
//! summed payload; everything else stays as the cover sent it (docs/protocol.md, "The flight").

use super::cursor::DecodeError;
use super::numbers::{TLS13, extension};
use super::record::{self, Header, kind};
use super::server_hello::ServerHello;

/// Most bytes that a flight may have before it is given up: one ServerHello, one longest encrypted record's worth of
/// payload and the headers of the records that payload came in.
const MAX_COLLECTED: usize = 32 * 1024;

/// Position of the random in a flight.
pub const RANDOM: std::ops::Range<usize> = 11..43;

const SERVER_HELLO: u8 = 2;

/// Reason why a cover's answer cannot be shown to a client as the flight that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit(pub &'static str);

/// Description of the alert of a server that fails.
const INTERNAL_ERROR: u8 = 80;

/// Length of the record of an alert in the clear.
const ALERT_LENGTH: usize = record::HEADER + 2;

/// Collects a cover's answer until its first flight is whole.
#[derive(Debug, Default)]
pub struct FlightCollector {
    bytes: Vec<u8>,
    /// Bytes that are whole records, already looked at.
    scanned: usize,
    records: usize,
}

impl FlightCollector {
    /// Takes what arrived next.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Unfit> {
        self.bytes.extend_from_slice(bytes);
        while let Some(record) = first_record(&self.bytes[self.scanned..]) {
            check_record(self.records, record)?;
            self.scanned += record.len();
            self.records += 1;
        }
        check_header(self.records, &self.bytes[self.scanned..])?;
        if self.bytes.len() > MAX_COLLECTED { Err(Unfit("flight too long")) } else { Ok(()) }
    }

    /// Returns the number of whole encrypted records so far.
    pub fn encrypted_records(&self) -> usize {
        self.records.saturating_sub(2)
    }

    /// Whether the bytes so far could be a whole flight: at least one encrypted record, and none in part.
    pub fn may_be_whole(&self) -> bool {
        self.encrypted_records() > 0 && self.scanned == self.bytes.len()
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the server refuses the hello: an alert (RFC 8446 §6) that is about the hello, and not about the server.
    pub fn is_refusal(&self) -> bool {
        matches!(self.bytes[..], [record::kind::ALERT, _, _, 0, 2, _, about, ..] if about != INTERNAL_ERROR)
    }

    /// Whether what has come is the beginning of an alert that does not tell yet what it is about.
    pub fn begins_alert(&self) -> bool {
        self.bytes.len() < ALERT_LENGTH && self.bytes.first() == Some(&record::kind::ALERT)
    }

    /// Returns the bytes that have come, untouched.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The flight with its first `records` encrypted records joined into one, and the bytes behind them.
    ///
    /// Must not be called before as many have come; fails if they do not fit into one legal record.
    pub fn join(&self, records: usize) -> Result<(Flight, &[u8]), Unfit> {
        let hello = first_record(&self.bytes).ok_or(Unfit("no ServerHello"))?;
        let mut rest = &self.bytes[hello.len() + record::CHANGE_CIPHER_SPEC.len()..];
        let mut payload = Vec::with_capacity(rest.len());
        for _ in 0..records {
            let record = first_record(rest).ok_or(Unfit("too few encrypted records"))?;
            payload.extend_from_slice(&record[record::HEADER..]);
            rest = &rest[record.len()..];
        }
        let length = match u16::try_from(payload.len()) {
            // A record of the cover's own may be of any legal length; one that we make is no longer than real ones are.
            Ok(length) if records == 1 || usize::from(length) <= record::MAX_ENCRYPTED => length,
            _ => return Err(Unfit("encrypted records too long for one")),
        };
        let header = Header::application_data(length).encode();
        Ok((Flight([hello, &record::CHANGE_CIPHER_SPEC[..], &header[..], &payload[..]].concat()), rest))
    }
}

/// Parts that make up a first flight.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The client's session id, which servers echo.
    pub session_id: &'a [u8],
    /// Cipher suite.
    pub cipher_suite: u16,
    /// Types of the extensions, in order: supported_versions and key_share, both of them, are what can be written.
    pub extensions: &'a [u16],
    /// Group of the key share.
    pub group: u16,
    /// Public value of the key share.
    pub key_share: &'a [u8],
    /// Payload of the encrypted record.
    pub payload: &'a [u8],
}

/// Returns the place at which a write of these bytes must be cut in two so that with segments of `segment` bytes no
/// piece ends within the eleven bytes behind the ServerHello; `None` if it need not be cut, or if they are not a flight
/// from its beginning.
///
/// A client takes an end there for the end of the flight, and gives up (docs/protocol.md, "The flight").
pub fn safe_cut(bytes: &[u8], segment: usize) -> Option<usize> {
    let record = first_record(bytes)?.len();
    if !bytes[record..].starts_with(&record::CHANGE_CIPHER_SPEC) {
        return None;
    }
    let trap = record..=record + 10;
    let trapped = |start: usize| {
        segment > 0
            && (start..=*trap.end()).step_by(segment).any(|end| end > 0 && end < bytes.len() && trap.contains(&end))
    };
    if !trapped(0) {
        return None;
    }
    (record / 2..record).find(|cut| *cut > 0 && !trapped(*cut))
}

/// ServerHello, change_cipher_spec and one encrypted record, ready to be stamped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight(Vec<u8>);

impl Flight {
    /// A flight after a plan, its random still zero; `None` if the plan cannot be carried out.
    pub fn build(plan: Plan<'_>) -> Option<Self> {
        let mut extensions = Vec::new();
        for kind in plan.extensions {
            extensions.extend_from_slice(&kind.to_be_bytes());
            let body = match *kind {
                extension::SUPPORTED_VERSIONS => vec![3, 4],
                extension::KEY_SHARE => [&plan.group.to_be_bytes()[..], &counted16(plan.key_share)?].concat(),
                _ => return None,
            };
            extensions.extend(counted16(&body)?);
        }
        let body = [
            &[3, 3][..],
            &[0; 32],
            &[u8::try_from(plan.session_id.len()).ok()?],
            plan.session_id,
            &plan.cipher_suite.to_be_bytes(),
            &[0],
            &counted16(&extensions)?,
        ]
        .concat();
        let message = [&[SERVER_HELLO, 0][..], &counted16(&body)?].concat();
        let hello = Header { kind: kind::HANDSHAKE, version: [3, 3], length: message.len().try_into().ok()? };
        let data = Header::application_data(plan.payload.len().try_into().ok()?);
        let parts: [&[u8]; 5] = [&hello.encode(), &message, &record::CHANGE_CIPHER_SPEC, &data.encode(), plan.payload];
        let mut collector = FlightCollector::default();
        collector.feed(&parts.concat()).ok()?;
        collector.join(1).ok().map(|(flight, _)| flight)
    }

    /// The three records.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Replaces the ServerHello's random.
    pub fn set_random(&mut self, random: &[u8; 32]) {
        self.0[RANDOM].copy_from_slice(random);
    }

    /// The three records, for sending.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A vector with a two-byte length.
fn counted16(bytes: &[u8]) -> Option<Vec<u8>> {
    Some([&u16::try_from(bytes.len()).ok()?.to_be_bytes()[..], bytes].concat())
}

fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    let header = Header::decode(*bytes.first_chunk()?);
    bytes.get(..record::HEADER + usize::from(header.length))
}

/// Refuses a record by its header as soon as that is there, so that an alert or a page of text is passed on at once.
fn check_header(index: usize, bytes: &[u8]) -> Result<(), Unfit> {
    let (expected, what, longest) = match index {
        0 => (kind::HANDSHAKE, "no ServerHello", record::MAX_PLAINTEXT),
        1 => (kind::CHANGE_CIPHER_SPEC, "no change_cipher_spec behind the ServerHello", 1),
        _ => (kind::APPLICATION_DATA, "not an encrypted record", record::MAX_CIPHERTEXT),
    };
    match *bytes {
        [] => Ok(()),
        [kind, ..] if kind != expected => Err(Unfit(what)),
        [_, 3, 3, high, low, ..] if usize::from(u16::from_be_bytes([high, low])) > longest => {
            Err(Unfit("record length"))
        }
        [_, 3, 3, ..] | [_, 3] | [_] => Ok(()),
        _ => Err(Unfit("record version")),
    }
}

fn check_record(index: usize, record: &[u8]) -> Result<(), Unfit> {
    check_header(index, record)?;
    match index {
        0 => check_server_hello(&record[record::HEADER..]).map_err(|_| Unfit("not a TLS 1.3 ServerHello")),
        1 if record != record::CHANGE_CIPHER_SPEC => Err(Unfit("change_cipher_spec")),
        2.. if record.len() < record::HEADER + record::MIN_ENCRYPTED => Err(Unfit("encrypted record too short")),
        _ => Ok(()),
    }
}

/// One ServerHello that fills its record, chose TLS 1.3 and is no HelloRetryRequest.
fn check_server_hello(payload: &[u8]) -> Result<(), DecodeError> {
    let (hello, rest) = ServerHello::decode(payload)?;
    match hello {
        _ if !rest.is_empty() => Err(DecodeError::Malformed("several messages in one record")),
        ServerHello { retry: true, .. } => Err(DecodeError::Malformed("HelloRetryRequest")),
        ServerHello { version: TLS13, .. } => Ok(()),
        _ => Err(DecodeError::Malformed("TLS 1.2 or older")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::vector;
    use crate::wire::server_hello::HELLO_RETRY_REQUEST;

    fn fed(bytes: &[u8]) -> Result<FlightCollector, Unfit> {
        let mut collector = FlightCollector::default();
        collector.feed(bytes).map(|()| collector)
    }

    /// The flight of vector B with its encrypted part in records of these sizes.
    fn in_pieces(sizes: &[usize]) -> Vec<u8> {
        let flight = vector("flightB", "bytes");
        let start = flight.len() - 2048;
        let mut bytes = flight[..start - record::HEADER].to_vec();
        let mut payload = &flight[start..];
        for size in sizes {
            let (piece, rest) = payload.split_at(*size);
            bytes.extend_from_slice(&Header::application_data(*size as u16).encode());
            bytes.extend_from_slice(piece);
            payload = rest;
        }
        assert!(payload.is_empty());
        bytes
    }

    #[test]
    fn no_prefix_of_a_flight_is_whole_and_none_is_unfit() {
        for name in ["flightA", "flightB"] {
            let flight = vector(name, "bytes");
            let mut collector = FlightCollector::default();
            for (index, byte) in flight.iter().enumerate() {
                collector.feed(&[*byte]).unwrap();
                assert_eq!(collector.may_be_whole(), index + 1 == flight.len(), "{name} at {index}");
            }
            let (joined, rest) = collector.join(1).unwrap();
            assert_eq!((joined.as_bytes(), rest), (&flight[..], &[][..]));
        }
    }

    #[test]
    fn several_encrypted_records_become_one_of_the_summed_payload() {
        let collector = fed(&in_pieces(&[23, 1000, 1000 - 28, 53])).unwrap();
        assert_eq!(collector.encrypted_records(), 4);
        assert_eq!(collector.join(4).unwrap().0.into_bytes(), vector("flightB", "bytes"));
        let (first, rest) = collector.join(3).unwrap();
        assert_eq!(first.as_bytes().len() + rest.len(), vector("flightB", "bytes").len() + record::HEADER);
        assert!(collector.join(5).is_err());
    }

    #[test]
    fn what_does_not_fit_into_one_record_is_not_joined() {
        let mut bytes = vector("flightA", "bytes");
        for _ in 0..2 {
            bytes.extend_from_slice(&Header::application_data(10_000).encode());
            bytes.extend(std::iter::repeat_n(0x55, 10_000));
        }
        let collector = fed(&bytes).unwrap();
        assert_eq!(collector.encrypted_records(), 3);
        assert!(collector.join(3).is_err());
        assert!(collector.join(2).is_ok());
    }

    #[test]
    fn other_answers_are_unfit_at_once() {
        let flight = vector("flightA", "bytes");
        let with = |at: usize, value: u8| {
            let mut bytes = flight.clone();
            bytes[at] = value;
            bytes
        };
        for (what, bytes) in [
            ("an alert", vec![0x15]),
            ("text", b"HTTP/1.1 400 Bad Request".to_vec()),
            ("another version", vec![0x16, 3, 1]),
            ("a Certificate", with(5, 11)),
            ("TLS 1.2", with(flight.iter().rposition(|byte| *byte == 4).unwrap(), 3)),
            ("no CCS", with(127, 0x17)),
            ("another CCS", with(132, 2)),
            ("a plain record", with(133, 0x16)),
            ("too short a record", [&flight[..136], &[0, 16], &[0; 16]].concat()),
            ("too long a record", [&flight[..136], &[0x41, 1]].concat()),
        ] {
            assert!(fed(&bytes).is_err(), "{what}");
        }
        let mut retry = flight.clone();
        retry[RANDOM].copy_from_slice(&HELLO_RETRY_REQUEST);
        assert!(fed(&retry).is_err(), "HelloRetryRequest");
        let endless =
            [&flight[..], &[0x17, 3, 3, 0x40, 0][..], &[0; 0x4000], &[0x17, 3, 3, 0x40, 0], &[0; 0x4000]].concat();
        assert_eq!(fed(&endless).unwrap_err(), Unfit("flight too long"));
    }

    #[test]
    fn a_flight_is_built_after_its_plan() {
        for (name, group, cipher_suite, extensions) in
            [("flightA", 0x001d, 0x1301, [51, 43]), ("flightB", 0x11ec, 0x1301, [43, 51])]
        {
            let mut expected = vector(name, "bytes");
            let share = match group {
                0x001d => &expected[89..121],
                _ => &expected[95..95 + 1120],
            };
            let payload = &expected[expected.len() - if name == "flightA" { 64 } else { 2048 }..];
            let session_id = &expected[44..76];
            let plan = Plan { session_id, cipher_suite, extensions: &extensions, group, key_share: share, payload };
            let built = Flight::build(plan).unwrap();
            assert!(Flight::build(Plan { extensions: &[43, 51, 41], ..plan }).is_none());
            assert!(Flight::build(Plan { payload: &[0; 16], ..plan }).is_none());
            expected[RANDOM].fill(0);
            assert_eq!(built.into_bytes(), expected, "{name}");
        }
    }

    #[test]
    fn no_segment_ends_in_the_trap() {
        for name in ["flightA", "flightB"] {
            let flight = vector(name, "bytes");
            let record = first_record(&flight).unwrap().len();
            // Linux takes no smaller segments.
            for segment in 88..3000 {
                let ends = |start: usize| (start..flight.len()).step_by(segment).skip(usize::from(start == 0));
                let trapped = |start: usize| ends(start).any(|end| (record..=record + 10).contains(&end));
                match safe_cut(&flight, segment) {
                    None => assert!(!trapped(0), "{name} {segment}"),
                    Some(cut) => assert!(trapped(0) && !trapped(cut) && cut < record, "{name} {segment} {cut}"),
                }
            }
        }
        assert_eq!(safe_cut(&vector("flightB", "bytes"), 1460), None);
        assert!(safe_cut(&vector("flightB", "bytes"), 1220).is_some());
    }

    proptest! {
        #[test]
        fn any_segmentation_gives_the_same_flight(cuts in prop::collection::vec(1usize..900, 1..20)) {
            let bytes = in_pieces(&[100, 948, 1000]);
            let mut collector = FlightCollector::default();
            let mut rest = &bytes[..];
            for length in cuts.into_iter().cycle() {
                let (chunk, later) = rest.split_at(length.min(rest.len()));
                collector.feed(chunk).unwrap();
                rest = later;
                if rest.is_empty() { break }
            }
            prop_assert!(collector.may_be_whole());
            let joined = collector.join(3).unwrap().0.into_bytes();
            prop_assert_eq!(joined, vector("flightB", "bytes"));
            prop_assert_eq!(collector.into_bytes(), bytes);
        }

        #[test]
        fn arbitrary_bytes_are_survived(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..8),
                                        at in 0usize..202, value: u8) {
            let mut collector = FlightCollector::default();
            chunks.iter().for_each(|chunk| _ = collector.feed(chunk));
            let mut flight = vector("flightA", "bytes");
            flight[at] = value;
            if let Ok(collector) = fed(&flight) {
                let _ = collector.join(1);
            }
        }
    }
}
