//! Capabilities: what a bridge request proves itself with, and the index that finds a user by one keyed look-up.
//!
//! ```text
//! root:  message = "tdesktop-web-proxy-bridge-v1" LF HOST
//! path:  message = "tdesktop-web-proxy-bridge-v2" LF HOST LF PATH
//! capability = HMAC-SHA256(secret as linked: 16 bytes, or 17 with `dd`; message)
//! ```
//!
//! A capability is a bearer password. It is hidden in `Debug` and never displayed without a method that says so.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};

use super::token::PlaceMark;
use crate::crypto::{DIGEST, Mac};

/// Characters of a capability or a token as it is written: base64url of 32 bytes.
pub const TEXT: usize = 43;

/// Reads exactly 43 characters of canonical base64url: the two low bits of the last one are zero.
pub fn read_text(text: &[u8]) -> Option<[u8; DIGEST]> {
    if text.len() != TEXT {
        return None;
    }
    let mut bytes = [0; DIGEST];
    BASE64URL_NOPAD.decode_mut(text, &mut bytes).ok()?;
    Some(bytes)
}

/// Host name in the canonical form, the only one that enters a capability: lower-case ASCII, two labels or more, no
/// address, no number at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

impl Host {
    /// Longest name in DNS.
    pub const MAX_LENGTH: usize = 253;

    /// Reads a name in any case.
    pub fn lowered(text: &str) -> Result<Self, NameError> {
        text.to_ascii_lowercase().parse()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a Host field or an `:authority` names this host, with the port of HTTPS or without a port.
    pub fn is_named_by(&self, field: &[u8]) -> bool {
        field.strip_suffix(b":443").unwrap_or(field) == self.0.as_bytes()
    }
}

impl FromStr for Host {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let good = text.len() <= Self::MAX_LENGTH && text.split('.').all(is_label);
        let number = text.rsplit_once('.').is_none_or(|(_, last)| is_number(last));
        if good && !number { Ok(Self(text.to_owned())) } else { Err(NameError::Host) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    let letters = label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    letters && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

/// Whether a host that ends in this label ends in a number by the URL standard, and so would be read as an address.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Path that the bridge and its API live under, without its outer slashes. Empty for the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BasePath(String);

impl BasePath {
    /// Longest path that the apps take.
    pub const MAX_LENGTH: usize = 128;

    /// The path without outer slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root of the site.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as it stands in a request: `/` or `/PATH/`.
    pub fn prefix(&self) -> String {
        if self.is_root() { "/".to_owned() } else { format!("/{}/", self.0) }
    }

    /// What is left of a request's raw path behind this base.
    pub fn strip<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let path = path.strip_prefix(b"/")?;
        if self.is_root() { Some(path) } else { path.strip_prefix(self.0.as_bytes())?.strip_prefix(b"/") }
    }
}

impl FromStr for BasePath {
    type Err = NameError;

    /// Reads a path; an empty text is the root.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let good = text.is_empty() || (text.len() <= Self::MAX_LENGTH && text.split('/').all(is_segment));
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Path) }
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_segment(segment: &str) -> bool {
    let first = segment.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Why a text is no host or base path that the apps take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Not a host name.
    Host,
    /// Not a base path.
    Path,
}

impl NameError {
    /// Tells what to write instead.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Host => "write the bare name in lower case, punycode for other letters: no address, no port",
            Self::Path => {
                "write letters, digits, `-` and `_`, each part beginning with a letter or a digit, at most 128 characters"
            }
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "not a host name that the apps take",
            Self::Path => "not a base path that the apps take",
        })
    }
}

impl std::error::Error for NameError {}

/// Form of a secret in a link. The two forms of one key have different capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// The bare key of 16 bytes.
    Plain,
    /// The key behind the byte `dd`.
    Dd,
}

impl Form {
    /// Both forms.
    pub const ALL: [Self; 2] = [Self::Plain, Self::Dd];
}

/// Proof that a bridge request carries.
#[derive(Clone, Copy)]
pub struct Capability([u8; DIGEST]);

impl Capability {
    /// The capability of a key in one form, for a host and a base path.
    pub fn new(key: &[u8; 16], form: Form, host: &Host, base: &BasePath) -> Self {
        Self::under(&linked(key, form), host, base)
    }

    fn under(mac: &Mac, host: &Host, base: &BasePath) -> Self {
        let host = host.0.as_bytes();
        Self(match base.is_root() {
            true => mac.digest(&[b"tdesktop-web-proxy-bridge-v1\n", host]),
            false => mac.digest(&[b"tdesktop-web-proxy-bridge-v2\n", host, b"\n", base.0.as_bytes()]),
        })
    }

