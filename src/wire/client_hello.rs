//! The ClientHello (RFC 8446 §4.1.2): collected from records as bytes arrive, then looked at without copying.

use super::cursor::{Cursor, DecodeError};
use super::record;

/// Longest hello that is considered, record header included. Real ones have up to 2 kB; the bound keeps a stranger
/// from making us remember more than this.
pub const MAX_HELLO: usize = 8 * 1024;

/// Shortest hello that can be ours: a whole head, one cipher suite, no extensions.
const MIN_HELLO: usize = SESSION_ID + 32 + 2 + 2 + 2;

const RANDOM: usize = 11;
const SESSION_ID_LENGTH: usize = 43;
const SESSION_ID: usize = 44;

/// Joins a hello that arrives in any segmentation and over any number of records, and tells at the first byte that
/// proves it that the bytes cannot be a Telegram client's.
///
/// What clients always send, and hence what is checked on the way (docs/protocol.md, "The hello"):
///
/// ```text
///  0         3        5    6        9       11        43   44           76
///  ├ 16 03 01 ┼ length ┼ 01 ┼ length ┼ 03 03 ┼ random ─┼ 20 ┼ session id ┼ cipher suites …
/// ```
#[derive(Debug)]
pub struct HelloCollector {
    /// The hello under one rebuilt record header, over which its digest was made; the length is filled in at the end.
    hello: Vec<u8>,
    /// Header of the record that is being read, as far as it has come.
    header: [u8; record::HEADER],
    header_length: usize,
    /// Payload bytes of that record which have not come yet.
    record_left: usize,
}

/// What is known after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A beginning.
    More,
    /// The hello is whole and nothing follows it.
    Whole,
    /// No Telegram client sends this; says which part.
    Foreign(&'static str),
}

impl Default for HelloCollector {
    fn default() -> Self {
        Self { hello: vec![0; record::HEADER], header: [0; record::HEADER], header_length: 0, record_left: 0 }
    }
}

impl HelloCollector {
    /// Takes what arrived next. After `Whole` or `Foreign` the answer to any further byte is `Foreign`.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Progress {
        while let Some((first, rest)) = bytes.split_first() {
            if self.is_whole() {
                return Progress::Foreign("bytes behind the hello");
            }
            let step = if self.record_left == 0 {
                bytes = rest;
                self.header_byte(*first)
            } else if self.hello.len() < SESSION_ID {
                bytes = rest;
                self.head_byte(*first)
            } else {
                let (taken, rest) = bytes.split_at(self.record_left.min(bytes.len()));
                bytes = rest;
                self.hello.extend_from_slice(taken);
                self.record_left -= taken.len();
                Ok(())
            };
            if let Err(what) = step {
                return Progress::Foreign(what);
            }
        }
        if self.is_whole() { Progress::Whole } else { Progress::More }
    }

    /// The hello under one record header, once it is whole.
    pub fn into_record(mut self) -> Vec<u8> {
        let length = (self.hello.len() - record::HEADER) as u16;
        self.hello[3..record::HEADER].copy_from_slice(&length.to_be_bytes());
        self.hello
    }

    fn header_byte(&mut self, byte: u8) -> Result<(), &'static str> {
        let at = self.header_length;
        self.header[at] = byte;
        self.header_length += 1;
        let first_record = self.hello.len() == record::HEADER;
        match at {
            0 if byte != record::kind::HANDSHAKE => Err("record type"),
            1 if byte != 3 => Err("record version"),
            2 if byte != 1 && byte != 3 => Err("record version"),
            2 if first_record => {
                self.hello[..3].copy_from_slice(&self.header[..3]);
                Ok(())
            }
            4 => {
                self.header_length = 0;
                self.record_left = record::Header::decode(self.header).length.into();
                if self.record_left == 0 { Err("empty record") } else { self.check_record_fits() }
            }
            _ => Ok(()),
        }
    }

    fn head_byte(&mut self, byte: u8) -> Result<(), &'static str> {
        let at = self.hello.len();
        self.hello.push(byte);
        self.record_left -= 1;
        match at {
            5 if byte != 1 => Err("handshake type"),
            8 => match self.total() {
                Some(MIN_HELLO..=MAX_HELLO) => self.check_record_fits(),
                _ => Err("hello length"),
            },
            9 | 10 if byte != 3 => Err("legacy version"),
            SESSION_ID_LENGTH if byte != 32 => Err("session id length"),
            _ => Ok(()),
        }
    }

    /// A record holds nothing but the hello, hence no more than is missing of it.
    fn check_record_fits(&self) -> Result<(), &'static str> {
        let missing = self.total().unwrap_or(record::HEADER + record::MAX_PLAINTEXT) - self.hello.len();
        if self.record_left <= missing { Ok(()) } else { Err("record length") }
    }

    /// Length of the whole hello with one record header, once its length field has come.
    fn total(&self) -> Option<usize> {
        let [_, a, b, c] = *self.hello.get(record::HEADER..)?.first_chunk()?;
        Some(record::HEADER + 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)))
    }

    fn is_whole(&self) -> bool {
        self.total() == Some(self.hello.len())
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
}

/// Position of the random in a hello with one record header.
pub const RANDOM_RANGE: std::ops::Range<usize> = RANDOM..RANDOM + 32;

const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const NAME_TYPE_HOST: u8 = 0;
const TLS13: [u8; 2] = [3, 4];

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
        let extensions = Cursor::new(body.vector16("extensions")?);
        body.end("bytes behind the extensions")?;
        let mut hello = Self { record, random, session_id, cipher_suites, server_name: None, offers_tls13: false };
        hello.read_extensions(extensions)?;
        Ok(hello)
    }

    fn read_extensions(&mut self, mut extensions: Cursor<'a>) -> Result<(), DecodeError> {
        while !extensions.is_empty() {
            let kind = extensions.u16("extension type")?;
            let body = Cursor::new(extensions.vector16("extension")?);
            match kind {
                EXTENSION_SERVER_NAME => self.server_name = Some(host_name(body)?),
                EXTENSION_SUPPORTED_VERSIONS => self.offers_tls13 = offers_tls13(body)?,
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
    Ok(versions.chunks_exact(2).any(|version| version == TLS13))
}
