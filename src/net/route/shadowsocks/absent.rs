//! What stands here where the feature is off: a server that cannot exist.

use std::io;

use tokio::net::TcpStream;

use super::Method;
use crate::net::route::Endpoint;

/// A Shadowsocks server. There is none in this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {}

impl Server {
    /// Always `None`.
    pub fn new(_: Endpoint, _: Method, _: &str) -> Option<Self> {
        None
    }

    /// Returns the host and port of the server.
    pub fn place(&self) -> &Endpoint {
        match *self {}
    }

    pub(in crate::net::route) fn enter(&self, _: TcpStream, _: &Endpoint) -> io::Result<TcpStream> {
        match *self {}
    }
}
