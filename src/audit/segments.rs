//! Segments of first flights, for clients that announce small ones: every kernel fills them, so an end before that shows
//! that the server wrote the flight in several pieces.

use std::time::Duration;

use super::captured::Captured;
use super::compare::Plan;
use super::dice::Dice;
use super::fake_tls::authentic;
use super::hello::{self, RANDOM};
use super::latency::Form;
use super::look::{SceneOutcome, SceneSetup};
use super::passive::Answer;
use super::talk::{Conversation, records};

/// Kind of client whose flights are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlightAsker {
    /// A hello without a signature.
    Stranger,
    /// A hello of a form that no client of Telegram sends.
    OddForm,
    /// A hello that is signed with the secret.
    Client,
}

impl FlightAsker {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stranger, Self::OddForm, Self::Client];

    /// Its name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Stranger => "a stranger",
            Self::OddForm => "a stranger with an odd hello",
            Self::Client => "an admitted client",
        }
    }
}

/// Sizes that are announced whatever the cover answers.
const USUAL: [u16; 7] = [128, 200, 256, 536, 1000, 1220, 1460];

/// Behind a ServerHello, the bytes among which a client of Telegram must not be left waiting.
const TRAP: usize = 11;

/// By how many bytes two flights may differ in length: a signature by four, and its record with it.
const SIGNATURE: usize = 8;

/// Rounds for each size where only reads can be noted, each of which may take two segments for one.
const READ_ROUNDS: usize = 4;

/// Further rounds for a size that showed a difference.
const AGAIN: usize = 2;

/// A first flight as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CutFlight {
    /// Bytes of its ServerHello with the record's head.
    hello: usize,
    /// All its bytes.
    length: usize,
    /// Ends of pieces that were not full.
    cuts: Vec<usize>,
    /// Bytes that a full segment held.
    full: usize,
    /// Signed for the client.
    admitted: bool,
}

/// Compares the flights of the proxy with the cover's for this asker.
pub async fn measure(asker: FlightAsker, client: &Captured, look: &SceneSetup<'_>) -> SceneOutcome {
    let plan = look.plan;
    let Some(first) = flight(asker, client, 1460, plan.lineup.cover, look).await else {
        return look.outcome(0, Answer::NotLooked("the cover did not answer a hello".into()));
    };
    let (mut samples, mut different, mut for_clients) = (0, Vec::new(), Vec::new());
    for announced in sizes(first.hello) {
        let (count, cover, proxy) = ask(asker, client, announced, look).await;
        samples += count;
        let Some(odd) = odd(&cover, &proxy) else { continue };
        let (text, full) = (describe(announced, &cover, odd), odd.full);
        match asker == FlightAsker::Client && odd.admitted && trapped(odd.hello, full) {
            true => for_clients.push(text),
            false => different.push(text),
        }
    }
    let answer = if !different.is_empty() {
        Answer::Different(different.join("\n"))
    } else if !for_clients.is_empty() {
        let why = "written in two, because such a client gives up a flight that a read cuts behind the ServerHello";
        Answer::Known(format!("{}\n{why}", for_clients.join("\n")))
    } else {
        Answer::Same(format!("{samples} flights for segments of {} to 1460 bytes are cut alike", USUAL[0]))
    };
    look.outcome(samples, answer)
}

/// Sizes to announce for a ServerHello of this length: those that end around it, once and in parts.
fn sizes(hello: usize) -> Vec<u16> {
    const TIMESTAMPS: usize = 12;
    let mut sizes = USUAL.to_vec();
    for parts in 1..=6 {
        let ends = [hello - 1, hello, hello + 5, hello + TRAP - 1, hello + TRAP];
        let announced = ends.map(|end| end.div_ceil(parts) + TIMESTAMPS);
        let fitting = announced.into_iter().filter_map(|size| u16::try_from(size).ok());
        sizes.extend(fitting.filter(|size| (128..=1460).contains(size)).step_by(if parts == 1 { 1 } else { 2 }));
    }
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// The flights of cover and proxy for one size, and how many there were.
async fn ask(
    asker: FlightAsker,
    client: &Captured,
    announced: u16,
    look: &SceneSetup<'_>,
) -> (usize, Vec<CutFlight>, Vec<CutFlight>) {
    let usual = if look.line.is_some() { 1 } else { READ_ROUNDS };
    let (mut cover, mut proxy) = (Vec::new(), Vec::new());
    for round in 0..usual + AGAIN {
        if round >= usual && odd(&cover, &proxy).is_none() {
            break;
        }
        let [at_cover, at_proxy] = [look.plan.lineup.cover, look.plan.lineup.proxy];
        let direct = flight(asker, client, announced, at_cover, look);
        let (direct, proxied) = tokio::join!(direct, flight(asker, client, announced, at_proxy, look));
        cover.extend(direct);
        proxy.extend(proxied);
    }
    (cover.len() + proxy.len(), cover, proxy)
}

/// A flight of the proxy that is cut where no flight of the cover is, if that came again.
fn odd<'a>(cover: &[CutFlight], proxy: &'a [CutFlight]) -> Option<&'a CutFlight> {
    let known = |flight: &CutFlight| cover.iter().any(|known| cut_alike(known, flight));
    let mut odd = proxy.iter().filter(|flight| !known(flight));
    let first = odd.next()?;
    // One may be the machine's fault, which splits what leaves when it is short of memory.
    (proxy.len() == 1 || odd.next().is_some()).then_some(first)
}

