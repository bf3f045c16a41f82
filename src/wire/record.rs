//! TLS records as they stand on the wire (RFC 8446 §5.1): a five-byte header and a payload.

/// Length of a record header.
pub const HEADER: usize = 5;

/// Content types (RFC 8446 §5.1).
pub mod kind {
    /// change_cipher_spec
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    /// alert
    pub const ALERT: u8 = 21;
    /// handshake
    pub const HANDSHAKE: u8 = 22;
    /// application_data
    pub const APPLICATION_DATA: u8 = 23;
}

/// Longest payload of an encrypted record that a TLS 1.3 peer may send (RFC 8446 §5.2): 2^14 + 256.
pub const MAX_CIPHERTEXT: usize = 16_640;

/// Longest payload of a plaintext record: 2^14.
pub const MAX_PLAINTEXT: usize = 16_384;

/// Shortest payload of an encrypted record that can be legal: the inner content type and the tag.
pub const MIN_ENCRYPTED: usize = 17;

/// Longest payload that real servers send: 2^14 bytes of content, the inner content type and the tag.
pub const MAX_ENCRYPTED: usize = MAX_PLAINTEXT + MIN_ENCRYPTED;

/// Payload of the record that a TLS 1.3 close_notify comes in: level, description, content type and tag.
pub const CLOSE_NOTIFY: u16 = 2 + MIN_ENCRYPTED as u16;

/// The only legal change_cipher_spec record.
pub const CHANGE_CIPHER_SPEC: [u8; 6] = [kind::CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1];

/// A record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Content type.
    pub kind: u8,
    /// legacy_record_version as two bytes.
    pub version: [u8; 2],
    /// Length of the payload that follows.
    pub length: u16,
}

impl Header {
    /// The header of an encrypted record from us, `03 03`, with a payload of `length` bytes.
    pub fn application_data(length: u16) -> Self {
        Self { kind: kind::APPLICATION_DATA, version: [3, 3], length }
    }

    /// Any five bytes are some header; whether it is acceptable is for the reader to say.
    pub fn decode(bytes: [u8; HEADER]) -> Self {
        let [kind, major, minor, high, low] = bytes;
        Self { kind, version: [major, minor], length: u16::from_be_bytes([high, low]) }
    }

    /// The five bytes.
    pub fn encode(self) -> [u8; HEADER] {
        let [high, low] = self.length.to_be_bytes();
        [self.kind, self.version[0], self.version[1], high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::vector;

    #[test]
    fn the_first_record_of_a_session_is_the_vectors() {
        let record = vector("tls_first_server_record", "bytes");
        let payload = vector("O4_ee_in_tls", "dn_wire");
        let header = Header::application_data(payload.len() as u16);
        assert_eq!([&header.encode()[..], &payload].concat(), record);
        assert_eq!(Header::decode(*record.first_chunk().unwrap()), header);
    }
}
