//! What measurements of whole conversations share: the targets, the means, and the form of an outcome.

use super::compare::Plan;
use super::line::PacketCapture;
use super::passive::Answer;

/// MeansOfSight by which something was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MeansOfSight {
    /// Bytes, records, ends and their times, as a client reads them.
    Answers,
    /// Packets as they passed.
    Packets,
    /// Reads in place of packets: two packets may be read as one, and times are those of this program.
    Reads,
}

impl MeansOfSight {
    /// Its name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Packets => "packets",
            Self::Reads => "reads, which may hide a border between two packets",
        }
    }
}

/// Targets, means and extent of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct SceneSetup<'a> {
    /// Subject and targets.
    pub plan: &'a Plan,
    /// The line, where it can be listened to.
    pub line: Option<&'a PacketCapture>,
    /// Conversations of each kind that are wanted.
    pub samples: usize,
}

/// Result of one measurement.
#[derive(Clone, Debug)]
pub struct SceneOutcome {
    /// Number of conversations.
    pub samples: usize,
    /// By which means.
    pub means: MeansOfSight,
    /// Answer that they give.
    pub answer: Answer,
}

impl SceneSetup<'_> {
    /// An outcome by packets if they can be had.
    pub fn outcome(&self, samples: usize, answer: Answer) -> SceneOutcome {
        let means = if self.line.is_some() { MeansOfSight::Packets } else { MeansOfSight::Reads };
        SceneOutcome { samples, means, answer }
    }
}
