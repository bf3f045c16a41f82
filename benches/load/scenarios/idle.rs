//! Connections that are only there: memory and descriptors of each, fresh and after use.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{AT_THE_DOOR, admissions, close, open, with_each};
use crate::contestants::Contestant;
use crate::link::connect;
use crate::meter::Meter;
use crate::report::Report;
use crate::wire::in_time;

/// The metrics.
pub const FRESH: &str = "fresh, KiB each";
/// See [`FRESH`].
pub const USED: &str = "used, KiB each";
/// See [`FRESH`].
pub const DESCRIPTORS: &str = "descriptors each";

/// What the visitors of a site have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// A handshake of TLS, and no request.
    Hello,
}

/// Measures visitors of a built-in site who say this and then nothing more, and gives what the row is called. They go
/// nowhere else, so the site has one descriptor for each.
pub async fn at_the_site(count: usize, said: Said, contestant: &Contestant, report: &mut Report) -> io::Result<()> {
    let Some(meter) = contestant.meter else { return Ok(()) };
    let what = match said {
        Said::Nothing => "who have said nothing",
        Said::Hello => "behind their handshake",
    };
    let name = format!("{count} idle visitors of the built-in site, {what}");
    let descriptors = meter.descriptors()?;
    leave(visitors(8.min(count), said, contestant).await?)?;
    let memory = settled(meter).await?;
    let visitors = visitors(count, said, contestant).await?;
    let accepted = async {
        // Who says nothing cannot know when it was accepted.
        while meter.descriptors()? < descriptors + count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    in_time("accepting", accepted).await?;
    report.add(&name, &contestant.name, FRESH, settled(meter).await?.saturating_sub(memory) as f64 / count as f64);
    let more = meter.descriptors()?.saturating_sub(descriptors);
    report.add(&name, &contestant.name, DESCRIPTORS, more as f64 / count as f64);
    leave(visitors)
}

fn leave(visitors: Vec<TcpStream>) -> io::Result<()> {
    visitors.iter().try_for_each(TcpStream::set_zero_linger)
}

async fn visitors(count: usize, said: Said, contestant: &Contestant) -> io::Result<Vec<TcpStream>> {
    let tls = admissions::connector()?;
    let mut visitors = Vec::with_capacity(count);
    let mut coming = JoinSet::new();
    for number in 0..count {
        if coming.len() == AT_THE_DOOR
            && let Some(visitor) = coming.join_next().await
        {
            visitors.push(visitor.map_err(io::Error::other)??);
        }
        let (tls, addr) = (tls.clone(), contestant.addr);
        coming.spawn(async move {
            match said {
                Said::Nothing => connect(addr, number).await,
                Said::Hello => admissions::visit(&tls, addr, number).await,
            }
        });
    }
    while let Some(visitor) = coming.join_next().await {
        visitors.push(visitor.map_err(io::Error::other)??);
    }
    Ok(visitors)
}

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
