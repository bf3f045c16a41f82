//! The ServerHello (RFC 8446 §4.1.3): what a server chose.

use super::cursor::{Cursor, DecodeError};
use super::numbers::extension;

/// A server's choice out of what a hello offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The version in use: supported_versions where that is there, else legacy_version.
    pub version: u16,
    /// Whether it is a HelloRetryRequest.
    pub retry: bool,
    /// Cipher suite.
    pub cipher_suite: u16,
    /// Group of the key share; 0 without one.
    pub group: u16,
    /// Types of the extensions, in order.
    pub extensions: Vec<u16>,
}

/// The random of a HelloRetryRequest (RFC 8446 §4.1.3).
pub const HELLO_RETRY_REQUEST: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

const SERVER_HELLO: u8 = 2;

impl ServerHello {
    /// Decodes the message that `payload` begins with, and returns what stands behind it.
    pub fn decode(payload: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut message = Cursor::new(payload);
        if message.u8("handshake type")? != SERVER_HELLO {
            return Err(DecodeError::Malformed("handshake type"));
        }
        let length = message.u24("handshake length")?;
        let mut body = Cursor::new(message.take(length, "handshake length")?);
        let version = body.u16("legacy version")?;
        let retry = *body.array("random")? == HELLO_RETRY_REQUEST;
        body.vector8("session id")?;
        let cipher_suite = body.u16("cipher suite")?;
        body.u8("compression method")?;
        let mut hello = Self { version, retry, cipher_suite, group: 0, extensions: Vec::new() };
        // A TLS 1.2 server may leave the extensions out altogether (RFC 5246 §7.4.1.3).
        if !body.is_empty() {
            hello.read_extensions(Cursor::new(body.vector16("extensions")?))?;
            body.end("bytes behind the extensions")?;
        }
        Ok((hello, message.rest()))
    }

    fn read_extensions(&mut self, mut extensions: Cursor<'_>) -> Result<(), DecodeError> {
        while !extensions.is_empty() {
            let kind = extensions.u16("extension type")?;
            let mut value = Cursor::new(extensions.vector16("extension")?);
            self.extensions.push(kind);
            match kind {
                extension::SUPPORTED_VERSIONS => {
                    self.version = value.u16("selected version")?;
                    value.end("selected version")?;
                }
                extension::KEY_SHARE => self.group = value.u16("key share group")?,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::vector;
    use crate::wire::numbers::{TLS13, group};

    fn message() -> Vec<u8> {
        vector("flightB", "bytes")[5..1215].to_vec()
    }

    #[test]
    fn the_choice_of_a_flight_is_read() {
        let bytes = [message(), b"more".to_vec()].concat();
        let (hello, rest) = ServerHello::decode(&bytes).unwrap();
        assert_eq!((hello.version, hello.retry, hello.group), (TLS13, false, group::X25519MLKEM768));
        assert_eq!(rest, b"more");
        let mut retry = bytes.clone();
        retry[6..38].copy_from_slice(&HELLO_RETRY_REQUEST);
        assert!(ServerHello::decode(&retry).unwrap().0.retry);
    }

    #[test]
    fn a_server_without_extensions_is_one_of_tls_1_2() {
        let bytes = [&[2, 0, 0, 38, 3, 3][..], &[7; 32], &[0, 0xc0, 0x2f, 0]].concat();
        let (hello, _) = ServerHello::decode(&bytes).unwrap();
        assert_eq!((hello.version, hello.cipher_suite, hello.group), (0x0303, 0xc02f, 0));
    }

    #[test]
    fn no_prefix_is_a_hello() {
        let bytes = message();
        assert!((0..bytes.len()).all(|cut| ServerHello::decode(&bytes[..cut]).is_err()));
    }

    proptest! {
        #[test]
        fn arbitrary_changes_never_panic(at in 0..1210usize, byte: u8) {
            let mut bytes = message();
            bytes[at] = byte;
            let _ = ServerHello::decode(&bytes);
        }
    }
}
