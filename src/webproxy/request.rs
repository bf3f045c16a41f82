//! Which request is whose, by its head alone: the site's, a bridge, a call of the API, or one that carries an authentic value
//! and is not usable.
//!
//! Authentic values are looked for where the apps and their pages put them, and nowhere else: in the query, in Authorization
//! and in Sec-WebSocket-Protocol, after one round of percent-decoding, as runs of exactly 43 characters of base64url. The first
//! few of these are looked up, with one MAC for each kind of value, so a head of any size costs no more than one of a page. The
//! time that this takes depends on what the sender wrote, never on what is known here.

use std::borrow::Cow;

use data_encoding::BASE64;
use smallvec::SmallVec;

use super::capability::{Entry, Index, TEXT, read_text};
use super::frame::MAX_STREAM;
use super::token::{Token, TokenKey, TokenKind};
use crate::crypto::DIGEST;

/// Values of one request that are looked up. One of the apps has one; the bound is for those that consist of nothing else.
const CANDIDATES: usize = 8;

/// Head of a request, borrowed. Without `Debug`, since it may hold secrets.
#[derive(Clone, Copy)]
pub struct Head<'a, F> {
    /// Method as it was sent.
    pub method: &'a [u8],
    /// Path and query as they were sent.
    pub target: &'a [u8],
    /// Host field or `:authority`.
    pub host: Option<&'a [u8]>,
    /// `:protocol` of an extended CONNECT.
    pub protocol: Option<&'a [u8]>,
    /// Names and values of all fields, each occurrence by itself, names in any case.
    pub fields: F,
}

/// Kind of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<T> {
    /// No authentic value: the site answers, untouched.
    Stranger,
    /// The bridge is to be served to this user.
    Bridge(Entry<T>),
    /// A call of the API whose head is valid.
    Api {
        /// The token that it came with, of the kind that the call needs. It may have ended.
        token: Token,
        /// The call.
        call: Call,
        /// Number of the place whose host and path it named.
        place: usize,
    },
    /// An authentic value, and anything is wrong: 404, never the site.
    Unusable,
}

/// Call of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Creates a session; the body is HELLO.
    Create,
    /// Ends a session.
    End,
    /// Brings a batch of the app.
    Up {
        /// Number of the batch, from 1.
        sequence: u64,
        /// Lane that it names.
        lane: Option<u32>,
    },
    /// Waits for a batch for the app.
    Down {
        /// Number of the last batch that arrived.
        cursor: u64,
        /// Lane that it names.
        lane: Option<u32>,
    },
    /// Opens a WebSocket.
    Socket(Socket),
}

/// Kind of a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The one of a session.
    Plain,
    /// That of one stream.
    Lane(u32),
    /// One of our own page, which may be lost without the session.
    Resumable,
}

const PLAIN: &str = "tproxy-v1.";
const LANE: &str = "tproxy-lane-v1.";
/// Beginning of the subprotocol of resumable sockets; the page has it too.
pub const RESUMABLE: &str = "tproxy-resume-v1.";

impl Socket {
    /// The subprotocol that asks for it and is echoed.
    pub fn protocol(self, token: &Token) -> String {
        let token = token.text();
        match self {
            Self::Plain => format!("{PLAIN}{token}"),
            Self::Lane(lane) => format!("{LANE}{token}.{lane}"),
            Self::Resumable => format!("{RESUMABLE}{token}"),
        }
    }

    /// Reads a subprotocol: the token's characters, and the kind.
    fn read(protocol: &[u8]) -> Option<(&[u8], Self)> {
        if let Some(token) = protocol.strip_prefix(PLAIN.as_bytes()) {
            return Some((token, Self::Plain));
        }
        if let Some(token) = protocol.strip_prefix(RESUMABLE.as_bytes()) {
            return Some((token, Self::Resumable));
        }
        let (token, lane) = protocol.strip_prefix(LANE.as_bytes())?.split_at_checked(TEXT)?;
        let lane = number(lane.strip_prefix(b".")?)?;
        let lane = u32::try_from(lane).ok().filter(|lane| (1..=MAX_STREAM).contains(lane))?;
        Some((token, Self::Lane(lane)))
    }
}

