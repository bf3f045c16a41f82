//! Sockets without protocol.

pub mod dial;
pub mod health;
pub mod https;
pub mod inherited;
pub mod listen;
pub mod proxy_protocol;
pub mod race;
pub mod sockopt;
pub mod stun;
pub mod unix;
