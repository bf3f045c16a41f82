//! One handshake with a server, to learn nothing but whether anything comes of it.

use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::visitor::{self, ANY};
use crate::auth::Domain;

/// Reaction of a server to a visitor who began a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It answered, be it with an alert.
    Answered,
    /// It ended the connection without an answer.
    Closed,
}

/// Begins a handshake for `name` and waits for the reaction, for as long as that takes.
pub async fn ping(leg: impl AsyncRead + AsyncWrite + Unpin, name: &Domain) -> io::Result<Reaction> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let name = ServerName::try_from(name.to_string()).map_err(io::Error::other)?;
    match TlsConnector::from(visitor::config(&[b"h2", b"http/1.1"], ANY)?).connect(name, leg).await {
        Err(error) if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
            Ok(Reaction::Closed)
        }
        // What it said may be no handshake that ends well, but it has said something.
        _ => Ok(Reaction::Answered),
    }
}
