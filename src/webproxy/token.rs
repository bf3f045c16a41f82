//! Tokens of the API, recognised without state: 16 bytes of content, and half of a MAC over them; which half is the kind
//! of the token. So a token that ended long ago is still known for one of ours, after a restart as well, and never reaches
//! the site.
//!
//! ```text
//! bootstrap   time u32 · key 6 · carrier and place u16 · random 4 │ first half of MAC
//! session     random 16                                          │ second half of MAC
//! ```
//!
//! A page's token says whom it was made for. So a page that waits for its session costs no memory, however many are asked for,
//! and each process that has the key of the tokens can begin the session: the one that replaces this one, too.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq;

use super::session::Mode;
use crate::auth::{KeyId, UnixTime};
use crate::crypto::{DIGEST, Mac};

/// Use of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// In the page; creates one session.
    Bootstrap,
    /// Names a session in every call.
    Session,
}

/// Bearer token. Hidden in `Debug`, compared in constant time.
#[derive(Clone, Copy)]
pub struct Token([u8; Token::LENGTH]);

impl Token {
    /// Bytes of a token.
    pub const LENGTH: usize = 32;

    /// The 43 characters that it is written as.
    pub fn text(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// The bytes behind the characters.
    pub fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// The content of a bootstrap token. To be asked only of one that was recognised as that.
    pub fn claims(&self) -> PageClaims {
        let [a, b, c, d, key @ .., e, f, _, _, _, _] = *content_of(&self.0);
        let more = u16::from_be_bytes([e, f]);
        let mode = Mode::ALL[usize::from(more >> MARK_BITS)];
        let place = PlaceMark::new(more);
        PageClaims { issued: u32::from_be_bytes([a, b, c, d]), key: KeyId::from_bytes(key), place, mode }
    }
}

fn content_of(token: &[u8; Token::LENGTH]) -> &[u8; CONTENT] {
    token.first_chunk().unwrap_or(&[0; CONTENT])
}

const CONTENT: usize = 16;

/// Bits of a [`PlaceMark`]; the carrier has the other two of a `u16`.
const MARK_BITS: u32 = 14;

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Token {}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Digest of a place in 14 bits, the same in every process. It tells the few places of one site apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceMark(u16);

impl PlaceMark {
    /// A mark of these bits; those that a mark has no room for are left out.
    pub fn new(bits: u16) -> Self {
        Self(bits & ((1 << MARK_BITS) - 1))
    }
}

/// Content of a bootstrap token: what its page was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageClaims {
    /// Second in which the page was made, since 1970.
    pub issued: u32,
    /// The key whose capability was shown.
    pub key: KeyId,
    /// The place that the page was served at.
    pub place: PlaceMark,
    /// The carrier that the page was told of.
    pub mode: Mode,
}

impl PageClaims {
    /// Life of a page whose session has not begun, in seconds.
    pub const LIFE: i64 = 120;

    /// Time that is left of the page's life; `None` if it is over. A clock may have been set back since, by no more.
    pub fn left(&self, now: UnixTime) -> Option<Duration> {
        let age = now.0 - i64::from(self.issued);
        let left = Self::LIFE - age.max(0);
        (left > 0 && age > -Self::LIFE).then(|| Duration::from_secs(left.unsigned_abs()))
    }
}

/// Key that tokens are made and recognised with. The caller keeps it in a file, so that tokens are known after a restart.
#[derive(Clone)]
pub struct TokenKey(Mac);

