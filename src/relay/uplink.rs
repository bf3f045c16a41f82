//! Client to data centre, as a pure transform on buffers: the payload of the client's records, from the client's cipher to
//! the data centre's.

use crate::crypto::Ctr;
use crate::wire::record::{HEADER, Header, MAX_CIPHERTEXT, kind};

/// What the other side sent is no record of application data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord;

/// Takes the payload out of records of application data.
#[derive(Debug)]
pub struct Unwrap {
    header: [u8; HEADER],
    header_length: usize,
    record_left: usize,
}

impl Unwrap {
    /// In the midst of a record of which `record_left` payload bytes are still to come.
    pub fn new(record_left: usize) -> Self {
        Self { header: [0; HEADER], header_length: 0, record_left }
    }

    /// The payload in what came, moved together at the beginning of `bytes`. If there is a bad record it is what came
    /// before that.
    pub fn payload<'b>(&mut self, bytes: &'b mut [u8]) -> (&'b mut [u8], Result<(), BadRecord>) {
        let (mut at, mut length) = (0, 0);
        let outcome = loop {
            if at == bytes.len() {
                break Ok(());
            }
            if self.record_left > 0 {
                let piece = self.record_left.min(bytes.len() - at);
                bytes.copy_within(at..at + piece, length);
                self.record_left -= piece;
                at += piece;
                length += piece;
            } else if let Err(bad) = self.header_byte(bytes[at]) {
                break Err(bad);
            } else {
                at += 1;
            }
        };
        (&mut bytes[..length], outcome)
    }

    fn header_byte(&mut self, byte: u8) -> Result<(), BadRecord> {
        self.header[self.header_length] = byte;
        self.header_length += 1;
        if self.header_length == HEADER {
            self.header_length = 0;
            self.record_left = data_record(Header::decode(self.header))?;
        }
        Ok(())
    }
}

/// Payload length of a record that a client or another proxy may send.
fn data_record(header: Header) -> Result<usize, BadRecord> {
    let length = usize::from(header.length);
    let legal = header.kind == kind::APPLICATION_DATA && header.version == [3, 3] && length <= MAX_CIPHERTEXT;
    if legal { Ok(length) } else { Err(BadRecord) }
}

/// Client to data centre.
#[derive(Debug)]
pub struct Uplink {
    from_client: Ctr,
    /// None where whoever gets the payload is to read it.
    to_dc: Option<Ctr>,
    records: Unwrap,
}

impl Uplink {
    /// An uplink in the midst of a record of which `record_left` payload bytes are still to come.
    pub fn new(from_client: Ctr, to_dc: Ctr, record_left: usize) -> Self {
        Self { to_dc: Some(to_dc), ..Self::in_clear(from_client, record_left) }
    }

    /// The same with the payload in clear.
    pub fn in_clear(from_client: Ctr, record_left: usize) -> Self {
        Self { from_client, to_dc: None, records: Unwrap::new(record_left) }
    }

    /// From here on the payload is encrypted anew with this.
    pub fn encrypt(&mut self, to_dc: Ctr) {
        self.to_dc = Some(to_dc);
    }

    /// Turns what the client sent into what the data centre is to get, and gives it: the payload, moved together at the
    /// beginning of `bytes` and encrypted anew. If there is a bad record it is what came before that.
    ///
    /// Moving is much cheaper than working on the payload of each record by itself: ciphers are slow to get going, and
    /// slower where a record ends within a block.
    pub fn transform<'b>(&mut self, bytes: &'b mut [u8]) -> (&'b [u8], Result<(), BadRecord>) {
        let (payload, outcome) = self.records.payload(bytes);
        self.from_client.apply(payload);
        if let Some(to_dc) = &mut self.to_dc {
            to_dc.apply(payload);
        }
        (payload, outcome)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::kdf::KeyIv;

    fn keys(seed: u8) -> KeyIv {
        KeyIv { key: [seed; 32], iv: [seed; 16] }
    }

    fn uplink() -> Uplink {
        Uplink::new(keys(1).stream(), keys(2).stream(), 0)
    }

    /// Payload as a client wraps it, in records of the given sizes.
    fn wrap(plain: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut cipher = plain.to_vec();
        keys(1).stream().apply(&mut cipher);
        let mut rest = &cipher[..];
        let mut bytes = Vec::new();
        for size in sizes.iter().cycle() {
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            bytes.extend_from_slice(&Header::application_data(piece.len() as u16).encode());
            bytes.extend_from_slice(piece);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        bytes
    }

    fn sent(uplink: &mut Uplink, mut chunk: Vec<u8>) -> Result<Vec<u8>, BadRecord> {
        let (payload, outcome) = uplink.transform(&mut chunk);
        outcome.map(|()| payload.to_vec())
    }

    #[test]
    fn other_records_end_the_uplink_behind_what_came_before() {
        for bad in [[0x14, 3, 3, 0, 1], [0x15, 3, 3, 0, 2], [0x17, 3, 1, 0, 1], [0x17, 3, 3, 0x41, 1]] {
            let mut chunk = [&wrap(b"before", &[6])[..], &bad].concat();
            let (payload, outcome) = uplink().transform(&mut chunk);
            let mut before = *b"before";
            keys(2).stream().apply(&mut before);
            assert_eq!((payload, outcome), (&before[..], Err(BadRecord)));
        }
        assert_eq!(sent(&mut uplink(), vec![0x17, 3, 3, 0, 0, 0x17, 3, 3, 0x41, 0]), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn the_uplink_is_the_payload_under_the_other_cipher(plain in prop::collection::vec(any::<u8>(), 1..5000),
                                                            sizes in prop::collection::vec(1usize..3000, 1..5),
                                                            cuts in prop::collection::vec(1usize..700, 1..20)) {
            let wire = wrap(&plain, &sizes);
            let mut uplink = uplink();
            let (mut rest, mut out) = (&wire[..], Vec::new());
            for cut in cuts.into_iter().cycle() {
                let (chunk, later) = rest.split_at(cut.min(rest.len()));
                out.extend(sent(&mut uplink, chunk.to_vec()).unwrap());
                rest = later;
                if rest.is_empty() { break }
            }
            keys(2).stream().apply(&mut out);
            prop_assert_eq!(out, plain);
        }

        #[test]
        fn arbitrary_records_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let _ = sent(&mut uplink(), bytes);
        }
    }
}
