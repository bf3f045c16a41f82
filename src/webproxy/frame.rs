//! Frames and batches between app and server.
//!
//! ```text
//! offset 0  type    u8
//!        1  stream  u24, big-endian
//!        4  length  u32, big-endian, of the payload
//!        8  payload
//! ```
//!
//! A batch is one or more whole frames. It is checked as a whole before anything in it is applied.

use std::fmt;

use bytes::Bytes;

use super::budget::ITEM;

/// Bytes before each payload.
pub const HEAD: usize = 8;
/// Longest payload that is taken.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Longest payload of DATA that is sent: builds of one app refuse messages beyond 1 MiB, and the texts say 64 KiB.
pub const MAX_DATA: usize = 64 << 10;
/// Most frames of a batch: bounds what one request makes us keep for its frames' heads.
pub const MAX_FRAMES: usize = 4096;
/// Longest batch.
pub const MAX_BATCH: usize = 2 << 20;
/// Bytes that either side may send on a stream before it is given more.
pub const INITIAL_CREDIT: u32 = 4 << 20;
/// Greatest number of a stream.
pub const MAX_STREAM: u32 = 0xff_ffff;
/// First frame of an app, the whole body of a session's creation.
pub const HELLO: [u8; 9] = [0x10, 0, 0, 0, 0, 0, 0, 1, 1];
/// Its answer.
pub const WELCOME: [u8; 8] = [0x11, 0, 0, 0, 0, 0, 0, 0];
/// Longest body of a session's creation that is read.
pub const MAX_HELLO: usize = 64;

/// Type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A new stream.
    Open = 1,
    /// Bytes of a stream.
    Data = 2,
    /// The end of a stream, both ways.
    Close = 3,
    /// More bytes may be sent on a stream.
    Window = 4,
    /// Asks the app for a sign of life.
    Ping = 5,
    /// The app's answer to it.
    Pong = 6,
    /// The end of a session, said by the server.
    Bye = 0x1f,
}

/// Frame that an app sent, its form checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    Open(u32),
    /// Bytes of a stream, at least one.
    Data(u32, Bytes),
    /// The end of a stream.
    Close(u32),
    /// So many more bytes may be sent on a stream.
    Window(u32, u32),
    /// An answer to PING.
    Pong,
}

impl Frame {
    /// The stream that it belongs to; 0 for the session itself.
    pub fn stream(&self) -> u32 {
        match self {
            Self::Open(stream) | Self::Data(stream, _) | Self::Close(stream) | Self::Window(stream, _) => *stream,
            Self::Pong => 0,
        }
    }
}

/// Fault in a batch; ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No frame at all.
    Empty,
    /// Longer than [`MAX_BATCH`].
    Long,
    /// A frame that is not whole.
    Partial,
    /// A payload longer than [`MAX_PAYLOAD`].
    Payload,
    /// More than [`MAX_FRAMES`].
    Frames,
    /// A type that no app sends, or a form that its type forbids.
    Form,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "an empty batch",
            Self::Long => "a batch of more than 2 MiB",
            Self::Partial => "a frame that is not whole",
            Self::Payload => "a payload of more than 1 MiB",
            Self::Frames => "more than 4096 frames in a batch",
            Self::Form => "a frame of a forbidden form",
        })
    }
}

impl std::error::Error for Fault {}

/// Reads a batch of an app. Payloads share the memory of the batch.
pub fn read_batch(batch: &Bytes) -> Result<Vec<Frame>, Fault> {
    match batch.len() {
        0 => return Err(Fault::Empty),
        length if length > MAX_BATCH => return Err(Fault::Long),
        _ => {}
    }
    let (mut frames, mut at) = (Vec::new(), 0);
    while at < batch.len() {
        if frames.len() == MAX_FRAMES {
            return Err(Fault::Frames);
        }
        let head = batch[at..].first_chunk::<HEAD>().ok_or(Fault::Partial)?;
        let (kind, stream, length) = read_head(head);
        if length > MAX_PAYLOAD {
            return Err(Fault::Payload);
        }
        let (start, end) = (at + HEAD, at + HEAD + length);
        if end > batch.len() {
            return Err(Fault::Partial);
        }
        frames.push(read_frame(kind, stream, batch, start..end).ok_or(Fault::Form)?);
        at = end;
    }
    Ok(frames)
}

fn read_head(head: &[u8; HEAD]) -> (u8, u32, usize) {
    let [kind, a, b, c, length @ ..] = *head;
    (kind, u32::from_be_bytes([0, a, b, c]), u32::from_be_bytes(length) as usize)
}

