//! Telegram's WEB proxies: MTProxy through the web site.
//!
//! An app opens a hidden browser view on the site. The page that it finds there, the *bridge*, carries all of the app's
//! obfuscated2 connections as streams of one session, over HTTP requests or WebSockets of a real browser engine.
//!
//! ```text
//! request ─▶ request::classify ─▶ Stranger ─▶ the site answers, untouched
//!                │  ├─▶ Bridge ─▶ page::bridge
//!                │  └─▶ Api ─▶ carrier ─▶ Session ─▶ stream ─▶ Telegram
//!                └─▶ Unusable ─▶ 404, never the site
//! ```
//!
//! What decides is pure: [`budget`], [`capability`], [`token`], [`request`], [`frame`], [`session`], [`page`] and [`link`] own no socket,
//! read no clock and make no randomness. A request without an authentic value never gets an answer from here.

pub mod budget;
pub mod capability;
pub mod frame;
mod lane;
pub mod link;
pub mod page;
mod queue;
pub mod request;
pub mod session;
mod stream;
pub mod token;

// What moves bytes.
mod https;
pub mod live;
pub mod registry;
mod reply;
pub mod service;
mod socket;

pub use capability::{BasePath, Capability, Form, Host};
pub use service::WebProxy;
pub use session::Session;
pub use token::{Token, TokenKey, TokenKind};

#[cfg(test)]
mod tests;
