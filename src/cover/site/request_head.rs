//! The head of a request of HTTP/1: its lines become a [`Request`], by the rules of nginx. Pure.

use bytes::{Bytes, BytesMut};

use super::fault::Fault;
use super::message::{Fields, Request, Version};
use super::request_line::{self, Line};
use super::target;

/// A head that comes in pieces.
#[derive(Default)]
pub(super) struct HeadReader {
    line: Option<Line>,
    fields: Fields,
    /// Up to where the lines have been read.
    read: usize,
}

/// A head that is whole.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) request: Request,
    /// Whether the connection stays open after the answer.
    pub(super) stays: bool,
    /// Whether the client waits for a word before it sends the body.
    pub(super) expects: bool,
}

/// One line of a header.
enum Row {
    Field(Bytes, Bytes),
    /// One that is passed over: its name is none.
    Ignored,
    /// The end of the head.
    End,
}

impl HeadReader {
    /// The method, as soon as it is known.
    pub(super) fn method<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        self.line.as_ref().and_then(|line| bytes.get(line.method.clone())).unwrap_or_default()
    }

    /// Reads on in the bytes that have come since the start of the head; takes the head out of them when it is whole.
    pub(super) fn read(&mut self, bytes: &mut BytesMut) -> Result<Option<Whole>, Fault> {
        if self.line.is_none() {
            let Some(line) = request_line::read(&bytes[..bytes.len().min(LONGEST_LINE)])? else {
                return if bytes.len() >= LONGEST_LINE { Err(Fault::LongLine) } else { Ok(None) };
            };
            self.read = line.end;
            self.line = Some(line);
        }
        let old = self.line.as_ref().is_some_and(|line| line.version == Version::Http09);
        loop {
            if old {
                break;
            }
            let rest = &bytes[self.read..];
            let Some((row, length)) = row(&rest[..rest.len().min(LONGEST_LINE)])? else {
                let long = rest.len() >= LONGEST_LINE || bytes.len() >= LONGEST_HEAD;
                return if long { Err(Fault::LongHeader) } else { Ok(None) };
            };
            self.read += length;
            if self.read > LONGEST_HEAD {
                return Err(Fault::LongHeader);
            }
            match row {
                Row::Field(name, value) => {
                    self.fields.push(name, value);
                    self.check_last()?;
                }
                Row::Ignored => {}
                Row::End => break,
            }
        }
        let Some(line) = self.line.take() else { return Ok(None) };
        let head = bytes.split_to(self.read).freeze();
        whole(&head, line, std::mem::take(&mut self.fields)).map(Some)
    }

    /// Checks the latest field as soon as its line has come.
    fn check_last(&self) -> Result<(), Fault> {
        let Some((name, value)) = self.fields.0.last() else { return Ok(()) };
        let unique = UNIQUE.iter().find(|unique| name.eq_ignore_ascii_case(unique.as_bytes()));
        if unique.is_some_and(|name| self.fields.all(name).count() > 1) {
            return Err(Fault::BadRequest);
        }
        if name.eq_ignore_ascii_case(b"host") {
            host(value).ok_or(Fault::BadRequest)?;
        }
        Ok(())
    }
}

