//! What stands here where the feature is off: a server that cannot exist.

use std::io;

use tokio::net::TcpStream;

use super::Method;
use crate::net::route::Place;

/// A Shadowsocks server. There is none in this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {}

impl Server {
    /// Always `None`.
    pub fn new(_: Place, _: Method, _: &str) -> Option<Self> {
        None
    }

    /// Returns the host and port of the server.
    pub fn place(&self) -> &Place {
        match *self {}
    }

    pub(in crate::net::route) fn enter(&self, _: TcpStream, _: &Place) -> io::Result<TcpStream> {
        match *self {}
    }
}
