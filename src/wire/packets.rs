//! The three ways in which clients and data centres frame MTProto packets (docs/protocol.md, "Frames"), and which
//! packets a middle proxy may be given. Sessions that reach their data centre directly hand frames on unread.
//!
//! ```text
//! abridged       n ‖ packet of 4·n bytes                       n below 127; top bit set: a quick ack is asked for
//!                7f ‖ n in 3 bytes ‖ packet of 4·n bytes       ff instead of 7f: likewise
//! intermediate   n in 4 bytes ‖ packet of n bytes              top bit of n: likewise
//! padded         n in 4 bytes ‖ packet and padding, n bytes    likewise
//! ```
//!
//! How long the padding is no one says: whole words of it stay behind the packet, and receivers put up with them.

use super::DecodeError;

/// Longest packet that is believed, so that a client cannot make us gather more. File parts, the longest that clients
/// send, have 512 KiB; the longest answers have 1 MiB and a little.
pub const MAX_PACKET: usize = 1 << 21;

const WORD: usize = 4;
const QUICK_ACK: u32 = 1 << 31;

/// Framing of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Lengths in words, in one byte or four.
    Abridged,
    /// Lengths in bytes, in four bytes.
    Intermediate,
    /// The same with random padding, the only framing inside fake TLS.
    Padded,
}

/// One frame as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whole words: the packet, and what cannot be told from it.
    pub packet: &'a [u8],
    /// Whether the sender asks for a quick ack.
    pub quick_ack: bool,
}

impl Framing {
    /// Reads the frame at the front of `bytes` and says how many of them it takes.
    pub fn decode(self, bytes: &[u8]) -> Result<(Frame<'_>, usize), DecodeError> {
        let head = self.head(bytes)?;
        let broken = head.body % WORD;
        if head.body - broken > MAX_PACKET {
            return Err(DecodeError::Malformed("packet length"));
        }
        if self != Self::Padded && broken != 0 {
            return Err(DecodeError::Malformed("broken word in a packet"));
        }
        let end = head.length + head.body;
        let body = bytes.get(head.length..end).ok_or(DecodeError::Incomplete)?;
        Ok((Frame { packet: &body[..body.len() - broken], quick_ack: head.quick_ack }, end))
    }

    /// Appends a frame without a request for a quick ack. Padding is 0 to 3 bytes, never a whole word, which its
    /// receiver would take for a part of the packet: the first random byte says how many, the others are the padding.
    pub fn encode(self, packet: Packet<'_>, random: [u8; 4], out: &mut Vec<u8>) {
        let [choice, padding @ ..] = random;
        let padding = match self {
            Self::Padded => &padding[..usize::from(choice) % WORD],
            Self::Abridged | Self::Intermediate => &[],
        };
        self.write_head(packet.0.len() + padding.len(), out);
        out.extend_from_slice(packet.0);
        out.extend_from_slice(padding);
    }

    /// Answers a request for a quick ack: the token, bare, laid out so that its top bit stands where a length has none.
    pub fn quick_ack(self, token: u32) -> [u8; 4] {
        match self {
            Self::Abridged => token.to_be_bytes(),
            Self::Intermediate | Self::Padded => token.to_le_bytes(),
        }
    }

    fn head(self, bytes: &[u8]) -> Result<Head, DecodeError> {
        if self != Self::Abridged {
            let word = u32::from_le_bytes(*bytes.first_chunk().ok_or(DecodeError::Incomplete)?);
            return Ok(Head { length: 4, body: (word & !QUICK_ACK) as usize, quick_ack: word & QUICK_ACK != 0 });
        }
        let first = *bytes.first().ok_or(DecodeError::Incomplete)?;
        let (words, quick_ack) = (first & 0x7f, first & 0x80 != 0);
        if words < LONG_FORM {
            return Ok(Head { length: 1, body: usize::from(words) * WORD, quick_ack });
        }
        let word = u32::from_le_bytes(*bytes.first_chunk().ok_or(DecodeError::Incomplete)?);
        Ok(Head { length: 4, body: (word >> 8) as usize * WORD, quick_ack })
    }

    fn write_head(self, body: usize, out: &mut Vec<u8>) {
        let words = body / WORD;
        match self {
            Self::Abridged if words < usize::from(LONG_FORM) => out.push(words as u8),
            Self::Abridged => out.extend_from_slice(&((words as u32) << 8 | u32::from(LONG_FORM)).to_le_bytes()),
            Self::Intermediate | Self::Padded => out.extend_from_slice(&(body as u32).to_le_bytes()),
        }
    }
}

/// In place of a number of words: the number follows in three bytes.
const LONG_FORM: u8 = 0x7f;

struct Head {
    length: usize,
    body: usize,
    quick_ack: bool,
}

/// A packet that every framing can carry: whole words, one at least, [`MAX_PACKET`] bytes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a>(&'a [u8]);

