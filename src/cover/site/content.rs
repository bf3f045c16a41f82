//! The body of an answer, read only when there is room for it, so that a client that does not read costs nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::socket::SocketHandler;
use super::upstream::Coming;

/// The body of an answer.
pub(super) enum Content {
    /// Bytes and parts of a file.
    Pieces(VecDeque<Piece>, Option<Arc<File>>),
    /// Body that an upstream sends.
    Theirs(Box<Coming>),
    /// Another protocol from here on, with what of it has come already.
    Tunnel(Box<TcpStream>, Bytes),
    /// The same, for an extension that goes on with the connection itself.
    Taken(Box<dyn SocketHandler>),
}

/// A part of a body.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    Part { start: u64, end: u64 },
}

impl Content {
    pub(super) fn empty() -> Content {
        Content::Pieces(VecDeque::new(), None)
    }

    pub(super) fn bytes(bytes: impl Into<Bytes>) -> Content {
        Content::Pieces([Piece::Bytes(bytes.into())].into(), None)
    }

    /// At most so many more bytes; `None` at the end.
    pub(super) async fn next(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        match self {
            Content::Pieces(pieces, file) => {
                let Some(piece) = pieces.pop_front() else { return Ok(None) };
                let (taken, rest) = cut(piece, most);
                if let Some(rest) = rest {
                    pieces.push_front(rest);
                }
                match (taken, file) {
                    (Piece::Bytes(bytes), _) => Ok(Some(bytes)),
                    (Piece::Part { start, end }, Some(file)) => read(Arc::clone(file), start, end).await.map(Some),
                    (Piece::Part { .. }, None) => Err(io::ErrorKind::NotFound.into()),
                }
            }
            Content::Theirs(coming) => coming.next(most).await,
            Content::Tunnel(..) | Content::Taken(_) => Ok(None),
        }
    }

    /// Whether it is known that nothing follows.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Content::Pieces(pieces, _) => pieces.is_empty(),
            Content::Theirs(coming) => coming.is_over(),
            Content::Tunnel(..) | Content::Taken(_) => true,
        }
    }
}

/// Splits what is too long.
fn cut(piece: Piece, most: usize) -> (Piece, Option<Piece>) {
    match piece {
        Piece::Bytes(mut bytes) if bytes.len() > most => {
            let taken = bytes.split_to(most);
            (Piece::Bytes(taken), Some(Piece::Bytes(bytes)))
        }
        Piece::Part { start, end } if end - start > most as u64 => {
            let middle = start + most as u64;
            (Piece::Part { start, end: middle }, Some(Piece::Part { start: middle, end }))
        }
        short => (short, None),
    }
}

/// Reads off the threads that others wait for.
async fn read(file: Arc<File>, start: u64, end: u64) -> io::Result<Bytes> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        // A file that has become shorter breaks the answer off: its length has been told.
        file.read_exact_at(&mut bytes, start)?;
        Ok(Bytes::from(bytes))
    });
    reading.await.map_err(io::Error::other)?
}