    /// The 43 characters that stand in a request.
    pub fn text(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// The bytes behind the characters.
    pub fn bytes(&self) -> &[u8; DIGEST] {
        &self.0
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Capability(hidden)")
    }
}

/// The secret as a link writes it, as the key of a MAC.
fn linked(key: &[u8; 16], form: Form) -> Mac {
    match form {
        Form::Plain => Mac::new(key),
        Form::Dd => {
            let mut marked = [0xdd; 17];
            marked[1..].copy_from_slice(key);
            Mac::new(&marked)
        }
    }
}

/// Host and base path that bridges are served under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The host.
    pub host: Host,
    /// The base path.
    pub base: BasePath,
}

impl Place {
    /// Digest that tells it from the other places of a site.
    pub fn mark(&self) -> PlaceMark {
        let digest = Sha256::new().chain_update(&self.host.0).chain_update("\n").chain_update(&self.base.0).finalize();
        PlaceMark::new(u16::from_be_bytes([digest[0], digest[1]]))
    }
}

/// Owner and kind of a capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// The user.
    pub user: T,
    /// Form of the secret in the user's link.
    pub form: Form,
    /// Number of the place that the capability was made for.
    pub place: usize,
}

/// Index of capabilities. A look-up costs one MAC and one probe of a hash map, whatever the number of users; it is filed
/// under that MAC, so that neither the time of a look-up nor a crowded bucket tells or costs anything.
///
/// It grows with users and places, and forgets only what it is told to. Whether a capability that it knows is of use is for
/// others to say: that of a user who was removed still has to be known for one.
pub struct Index<T> {
    key: Mac,
    places: Vec<Place>,
    entries: HashMap<u128, Entry<T>, BuildHasherDefault<Uniform>>,
    /// Number of the places that each user is filed for, which are the first ones.
    filed: HashMap<T, usize>,
}

impl<T: Copy + Eq + Hash> Index<T> {
    /// An index that knows nothing, under a random key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: Mac::new(key), places: Vec::new(), entries: HashMap::default(), filed: HashMap::new() }
    }

    /// An index of these users at these places.
    pub fn build(key: &[u8; 32], places: Vec<Place>, users: impl IntoIterator<Item = (T, [u8; 16])>) -> Self {
        let mut index = Self { places, ..Self::new(key) };
        users.into_iter().for_each(|(user, secret)| index.file(user, &secret));
        index
    }

    /// Number of a place, which it keeps for good. A new one is for users that are filed afterwards.
    pub fn number(&mut self, place: &Place) -> usize {
        self.places.iter().position(|known| known == place).unwrap_or_else(|| {
            self.places.push(place.clone());
            self.places.len() - 1
        })
    }

    /// Whether the user is not filed for all places.
    pub fn lacks(&self, user: &T) -> bool {
        self.filed.get(user).is_none_or(|places| *places < self.places.len())
    }

    /// Files a user with this key for all places that it is not filed for yet, in time linear in their number.
    pub fn file(&mut self, user: T, secret: &[u8; 16]) {
        let first = self.filed.insert(user, self.places.len()).unwrap_or(0);
        for form in Form::ALL {
            let mac = linked(secret, form);
            for (place, Place { host, base }) in self.places.iter().enumerate().skip(first) {
                let filed = filed_under(&self.key, Capability::under(&mac, host, base).bytes());
                self.entries.entry(filed).or_insert(Entry { user, form, place });
            }
        }
    }

    /// Forgets all users but these.
    pub fn retain(&mut self, stays: impl Fn(&T) -> bool) {
        self.filed.retain(|user, _| stays(user));
        self.entries.retain(|_, entry| stays(&entry.user));
    }

    /// Number of users that are filed.
    pub fn users(&self) -> usize {
        self.filed.len()
    }
}

impl<T> Index<T> {
    /// Finds the user of a capability.
    pub fn find(&self, capability: &[u8; DIGEST]) -> Option<&Entry<T>> {
        self.entries.get(&filed_under(&self.key, capability))
    }

    /// The places of this index, in the order of their numbers.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The place that an entry was made for.
    pub fn place(&self, entry: &Entry<T>) -> Option<&Place> {
        self.places.get(entry.place)
    }

    /// How many capabilities it knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn filed_under(key: &Mac, capability: &[u8; DIGEST]) -> u128 {
    let digest = key.digest(&[capability]);
    u128::from_be_bytes(std::array::from_fn(|at| digest[at]))
}

impl<T> fmt::Debug for Index<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index({} capabilities)", self.entries.len())
    }
}

