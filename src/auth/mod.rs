//! Who may enter: `Judge::judge(hello, now) -> Verdict`, and the things it is made of. No socket, no clock, no log.

mod bucket;
mod digest;
mod keyring;
mod ledger;
mod member;
mod past;
mod people;
mod period;
mod policy;
pub mod replay;
mod search;
pub mod secret;
mod verdict;
mod window;

pub use keyring::{Key, KeyId, Keyring};
pub use member::{Allowance, Direction, Member, Permit, QuotaStore, Refusal, Usage};
pub use past::PastNames;
pub use people::{Enrolment, People, UsageRecord};
pub use period::Period;
pub use policy::{MiddleUse, MiddleWay, Policy, Quota, Tagging};
pub use replay::{Company, ReplayCache, ReplayMemory, SecretTag};
pub use search::Searched;
pub use secret::{Domain, DomainError, Secret, SecretError, SecretText, link_part};
pub use verdict::{Admission, Declined, Inquiry, Judge, Reason, Rules, Verdict};
pub use window::{TimeWindow, UnixTime};
