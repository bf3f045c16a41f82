//! The audit: what a censor would try, tried by the operator first.
//!
//! Every probe is a name, a generator and a seed. It is played against three targets: the cover itself, a bare relay in
//! front of the cover, and the proxy. Only what is random by nature is masked before the three are compared. Beside the
//! probes stand measurements: the time of the first answer, statistics over first flights, and scenes, which are whole
//! conversations (a session through the proxy against visits to the cover) as their packets show them.
//!
//! ```text
//! corpus ─▶ probe ─────▶ transcript ─┐
//! line ──▶ talk ─▶ scene ────────────┤
//! latency ───────▶ stats ────────────┼─▶ report ─▶ summary, JSON, HTML
//! passive ───────▶ stats ────────────┘
//! ```
//!
//! The hellos, the header and the client in here are written from the protocol a second time and import nothing from
//! `wire` and `auth`: anyone who judges must not share the mistakes of the judged.

pub mod bridge;
pub mod captured;
pub mod compare;
pub mod corpus;
pub mod cover;
pub mod curve;
pub mod dice;
pub mod ending;
pub mod ends;
pub mod fake_tls;
pub mod greeting;
pub mod held;
pub mod hello;
pub mod html;
pub mod idle;
pub mod kem;
pub mod latency;
pub mod line;
pub mod look;
pub mod obfuscated;
pub mod passive;
pub mod probe;
pub mod relay;
pub mod report;
pub mod run;
pub mod scene;
pub mod segments;
pub mod session;
pub mod states;
pub mod stats;
pub mod talk;
pub mod transcript;
pub mod visit;
