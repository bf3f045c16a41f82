//! Silences: how long the cover bears a visitor that says nothing, and whether the proxy bears visitors and sessions as long.

use std::time::Duration;

use super::captured::Captured;
use super::ending::ConversationEnd;
use super::fake_tls::End;
use super::look::{MeansOfSight, SceneOutcome, SceneSetup};
use super::passive::Answer;
use super::states::{self, NO_SESSION, VisitState};

/// Party that is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilentParty {
    /// A visitor of the cover, behind the proxy or not.
    Visitor(VisitState),
    /// A client that was admitted.
    Client,
}

/// Every party.
pub fn all() -> impl Iterator<Item = SilentParty> {
    VisitState::ALL.into_iter().map(SilentParty::Visitor).chain([SilentParty::Client])
}

impl SilentParty {
    /// Its name for people.
    pub fn label(self) -> String {
        match self {
            Self::Visitor(state) => format!("a visitor {}", state.label()),
            Self::Client => "an admitted client".to_owned(),
        }
    }
}

/// Waits so long at most for the ends of silent connections.
pub async fn measure(
    silent: SilentParty,
    client: &'static Captured,
    limit: Option<Duration>,
    look: &SceneSetup<'_>,
) -> SceneOutcome {
    let Some(limit) = limit else {
        let text = "it takes as long as the cover bears a silence: name how many seconds with --idle";
        return SceneOutcome { samples: 0, means: MeansOfSight::Answers, answer: Answer::NotLooked(text.into()) };
    };
    let (samples, answer) = match silent {
        SilentParty::Visitor(state) => visitors(state, client, limit, look).await,
        SilentParty::Client => clients(client, limit, look).await,
    };
    SceneOutcome { samples, means: MeansOfSight::Answers, answer }
}

async fn visitors(
    state: VisitState,
    client: &'static Captured,
    limit: Duration,
    look: &SceneSetup<'_>,
) -> (usize, Answer) {
    let [cover, proxy] = [look.plan.lineup.cover, look.plan.lineup.proxy].map(|target| async move {
        let mut visit = states::visit(state, target, client, look).await?;
        Some(ConversationEnd::of(&mut visit.talk, limit).await)
    });
    match tokio::join!(cover, proxy) {
        (Some(cover), Some(proxy)) => (2, alike(&[cover], &proxy, limit)),
        (None, _) => (0, Answer::NotThere),
        (_, None) => (0, Answer::NotLooked("no visit came through the proxy".into())),
    }
}

async fn clients(client: &'static Captured, limit: Duration, look: &SceneSetup<'_>) -> (usize, Answer) {
    let visits = VisitState::ALL.map(|state| async move {
        let mut visit = states::visit(state, look.plan.lineup.cover, client, look).await?;
        Some(ConversationEnd::of(&mut visit.talk, limit).await)
    });
    let session = async {
        let session = states::session(client, look).await?;
        Some(session.ending(limit).await)
    };
    let [greeted, prefaced, answered] = visits;
    let (a, b, c, session) = tokio::join!(greeted, prefaced, answered, session);
    let visits: Vec<ConversationEnd> = [a, b, c].into_iter().flatten().collect();
    match session {
        None => (0, Answer::NotLooked(NO_SESSION.into())),
        Some(session) => (visits.len() + 1, alike(&visits, &session, limit)),
    }
}

fn alike(cover: &[ConversationEnd], proxy: &ConversationEnd, limit: Duration) -> Answer {
    if cover.iter().any(|cover| cover.same(proxy)) {
        let text = match proxy.end {
            End::Open => format!("borne for the {} seconds that were looked at, as by the cover", limit.as_secs()),
            _ => format!("ended as by the cover: {proxy}"),
        };
        return Answer::Same(text);
    }
    let shown: Vec<String> = cover.iter().map(|cover| format!("cover {cover}")).collect();
    Answer::Different(format!("{}\nproxy {proxy}", shown.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::transcript::After;

    #[test]
    fn a_session_that_outlives_every_visit_is_told() {
        let ending = |end, seconds| ConversationEnd {
            sizes: Vec::new(),
            end,
            took: Duration::from_secs(seconds),
            after: After::NotTried,
        };
        let limit = Duration::from_secs(90);
        let visits = [ending(End::Fin, 60), ending(End::Fin, 75)];
        assert!(matches!(alike(&visits, &ending(End::Open, 0), limit), Answer::Different(_)));
        assert!(matches!(alike(&visits, &ending(End::Fin, 30), limit), Answer::Different(_)));
        assert!(matches!(alike(&visits, &ending(End::Fin, 75), limit), Answer::Same(_)));
        assert!(matches!(alike(&[ending(End::Open, 0)], &ending(End::Open, 0), limit), Answer::Same(_)));
        assert_eq!(all().count(), 4);
    }
}
