//! Requests with values in the form of those that open WEB proxies, at the site without the proxy and at the proxy.
//!
//! Only the holder of a link has a value that the proxy knows. A request with any other is one to the site, so it must
//! be answered as by the site alone, byte for byte, and as soon as a request without a value.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use tokio::time::Instant;

use super::dice::Dice;
use super::hello::{Key, mac};
use super::latency::median;
use super::look::{MeansOfSight, SceneOutcome, SceneSetup};
use super::passive::Answer;
use super::stats::{LEVEL, kolmogorov_smirnov};
use super::visit::TlsVisit;

/// Number of requests at each of the two.
const REQUESTS: usize = 200;

/// Time limit for an answer and the end of its connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measurements in a row that must show a difference in time before it counts.
const ATTEMPTS: u32 = 3;

/// Kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SentValue {
    /// In the form of a value, and made of random bytes.
    Random,
    /// A capability under a key that the proxy does not know.
    Foreign,
    /// A capability of the user, for another host.
    Elsewhere,
    /// A capability of the user with one bit changed.
    Changed,
    /// A character less, or more, or another alphabet.
    Malformed,
    /// As long, and in no form of a value.
    Absent,
}

impl SentValue {
    const ALL: [Self; 6] = [Self::Random, Self::Foreign, Self::Elsewhere, Self::Changed, Self::Malformed, Self::Absent];

    fn text(self, key: &Key, host: &str, dice: &mut Dice) -> String {
        let text = |bytes: [u8; 32]| BASE64URL_NOPAD.encode(&bytes);
        match self {
            Self::Random => text(dice.array()),
            Self::Foreign => text(capability(&dice.array(), host)),
            Self::Elsewhere => text(capability(key, &format!("x{host}"))),
            Self::Changed => {
                let mut bytes = capability(key, host);
                bytes[dice.below(32)] ^= 1 << dice.below(8);
                text(bytes)
            }
            Self::Malformed => {
                let whole = text(dice.array());
                match dice.below(4) {
                    0 => whole[1..].to_owned(),
                    1 => format!("{whole}A"),
                    2 => format!("{}=", &whole[1..]),
                    _ => format!("%{:02x}{}.", whole.as_bytes()[0], &whole[2..]),
                }
            }
            Self::Absent => text(dice.array()).replace(['-', '_', 'A', 'B', 'C', 'D', 'E', 'a', 'b', 'c'], "."),
        }
    }
}

/// The capability of a key for the root of a host.
fn capability(key: &Key, host: &str) -> [u8; 32] {
    mac(key, &[b"tdesktop-web-proxy-bridge-v1\n", host.as_bytes()])
}

/// A request of one of the forms that a page of WEB sends, with this value.
fn request(form: usize, host: &str, value: &str) -> String {
    let (line, fields, body) = match form {
        0 => (format!("GET /?bridge={value}"), String::new(), ""),
        1 => (format!("GET /pages/?bridge={value}"), String::new(), ""),
        2 => (format!("HEAD /?bridge={value}"), String::new(), ""),
        3 => (
            "POST /api/v1/session".into(),
            format!("Authorization: Bearer {value}\r\nContent-Type: application/octet-stream\r\nContent-Length: 9\r\n"),
            "\x10\0\0\0\0\0\0\x01\x01",
        ),
        4 => ("DELETE /api/v1/session".into(), format!("Authorization: Bearer {value}\r\n"), ""),
        5 => (
            "POST /api/v1/down".into(),
            format!("Authorization: Bearer {value}\r\nX-Down-Cursor: 0\r\nContent-Length: 0\r\n"),
            "",
        ),
        _ => (
            "GET /api/v1/ws".into(),
            format!(
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                 Sec-WebSocket-Protocol: tproxy-v1.{value}\r\n"
            ),
            "",
        ),
    };
    let connection = if form >= FORMS - 1 { "close, Upgrade" } else { "close" };
    format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n{fields}\r\n{body}")
}

/// Number of forms of [`request`].
const FORMS: usize = 7;

/// Asks all that is asked, and compares.
pub async fn measure(look: &SceneSetup<'_>) -> SceneOutcome {
    let (mut samples, mut attempts) = (0, 0);
    let answer = loop {
        attempts += 1;
        let Some(round) = Round::play(look).await else {
            break Answer::NotLooked("the site or the proxy took no visit over HTTP/1.1".into());
        };
        samples += 2 * round.asked;
        match round.judge() {
            Answer::Different(text) if round.unlike.is_empty() && attempts == ATTEMPTS => {
                break Answer::Different(text);
            }
            Answer::Different(_) if round.unlike.is_empty() => {}
            other => break other,
        }
    };
    SceneOutcome { samples, means: MeansOfSight::Answers, answer }
}

/// Outcome of one round of requests.
#[derive(Default)]
struct Round {
    asked: usize,
    /// Requests that were not answered alike, with both answers.
    unlike: Vec<String>,
    /// Milliseconds to the answer: of requests with and without a value at the cover, and at the proxy.
    times: [Vec<f64>; 4],
}

