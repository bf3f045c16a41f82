//! Visits of one request each, every one over a connection of its own.

use std::io;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::contestants::Contestant;
use crate::link::Link;
use crate::report::Report;

/// The metrics.
pub const RATE: &str = "requests/s";
/// See [`RATE`].
pub const CPU: &str = "CPU us/request";

/// How many visitors there are at the same time.
const TOGETHER: usize = 32;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// Bytes of a request and of its answer.
    pub size: usize,
    /// How many.
    pub count: usize,
}

impl Requests {
    /// What the report calls it.
    pub fn name(self, kind: &str) -> String {
        format!("{kind} of {} bytes, a connection each", self.size)
    }

    /// One round with every contestant in turn.
    pub async fn round(self, kind: &str, contestants: &[Contestant], report: &mut Report) -> io::Result<()> {
        let each = self.count.div_ceil(TOGETHER);
        for contestant in contestants {
            let before = contestant.meter.map(|meter| meter.cpu()).transpose()?;
            let began = Instant::now();
            let mut visitors = JoinSet::new();
            for _ in 0..TOGETHER {
                let (addr, door, size) = (contestant.addr, contestant.door.clone(), self.size);
                visitors.spawn(async move {
                    for _ in 0..each {
                        let mut link = Link::open(addr, &door, 0).await?;
                        link.ping(size).await?;
                        link.reset();
                    }
                    Ok::<(), io::Error>(())
                });
            }
            while let Some(visitor) = visitors.join_next().await {
                visitor.map_err(io::Error::other)??;
            }
            let (count, name) = ((each * TOGETHER) as f64, self.name(kind));
            report.add(&name, &contestant.name, RATE, count / began.elapsed().as_secs_f64());
            if let (Some(meter), Some(before)) = (contestant.meter, before) {
                let cpu = meter.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
                report.add(&name, &contestant.name, CPU, cpu / count);
            }
        }
        Ok(())
    }
}
