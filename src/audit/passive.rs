//! What can be counted in first flights without sending a byte.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::captured::Captured;
use super::compare::Plan;
use super::dice::Dice;
use super::fake_tls::authentic;
use super::hello::{self, RANDOM};
use super::probe::overhear;
use super::stats::{LEVEL, uniformity};
use super::transcript::{Piece, Transcript};
use super::{curve, kem};

/// Question about the first flights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// Whether the shapes are those of the cover, its encrypted records taken as one.
    Shapes,
    /// Whether there are as many encrypted records.
    Records,
    /// Whether every X25519 value is a point with the top bit clear.
    X25519,
    /// Whether the ML-KEM ciphertexts are real.
    MlKem,
    /// Whether every byte position is as random as it should be, and nothing comes twice.
    Randomness,
}

impl Question {
    /// Every question.
    pub const ALL: [Question; 5] =
        [Question::Shapes, Question::Records, Question::X25519, Question::MlKem, Question::Randomness];

    /// Its name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Shapes => "shapes",
            Self::Records => "number of encrypted records",
            Self::X25519 => "X25519 values",
            Self::MlKem => "ML-KEM ciphertexts",
            Self::Randomness => "randomness of every byte",
        }
    }
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As the cover does it.
    Same(String),
    /// Unlike the cover.
    Different(String),
    /// Unlike the cover for a reason that is written down, such as that clients of Telegram take one encrypted record only.
    Known(String),
    /// There is nothing of what is asked about.
    NotThere,
    /// It could not be looked at, for this reason.
    NotLooked(String),
}

/// First flights to hellos of one client.
#[derive(Clone, Debug)]
pub struct Flights {
    cover: Vec<Heard>,
    proxy: Vec<Heard>,
    /// Number of the proxy's flights that were signed for the client: the others are the cover's own.
    pub admitted: usize,
}

#[derive(Clone, Debug)]
struct Heard {
    hello: Vec<u8>,
    reply: Vec<u8>,
}

/// Collects so many flights of the cover and of the proxy.
pub async fn collect(client: &'static Captured, count: usize, plan: &Plan) -> Flights {
    let permits = Arc::new(Semaphore::new(plan.at_once.max(1)));
    let mut running = JoinSet::new();
    for turn in 0..2 * count {
        let (to_proxy, plan, permits) = (turn % 2 == 1, plan.clone(), permits.clone());
        running.spawn(async move {
            let _permit = permits.acquire_owned().await.ok();
            let parts = client.parts_for(&plan.subject.name).fresh(&mut Dice::unseen());
            let mut hello = parts.fresh_shares().record();
            hello::sign(&mut hello, &plan.subject.key, hello::now());
            let target = if to_proxy { plan.lineup.proxy } else { plan.lineup.cover };
            let reply = overhear(&hello, target, plan.lineup.limit).await;
            (to_proxy, Heard { hello, reply })
        });
    }
    let mut flights = Flights { cover: Vec::new(), proxy: Vec::new(), admitted: 0 };
    while let Some(heard) = running.join_next().await {
        let Ok((to_proxy, heard)) = heard else { continue };
        let side = if to_proxy { &mut flights.proxy } else { &mut flights.cover };
        flights.admitted += usize::from(to_proxy && authentic(&heard.reply, &plan.subject.key, &heard.hello[RANDOM]));
        side.push(heard);
    }
    flights
}

impl Flights {
    /// Number of flights on each side.
    pub fn count(&self) -> usize {
        self.proxy.len()
    }

    /// Answers one question.
    pub fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Shapes => compare_sets(&tally(&self.cover, Heard::shape), &tally(&self.proxy, Heard::shape)),
            Question::Records => self.records(),
            Question::X25519 => self.x25519(),
            Question::MlKem => self.ml_kem(),
            Question::Randomness => self.randomness(),
        }
    }

    fn records(&self) -> Answer {
        let count = |heard: &Heard| heard.encrypted().count().to_string();
        let (cover, proxy) = (tally(&self.cover, count), tally(&self.proxy, count));
        match compare_sets(&cover, &proxy) {
            Answer::Different(text) if self.cover.iter().all(|heard| heard.encrypted().count() > 1) => Answer::Known(
                format!("{text}\nclients of Telegram take one record only, so those of the cover are joined (grade C)"),
            ),
            other => other,
        }
    }

    fn x25519(&self) -> Answer {
        let shares: Vec<[u8; 32]> = self.proxy.iter().filter_map(Heard::x25519).collect();
        if shares.is_empty() {
            return Answer::NotThere;
        }
        let wrong = shares.iter().filter(|share| !curve::is_share(share)).count();
        let text = format!("{wrong} of {} values are not what X25519 gives", shares.len());
        if wrong == 0 { Answer::Same(text) } else { Answer::Different(text) }
    }

    fn ml_kem(&self) -> Answer {
        let evidence: Vec<f64> = self.proxy.iter().filter_map(Heard::ciphertext).filter_map(kem::evidence).collect();
        if evidence.is_empty() {
            return Answer::NotThere;
        }
        let sum: f64 = evidence.iter().sum();
        let text = format!("evidence of {:.1} in each of {} ciphertexts", sum / evidence.len() as f64, evidence.len());
        // A single one misleads in 4 of 100 cases, a few together never do.
        if sum > 0.0 || evidence.len() < 4 { Answer::Same(text) } else { Answer::Different(text) }
    }

    fn randomness(&self) -> Answer {
        let (cover, proxy) = (oddities(&self.cover), oddities(&self.proxy));
        match proxy.iter().find(|oddity| !cover.contains(oddity)) {
            None => Answer::Same(format!("{} flights have nothing in common", self.proxy.len())),
            Some(_) => Answer::Different(format!("only at the proxy: {}", proxy.join(", "))),
        }
    }
}