impl Round {
    async fn play(look: &SceneSetup<'_>) -> Option<Self> {
        let (plan, mut dice, mut round) = (look.plan, Dice::new(look.plan.seed), Self::default());
        for number in 0..REQUESTS {
            let value = SentValue::ALL[number % SentValue::ALL.len()];
            let text = value.text(&plan.subject.key, &plan.subject.name, &mut dice);
            let form = dice.below(FORMS);
            let request = request(form, &plan.subject.name, &text);
            let mut order = [(0, plan.lineup.cover), (1, plan.lineup.proxy)];
            dice.shuffle(&mut order);
            let mut answers = [String::new(), String::new()];
            for (which, target) in order {
                let (answer, took) = ask(&request, target, look).await?;
                answers[which] = answer;
                // Of one form, so that nothing else but the value differs.
                if form < 2 && value != SentValue::Malformed {
                    round.times[2 * which + usize::from(value == SentValue::Absent)].push(took.as_secs_f64() * 1000.0);
                }
            }
            let [cover, proxy] = answers;
            if cover != proxy && !wavers(&request, &cover, &proxy, look).await? {
                round.unlike.push(format!("{request}\nthe site alone: {cover}\nthe proxy: {proxy}"));
            }
            round.asked += 1;
        }
        Some(round)
    }

    fn judge(&self) -> Answer {
        if let Some(first) = self.unlike.first() {
            return Answer::Different(format!(
                "{} of {} requests are not answered as by the site alone, the first:\n{first}",
                self.unlike.len(),
                self.asked
            ));
        }
        let [cover, cover_without, proxy, proxy_without] = &self.times;
        let medians = self.times.each_ref().map(|times| median(times));
        let text = format!(
            "{} requests are answered as by the site alone; with a value {:.2} ms, without {:.2} ms (cover {:.2} and {:.2} ms)",
            self.asked, medians[2], medians[3], medians[0], medians[1]
        );
        let differs = |with: &[f64], without: &[f64]| {
            !with.is_empty() && !without.is_empty() && kolmogorov_smirnov(with, without).p < LEVEL
        };
        let told = differs(proxy, proxy_without) && !differs(cover, cover_without);
        if told { Answer::Different(text) } else { Answer::Same(text) }
    }
}

/// Whether the site itself answers otherwise each time, but with the status that the proxy gave.
async fn wavers(request: &str, cover: &str, proxy: &str, look: &SceneSetup<'_>) -> Option<bool> {
    let (again, _) = ask(request, look.plan.lineup.cover, look).await?;
    Some(again != cover && proxy.lines().next() == again.lines().next())
}

/// The answer to a request without its date, and the time until it began.
async fn ask(request: &str, target: std::net::SocketAddr, look: &SceneSetup<'_>) -> Option<(String, Duration)> {
    let mut visit = TlsVisit::start(target, &[b"http/1.1".to_vec()], look).await?;
    let sealed = visit.seal(request.as_bytes());
    // Tickets may come first, and are no answer.
    visit.talk.hear_for(Duration::from_millis(1)).await;
    let _ = visit.opened();
    let began = Instant::now();
    visit.talk.send(&sealed).await;
    let (until, mut took, mut plain) = (began + PATIENCE, None, Vec::new());
    while visit.talk.hear(until).await {
        plain.extend(visit.opened());
        if !plain.is_empty() {
            took.get_or_insert_with(|| began.elapsed());
        }
    }
    let text = String::from_utf8_lossy(&plain).into_owned();
    let lines: Vec<&str> = text.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
    Some((lines.join("\n"), took.unwrap_or(PATIENCE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_forms_that_they_should_have() {
        let mut dice = Dice::new(1);
        for value in SentValue::ALL {
            for _ in 0..50 {
                let text = value.text(&[7; 16], "site.test", &mut dice);
                let valid = text.len() == 43 && BASE64URL_NOPAD.decode(text.as_bytes()).is_ok();
                let formed = !matches!(value, SentValue::Malformed | SentValue::Absent);
                assert_eq!(valid, formed, "{value:?} {text}");
                assert_ne!(text, BASE64URL_NOPAD.encode(&capability(&[7; 16], "site.test")));
            }
        }
    }

    #[test]
    fn the_capability_is_that_of_the_specification() {
        let key = std::array::from_fn(|at| at as u8);
        let text = BASE64URL_NOPAD.encode(&capability(&key, "proxy.example.com"));
        assert_eq!(text, "MHLEY5PmW1GWqJkSrlmJpvJUiLhBH_QKy6yKg8a0JPk");
    }

    #[test]
    fn one_answer_that_differs_is_a_difference_and_so_is_time() {
        let round = |proxy: f64, cover: f64, unlike: &[&str]| {
            let times = [1.0, cover, 1.0, proxy].map(|time| vec![time; 60]);
            Round { asked: 200, unlike: unlike.iter().map(|text| (*text).to_owned()).collect(), times }.judge()
        };
        assert!(matches!(round(1.0, 1.0, &[]), Answer::Same(_)));
        assert!(matches!(round(1.0, 1.0, &["x"]), Answer::Different(_)));
        assert!(matches!(round(2.0, 1.0, &[]), Answer::Different(_)));
        assert!(matches!(round(2.0, 2.0, &[]), Answer::Same(_)));
    }
}
