//! The 64-byte obfuscated2 header, and how a client wraps it (docs/protocol.md, "The obfuscated2 header").

use std::fmt;

use super::packets::Framing;
use super::record::{self, Header as RecordHeader};
use crate::crypto::Ctr;
use crate::crypto::kdf::{Directions, KeyIv, MATERIAL, directions};

/// Length of the header.
pub const HEADER: usize = 64;

const MATERIAL_RANGE: std::ops::Range<usize> = 8..8 + MATERIAL;
/// The material is key 32 ‖ counter 16 in one direction and the same backwards in the other, so its middle is in both keys.
const SHARED: std::ops::Range<usize> = 24..40;
const TAG: std::ops::Range<usize> = 56..60;
const DC: std::ops::Range<usize> = 60..62;

/// Content of a valid header.
pub struct Opened {
    /// Number of the data centre, signed, as the client wrote it.
    pub dc: i16,
    /// Keystream of what the client sends, from the first byte behind the header.
    pub up: Ctr,
    /// Keys of what the client receives, from its first byte.
    pub down: KeyIv,
    /// How packets are framed behind the header, in both directions.
    pub framing: Framing,
}

/// What the header says of the framing.
fn tag(framing: Framing) -> [u8; 4] {
    match framing {
        Framing::Abridged => [0xef; 4],
        Framing::Intermediate => [0xee; 4],
        Framing::Padded => [0xdd; 4],
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("dc", &self.dc).finish_non_exhaustive()
    }
}

/// Opens a client's header; `None` unless it carries the padded intermediate tag under this secret, the only one that
/// clients use inside fake TLS. Four bytes are all that tells a valid header, so chance passes one in 2^32.
pub fn open(header: &[u8; HEADER], secret: &[u8; 16]) -> Option<Opened> {
    open_framed(header, secret, &[Framing::Padded])
}

/// Opens a client's header that carries the tag of any framing; `None` if it is not under this secret. Chance passes three
/// in 2^32.
pub fn open_any(header: &[u8; HEADER], secret: &[u8; 16]) -> Option<Opened> {
    open_framed(header, secret, &[Framing::Abridged, Framing::Intermediate, Framing::Padded])
}

fn open_framed(header: &[u8; HEADER], secret: &[u8; 16], framings: &[Framing]) -> Option<Opened> {
    let Directions { up, down } = directions(material(header), Some(secret));
    let mut plain = *header;
    let mut stream = up.stream();
    stream.apply(&mut plain);
    let framing = framings.iter().copied().find(|framing| plain[TAG] == tag(*framing))?;
    Some(Opened { dc: dc_number(&plain), up: stream, down, framing })
}

/// The 16 bytes that the keys of both directions have in common, forwards or backwards, the lesser of the two.
///
/// Two headers that agree in a key agree in this, whatever else is altered: the first eight bytes and the counter, which
/// can be changed so that the tag comes out right where the plain text behind a recorded header is known, or the two
/// directions swapped. By chance two headers never agree in it.
pub fn shared_by_keys(header: &[u8; HEADER]) -> [u8; 16] {
    let forwards: [u8; 16] = std::array::from_fn(|at| header[SHARED.start + at]);
    let mut backwards = forwards;
    backwards.reverse();
    forwards.min(backwards)
}

/// The header that opens a stream to a data centre, and the keystream of what we send behind it.
///
/// The header's key material is chosen so that the data centre encrypts with the client's own keys (`down`); then what
/// comes from it can be handed on untouched. `random` fills what is free, and is called again while the outcome would
/// look like another protocol's first bytes.
pub fn seal_for_dc(
    dc: i16,
    framing: Framing,
    down: &KeyIv,
    mut random: impl FnMut() -> [u8; 10],
) -> ([u8; HEADER], Ctr) {
    let mut header = [0; HEADER];
    header[MATERIAL_RANGE].copy_from_slice(&down.as_down_material());
    header[TAG].copy_from_slice(&tag(framing));
    header[DC].copy_from_slice(&dc.to_le_bytes());
    loop {
        let free = random();
        header[..8].copy_from_slice(&free[..8]);
        header[62..].copy_from_slice(&free[8..]);
        if !looks_like_another_protocol(&header) {
            break;
        }
    }
    let up = directions(material(&header), None).up;
    let stream = sealed(&mut header, &up);
    (header, stream)
}

