//! Codecs: slices in, values out; values in, bytes out. Nothing here knows a socket, a clock or a random source, and
//! nothing that a peer sends can make it panic or allocate more than the bound that stands beside each reader.

pub mod class;
pub mod client_hello;
pub mod cursor;
pub mod dns;
pub mod fake_tls;
pub mod fingerprint;
pub mod framing;
pub mod hellos;
pub mod numbers;
pub mod obfuscated;
pub mod packets;
pub mod record;
pub mod rpc;
pub mod server_flight;
pub mod server_hello;
pub mod websocket;

pub use class::HelloClass;
pub use client_hello::{ClientHello, HelloCollector};
pub use cursor::DecodeError;
pub use server_hello::ServerHello;
