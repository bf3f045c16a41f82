//! Payloads: a word that says what follows, and its fields.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use super::opening::{Handshake, HandshakeError, Nonce};
use crate::wire::DecodeError;
use crate::wire::cursor::Cursor;
use crate::wire::packets::{ClientPacket, Framing, Packet};

/// Identifier of a client's connection on one link; chosen by us, the same for no two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// Everything that is said on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Opens the link, both ways.
    Nonce(Nonce),
    /// First encrypted message, both ways.
    Handshake(Handshake),
    /// The handshake was refused.
    HandshakeError(HandshakeError),
    /// RPC_PROXY_REQ, to the middle proxy: a client's packet.
    Request(Request<'a>),
    /// RPC_PROXY_ANS, from the middle proxy: a packet for a client.
    Answer(Answer<'a>),
    /// RPC_SIMPLE_ACK, from the middle proxy: the token of a quick ack.
    SimpleAck(ConnectionId, u32),
    /// RPC_CLOSE_EXT, from the middle proxy: this client's connection is to end.
    CloseExt(ConnectionId),
    /// RPC_CLOSE_CONN, mostly to the middle proxy: this client is gone.
    CloseConnection(ConnectionId),
    /// RPC_PING, both ways.
    Ping(u64),
    /// RPC_PONG, the answer to a ping with its number.
    Pong(u64),
}

mod kind {
    pub const NONCE: u32 = 0x7acb_87aa;
    pub const HANDSHAKE: u32 = 0x7682_eef5;
    pub const HANDSHAKE_ERROR: u32 = 0x6a27_beda;
    pub const PROXY_REQ: u32 = 0x36ce_f1ee;
    pub const PROXY_ANS: u32 = 0x4403_da0d;
    pub const SIMPLE_ACK: u32 = 0x3bac_409b;
    pub const CLOSE_EXT: u32 = 0x5eb6_34a2;
    pub const CLOSE_CONN: u32 = 0x1fcf_425d;
    pub const PING: u32 = 0x5730_a2df;
    pub const PONG: u32 = 0x8430_eaa7;
}

impl<'a> Message<'a> {
    /// Reads a whole payload; `None` for a message that this program has no use for.
    pub fn decode(payload: &'a [u8]) -> Result<Option<Self>, DecodeError> {
        let mut body = Cursor::new(payload);
        let message = match word(&mut body, "message type")? {
            kind::NONCE => Self::Nonce(Nonce::decode(&mut body)?),
            kind::HANDSHAKE => Self::Handshake(Handshake::decode(&mut body)?),
            kind::HANDSHAKE_ERROR => Self::HandshakeError(HandshakeError::decode(&mut body)?),
            kind::PROXY_REQ => return Request::decode(body).map(|request| Some(Self::Request(request))),
            kind::PROXY_ANS => return Answer::decode(body).map(|answer| Some(Self::Answer(answer))),
            kind::SIMPLE_ACK => Self::SimpleAck(connection(&mut body)?, word(&mut body, "token")?),
            kind::CLOSE_EXT => Self::CloseExt(connection(&mut body)?),
            kind::CLOSE_CONN => Self::CloseConnection(connection(&mut body)?),
            kind::PING => Self::Ping(long(&mut body, "ping id")?),
            kind::PONG => Self::Pong(long(&mut body, "ping id")?),
            _ => return Ok(None),
        };
        body.end("bytes behind a message")?;
        Ok(Some(message))
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.kind().to_le_bytes());
        match self {
            Self::Nonce(nonce) => nonce.encode(out),
            Self::Handshake(handshake) => handshake.encode(out),
            Self::HandshakeError(error) => error.encode(out),
            Self::Request(request) => request.encode(out),
            Self::Answer(answer) => answer.encode(out),
            Self::SimpleAck(ConnectionId(id), token) => {
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&token.to_le_bytes());
            }
            Self::CloseExt(ConnectionId(id))
            | Self::CloseConnection(ConnectionId(id))
            | Self::Ping(id)
            | Self::Pong(id) => {
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
    }

    fn kind(&self) -> u32 {
        match self {
            Self::Nonce(_) => kind::NONCE,
            Self::Handshake(_) => kind::HANDSHAKE,
            Self::HandshakeError(_) => kind::HANDSHAKE_ERROR,
            Self::Request(_) => kind::PROXY_REQ,
            Self::Answer(_) => kind::PROXY_ANS,
            Self::SimpleAck(..) => kind::SIMPLE_ACK,
            Self::CloseExt(_) => kind::CLOSE_EXT,
            Self::CloseConnection(_) => kind::CLOSE_CONN,
            Self::Ping(_) => kind::PING,
            Self::Pong(_) => kind::PONG,
        }
    }
}

/// A client's packet on its way to a data centre.
///
/// ```text
/// flags (4) ‖ connection (8) ‖ client (16 + 4) ‖ ours (16 + 4) ‖ with a tag: 24 ‖ its record (24) ‖ packet
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Connection that the packet belongs to.
    pub connection: ConnectionId,
    /// The client's address.
    pub client: SocketAddr,
    /// The address at which the client reached us.
    pub ours: SocketAddr,
    /// Framing of the client's packets.
    pub framing: Framing,
    /// Whether the client asks for a quick ack of this packet.
    pub quick_ack: bool,
    /// In whose name the proxy runs.
    pub tag: Option<AdTag>,
    /// The packet.
    pub packet: ClientPacket<'a>,
}

