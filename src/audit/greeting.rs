//! What comes behind the client's second flight before anybody has asked for anything: tickets and settings, in records of
//! some sizes, in some writes, after some time. A session shows stand-ins, a visit to the cover the things themselves.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::captured::Captured;
use super::compare::Plan;
use super::latency::median;
use super::line::PacketCapture;
use super::look::{SceneOutcome, SceneSetup};
use super::passive::{Answer, compare_sets};
use super::session::{ClientSession, protocols};
use super::states::NO_SESSION;
use super::stats::{LEVEL, kolmogorov_smirnov};
use super::talk::{ArrivedPiece, Conversation, PAUSE, records};
use super::visit::TlsVisit;

/// Pairs of a visit and a session at once.
const AT_ONCE: usize = 4;

/// Measurements that have to show a difference in delay.
const ATTEMPTS: usize = 3;

/// Delays that are nearer than this, in milliseconds, are taken for the same.
const NEAR: f64 = 5.0;

/// One conversation up to the point where the client would ask for something.
#[derive(Clone, Debug, Default, PartialEq)]
struct SeenGreeting {
    /// Records behind the second flight, and those behind what the client says next.
    shape: String,
    /// From the second flight to the first of them, in milliseconds.
    delay: Option<f64>,
}

impl SeenGreeting {
    fn is_empty(&self) -> bool {
        !self.shape.contains(|letter: char| letter.is_ascii_digit())
    }
}

