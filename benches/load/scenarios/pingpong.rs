//! Messages that are sent back: how long that takes, and what it costs.

use std::io;
use std::time::{Duration, Instant};

use super::{close, open, with_each};
use crate::contestants::Contestant;
use crate::link::Link;
use crate::report::{Report, quantile};

/// The metrics.
pub const P50: &str = "p50, us";
/// See [`P50`].
pub const P99: &str = "p99, us";
/// See [`P50`].
pub const RATE: &str = "messages/s";
/// See [`P50`].
pub const CPU: &str = "CPU us/message";

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct PingPong {
    /// Bytes of a message.
    pub size: usize,
    /// Over how many connections, each with one message under way.
    pub connections: usize,
    /// Messages over all of them.
    pub messages: usize,
}

impl PingPong {
    /// What the report calls it.
    pub fn name(self, kind: &str) -> String {
        format!("{kind} of {} bytes, {} connection(s)", self.size, self.connections)
    }

    /// One round with every contestant, in turns that are short beside what else goes on at the machine: whatever slows one
    /// of them down for a while slows down the others, too. With many connections each has its own time.
    pub async fn round(self, kind: &str, contestants: &[Contestant], report: &mut Report) -> io::Result<()> {
        let together = if self.connections > MANY { 1 } else { contestants.len() };
        for contestants in contestants.chunks(together) {
            self.together(kind, contestants, report).await?;
        }
        Ok(())
    }

    async fn together(self, kind: &str, contestants: &[Contestant], report: &mut Report) -> io::Result<()> {
        let each = self.messages.div_ceil(self.connections);
        let turns = (each / LEAST).clamp(1, MOST_TURNS);
        let mut all = Vec::new();
        for contestant in contestants {
            all.push(Played { links: open(contestant, self.connections).await?, ..Played::default() });
        }
        for _ in 0..turns {
            for (contestant, played) in contestants.iter().zip(&mut all) {
                self.turn(each.div_ceil(turns), contestant, played).await?;
            }
        }
        let name = self.name(kind);
        for (contestant, mut played) in contestants.iter().zip(all) {
            close(played.links);
            played.times.sort_by(f64::total_cmp);
            let count = played.times.len() as f64;
            report.add(&name, &contestant.name, P50, quantile(&played.times, 0.5));
            report.add(&name, &contestant.name, P99, quantile(&played.times, 0.99));
            report.add(&name, &contestant.name, RATE, count / played.took.as_secs_f64());
            if contestant.meter.is_some() {
                report.add(&name, &contestant.name, CPU, played.cpu.as_secs_f64() * 1e6 / count);
            }
        }
        Ok(())
    }

    async fn turn(self, each: usize, contestant: &Contestant, played: &mut Played) -> io::Result<()> {
        let size = self.size;
        let cpu = || contestant.meter.map(|meter| meter.cpu()).transpose();
        let (before, began) = (cpu()?, Instant::now());
        let ping = move |mut link: Link| async move {
            let mut times = Vec::with_capacity(each);
            for _ in 0..each {
                times.push(link.ping(size).await?.as_secs_f64() * 1e6);
            }
            Ok((link, times))
        };
        let (links, times) = with_each(std::mem::take(&mut played.links), self.connections, ping).await?;
        played.took += began.elapsed();
        played.cpu += cpu()?.unwrap_or_default().saturating_sub(before.unwrap_or_default());
        played.links = links;
        played.times.extend(times.concat());
        Ok(())
    }
}

/// More connections than this are not open to several contestants at a time.
const MANY: usize = 500;

/// In so many turns the messages of one contestant go out at most.
const MOST_TURNS: usize = 8;

/// Messages of a turn on each connection, at least: at its beginning all of them start at once.
const LEAST: usize = 10;

/// What one contestant has to show.
#[derive(Default)]
struct Played {
    links: Vec<Link>,
    times: Vec<f64>,
    took: Duration,
    cpu: Duration,
}

/// Downloads whose ends fit no buffer and no record: the last bytes must not wait for more.
pub async fn tails(name: &str, contestants: &[Contestant], report: &mut Report) -> io::Result<()> {
    for contestant in contestants {
        let mut link = contestant.enter(0).await?;
        let mut longest = 0.0f64;
        for record in [1024, 1460, 2878, 4096, 16_384, 16_401, 65_536, 131_072] {
            for over in [0, 1, 16, 17, 100] {
                let began = Instant::now();
                link.download(record + over).await?;
                longest = longest.max(began.elapsed().as_secs_f64() * 1e3);
            }
        }
        report.add(name, &contestant.name, "longest, ms", longest);
        link.reset();
    }
    Ok(())
}
