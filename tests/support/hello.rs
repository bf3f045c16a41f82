//! Captured hellos and what can be done to them: take apart, change, put together, sign.
//!
//! Nothing here uses the library under test, so that a mistake there cannot hide itself.

use std::path::PathBuf;
use std::sync::OnceLock;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::dice::Dice;

/// The 16 bytes of a secret.
pub type Key = [u8; 16];

/// Where the random of a hello lies in its record.
pub const RANDOM: std::ops::Range<usize> = 11..43;

/// Extension numbers that the tests touch.
pub mod ext {
    pub const SERVER_NAME: u16 = 0;
    pub const GROUPS: u16 = 10;
    pub const ALPN: u16 = 16;
    pub const PADDING: u16 = 21;
    pub const VERSIONS: u16 = 43;
    pub const KEY_SHARE: u16 = 51;
}

/// One file of `fixtures/client_hello` with what `index.json` says about it.
#[derive(Clone, Debug)]
pub struct Captured {
    pub file: String,
    pub client: String,
    pub version: String,
    pub sni: String,
    pub key: Option<Key>,
    pub signed_time: Option<u32>,
    pub record: Vec<u8>,
}

/// Every captured hello, in the order of the index.
pub fn captured() -> &'static [Captured] {
    static ALL: OnceLock<Vec<Captured>> = OnceLock::new();
    ALL.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/client_hello");
        let index = std::fs::read(folder.join("index.json")).expect("index of captured hellos");
        let index: Vec<serde_json::Value> = serde_json::from_slice(&index).expect("index is JSON");
        assert!(!index.is_empty(), "no captured hello in the index");
        index.iter().map(|entry| Captured::read(&folder, entry)).collect()
    })
}

/// The captured hello in `file`, named without `.bin`.
pub fn capture(file: &str) -> &'static Captured {
    let wanted = format!("{file}.bin");
    captured().iter().find(|hello| hello.file == wanted).unwrap_or_else(|| panic!("no captured hello {file}"))
}

/// The first capture of each client and version.
pub fn classes() -> Vec<&'static Captured> {
    let mut classes: Vec<&Captured> = Vec::new();
    for hello in captured() {
        if !classes.iter().any(|known| (&known.client, &known.version) == (&hello.client, &hello.version)) {
            classes.push(hello);
        }
    }
    classes
}

impl Captured {
    fn read(folder: &std::path::Path, entry: &serde_json::Value) -> Self {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let record = std::fs::read(folder.join(text("file"))).expect("captured hello");
        let key = entry["secret"].as_str().map(|secret| {
            let bytes = data_encoding::HEXLOWER.decode(secret.as_bytes()).expect("secret in hex");
            bytes[1..17].try_into().expect("16 bytes")
        });
        Self {
            file: text("file"),
            client: text("client"),
            version: text("version"),
            sni: text("sni"),
            key,
            signed_time: entry["signed_time"].as_u64().map(|time| time as u32),
            record,
        }
    }

    pub fn parts(&self) -> Parts {
        Parts::parse(&self.record)
    }
}

