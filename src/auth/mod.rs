//! Who may enter: `Judge::judge(hello, now) -> Verdict`, and the things it is made of. No socket, no clock, no log.

mod digest;
mod keyring;
pub mod replay;
pub mod secret;
mod verdict;
mod window;

pub use keyring::{Keyring, Member};
pub use replay::{ReplayMemory, SecretTag};
pub use secret::{Domain, DomainError, Secret, SecretError, SecretText};
pub use verdict::{Admission, Judge, Reason, Verdict};
pub use window::{TimeWindow, UnixTime};
