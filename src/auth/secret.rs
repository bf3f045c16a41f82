//! Secrets and the domains they travel with (protocol facts: docs/protocol.md, "Secrets and links").
//!
//! ```text
//! bare   K                  16 bytes
//! dd     dd | K             17 bytes
//! ee     ee | K | domain    21 to 199 bytes, the domain in ASCII without a length or an end
//! ```
//!
//! Each of them is written in hexadecimal, base64 or base64url, by itself or in the link of a proxy.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use rand::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The 16-byte key that a client and this proxy share. Hidden in `Debug`, compared in constant time, wiped when
/// dropped, and never displayed: anyone who prints one says so by calling a method with a name.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; Secret::LENGTH]);

impl Secret {
    /// Length of the key in bytes, without the `dd` or `ee` mark and without the domain.
    pub const LENGTH: usize = 16;

    /// A secret of these bytes.
    pub fn new(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// A new secret out of a generator that is fit for keys.
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; Self::LENGTH];
        random.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The key itself.
    pub fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// The bare key in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// The bare key in base64url without padding.
    pub fn base64url(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// The `ee` form in lower-case hexadecimal, which every version of every client reads.
    pub fn ee_hex(&self, domain: &Domain) -> String {
        HEXLOWER.encode(&self.ee(domain))
    }

    /// The `ee` form in base64url without padding: shorter, but old clients on iOS misread it.
    pub fn ee_base64url(&self, domain: &Domain) -> String {
        BASE64URL_NOPAD.encode(&self.ee(domain))
    }

    fn ee(&self, domain: &Domain) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&[EE][..], &self.0, domain.as_str().as_bytes()].concat())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Secret as parsed from text: the key, and the domain where the text has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretText {
    /// The key.
    pub secret: Secret,
    /// The domain of an `ee` secret.
    pub domain: Option<Domain>,
}

impl SecretText {
    /// Reads any text form, or a whole link that has one in it. No form can be taken for another: 16 bytes and more need at
    /// least 32 hexadecimal digits, and base64 of that length without a letter beyond `f` carries no valid mark.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        match link_part(text, "secret") {
            None => Self::parse_bare(text),
            Some(found) => Self::parse_bare(&Zeroizing::new(found.ok_or(SecretError::Link)?)),
        }
    }

    fn parse_bare(text: &str) -> Result<Self, SecretError> {
        let bytes = Zeroizing::new(decode(text)?);
        match (bytes.len(), bytes.split_first()) {
            (0..Secret::LENGTH, _) | (_, None) => Err(SecretError::Length),
            (Secret::LENGTH, _) => Ok(Self { secret: key(&bytes)?, domain: None }),
            (17, Some((&DD, rest))) => Ok(Self { secret: key(rest)?, domain: None }),
            (17, Some((&EE, _))) => Err(SecretError::Domain(DomainError::Length)),
            (_, Some((&EE, rest))) => Self::with_domain(rest),
            (_, Some((&DD, _))) => Err(SecretError::Length),
            _ => Err(SecretError::Mark),
        }
    }

    fn with_domain(rest: &[u8]) -> Result<Self, SecretError> {
        let (bytes, domain) = rest.split_at(Secret::LENGTH);
        let domain = std::str::from_utf8(domain).map_err(|_| SecretError::Domain(DomainError::NotAscii))?;
        let domain = domain.parse().map_err(SecretError::Domain)?;
        Ok(Self { secret: key(bytes)?, domain: Some(domain) })
    }
}

impl FromStr for SecretText {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Reason why a text is no secret. Says nothing about the text itself, which may be a real key with a slip in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// Neither hexadecimal nor base64.
    Text,
    /// The key is not 16 bytes long.
    Length,
    /// Longer than a bare key, and the first byte is neither `dd` nor `ee`.
    Mark,
    /// An `ee` secret whose domain no client would take.
    Domain(DomainError),
    /// A link without a secret.
    Link,
}

impl SecretError {
    /// Advice on what to write instead.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Text | Self::Length => "write 32 hexadecimal digits; `vizard secret` makes a new one",
            Self::Mark => "a key with a mark starts with `dd` or `ee`, a bare key has exactly 32 hexadecimal digits",
            Self::Domain(error) => error.fix(),
            Self::Link => "write the whole link of the proxy, or the secret alone",
        }
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("the secret is neither hexadecimal nor base64"),
            Self::Length => f.write_str("the secret does not have 16 bytes"),
            Self::Mark => f.write_str("the secret is longer than 16 bytes and starts with neither `dd` nor `ee`"),
            Self::Domain(error) => write!(f, "in the secret: {error}"),
            Self::Link => f.write_str("the link has no secret"),
        }
    }
}