/// A frame by the rules that need no state; `None` if an app must not send it.
fn read_frame(kind: u8, stream: u32, batch: &Bytes, payload: std::ops::Range<usize>) -> Option<Frame> {
    let on_stream = stream != 0;
    match kind {
        1 if on_stream && payload.is_empty() => Some(Frame::Open(stream)),
        2 if on_stream && !payload.is_empty() => Some(Frame::Data(stream, batch.slice(payload))),
        3 if on_stream && payload.is_empty() => Some(Frame::Close(stream)),
        4 if on_stream => {
            let more = u32::from_be_bytes(batch[payload].try_into().ok()?);
            (more != 0).then_some(Frame::Window(stream, more))
        }
        6 if !on_stream && payload.len() <= 64 => Some(Frame::Pong),
        _ => None,
    }
}

/// Head of a frame.
pub fn head(kind: Kind, stream: u32, length: usize) -> [u8; HEAD] {
    let [_, a, b, c] = stream.to_be_bytes();
    let [d, e, f, g] = (length as u32).to_be_bytes();
    [kind as u8, a, b, c, d, e, f, g]
}

/// Whole frame in one piece, for what has little or no payload.
pub fn whole(kind: Kind, stream: u32, payload: &[u8]) -> Bytes {
    Bytes::from([&head(kind, stream, payload.len())[..], payload].concat())
}

/// Frames on their way to the app: parts that are written in their order. Cloning copies no payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    parts: Vec<Bytes>,
    length: usize,
    frames: usize,
    data: usize,
}

impl Batch {
    /// The parts, none of them empty.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// The parts by themselves.
    pub fn into_parts(self) -> Vec<Bytes> {
        self.parts
    }

    /// Bytes of all parts.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many frames it has.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes of DATA in it, without heads.
    pub fn data(&self) -> usize {
        self.data
    }

    /// Memory that it takes.
    pub(super) fn cost(&self) -> usize {
        self.length + ITEM * self.frames
    }

    /// All parts in one piece; copies them unless there is only one.
    pub fn to_bytes(&self) -> Bytes {
        match &self.parts[..] {
            [part] => part.clone(),
            parts => Bytes::from(parts.concat()),
        }
    }

    /// Adds a whole frame.
    pub(super) fn add(&mut self, frame: Bytes) {
        self.frames += 1;
        self.part(frame);
    }

    /// Adds a frame of DATA whose payload comes in pieces.
    pub(super) fn add_data(&mut self, stream: u32, pieces: impl IntoIterator<Item = Bytes>, length: usize) {
        self.frames += 1;
        self.data += length;
        self.part(Bytes::copy_from_slice(&head(Kind::Data, stream, length)));
        pieces.into_iter().for_each(|piece| self.part(piece));
    }

    /// Puts bytes before everything else.
    pub(super) fn put_before(&mut self, part: Bytes) {
        self.length += part.len();
        self.parts.insert(0, part);
    }

