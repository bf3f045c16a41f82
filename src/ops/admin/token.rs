//! Tokens of the admin listener: 32 random bytes as text, of which the configuration holds a hash.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// Permissions of a token. Each role has those of the roles before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read the metrics.
    Metrics,
    /// See everything but secrets.
    Viewer,
    /// Change users, see their links, end sessions.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 4] = [Self::Metrics, Self::Viewer, Self::Operator, Self::Admin];

    /// A short name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.label() == text).ok_or(UnknownRole)
    }
}

/// No role has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRole;

impl fmt::Display for UnknownRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a role: metrics, viewer, operator or admin")
    }
}

impl std::error::Error for UnknownRole {}

/// SHA-256 of a token's text. A token has 256 random bits, so nothing slower is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of this token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(hidden)")
    }
}

impl FromStr for TokenHash {
    type Err = NoHash;

    fn from_str(text: &str) -> Result<Self, NoHash> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| NoHash)?;
        bytes.try_into().map(Self).map_err(|_| NoHash)
    }
}

/// Not the hash of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHash;

impl fmt::Display for NoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the hash of a token: 64 hexadecimal digits")
    }
}

impl std::error::Error for NoHash {}

/// Makes a token. Its beginning lets people and scanners of leaked secrets see what it is.
pub fn generate(random: &mut impl CryptoRng) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill_bytes(&mut *bytes);
    Zeroizing::new(format!("{MARK}{}", BASE64URL_NOPAD.encode(&*bytes)))
}

/// Prefix of every token.
pub const MARK: &str = "vizard_";

/// A token that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Name of its owner; stands in the log beside what was done with it.
    pub name: String,
    /// Role that it grants.
    pub role: Role,
    /// The hash of its text.
    pub hash: TokenHash,
}

/// All tokens that are accepted.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// These tokens.
    pub fn new(tokens: Vec<Token>) -> Self {
        Self(tokens)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this caller's very token is still accepted, and for as much. Another token under the same name is another.
    pub fn knows(&self, caller: &super::guard::Caller) -> bool {
        let same =
            |token: &Token| token.name == caller.name && token.role == caller.role && caller.token == Some(token.hash);
        self.0.iter().any(same)
    }

    /// The one with this text. All are compared, each in full, whatever the answer is.
    pub fn find(&self, text: &str) -> Option<&Token> {
        let hash = TokenHash::of(text);
        let mut found = u64::MAX;
        for (index, token) in self.0.iter().enumerate() {
            found.conditional_assign(&(index as u64), token.hash.0.ct_eq(&hash.0));
        }
        self.0.get(usize::try_from(found).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_token_is_found_by_its_text_alone() {
        let mut random = StdRng::seed_from_u64(1);
        let texts: Vec<_> = Role::ALL.iter().map(|_| generate(&mut random)).collect();
        let token = |(role, text): (&Role, &Zeroizing<String>)| Token {
            name: role.to_string(),
            role: *role,
            hash: TokenHash::of(text),
        };
        let tokens = Tokens::new(Role::ALL.iter().zip(&texts).map(token).collect());
        for (role, text) in Role::ALL.iter().zip(&texts) {
            assert!(text.len() == 50 && text.starts_with("vizard_"), "{text:?}");
            assert_eq!(tokens.find(text).map(|token| token.role), Some(*role));
            assert!(tokens.find(&text[1..]).is_none() && tokens.find(&TokenHash::of(text).to_string()).is_none());
        }
        assert!(tokens.find("").is_none() && Tokens::default().find(&texts[0]).is_none());
    }

    #[test]
    fn hashes_are_read_as_they_are_written_and_not_shown_otherwise() {
        let hash = TokenHash::of("vizard_x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
        assert_eq!(hash.to_string()[1..].parse::<TokenHash>(), Err(NoHash));
        assert_eq!(format!("{hash:?}"), "TokenHash(hidden)");
    }

    #[test]
    fn roles_are_in_order_and_named() {
        assert!(Role::ALL.is_sorted());
        for role in Role::ALL {
            assert_eq!(role.label().parse(), Ok(role));
        }
        assert_eq!("root".parse::<Role>(), Err(UnknownRole));
    }
}
