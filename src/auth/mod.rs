//! Who may enter: `Judge::judge(hello, now) -> Verdict`, and the things it is made of. No socket, no clock, no log.

pub mod replay;
pub mod secret;

pub use replay::{ReplayMemory, SecretTag};
pub use secret::{Domain, DomainError, Secret, SecretError, SecretText};
