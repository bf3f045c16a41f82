//! Tokens of the API, recognised without state: 16 random bytes, and the first 16 bytes of a MAC over a kind and them. So
//! a token that ended long ago is still known for one of ours, after a restart as well, and never reaches the site.

use std::fmt;
use std::hash::{Hash, Hasher};

use data_encoding::BASE64URL_NOPAD;
use subtle::{Choice, ConstantTimeEq};

use crate::crypto::Mac;

/// Use of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// In the page; creates one session.
    Bootstrap,
    /// Names a session in every call.
    Session,
}

impl TokenKind {
    fn byte(self) -> u8 {
        match self {
            Self::Bootstrap => 1,
            Self::Session => 2,
        }
    }
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
}

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

/// Key that tokens are made and recognised with. The caller keeps it in a file, so that tokens are known after a restart.
#[derive(Clone)]
pub struct TokenKey(Mac);

impl TokenKey {
    /// Absorbs the key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Mac::new(key))
    }

    /// A token around these random bytes.
    pub fn issue(&self, kind: TokenKind, random: [u8; 16]) -> Token {
        let mut token = [0; Token::LENGTH];
        token[..16].copy_from_slice(&random);
        token[16..].copy_from_slice(&self.proof(kind, &random));
        Token(token)
    }

    /// Recognises a token of this key and its kind, alive or not, in constant time.
    pub fn recognise(&self, bytes: &[u8; Token::LENGTH]) -> Option<(TokenKind, Token)> {
        let (random, proof) = bytes.split_at(16);
        let is = |kind| -> Choice { self.proof(kind, random).ct_eq(proof) };
        let (bootstrap, session) = (is(TokenKind::Bootstrap), is(TokenKind::Session));
        match (bool::from(bootstrap), bool::from(session)) {
            (true, _) => Some((TokenKind::Bootstrap, Token(*bytes))),
            (_, true) => Some((TokenKind::Session, Token(*bytes))),
            _ => None,
        }
    }

    fn proof(&self, kind: TokenKind, random: &[u8]) -> [u8; 16] {
        let digest = self.0.digest(&[b"vizard web token".as_slice(), &[kind.byte()], random]);
        std::array::from_fn(|at| digest[at])
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

    #[test]
    fn tokens_are_recognised_by_their_key_alone() {
        let (key, same, other) = (TokenKey::new(&[1; 32]), TokenKey::new(&[1; 32]), TokenKey::new(&[2; 32]));
        for kind in [TokenKind::Bootstrap, TokenKind::Session] {
            let token = key.issue(kind, [9; 16]);
            assert_eq!(same.recognise(token.bytes()), Some((kind, token)));
            assert_eq!(other.recognise(token.bytes()), None);
            assert_eq!(token.text().len(), 43);
        }
    }

    #[test]
    fn a_token_with_one_bit_changed_is_none() {
        let key = TokenKey::new(&[1; 32]);
        let token = key.issue(TokenKind::Session, [9; 16]);
        for bit in 0..256 {
            let mut bytes = *token.bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.recognise(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn nothing_secret_is_in_debug() {
        let key = TokenKey::new(&[1; 32]);
        let token = key.issue(TokenKind::Session, [9; 16]);
        assert_eq!(format!("{key:?} {token:?}"), "TokenKey(hidden) Token(hidden)");
    }
}
