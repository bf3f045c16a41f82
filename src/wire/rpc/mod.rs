//! What a proxy and a middle proxy say to each other (docs/protocol.md, "Middle-proxy links").
//!
//! [`frame`] cuts the stream into numbered, checksummed payloads and back; [`message`] says what a payload means;
//! [`opening`] holds the two messages with which a link begins and the rules by which each end accepts the other's.
//! The cipher between nonce and handshake is `crypto::{CbcEncrypt, CbcDecrypt}`, its keys are `crypto::middle_kdf`'s.
//!
//! ```text
//! proxy                                   middle proxy
//!   nonce      −2  in clear  ──▶
//!                            ◀──  in clear  −2  nonce            keys: both nonces, both addresses, the secret
//!   handshake  −1  encrypted ──▶
//!                            ◀── encrypted  −1  handshake        checksum: CRC-32C if both want it
//!   requests    0… encrypted ──▶
//!                            ◀── encrypted   0… answers, acks, closes
//! ```
//!
//! All integers are little-endian. Both directions of every message can be written and read, so that a middle proxy
//! for tests needs no codec of its own.

pub mod frame;
pub mod message;
pub mod opening;

pub use frame::{Checksum, FrameReader, FrameWriter, pad_to_block};
pub use message::{AdTag, Answer, ConnectionId, Message, NoTag, Request};
pub use opening::{Handshake, HandshakeError, Nonce, ProcessId, Unacceptable};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{CbcDecrypt, CbcEncrypt};
    use crate::fixtures::{vector, vector_array};
    use crate::wire::DecodeError;
    use crate::wire::packets::Packet;

    fn message(payload: &[u8]) -> Message<'_> {
        Message::decode(payload).unwrap().unwrap()
    }

    /// The payload inside a vector that is one frame, behind which padding may stand.
    fn payload(frame: &[u8]) -> &[u8] {
        let length = u32::from_le_bytes(*frame.first_chunk().unwrap()) as usize;
        &frame[8..length - 4]
    }

    #[test]
    fn what_we_send_is_the_vectors_link() {
        let mut writer = FrameWriter::default();
        let mut clear = Vec::new();
        writer.write(&message(payload(&vector("M_nonce", "c2s"))), &mut clear);
        assert_eq!(clear, vector("M_nonce", "c2s"));

        let mut encrypt = CbcEncrypt::new(&vector_array("M_keys4", "write_key"), &vector_array("M_keys4", "write_iv"));
        for group in ["M_handshake", "M_proxy_req"] {
            let mut out = Vec::new();
            writer.write(&message(payload(&vector(group, "plain"))), &mut out);
            pad_to_block(&mut out);
            assert_eq!(out, vector(group, "plain"), "{group}");
            encrypt.apply(out.as_chunks_mut().0);
            assert_eq!(out, vector(group, "wire"), "{group}");
        }
    }

    /// However the network cuts it.
    #[test]
    fn what_we_receive_is_the_vectors_link() {
        let encrypted = ["M_handshake_ans", "M_proxy_ans", "M_close_ext"].map(|group| vector(group, "wire")).concat();
        for cut in [1, 7, 16, 17, 50, 1000] {
            let mut reader = FrameReader::default();
            let nonce = vector("M_nonce", "s2c");
            let mut rest = &nonce[..];
            assert!(matches!(message(reader.read(&mut rest).unwrap()), Message::Nonce(_)));

            let mut link = Link { reader, ..Link::default() };
            encrypted.chunks(cut).for_each(|chunk| link.feed(chunk));
            let id = ConnectionId(0x1122_3344_5566_7788);
            let packet = vector("O1_nosecret_interm", "dn_plain").split_off(4);
            let [Seen::Handshake, Seen::Answer(answered, data), Seen::Close(closed)] = &link.seen[..] else {
                panic!("{:?}", link.seen)
            };
            assert_eq!((answered, closed), (&id, &id));
            assert_eq!(data, &packet);
            assert!(link.plain.len() < 16, "padding is left");
        }
    }

    #[derive(Debug)]
    enum Seen {
        Handshake,
        Answer(ConnectionId, Vec<u8>),
        Close(ConnectionId),
    }

    /// What a link's receiving side will look like, less the socket.
    struct Link {
        reader: FrameReader,
        decrypt: CbcDecrypt,
        cipher: Vec<u8>,
        plain: Vec<u8>,
        seen: Vec<Seen>,
    }

    impl Default for Link {
        fn default() -> Self {
            let decrypt = CbcDecrypt::new(&vector_array("M_keys4", "read_key"), &vector_array("M_keys4", "read_iv"));
            Self { reader: FrameReader::default(), decrypt, cipher: vec![], plain: vec![], seen: vec![] }
        }
    }

    impl Link {
        fn feed(&mut self, chunk: &[u8]) {
            self.cipher.extend_from_slice(chunk);
            let blocks = self.cipher.as_chunks_mut().0;
            self.decrypt.apply(blocks);
            let whole = blocks.as_flattened().len();
            self.plain.extend(self.cipher.drain(..whole));
            let mut rest = &self.plain[..];
            let end = loop {
                match self.reader.read(&mut rest) {
                    Ok(payload) => self.seen.push(match message(payload) {
                        Message::Handshake(_) => Seen::Handshake,
                        Message::Answer(answer) => Seen::Answer(answer.connection, answer.packet.bytes().to_vec()),
                        Message::CloseExt(id) => Seen::Close(id),
                        other => panic!("{other:?}"),
                    }),
                    Err(error) => break error,
                }
            };
            assert_eq!(end, DecodeError::Incomplete);
            self.plain = rest.to_vec();
        }
    }

    #[test]
    fn pings_and_pongs_are_the_vectors() {
        let id = 0x0102_0304_0506_0708;
        assert_eq!(message(payload(&vector("M_ping", "ping"))), Message::Ping(id));
        assert_eq!(message(payload(&vector("M_ping", "pong"))), Message::Pong(id));
        for (name, sequence, sent) in [("ping", 2, Message::Ping(id)), ("pong", 1, Message::Pong(id))] {
            let mut out = Vec::new();
            FrameWriter::at(sequence, Checksum::Crc32).write(&sent, &mut out);
            assert_eq!(out, vector("M_ping", name));
        }
    }

    /// The handshake's own frame still has the old checksum.
    #[test]
    fn asking_for_the_other_checksum_is_the_vectors_handshake() {
        let theirs = vector("M_ping", "hs_crc32c");
        let asking = message(payload(&theirs));
        assert!(matches!(asking, Message::Handshake(Handshake { wants_crc32c: true, .. })));
        let mut out = Vec::new();
        FrameWriter::at(-1, Checksum::Crc32c).write(&asking, &mut out);
        pad_to_block(&mut out);
        assert_eq!(out, theirs);
    }

    /// As long as a packet may be, a request and an answer about it fit into a frame.
    #[test]
    fn the_longest_messages_fit_into_a_frame() {
        let longest = vec![1; crate::wire::packets::MAX_PACKET];
        let packet = Packet::new(&longest).unwrap();
        let answer = Message::Answer(Answer { flags: 0, connection: ConnectionId(1), packet });
        let mut out = Vec::new();
        FrameWriter::at(0, Checksum::Crc32c).write(&answer, &mut out);
        let payload = FrameReader::at(0, Checksum::Crc32c).read(&mut &out[..]).map(<[u8]>::to_vec).unwrap();
        assert_eq!(message(&payload), answer);
    }
}
