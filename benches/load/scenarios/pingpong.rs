//! Messages that are sent back: how long that takes, and what it costs.

use std::io;
use std::time::Instant;

use super::{close, open, with_each};
use crate::contestants::Contestant;
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

    /// One round with every contestant in turn.
    pub async fn round(self, kind: &str, contestants: &[Contestant], report: &mut Report) -> io::Result<()> {
        for contestant in contestants {
            let links = open(contestant, self.connections).await?;
            let (size, each) = (self.size, self.messages.div_ceil(self.connections));
            let before = contestant.meter.map(|meter| meter.cpu()).transpose()?;
            let began = Instant::now();
            let (links, times) = with_each(links, self.connections, move |mut link| async move {
                let mut times = Vec::with_capacity(each);
                for _ in 0..each {
                    times.push(link.ping(size).await?.as_secs_f64() * 1e6);
                }
                Ok((link, times))
            })
            .await?;
            let took = began.elapsed().as_secs_f64();
            let mut times = times.concat();
            times.sort_by(f64::total_cmp);
            let name = self.name(kind);
            report.add(&name, &contestant.name, P50, quantile(&times, 0.5));
            report.add(&name, &contestant.name, P99, quantile(&times, 0.99));
            report.add(&name, &contestant.name, RATE, times.len() as f64 / took);
            if let (Some(meter), Some(before)) = (contestant.meter, before) {
                let cpu = meter.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
                report.add(&name, &contestant.name, CPU, cpu / times.len() as f64);
            }
            close(links);
        }
        Ok(())
    }
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
