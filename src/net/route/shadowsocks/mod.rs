//! Shadowsocks as a way out, in programs that were built with the feature of this name.
//!
//! The server learns in the first bytes where a connection is to go, and gives no answer of its own: whether it knows the
//! password and reaches the target shows with what the target says, or does not say.

#[cfg(not(feature = "shadowsocks"))]
mod absent;
#[cfg(feature = "shadowsocks")]
mod client;

#[cfg(not(feature = "shadowsocks"))]
pub use absent::Server;
#[cfg(feature = "shadowsocks")]
pub use client::Server;

/// Whether this program was built with it.
pub const BUILT_IN: bool = cfg!(feature = "shadowsocks");

/// Cipher of the bytes on the way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they have the names of METHODS")]
pub enum Method {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20,
    Blake3Aes128Gcm,
    Blake3Aes256Gcm,
    Blake3ChaCha20,
}

/// The methods and what they are called everywhere.
pub const METHODS: &[(&str, Method)] = &[
    ("aes-128-gcm", Method::Aes128Gcm),
    ("aes-256-gcm", Method::Aes256Gcm),
    ("chacha20-ietf-poly1305", Method::ChaCha20),
    ("2022-blake3-aes-128-gcm", Method::Blake3Aes128Gcm),
    ("2022-blake3-aes-256-gcm", Method::Blake3Aes256Gcm),
    ("2022-blake3-chacha20-poly1305", Method::Blake3ChaCha20),
];

impl Method {
    /// Returns the length in bytes of the key that its password encodes in base64; `None` if the password is free text.
    pub fn key_length(self) -> Option<usize> {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20 => None,
            Self::Blake3Aes128Gcm => Some(16),
            Self::Blake3Aes256Gcm | Self::Blake3ChaCha20 => Some(32),
        }
    }
}
