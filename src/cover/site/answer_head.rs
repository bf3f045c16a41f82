//! The head of an upstream's answer. Pure.

use std::io;

use bytes::{Bytes, BytesMut};

use super::framing::{Chunked, Framing};
use super::message::Fields;

/// The head of an answer, its first line and fields as they came.
#[derive(Clone, Debug)]
pub(super) struct AnswerHead {
    pub(super) status: u16,
    pub(super) line: Bytes,
    pub(super) fields: Fields,
}

impl AnswerHead {
    /// Framing of the body: how its end is found.
    pub(super) fn framing(&self, silent: bool) -> Framing {
        let coding = self.fields.all("transfer-encoding").last();
        let length = || self.fields.text("content-length").and_then(|length| length.parse::<u64>().ok());
        match (silent || matches!(self.status, 100..=199 | 204 | 304), coding) {
            (true, _) => Framing::Over,
            (false, Some(coding)) if coding.to_ascii_lowercase().ends_with(b"chunked") => {
                Framing::Chunked(Chunked::default())
            }
            (false, Some(_)) => Framing::UntilEnd,
            (false, None) => length().map_or(Framing::UntilEnd, |length| Framing::of(Some(length))),
        }
    }

    /// Whether the connection may be used for another request.
    pub(super) fn keeps(&self) -> bool {
        let says = |word: &str| self.fields.text("connection").unwrap_or_default().to_ascii_lowercase().contains(word);
        self.line.starts_with(b"HTTP/1.1") && !says("close")
    }
}

/// Takes a head from what has come. `None` asks for more.
pub(super) fn read(bytes: &mut BytesMut) -> io::Result<Option<AnswerHead>> {
    let Some(end) = end_of(bytes) else {
        return if bytes.len() > LONGEST { Err(bad()) } else { Ok(None) };
    };
    let head = bytes.split_to(end).freeze();
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.next().ok_or_else(bad)?;
    let status = match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', status @ ..] => status.get(..3).and_then(number),
        _ => None,
    };
    let status = status.filter(|status| (100..1000).contains(status)).ok_or_else(bad)?;
    let mut fields = Fields::default();
    for row in lines.filter(|row| !row.is_empty()) {
        let colon = row.iter().position(|byte| *byte == b':').filter(|at| *at > 0).ok_or_else(bad)?;
        let (name, value) = (&row[..colon], row[colon + 1..].trim_ascii());
        let sound = name.iter().all(|byte| byte.is_ascii_graphic()) && !value.contains(&b'\r') && !value.contains(&0);
        if !sound {
            return Err(bad());
        }
        fields.push(head.slice_ref(name), head.slice_ref(value));
    }
    Ok(Some(AnswerHead { status, line: head.slice_ref(line), fields }))
}

fn number(digits: &[u8]) -> Option<u16> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Behind the empty line.
fn end_of(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        let line = bytes[start..].iter().position(|byte| *byte == b'\n')?;
        let text = &bytes[start..start + line];
        start += line + 1;
        if text.is_empty() || text == b"\r" {
            return Some(start);
        }
    }
}

fn bad() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the upstream does not answer in HTTP/1")
}

const LONGEST: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let text = "HTTP/1.1 200 Fine\r\nserver: x\r\nETag:\"y\"\r\nTransfer-Encoding: chunked\r\n\r\nrest";
        for cut in 0..text.len() - 4 {
            assert!(read(&mut BytesMut::from(&text[..cut])).unwrap().is_none());
        }
        let mut bytes = BytesMut::from(text);
        let head = read(&mut bytes).unwrap().unwrap();
        assert_eq!((head.status, &head.line[..], &bytes[..]), (200, &b"HTTP/1.1 200 Fine"[..], &b"rest"[..]));
        assert_eq!(head.fields.0[1], ("ETag".into(), "\"y\"".into()));
        assert!(matches!(head.framing(false), Framing::Chunked(_)) && head.keeps());
        assert_eq!(head.framing(true), Framing::Over);
        for bad in
            ["HTTP/2 200\r\n\r\n", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "HTTP/1.1 99 x\r\n\r\n"]
        {
            assert!(read(&mut BytesMut::from(bad)).is_err(), "{bad:?}");
        }
    }
}
