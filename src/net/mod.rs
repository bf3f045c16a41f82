//! Sockets without protocol, but for what it takes to come to a place: names, proxies on the way, HTTPS.

pub mod address;
pub mod dial;
pub mod health;
pub mod holder;
pub mod https;
pub mod inherited;
pub mod listen;
pub mod proxy_protocol;
pub mod race;
pub mod resolve;
pub mod route;
pub mod sockopt;
pub mod stun;
pub mod unix;
