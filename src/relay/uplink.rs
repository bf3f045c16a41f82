//! Client to data centre, as a pure transform on buffers: the payload of the client's records, from the client's cipher to
//! the data centre's.

use super::kept::PendingBytes;
use crate::crypto::Ctr;
use crate::wire::obfuscated::HEADER as HEADER_LENGTH;
use crate::wire::packets::MAX_PACKET;
use crate::wire::record::{HEADER, Header, MAX_CIPHERTEXT, MIN_ENCRYPTED, kind};

/// Error for input that is no record of application data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord;

/// Takes the payload out of records of application data as it comes, for the side of a client: what another proxy sends.
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

/// Payload length of a record that another proxy may send.
fn data_record(header: Header) -> Result<usize, BadRecord> {
    let length = usize::from(header.length);
    let legal = header.kind == kind::APPLICATION_DATA && header.version == [3, 3] && length <= MAX_CIPHERTEXT;
    if legal { Ok(length) } else { Err(BadRecord) }
}

/// Client to data centre.
///
/// A TLS server ends a connection at the first record that was inserted, repeated, cut again or left out, and passes nothing
/// on before a record is whole. Nothing in the client's protocol says which record is its own, but its frames do: behind
/// such a record the next length is read from the wrong place, or under the wrong keystream, and that is hardly ever the
/// length of a packet. So records are held until they are whole, and frames are followed by their four bytes.
#[derive(Debug)]
pub struct Uplink {
    from_client: Ctr,
    /// None where the receiver of the payload is to read it.
    to_dc: Option<Ctr>,
    /// Payload bytes of a record whose header has come already; 0 if the next byte begins one.
    headless: usize,
    /// Whether a record that no TLS 1.3 peer makes may follow.
    tail_may_follow: bool,
    /// None where the receiver of the payload looks at its frames.
    frames: Option<Frames>,
    held: PendingBytes,
}

/// Payload of the longest records of official clients. They cut whatever they have to say into pieces of this, so behind
/// one of them the last may be shorter than any record of TLS 1.3 (docs/protocol.md, "Records afterwards").
const CLIENT_RECORD: usize = 2878;

/// Reason why no more records are gathered.
enum Stop {
    /// None is whole.
    Starved,
    /// The one before was a tail, with which a frame has to end.
    Tail,
    /// The next one is bad.
    Bad,
}

impl Uplink {
    /// An uplink in the midst of a record of which `record_left` payload bytes are still to come.
    pub fn new(from_client: Ctr, to_dc: Ctr, record_left: usize) -> Self {
        Self { to_dc: Some(to_dc), ..Self::in_clear(from_client, record_left) }
    }

    /// The same with the payload in clear.
    pub fn in_clear(from_client: Ctr, record_left: usize) -> Self {
        Self {
            from_client,
            to_dc: None,
            headless: record_left,
            tail_may_follow: record_left + HEADER_LENGTH >= CLIENT_RECORD,
            frames: Some(Frames::default()),
            held: PendingBytes::default(),
        }
    }

    /// From here on the payload is encrypted again with this.
    pub fn encrypt(&mut self, to_dc: Ctr) {
        self.to_dc = Some(to_dc);
    }

    /// Frames are followed no more: the receiver of the payload does that, and ends the session where there is none.
    pub fn without_frames(self) -> Self {
        Self { frames: None, ..self }
    }

