//! Whether one busy connection starves the others, and whether all cores are used.

use std::io;
use std::time::Duration;

use super::{close, open, with_each};
use crate::contestants::Contestant;
use crate::report::{Report, quantile};

/// The metrics.
pub const P50: &str = "p50 beside it, us";
/// See [`P50`].
pub const P99: &str = "p99 beside it, us";
/// See [`P50`].
pub const SHARE: &str = "share of the laziest core";

/// Messages of one busy connection's neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Fairness {
    /// How many neighbours.
    pub connections: usize,
    /// Messages of all of them.
    pub messages: usize,
}

impl Fairness {
    /// What the report calls it.
    pub fn name(self) -> String {
        format!("{} connections beside a busy one", self.connections)
    }

    /// One round with every contestant in turn.
    pub async fn round(self, contestants: &[Contestant], report: &mut Report) -> io::Result<()> {
        for contestant in contestants {
            let links = open(contestant, self.connections).await?;
            let mut busy = contestant.enter(self.connections).await?;
            let busy = tokio::spawn(async move { busy.download(u64::MAX / 2).await });
            let each = self.messages.div_ceil(self.connections);
            let (links, times) = with_each(links, self.connections, move |mut link| async move {
                let mut times = Vec::with_capacity(each);
                for _ in 0..each {
                    times.push(link.ping(1024).await?.as_secs_f64() * 1e6);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok((link, times))
            })
            .await?;
            if busy.is_finished() {
                busy.await.map_err(io::Error::other)??;
            } else {
                busy.abort();
            }
            let mut times = times.concat();
            times.sort_by(f64::total_cmp);
            report.add(&self.name(), &contestant.name, P50, quantile(&times, 0.5));
            report.add(&self.name(), &contestant.name, P99, quantile(&times, 0.99));
            close(links);
        }
        Ok(())
    }
}

/// How the CPU time of a transfer spreads over as many threads as there are cores: 1 if it does so evenly.
pub async fn cores(
    name: &str,
    connections: usize,
    bytes: u64,
    contestant: &Contestant,
    report: &mut Report,
) -> io::Result<()> {
    let Some(meter) = contestant.meter else { return Ok(()) };
    let links = open(contestant, connections).await?;
    let before = meter.threads()?;
    let each = bytes / connections as u64;
    let (links, _) = with_each(links, connections, move |mut link| async move {
        link.download(each).await?;
        Ok((link, ()))
    })
    .await?;
    let mut used: Vec<f64> =
        meter.threads()?.iter().zip(&before).map(|(now, then)| now.saturating_sub(*then).as_secs_f64()).collect();
    used.sort_by(|a, b| b.total_cmp(a));
    used.truncate(std::thread::available_parallelism().map_or(1, usize::from));
    let even = used.iter().sum::<f64>() / used.len() as f64;
    report.add(name, &contestant.name, SHARE, used.last().copied().unwrap_or_default() / even);
    close(links);
    Ok(())
}
