//! Time of the first answer: a hello that is admitted must not be answered sooner or later than one that is not, nor one of
//! a form that no client sends sooner than another, unless the cover does so too.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::captured::Captured;
use super::dice::Dice;
use super::hello;
use super::look::SceneSetup;
use super::probe::first_byte;
use super::stats::{Ks, LEVEL, kolmogorov_smirnov};
use super::talk::Conversation;

/// One kind of answer.
#[derive(Clone, Debug)]
pub struct Series {
    /// Kind of hello and the server that got it.
    pub name: &'static str,
    /// Milliseconds from the hello to the first byte.
    pub millis: Vec<f64>,
}

/// Which hellos are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Admitted ones against declined ones.
    Proofs,
    /// Usual ones against those of another form, which are as long but for a byte.
    Form(Form),
    /// Those for the user's name of the site against those for a foreign name of the same length.
    Names,
}

/// Form of a hello that TLS servers take like any other and clients of Telegram never send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Its record has the version of SSL 3.0.
    RecordVersion,
    /// Its session id has 31 bytes.
    SessionId,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::RecordVersion, Self::SessionId];

    /// Its name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::RecordVersion => "record version 0300",
            Self::SessionId => "a session id of 31 bytes",
        }
    }

    /// Gives a hello of a usual form this one.
    pub(super) fn apply(self, record: &mut Vec<u8>) {
        match self {
            Self::RecordVersion => record[2] = 0,
            Self::SessionId => {
                record.remove(SESSION_ID_LENGTH + 1);
                record[SESSION_ID_LENGTH] -= 1;
                for length in [3..5, 7..9] {
                    let bytes = &mut record[length];
                    let less = u16::from_be_bytes([bytes[0], bytes[1]]) - 1;
                    bytes.copy_from_slice(&less.to_be_bytes());
                }
            }
        }
    }
}

/// A name that is as long as this one and another site's.
fn foreign(name: &str) -> String {
    let next = |c: char| match c {
        'a'..='y' => char::from(c as u8 + 1),
        'z' => 'a',
        other => other,
    };
    name.chars().map(next).collect()
}

/// Endpoint of that length in a hello within one record.
const SESSION_ID_LENGTH: usize = 43;

/// Measured times of one client's hello.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Name of the measurement.
    pub name: String,
    /// Kinds of hello that were compared.
    pub compared: Compared,
    /// Of proofs: the cover, the bare relay, the proxy when it declines, the proxy when it admits. Of forms and names: the
    /// cover, the cover with the other one, the proxy, the proxy with the other one.
    pub series: [Series; 4],
    /// Comparison of the last two.
    pub ks: Ks,
    /// Number of measurements: one that shows a difference is repeated.
    pub attempts: u32,
}

/// Measurements in a row that must show a difference before it counts: chance makes one of a hundred differ.
const ATTEMPTS: u32 = 3;

/// Between two hellos, so that what a server still does for one that is gone does not slow down the next. Else a kind
/// would be measured by the kinds that come before it, which are never the same as itself.
const PAUSE: Duration = Duration::from_millis(2);

/// Time limit for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Latency {
    /// Whether the two kinds of hellos can be told apart at the proxy, and not at its cover.
    pub fn separable(&self) -> bool {
        self.ks.p < LEVEL && !self.cover_differs()
    }

    /// Whether the cover itself answers other forms or names at another time.
    fn cover_differs(&self) -> bool {
        let [cover, other, ..] = &self.series;
        self.compared != Compared::Proofs && kolmogorov_smirnov(&cover.millis, &other.millis).p < LEVEL
    }

    /// Describes the result in one line.
    pub fn text(&self) -> String {
        let [first, second, third, fourth] = self.series.each_ref().map(|series| median(&series.millis));
        let p = if self.ks.p < 0.0001 { "< 0.0001".to_owned() } else { format!("= {:.4}", self.ks.p) };
        let medians = match self.compared {
            Compared::Proofs => {
                format!(
                    "declined {third:.2} ms, admitted {fourth:.2} ms (cover {first:.2} ms, bare relay {second:.2} ms)"
                )
            }
            Compared::Form(form) => {
                let form = form.label();
                let too = if self.cover_differs() { ", which differs too" } else { "" };
                format!("usual {third:.2} ms, {form} {fourth:.2} ms (cover {first:.2} and {second:.2} ms{too})")
            }
            Compared::Names => {
                let too = if self.cover_differs() { ", which differs too" } else { "" };
                format!("ours {third:.2} ms, foreign {fourth:.2} ms (cover {first:.2} and {second:.2} ms{too})")
            }
        };
        format!(
            "{medians}; {} samples each, distance {:.3}, p {p}, {} measurements",
            self.series[3].millis.len(),
            self.ks.distance,
            self.attempts
        )
    }
}