/// Tells what a request is.
pub fn classify<'a, T, F>(head: &Head<'a, F>, index: &Index<T>, tokens: &TokenKey) -> Request<T>
where
    T: Clone,
    F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
{
    if !carries_authentic(head, index, tokens) {
        return Request::Stranger;
    }
    let bridge = bridge(head, index).map(|entry| Request::Bridge(entry.clone()));
    bridge.or_else(|| api(head, index, tokens)).unwrap_or(Request::Unusable)
}

fn carries_authentic<'a, T, F>(head: &Head<'a, F>, index: &Index<T>, tokens: &TokenKey) -> bool
where
    F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
{
    // All of them, whatever is found.
    head.candidates()
        .iter()
        .fold(false, |found, value| found | index.find(value).is_some() | tokens.recognise(value).is_some())
}

/// Fields that an authentic value is looked for in.
const PLACES: [&str; 2] = ["authorization", "sec-websocket-protocol"];

fn is(name: &[u8], expected: &str) -> bool {
    name.eq_ignore_ascii_case(expected.as_bytes())
}

fn is_base64url(byte: u8) -> bool {
    const IS: [bool; 256] = {
        let (mut table, mut byte) = ([false; 256], 0);
        while byte < 256 {
            let letter = byte as u8;
            table[byte] = letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_');
            byte += 1;
        }
        table
    };
    IS[usize::from(byte)]
}

/// One round of percent-decoding; what is no escape stays.
fn percent_decoded(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    Cow::Owned(decoded)
}

fn bridge<'a, 'i, T, F>(head: &Head<'a, F>, index: &'i Index<T>) -> Option<&'i Entry<T>>
where
    F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
{
    let at = head.target.iter().position(|byte| *byte == b'?')?;
    let (path, query) = head.target.split_at(at);
    let capability = read_text(query.strip_prefix(b"?bridge=")?)?;
    let entry = index.find(&capability)?;
    let place = index.place(entry)?;
    let here = path == place.base.prefix().as_bytes() && place.host.is_named_by(head.host?);
    (here && head.method == b"GET" && head.protocol.is_none() && head.has_no_body()).then_some(entry)
}

fn api<'a, T, F>(head: &Head<'a, F>, index: &Index<T>, tokens: &TokenKey) -> Option<Request<T>>
where
    F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
{
    let host = head.host?;
    let mut places = index.places().iter().enumerate().filter(|(_, place)| place.host.is_named_by(host));
    let (place, call) = places.find_map(|(number, place)| {
        let call = place.base.strip(head.target)?.strip_prefix(b"api/v1/")?;
        matches!(call, b"session" | b"up" | b"down" | b"ws").then_some((number, call))
    })?;
    let (token, call, kind) = match (call, head.method) {
        (b"ws", _) => {
            let (token, socket) = head.socket()?;
            (token, Call::Socket(socket), TokenKind::Session)
        }
        (b"session", b"POST") => (head.bearer()?, head.with_body(Call::Create)?, TokenKind::Bootstrap),
        (b"session", b"DELETE") => (head.bearer()?, head.without_body(Call::End)?, TokenKind::Session),
        (b"up", b"POST") => (head.bearer()?, head.with_body(head.up()?)?, TokenKind::Session),
        (b"down", b"POST") => (head.bearer()?, head.without_body(head.down()?)?, TokenKind::Session),
        _ => return None,
    };
    let (found, token) = tokens.recognise(&read_text(token)?)?;
    (found == kind).then_some(Request::Api { token, call, place })
}