/// In whose name a proxy runs, for the channel that Telegram shows to its users: what @MTProxybot gives to anyone who
/// registers a proxy. Read and written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdTag(pub [u8; 16]);

impl fmt::Debug for AdTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdTag({self})")
    }
}

impl fmt::Display for AdTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

/// These are not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTag;

impl FromStr for AdTag {
    type Err = NoTag;

    fn from_str(text: &str) -> Result<Self, NoTag> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| NoTag)?;
        bytes.try_into().map(Self).map_err(|_| NoTag)
    }
}

mod flag {
    pub const NOT_ENCRYPTED: u32 = 0x2;
    pub const TAG: u32 = 0x8;
    /// Of every request: the protocol's mark, and that the client speaks obfuscated2.
    pub const ALWAYS: u32 = 0x1000 | 0x2_0000;
    pub const PADDED: u32 = 0x0800_0000;
    pub const INTERMEDIATE: u32 = 0x2000_0000;
    pub const ABRIDGED: u32 = 0x4000_0000;
    pub const QUICK_ACK: u32 = 0x8000_0000;
}

/// The record around a tag: its type, the tag as a string with its length, three bytes that fill the last word.
const TAG_RECORD: usize = 24;
const TAG_HEAD: [u8; 5] = [0xae, 0x26, 0x1e, 0xdb, 16];
const TAG_FILL: [u8; 3] = [0; 3];

impl<'a> Request<'a> {
    fn flags(&self) -> u32 {
        let framing = match self.framing {
            Framing::Abridged => flag::ABRIDGED,
            Framing::Intermediate => flag::INTERMEDIATE,
            Framing::Padded => flag::INTERMEDIATE | flag::PADDED,
        };
        let set = |condition: bool, flag: u32| if condition { flag } else { 0 };
        flag::ALWAYS
            | framing
            | set(!self.packet.is_encrypted(), flag::NOT_ENCRYPTED)
            | set(self.tag.is_some(), flag::TAG)
            | set(self.quick_ack, flag::QUICK_ACK)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.flags().to_le_bytes());
        out.extend_from_slice(&self.connection.0.to_le_bytes());
        encode_address(self.client, out);
        encode_address(self.ours, out);
        if let Some(tag) = &self.tag {
            out.extend_from_slice(&(TAG_RECORD as u32).to_le_bytes());
            out.extend_from_slice(&TAG_HEAD);
            out.extend_from_slice(&tag.0);
            out.extend_from_slice(&TAG_FILL);
        }
        out.extend_from_slice(self.packet.bytes());
    }

    /// Reads what [`Self::encode`] writes and nothing else: of other kinds of request this program knows nothing.
    fn decode(mut body: Cursor<'a>) -> Result<Self, DecodeError> {
        let flags = word(&mut body, "request flags")?;
        let connection = connection(&mut body)?;
        let (client, ours) = (decode_address(&mut body)?, decode_address(&mut body)?);
        let tag = if flags & flag::TAG != 0 { Some(decode_tag(&mut body)?) } else { None };
        let packet = ClientPacket::examine(body.rest()).map_err(|_| DecodeError::Malformed("packet"))?;
        let framing = framing(flags)?;
        let quick_ack = flags & flag::QUICK_ACK != 0;
        let request = Self { connection, client, ours, framing, quick_ack, tag, packet };
        if request.flags() == flags { Ok(request) } else { Err(DecodeError::Malformed("request flags")) }
    }
}

