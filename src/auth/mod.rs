//! Who may enter: `Judge::judge(hello, now) -> Verdict`, and the things it is made of. No socket, no clock, no log.

mod digest;
mod keyring;
mod member;
pub mod replay;
pub mod secret;
mod verdict;
mod window;

pub use keyring::{Key, Keyring};
pub use member::{Member, Permit, Refusal};
pub use replay::{ReplayMemory, SecretTag};
pub use secret::{Domain, DomainError, Secret, SecretError, SecretText};
pub use verdict::{Admission, Declined, Judge, Reason, Rules, Verdict};
pub use window::{TimeWindow, UnixTime};
