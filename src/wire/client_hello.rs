//! The ClientHello (RFC 8446 §4.1.2): collected from records as bytes arrive, then looked at without copying.

use super::cursor::{Cursor, DecodeError};
use super::numbers::{TLS13, extension};
use super::record;

/// Longest hello that is judged, record header included, and the most that is kept of any. The longest that was captured
/// from a client has 1956 bytes; the longest name adds 242 to that, and no padding of theirs more than 255. What is longer
/// is a visitor's.
pub const MAX_HELLO: usize = 2560;

/// Longest handshake message of which the end is waited for. Servers refuse longer ones when they see the length.
const MAX_MESSAGE: usize = 64 * 1024;

/// Empty records of which more than the first few are not considered.
const MAX_EMPTY: u8 = 32;

/// Shortest hello that can be ours: a whole head, one cipher suite, no extensions.
const MIN_HELLO: usize = SESSION_ID + 32 + 2 + 2 + 2;

const RANDOM: usize = 11;
const SESSION_ID_LENGTH: usize = 43;
const SESSION_ID: usize = 44;

/// Joins a hello that arrives in any segmentation and over any number of records, and tells whether it can be a Telegram
/// client's.
///
/// What clients always send, and hence what is checked on the way (docs/protocol.md, "The hello"):
///
/// ```text
///  0         3        5    6        9       11        43   44           76
///  ├ 16 03 0x ┼ length ┼ 01 ┼ length ┼ 03 03 ┼ random ─┼ 20 ┼ session id ┼ cipher suites …
/// ```
///
/// What deviates from that and still is a handshake message to a TLS server is collected to its end all the same
/// ([`HelloCollector::oddity`]): it has to be answered after the same work, or the time of the answer would tell which forms
/// are looked at.
#[derive(Debug)]
pub struct HelloCollector {
    /// The hello under one rebuilt record header, over which its digest was made; of long ones the beginning.
    hello: Vec<u8>,
    /// Its length so far.
    length: usize,
    /// Header of the record that is being read, as far as it has come.
    header: [u8; record::HEADER],
    header_length: usize,
    /// Payload bytes of that record which have not come yet.
    record_left: usize,
    empty: u8,
    odd: Option<&'static str>,
}

/// State of the hello after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A beginning.
    More,
    /// The message is whole.
    Whole,
    /// This is no handshake message; says which part.
    Foreign(&'static str),
}

impl Default for HelloCollector {
    fn default() -> Self {
        Self {
            hello: vec![0; record::HEADER],
            length: record::HEADER,
            header: [0; record::HEADER],
            header_length: 0,
            record_left: 0,
            empty: 0,
            odd: None,
        }
    }
}

