//! Where a body ends in a stream of HTTP/1. Pure.

use bytes::{Buf, Bytes, BytesMut};

use super::message::Broken;

/// Rule by which the end of a body is found (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked(Chunked),
    /// It ends with the stream.
    UntilEnd,
    /// It has ended.
    Over,
}

/// Next part of a body in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Piece(Bytes),
    End,
    /// Nothing that is whole.
    More,
}

/// Position of the stream within the chunked coding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunked {
    state: State,
    size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Size,
    Extension,
    SizeEnd,
    Data,
    AfterData,
    AfterDataEnd,
    LastExtension,
    LastSizeEnd,
    Trailer,
    TrailerEnd,
    TrailerField,
    TrailerFieldEnd,
}

impl Framing {
    /// Of a request or answer whose length is told or not.
    pub(super) fn of(length: Option<u64>) -> Framing {
        match length {
            Some(0) => Framing::Over,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked(Chunked::default()),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        *self == Framing::Over
    }

    /// Takes what belongs to the body, at most so much at once.
    pub(super) fn take(&mut self, bytes: &mut BytesMut, most: usize) -> Result<Taken, Broken> {
        let piece = |bytes: &mut BytesMut, bound: u64| {
            let length = usize::try_from(bound).unwrap_or(usize::MAX).min(bytes.len()).min(most);
            bytes.split_to(length).freeze()
        };
        let taken = match self {
            Framing::Over => Taken::End,
            _ if bytes.is_empty() => Taken::More,
            Framing::UntilEnd => Taken::Piece(piece(bytes, u64::MAX)),
            Framing::Length(left) => {
                let piece = piece(bytes, *left);
                *left -= piece.len() as u64;
                if *left == 0 {
                    *self = Framing::Over;
                }
                Taken::Piece(piece)
            }
            Framing::Chunked(chunks) => {
                let step = chunks.step(bytes)?;
                match step {
                    Step::Data => {
                        let piece = piece(bytes, chunks.size);
                        chunks.took(piece.len() as u64);
                        Taken::Piece(piece)
                    }
                    Step::More => Taken::More,
                    Step::End => {
                        *self = Framing::Over;
                        Taken::End
                    }
                }
            }
        };
        Ok(taken)
    }
}

enum Step {
    Data,
    More,
    End,
}

impl Chunked {
    fn took(&mut self, length: u64) {
        self.size -= length;
        if self.size == 0 {
            self.state = State::AfterData;
        }
    }

    /// Reads what stands between pieces.
    fn step(&mut self, bytes: &mut BytesMut) -> Result<Step, Broken> {
        while let Some(byte) = bytes.first().copied() {
            if self.state == State::Data {
                return Ok(Step::Data);
            }
            bytes.advance(1);
            match self.next(byte)? {
                Some(state) => self.state = state,
                None => return Ok(Step::End),
            }
        }
        Ok(Step::More)
    }

    /// The state behind a byte; `None` at the end of all chunks.
    fn next(&mut self, byte: u8) -> Result<Option<State>, Broken> {
        use State::*;
        let last = self.size == 0;
        Ok(Some(match (self.state, byte) {
            (Start | Size, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                if self.size > (i64::MAX as u64) / 16 {
                    return Err(Broken);
                }
                self.size = self.size * 16 + u64::from(digit);
                Size
            }
            (Size, b'\r') => {
                if last {
                    LastSizeEnd
                } else {
                    SizeEnd
                }
            }
            (Size, b'\n') => {
                if last {
                    Trailer
                } else {
                    Data
                }
            }
            (Size, b';' | b' ' | b'\t') => {
                if last {
                    LastExtension
                } else {
                    Extension
                }
            }
            (Extension, b'\r') => SizeEnd,
            (Extension, b'\n') | (SizeEnd, b'\n') => Data,
            (Extension, _) => Extension,
            (LastExtension, b'\r') => LastSizeEnd,
            (LastExtension, b'\n') | (LastSizeEnd, b'\n') => Trailer,
            (LastExtension, _) => LastExtension,
            (AfterData, b'\r') => AfterDataEnd,
            (AfterData, b'\n') | (AfterDataEnd, b'\n') => Start,
            (Trailer, b'\r') => TrailerEnd,
            (Trailer, b'\n') | (TrailerEnd, b'\n') => return Ok(None),
            (Trailer, _) => TrailerField,
            (TrailerField, b'\r') => TrailerFieldEnd,
            (TrailerField, b'\n') | (TrailerFieldEnd, b'\n') => Trailer,
            (TrailerField, _) => TrailerField,
            _ => return Err(Broken),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(framing: &mut Framing, text: &str, step: usize) -> Result<String, Broken> {
        let (mut bytes, mut body) = (BytesMut::new(), Vec::new());
        for piece in text.as_bytes().chunks(step) {
            bytes.extend_from_slice(piece);
            loop {
                match framing.take(&mut bytes, 3)? {
                    Taken::Piece(piece) => body.extend_from_slice(&piece),
                    Taken::End => return Ok(String::from_utf8([&body[..], b"|", &bytes[..]].concat()).unwrap()),
                    Taken::More => break,
                }
            }
        }
        Ok(String::from_utf8(body).unwrap())
    }

    #[test]
    fn bodies_end_where_they_end() {
        let text = "4\r\nWiki\r\n6;x=y\r\npedia \n0\r\nTrailer: 1\r\n\r\n";
        for step in [1, 3, text.len()] {
            assert_eq!(all(&mut Framing::of(None), text, step).unwrap(), "Wikipedia |");
            assert_eq!(all(&mut Framing::of(Some(4)), "Wiki", step).unwrap(), "Wiki|");
            assert_eq!(all(&mut Framing::UntilEnd, "Wikipedia", step).unwrap(), "Wikipedia");
        }
        assert_eq!(all(&mut Framing::of(None), "0\r\n\r\nrest", 100).unwrap(), "|rest");
    }

    #[test]
    fn bad_chunks_are_refused() {
        for text in ["x\r\n", "4x\r\n", "4\rx", "2\r\nabX", "fffffffffffffffff\r\n", "\r\n", "-1\r\n"] {
            assert_eq!(all(&mut Framing::of(None), text, 100), Err(Broken), "{text:?}");
        }
    }
}
