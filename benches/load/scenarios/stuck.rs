//! Readers that ask for much and read nothing.

use std::io;
use std::time::{Duration, Instant};

use super::{close, open, with_each};
use crate::contestants::Contestant;
use crate::report::Report;
use crate::wire::broken;

/// The metrics.
pub const MEMORY: &str = "stuck, KiB each";
/// See [`MEMORY`].
pub const BEFORE: &str = "before they were, KiB each";
/// See [`MEMORY`].
pub const MORE: &str = "more than before, KiB each";
/// See [`MEMORY`].
pub const GROWTH: &str = "more after a while, KiB each";
/// See [`MEMORY`].
pub const LEFT: &str = "descriptors left behind";

/// How long everything has to come to rest.
const PATIENCE: Duration = Duration::from_secs(20);

/// So many get stuck; then memory is looked at twice, someone else enters, and all of them leave.
pub async fn measure(name: &str, count: usize, contestant: &Contestant, report: &mut Report) -> io::Result<()> {
    let Some(meter) = contestant.meter else { return Ok(()) };
    // What a thread has once for all its sessions is none of theirs.
    let mut first = open(contestant, 8.min(count)).await?;
    for link in &mut first {
        link.download(1 << 20).await?;
    }
    close(first);
    let (memory, descriptors) = (meter.resident()?, meter.descriptors()?);
    let links = open(contestant, count).await?;
    let before = meter.resident()?;
    let stick = |mut link: crate::link::Link| async move {
        link.get_stuck().await?;
        Ok((link, ()))
    };
    let (links, _) = with_each(links, count, stick).await?;
    // Until every buffer on the way is full the process has work to do.
    quiet(contestant).await?;
    let stuck = meter.resident()?;
    report.add(name, &contestant.name, BEFORE, before.saturating_sub(memory) as f64 / count as f64);
    report.add(name, &contestant.name, MORE, stuck.saturating_sub(before) as f64 / count as f64);
    report.add(name, &contestant.name, MEMORY, stuck.saturating_sub(memory) as f64 / count as f64);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let more = meter.resident()?.saturating_sub(stuck);
    report.add(name, &contestant.name, GROWTH, more as f64 / count as f64);
    let mut other = contestant.enter(count).await?;
    other.ping(1024).await?;
    other.download(1 << 20).await?;
    other.reset();
    close(links);
    let end = Instant::now() + PATIENCE;
    while meter.descriptors()? > descriptors && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    report.add(name, &contestant.name, LEFT, meter.descriptors()?.saturating_sub(descriptors) as f64);
    Ok(())
}

/// Waits until the process does next to nothing.
async fn quiet(contestant: &Contestant) -> io::Result<()> {
    let Some(meter) = contestant.meter else { return Ok(()) };
    let end = Instant::now() + PATIENCE;
    let mut last = meter.cpu()?;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = meter.cpu()?;
        if now.saturating_sub(last) < Duration::from_millis(2) {
            return Ok(());
        }
        last = now;
    }
    Err(broken(format!("{}: still busy with stuck readers after {PATIENCE:?}", contestant.name)))
}
