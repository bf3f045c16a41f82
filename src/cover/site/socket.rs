//! A connection that is no HTTP any more.

use std::pin::Pin;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

/// Part that a connection is handed over to.
pub trait SocketHandler: Send {
    /// Goes on with the stream, of which `early` has come already, to the end of either side. Dropped when the connection
    /// is.
    fn run<'s>(
        self: Box<Self>,
        stream: &'s mut dyn DuplexStream,
        early: Bytes,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 's>>;
}

/// A stream in both directions.
pub trait DuplexStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> DuplexStream for T {}