impl std::error::Error for SecretError {}

/// A domain name that every client accepts inside an `ee` secret: 4 to 182 bytes of lower-case letters, digits, `-`
/// and `.`, in labels of 1 to 63 bytes that neither start nor end with `-`, and no address literal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

impl Domain {
    /// Shortest name that every client accepts: one client refuses `ee` secrets of less than 21 bytes.
    pub const MIN_LENGTH: usize = 4;
    /// Longest name that every client accepts: one client cuts or refuses longer ones.
    pub const MAX_LENGTH: usize = 182;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a ClientHello asks for this name (RFC 6066 §3: without regard to case).
    pub(super) fn is_asked_for(&self, server_name: &[u8]) -> bool {
        self.0.as_bytes().eq_ignore_ascii_case(server_name)
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    /// Reads a name; upper-case letters are lowered.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_ascii_lowercase();
        if !name.is_ascii() {
            return Err(DomainError::NotAscii);
        }
        if !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')) {
            return Err(DomainError::Character);
        }
        if !(Self::MIN_LENGTH..=Self::MAX_LENGTH).contains(&name.len()) {
            return Err(DomainError::Length);
        }
        if !name.split('.').all(is_label) {
            return Err(DomainError::Label);
        }
        // A last label of digits makes the whole an IPv4 address to URL parsers, and addresses have no place in SNI.
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return Err(DomainError::Address);
        }
        Ok(Self(name))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reason why a text is no domain that every client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainError {
    /// Letters beyond ASCII.
    NotAscii,
    /// Something other than letters, digits, `-` and `.`.
    Character,
    /// Shorter than 4 or longer than 182 bytes.
    Length,
    /// A label that is empty, longer than 63 bytes, or starts or ends with `-`.
    Label,
    /// An IPv4 address.
    Address,
}

impl DomainError {
    /// Advice on what to write instead.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::NotAscii => "write the name in punycode: `xn--bcher-kva.example` for `bücher.example`",
            Self::Character => "write the bare name: no scheme, no port, no path, no wildcard",
            Self::Length => "use a name that fits; clients refuse or cut others",
            Self::Label => "no dot at the start or end, no two dots in a row, no `-` next to a dot, 63 bytes a label",
            Self::Address => "use a domain name; browsers never name an address in a hello",
        }
    }
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAscii => "the domain has letters beyond ASCII",
            Self::Character => "the domain has characters other than letters, digits, `-` and `.`",
            Self::Length => "the domain does not have 4 to 182 bytes",
            Self::Label => "the domain has a malformed label",
            Self::Address => "the domain is an address",
        })
    }
}

impl std::error::Error for DomainError {}

const DD: u8 = 0xdd;
const EE: u8 = 0xee;

/// Longest text worth decoding: an `ee` secret with the longest domain in hexadecimal.
const MAX_TEXT: usize = 2 * (1 + Secret::LENGTH + Domain::MAX_LENGTH);

/// Base64 of a `dd` secret. More digits than this and nothing else are hexadecimal, perhaps with one lost.
const LONGEST_MARKED_BASE64: usize = 24;

fn key(bytes: &[u8]) -> Result<Secret, SecretError> {
    bytes.try_into().map(Secret).map_err(|_| SecretError::Length)
}

/// A part of a proxy's link, in `Some(None)` if the link does not have it; `None` if the text is no such link. Links are
/// taken in every form that people copy them in: with or without `https://` and `www.`, in letters of either case.
pub fn link_part(text: &str, wanted: &str) -> Option<Option<String>> {
    const PLACES: [&str; 3] = ["t.me/proxy", "telegram.me/proxy", "telegram.dog/proxy"];
    let (start, query) = text.trim().split_once('?')?;
    let start = start.to_ascii_lowercase();
    let start = start.strip_suffix('/').unwrap_or(&start);
    let place = ["https://", "http://"].iter().find_map(|scheme| start.strip_prefix(scheme)).unwrap_or(start);
    let is_page = PLACES.contains(&place.strip_prefix("www.").unwrap_or(place));
    if !is_page && !matches!(start, "tg://proxy" | "tg:proxy") {
        return None;
    }
    let query = query.split('#').next().unwrap_or(query);
    let found = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == wanted);
    // A plus sign of base64 comes out of a query as a space.
    Some(found.map(|(_, value)| value.replace(' ', "+")))
}