    /// The beginning of a record whose rest has not come. What is given to [`Uplink::transform`] has to begin with it.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Turns what the client sent into what the data centre is to get, and gives it: the payload of whole records, moved
    /// together at the beginning of `bytes` and encrypted again. If there is a bad record or frame it is what came before
    /// that.
    ///
    /// Moving is much cheaper than working on the payload of each record by itself: ciphers are slow to get going, and
    /// slower where a record ends within a block.
    pub fn transform<'b>(&mut self, bytes: &'b mut [u8]) -> (&'b [u8], Result<(), BadRecord>) {
        let (mut at, mut length) = (0, 0);
        let outcome = loop {
            let from = length;
            let stop = self.gather(bytes, &mut at, &mut length);
            self.from_client.apply(&mut bytes[from..length]);
            let followed = self.frames.as_mut().map_or(Ok(()), |frames| frames.follow(&bytes[from..length]));
            if let Err(good) = followed {
                length = from + good;
            }
            if let Some(to_dc) = &mut self.to_dc {
                to_dc.apply(&mut bytes[from..length]);
            }
            match stop {
                _ if followed.is_err() => break Err(BadRecord),
                Stop::Starved => break Ok(()),
                Stop::Tail if self.frames.as_ref().is_none_or(Frames::at_border) => {}
                Stop::Tail | Stop::Bad => break Err(BadRecord),
            }
        };
        self.held = PendingBytes::from(&bytes[at..]);
        (&bytes[..length], outcome)
    }

    /// Moves the payload of records that begin at `at` behind the first `length` bytes.
    fn gather(&mut self, bytes: &mut [u8], at: &mut usize, length: &mut usize) -> Stop {
        loop {
            let (head, size) = match (self.headless, bytes[*at..].first_chunk()) {
                (0, None) => return Stop::Starved,
                (0, Some(header)) => match self.record(Header::decode(*header)) {
                    Ok(size) => (HEADER, size),
                    Err(BadRecord) => return Stop::Bad,
                },
                (size, _) => (0, size),
            };
            let start = *at + head;
            if bytes.len() - start < size {
                return Stop::Starved;
            }
            bytes.copy_within(start..start + size, *length);
            (*at, *length) = (start + size, *length + size);
            if head > 0 {
                self.tail_may_follow = size >= CLIENT_RECORD;
            }
            self.headless = 0;
            if head > 0 && size < MIN_ENCRYPTED {
                return Stop::Tail;
            }
        }
    }

    /// Payload length of a record that a client may send here.
    fn record(&self, header: Header) -> Result<usize, BadRecord> {
        let least = if self.tail_may_follow { 1 } else { MIN_ENCRYPTED };
        data_record(header).and_then(|length| if length >= least { Ok(length) } else { Err(BadRecord) })
    }
}

/// Follows plain frames of the padded transport (docs/protocol.md, "Frames").
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 4],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the body that have not.
    left: usize,
}

impl Frames {
    /// Longest body: the longest packet that clients send, with its padding.
    const LONGEST: usize = MAX_PACKET + 16;

    /// Fails with the number of bytes before a length that no frame has.
    fn follow(&mut self, plain: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while at < plain.len() {
            if self.left > 0 {
                let piece = self.left.min(plain.len() - at);
                self.left -= piece;
                at += piece;
                continue;
            }
            self.head[self.have] = plain[at];
            self.have += 1;
            at += 1;
            if self.have == self.head.len() {
                // The top bit asks for a quick ack.
                self.left = (u32::from_le_bytes(self.head) & 0x7fff_ffff) as usize;
                self.have = 0;
                if self.left > Self::LONGEST {
                    return Err(at.saturating_sub(self.head.len()));
                }
            }
        }
        Ok(())
    }

