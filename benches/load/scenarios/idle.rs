//! Connections that are only there: memory and descriptors of each, fresh and after use.

use std::io;
use std::time::Duration;

use super::{close, open, with_each};
use crate::contestants::Contestant;
use crate::meter::Meter;
use crate::report::Report;

/// The metrics.
pub const FRESH: &str = "fresh, KiB each";
/// See [`FRESH`].
pub const USED: &str = "used, KiB each";
/// See [`FRESH`].
pub const DESCRIPTORS: &str = "descriptors each";

/// How many transfers go on at the same time while all connections are used once.
const TOGETHER: usize = 64;

/// How many connections, and how much each of them moves before they are looked at again.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// How many.
    pub connections: usize,
    /// Bytes each, half of them in either direction.
    pub bytes: u64,
}

impl Idle {
    /// What the report calls it.
    pub fn name(self, kind: &str) -> String {
        format!("{} idle {kind}", self.connections)
    }

    /// Measures one contestant, which should be fresh: memory that it once had would count for nothing.
    pub async fn measure(self, kind: &str, contestant: &Contestant, report: &mut Report) -> io::Result<()> {
        let Some(meter) = contestant.meter else { return Ok(()) };
        let (name, count) = (self.name(kind), self.connections as f64);
        // What the first connections need once is not the price of each.
        close(open(contestant, 8.min(self.connections)).await?);
        let (memory, descriptors) = (settled(meter).await?, meter.descriptors()?);
        let links = open(contestant, self.connections).await?;
        let each = |now: u64| (now.saturating_sub(memory)) as f64 / count;
        report.add(&name, &contestant.name, FRESH, each(settled(meter).await?));
        let more = meter.descriptors()?.saturating_sub(descriptors);
        report.add(&name, &contestant.name, DESCRIPTORS, more as f64 / count);
        let half = self.bytes / 2;
        let (links, _) = with_each(links, TOGETHER, move |mut link| async move {
            link.download(half).await?;
            link.upload(half).await?;
            Ok((link, ()))
        })
        .await?;
        report.add(&name, &contestant.name, USED, each(settled(meter).await?));
        close(links);
        Ok(())
    }
}

/// Resident memory once it no longer changes, as far as a few looks tell.
async fn settled(meter: Meter) -> io::Result<u64> {
    let mut last = meter.resident()?;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = meter.resident()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}
