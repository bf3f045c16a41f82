//! The first line of a request of HTTP/1, by the rules and with the leniency of nginx, so that what it refuses is
//! refused at the same byte. Pure.

use std::ops::Range;

use super::fault::Fault;
use super::message::Version;

/// A first line: where its parts are, and where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) method: Range<usize>,
    /// Scheme and host, if the target has them.
    pub(super) host: Option<Range<usize>>,
    /// Path and query; empty if the target is a host alone.
    pub(super) target: Range<usize>,
    pub(super) version: Version,
    /// Behind its last byte.
    pub(super) end: usize,
}

#[derive(Clone, Copy)]
enum State {
    Start,
    Method,
    BeforeTarget,
    Scheme,
    SchemeSlash,
    SchemeSlashSlash,
    Host,
    Literal,
    AfterHost,
    Port,
    Target,
    AfterTarget,
    Protocol(usize),
    Major,
    MajorMore,
    Minor,
    MinorMore,
    AfterVersion,
    AlmostDone,
}

struct Scan {
    state: State,
    method: Range<usize>,
    host: Option<Range<usize>>,
    target: Range<usize>,
    major: u32,
    minor: u32,
    spoken: bool,
}

/// Reads the first line from the start of what has come. `None` asks for more. Whatever can be refused is refused
/// before the line is whole.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Line>, Fault> {
    let mut scan =
        Scan { state: State::Start, method: 0..0, host: None, target: 0..0, major: 0, minor: 0, spoken: false };
    for (at, byte) in bytes.iter().enumerate() {
        let next = match scan.state {
            State::Start | State::Method | State::BeforeTarget => scan.method(at, *byte)?,
            State::Scheme | State::SchemeSlash | State::SchemeSlashSlash => scan.scheme(at, *byte)?,
            State::Host | State::Literal | State::AfterHost | State::Port => scan.host(at, *byte)?,
            State::Target | State::AfterTarget | State::Protocol(_) => scan.target(at, *byte)?,
            State::AlmostDone if *byte == b'\n' => None,
            State::AlmostDone => return Err(Fault::BadRequest),
            _ => scan.version(*byte)?,
        };
        match next {
            Some(state) => scan.state = state,
            None => return scan.line(bytes, at + 1).map(Some),
        }
    }
    Ok(None)
}

/// Next state of the scan; `None` after the end of the line.
type Next = Result<Option<State>, Fault>;

impl Scan {
    fn line(self, bytes: &[u8], end: usize) -> Result<Line, Fault> {
        let version = match (self.spoken, self.major, self.minor) {
            (false, ..) => Version::Http09,
            (true, _, 0) => Version::Http10,
            (true, ..) => Version::Http11,
        };
        if version == Version::Http09 && &bytes[self.method.clone()] != b"GET" {
            return Err(Fault::OldMethod);
        }
        Ok(Line { method: self.method, host: self.host, target: self.target, version, end })
    }

    fn method(&mut self, at: usize, byte: u8) -> Next {
        let named = byte.is_ascii_uppercase() || matches!(byte, b'_' | b'-');
        match (self.state, byte) {
            (State::Start, b'\r' | b'\n') => Ok(Some(State::Start)),
            (State::Start, _) if named => {
                self.method = at..at + 1;
                Ok(Some(State::Method))
            }
            (State::Method, b' ') => {
                self.method.end = at;
                Ok(Some(State::BeforeTarget))
            }
            (State::Method, _) if named => Ok(Some(State::Method)),
            (State::BeforeTarget, b' ') => Ok(Some(State::BeforeTarget)),
            (State::BeforeTarget, b'/') => {
                self.target = at..at + 1;
                Ok(Some(State::Target))
            }
            (State::BeforeTarget, _) if byte.is_ascii_alphabetic() => Ok(Some(State::Scheme)),
            _ => Err(Fault::BadRequest),
        }
    }

