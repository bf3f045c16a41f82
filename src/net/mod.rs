//! Sockets without protocol.

pub mod dial;
pub mod listen;
pub mod sockopt;
