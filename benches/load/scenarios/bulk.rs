//! Bulk transfers: CPU time per GiB, and throughput.

use std::io;
use std::time::Instant;

use vizard::crypto::Ctr;

use super::{close, open, with_each};
use crate::contestants::Contestant;
use crate::meter;
use crate::report::Report;

/// Bytes of a GiB.
pub const GIB: f64 = (1u64 << 30) as f64;

/// The two metrics.
pub const CPU: &str = "CPU-s/GiB";
/// See [`CPU`].
pub const RATE: &str = "GiB/s";

/// What [`ciphers`] is called.
pub const CIPHERS: &str = "ciphers";

/// CPU time per GiB of what no relay of records can leave out on the way up: each byte out of the client's cipher and into
/// the data centre's. In pieces as large as the relay's.
pub fn ciphers() -> io::Result<f64> {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 4096;
    let mut bytes = vec![0; PIECE];
    let mut streams = [1, 2].map(|seed| Ctr::new(&[seed; 32], &[seed; 16]));
    let before = meter::this_thread()?;
    for _ in 0..PIECES {
        streams.iter_mut().for_each(|stream| stream.apply(&mut bytes));
    }
    Ok((meter::this_thread()? - before).as_secs_f64() * GIB / (PIECE * PIECES) as f64)
}

/// What to move.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Whether to the clients.
    pub down: bool,
    /// Over how many connections.
    pub connections: usize,
    /// Bytes over all of them.
    pub bytes: u64,
}

impl Bulk {
    /// What the report calls it.
    pub fn name(self, kind: &str) -> String {
        let direction = if self.down { "down" } else { "up" };
        format!("{kind} {direction}, {} connection(s)", self.connections)
    }

    /// One round with every contestant in turn.
    pub async fn round(self, kind: &str, contestants: &[Contestant], report: &mut Report) -> io::Result<()> {
        for contestant in contestants {
            let links = open(contestant, self.connections).await?;
            let (down, each) = (self.down, self.bytes / self.connections as u64);
            let before = contestant.meter.map(|meter| meter.cpu()).transpose()?;
            let began = Instant::now();
            let (links, _) = with_each(links, self.connections, move |mut link| async move {
                match down {
                    true => link.download(each).await?,
                    false => link.upload(each).await?,
                }
                Ok((link, ()))
            })
            .await?;
            let gib = (each * self.connections as u64) as f64 / GIB;
            let rate = gib / began.elapsed().as_secs_f64();
            if let (Some(meter), Some(before)) = (contestant.meter, before) {
                let cpu = meter.cpu()?.saturating_sub(before).as_secs_f64();
                report.add(&self.name(kind), &contestant.name, CPU, cpu / gib);
            }
            report.add(&self.name(kind), &contestant.name, RATE, rate);
            close(links);
        }
        Ok(())
    }
}
