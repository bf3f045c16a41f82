//! What can be done to a hello: take it apart, change it, put it together again, sign it.
//!
//! Nothing here uses the code that judges hellos, so that a mistake there cannot hide itself.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::dice::Dice;

/// The 16 bytes of a secret.
pub type Key = [u8; 16];

/// Position of the random in a hello's record.
pub const RANDOM: std::ops::Range<usize> = 11..43;

/// Extension numbers that the probes touch.
pub mod ext {
    /// server_name
    pub const SERVER_NAME: u16 = 0;
    /// supported_groups
    pub const GROUPS: u16 = 10;
    /// application_layer_protocol_negotiation
    pub const ALPN: u16 = 16;
    /// padding
    pub const PADDING: u16 = 21;
    /// supported_versions
    pub const VERSIONS: u16 = 43;
    /// key_share
    pub const KEY_SHARE: u16 = 51;
}

/// A hello taken apart; any of it may be changed before it is put together again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Version in the head of the record.
    pub record_version: [u8; 2],
    /// Version in the message.
    pub version: [u8; 2],
    /// The random.
    pub random: [u8; 32],
    /// The session id.
    pub session: Vec<u8>,
    /// The cipher suites, two bytes each.
    pub ciphers: Vec<u8>,
    /// The compression methods.
    pub compression: Vec<u8>,
    /// Number and body of each extension.
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Parts {
    /// Takes a hello apart that is one record and nothing else; `None` for anything unsound.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let record_version = [*record.get(1)?, *record.get(2)?];
        let mut rest = record.get(9..)?;
        let version = take(&mut rest, 2)?.try_into().ok()?;
        let random = take(&mut rest, 32)?.try_into().ok()?;
        let session = counted(&mut rest, 1)?.to_vec();
        let ciphers = counted(&mut rest, 2)?.to_vec();
        let compression = counted(&mut rest, 1)?.to_vec();
        let mut list = counted(&mut rest, 2)?;
        let mut extensions = Vec::new();
        while !list.is_empty() {
            let kind = u16::from_be_bytes(take(&mut list, 2)?.try_into().ok()?);
            extensions.push((kind, counted(&mut list, 2)?.to_vec()));
        }
        let whole = Self { record_version, version, random, session, ciphers, compression, extensions };
        rest.is_empty().then_some(whole)
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

    /// The body of an extension.
    pub fn extension(&self, kind: u16) -> Option<&[u8]> {
        self.extensions.iter().find(|(known, _)| *known == kind).map(|(_, body)| &body[..])
    }

    /// The first name in the server_name extension.
    pub fn name(&self) -> Option<&[u8]> {
        let mut rest = self.extension(ext::SERVER_NAME)?.get(3..)?;
        counted(&mut rest, 2)
    }

    /// Leaves an extension out.
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

    /// Key shares that someone holds the private half of, in place of the captured ones.
    pub fn fresh_shares(self) -> Self {
        match self.extension(ext::KEY_SHARE).and_then(renewed) {
            Some(shares) => self.with(ext::KEY_SHARE, shares),
            None => self,
        }
    }
}

fn renewed(mut shares: &[u8]) -> Option<Vec<u8>> {
    let mut list = counted(&mut shares, 2)?;
    let mut renewed = Vec::new();
    while !list.is_empty() {
        let group = take(&mut list, 2)?;
        let share = counted(&mut list, 2)?;
        let fresh = fresh_share(u16::from_be_bytes([group[0], group[1]]));
        renewed.extend(group);
        push_counted(&mut renewed, 2, fresh.as_deref().unwrap_or(share));
    }
    let mut body = Vec::new();
    push_counted(&mut body, 2, &renewed);
    Some(body)
}

/// A key share of this group; `None` for a group that no one here can compute in.
pub fn fresh_share(group: u16) -> Option<Vec<u8>> {
    use rustls::crypto::{SupportedKxGroup, aws_lc_rs::kx_group};
    use x25519_dalek::{PublicKey, StaticSecret};
    let public = |group: &dyn SupportedKxGroup| group.start().ok().map(|exchange| exchange.pub_key().to_vec());
    let x25519 = || PublicKey::from(&StaticSecret::from(rand::random::<[u8; 32]>())).to_bytes();
    match group {
        0x001d => Some(x25519().to_vec()),
        0x0017 => public(kx_group::SECP256R1),
        0x11ec => public(kx_group::MLKEM768).map(|ml_kem| [&ml_kem[..], &x25519()].concat()),
        _ => None,
    }
}

/// Puts the authenticator for `key` and `time` into a hello record.
///
/// Bytes that are too short for a hello stay as they are.
pub fn sign(record: &mut [u8], key: &Key, time: u32) {
    if record.len() < RANDOM.end {
        return;
    }
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
    let mut mac = Hmac::<Sha256>::new(&padded(key).into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// A key shorter than a block of the hash counts as one with zeros behind it (RFC 2104 §2).
fn padded(key: &Key) -> [u8; 64] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    block
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
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() as u32
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

fn counted<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let count = take(rest, width)?.iter().fold(0, |count, byte| count << 8 | usize::from(*byte));
    take(rest, count)
}

/// Appends `bytes` behind their length in `width` bytes.
pub fn push_counted(out: &mut Vec<u8>, width: usize, bytes: &[u8]) {
    out.extend(&(bytes.len() as u64).to_be_bytes()[8 - width..]);
    out.extend(bytes);
}
