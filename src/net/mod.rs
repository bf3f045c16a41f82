//! Sockets without protocol.

pub mod dial;
pub mod https;
pub mod listen;
pub mod sockopt;