/// Hasher of keys that are uniform already.
#[derive(Default)]
struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{unhex, web_vectors};

    fn texts(value: &serde_json::Value) -> Vec<String> {
        let all: Vec<_> = value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect();
        assert!(all.len() >= 5);
        all
    }

    #[test]
    fn hosts_and_base_paths_are_read_as_the_vectors_say() {
        let names = web_vectors("names");
        for host in texts(&names["hosts_accepted"]) {
            assert_eq!(host.parse::<Host>().unwrap().as_str(), host);
        }
        for host in texts(&names["hosts_rejected"]) {
            assert_eq!(host.parse::<Host>(), Err(NameError::Host), "{host}");
        }
        for path in texts(&names["paths_accepted"]) {
            assert_eq!(path.parse::<BasePath>().unwrap().as_str(), path);
        }
        for path in texts(&names["paths_rejected"]) {
            assert_eq!(path.parse::<BasePath>(), Err(NameError::Path), "{path}");
        }
    }

    fn parts(row: &serde_json::Value) -> ([u8; 16], Form, Host, BasePath) {
        let secret = unhex(row["secret"].as_str().unwrap());
        let form = if secret.len() == 17 { Form::Dd } else { Form::Plain };
        let key = secret[secret.len() - 16..].try_into().unwrap();
        (key, form, row["host"].as_str().unwrap().parse().unwrap(), row["path"].as_str().unwrap().parse().unwrap())
    }

    #[test]
    fn capabilities_are_those_of_the_vectors() {
        let rows = web_vectors("capabilities");
        assert!(rows.as_array().unwrap().len() >= 20);
        for row in rows.as_array().unwrap() {
            let (key, form, host, base) = parts(row);
            let capability = Capability::new(&key, form, &host, &base);
            assert_eq!(capability.text(), row["capability"].as_str().unwrap());
            assert_eq!(read_text(capability.text().as_bytes()), Some(*capability.bytes()));
            let target = format!("{}?bridge={}", base.prefix(), capability.text());
            assert_eq!(target, row["target"].as_str().unwrap());
        }
    }

    fn places() -> Vec<Place> {
        let place = |host: &str, base: &str| Place { host: host.parse().unwrap(), base: base.parse().unwrap() };
        vec![place("a.example", ""), place("a.example", "p/q"), place("b.example", "")]
    }

    fn key(user: u32) -> [u8; 16] {
        let mut key = [7; 16];
        key[..4].copy_from_slice(&user.to_be_bytes());
        key
    }

    #[test]
    fn each_capability_finds_its_user_form_and_place_and_no_other() {
        let index = Index::build(&[3; 32], places(), (0..100).map(|user| (user, key(user))));
        assert_eq!((index.len(), index.users()), (100 * 3 * 2, 100));
        for user in 0..100 {
            for (place, form) in (0..3).flat_map(|place| Form::ALL.map(|form| (place, form))) {
                let Place { host, base } = &index.places()[place];
                let capability = Capability::new(&key(user), form, host, base);
                assert_eq!(index.find(capability.bytes()), Some(&Entry { user, form, place }));
            }
        }
        assert_eq!(index.find(&[0; 32]), None);
    }

    #[test]
    fn places_keep_their_numbers_and_users_are_filed_for_new_ones_once() {
        let [first, second, third] = &places()[..] else { panic!() };
        let mut index = Index::new(&[3; 32]);
        assert_eq!((index.number(first), index.number(second), index.number(first)), (0, 1, 0));
        index.file(7, &key(7));
        assert!(!index.lacks(&7) && index.lacks(&8) && index.len() == 4);
        assert_eq!((index.number(third), index.number(second)), (2, 1));
        assert!(index.lacks(&7));
        index.file(7, &key(7));
        assert!(!index.lacks(&7) && index.len() == 6);
        let there = |index: &Index<i32>, place: &Place| {
            index.find(Capability::new(&key(7), Form::Dd, &place.host, &place.base).bytes()).map(|entry| entry.place)
        };
        assert_eq!([first, second, third].map(|place| there(&index, place)), [Some(0), Some(1), Some(2)]);
        index.file(8, &key(8));
        index.retain(|user| *user == 8);
        assert_eq!((there(&index, first), index.len(), index.users()), (None, 6, 1));
    }

    #[test]
    fn marks_tell_the_places_of_a_site_apart() {
        let marks: Vec<_> = places().iter().map(Place::mark).collect();
        assert!(marks[0] != marks[1] && marks[1] != marks[2] && marks[0] != marks[2] && marks[0] == places()[0].mark());
    }

    #[test]
    fn only_43_canonical_characters_are_read() {
        let text = BASE64URL_NOPAD.encode(&[0xff; 32]);
        assert_eq!(read_text(text.as_bytes()), Some([0xff; 32]));
        let mut odd = text.clone().into_bytes();
        odd[42] += 1;
        let (longer, padded) = (format!("{text}A"), format!("{}=", &text[..42]));
        for wrong in [&odd[..], &text.as_bytes()[..42], longer.as_bytes(), padded.as_bytes(), b""] {
            assert_eq!(read_text(wrong), None);
        }
    }

    #[test]
    fn nothing_secret_is_in_debug() {
        let [place, ..] = &places()[..] else { panic!() };
        let capability = Capability::new(&[1; 16], Form::Plain, &place.host, &place.base);
        assert_eq!(format!("{capability:?}"), "Capability(hidden)");
    }
}