fn framing(flags: u32) -> Result<Framing, DecodeError> {
    match flags & (flag::ABRIDGED | flag::INTERMEDIATE | flag::PADDED) {
        flag::ABRIDGED => Ok(Framing::Abridged),
        flag::INTERMEDIATE => Ok(Framing::Intermediate),
        both if both == flag::INTERMEDIATE | flag::PADDED => Ok(Framing::Padded),
        _ => Err(DecodeError::Malformed("request flags")),
    }
}

fn decode_tag(body: &mut Cursor<'_>) -> Result<AdTag, DecodeError> {
    let length = word(body, "tag record")?;
    let head = *body.array("tag record")?;
    let tag = AdTag(*body.array("tag")?);
    let fill = *body.array("tag record")?;
    let well_formed = length as usize == TAG_RECORD && head == TAG_HEAD && fill == TAG_FILL;
    well_formed.then_some(tag).ok_or(DecodeError::Malformed("tag record"))
}

/// Sixteen bytes in network order, an IPv4 address mapped into IPv6, and the port in four bytes.
fn encode_address(address: SocketAddr, out: &mut Vec<u8>) {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&u32::from(address.port()).to_le_bytes());
}

fn decode_address(body: &mut Cursor<'_>) -> Result<SocketAddr, DecodeError> {
    let ip = Ipv6Addr::from(*body.array::<16>("address")?).to_canonical();
    let port = u16::try_from(word(body, "port")?).map_err(|_| DecodeError::Malformed("port"))?;
    Ok(SocketAddr::new(ip, port))
}

/// A packet for a client.
///
/// ```text
/// flags (4) ‖ connection (8) ‖ packet
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// As sent; [`Answer::FLUSH`] and [`Answer::ERROR`] are known.
    pub flags: u32,
    /// For whom.
    pub connection: ConnectionId,
    /// The packet.
    pub packet: Packet<'a>,
}

impl<'a> Answer<'a> {
    /// Flag: hand this on at once.
    pub const FLUSH: u32 = 8;
    /// Flag: the packet is one word that says what went wrong.
    pub const ERROR: u32 = 16;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.connection.0.to_le_bytes());
        out.extend_from_slice(self.packet.bytes());
    }

    fn decode(mut body: Cursor<'a>) -> Result<Self, DecodeError> {
        let flags = word(&mut body, "answer flags")?;
        let connection = connection(&mut body)?;
        let packet = Packet::new(body.rest()).ok_or(DecodeError::Malformed("packet"))?;
        Ok(Self { flags, connection, packet })
    }
}

fn word(body: &mut Cursor<'_>, what: &'static str) -> Result<u32, DecodeError> {
    body.array(what).map(|bytes| u32::from_le_bytes(*bytes))
}

fn long(body: &mut Cursor<'_>, what: &'static str) -> Result<u64, DecodeError> {
    body.array(what).map(|bytes| u64::from_le_bytes(*bytes))
}