impl<'a, F> Head<'a, F>
where
    F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
{
    /// Values in the form of authentic ones, the first few.
    fn candidates(&self) -> SmallVec<[[u8; DIGEST]; CANDIDATES]> {
        let query = self.target.iter().position(|byte| *byte == b'?').map(|at| &self.target[at + 1..]);
        let fields = self.fields.clone().filter(|(name, _)| PLACES.iter().any(|place| is(name, place)));
        let mut found = SmallVec::new();
        for place in query.into_iter().chain(fields.map(|(_, value)| value)) {
            let decoded = percent_decoded(place);
            let runs = decoded.split(|byte| !is_base64url(*byte)).filter(|run| run.len() == TEXT);
            found.extend(runs.filter_map(read_text).take(CANDIDATES - found.len()));
        }
        found
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.clone().filter(move |(found, _)| is(found, name)).map(|(_, value)| value)
    }

    fn has(&self, name: &'static str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of a field that is there exactly once.
    fn only(&self, name: &'static str) -> Option<&'a [u8]> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    /// Whether one of the comma-separated words of a field is this one.
    fn says(&self, name: &'static str, word: &str) -> bool {
        let mut words = self.all(name).flat_map(|value| value.split(|byte| *byte == b','));
        words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    }

    fn has_no_body(&self) -> bool {
        !self.has("transfer-encoding") && self.all("content-length").all(|length| length == b"0")
    }

    /// The characters of the bearer token. A browser sends no cookies with these calls.
    fn bearer(&self) -> Option<&'a [u8]> {
        let usual = self.protocol.is_none() && !self.has("cookie");
        self.only("authorization").filter(|_| usual)?.strip_prefix(b"Bearer ")
    }

    fn with_body(&self, call: Call) -> Option<Call> {
        (self.only("content-type")? == b"application/octet-stream").then_some(call)
    }

    fn without_body(&self, call: Call) -> Option<Call> {
        let untyped = self.all("content-type").all(<[u8]>::is_empty);
        (untyped && self.has_no_body()).then_some(call)
    }

    fn up(&self) -> Option<Call> {
        let sequence = number(self.only("x-up-seq")?).filter(|sequence| *sequence > 0)?;
        Some(Call::Up { sequence, lane: self.lane()? })
    }

    fn down(&self) -> Option<Call> {
        Some(Call::Down { cursor: number(self.only("x-down-cursor")?)?, lane: self.lane()? })
    }

    /// The lane, in `Some(None)` if none is named.
    fn lane(&self) -> Option<Option<u32>> {
        if !self.has("x-lane-id") {
            return Some(None);
        }
        let lane = number(self.only("x-lane-id")?)?;
        u32::try_from(lane).ok().filter(|lane| *lane <= MAX_STREAM).map(Some)
    }

    /// Token and kind of a WebSocket, opened by an upgrade or by an extended CONNECT.
    fn socket(&self) -> Option<(&'a [u8], Socket)> {
        let opens = match (self.method, self.protocol) {
            (b"GET", None) => {
                let key = self.only("sec-websocket-key").and_then(|key| BASE64.decode(key).ok());
                self.says("upgrade", "websocket")
                    && self.says("connection", "upgrade")
                    && key.is_some_and(|key| key.len() == 16)
            }
            (b"CONNECT", Some(b"websocket")) => true,
            _ => false,
        };
        let usual = self.only("sec-websocket-version") == Some(b"13") && !self.has("authorization");
        Socket::read(self.only("sec-websocket-protocol").filter(|_| opens && usual && self.has_no_body())?)
    }
}

/// A decimal number as it is written once: no sign, no leading zero.
fn number(text: &[u8]) -> Option<u64> {
    let canonical = text == b"0" || (matches!(text, [b'1'..=b'9', ..]) && text.iter().all(u8::is_ascii_digit));
    std::str::from_utf8(text).ok().filter(|_| canonical)?.parse().ok()
}

#[cfg(test)]
mod tests;