    fn part(&mut self, part: Bytes) {
        self.length += part.len();
        self.parts.push(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{unhex, web_vectors};

    /// A batch of the vectors: as it stands there, or one frame many times.
    fn bytes_of(row: &serde_json::Value) -> Bytes {
        match row["hex"].as_str() {
            Some(hex) => unhex(hex).into(),
            None => {
                let count = row["repeat"]["count"].as_u64().unwrap() as usize;
                unhex(row["repeat"]["hex"].as_str().unwrap()).repeat(count).into()
            }
        }
    }

    fn parts_of(frame: &Frame) -> (u64, u32, Vec<u8>) {
        let stream = frame.stream();
        match frame {
            Frame::Open(_) => (1, stream, vec![]),
            Frame::Data(_, payload) => (2, stream, payload.to_vec()),
            Frame::Close(_) => (3, stream, vec![]),
            Frame::Window(_, more) => (4, stream, more.to_be_bytes().to_vec()),
            Frame::Pong => (6, stream, vec![]),
        }
    }

    #[test]
    fn frames_are_taken_as_the_vectors_say() {
        let rows = web_vectors("frames");
        assert!(rows.as_array().unwrap().len() >= 40);
        for row in rows.as_array().unwrap() {
            let read = read_batch(&bytes_of(row));
            if row["to_server"] != "accept" {
                assert!(read.is_err(), "{}", row["name"]);
                continue;
            }
            let (kind, stream, payload) = parts_of(&read.unwrap()[0]);
            assert_eq!((kind, u64::from(stream)), (row["type"].as_u64().unwrap(), row["stream"].as_u64().unwrap()));
            if kind != 6 {
                assert_eq!(payload, unhex(row["payload"].as_str().unwrap()), "{}", row["name"]);
            }
        }
    }

    #[test]
    fn the_frames_of_session_creation_are_those_of_the_vectors() {
        let rows = web_vectors("frames");
        let named = |name: &str| {
            let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
            unhex(row["hex"].as_str().unwrap())
        };
        assert_eq!(named("HELLO version 1"), HELLO);
        assert_eq!(named("WELCOME"), WELCOME);
        assert_eq!(named("PING empty"), whole(Kind::Ping, 0, &[])[..]);
        assert_eq!(named("WINDOW 4 MiB"), whole(Kind::Window, 7, &INITIAL_CREDIT.to_be_bytes())[..]);
        assert_eq!(named("CLOSE"), whole(Kind::Close, 0x01_0203, &[])[..]);
    }

    #[test]
    fn batches_are_taken_as_the_vectors_say() {
        let rows = web_vectors("batches");
        assert!(rows.as_array().unwrap().len() >= 10);
        for row in rows.as_array().unwrap() {
            let read = read_batch(&bytes_of(row));
            match (&row["error"], row["frames"].as_array(), row["frames_count"].as_u64()) {
                (serde_json::Value::String(_), ..) => assert!(read.is_err(), "{}", row["name"]),
                (_, Some(frames), _) => {
                    let read: Vec<_> = read.unwrap().iter().map(parts_of).collect();
                    let expected = frames.iter().map(|frame| {
                        let stream = frame["stream"].as_u64().unwrap() as u32;
                        (frame["type"].as_u64().unwrap(), stream, unhex(frame["payload"].as_str().unwrap()))
                    });
                    assert_eq!(read, expected.collect::<Vec<_>>(), "{}", row["name"]);
                }
                (_, _, count) => assert_eq!(read.unwrap().len() as u64, count.unwrap(), "{}", row["name"]),
            }
        }
    }

    #[test]
    fn every_beginning_of_a_batch_is_whole_frames_or_a_fault() {
        let mut batch = whole(Kind::Open, 5, &[]).to_vec();
        let mut borders = vec![batch.len()];
        for piece in [whole(Kind::Data, 5, b"hello"), whole(Kind::Window, 5, &[0, 0, 0, 9]), whole(Kind::Pong, 0, &[])]
        {
            batch.extend_from_slice(&piece);
            borders.push(batch.len());
        }
        for end in 0..=batch.len() {
            let read = read_batch(&Bytes::copy_from_slice(&batch[..end]));
            let expected = borders.iter().position(|border| *border == end).map(|at| at + 1);
            match expected {
                Some(frames) => assert_eq!(read.unwrap().len(), frames),
                None => assert_eq!(read, Err(if end == 0 { Fault::Empty } else { Fault::Partial }), "{end} bytes"),
            }
        }
    }

    #[test]
    fn a_batch_that_is_too_long_is_refused_unread() {
        let data = whole(Kind::Data, 1, &[0; MAX_PAYLOAD]);
        assert_eq!(read_batch(&Bytes::from([&data[..], &data[..]].concat())), Err(Fault::Long));
        assert_eq!(read_batch(&data).unwrap().len(), 1);
    }

    #[test]
    fn the_limits_are_those_of_the_vectors() {
        let limits = web_vectors("limits");
        for (name, limit) in [
            ("max_payload", MAX_PAYLOAD),
            ("max_frames", MAX_FRAMES),
            ("initial_credit", INITIAL_CREDIT as usize),
            ("credit_cap", u32::MAX as usize),
            ("max_stream", MAX_STREAM as usize),
            ("batch", MAX_BATCH),
            ("hello_body", MAX_HELLO),
        ] {
            assert_eq!(limits[name], limit, "{name}");
        }
        assert_eq!(limits.as_object().unwrap().len(), 7);
    }

    fn any_frame() -> impl Strategy<Value = (Frame, Vec<u8>)> {
        let stream = 1..=MAX_STREAM;
        prop_oneof![
            stream.clone().prop_map(|stream| (Frame::Open(stream), whole(Kind::Open, stream, &[]).to_vec())),
            stream.clone().prop_map(|stream| (Frame::Close(stream), whole(Kind::Close, stream, &[]).to_vec())),
            (stream.clone(), 1..=u32::MAX).prop_map(|(stream, more)| {
                (Frame::Window(stream, more), whole(Kind::Window, stream, &more.to_be_bytes()).to_vec())
            }),
            (stream, proptest::collection::vec(any::<u8>(), 1..99)).prop_map(|(stream, payload)| {
                let bytes = whole(Kind::Data, stream, &payload).to_vec();
                (Frame::Data(stream, payload.into()), bytes)
            }),
        ]
    }

    proptest! {
        #[test]
        fn batches_are_read_as_they_were_written(frames in proptest::collection::vec(any_frame(), 1..40)) {
            let (frames, bytes): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
            prop_assert_eq!(read_batch(&bytes.concat().into()), Ok(frames));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Ok(frames) = read_batch(&bytes.clone().into()) {
                let length: usize = frames.iter().map(|frame| match frame {
                    Frame::Data(_, payload) => HEAD + payload.len(),
                    Frame::Window(..) => HEAD + 4,
                    Frame::Pong => 0,
                    _ => HEAD,
                }).sum();
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
