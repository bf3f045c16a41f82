//! Conversations in the states that a censor can bring them to: visits of several kinds, and a session.

use super::captured::Captured;
use super::fake_tls::End;
use super::look::SceneSetup;
use super::session::{ClientSession, protocols};
use super::talk::PAUSE;
use super::visit::TlsVisit;

/// Progress of a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisitState {
    /// The handshake is over, and nothing was said since.
    Greeted,
    /// A client of HTTP/2 has said its preface, and that only.
    Prefaced,
    /// A page was answered.
    Answered,
}

impl VisitState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Greeted, Self::Prefaced, Self::Answered];

    /// Its name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Greeted => "after a handshake",
            Self::Prefaced => "after a preface",
            Self::Answered => "after a page",
        }
    }
}

/// A visit to `target` in this state; `None` if there is no such thing there.
pub async fn visit(
    state: VisitState,
    target: std::net::SocketAddr,
    client: &Captured,
    look: &SceneSetup<'_>,
) -> Option<TlsVisit> {
    let mut visit = TlsVisit::start(target, &protocols(client), look).await?;
    if state == VisitState::Prefaced && !visit.is_http2() {
        return None;
    }
    if state != VisitState::Greeted && visit.is_http2() {
        let preface = visit.preface();
        visit.talk.send(&preface).await;
    }
    if state == VisitState::Answered {
        let request = visit.request();
        visit.talk.send(&request).await;
    }
    visit.talk.listen(2 * PAUSE).await;
    (visit.talk.end().0 == End::Open).then_some(visit)
}

/// A session that has asked once and was answered by whatever there is.
pub async fn session(client: &Captured, look: &SceneSetup<'_>) -> Option<ClientSession> {
    let mut session = ClientSession::start(look.plan.lineup.proxy, client, look).await?;
    let request = session.request();
    session.talk.send(&request).await;
    session.talk.listen(2 * PAUSE).await;
    (session.talk.end().0 == End::Open).then_some(session)
}

/// Reason for having nothing to compare with.
pub const NO_SESSION: &str = "no session stayed open: the secret was not let in, or the data centre cannot be reached";
