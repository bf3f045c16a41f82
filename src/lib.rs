//! Vizard: a Telegram proxy that no one can tell from a web site.
//!
//! Every connection starts as a visitor of the cover site and stays one until it has proved itself twice: with a
//! ClientHello whose random is a message authentication code under a known secret, and with an obfuscated2 header
//! under that same secret. `docs/architecture.md` tells the whole story; `server::connection` is the code to read first.
//!
//! ```text
//! client bytes ─▶ wire::Collector ─▶ wire::ClientHello ─▶ auth::Judge ─▶ Verdict
//!    │  (every byte also         (borrowed view)           (pure)         │
//!    │   reaches the cover,      ┌──────────────────────────────────────────┴──────────┐
//!    │   live, from byte one)  Decline(Reason)                                    Admit(Admission)
//!    ▼                           ▼                                                     ▼
//!  cover leg ◀───────────── pass-through ◀──── header not valid ──── gate: the cover's own flight, re-stamped
//!                          the site answers,                                           │ header valid
//!                          byte for byte                                               ▼
//!                                                      Session ─▶ telegram::Upstream ─▶ relay::stream
//!                                                              └▶ telegram::middle ─▶ relay::packets
//! ```
//!
//! Imports point one way:
//! `base < crypto < wire < {auth, net, relay} < {cover, telegram} < webproxy < server < ops < config < audit < cli`.

pub mod audit;
pub mod auth;
pub mod base;
pub mod cli;
pub mod config;
pub mod cover;
pub mod crypto;
#[cfg(test)]
mod fixtures;
pub mod net;
pub mod ops;
pub mod relay;
pub mod server;
pub mod telegram;
pub mod webproxy;
pub mod wire;
