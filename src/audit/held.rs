//! The last byte of a record is held back on the way, in a session that goes on and in a visit: a server that answers
//! before it is there cannot have checked the record.
//!
//! The first records of a connection are held back by probes of the table.

use std::time::Duration;

use super::captured::Captured;
use super::look::{MeansOfSight, SceneOutcome, SceneSetup};
use super::passive::Answer;
use super::states::{self, NO_SESSION, VisitState};
use super::talk::Conversation;

/// Time for which it is held back.
const HELD: Duration = Duration::from_millis(500);

/// Number of sessions and of visits.
const ROUNDS: usize = 3;

/// Compares sessions of this client with visits.
pub async fn measure(client: &'static Captured, look: &SceneSetup<'_>) -> SceneOutcome {
    let (mut visits, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (visited, entered) = tokio::join!(visit(client, look), session(client, look));
        visits.extend(visited);
        sessions.extend(entered);
    }
    let answer = match (visits.is_empty(), sessions.is_empty()) {
        (true, _) => Answer::NotLooked("the cover took no visit".into()),
        (_, true) => Answer::NotLooked(NO_SESSION.into()),
        _ => judge(&visits, &sessions),
    };
    SceneOutcome { samples: visits.len() + sessions.len(), means: MeansOfSight::Answers, answer }
}

/// Bytes that came before the last byte had left.
fn judge(visits: &[usize], sessions: &[usize]) -> Answer {
    let early = |all: &[usize]| all.iter().filter(|bytes| **bytes > 0).count();
    let text = format!(
        "{} of {} sessions and {} of {} visits were answered before the last byte of a record",
        early(sessions),
        sessions.len(),
        early(visits),
        visits.len()
    );
    let early = early(sessions) > 0 && early(visits) == 0;
    if early { Answer::Different(text) } else { Answer::Same(text) }
}

async fn visit(client: &Captured, look: &SceneSetup<'_>) -> Option<usize> {
    let mut visit = states::visit(VisitState::Greeted, look.plan.lineup.cover, client, look).await?;
    let record = if visit.is_http2() { visit.preface() } else { visit.request() };
    Some(hold(&mut visit.talk, &record).await)
}

async fn session(client: &Captured, look: &SceneSetup<'_>) -> Option<usize> {
    let mut session = states::session(client, look).await?;
    let record = session.request();
    Some(hold(&mut session.talk, &record).await)
}

/// Bytes that came while the last byte of this record was held back.
async fn hold(talk: &mut Conversation, record: &[u8]) -> usize {
    let (early, last) = record.split_at(record.len().saturating_sub(1));
    let before = talk.reply.len();
    talk.send(early).await;
    talk.hear_for(HELD).await;
    let came = talk.reply.len() - before;
    talk.send(last).await;
    talk.reset();
    came
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_early_in_visits_too_is_no_difference() {
        assert!(matches!(judge(&[0, 0], &[0, 0]), Answer::Same(_)));
        assert!(matches!(judge(&[0, 0], &[0, 24]), Answer::Different(_)));
        assert!(matches!(judge(&[24, 0], &[24, 24]), Answer::Same(_)));
    }
}
