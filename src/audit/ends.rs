//! Ends of connections: what a client's FIN gets, what a broken record gets, and what is said behind the server's FIN, in
//! sessions and in visits.

use super::captured::Captured;
use super::dice::Dice;
use super::ending::ConversationEnd;
use super::hello::push_counted;
use super::look::{MeansOfSight, SceneOutcome, SceneSetup};
use super::passive::Answer;
use super::states::{self, NO_SESSION, VisitState};
use super::talk::Conversation;

/// Act of the client that is followed by an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndingAct {
    /// FIN, without an alert, as apps end their connections.
    Fin,
    /// A record that no key fits. The server ends; one more record follows.
    Broken,
}

impl EndingAct {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Fin, Self::Broken];

    /// Its name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fin => "the client's FIN",
            Self::Broken => "a broken record, and data behind the end",
        }
    }

    async fn play(self, talk: &mut Conversation) {
        match self {
            Self::Fin => talk.finish().await,
            Self::Broken => {
                let mut record = vec![23, 3, 3];
                push_counted(&mut record, 2, &Dice::unseen().bytes(90));
                talk.send(&record).await;
            }
        }
    }
}

/// Number of sessions, and of visits in each state.
const ROUNDS: usize = 3;

/// Compares sessions of this client with visits in every state.
pub async fn measure(act: EndingAct, client: &'static Captured, look: &SceneSetup<'_>) -> SceneOutcome {
    let (mut visits, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let [greeted, prefaced, answered] = VisitState::ALL.map(|state| visit(act, state, client, look));
        let (a, b, c, entered) = tokio::join!(greeted, prefaced, answered, session(act, client, look));
        visits.extend([a, b, c].into_iter().flatten());
        sessions.extend(entered);
    }
    let answer = judge(&visits, &sessions);
    SceneOutcome { samples: visits.len() + sessions.len(), means: MeansOfSight::Answers, answer }
}

fn judge(visits: &[(VisitState, ConversationEnd)], sessions: &[ConversationEnd]) -> Answer {
    if visits.is_empty() {
        return Answer::NotLooked("the cover took no visit".into());
    }
    let Some(first) = sessions.first() else { return Answer::NotLooked(NO_SESSION.into()) };
    let strange = |session: &&ConversationEnd| !visits.iter().any(|(_, visit)| visit.same(session));
    let odd: Vec<&ConversationEnd> = sessions.iter().filter(strange).collect();
    let mut states: Vec<VisitState> = Vec::new();
    let mut shown = Vec::new();
    for (state, visit) in visits {
        if !states.contains(state) {
            states.push(*state);
            shown.push(format!("cover {}: {visit}", state.label()));
        }
    }
    // One may be the machine's fault.
    match odd[..] {
        [] => Answer::Same(format!("{} sessions end as visits do: {first}", sessions.len())),
        [odd, _, ..] => Answer::Different(format!("{}\nproxy in a session: {odd}", shown.join("\n"))),
        [odd] if sessions.len() == 1 => Answer::Different(format!("{}\nproxy in a session: {odd}", shown.join("\n"))),
        [odd] => Answer::Same(format!("one of {} sessions ended otherwise: {odd}", sessions.len())),
    }
}

async fn visit(
    act: EndingAct,
    state: VisitState,
    client: &Captured,
    look: &SceneSetup<'_>,
) -> Option<(VisitState, ConversationEnd)> {
    let mut visit = states::visit(state, look.plan.lineup.cover, client, look).await?;
    act.play(&mut visit.talk).await;
    Some((state, ConversationEnd::of(&mut visit.talk, look.plan.lineup.limit).await))
}

async fn session(act: EndingAct, client: &Captured, look: &SceneSetup<'_>) -> Option<ConversationEnd> {
    let mut session = states::session(client, look).await?;
    act.play(&mut session.talk).await;
    Some(session.ending(look.plan.lineup.limit).await)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::audit::fake_tls::End;
    use crate::audit::transcript::After;

    #[test]
    fn a_session_may_end_as_any_visit_does_and_not_otherwise() {
        let ending = |sizes: &[usize], millis| ConversationEnd {
            sizes: sizes.to_vec(),
            end: End::Fin,
            took: Duration::from_millis(millis),
            after: After::NotTried,
        };
        let visits = [(VisitState::Greeted, ending(&[], 1)), (VisitState::Answered, ending(&[19], 1))];
        let same = |sessions: &[ConversationEnd]| matches!(judge(&visits, sessions), Answer::Same(_));
        assert!(same(&[ending(&[], 2), ending(&[19], 3)]));
        assert!(!same(&[ending(&[19], 500), ending(&[19], 500)]));
        assert!(!same(&[ending(&[19, 19], 1), ending(&[], 1), ending(&[19, 19], 1)]));
        assert!(same(&[ending(&[19], 500), ending(&[19], 3), ending(&[], 3)]), "one is chance");
        assert!(matches!(judge(&visits, &[]), Answer::NotLooked(_)));
        assert!(matches!(judge(&[], &[ending(&[], 1)]), Answer::NotLooked(_)));
    }
}
