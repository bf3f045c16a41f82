//! Classes of hellos: covers answer alike what is shaped alike, so what is learnt of a cover is kept for each class.

use std::fmt;
use std::str::FromStr;

use super::client_hello::ClientHello;
use super::cursor::{Cursor, DecodeError};
use super::numbers::{extension, group};

/// The shape of a hello, as far as a server's answer or a client's tolerance depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HelloClass {
    /// Chrome's shape with an X25519MLKEM768 share: TDLib, and what builds on it, and current Android and desktop clients.
    ChromeHybrid,
    /// Chrome's shape with an X25519 share alone, of any length.
    Chrome,
    /// Apple's shape with an X25519MLKEM768 share: no ECH, no ALPS, no session ticket extension.
    SafariHybrid,
    /// Padded to 517 bytes with an X25519 share: Telegram Desktop up to 2025 and older clients.
    Padded517,
    /// Anything else.
    Other,
}

impl HelloClass {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::ChromeHybrid, Self::Chrome, Self::SafariHybrid, Self::Padded517, Self::Other];

    /// The class of a hello.
    pub fn of(hello: &ClientHello<'_>) -> Self {
        let hybrid = hello.key_share_groups().is_ok_and(|groups| groups.contains(&group::X25519MLKEM768));
        let has = |kind| hello.extension(kind).is_some();
        match hybrid {
            _ if hello.record.len() == 517 && has(extension::PADDING) => Self::Padded517,
            true if has(extension::ENCRYPTED_CLIENT_HELLO)
                || has(extension::ALPS)
                || has(extension::SESSION_TICKET) =>
            {
                Self::ChromeHybrid
            }
            true => Self::SafariHybrid,
            false if has(extension::SESSION_TICKET) && has(extension::COMPRESS_CERTIFICATE) => Self::Chrome,
            false => Self::Other,
        }
    }

    /// Whether clients of this class may give a flight up that a read cuts within the change_cipher_spec: Android's do.
    /// Only an X25519MLKEM768 share makes a ServerHello that ends where a segment of real networks does
    /// (docs/protocol.md, "The flight").
    pub fn minds_read_ends(self) -> bool {
        self == Self::ChromeHybrid
    }

    /// A short name, as it stands in files, logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::ChromeHybrid => "chrome-hybrid",
            Self::Chrome => "chrome",
            Self::SafariHybrid => "safari-hybrid",
            Self::Padded517 => "padded-517",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for HelloClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl FromStr for HelloClass {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        Self::ALL.into_iter().find(|class| class.label() == text).ok_or(UnknownClass)
    }
}

/// There is no class of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownClass;

impl fmt::Display for UnknownClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no such class of hellos; there are {}", HelloClass::ALL.map(HelloClass::label).join(", "))
    }
}

impl std::error::Error for UnknownClass {}

impl<'a> ClientHello<'a> {
    /// Whether Telegram's apps for Apple's systems send hellos of this shape: the present one, or that of the years before,
    /// in which alone there is still an extension for the next protocol.
    pub fn has_apples_shape(&self) -> bool {
        HelloClass::of(self) == HelloClass::SafariHybrid || self.extension(extension::NEXT_PROTOCOL).is_some()
    }

    /// Groups of the key shares, in order.
    pub fn key_share_groups(&self) -> Result<Vec<u16>, DecodeError> {
        Ok(self.key_shares()?.into_iter().map(|(group, _)| group).collect())
    }

    /// The key shares: group and public value.
    pub fn key_shares(&self) -> Result<Vec<(u16, &'a [u8])>, DecodeError> {
        let mut found = Vec::new();
        let Some(body) = self.extension(extension::KEY_SHARE) else { return Ok(found) };
        let mut shares = Cursor::new(Cursor::new(body).vector16("key shares")?);
        while !shares.is_empty() {
            found.push((shares.u16("key share group")?, shares.vector16("key share")?));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::captured;
    use crate::wire::hellos::TEMPLATES;

    #[test]
    fn captured_hellos_are_of_the_classes_of_their_clients() {
        for hello in captured() {
            let class = HelloClass::of(&ClientHello::decode(&hello.record).unwrap());
            let expected = match hello.file.split('-').next().unwrap() {
                "tdlib" | "mtcute" | "chromium" => HelloClass::ChromeHybrid,
                "tdesktop" | "telethonfaketls" | "curl" => HelloClass::Padded517,
                _ => HelloClass::Other,
            };
            assert_eq!(class, expected, "{}", hello.file);
        }
    }

    #[test]
    fn only_the_hellos_of_apples_clients_have_their_shape() {
        for hello in captured() {
            assert!(!ClientHello::decode(&hello.record).unwrap().has_apples_shape(), "{}", hello.file);
        }
        for template in TEMPLATES {
            let hello = template.hello("www.example.com", &mut rand::rng()).unwrap();
            let apples = template.class == HelloClass::SafariHybrid;
            assert_eq!(ClientHello::decode(&hello).unwrap().has_apples_shape(), apples, "{}", template.class);
        }
        // A hello of the years before: the extension is appended to one of another client.
        let mut old = captured().into_iter().find(|hello| hello.file.starts_with("tdesktop-4")).unwrap().record;
        for (at, width) in [(3, 2), (6, 3), (extensions_at(&old), 2)] {
            let length = old[at..at + width].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)) + 4;
            old[at..at + width].copy_from_slice(&length.to_be_bytes()[8 - width..]);
        }
        old.extend([0x33, 0x74, 0, 0]);
        assert!(ClientHello::decode(&old).unwrap().has_apples_shape());
    }

    /// Place of the length of all extensions.
    fn extensions_at(hello: &[u8]) -> usize {
        let suites = 44 + usize::from(hello[43]);
        let methods = suites + 2 + usize::from(u16::from_be_bytes([hello[suites], hello[suites + 1]]));
        methods + 1 + usize::from(hello[methods])
    }

    #[test]
    fn labels_are_read_back() {
        for class in HelloClass::ALL {
            assert_eq!(class.label().parse(), Ok(class));
        }
        assert!("firefox".parse::<HelloClass>().is_err());
    }
}