/// Compares sessions of this client with visits that offer the same protocols.
pub async fn measure(client: &'static Captured, look: &SceneSetup<'_>) -> SceneOutcome {
    let (mut visits, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..ATTEMPTS {
        let (visited, entered) = collect(client, look).await;
        visits.extend(visited);
        sessions.extend(entered);
        if visits.is_empty() || sessions.is_empty() {
            let why = if visits.is_empty() { "the cover took no visit" } else { NO_SESSION };
            return look.outcome(visits.len(), Answer::NotLooked(why.into()));
        }
        let alike = matches!(shapes(&visits, &sessions), Answer::Same(_));
        if !alike || delays(&visits, &sessions).1 {
            break;
        }
    }
    let count = visits.len() + sessions.len();
    if sessions.iter().all(SeenGreeting::is_empty) && !visits.iter().any(SeenGreeting::is_empty) {
        let why =
            "not known to ignore records that carry nothing, so a session of this client has none (session.fillers)";
        return look.outcome(count, Answer::Known(format!("visits {}\n{why}", visits[0].shape)));
    }
    let (text, near) = delays(&visits, &sessions);
    look.outcome(
        count,
        match (shapes(&visits, &sessions), near) {
            (Answer::Same(_), true) => Answer::Same(format!("records and writes alike; {text}")),
            (Answer::Same(_), false) => Answer::Different(text),
            (other, _) => other,
        },
    )
}

fn shapes(visits: &[SeenGreeting], sessions: &[SeenGreeting]) -> Answer {
    let tally = |greetings: &[SeenGreeting]| {
        let mut tally = BTreeMap::new();
        for greeting in greetings {
            *tally.entry(greeting.shape.clone()).or_default() += 1;
        }
        tally
    };
    compare_sets(&tally(visits), &tally(sessions))
}

/// The delays in a line, and whether they are alike.
fn delays(visits: &[SeenGreeting], sessions: &[SeenGreeting]) -> (String, bool) {
    let [visits, sessions] =
        [visits, sessions].map(|all| all.iter().filter_map(|greeting| greeting.delay).collect::<Vec<f64>>());
    if visits.is_empty() || sessions.is_empty() {
        return ("nothing is said to a visitor".into(), visits.is_empty() && sessions.is_empty());
    }
    let ks = kolmogorov_smirnov(&visits, &sessions);
    let medians = [median(&visits), median(&sessions)];
    // A busy machine makes all of them vary.
    let least = NEAR.max(2.0 * spread(&visits)).max(2.0 * spread(&sessions));
    let text = format!(
        "after {:.1} ms in visits, {:.1} ms in sessions, distance {:.2}; less than {least:.0} ms could not be told",
        medians[0], medians[1], ks.distance
    );
    (text, ks.p >= LEVEL || (medians[0] - medians[1]).abs() < least)
}

/// Distance between the quartiles.
fn spread(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values.get(values.len() * part / 4).copied().unwrap_or_default();
    at(3) - at(1)
}

/// Visits and sessions side by side, so that both share whatever the machine is busy with.
async fn collect(client: &'static Captured, look: &SceneSetup<'_>) -> (Vec<SeenGreeting>, Vec<SeenGreeting>) {
    let (mut visits, mut sessions, mut running) = (Vec::new(), Vec::new(), JoinSet::new());
    for turn in 0..look.samples + AT_ONCE {
        if turn >= AT_ONCE
            && let Some(Ok((visited, entered))) = running.join_next().await
        {
            visits.extend(visited);
            sessions.extend(entered);
        }
        if turn < look.samples {
            let (plan, line, samples): (Plan, Option<PacketCapture>, usize) =
                (look.plan.clone(), look.line.cloned(), look.samples);
            running.spawn(async move {
                let look = SceneSetup { plan: &plan, line: line.as_ref(), samples };
                tokio::join!(visit(client, &look), session(client, &look))
            });
        }
    }
    (visits, sessions)
}

async fn visit(client: &Captured, look: &SceneSetup<'_>) -> Option<SeenGreeting> {
    let mut visit = TlsVisit::start(look.plan.lineup.cover, &protocols(client), look).await?;
    visit.talk.listen(PAUSE).await;
    let first = stage(&visit.talk, visit.handshake).await;
    let said = visit.talk.reply.len();
    if visit.is_http2() {
        let preface = visit.preface();
        visit.talk.send(&preface).await;
    }
    visit.talk.listen(PAUSE).await;
    let second = stage(&visit.talk, said).await;
    let all: Vec<usize> = records(&visit.talk.reply[visit.handshake..]).iter().map(|record| record.length).collect();
    visit.talk.reset();
    let own: Vec<(usize, bool)> = all.into_iter().map(|length| (length, false)).collect();
    Some(greeting(&own, &first, &second, look.line.is_some()))
}

async fn session(client: &Captured, look: &SceneSetup<'_>) -> Option<SeenGreeting> {
    let mut session = ClientSession::start(look.plan.lineup.proxy, client, look).await?;
    let first = session.request();
    session.talk.send(&first).await;
    session.talk.listen(PAUSE).await;
    let first = stage(&session.talk, session.flight).await;
    let said = session.talk.reply.len();
    let second = session.request();
    session.talk.send(&second).await;
    session.talk.listen(PAUSE).await;
    let second = stage(&session.talk, said).await;
    if session.talk.end().0 != super::fake_tls::End::Open {
        return None;
    }
    let all = session.opened();
    session.talk.reset();
    Some(greeting(&all, &first, &second, look.line.is_some()))
}

/// Pieces of one stage, cut so that they begin where it does.
async fn stage(talk: &Conversation, from: usize) -> Vec<ArrivedPiece> {
    let mut pieces = talk.pieces(from).await;
    let sum: usize = pieces.iter().map(|piece| piece.length).sum();
    let before = sum.saturating_sub(talk.reply.len() - from);
    if let Some(first) = pieces.first_mut() {
        first.length -= before.min(first.length);
    }
    pieces
}

/// `all` are the records of both stages, with whether the data centre's packets are in them: those are left out.
fn greeting(all: &[(usize, bool)], first: &[ArrivedPiece], second: &[ArrivedPiece], packets: bool) -> SeenGreeting {
    let mut shape = String::new();
    let (mut records, mut at, mut end) = (all.iter(), 0, 0);
    let mut own = 0;
    for (number, stage) in [first, second].into_iter().enumerate() {
        if number == 1 {
            shape += ", then";
        }
        for piece in stage {
            let mut begun = Vec::new();
            end += piece.length;
            while at < end {
                let Some((length, packet)) = records.next() else { break };
                at += 5 + length;
                if !packet {
                    begun.push(length.to_string());
                }
            }
            if begun.is_empty() {
                continue;
            }
            own += usize::from(number == 0);
            // A read may have taken two writes for one.
            shape += if packets { " [" } else { " " };
            shape += &begun.join(" ");
            shape += if packets { "]" } else { "" };
        }
    }
    let delay = first.first().filter(|_| own > 0).map(|piece| piece.after.as_secs_f64() * 1000.0);
    SeenGreeting { shape: shape.trim().to_owned(), delay }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn piece(length: usize, millis: u64) -> ArrivedPiece {
        ArrivedPiece { after: Duration::from_millis(millis), length, options: 12 }
    }

    #[test]
    fn a_greeting_is_told_by_records_writes_and_time() {
        let all = [(229, false), (229, false), (50, false), (90, true), (26, false)];
        let (first, second) = ([piece(468, 4), piece(55, 5)], [piece(95, 9), piece(31, 9)]);
        let found = greeting(&all, &first, &second, true);
        assert_eq!(found, SeenGreeting { shape: "[229 229] [50], then [26]".into(), delay: Some(4.0) });
        assert_eq!(greeting(&all, &first, &second, false).shape, "229 229 50, then 26");
        let packet = [(90, true)];
        assert_eq!(greeting(&packet, &[piece(95, 9)], &[], true), SeenGreeting { shape: ", then".into(), delay: None });
    }

    #[test]
    fn delays_differ_when_they_are_apart_by_more_than_is_measured() {
        let all = |millis: f64| vec![SeenGreeting { shape: String::new(), delay: Some(millis) }; 30];
        assert!(delays(&all(0.5), &all(1.2)).1 && delays(&all(60.0), &all(64.0)).1);
        assert!(!delays(&all(34.0), &all(1.2)).1 && !delays(&all(0.5), &all(8.0)).1);
        assert!(!delays(&all(1.0), &[]).1 && delays(&[], &[]).1);
    }
}