impl Heard {
    fn pieces(&self, join: bool) -> Vec<Piece> {
        Transcript::new(&self.reply, Some(&self.hello), join.then_some(self.reply.len())).pieces
    }

    fn shape(&self) -> String {
        let transcript = Transcript::new(&self.reply, Some(&self.hello), Some(self.reply.len()));
        transcript.said()
    }

    fn encrypted(&self) -> impl Iterator<Item = usize> {
        self.pieces(false).into_iter().filter_map(|piece| match piece {
            Piece::Record { kind: 23, length, .. } => Some(length),
            _ => None,
        })
    }

    /// Content of the share in the ServerHello and its group.
    fn share(&self) -> Option<(u16, &[u8])> {
        let session = usize::from(*self.reply.get(43)?);
        let mut list = self.reply.get(44 + session + 5..)?;
        // The extensions end with the record at the latest.
        while let Some(head) = list.get(..4) {
            let (kind, length) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
            let body = list.get(4..4 + usize::from(length))?;
            if kind == hello::ext::KEY_SHARE {
                let group = u16::from_be_bytes([*body.first()?, *body.get(1)?]);
                return Some((group, body.get(4..)?));
            }
            list = &list[4 + usize::from(length)..];
        }
        None
    }

    fn x25519(&self) -> Option<[u8; 32]> {
        match self.share()? {
            (0x001d, share) => share.try_into().ok(),
            (0x11ec, share) => share.get(kem::CIPHERTEXT..)?.try_into().ok(),
            _ => None,
        }
    }

    fn ciphertext(&self) -> Option<&[u8]> {
        self.share().filter(|(group, _)| *group == 0x11ec)?.1.get(..kem::CIPHERTEXT)
    }

    /// Both ends of what is encrypted.
    fn ends(&self) -> Option<Vec<u8>> {
        let data: usize = self.encrypted().next()?;
        let start = self.reply.windows(3).position(|window| window == [23, 3, 3])? + 5;
        let payload = self.reply.get(start..start + data)?;
        (payload.len() >= 48).then(|| [&payload[..32], &payload[payload.len() - 16..]].concat())
    }
}

/// Counts the occurrences of each value.
fn tally(flights: &[Heard], of: impl Fn(&Heard) -> String) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for heard in flights {
        *tally.entry(of(heard)).or_default() += 1;
    }
    tally
}

/// Occurrences on one side, with none on the other, that are no chance: 2 to the power of this is beyond the level.
const OFTEN: usize = 8;

pub(super) fn compare_sets(cover: &BTreeMap<String, usize>, proxy: &BTreeMap<String, usize>) -> Answer {
    let lacks = |here: &BTreeMap<String, usize>, there: &BTreeMap<String, usize>| {
        here.iter().any(|(value, count)| *count >= OFTEN.min(here.values().sum()) && !there.contains_key(value))
    };
    let shown = |tally: &BTreeMap<String, usize>| {
        tally.iter().map(|(value, count)| format!("{count} × {value}")).collect::<Vec<_>>().join("\n      ")
    };
    if lacks(proxy, cover) || lacks(cover, proxy) {
        return Answer::Different(format!("cover {}\nproxy {}", shown(cover), shown(proxy)));
    }
    Answer::Same(format!("{} kinds at the cover, {} at the proxy", cover.len(), proxy.len()))
}

/// Places that are not as random as they should be, and parts that came twice.
fn oddities(flights: &[Heard]) -> Vec<String> {
    type Part = fn(&Heard) -> Option<Vec<u8>>;
    let parts: [(&str, Part); 4] = [
        ("random", |heard| heard.reply.get(RANDOM).map(<[u8]>::to_vec)),
        // The last byte of a number below the prime is not uniform.
        ("X25519 value", |heard| heard.x25519().map(|share| share[..31].to_vec())),
        ("ML-KEM ciphertext", |heard| heard.ciphertext().map(|text| text[text.len() - 128..].to_vec())),
        ("encrypted record", Heard::ends),
    ];
    let mut oddities = Vec::new();
    for (name, part) in parts {
        let rows: Vec<Vec<u8>> = flights.iter().filter_map(part).collect();
        let different: HashSet<&Vec<u8>> = rows.iter().collect();
        if different.len() < rows.len() {
            oddities.push(format!("{name} that came before"));
        }
        if rows.len() < ENOUGH {
            continue;
        }
        let positions = uniformity(&rows);
        let level = LEVEL / (100 * positions.len().max(1)) as f64;
        let odd = positions.iter().enumerate().filter(|(_, p)| **p < level);
        oddities.extend(odd.map(|(at, _)| format!("byte {at} of the {name}")));
    }
    oddities
}