/// The middle value, 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Measures all four in turns; `None` if one of them does not answer.
pub async fn measure(name: &str, compared: Compared, client: &Captured, look: &SceneSetup<'_>) -> Option<Latency> {
    let mut attempts = 1;
    loop {
        let series = sample(compared, client, look).await?;
        let ks = kolmogorov_smirnov(&series[2].millis, &series[3].millis);
        let latency = Latency { name: name.to_owned(), compared, series, ks, attempts };
        if !latency.separable() || attempts == ATTEMPTS {
            return Some(latency);
        }
        attempts += 1;
    }
}

async fn sample(compared: Compared, client: &Captured, look: &SceneSetup<'_>) -> Option<[Series; 4]> {
    let (plan, samples) = (look.plan, look.samples);
    let names = match compared {
        Compared::Proofs => ["cover", "bare relay", "proxy, declined", "proxy, admitted"],
        Compared::Form(_) => ["cover", "cover, other form", "proxy", "proxy, other form"],
        Compared::Names => ["cover", "cover, foreign name", "proxy", "proxy, foreign name"],
    };
    let second = if compared == Compared::Proofs { plan.lineup.relay } else { plan.lineup.cover };
    let targets = [plan.lineup.cover, second, plan.lineup.proxy, plan.lineup.proxy];
    let mut series = names.map(|name| Series { name, millis: Vec::with_capacity(samples) });
    let (mut dice, foreign) = (Dice::unseen(), foreign(&plan.subject.name));
    for _ in 0..samples {
        let mut order = [0, 1, 2, 3];
        dice.shuffle(&mut order);
        for which in order {
            let name = if compared == Compared::Names && which % 2 == 1 { &foreign } else { &plan.subject.name };
            let mut record = client.parts_for(name).fresh(&mut dice).record();
            match compared {
                // The bytes are of one kind everywhere; only the proxy can see that some of them are signed.
                Compared::Proofs if which == 3 => hello::sign(&mut record, &plan.subject.key, hello::now()),
                Compared::Form(form) if which % 2 == 1 => form.apply(&mut record),
                _ => {}
            }
            sleep(PAUSE).await;
            let took = time(&record, targets[which], look).await?;
            series[which].millis.push(took.as_secs_f64() * 1000.0);
        }
    }
    Some(series)
}

/// Time from the hello to the first byte of the answer: that of the packets where they can be had, since a program is woken
/// when the machine pleases.
async fn time(record: &[u8], target: SocketAddr, look: &SceneSetup<'_>) -> Option<Duration> {
    if look.line.is_none() {
        return first_byte(record, target, PATIENCE).await;
    }
    let mut talk = Conversation::start(target, look.line, None).await?;
    talk.send(record).await;
    let came = talk.hear(Instant::now() + PATIENCE).await;
    let first = talk.pieces(0).await.first().map(|piece| piece.after);
    talk.reset();
    first.filter(|_| came)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_that_the_cover_makes_too_is_none_of_the_proxy() {
        let latency = |compared, cover: f64| {
            let times = [1.0, cover, 1.0, 2.0];
            let series = times.map(|time| Series { name: "", millis: vec![time; 100] });
            let ks = kolmogorov_smirnov(&series[2].millis, &series[3].millis);
            Latency { name: String::new(), compared, series, ks, attempts: 1 }
        };
        let form = Compared::Form(Form::SessionId);
        assert!(latency(form, 1.0).separable() && !latency(form, 2.0).separable());
        assert!(latency(Compared::Proofs, 2.0).separable());
        assert!(latency(form, 2.0).text().contains("a session id of 31 bytes 2.00 ms (cover 1.00 and 2.00 ms, which"));
    }

    #[test]
    fn a_foreign_name_is_a_name_of_the_same_length() {
        for (name, other) in [("www.example.com", "xxx.fybnqmf.dpn"), ("a-z.b2.io", "b-a.c2.jp")] {
            assert_eq!(foreign(name), other);
        }
    }

    #[test]
    fn another_form_is_still_a_whole_hello() {
        use crate::audit::captured::tdlib;
        let usual = tdlib().parts_for("site.example").fresh(&mut Dice::unseen()).record();
        for form in Form::ALL {
            let mut record = usual.clone();
            form.apply(&mut record);
            let length = |at: usize| usize::from(u16::from_be_bytes([record[at], record[at + 1]]));
            assert!(record != usual && length(3) + 5 == record.len() && length(7) + 9 == record.len());
        }
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!((median(&[]), median(&[3.0, 1.0, 2.0])), (0.0, 2.0));
    }
}