impl HelloCollector {
    /// Takes what arrived next. Bytes behind the hello are not kept, but make it odd.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Progress {
        while let Some((first, rest)) = bytes.split_first() {
            if self.is_whole() {
                self.note("bytes behind the hello");
                return Progress::Whole;
            }
            let step = if self.record_left == 0 {
                bytes = rest;
                self.header_byte(*first)
            } else if self.length < SESSION_ID {
                bytes = rest;
                self.head_byte(*first)
            } else {
                let (taken, rest) = bytes.split_at(self.record_left.min(bytes.len()));
                bytes = rest;
                self.keep(taken);
                Ok(())
            };
            if let Err(what) = step {
                self.note(what);
                return Progress::Foreign(what);
            }
        }
        if self.is_whole() { Progress::Whole } else { Progress::More }
    }

    /// Whether it begins as the record of a handshake message does.
    pub fn is_begun(&self) -> bool {
        self.length > record::HEADER || self.record_left > 0 || self.empty > 0
    }

    /// Names the part that no Telegram client sends, if one has come.
    pub fn oddity(&self) -> Option<&'static str> {
        self.odd
    }

    /// The hello under one record header, once it is whole; of one that is longer than [`MAX_HELLO`] the beginning.
    pub fn record(&self) -> &[u8] {
        &self.hello
    }

    /// The same, to keep.
    pub fn into_record(self) -> Vec<u8> {
        self.hello
    }

    /// Keeps the bytes of the hello; what follows it within its record is no part of it.
    fn keep(&mut self, bytes: &[u8]) {
        let end = self.total().unwrap_or(MAX_HELLO).min(MAX_HELLO);
        let room = end.saturating_sub(self.hello.len()).min(bytes.len());
        self.hello.extend_from_slice(&bytes[..room]);
        self.length += bytes.len();
        self.record_left -= bytes.len();
        let length = (self.hello.len() - record::HEADER) as u16;
        self.hello[3..record::HEADER].copy_from_slice(&length.to_be_bytes());
    }

    /// The first deviation counts.
    fn note(&mut self, what: &'static str) {
        self.odd.get_or_insert(what);
    }

    fn header_byte(&mut self, byte: u8) -> Result<(), &'static str> {
        let at = self.header_length;
        self.header[at] = byte;
        self.header_length += 1;
        match at {
            0 if byte != record::kind::HANDSHAKE => return Err("record type"),
            1 if byte != 3 => self.note("record version"),
            2 if byte != 1 && byte != 3 => self.note("record version"),
            4 => return self.record_begins(),
            _ => {}
        }
        Ok(())
    }

    fn record_begins(&mut self) -> Result<(), &'static str> {
        self.header_length = 0;
        self.record_left = record::Header::decode(self.header).length.into();
        if self.length == record::HEADER {
            self.hello[..3].copy_from_slice(&self.header[..3]);
        }
        match self.record_left {
            0 if self.empty == MAX_EMPTY => return Err("empty records"),
            0 => {
                self.empty += 1;
                self.note("empty record");
            }
            1..=record::MAX_PLAINTEXT => self.check_record_fits(),
            _ => return Err("record length"),
        }
        Ok(())
    }

    fn head_byte(&mut self, byte: u8) -> Result<(), &'static str> {
        let at = self.length;
        self.keep(&[byte]);
        match at {
            5 if byte != 1 => self.note("handshake type"),
            8 => match self.total() {
                Some(MIN_HELLO..=MAX_HELLO) => self.check_record_fits(),
                Some(..=MAX_MESSAGE) => self.note("hello length"),
                _ => return Err("hello length"),
            },
            9 | 10 if byte != 3 => self.note("legacy version"),
            SESSION_ID_LENGTH if byte != 32 => self.note("session id length"),
            _ => {}
        }
        Ok(())
    }

    /// A record holds nothing but the hello, hence no more than is missing of it.
    fn check_record_fits(&mut self) {
        let total = self.total().unwrap_or(record::HEADER + record::MAX_PLAINTEXT);
        if self.length + self.record_left > total {
            self.note("record length");
        }
    }

    /// Length of the whole hello with one record header, once its length field has come.
    fn total(&self) -> Option<usize> {
        let [_, a, b, c] = *self.hello.get(record::HEADER..)?.first_chunk()?;
        Some(record::HEADER + 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)))
    }

    /// A server looks at a record when all of it is there.
    fn is_whole(&self) -> bool {
        let complete = self.record_left == 0 && self.header_length == 0;
        complete && self.total().is_some_and(|total| self.length >= total)
    }
}

/// A hello, every field located and nothing copied.
#[derive(Clone, Copy, Debug)]
pub struct ClientHello<'a> {
    /// The whole hello under one record header: what the digest covers.
    pub record: &'a [u8],
    /// The random, in which the authenticator stands.
    pub random: &'a [u8; 32],
    /// legacy_session_id.
    pub session_id: &'a [u8],
    /// Cipher suites, two bytes each.
    pub cipher_suites: &'a [u8],
    /// Name of the host, where the hello carries one.
    pub server_name: Option<&'a [u8]>,
    /// Whether TLS 1.3 is among the supported versions.
    pub offers_tls13: bool,
    /// All extensions, each with its type and length.
    extensions: &'a [u8],
}

