//! The gate as a byte stream that the built-in site is served through.
//!
//! To the TLS stack inside it is the client's socket. Before the connection is known to be a visit every byte passes
//! the gate; afterwards they go straight through. A promotion can only come instead of the client's Finished, so the
//! handshake is where it shows: as an error of reading, upon which the handshake hands the stream back.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::yield_now;

use super::gate::{FlightEnd, FromClient, FromCover, Gate, Promotion};
use super::site::{self, Site};
use super::{Caller, Outcome, Witness};
use crate::net::sockopt;
use crate::wire::server_flight::safe_cut;

/// Serves the site to a client through a gate.
pub(super) async fn receive(site: &Site, caller: Caller) -> Outcome {
    let Caller { client, peer, barred, judge, witness } = caller;
    let gate = Gate::new(judge, peer.ip(), FlightEnd::Told).barred(barred);
    // The site's TLS stack has said all it has to say when it reads again, whatever number of records that took.
    let guarded = Guarded { client, peer, gate, witness, outbox: Vec::new(), promotion: None, open: false };
    match site.serve(guarded, Some(peer)).await {
        Err((_, Guarded { client, promotion: Some(promotion), .. })) => Outcome::Promoted(client, promotion),
        Err((_, guarded)) => {
            site::linger(guarded).await;
            Outcome::Visited
        }
        Ok(()) => Outcome::Visited,
    }
}

struct Guarded {
    client: TcpStream,
    peer: SocketAddr,
    gate: Gate,
    witness: Arc<dyn Witness>,
    /// Bytes that must reach the client before anything else.
    outbox: Vec<u8>,
    promotion: Option<Box<Promotion>>,
    /// Whether the connection is known to be a visit and the witness has heard of it.
    open: bool,
}

impl Guarded {
    fn poll_outbox(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let cuts = self.gate.cuts_flight();
            let cut =
                sockopt::segment_size(&self.client).filter(|_| cuts).and_then(|size| safe_cut(&self.outbox, size));
            let first = &self.outbox[..cut.unwrap_or(self.outbox.len())];
            let written = ready!(Pin::new(&mut self.client).poll_write(context, first))?;
            if written == self.outbox.len() {
                // A visit may last, and nothing will wait here again.
                self.outbox = Vec::new();
            } else {
                self.outbox.drain(..written);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Called when there is nothing to be said to the client: a line in the log takes time that it could measure.
    fn note_visit(&mut self) {
        if let (false, Some(declined)) = (self.open, self.gate.open()) {
            self.open = true;
            self.witness.declined(self.peer, declined);
        }
    }

    /// Shows the gate what was just read.
    fn pass_gate(&mut self, read: &[u8]) -> io::Result<()> {
        let step = match read {
            [] => FromClient::Forward { release: self.gate.client_end() },
            bytes => self.gate.client_data(bytes, SystemTime::now().into()),
        };
        match step {
            FromClient::Forward { release } => {
                self.outbox.extend_from_slice(&release);
                Ok(())
            }
            FromClient::Promote(promotion) => {
                self.promotion = Some(promotion);
                Err(io::Error::other("promoted"))
            }
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.gate.is_judging() {
            let release = this.gate.judge_on();
            this.outbox.extend_from_slice(&release);
        }
        if this.gate.is_judging() {
            // Others first; the word to go on comes when sockets have been looked at, too.
            let _ = pin!(yield_now()).poll(context);
            return Poll::Pending;
        }
        if let (false, Some(flight)) = (this.open, this.gate.cover_waits()) {
            this.outbox.extend_from_slice(&flight);
        }
        ready!(this.poll_outbox(context))?;
        this.note_visit();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.client).poll_read(context, buffer))?;
        if !this.open
            && let Err(promoted) = this.pass_gate(&buffer.filled()[before..])
        {
            buffer.set_filled(before);
            return Poll::Ready(Err(promoted));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.as_mut().poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_outbox(context))?;
        if this.gate.open().is_some() {
            return Pin::new(&mut this.client).poll_write_vectored(context, slices);
        }
        // All of them at once: a TLS stack that gives a handshake up writes what it has left in one call and never again.
        let written = slices.iter().map(|slice| slice.len()).sum();
        for bytes in slices.iter().filter(|slice| !slice.is_empty()) {
            match this.gate.cover_data(bytes) {
                FromCover::Pass => this.outbox.extend_from_slice(bytes),
                FromCover::Withhold => {}
                FromCover::Send(release) => this.outbox.extend_from_slice(&release),
            }
        }
        // What cannot be written now is in the outbox, which goes first in all that follows.
        let _ = this.poll_outbox(context)?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_outbox(context))?;
        Pin::new(&mut self.client).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.open {
            let release = this.gate.cover_end();
            this.outbox.extend_from_slice(&release);
        }
        ready!(this.poll_outbox(context))?;
        this.note_visit();
        Pin::new(&mut this.client).poll_shutdown(context)
    }
}