fn cut_alike(one: &CutFlight, other: &CutFlight) -> bool {
    let near = |(a, b): (&usize, &usize)| a.abs_diff(*b) <= SIGNATURE;
    one.cuts.len() == other.cuts.len() && one.cuts.iter().zip(&other.cuts).all(near)
}

/// Whether full segments of this size end where a client must not be left waiting.
fn trapped(hello: usize, full: usize) -> bool {
    full > 0 && (hello..hello + TRAP).any(|end| end % full == 0)
}

fn describe(announced: u16, cover: &[CutFlight], odd: &CutFlight) -> String {
    let cuts = |flight: &CutFlight| match &flight.cuts[..] {
        [] => "whole segments".to_owned(),
        cuts => format!("ends at {cuts:?}"),
    };
    let cover = cover.first().map_or_else(|| "nothing".to_owned(), cuts);
    format!("segments of {announced} announced: cover {cover}, proxy {} of {}", cuts(odd), odd.length)
}

/// Asks once; `None` if no whole flight came.
async fn flight(
    asker: FlightAsker,
    client: &Captured,
    announced: u16,
    target: std::net::SocketAddr,
    look: &SceneSetup<'_>,
) -> Option<CutFlight> {
    let plan: &Plan = look.plan;
    let parts = client.parts_for(&plan.subject.name).fresh(&mut Dice::unseen());
    let mut record = parts.record();
    match asker {
        FlightAsker::Stranger => {}
        FlightAsker::OddForm => Form::SessionId.apply(&mut record),
        FlightAsker::Client => hello::sign(&mut record, &plan.subject.key, hello::now()),
    }
    let mut talk = Conversation::start(target, look.line, Some(announced)).await?;
    talk.send(&record).await;
    let until = tokio::time::Instant::now() + plan.lineup.limit.max(Duration::from_secs(15));
    while !is_whole(&talk.reply) && talk.hear(until).await {}
    // A cover of several records may not have said all of them.
    talk.hear_for(Duration::from_millis(30)).await;
    let pieces = talk.pieces(0).await;
    talk.reset();
    if !is_whole(&talk.reply) {
        return None;
    }
    let options = pieces.iter().map(|piece| piece.options).max().unwrap_or(0);
    // Reads do not tell; nearly every system has timestamps, which take twelve bytes.
    let full = usize::from(announced) - if options > 0 { options } else { 12 };
    let lengths: Vec<usize> = pieces.iter().map(|piece| piece.length).collect();
    let hello = records(&talk.reply).first().map_or(0, |record| record.at + record.length);
    let admitted = record.get(RANDOM).is_some_and(|random| authentic(&talk.reply, &plan.subject.key, random));
    Some(CutFlight { hello, length: talk.reply.len(), cuts: cuts(&lengths, full), full, admitted })
}

/// Whether a ServerHello, a change_cipher_spec and whole encrypted records are there.
fn is_whole(flight: &[u8]) -> bool {
    let found = records(flight);
    let kinds: Vec<u8> = found.iter().map(|record| record.kind).collect();
    kinds.starts_with(&[22, 20, 23]) && found.last().is_some_and(|last| last.at + last.length == flight.len())
}

/// Ends of pieces that are no multiple of a full segment away from the last such end. What a card or a fast path has
/// joined is a multiple of full ones.
fn cuts(lengths: &[usize], full: usize) -> Vec<usize> {
    let (mut at, mut begun, mut cuts) = (0, 0, Vec::new());
    for length in &lengths[..lengths.len().saturating_sub(1)] {
        at += length;
        if (at - begun) % full.max(1) != 0 {
            cuts.push(at);
            begun = at;
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_segments_are_no_cuts_whatever_joined_them() {
        for (lengths, found) in [
            (&[1220, 1220, 137][..], &[][..]),
            (&[2577], &[]),
            (&[2440, 137], &[]),
            (&[607, 1220, 750], &[607]),
            (&[607, 1970], &[607]),
            (&[1220, 87, 1270], &[1307]),
            (&[], &[]),
        ] {
            assert_eq!(cuts(lengths, 1220), found, "{lengths:?}");
        }
    }

    #[test]
    fn a_signature_moves_a_cut_and_nothing_else_does() {
        let flight = |cuts: &[usize]| CutFlight { cuts: cuts.to_vec(), ..CutFlight::default() };
        let cover = [flight(&[1215, 1300])];
        assert!(odd(&cover, &[flight(&[1215, 1304])]).is_none());
        assert!(odd(&cover, &[flight(&[1215])]).is_some());
        assert!(odd(&cover, &[flight(&[607, 1300])]).is_some());
        let once = [flight(&[607]), flight(&[1215, 1300]), flight(&[1215, 1300])];
        assert!(odd(&cover, &once).is_none(), "one of three is the machine's");
    }

    #[test]
    fn sizes_end_around_the_server_hello() {
        let sizes = sizes(1215);
        assert!(sizes.len() < 30 && sizes.iter().all(|size| (128..=1460).contains(size)), "{sizes:?}");
        assert!([1226, 1227, 1232, 1237].iter().all(|size| sizes.contains(size)), "{sizes:?}");
        assert!(trapped(1215, 1220) && trapped(1215, 610) && !trapped(1215, 1448) && !trapped(127, 0));
        assert!(super::sizes(127).contains(&139));
    }
}