/// Fewer flights say nothing about their bytes.
const ENOUGH: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    /// A flight with a share of X25519MLKEM768, the encrypted part in so many records.
    fn flight(dice: &mut Dice, records: usize, real: bool) -> Heard {
        let client = super::super::captured::tdlib();
        let hello = client.parts().fresh(dice).record();
        let mut share = match real {
            true => {
                let group = rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768;
                let answer = group.start_and_complete(&hello::fresh_share(0x11ec).unwrap()).unwrap();
                answer.pub_key
            }
            false => dice.bytes(1120),
        };
        share[1119] &= if real { 0xff } else { 0x7f };
        let mut body = vec![3, 3];
        body.extend(dice.bytes(32));
        hello::push_counted(&mut body, 1, &hello[44..76]);
        body.extend([0x13, 1, 0]);
        let mut extensions = vec![0, 43, 0, 2, 3, 4, 0, 51];
        let mut shares = vec![0x11, 0xec];
        hello::push_counted(&mut shares, 2, &share);
        hello::push_counted(&mut extensions, 2, &shares);
        hello::push_counted(&mut body, 2, &extensions);
        let mut message = vec![2];
        hello::push_counted(&mut message, 3, &body);
        let mut reply = vec![22, 3, 3];
        hello::push_counted(&mut reply, 2, &message);
        reply.extend([20, 3, 3, 0, 1, 1]);
        for _ in 0..records {
            reply.extend([23, 3, 3]);
            hello::push_counted(&mut reply, 2, &dice.bytes(1200 / records));
        }
        Heard { hello, reply }
    }

    fn flights(cover: usize, proxy: usize, real: bool) -> Flights {
        let mut dice = Dice::new(5);
        let cover = (0..40).map(|_| flight(&mut dice, cover, true)).collect();
        let proxy = (0..40).map(|_| flight(&mut dice, proxy, real)).collect();
        Flights { cover, proxy, admitted: 0 }
    }

    #[test]
    fn real_flights_answer_every_question_well() {
        let flights = flights(1, 1, true);
        for question in Question::ALL {
            assert!(matches!(flights.answer(question), Answer::Same(_)), "{:?}", flights.answer(question));
        }
    }

    #[test]
    fn made_up_shares_are_found() {
        let flights = flights(1, 1, false);
        for question in [Question::X25519, Question::MlKem] {
            assert!(matches!(flights.answer(question), Answer::Different(_)), "{question:?}");
        }
    }

    #[test]
    fn a_cover_of_several_records_is_one_known_matter() {
        let flights = flights(4, 1, true);
        assert!(matches!(flights.answer(Question::Records), Answer::Known(_)));
        assert!(matches!(flights.answer(Question::Shapes), Answer::Same(_)));
        let reverse = Flights { cover: flights.proxy, proxy: flights.cover, admitted: 0 };
        assert!(matches!(reverse.answer(Question::Records), Answer::Different(_)));
    }

    #[test]
    fn repeated_and_constant_bytes_are_found() {
        let sound = flights(1, 1, true);
        let mut repeated = sound.clone();
        repeated.proxy[3].reply = repeated.proxy[2].reply.clone();
        assert!(matches!(repeated.answer(Question::Randomness), Answer::Different(_)));
        let mut constant = sound.clone();
        constant.proxy.iter_mut().for_each(|heard| heard.reply[20] = 1);
        let Answer::Different(text) = constant.answer(Question::Randomness) else { panic!("not found") };
        assert!(text.contains("byte 9 of the random"), "{text}");
    }

    #[test]
    fn other_sizes_are_found() {
        let mut flights = flights(1, 1, true);
        flights.proxy.iter_mut().for_each(|heard| {
            let length = heard.reply.len();
            heard.reply.truncate(length - 1205);
            heard.reply.extend([23, 3, 3, 0, 40]);
            heard.reply.extend([1; 40]);
        });
        assert!(matches!(flights.answer(Question::Shapes), Answer::Different(_)));
        let silent = Heard { hello: vec![0; 80], reply: Vec::new() };
        let nothing = Flights { cover: vec![silent.clone()], proxy: vec![silent], admitted: 0 };
        assert_eq!(nothing.answer(Question::X25519), Answer::NotThere);
    }
}
