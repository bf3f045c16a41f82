//! The end of a conversation as it looks from outside.

use std::time::Duration;

use super::fake_tls::End;
use super::talk::{Conversation, records};
use super::transcript::After;

/// Last records of a conversation, and the kind and time of its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationEnd {
    /// Payload sizes of the last records, without the data centre's packets.
    pub sizes: Vec<usize>,
    /// Kind of the end.
    pub end: End,
    /// From the last act of the client.
    pub took: Duration,
    /// Reaction to one more record.
    pub after: After,
}

impl ConversationEnd {
    /// Waits for it so long at most, and says one record behind it.
    pub async fn of(talk: &mut Conversation, limit: Duration) -> Self {
        let from = talk.reply.len();
        talk.hear_for(limit).await;
        let (end, took) = talk.end();
        let sizes = records(&talk.reply[from..]).iter().map(|record| record.length).collect();
        // Such as a client that has not seen the end would say.
        let after = talk.poke(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat()).await;
        Self { sizes, end, took, after }
    }

    /// Whether both look the same: an end may come 0.3 s or one per cent apart.
    pub fn same(&self, other: &Self) -> bool {
        let slack = Duration::from_millis(300).max(self.took.max(other.took) / 100);
        (&self.sizes, self.end, self.after) == (&other.sizes, other.end, other.after)
            && (self.end == End::Open || self.took.abs_diff(other.took) <= slack)
    }
}

impl std::fmt::Display for ConversationEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.end == End::Open {
            return write!(f, "records {:?} and no end", self.sizes);
        }
        let Self { sizes, end, took, after } = self;
        write!(f, "records {sizes:?}, {end:?} after {:.2} s, then {after:?}", took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_alike_if_all_of_them_is() {
        let ending = |sizes: &[usize], end, millis| ConversationEnd {
            sizes: sizes.to_vec(),
            end,
            took: Duration::from_millis(millis),
            after: After::Reset,
        };
        let usual = ending(&[19], End::Fin, 10);
        assert!(usual.same(&ending(&[19], End::Fin, 200)));
        for other in [ending(&[], End::Fin, 10), ending(&[19], End::Reset, 10), ending(&[19], End::Fin, 400)] {
            assert!(!usual.same(&other), "{other}");
        }
        assert!(ending(&[], End::Fin, 75_000).same(&ending(&[], End::Fin, 75_600)));
    }
}