    fn at_border(&self) -> bool {
        self.left == 0 && self.have == 0
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

    /// Frames with bodies of these sizes.
    fn frames(sizes: &[usize]) -> Vec<u8> {
        let frame = |size: &usize| [&(*size as u32).to_le_bytes()[..], &vec![*size as u8; *size]].concat();
        sizes.iter().flat_map(frame).collect()
    }

    fn record(payload: &[u8]) -> Vec<u8> {
        [&Header::application_data(payload.len() as u16).encode()[..], payload].concat()
    }

    /// Payload as a client wraps it, in records of the given sizes; the last may be longer, so that none is too short.
    fn wrap(plain: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let mut cipher = plain.to_vec();
        keys(1).stream().apply(&mut cipher);
        let (mut rest, mut records) = (&cipher[..], Vec::new());
        for size in sizes.iter().cycle() {
            let piece = if rest.len() < size + MIN_ENCRYPTED { rest.len() } else { *size };
            let (piece, later) = rest.split_at(piece);
            records.push(record(piece));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        records
    }

    /// Sends bytes as a session does: with what was held before them.
    fn sent(uplink: &mut Uplink, chunk: &[u8]) -> (Vec<u8>, Result<(), BadRecord>) {
        let mut bytes = [uplink.held(), chunk].concat();
        let (payload, outcome) = uplink.transform(&mut bytes);
        (payload.to_vec(), outcome)
    }

    fn for_dc(plain: &[u8]) -> Vec<u8> {
        let mut bytes = plain.to_vec();
        keys(2).stream().apply(&mut bytes);
        bytes
    }

    #[test]
    fn other_records_end_the_uplink_behind_what_came_before() {
        let heads = [[0x14, 3, 3, 0, 1], [0x15, 3, 3, 0, 19], [0x17, 3, 1, 0, 40], [0x17, 3, 3, 0x41, 1]];
        let short = (0..17).map(|length| [0x17, 3, 3, 0, length]);
        for bad in heads.into_iter().chain(short) {
            let before = frames(&[40, 60]);
            let chunk = [&wrap(&before, &[3000]).concat()[..], &bad].concat();
            assert_eq!(sent(&mut uplink(), &chunk), (for_dc(&before), Err(BadRecord)), "{bad:?}");
        }
    }

    #[test]
    fn a_record_too_short_for_tls_comes_behind_a_full_one_and_ends_a_frame() {
        for (frame, sizes, outcome) in [
            (CLIENT_RECORD + 1, &[CLIENT_RECORD, 5][..], Ok(())),
            (CLIENT_RECORD + 1, &[CLIENT_RECORD, 4, 1], Err(BadRecord)),
            (CLIENT_RECORD + 1, &[CLIENT_RECORD - 1, 6], Err(BadRecord)),
            (2 * CLIENT_RECORD + 100, &[CLIENT_RECORD, 5, CLIENT_RECORD, 99], Err(BadRecord)),
            (200, &[203, 1], Err(BadRecord)),
        ] {
            let mut plain = frames(&[frame]);
            keys(1).stream().apply(&mut plain);
            let (mut wire, mut rest) = (Vec::new(), &plain[..]);
            for size in sizes {
                let (piece, later) = rest.split_at(*size);
                wire.extend(record(piece));
                rest = later;
            }
            assert_eq!(sent(&mut uplink(), &wire).1, outcome, "{frame} {sizes:?}");
        }
    }

    #[test]
    fn nothing_is_passed_on_before_its_record_is_whole() {
        let plain = frames(&[400]);
        let wire = wrap(&plain, &[300, 104]).concat();
        let mut uplink = uplink();
        for (at, byte) in wire.iter().enumerate() {
            let expected = if at == 304 {
                300
            } else if at + 1 == wire.len() {
                104
            } else {
                0
            };
            assert_eq!(sent(&mut uplink, &[*byte]).0.len(), expected, "byte {at}");
        }
        // Nor what its own header came before.
        let mut uplink = Uplink::new(keys(1).stream(), keys(2).stream(), 44);
        let payload = &wrap(&frames(&[40]), &[44])[0][HEADER..];
        assert_eq!(sent(&mut uplink, &payload[..43]).0, [0; 0]);
        assert_eq!(sent(&mut uplink, &payload[43..]), (for_dc(&frames(&[40])), Ok(())));
    }

    /// What someone on the way can do to records, at every place of a session.
    #[test]
    fn a_record_that_was_put_in_repeated_or_taken_out_ends_the_uplink_within_a_frame() {
        let sizes = [40, 300, 6000, 88, 1200, 60, 3500, 72, 400];
        let whole = wrap(&frames(&sizes), &[700]);
        let longest = 6004;
        for (what, at) in
            ["put in", "repeated", "taken out"].iter().flat_map(|what| (0..whole.len() - 10).map(move |at| (what, at)))
        {
            let mut records = whole.clone();
            match *what {
                "put in" => records.insert(at, record(&[0x5a; 100])),
                "repeated" => records.insert(at, records[at].clone()),
                _ => _ = records.remove(at),
            }
            let mut uplink = uplink();
            let good = records[..at].iter().filter(|record| sent(&mut uplink, record).1.is_ok()).count();
            assert_eq!(good, at);
            let (mut passed, mut ended) = (0, false);
            for record in &records[at..] {
                let (payload, outcome) = sent(&mut uplink, record);
                passed += payload.len();
                ended |= outcome.is_err();
                if ended {
                    break;
                }
            }
            assert!(ended && passed <= 2 * longest, "{what} {at}: {passed} bytes were passed on, ended: {ended}");
        }
    }

    proptest! {
        #[test]
        fn the_uplink_is_the_payload_under_the_other_cipher(bodies in prop::collection::vec(24usize..1500, 1..8),
                                                            sizes in prop::collection::vec(17usize..3000, 1..5),
                                                            cuts in prop::collection::vec(1usize..700, 1..20)) {
            let plain = frames(&bodies);
            let wire = wrap(&plain, &sizes).concat();
            let mut uplink = uplink();
            let (mut rest, mut out) = (&wire[..], Vec::new());
            for cut in cuts.into_iter().cycle() {
                let (chunk, later) = rest.split_at(cut.min(rest.len()));
                let (payload, outcome) = sent(&mut uplink, chunk);
                prop_assert_eq!(outcome, Ok(()));
                out.extend(payload);
                rest = later;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(for_dc(&out), plain);
        }

        #[test]
        fn arbitrary_records_are_survived(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut uplink = uplink();
            chunks.iter().for_each(|chunk| _ = sent(&mut uplink, chunk));
        }

        #[test]
        fn arbitrary_records_of_another_proxy_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let _ = Unwrap::new(0).payload(&mut bytes);
        }
    }
}