impl TokenKey {
    /// Absorbs the key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Mac::new(key))
    }

    /// A token with this content; that of a session is random.
    pub fn issue(&self, kind: TokenKind, content: [u8; CONTENT]) -> Token {
        let [bootstrap, session] = self.proofs(&content);
        let proof = match kind {
            TokenKind::Bootstrap => bootstrap,
            TokenKind::Session => session,
        };
        let mut token = [0; Token::LENGTH];
        token[..CONTENT].copy_from_slice(&content);
        token[CONTENT..].copy_from_slice(&proof);
        Token(token)
    }

    /// A token of a page. The random bytes tell pages of one key and second from each other.
    pub fn bootstrap(&self, page: &PageClaims, random: [u8; 4]) -> Token {
        let mode = Mode::ALL.iter().position(|mode| *mode == page.mode).unwrap_or(0) as u16;
        let more = (mode << MARK_BITS | page.place.0).to_be_bytes();
        let mut content = [0; CONTENT];
        let parts = [&page.issued.to_be_bytes()[..], page.key.bytes(), &more, &random];
        content.iter_mut().zip(parts.concat()).for_each(|(byte, part)| *byte = part);
        self.issue(TokenKind::Bootstrap, content)
    }

    /// Recognises a token of this key and its kind, alive or not, in constant time and with one MAC.
    pub fn recognise(&self, bytes: &[u8; Token::LENGTH]) -> Option<(TokenKind, Token)> {
        let (content, proof) = bytes.split_at(CONTENT);
        let [bootstrap, session] = self.proofs(content).map(|expected| bool::from(expected.ct_eq(proof)));
        match (bootstrap, session) {
            (true, _) => Some((TokenKind::Bootstrap, Token(*bytes))),
            (_, true) => Some((TokenKind::Session, Token(*bytes))),
            _ => None,
        }
    }

    /// Proofs of this content as a bootstrap token and as one of a session.
    fn proofs(&self, content: &[u8]) -> [[u8; CONTENT]; 2] {
        let digest: [u8; DIGEST] = self.0.digest(&[b"vizard web token".as_slice(), content]);
        [0, CONTENT].map(|half| std::array::from_fn(|at| digest[half + at]))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> PageClaims {
        let (key, place) = (KeyId::from_bytes([1, 2, 3, 4, 5, 6]), PlaceMark::new(u16::MAX));
        PageClaims { issued: 1_800_000_000, key, place, mode: Mode::Websocket }
    }

    fn both(key: &TokenKey) -> [(TokenKind, Token); 2] {
        let (bootstrap, session) = (key.bootstrap(&claims(), [9; 4]), key.issue(TokenKind::Session, [9; 16]));
        [(TokenKind::Bootstrap, bootstrap), (TokenKind::Session, session)]
    }

    #[test]
    fn tokens_are_recognised_by_their_key_alone() {
        let (key, same, other) = (TokenKey::new(&[1; 32]), TokenKey::new(&[1; 32]), TokenKey::new(&[2; 32]));
        for (kind, token) in both(&key) {
            assert_eq!(same.recognise(token.bytes()), Some((kind, token)));
            assert_eq!(other.recognise(token.bytes()), None);
            assert_eq!(token.text().len(), 43);
        }
    }

    #[test]
    fn a_token_with_one_bit_changed_is_none() {
        let key = TokenKey::new(&[1; 32]);
        for (_, token) in both(&key) {
            for bit in 0..256 {
                let mut bytes = *token.bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(key.recognise(&bytes), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_page_s_token_says_what_the_page_was_made_for() {
        let key = TokenKey::new(&[1; 32]);
        for mode in Mode::ALL {
            let page = PageClaims { mode, ..claims() };
            let token = key.bootstrap(&page, [9; 4]);
            assert_eq!(token.claims(), page);
            assert_ne!(key.bootstrap(&page, [8; 4]), token);
        }
    }

    #[test]
    fn a_page_lives_for_two_minutes() {
        let (page, issued) = (claims(), 1_800_000_000);
        let left = |age: i64| page.left(UnixTime(issued + age)).map(|left| left.as_secs());
        assert_eq!([0, 1, 119].map(left), [Some(120), Some(119), Some(1)]);
        assert_eq!([120, 121, i64::from(u32::MAX)].map(left), [None; 3]);
        assert_eq!([-1, -119, -120].map(left), [Some(120), Some(120), None], "a clock that was set back");
    }

    #[test]
    fn nothing_secret_is_in_debug() {
        let key = TokenKey::new(&[1; 32]);
        assert_eq!(format!("{key:?} {:?}", key.issue(TokenKind::Session, [9; 16])), "TokenKey(hidden) Token(hidden)");
    }
}