    fn scheme(&mut self, at: usize, byte: u8) -> Next {
        match (self.state, byte) {
            (State::Scheme, b':') => Ok(Some(State::SchemeSlash)),
            (State::Scheme, _) if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.') => {
                Ok(Some(State::Scheme))
            }
            (State::SchemeSlash, b'/') => Ok(Some(State::SchemeSlashSlash)),
            (State::SchemeSlashSlash, b'/') => {
                self.host = Some(at + 1..at + 1);
                Ok(Some(State::Host))
            }
            _ => Err(Fault::BadRequest),
        }
    }

    fn host(&mut self, at: usize, byte: u8) -> Next {
        let start = self.host.as_ref().map_or(at, |host| host.start);
        match (self.state, byte) {
            (State::Host, b'[') if at == start => return Ok(Some(State::Literal)),
            (State::Host, _) if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') => {
                return Ok(Some(State::Host));
            }
            (State::Literal, b']') => return Ok(Some(State::AfterHost)),
            (State::Literal, _) if in_literal(byte) => return Ok(Some(State::Literal)),
            (State::Literal, _) => return Err(Fault::BadRequest),
            (State::Port, b'0'..=b'9') => return Ok(Some(State::Port)),
            _ => {}
        }
        let host_ends = !matches!(self.state, State::Port);
        if host_ends {
            self.host = Some(start..at);
        }
        match byte {
            b':' if host_ends => Ok(Some(State::Port)),
            b'/' => {
                self.target = at..at + 1;
                Ok(Some(State::Target))
            }
            b'?' => {
                self.target = at..at + 1;
                Ok(Some(State::Target))
            }
            b' ' => Ok(Some(State::AfterTarget)),
            _ => Err(Fault::BadRequest),
        }
    }

    fn target(&mut self, at: usize, byte: u8) -> Next {
        const PROTOCOL: &[u8] = b"HTTP/";
        match (self.state, byte) {
            (State::Target, b' ') => {
                self.target.end = at;
                Ok(Some(State::AfterTarget))
            }
            (State::Target, b'\r' | b'\n') => {
                self.target.end = at;
                Ok((byte == b'\r').then_some(State::AlmostDone))
            }
            (State::Target, 0..0x20 | 0x7f) => Err(Fault::BadRequest),
            (State::Target, _) => Ok(Some(State::Target)),
            (State::AfterTarget, b' ') => Ok(Some(State::AfterTarget)),
            (State::AfterTarget, b'\r') => Ok(Some(State::AlmostDone)),
            (State::AfterTarget, b'\n') => Ok(None),
            (State::AfterTarget, b'H') => Ok(Some(State::Protocol(1))),
            (State::Protocol(matched), _) if byte == PROTOCOL[matched] => {
                let whole = matched + 1 == PROTOCOL.len();
                Ok(Some(if whole { State::Major } else { State::Protocol(matched + 1) }))
            }
            _ => Err(Fault::BadRequest),
        }
    }

    fn version(&mut self, byte: u8) -> Next {
        let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
        match (self.state, byte, digit) {
            (State::Major, b'0', _) => Err(Fault::BadRequest),
            (State::Major | State::MajorMore, _, Some(digit)) => {
                self.major = self.major * 10 + digit;
                if self.major > 1 { Err(Fault::Version) } else { Ok(Some(State::MajorMore)) }
            }
            (State::MajorMore, b'.', _) => Ok(Some(State::Minor)),
            (State::Minor | State::MinorMore, _, Some(digit)) => {
                if self.minor > 99 {
                    return Err(Fault::BadRequest);
                }
                (self.minor, self.spoken) = (self.minor * 10 + digit, true);
                Ok(Some(State::MinorMore))
            }
            (State::MinorMore | State::AfterVersion, b' ', _) => Ok(Some(State::AfterVersion)),
            (State::MinorMore | State::AfterVersion, b'\r', _) => Ok(Some(State::AlmostDone)),
            (State::MinorMore | State::AfterVersion, b'\n', _) => Ok(None),
            _ => Err(Fault::BadRequest),
        }
    }
}

fn in_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":-._~!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(line: &str) -> (String, Option<String>, String, Version) {
        let read = read(line.as_bytes()).unwrap().unwrap();
        assert_eq!(read.end, line.len());
        let part = |range: Range<usize>| line[range].to_owned();
        (part(read.method), read.host.map(part), part(read.target), read.version)
    }

    #[test]
    fn parts_are_found() {
        let (get, slash) = (|| "GET".to_owned(), || "/".to_owned());
        assert_eq!(parts("GET / HTTP/1.1\r\n"), (get(), None, slash(), Version::Http11));
        assert_eq!(parts("\r\nGET  /   HTTP/1.0  \n"), (get(), None, slash(), Version::Http10));
        assert_eq!(parts("GET /\r\n"), (get(), None, slash(), Version::Http09));
        let absolute = parts("GET http://a.example:80/x?y HTTP/1.1\r\n");
        assert_eq!(absolute, (get(), Some("a.example".into()), "/x?y".into(), Version::Http11));
        assert_eq!(parts("GET http://[::1] HTTP/1.1\r\n").1.as_deref(), Some("[::1]"));
        assert_eq!(parts("MADE-UP_ / HTTP/1.9\r\n").0, "MADE-UP_");
    }

    #[test]
    fn what_is_wrong_is_refused_at_its_byte() {
        let table = [
            ("g", Fault::BadRequest),
            ("\x16", Fault::BadRequest),
            ("GET *", Fault::BadRequest),
            ("GET /a\x01", Fault::BadRequest),
            ("GET / x", Fault::BadRequest),
            ("GET / HTTX", Fault::BadRequest),
            ("PRI *", Fault::BadRequest),
            ("GET / HTTP/2", Fault::Version),
            ("GET / HTTP/0", Fault::BadRequest),
            ("GET / HTTP/1.1000", Fault::BadRequest),
            ("GET / HTTP/1.1\rx", Fault::BadRequest),
            ("POST /\r\n", Fault::OldMethod),
        ];
        for (line, fault) in table {
            assert_eq!(read(line.as_bytes()), Err(fault), "{line:?}");
            for cut in 0..line.len() - 1 {
                assert_eq!(read(&line.as_bytes()[..cut]), Ok(None), "{line:?} up to {cut}");
            }
        }
    }
}