/// A hello taken apart; any of it may be changed before it is put together again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    pub record_version: [u8; 2],
    pub version: [u8; 2],
    pub random: [u8; 32],
    pub session: Vec<u8>,
    pub ciphers: Vec<u8>,
    pub compression: Vec<u8>,
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Parts {
    /// Panics on anything but a sound hello: it is only given captured ones.
    pub fn parse(record: &[u8]) -> Self {
        let mut rest = &record[9..];
        let version = take(&mut rest, 2).try_into().expect("two bytes");
        let random = take(&mut rest, 32).try_into().expect("32 bytes");
        let session = counted(&mut rest, 1).to_vec();
        let ciphers = counted(&mut rest, 2).to_vec();
        let compression = counted(&mut rest, 1).to_vec();
        let mut list = counted(&mut rest, 2);
        assert!(rest.is_empty(), "bytes after the extensions");
        let mut extensions = Vec::new();
        while !list.is_empty() {
            let kind = u16::from_be_bytes(take(&mut list, 2).try_into().expect("two bytes"));
            extensions.push((kind, counted(&mut list, 2).to_vec()));
        }
        let record_version = [record[1], record[2]];
        Self { record_version, version, random, session, ciphers, compression, extensions }
    }

    /// The whole as one TLS record.
    pub fn record(&self) -> Vec<u8> {
        let message = self.message();
        let mut record = vec![22, self.record_version[0], self.record_version[1]];
        push_counted(&mut record, 2, &message);
        record
    }

    /// The handshake message without a record head.
    pub fn message(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, body) in &self.extensions {
            list.extend(kind.to_be_bytes());
            push_counted(&mut list, 2, body);
        }
        let mut body = self.version.to_vec();
        body.extend(self.random);
        push_counted(&mut body, 1, &self.session);
        push_counted(&mut body, 2, &self.ciphers);
        push_counted(&mut body, 1, &self.compression);
        push_counted(&mut body, 2, &list);
        let mut message = vec![1];
        push_counted(&mut message, 3, &body);
        message
    }

    pub fn without(mut self, kind: u16) -> Self {
        self.extensions.retain(|(known, _)| *known != kind);
        self
    }

    /// Replaces the body of an extension; appends one that was not there.
    pub fn with(mut self, kind: u16, body: Vec<u8>) -> Self {
        match self.extensions.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, old)) => *old = body,
            None => self.extensions.push((kind, body)),
        }
        self
    }

    /// Sets the names in the server_name extension.
    pub fn named(self, names: &[&[u8]]) -> Self {
        let mut list = Vec::new();
        for name in names {
            list.push(0);
            push_counted(&mut list, 2, name);
        }
        let mut body = Vec::new();
        push_counted(&mut body, 2, &list);
        self.with(ext::SERVER_NAME, body)
    }

    /// Random and session id as no hello had them before.
    pub fn fresh(mut self, dice: &mut Dice) -> Self {
        self.random = dice.array();
        let length = self.session.len();
        self.session = dice.bytes(length);
        self
    }

    /// Key shares that somebody holds the private half of, in place of the captured ones.
    pub fn fresh_shares(self) -> Self {
        let shares = self.extensions.iter().find(|(kind, _)| *kind == ext::KEY_SHARE);
        let Some((_, body)) = shares.cloned() else { return self };
        let mut rest = &body[..];
        let mut list = counted(&mut rest, 2);
        let mut renewed = Vec::new();
        while !list.is_empty() {
            let group = take(&mut list, 2).to_vec();
            let share = counted(&mut list, 2).to_vec();
            let share = fresh_share(u16::from_be_bytes([group[0], group[1]])).unwrap_or(share);
            renewed.extend(group);
            push_counted(&mut renewed, 2, &share);
        }
        let mut body = Vec::new();
        push_counted(&mut body, 2, &renewed);
        self.with(ext::KEY_SHARE, body)
    }
}

fn fresh_share(group: u16) -> Option<Vec<u8>> {
    use rustls::crypto::aws_lc_rs::kx_group;
    let group = match group {
        0x001d => kx_group::X25519,
        0x0017 => kx_group::SECP256R1,
        0x11ec => kx_group::X25519MLKEM768,
        _ => return None,
    };
    Some(group.start().expect("key exchange starts").pub_key().to_vec())
}

/// Puts the authenticator for `key` and `time` into a hello record.
pub fn sign(record: &mut [u8], key: &Key, time: u32) {
    record[RANDOM].fill(0);
    let mut code = mac(key, &[record]);
    for (byte, part) in code[28..].iter_mut().zip(time.to_le_bytes()) {
        *byte ^= part;
    }
    record[RANDOM].copy_from_slice(&code);
}

/// Moves the time inside a signed hello without knowing the key: the time is not covered by anything.
pub fn redate(record: &mut [u8], from: u32, to: u32) {
    for (byte, part) in record[39..43].iter_mut().zip((from ^ to).to_le_bytes()) {
        *byte ^= part;
    }
}

/// HMAC-SHA256 over the parts one after another.
pub fn mac(key: &Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The same handshake message cut into records that end at `cuts`, each with a head of its own.
pub fn in_records(record: &[u8], cuts: &[usize]) -> Vec<u8> {
    let message = &record[5..];
    let mut out = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([message.len()]) {
        out.extend(&record[..3]);
        push_counted(&mut out, 2, &message[start..end]);
        start = end;
    }
    out
}

/// Seconds since 1970.
pub fn now() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    now.as_secs() as u32
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (head, tail) = rest.split_at(count);
    *rest = tail;
    head
}

fn counted<'a>(rest: &mut &'a [u8], width: usize) -> &'a [u8] {
    let count = take(rest, width).iter().fold(0, |count, byte| count << 8 | usize::from(*byte));
    take(rest, count)
}

/// Appends `bytes` behind their length in `width` bytes.
pub fn push_counted(out: &mut Vec<u8>, width: usize, bytes: &[u8]) {
    out.extend(&(bytes.len() as u64).to_be_bytes()[8 - width..]);
    out.extend(bytes);
}