impl<'a> Packet<'a> {
    /// These bytes, if they are a packet by their number.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let fits = (WORD..=MAX_PACKET).contains(&bytes.len()) && bytes.len().is_multiple_of(WORD);
        fits.then_some(Self(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// A client's packet that a middle proxy may be given. Whatever else a client sends ends its session here, since a
/// middle proxy could hold it against the whole link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPacket<'a> {
    packet: Packet<'a>,
    encrypted: bool,
}

/// Reason why a client's packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too short, too long or no whole words.
    Size,
    /// Neither encrypted nor a whole message by itself.
    BodyLength,
    /// In clear, but no step of a key exchange.
    NotKeyExchange,
}

impl<'a> ClientPacket<'a> {
    /// Shortest packet: a key's number, a message key and one word; or the head of an unencrypted message and two.
    const MIN: usize = 28;

    /// The only messages that clients send before they have a key.
    const KEY_EXCHANGE: [u32; 4] = [
        0x6046_9778, // req_pq
        0xbe7e_8ef1, // req_pq_multi
        0xd712_e4be, // req_DH_params
        0xf504_5f1f, // set_client_DH_params
    ];

    /// Examines what a client sent.
    ///
    /// ```text
    /// 0          8          16       20
    /// ├ key id ──┼───────────────────────── encrypted ─┤   key id not zero
    /// ├ 0 ───────┼ message ─┼ length ┼ type ‖ …  ┼ pad ─┤   key id zero
    /// ```
    pub fn examine(bytes: &'a [u8]) -> Result<Self, Refused> {
        let packet = Packet::new(bytes).filter(|packet| packet.0.len() >= Self::MIN).ok_or(Refused::Size)?;
        let encrypted = !bytes.starts_with(&[0; 8]);
        if !encrypted {
            Self::examine_clear(bytes)?;
        }
        Ok(Self { packet, encrypted })
    }

    fn examine_clear(bytes: &[u8]) -> Result<(), Refused> {
        const BODY: usize = 20;
        const MIN_BODY: usize = 20;
        let [length, kind] = [16, BODY].map(|at| word_at(bytes, at));
        if !(MIN_BODY..=bytes.len() - BODY).contains(&(length as usize)) {
            return Err(Refused::BodyLength);
        }
        if Self::KEY_EXCHANGE.contains(&kind) { Ok(()) } else { Err(Refused::NotKeyExchange) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.packet.0
    }

    /// Whether it is under a key of client and data centre.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }
}

/// The word at byte `at` of at least 28 bytes.
fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + WORD].try_into().expect("the range is one word"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::vector;

    const ALL: [Framing; 3] = [Framing::Abridged, Framing::Intermediate, Framing::Padded];

    /// Every prefix is a beginning, and the whole is whole whatever follows.
    fn decoded(framing: Framing, frame: &[u8]) -> Frame<'_> {
        for length in 0..frame.len() {
            assert_eq!(framing.decode(&frame[..length]), Err(DecodeError::Incomplete), "{framing:?} at {length}");
        }
        let (decoded, end) = framing.decode(frame).unwrap();
        assert_eq!(end, frame.len());
        let longer = [frame, &[0xff; 9]].concat();
        assert_eq!(framing.decode(&longer), Ok((decoded, end)));
        decoded
    }

    fn encoded(framing: Framing, packet: &[u8], random: [u8; 4]) -> Vec<u8> {
        let mut out = Vec::new();
        framing.encode(Packet::new(packet).unwrap(), random, &mut out);
        out
    }

    #[test]
    fn frames_of_the_vectors_hold_the_packet() {
        let packet = vector("req_pq", "packet");
        // Padding of the client and of the server; the latter is what we send.
        for (group, framing, client, server) in [
            ("O1_nosecret_interm", Framing::Intermediate, 0, &[][..]),
            ("O2_plain16_abridged_media", Framing::Abridged, 0, &[]),
            ("O3_dd_padded", Framing::Padded, 7, &[0x5e, 0xfa, 0x8c]),
            ("O4_ee_in_tls", Framing::Padded, 5, &[0x66, 0xd2]),
        ] {
            let up = vector(group, "up_plain");
            let frame = decoded(framing, &up);
            assert!(!frame.quick_ack);
            assert_eq!(frame.packet[..40], packet, "{group}");
            assert_eq!(frame.packet.len(), 40 + client / 4 * 4, "{group}");
            assert!(!ClientPacket::examine(frame.packet).unwrap().is_encrypted());

            let down = vector(group, "dn_plain");
            let mut random = [server.len() as u8 | 0xf0, 0, 0, 0];
            random[1..][..server.len()].copy_from_slice(server);
            let answer = decoded(framing, &down).packet;
            assert_eq!(answer.len(), 40);
            assert_eq!(encoded(framing, answer, random), down, "{group}");
            if client == 0 {
                assert_eq!(encoded(framing, &packet, [0xff; 4]), up, "{group}");
            }
        }
    }