/// The header that opens a stream to another proxy, as a client with its secret sends it; the keystream of what we send
/// behind it; and the keys of what comes back.
pub fn seal_for_proxy(
    dc: i16,
    framing: Framing,
    secret: &[u8; 16],
    mut random: impl FnMut() -> [u8; HEADER],
) -> ([u8; HEADER], Ctr, KeyIv) {
    let mut header = random();
    while looks_like_another_protocol(&header) {
        header = random();
    }
    header[TAG].copy_from_slice(&tag(framing));
    header[DC].copy_from_slice(&dc.to_le_bytes());
    let Directions { up, down } = directions(material(&header), Some(secret));
    let stream = sealed(&mut header, &up);
    (header, stream, down)
}

/// Encrypts what of a header is encrypted, and gives the keystream behind it.
fn sealed(header: &mut [u8; HEADER], up: &KeyIv) -> Ctr {
    let mut stream = up.stream();
    let mut encrypted = *header;
    stream.apply(&mut encrypted);
    header[TAG.start..].copy_from_slice(&encrypted[TAG.start..]);
    stream
}

fn material(header: &[u8; HEADER]) -> &[u8; MATERIAL] {
    header[MATERIAL_RANGE].try_into().expect("the range has the length of the material")
}

fn dc_number(plain: &[u8; HEADER]) -> i16 {
    i16::from_le_bytes([plain[DC.start], plain[DC.start + 1]])
}

/// Starts that a data centre would take for another transport.
fn looks_like_another_protocol(header: &[u8; HEADER]) -> bool {
    const STARTS: [&[u8]; 7] = [b"HEAD", b"POST", b"GET ", b"OPTI", &[0xdd; 4], &[0xee; 4], &[0x16, 0x03, 0x01, 0x02]];
    header[0] == 0xef || STARTS.iter().any(|start| header.starts_with(start)) || header[4..8] == [0; 4]
}

/// Reads what a client sends behind the server's flight until its header is whole: at most one change_cipher_spec,
/// then a record of application data that begins with the header.
#[derive(Debug, Default)]
pub struct HeaderCollector {
    /// All bytes so far; never more than a change_cipher_spec, a record header and the header itself.
    seen: Vec<u8>,
}

/// State of the header after some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// A beginning.
    More,
    /// The header is whole.
    Whole(Wrapped),
    /// No Telegram client sends this; says which part.
    Foreign(&'static str),
}

/// A whole header and where its record goes on.
#[derive(PartialEq, Eq)]
pub struct Wrapped {
    /// The 64 bytes.
    pub header: [u8; HEADER],
    /// Number of bytes, of the chunk that completed the header, that belong to it or to what came before.
    pub used: usize,
    /// Payload bytes of the same record that follow.
    pub record_left: usize,
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped")
            .field("used", &self.used)
            .field("record_left", &self.record_left)
            .finish_non_exhaustive()
    }
}

impl HeaderCollector {
    const LONGEST: usize = record::CHANGE_CIPHER_SPEC.len() + record::HEADER + HEADER;

    /// Takes what arrived next. Must not be called again once the answer is not `More`.
    pub fn feed(&mut self, chunk: &[u8]) -> Progress {
        let before = self.seen.len();
        self.seen.extend_from_slice(&chunk[..chunk.len().min(Self::LONGEST - before)]);
        if record::CHANGE_CIPHER_SPEC.starts_with(&self.seen) {
            return Progress::More;
        }
        let record = self.seen.strip_prefix(&record::CHANGE_CIPHER_SPEC[..]).unwrap_or(&self.seen);
        match first_data_record(record) {
            Ok(None) => Progress::More,
            Ok(Some((header, record_left))) => {
                let end = self.seen.len() - record.len() + record::HEADER + HEADER;
                Progress::Whole(Wrapped { header, used: end - before, record_left })
            }
            Err(what) => Progress::Foreign(what),
        }
    }
}