fn whole(head: &Bytes, line: Line, fields: Fields) -> Result<Whole, Fault> {
    let version = line.version;
    let method = head.slice(line.method.clone());
    let named = match &line.host {
        Some(named) => Some(host(&head[named.clone()]).ok_or(Fault::BadRequest)?),
        None => None,
    };
    let target = target::resolve(head.slice(line.target.clone()))?;
    let asked = fields.get("host");
    if version >= Version::Http11 && asked.is_none() {
        return Err(Fault::BadRequest);
    }
    let host = named.or_else(|| host(asked?));
    let length = length(version, &fields)?;
    if matches!(&method[..], b"TRACE" | b"CONNECT") {
        return Err(Fault::Method);
    }
    let says = |word: &str| {
        let value = fields.text("connection").unwrap_or_default().to_ascii_lowercase();
        value.contains(word)
    };
    let stays = match version {
        Version::Http09 => false,
        _ if says("close") => false,
        Version::Http10 => says("keep-alive"),
        _ => true,
    };
    let expects = version == Version::Http11
        && fields.text("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    Ok(Whole { request: Request { method, target, version, host, fields, length }, stays, expects })
}

/// Returns the length of the body; `None` if it is not known beforehand.
fn length(version: Version, fields: &Fields) -> Result<Option<u64>, Fault> {
    let told = match fields.get("content-length") {
        Some(value) => Some(number(value).ok_or(Fault::BadRequest)?),
        None => None,
    };
    match fields.get("transfer-encoding") {
        None => Ok(Some(told.unwrap_or(0))),
        Some(_) if version < Version::Http11 => Err(Fault::BadRequest),
        Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => match told {
            Some(_) => Err(Fault::BadRequest),
            None => Ok(None),
        },
        Some(_) => Err(Fault::Coding),
    }
}

fn number(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number: u64 = digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()?;
    i64::try_from(number).is_ok().then_some(number)
}

/// The host without its port and in lower case; `None` if it cannot be one.
pub(super) fn host(value: &[u8]) -> Option<String> {
    let end = match value.first() {
        Some(b'[') => value.iter().position(|byte| *byte == b']').map_or(value.len(), |at| at + 1),
        _ => value.iter().position(|byte| *byte == b':').unwrap_or(value.len()),
    };
    let (name, port) = value.split_at(end);
    let sound = |byte: &u8| (0x21..0x7f).contains(byte) || *byte >= 0x80;
    let name_is_sound =
        name.iter().all(|byte| sound(byte) && *byte != b'/') && !name.windows(2).any(|two| two == b"..");
    let port_is_sound = port.iter().all(|byte| sound(byte) && *byte != b'/');
    let name = name.strip_suffix(b".").unwrap_or(name);
    let usable = name_is_sound && port_is_sound && !name.is_empty();
    usable.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// One line of the header and its length; `None` if it has not come whole.
fn row(bytes: &[u8]) -> Result<Option<(Row, usize)>, Fault> {
    let Some(first) = bytes.first() else { return Ok(None) };
    match first {
        b'\n' => return Ok(Some((Row::End, 1))),
        b'\r' => {
            return match bytes.get(1) {
                None => Ok(None),
                Some(b'\n') => Ok(Some((Row::End, 2))),
                Some(_) => Err(Fault::BadRequest),
            };
        }
        0..=0x20 | 0x7f | b':' => return Err(Fault::BadRequest),
        _ => {}
    }
    let stop = bytes.iter().position(|byte| matches!(byte, 0..=0x20 | 0x7f | b':'));
    let Some(stop) = stop else { return Ok(None) };
    let name = &bytes[..stop];
    let sound = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    let value = match bytes[stop] {
        b':' => &bytes[stop + 1..],
        b'\r' | b'\n' => &bytes[stop..],
        _ => return Err(Fault::BadRequest),
    };
    let Some((value, rest)) = value_of(value)? else { return Ok(None) };
    let length = bytes.len() - rest;
    let row = match sound {
        true => Row::Field(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)),
        false => Row::Ignored,
    };
    Ok(Some((row, length)))
}

/// A value without the spaces around it, and how much stands behind its line.
fn value_of(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Fault> {
    let stop = bytes.iter().position(|byte| matches!(byte, 0 | b'\r' | b'\n'));
    let Some(stop) = stop else { return Ok(None) };
    let mut end = stop;
    while bytes.get(end) == Some(&b'\r') {
        end += 1;
    }
    match bytes.get(end) {
        None => Ok(None),
        Some(b'\n') => {
            let spaces = |byte: &u8| *byte == b' ';
            let value = &bytes[..stop];
            let start = value.iter().position(|byte| !spaces(byte)).unwrap_or(value.len());
            let last = value.iter().rposition(|byte| !spaces(byte)).map_or(start, |at| at + 1);
            Ok(Some((&value[start..last], bytes.len() - end - 1)))
        }
        Some(_) => Err(Fault::BadRequest),
    }
}

/// As large as a buffer of nginx for what is long.
const LONGEST_LINE: usize = 8 << 10;

/// As much as nginx reads in all.
pub(super) const LONGEST_HEAD: usize = 33 << 10;

/// Fields that may come once only.
const UNIQUE: [&str; 10] = [
    "host",
    "if-modified-since",
    "if-unmodified-since",
    "if-match",
    "if-none-match",
    "content-length",
    "content-range",
    "if-range",
    "transfer-encoding",
    "expect",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Whole>, Fault> {
        HeadReader::default().read(&mut BytesMut::from(text))
    }

    #[test]
    fn heads_are_read_in_any_pieces() {
        let text = "POST /a HTTP/1.1\r\nHost: A.example:443\r\nx_y: ignored\r\nX-Own:  1 \nContent-Length: 3\r\n\r\n";
        for step in [1, 2, 7, text.len()] {
            let (mut reader, mut bytes, mut whole) = (HeadReader::default(), BytesMut::new(), None);
            for piece in text.as_bytes().chunks(step) {
                assert!(whole.is_none());
                bytes.extend_from_slice(piece);
                whole = reader.read(&mut bytes).unwrap();
            }
            let whole = whole.unwrap();
            let names: Vec<_> = whole.request.fields.0.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(names, ["Host", "X-Own", "Content-Length"]);
            assert_eq!(whole.request.fields.get("x-own"), Some(&b"1"[..]));
            assert_eq!((whole.request.host.as_deref(), whole.request.length), (Some("a.example"), Some(3)));
            assert!(whole.stays && bytes.is_empty());
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let table = [
            ("GET / HTTP/1.1\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", Fault::Coding),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Method),
        ];
        for (text, fault) in table {
            assert_eq!(read(text).unwrap_err(), fault, "{text:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000));
        assert_eq!(read(&line).unwrap_err(), Fault::LongLine);
        let field = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(9000));
        assert_eq!(read(&field).unwrap_err(), Fault::LongHeader);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(9000));
        assert_eq!(read(&many).unwrap_err(), Fault::LongHeader);
    }
}