    #[test]
    fn small_encodings() {
        let starts = |framing, words: usize| encoded(framing, &vec![0; words * 4], [0; 4])[..4].to_vec();
        assert_eq!(starts(Framing::Abridged, 10), [10, 0, 0, 0]);
        assert_eq!(starts(Framing::Abridged, 126), [126, 0, 0, 0]);
        assert_eq!(starts(Framing::Abridged, 127), [0x7f, 127, 0, 0]);
        assert_eq!(starts(Framing::Intermediate, 10), [40, 0, 0, 0]);
        assert_eq!(Framing::Abridged.quick_ack(0x9abc_def1), [0x9a, 0xbc, 0xde, 0xf1]);
        assert_eq!(Framing::Intermediate.quick_ack(0x9abc_def1), [0xf1, 0xde, 0xbc, 0x9a]);
        assert_eq!(Framing::Padded.quick_ack(0x9abc_def1), [0xf1, 0xde, 0xbc, 0x9a]);
    }

    #[test]
    fn the_top_bit_asks_for_a_quick_ack() {
        for (framing, top, words) in [
            (Framing::Abridged, 0, 10),
            (Framing::Abridged, 0, 300),
            (Framing::Intermediate, 3, 10),
            (Framing::Padded, 3, 10),
        ] {
            let packet = vec![5; words * 4];
            let mut frame = encoded(framing, &packet, [0; 4]);
            frame[top] |= 0x80;
            assert_eq!(decoded(framing, &frame), Frame { packet: &packet, quick_ack: true });
        }
    }

    #[test]
    fn bad_lengths_are_known_from_the_length_alone() {
        let word = |length: usize| (length as u32).to_le_bytes();
        let words = |length: usize| ((length as u32 / 4) << 8 | 0x7f).to_le_bytes();
        for (framing, head, bad) in [
            (Framing::Abridged, words(MAX_PACKET), false),
            (Framing::Abridged, words(MAX_PACKET + 4), true),
            (Framing::Intermediate, word(MAX_PACKET), false),
            (Framing::Intermediate, word(MAX_PACKET + 4), true),
            (Framing::Intermediate, word(41), true),
            (Framing::Padded, word(MAX_PACKET + 3), false),
            (Framing::Padded, word(MAX_PACKET + 4), true),
            (Framing::Padded, word(41), false),
        ] {
            let malformed = matches!(framing.decode(&head), Err(DecodeError::Malformed(_)));
            assert_eq!(malformed, bad, "{framing:?} {head:x?}");
        }
    }

    #[test]
    fn only_packets_that_a_client_would_send_go_on() {
        let good = vector("req_pq", "packet");
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = good.clone();
            packet[at..][..bytes.len()].copy_from_slice(bytes);
            packet
        };
        let outcome = |packet: &[u8]| ClientPacket::examine(packet).map(|packet| packet.is_encrypted());
        for (what, packet, expected) in [
            ("the vector", good.clone(), Ok(false)),
            ("padding behind it", [&good[..], &[7; 12]].concat(), Ok(false)),
            ("req_pq", with(20, &0x6046_9778_u32.to_le_bytes()), Ok(false)),
            ("req_DH_params", with(20, &0xd712_e4be_u32.to_le_bytes()), Ok(false)),
            ("set_client_DH_params", with(20, &0xf504_5f1f_u32.to_le_bytes()), Ok(false)),
            ("a key id", with(7, &[1]), Ok(true)),
            ("the shortest", vec![1; 28], Ok(true)),
            ("the longest", vec![1; MAX_PACKET], Ok(true)),
            ("nothing", vec![], Err(Refused::Size)),
            ("too short", vec![1; 24], Err(Refused::Size)),
            ("too long", vec![1; MAX_PACKET + 4], Err(Refused::Size)),
            ("a broken word", vec![1; 41], Err(Refused::Size)),
            ("the shortest in clear", vec![0; 28], Err(Refused::BodyLength)),
            ("too short a body", with(16, &[19]), Err(Refused::BodyLength)),
            ("a body beyond its packet", with(16, &[21]), Err(Refused::BodyLength)),
            ("another request", with(20, &[0]), Err(Refused::NotKeyExchange)),
        ] {
            assert_eq!(outcome(&packet), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn packets_survive_every_framing(packet in prop::collection::vec(any::<[u8; 4]>(), 1..300),
                                         random: [u8; 4], framing in prop::sample::select(&ALL[..])) {
            let packet = packet.as_flattened();
            let frame = encoded(framing, packet, random);
            prop_assert_eq!(decoded(framing, &frame), Frame { packet, quick_ack: false });
        }

        #[test]
        fn arbitrary_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600),
                                        framing in prop::sample::select(&ALL[..])) {
            if let Ok((frame, end)) = framing.decode(&bytes) {
                prop_assert!(end <= bytes.len() && frame.packet.len().is_multiple_of(4));
            }
            let _ = ClientPacket::examine(&bytes);
            let mut clear = vec![0; 16];
            clear.extend(bytes);
            let _ = ClientPacket::examine(&clear);
        }
    }
}