fn connection(body: &mut Cursor<'_>) -> Result<ConnectionId, DecodeError> {
    long(body, "connection id").map(ConnectionId)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ProcessId;
    use super::*;
    use crate::fixtures::{unhex, vector, vector_word};

    fn encoded(message: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out);
        out
    }

    /// The client of the vectors, with whatever packet.
    fn request(packet: &[u8]) -> Request<'_> {
        Request {
            connection: ConnectionId(0x1122_3344_5566_7788),
            client: "198.51.100.23:51234".parse().unwrap(),
            ours: "203.0.113.7:40000".parse().unwrap(),
            framing: Framing::Padded,
            quick_ack: false,
            tag: Some("00112233445566778899aabbccddeeff".parse().unwrap()),
            packet: ClientPacket::examine(packet).unwrap(),
        }
    }

    #[test]
    fn the_vectors_request_is_ours() {
        let packet = vector("req_pq", "packet");
        let request = request(&packet);
        assert_eq!(request.flags(), vector_word("M_proxy_req", "flags"));
        let payload = vector("M_proxy_req", "payload");
        assert_eq!(encoded(&Message::Request(request)), payload);
        assert_eq!(Message::decode(&payload), Ok(Some(Message::Request(request))));
    }

    #[test]
    fn flags_are_those_of_the_protocol() {
        let clear = vector("req_pq", "packet");
        for (framing, expected) in
            [(Framing::Abridged, 0x4002_1008), (Framing::Intermediate, 0x2002_1008), (Framing::Padded, 0x2802_1008)]
        {
            let request = Request { framing, ..request(&[1; 28]) };
            assert_eq!(request.flags(), expected);
            assert_eq!(Request { quick_ack: true, ..request }.flags(), expected | 0x8000_0000);
            assert_eq!(Request { tag: None, ..request }.flags(), expected & !8);
            let packet = ClientPacket::examine(&clear).unwrap();
            assert_eq!(Request { packet, ..request }.flags(), expected | 2);
        }
        let untagged = Request { tag: None, ..request(&clear) };
        assert_eq!(encoded(&Message::Request(untagged)).len(), 4 + 52 + clear.len());
    }

    #[test]
    fn requests_of_other_kinds_are_malformed() {
        let good = vector("M_proxy_req", "payload");
        let without_mark = vector_word("M_proxy_req", "flags") & !0x1000;
        for (what, at, bytes) in [
            ("no mark", 4, &without_mark.to_le_bytes()[..]),
            ("an HTTP client", 4, &[0x0e]),
            ("said to be encrypted", 4, &[0x08]),
            ("two framings", 7, &[0x68]),
            ("padded only", 7, &[0x08]),
            ("a port beyond 65535", 34, &[1]),
            ("another extra record", 60, &[0]),
            ("a longer tag", 64, &[17]),
            ("a longer extra block", 56, &[28]),
            ("fill that is none", 81, &[1]),
            ("a packet that no client sends", 104, &[0]),
        ] {
            let mut payload = good.clone();
            payload[at..][..bytes.len()].copy_from_slice(bytes);
            assert!(matches!(Message::decode(&payload), Err(DecodeError::Malformed(_))), "{what}");
        }
    }

    #[test]
    fn a_cut_payload_is_malformed_wherever_it_is_cut() {
        let ack = encoded(&Message::SimpleAck(ConnectionId(1), 2));
        let pid = ProcessId { ip: [1, 2, 3, 4].into(), port: 5, pid: 6, start: 7 };
        let error = encoded(&Message::HandshakeError(HandshakeError { code: -7, sender: pid }));
        let nonce = vector("M_nonce", "c2s")[8..40].to_vec();
        let handshake = vector("M_handshake", "plain")[8..40].to_vec();
        let close = vector("M_close_ext", "plain")[8..20].to_vec();
        for payload in [ack, error, nonce, handshake, close] {
            assert!(Message::decode(&payload).unwrap().is_some());
            for length in 0..payload.len() {
                assert!(matches!(Message::decode(&payload[..length]), Err(DecodeError::Malformed(_))), "{length}");
            }
            let longer = [&payload[..], &[0; 4]].concat();
            assert_eq!(Message::decode(&longer), Err(DecodeError::Malformed("bytes behind a message")));
        }
    }

    #[test]
    fn types_and_fields_stand_where_the_protocol_has_them() {
        let id = ConnectionId(0x0807_0605_0403_0201);
        for (message, hex) in [
            (Message::SimpleAck(id, 0x8c8b_8a89), "9b40ac3b0102030405060708898a8b8c"),
            (Message::CloseExt(id), "a234b65e0102030405060708"),
            (Message::CloseConnection(id), "5d42cf1f0102030405060708"),
        ] {
            assert_eq!(encoded(&message), unhex(hex));
        }
        let error = unhex("dabe276af9ffffff040302010500060007000000");
        let sender = ProcessId { ip: [1, 2, 3, 4].into(), port: 5, pid: 6, start: 7 };
        let expected = Message::HandshakeError(HandshakeError { code: -7, sender });
        assert_eq!(Message::decode(&error), Ok(Some(expected)));
    }

    #[test]
    fn other_messages_are_ignored_and_other_schemas_are_not() {
        assert_eq!(Message::decode(&[1; 40]), Ok(None));
        let mut nonce = vector("M_nonce", "s2c")[8..40].to_vec();
        nonce[8] = 3;
        assert_eq!(Message::decode(&nonce), Err(DecodeError::Malformed("crypto schema")));
        let mut handshake = vector("M_handshake", "plain")[8..40].to_vec();
        handshake[4] = 1;
        assert_eq!(Message::decode(&handshake), Err(DecodeError::Malformed("handshake flags")));
    }

    #[test]
    fn answers_carry_the_packet() {
        let payload = vector("M_proxy_ans", "plain")[8..64].to_vec();
        let Ok(Some(Message::Answer(answer))) = Message::decode(&payload) else { panic!() };
        assert_eq!(answer.packet.bytes(), &vector("O1_nosecret_interm", "dn_plain")[4..]);
        assert_eq!((answer.flags, answer.connection), (0, ConnectionId(0x1122_3344_5566_7788)));
        assert_eq!(encoded(&Message::Answer(answer)), payload);
        assert_eq!(Message::decode(&payload[..16]), Err(DecodeError::Malformed("packet")));
    }

    fn any_request(packet: &[u8], fields: (u64, IpAddr, u16, bool, Option<[u8; 16]>), framing: Framing) -> Request<'_> {
        let (id, ip, port, quick_ack, tag) = fields;
        let client = SocketAddr::new(ip.to_canonical(), port);
        Request { connection: ConnectionId(id), client, framing, quick_ack, tag: tag.map(AdTag), ..request(packet) }
    }

    proptest! {
        #[test]
        fn messages_survive_the_trip(packet in prop::collection::vec(any::<[u8; 4]>(), 7..60), id: u64, word: u32,
                                     fields: (u64, IpAddr, u16, bool, Option<[u8; 16]>),
                                     process: ([u8; 4], u16, u16, u32), nonce: ([u8; 4], u32, [u8; 16]), flag: bool,
                                     framing in prop::sample::select(&[Framing::Abridged, Framing::Intermediate, Framing::Padded][..])) {
            let mut packet = packet.into_flattened();
            packet[0] |= 1;
            let connection = ConnectionId(id);
            let sender = ProcessId { ip: process.0.into(), port: process.1, pid: process.2, start: process.3 };
            let peer = ProcessId { start: word, ..sender };
            for message in [
                Message::Nonce(Nonce { selector: nonce.0, time: nonce.1, nonce: nonce.2 }),
                Message::Handshake(Handshake { wants_crc32c: flag, sender, peer }),
                Message::HandshakeError(HandshakeError { code: word as i32, sender }),
                Message::Request(any_request(&packet, fields, framing)),
                Message::Answer(Answer { flags: word, connection, packet: Packet::new(&packet).unwrap() }),
                Message::SimpleAck(connection, word),
                Message::CloseExt(connection),
                Message::CloseConnection(connection),
                Message::Ping(id),
                Message::Pong(id),
            ] {
                let payload = encoded(&message);
                prop_assert!(payload.len().is_multiple_of(4));
                prop_assert_eq!(Message::decode(&payload), Ok(Some(message)));
            }
        }

        #[test]
        fn arbitrary_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..128, value: u8) {
            let _ = Message::decode(&bytes);
            for kind in [kind::NONCE, kind::HANDSHAKE, kind::HANDSHAKE_ERROR, kind::PROXY_REQ, kind::PROXY_ANS,
                         kind::SIMPLE_ACK, kind::CLOSE_EXT, kind::CLOSE_CONN, kind::PING, kind::PONG] {
                let _ = Message::decode(&[&kind.to_le_bytes()[..], &bytes].concat());
            }
            let mut payload = vector("M_proxy_req", "payload");
            let at = at.min(payload.len() - 1);
            payload[at] = value;
            let _ = Message::decode(&payload);
        }
    }
}
