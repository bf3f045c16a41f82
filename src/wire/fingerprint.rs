//! Whole fingerprints of hellos: everything in which one build of a client is like itself and unlike others.
//!
//! A [`super::HelloClass`] is coarse: libraries that imitate Telegram's own clients share one with them and yet read their
//! stream otherwise. What a client can be shown behind its header is therefore decided by this.

use std::sync::LazyLock;

use super::client_hello::ClientHello;
use super::hellos;
use super::numbers::extension;

/// Common part of a client's hellos. Names, keys, GREASE values and the order of extensions, which many clients draw
/// afresh each time, are no part of it. By default that of no client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

/// Those of the clients that were seen to skip NOP frames: TDLib with what is built on it, and Telegram Desktop.
static KNOWN: LazyLock<Vec<Fingerprint>> = LazyLock::new(|| {
    let known = hellos::CAPTURED.iter().filter_map(|record| ClientHello::decode(record).ok());
    known.map(|hello| Fingerprint::of(&hello)).collect()
});

impl Fingerprint {
    /// The fingerprint of a hello.
    pub fn of(hello: &ClientHello<'_>) -> Self {
        let mut parts: Vec<Vec<u8>> = hello.extensions().filter_map(|(kind, body)| part(kind, body)).collect();
        parts.sort_unstable();
        let head = [&hello.record[1..3], &[hello.session_id.len() as u8]].concat();
        let suites = without_grease(hello.cipher_suites);
        let parts = [head, suites].into_iter().chain(parts);
        Self(parts.fold(FNV_BASIS, |hash, part| fnv(fnv(hash, &(part.len() as u32).to_be_bytes()), &part)))
    }

    /// Whether clients with this fingerprint were seen to skip NOP frames.
    pub fn skips_fillers(self) -> bool {
        KNOWN.contains(&self)
    }
}

/// Returns the part of an extension that counts, its number included; `None` for one that depends on the name.
fn part(kind: u16, body: &[u8]) -> Option<Vec<u8>> {
    let counted = match kind {
        extension::PADDING => return None,
        extension::SERVER_NAME => Vec::new(),
        // Anyone who resumes a session, if anybody does, has another ticket each time.
        extension::SESSION_TICKET => vec![u8::from(body.is_empty())],
        extension::KEY_SHARE => shares(body),
        // Kind and algorithms; key and payload are noise, and so is how long that is.
        extension::ENCRYPTED_CLIENT_HELLO => body.iter().copied().take(5).collect(),
        extension::SUPPORTED_GROUPS | extension::SIGNATURE_ALGORITHMS => without_grease(body.get(2..)?),
        extension::SUPPORTED_VERSIONS => without_grease(body.get(1..)?),
        _ => body.to_vec(),
    };
    Some([&without_grease(&kind.to_be_bytes())[..], &counted].concat())
}

/// Group and length of each key share; and of one of X25519 alone whether its last byte is zero, as it always is with
/// Telegram Desktop of the years before the larger share, and with hardly any other hello of a library that copies it.
fn shares(body: &[u8]) -> Vec<u8> {
    let (mut rest, mut found) = (body.get(2..).unwrap_or_default(), Vec::new());
    if body.len() < HYBRID {
        found.push(u8::from(body.last() == Some(&0)));
    }
    while let [group_high, group_low, high, low, behind @ ..] = rest {
        found.extend(without_grease(&[*group_high, *group_low]));
        found.extend([*high, *low]);
        rest = behind.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
    }
    found
}

/// Words of two bytes in which all values of GREASE (RFC 8701) are one.
fn without_grease(words: &[u8]) -> Vec<u8> {
    let word = |word: &[u8]| match *word {
        [high, low] if high == low && low & 0x0f == 0x0a => vec![0x0a, 0x0a],
        _ => word.to_vec(),
    };
    words.chunks(2).flat_map(word).collect()
}

/// Shorter than any share of X25519MLKEM768.
const HYBRID: usize = 1216;

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a. Anyone who finds another hello of the same hash is shown what TDLib is shown, and gains nothing.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fixtures::captured;
    use crate::wire::hellos::TEMPLATES;

    #[test]
    fn one_build_has_one_fingerprint_and_only_telegrams_own_are_known() {
        let mut builds: BTreeMap<String, Vec<Fingerprint>> = BTreeMap::new();
        for hello in captured() {
            let mut parts = hello.file.split('-');
            let build = [parts.next().unwrap(), parts.next().unwrap()].join("-");
            let fingerprint = Fingerprint::of(&ClientHello::decode(&hello.record).unwrap());
            let ours = ["tdlib", "tdesktop"].iter().any(|client| build.starts_with(client));
            assert_eq!(fingerprint.skips_fillers(), ours, "{}", hello.file);
            builds.entry(build).or_default().push(fingerprint);
        }
        for (build, all) in &builds {
            assert!(all.iter().all(|one| one == &all[0]), "{build}: {all:?}");
        }
    }

    #[test]
    fn fresh_copies_of_tdlibs_hello_have_its_fingerprint() {
        let hello = TEMPLATES[0].hello("another.example.org", &mut rand::rng()).unwrap();
        assert!(Fingerprint::of(&ClientHello::decode(&hello).unwrap()).skips_fillers());
    }
}
