//! The audit: what a censor would try, tried by the operator first.
//!
//! Every probe is a name, a generator and a seed. It is played against three targets: the cover itself, a bare relay in
//! front of the cover, and the proxy. Only what is random by nature is masked before the three are compared. Beside the
//! probes stand two measurements: the time of the first answer, and statistics over first flights.
//!
//! ```text
//! corpus ─▶ probe ─▶ transcript ─┐
//! latency ───────▶ stats ────────┼─▶ report ─▶ summary, JSON, HTML
//! passive ───────▶ stats ────────┘
//! ```
//!
//! The hellos, the header and the client in here are written from the protocol a second time and import nothing from
//! `wire` and `auth`: whoever judges must not share the mistakes of the judged.

pub mod captured;
pub mod compare;
pub mod corpus;
pub mod cover;
pub mod curve;
pub mod dice;
pub mod fake_tls;
pub mod hello;
pub mod html;
pub mod kem;
pub mod latency;
pub mod obfuscated;
pub mod passive;
pub mod probe;
pub mod relay;
pub mod report;
pub mod run;
pub mod stats;
pub mod transcript;