/// Position of the random in a hello with one record header.
pub const RANDOM_RANGE: std::ops::Range<usize> = RANDOM..RANDOM + 32;

const NAME_TYPE_HOST: u8 = 0;

impl<'a> ClientHello<'a> {
    /// Locates the fields of a hello in one record. Every length has to fit exactly.
    pub fn decode(record: &'a [u8]) -> Result<Self, DecodeError> {
        let mut outer = Cursor::new(record);
        let header = record::Header::decode(*outer.array("record header")?);
        let mut message = Cursor::new(outer.take(header.length.into(), "record length")?);
        outer.end("record length")?;
        message.u8("handshake type")?;
        let length = message.u24("handshake length")?;
        let mut body = Cursor::new(message.take(length, "handshake length")?);
        message.end("handshake length")?;

        body.u16("legacy version")?;
        let random = body.array("random")?;
        let session_id = body.vector8("session id")?;
        let cipher_suites = body.vector16("cipher suites")?;
        body.vector8("compression methods")?;
        let extensions = body.vector16("extensions")?;
        body.end("bytes behind the extensions")?;
        let mut hello =
            Self { record, random, session_id, cipher_suites, server_name: None, offers_tls13: false, extensions };
        hello.read_extensions(Cursor::new(extensions))?;
        Ok(hello)
    }

    /// Types and bodies of the extensions, in order.
    pub fn extensions(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut extensions = Cursor::new(self.extensions);
        std::iter::from_fn(move || {
            Some((extensions.u16("extension type").ok()?, extensions.vector16("extension").ok()?))
        })
    }