fn decode(text: &str) -> Result<Vec<u8>, SecretError> {
    if text.len() > MAX_TEXT {
        return Err(SecretError::Length);
    }
    if text.bytes().all(|b| b.is_ascii_hexdigit()) && text.len() > LONGEST_MARKED_BASE64 {
        return HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| SecretError::Length);
    }
    BASE64URL_NOPAD.decode(base64url(text).as_bytes()).map_err(|_| SecretError::Text)
}

/// Plain base64 as base64url; padding is dropped where it is complete.
fn base64url(text: &str) -> Cow<'_, str> {
    let text = match text.len() % 4 {
        0 => text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text),
        _ => text,
    };
    match text.contains(['+', '/']) {
        true => Cow::Owned(text.replace('+', "-").replace('/', "_")),
        false => Cow::Borrowed(text),
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::fixtures::vector_text;

    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    /// One line each: name, text, domain or `-`; every one of them is the same key.
    const FORMS: &str = include_str!("../../fixtures/config/secrets.txt");

    fn forms() -> Vec<(&'static str, &'static str, Option<&'static str>)> {
        let lines = FORMS.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let forms: Vec<_> = lines
            .map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
                [name, text, domain] => (name, text, Some(domain).filter(|d| *d != "-")),
                _ => panic!("malformed line: {line}"),
            })
            .collect();
        assert!(forms.len() >= 5);
        forms
    }

    #[test]
    fn the_vectors_are_read_and_the_texts_of_links_are_printed() {
        for (name, domain) in [
            ("plain_hex", None),
            ("dd_hex", None),
            ("dd_base64url", None),
            ("ee_hex", Some(())),
            ("ee_base64url", Some(())),
        ] {
            let text = vector_text("secrets", name);
            let SecretText { secret, domain: read } = SecretText::parse(&text).unwrap();
            assert_eq!(secret.bytes(), &KEY, "{name}");
            assert_eq!(read.as_ref().map(Domain::as_str), domain.map(|()| "example.com"), "{name}");
            let Some(read) = read else { continue };
            assert_eq!(secret.ee_hex(&read), vector_text("secrets", "ee_hex"));
            assert_eq!(secret.ee_base64url(&read), vector_text("secrets", "ee_base64url"));
        }
    }

    #[test]
    fn every_form_of_the_fixture_is_the_same_key() {
        for (name, text, domain) in forms() {
            let read = SecretText::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(read.secret.bytes(), &KEY, "{name}");
            assert_eq!(read.domain.as_ref().map(Domain::as_str), domain, "{name}");
        }
    }

    #[test]
    fn prints_what_clients_read() {
        let text = |name: &str| forms().iter().find(|form| form.0 == name).unwrap().1;
        let (secret, domain) = (Secret::new(KEY), "example.com".parse().unwrap());
        assert_eq!(secret.hex(), text("plain_hex"));
        assert_eq!(secret.ee_hex(&domain), text("ee_hex"));
        assert_eq!(secret.ee_base64url(&domain), text("ee_base64url"));
    }

    #[test]
    fn malformed_secrets_say_what_is_wrong() {
        let cases = [
            ("", SecretError::Length),
            ("000102030405060708090a0b0c0d0e", SecretError::Length),
            ("000102030405060708090a0b0c0d0e0", SecretError::Length),
            ("000102030405060708090a0b0c0d0e0f0", SecretError::Length),
            ("00000102030405060708090a0b0c0d0e0f", SecretError::Mark),
            ("dd000102030405060708090a0b0c0d0e0f00", SecretError::Length),
            ("ee000102030405060708090a0b0c0d0e0f", SecretError::Domain(DomainError::Length)),
            ("ee000102030405060708090a0b0c0d0e0f612e62", SecretError::Domain(DomainError::Length)),
            ("ee000102030405060708090a0b0c0d0e0fff2e6262", SecretError::Domain(DomainError::NotAscii)),
            ("not a secret", SecretError::Text),
            ("000102030405060708090a0b0c0d0e0g", SecretError::Mark),
        ];
        for (text, error) in cases {
            assert_eq!(SecretText::parse(text), Err(error), "{text}");
        }
        assert_eq!(SecretText::parse(&"ab".repeat(200)), Err(SecretError::Length));
    }

    #[test]
    fn domains_are_lowered_and_bounded() {
        let parse = |text: &str| text.parse::<Domain>();
        assert_eq!(parse("WWW.Example.COM").unwrap().as_str(), "www.example.com");
        let longest = format!("{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(54));
        assert_eq!(longest.len(), Domain::MAX_LENGTH);
        assert!(parse(&longest).is_ok());
        assert!(parse("a.bc").is_ok());
        let cases = [
            (format!("{longest}c"), DomainError::Length),
            ("a.b".into(), DomainError::Length),
            ("bücher.example".into(), DomainError::NotAscii),
            ("https://example.com".into(), DomainError::Character),
            ("*.example.com".into(), DomainError::Character),
            ("example..com".into(), DomainError::Label),
            (".example.com".into(), DomainError::Label),
            ("example.com.".into(), DomainError::Label),
            ("-a.example".into(), DomainError::Label),
            ("a-.example".into(), DomainError::Label),
            (format!("{}.example", "a".repeat(64)), DomainError::Label),
            ("192.0.2.1".into(), DomainError::Address),
        ];
        for (text, error) in cases {
            assert_eq!(parse(&text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_whole_link_is_read_as_the_secret_in_it() {
        let key = "00112233445566778899aabbccddeeff";
        let expected = SecretText::parse(key).unwrap();
        for start in [
            "tg://proxy?",
            "TG://Proxy?",
            "tg:proxy?",
            "https://t.me/proxy?",
            " https://telegram.me/proxy?",
            "HTTP://T.me/proxy/?",
            "https://www.t.me/proxy?",
            "t.me/proxy?",
            "www.telegram.dog/proxy?",
        ] {
            let link = format!("{start}server=192.0.2.1&port=443&secret={key}");
            assert_eq!(SecretText::parse(&link).unwrap(), expected, "{link}");
        }
        let with_domain =
            format!("tg://proxy?server=a.example&port=443&secret=ee{key}{}", HEXLOWER.encode(b"example.com"));
        assert_eq!(SecretText::parse(&with_domain).unwrap().domain.unwrap().as_str(), "example.com");
        let base64 = "https://t.me/proxy?server=a.example&port=443&secret=7gARIjNEVWZ3iJmqu8zd7v9leGFtcGxlLmNvbQ%3D%3D";
        assert_eq!(SecretText::parse(base64).unwrap().secret, expected.secret);
        assert_eq!(SecretText::parse("tg://proxy?server=a&port=1").unwrap_err(), SecretError::Link);
        assert_eq!(SecretText::parse(&format!("t.me/proxy?server=a&port=1&secret={key}#x")).unwrap(), expected);
        for start in ["https://example.com/", "https://tg://proxy", "t.me/socks", "at.me/proxy", "www.www.t.me/proxy"] {
            assert!(SecretText::parse(&format!("{start}?secret={key}")).is_err(), "{start}");
        }
    }

    #[test]
    fn secrets_stay_out_of_debug() {
        assert_eq!(format!("{:?}", Secret::new(KEY)), "Secret(hidden)");
        let text = SecretText { secret: Secret::new(KEY), domain: None };
        assert!(!format!("{text:?}").contains('1'));
    }

    #[test]
    fn generated_secrets_follow_the_generator() {
        let make = |seed| Secret::generate(&mut StdRng::seed_from_u64(seed));
        assert!(make(1) == make(1));
        assert!(make(1) != make(2));
    }

    proptest! {
        #[test]
        fn every_printed_form_reads_back(
            bytes: [u8; 16],
            domain in "[a-z0-9]{1,20}(\\.[a-z0-9]{1,20}){0,3}\\.[a-z]{2,8}",
        ) {
            let (secret, domain) = (Secret::new(bytes), domain.parse::<Domain>().unwrap());
            for text in [secret.hex(), secret.base64url(), format!("dd{}", secret.hex())] {
                prop_assert_eq!(SecretText::parse(&text), Ok(SecretText { secret: secret.clone(), domain: None }));
            }
            for text in [secret.ee_hex(&domain), secret.ee_base64url(&domain), secret.ee_hex(&domain).to_uppercase()] {
                let expected = SecretText { secret: secret.clone(), domain: Some(domain.clone()) };
                prop_assert_eq!(SecretText::parse(&text), Ok(expected));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*") {
            let _ = SecretText::parse(&text);
            let _ = text.parse::<Domain>();
        }
    }
}