/// The header at the start of a data record, and how much of that record follows it.
fn first_data_record(bytes: &[u8]) -> Result<Option<([u8; HEADER], usize)>, &'static str> {
    let Some((head, payload)) = bytes.split_first_chunk::<{ record::HEADER }>() else {
        let start = RecordHeader::application_data(0).encode();
        return if start[..3].starts_with(&bytes[..bytes.len().min(3)]) { Ok(None) } else { Err("not a data record") };
    };
    let head = RecordHeader::decode(*head);
    if head != RecordHeader::application_data(head.length) {
        return Err("not a data record");
    }
    let length = usize::from(head.length);
    if !(HEADER..=record::MAX_CIPHERTEXT).contains(&length) {
        return Err("length of the first data record");
    }
    Ok(payload.first_chunk().map(|header| (*header, length - HEADER)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{unhex, vector, vector_array, web_vectors};

    fn secret(group: &str) -> [u8; 16] {
        vector_array(group, "secret")
    }

    #[test]
    fn streams_of_web_proxies_are_opened_as_their_vectors_say() {
        let rows = web_vectors("inner");
        assert!(rows.as_array().unwrap().len() >= 5);
        for row in rows.as_array().unwrap() {
            let bytes = |name: &str| unhex(row[name].as_str().unwrap());
            let secret = bytes("secret");
            let key = secret[secret.len() - 16..].try_into().unwrap();
            let Opened { dc, mut up, down, framing } = open_any(&bytes("init").try_into().unwrap(), &key).unwrap();
            assert_eq!((i64::from(dc), &tag(framing)[..1]), (row["dc"].as_i64().unwrap(), &bytes("tag")[..]));
            let mut said = bytes("stream_to_server").split_off(HEADER);
            up.apply(&mut said);
            assert_eq!(said, bytes("first_message"));
            let mut reply = bytes("stream_to_client");
            down.stream().apply(&mut reply);
            assert_eq!(reply, bytes("reply_plain"));
        }
    }

    #[test]
    fn the_key_schedule_gives_the_vectors_keys() {
        for (group, hashed) in [
            ("O1_nosecret_interm", false),
            ("O2_plain16_abridged_media", true),
            ("O3_dd_padded", true),
            ("O4_ee_in_tls", true),
        ] {
            let secret = hashed.then(|| secret(group));
            let keys = directions(material(&vector_array(group, "wire_init")), secret.as_ref());
            assert_eq!(keys.up.key.to_vec(), vector(group, "c2s_key"), "{group}");
            assert_eq!(keys.up.iv.to_vec(), vector(group, "c2s_iv"), "{group}");
            assert_eq!(keys.down.key.to_vec(), vector(group, "s2c_key"), "{group}");
            assert_eq!(keys.down.iv.to_vec(), vector(group, "s2c_iv"), "{group}");
            let mut down = vector(group, "dn_plain");
            keys.down.stream().apply(&mut down);
            assert_eq!(down, vector(group, "dn_wire"), "{group}");
        }
    }

    #[test]
    fn only_the_padded_tag_opens() {
        for (group, dc) in [("O3_dd_padded", 2), ("O4_ee_in_tls", 10_002)] {
            let mut opened = open(&vector_array(group, "wire_init"), &secret(group)).unwrap();
            assert_eq!(opened.dc, dc);
            let mut up = vector(group, "up_wire");
            opened.up.apply(&mut up);
            assert_eq!(up, vector(group, "up_plain"), "{group}");
            assert!(open(&vector_array(group, "wire_init"), &[9; 16]).is_none(), "another secret");
        }
        let group = "O2_plain16_abridged_media";
        assert!(open(&vector_array(group, "wire_init"), &secret(group)).is_none(), "another tag");
    }

    #[test]
    fn every_tag_opens_where_any_is_allowed() {
        for (group, framing) in [
            ("O2_plain16_abridged_media", Framing::Abridged),
            ("O3_dd_padded", Framing::Padded),
            ("O4_ee_in_tls", Framing::Padded),
        ] {
            let mut opened = open_any(&vector_array(group, "wire_init"), &secret(group)).unwrap();
            assert_eq!(opened.framing, framing, "{group}");
            let mut up = vector(group, "up_wire");
            opened.up.apply(&mut up);
            assert_eq!(up, vector(group, "up_plain"), "{group}");
        }
        for framing in [Framing::Abridged, Framing::Intermediate, Framing::Padded] {
            let (header, mut up, down) = seal_for_proxy(-2, framing, &[1; 16], || [7; HEADER]);
            let mut opened = open_any(&header, &[1; 16]).unwrap();
            assert!(opened.framing == framing && opened.dc == -2 && opened.down == down);
            assert_eq!(open(&header, &[1; 16]).is_some(), framing == Framing::Padded, "inside fake TLS");
            assert!(open_any(&header, &[2; 16]).is_none(), "another secret");
            let mut sent = *b"behind it";
            up.apply(&mut sent);
            opened.up.apply(&mut sent);
            assert_eq!(&sent, b"behind it");
            // A data centre frames as the header that it gets says.
            let (header, _) = seal_for_dc(2, framing, &down, || [7; 10]);
            let mut plain = header;
            directions(material(&header), None).up.stream().apply(&mut plain);
            assert_eq!(plain[TAG], tag(framing));
        }
    }

    #[test]
    fn fast_mode_makes_the_data_centre_use_the_clients_keys() {
        let group = "F1_fast";
        let down = KeyIv { key: vector_array(group, "client_s2c_key"), iv: vector_array(group, "client_s2c_iv") };
        let plain = vector(group, "dc_plain_init");
        let mut free = [0; 10];
        free[..8].copy_from_slice(&plain[..8]);
        free[8..].copy_from_slice(&plain[62..]);
        let (header, mut up) = seal_for_dc(2, Framing::Padded, &down, || free);
        assert_eq!(header.to_vec(), vector(group, "dc_wire_init"));
        let mut sent = vector(group, "up_plain");
        up.apply(&mut sent);
        assert_eq!(sent, vector(group, "up_wire_to_dc"));
        let theirs = directions(material(&header), None);
        assert!(theirs.down == down);
        assert_eq!(theirs.up.key.to_vec(), vector(group, "dc_uplink_key"));
    }

    #[test]
    fn forbidden_starts_are_drawn_again() {
        let starts: [&[u8]; 5] = [&[0xef], b"HEAD", &[0xdd; 4], &[1, 2, 3, 4, 0, 0, 0, 0], &[7; 8]];
        let mut draws = starts.iter();
        let (header, _) = seal_for_dc(2, Framing::Padded, &KeyIv { key: [1; 32], iv: [2; 16] }, || {
            let start = draws.next().unwrap();
            std::array::from_fn(|at| start.get(at).copied().unwrap_or(1))
        });
        assert_eq!(header[..8], [7; 8]);
    }

    #[test]
    fn a_proxy_opens_what_is_sealed_for_it() {
        let mut draws = [[0xef; HEADER], [7; HEADER]].into_iter();
        let (header, mut up, down) = seal_for_proxy(-4, Framing::Padded, &[1; 16], || draws.next().unwrap());
        assert_eq!(header[..8], [7; 8]);
        let mut opened = open(&header, &[1; 16]).unwrap();
        assert!(opened.dc == -4 && opened.down == down);
        let mut sent = *b"behind it";
        up.apply(&mut sent);
        opened.up.apply(&mut sent);
        assert_eq!(&sent, b"behind it");
        assert!(open(&header, &[8; 16]).is_none());
    }

    /// What a client sends after the flight, without the first record's last byte up to all of it.
    #[test]
    fn the_header_is_whole_at_its_last_byte_and_no_sooner() {
        let write = vector("tls_first_client_write", "bytes");
        for skip in [0, record::CHANGE_CIPHER_SPEC.len()] {
            let write = &write[skip..];
            let end = record::CHANGE_CIPHER_SPEC.len() - skip + record::HEADER + HEADER;
            let mut collector = HeaderCollector::default();
            for (index, byte) in write[..end].iter().enumerate() {
                match collector.feed(&[*byte]) {
                    Progress::More => assert!(index + 1 < end),
                    Progress::Whole(wrapped) => {
                        assert_eq!((index + 1, wrapped.used), (end, 1));
                        assert_eq!(wrapped.record_left, write.len() - end);
                        assert_eq!(wrapped.header.to_vec(), vector("O4_ee_in_tls", "wire_init"));
                    }
                    Progress::Foreign(what) => panic!("{what} at {index}"),
                }
            }
            let Progress::Whole(wrapped) = HeaderCollector::default().feed(write) else { panic!() };
            assert_eq!(wrapped.used, end);
        }
    }

    #[test]
    fn anything_else_is_foreign_as_soon_as_it_shows() {
        let data = |length: u16| [&[0x17, 3, 3][..], &length.to_be_bytes()].concat();
        for (what, bytes, known) in [
            ("text", b"GET / HTTP/1.1".to_vec(), 1),
            ("an alert", vec![0x15, 3, 3, 0, 2, 2, 40], 1),
            ("a second CCS", [record::CHANGE_CIPHER_SPEC, record::CHANGE_CIPHER_SPEC].concat(), 7),
            ("another CCS", vec![0x14, 3, 3, 0, 1, 2], 6),
            ("another version", vec![0x17, 3, 1], 3),
            ("too short a record", data(63), 5),
            ("too long a record", data(16_641), 5),
        ] {
            let mut collector = HeaderCollector::default();
            let at = bytes.iter().position(|byte| matches!(collector.feed(&[*byte]), Progress::Foreign(_)));
            assert_eq!(at.map(|at| at + 1), Some(known), "{what}");
        }
        assert_eq!(HeaderCollector::default().feed(&data(16_640)), Progress::More);
        assert_eq!(HeaderCollector::default().feed(&data(64)), Progress::More);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_survived(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..8)) {
            let mut collector = HeaderCollector::default();
            for chunk in &chunks {
                if collector.feed(chunk) != Progress::More { break }
            }
        }
    }
}