    /// The body of the first extension of this type.
    pub fn extension(&self, wanted: u16) -> Option<&'a [u8]> {
        self.extensions().find_map(|(kind, body)| (kind == wanted).then_some(body))
    }

    /// Whether HTTP/2 is among the protocols that it offers (RFC 7301).
    pub fn offers_http2(&self) -> bool {
        let Some(names) = self.extension(extension::ALPN) else { return false };
        let Ok(mut names) = Cursor::new(names).vector16("protocols").map(Cursor::new) else { return false };
        std::iter::from_fn(|| names.vector8("protocol").ok()).any(|name| name == b"h2")
    }

    fn read_extensions(&mut self, mut extensions: Cursor<'a>) -> Result<(), DecodeError> {
        while !extensions.is_empty() {
            let kind = extensions.u16("extension type")?;
            let body = Cursor::new(extensions.vector16("extension")?);
            match kind {
                extension::SERVER_NAME => self.server_name = Some(host_name(body)?),
                extension::SUPPORTED_VERSIONS => self.offers_tls13 = offers_tls13(body)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The first host name of a server_name extension (RFC 6066 §3).
fn host_name(mut body: Cursor<'_>) -> Result<&[u8], DecodeError> {
    let mut names = Cursor::new(body.vector16("server name list")?);
    body.end("server name list")?;
    while !names.is_empty() {
        let kind = names.u8("name type")?;
        let name = names.vector16("server name")?;
        if kind == NAME_TYPE_HOST {
            return Ok(name);
        }
    }
    Err(DecodeError::Malformed("server name list"))
}

fn offers_tls13(mut body: Cursor<'_>) -> Result<bool, DecodeError> {
    let versions = body.vector8("supported versions")?;
    body.end("supported versions")?;
    Ok(versions.chunks_exact(2).any(|version| version == TLS13.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{captured, unhex, vector};

    fn collect<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Progress, HelloCollector) {
        let mut collector = HelloCollector::default();
        let mut progress = Progress::More;
        for chunk in chunks {
            progress = collector.feed(chunk);
        }
        (progress, collector)
    }

    /// The same hello over several records, cut at the given places of the message.
    fn split(record: &[u8], mut cuts: Vec<usize>) -> Vec<u8> {
        let message = &record[record::HEADER..];
        cuts.retain(|cut| (1..message.len()).contains(cut));
        cuts.extend([0, message.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut bytes = Vec::new();
        for ends in cuts.windows(2) {
            let piece = &message[ends[0]..ends[1]];
            bytes.extend_from_slice(&record[..3]);
            bytes.extend_from_slice(&(piece.len() as u16).to_be_bytes());
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    #[test]
    fn every_prefix_of_a_captured_hello_is_a_beginning_and_the_whole_is_whole() {
        for hello in captured().into_iter().filter(|hello| hello.signed.is_some()) {
            let mut collector = HelloCollector::default();
            for (index, byte) in hello.record.iter().enumerate() {
                let expected = if index + 1 == hello.record.len() { Progress::Whole } else { Progress::More };
                assert_eq!(collector.feed(&[*byte]), expected, "{} at {index}", hello.file);
            }
            assert_eq!(collector.into_record(), hello.record, "{}", hello.file);
        }
    }

    #[test]
    fn fields_agree_with_another_parser() {
        use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_extensions, parse_tls_plaintext};
        for hello in captured() {
            let ours = ClientHello::decode(&hello.record).unwrap();
            let (_, plaintext) = parse_tls_plaintext(&hello.record).unwrap();
            let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(theirs)) = &plaintext.msg[0] else { panic!() };
            assert_eq!(ours.random, theirs.random, "{}", hello.file);
            assert_eq!(Some(ours.session_id), theirs.session_id, "{}", hello.file);
            let suites: Vec<u8> = theirs.ciphers.iter().flat_map(|suite| suite.0.to_be_bytes()).collect();
            assert_eq!(ours.cipher_suites, suites, "{}", hello.file);
            let (_, extensions) = parse_tls_extensions(theirs.ext.unwrap()).unwrap();
            let name = extensions.iter().find_map(|extension| match extension {
                TlsExtension::SNI(names) => names.first().map(|(_, name)| *name),
                _ => None,
            });
            assert_eq!(ours.server_name, name, "{}", hello.file);
            assert_eq!(ours.server_name, hello.server_name.as_deref().map(str::as_bytes), "{}", hello.file);
            assert!(ours.offers_tls13, "{}", hello.file);
        }
    }

    #[test]
    fn what_no_client_sends_is_noted_at_the_byte_that_proves_it_and_read_to_its_end() {
        let hello = vector("helloA", "record");
        // Position of a byte, a value that it cannot have, and the byte at which that is known.
        let cases = [(1, 2, 1), (2, 0, 2), (2, 2, 2), (5, 2, 5), (9, 2, 9), (10, 1, 10), (43, 0, 43), (43, 33, 43)];
        for (position, value, known) in cases {
            let mut bytes = hello.clone();
            bytes[position] = value;
            let mut collector = HelloCollector::default();
            let odd = bytes.iter().position(|byte| {
                assert!(!matches!(collector.feed(&[*byte]), Progress::Foreign(_)));
                collector.oddity().is_some()
            });
            assert_eq!(odd, Some(known), "byte {position} = {value:#x}");
            assert_eq!(collect([&bytes[..]]).0, Progress::Whole, "byte {position} = {value:#x}");
            assert_eq!(collect([&bytes[..]]).1.into_record(), bytes, "the work is the same");
        }
        for (position, value, known) in [(0, 0x17, 0), (0, b'G', 0), (3, 0xff, 4), (6, 1, 8)] {
            let mut bytes = hello.clone();
            bytes[position] = value;
            let mut collector = HelloCollector::default();
            let foreign = bytes.iter().position(|byte| matches!(collector.feed(&[*byte]), Progress::Foreign(_)));
            assert_eq!(foreign, Some(known), "byte {position} = {value:#x}");
        }
    }

    #[test]
    fn nothing_may_follow_the_hello() {
        let odd = |bytes: &[u8]| {
            let (progress, collector) = collect([bytes]);
            (progress, collector.oddity())
        };
        let mut hello = vector("helloA", "record");
        hello.push(0x14);
        assert_eq!(odd(&hello), (Progress::Whole, Some("bytes behind the hello")));
        // Neither inside its record: the record's length grows, the message's does not.
        let mut longer = vector("helloA", "record");
        longer[4] += 1;
        assert_eq!(odd(&longer), (Progress::More, Some("record length")), "a server waits for all of the record");
        longer.push(0);
        assert_eq!(odd(&longer), (Progress::Whole, Some("record length")));
        let after_nothing = [&unhex("1603010000")[..], &vector("helloA", "record")].concat();
        assert_eq!(odd(&after_nothing), (Progress::Whole, Some("empty record")));
        assert!(matches!(odd(&unhex("1603010000").repeat(40)).0, Progress::Foreign(_)));
    }

    #[test]
    fn of_a_long_hello_the_beginning_is_kept() {
        let longest = MAX_HELLO - record::HEADER - 4;
        for (length, expected) in [(longest, None), (longest + 1, Some("hello length")), (8000, Some("hello length"))] {
            let mut hello = unhex("16030100000100");
            hello.extend_from_slice(&(length as u16).to_be_bytes());
            let record_length = (length as u16 + 4).to_be_bytes();
            hello[3..5].copy_from_slice(&record_length);
            hello.extend([3, 3]);
            hello.resize(SESSION_ID_LENGTH, 7);
            hello.push(32);
            hello.resize(length + 9, 7);
            let (progress, collector) = collect([&hello[..]]);
            assert_eq!((progress, collector.oddity()), (Progress::Whole, expected), "{length}");
            assert_eq!(collector.into_record().len(), hello.len().min(MAX_HELLO));
        }
    }

    #[test]
    fn no_client_comes_near_the_bound() {
        // The longest name that DNS allows in place of the one that was captured, and more padding than clients add.
        let grown = |hello: &crate::fixtures::Captured| {
            hello.record.len() - hello.server_name.as_deref().map_or(0, str::len) + 253 + 255
        };
        let longest = captured().iter().map(grown).max().unwrap();
        assert!(longest <= MAX_HELLO && longest > MAX_HELLO * 3 / 4, "{longest}");
    }

    #[test]
    fn a_cut_hello_is_malformed_wherever_it_is_cut() {
        let hello = vector("helloB", "record");
        for length in 0..hello.len() {
            assert!(ClientHello::decode(&hello[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        /// Any segmentation and any split over records gives the hello that the client signed.
        #[test]
        fn any_cut_gives_the_same_hello(cuts in prop::collection::vec(1usize..1780, 0..12),
                                        segments in prop::collection::vec(1usize..400, 1..20)) {
            let hello = vector("helloB", "record");
            let bytes = split(&hello, cuts);
            let mut rest = &bytes[..];
            let mut chunks = Vec::new();
            for length in segments.into_iter().cycle() {
                let (chunk, later) = rest.split_at(length.min(rest.len()));
                chunks.push(chunk);
                rest = later;
                if rest.is_empty() { break }
            }
            let (progress, collector) = collect(chunks);
            prop_assert_eq!(progress, Progress::Whole);
            prop_assert_eq!(collector.into_record(), hello);
        }

        #[test]
        fn arbitrary_bytes_are_survived(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..8),
                                        at in 0usize..1785, value: u8) {
            collect(chunks.iter().map(Vec::as_slice));
            let _ = ClientHello::decode(&chunks.concat());
            let mut hello = vector("helloB", "record");
            hello[at] = value;
            collect([&hello[..]]);
            let _ = ClientHello::decode(&hello);
        }
    }
}
