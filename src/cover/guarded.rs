//! The gate as a byte stream that the built-in site is served through.
//!
//! To the TLS stack inside it is the client's socket. Before the connection is known to be a visit every byte passes
//! the gate; afterwards they go straight through. A promotion can only come instead of the client's Finished, so the
//! handshake is where it shows: as an error of reading, upon which the handshake hands the stream back.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::gate::{Answered, FlightEnd, FromClient, FromCover, Gate, Promotion};
use super::site::extension::SiteVisitor;
use super::site::{self, Site};
use super::{Caller, Outcome, VisitObserver};
use crate::auth::Searched;
use crate::auth::replay::Answer;
use crate::net::sockopt;
use crate::wire::server_flight::safe_cut;

/// Serves the site to a client through a gate.
pub(super) async fn receive(site: &Site, caller: Caller) -> Outcome {
    let guest = SiteVisitor::new(caller.peer, caller.extension.clone());
    match site.serve(Guarded::new(caller), guest).await {
        Ok(()) => Outcome::Visited,
        Err((_, mut guarded)) => {
            let promotion = guarded.undecided.as_mut().and_then(|undecided| undecided.promotion.take());
            match promotion {
                Some(promotion) => {
                    guarded.traffic.forget();
                    Outcome::Promoted(guarded.client, promotion)
                }
                None => {
                    site::linger(guarded).await;
                    Outcome::Visited
                }
            }
        }
    }
}

/// A client's socket behind a gate.
struct Guarded {
    client: TcpStream,
    /// Bytes that must reach the client before anything else.
    outbox: Vec<u8>,
    /// Nothing once the connection is known to be a visit; a visit may last.
    undecided: Option<Box<Undecided>>,
    traffic: Traffic,
}

/// Bytes that a visitor sent and got, which are told when the visit is over.
struct Traffic {
    up: u64,
    down: u64,
    witness: Arc<dyn VisitObserver>,
}

impl Traffic {
    /// The connection is no visit.
    fn forget(&mut self) {
        (self.up, self.down) = (0, 0);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        if (self.up, self.down) != (0, 0) {
            self.witness.visitor_moved(self.up, self.down);
        }
    }
}

/// State of a connection until it is decided.
struct Undecided {
    peer: SocketAddr,
    gate: Gate,
    /// Pending answer of the replay cache.
    answer: Option<Answer>,
    /// Until it has heard that the connection is a visit.
    witness: Option<Arc<dyn VisitObserver>>,
    /// Bytes of the client that the site gets before any others.
    inbox: Vec<u8>,
    promotion: Option<Box<Promotion>>,
    /// The search for the key of the hello, while it is going on.
    search: Option<Searched>,
    /// Bytes of the site from before there was a verdict.
    said: Vec<u8>,
}

/// Recipient of bytes that were read.
enum Read {
    /// The site gets them.
    Given,
    /// The gate keeps them.
    Held,
}

impl Undecided {
    /// Has the hello searched for and the gate's questions answered, as far as there is something to judge; shows the gate
    /// what the site said meanwhile. `outbox` is for the client.
    fn poll_judging(&mut self, context: &mut Context<'_>, outbox: &mut Vec<u8>) -> Poll<()> {
        if self.search.is_none() {
            self.search = self.gate.search();
        }
        if let Some(search) = &mut self.search {
            let inquiry = ready!(Pin::new(search).poll(context));
            self.search = None;
            outbox.extend(self.gate.searched(inquiry));
        }
        loop {
            if let (None, Some(question)) = (&self.answer, self.gate.question()) {
                self.answer = Some(self.gate.memory().ask(question));
            }
            let Some(answer) = &mut self.answer else { break };
            let new = ready!(Pin::new(answer).poll(context));
            self.answer = None;
            match self.gate.answered(new) {
                Answered::Promote(promotion) => self.promotion = Some(promotion),
                Answered::GoOn { client, cover } => {
                    outbox.extend_from_slice(&client);
                    self.inbox.extend_from_slice(&cover);
                }
            }
        }
        let said = std::mem::take(&mut self.said);
        self.cover_said(&said, outbox);
        Poll::Ready(())
    }

    /// The site said this. As long as there is no verdict the gate does not see it, so that whatever it is comes out when
    /// it would for anybody else.
    fn cover_said(&mut self, bytes: &[u8], outbox: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if self.gate.is_undecided() {
            self.said.extend_from_slice(bytes);
            return;
        }
        match self.gate.cover_data(bytes) {
            FromCover::Pass => outbox.extend_from_slice(bytes),
            FromCover::Withhold => {}
            FromCover::Send(release) => outbox.extend_from_slice(&release),
        }
    }

    /// Called when there is nothing to be said to the client: a line in the log takes time that it could measure. Says
    /// whether the gate has done its work.
    fn note_visit(&mut self) -> bool {
        if let Some(declined) = self.gate.declined()
            && let Some(witness) = self.witness.take()
        {
            witness.declined(self.peer, declined);
        }
        self.gate.is_open() && self.inbox.is_empty()
    }

    /// Shows the gate what was just read.
    fn pass_gate(&mut self, read: &[u8], outbox: &mut Vec<u8>) -> Read {
        let step = match read {
            [] => FromClient::Forward { release: self.gate.client_end() },
            bytes => self.gate.client_data(bytes, SystemTime::now().into()),
        };
        // It goes on while the site is at work on its answer.
        if self.search.is_none() {
            self.search = self.gate.search();
        }
        match step {
            FromClient::Hold => Read::Held,
            FromClient::Promote(promotion) => {
                self.promotion = Some(promotion);
                Read::Held
            }
            FromClient::Forward { release } => {
                outbox.extend_from_slice(&release);
                Read::Given
            }
        }
    }

    /// Hands the site what was kept from it, as much as there is room for.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.inbox.len().min(buffer.remaining());
        buffer.put_slice(&self.inbox[..count]);
        self.inbox.drain(..count);
    }
}

impl Guarded {
    fn new(Caller { client, peer, barred, judge, witness, extension: _ }: Caller) -> Self {
        // The site's TLS stack has said all it has to say when it reads again, whatever number of records that took.
        let gate = Gate::new(judge, peer.ip(), FlightEnd::Told).barred(barred);
        let traffic = Traffic { up: 0, down: 0, witness: Arc::clone(&witness) };
        let (answer, witness, inbox, promotion) = (None, Some(witness), Vec::new(), None);
        let (search, said) = (None, Vec::new());
        let undecided = Some(Box::new(Undecided { peer, gate, answer, witness, inbox, promotion, search, said }));
        Self { client, outbox: Vec::new(), undecided, traffic }
    }

    fn poll_outbox(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let cuts = self.undecided.as_ref().is_some_and(|undecided| undecided.gate.cuts_flight());
            let cut =
                sockopt::segment_size(&self.client).filter(|_| cuts).and_then(|size| safe_cut(&self.outbox, size));
            let first = &self.outbox[..cut.unwrap_or(self.outbox.len())];
            let written = ready!(Pin::new(&mut self.client).poll_write(context, first))?;
            self.traffic.down += written as u64;
            if written == self.outbox.len() {
                // A visit may last, and nothing will wait here again.
                self.outbox = Vec::new();
            } else {
                self.outbox.drain(..written);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn note_visit(&mut self) {
        if self.undecided.as_mut().is_some_and(|undecided| undecided.note_visit()) {
            self.undecided = None;
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
        loop {
            if let Some(undecided) = &mut this.undecided {
                ready!(undecided.poll_judging(context, &mut this.outbox));
                if undecided.promotion.is_some() {
                    return Poll::Ready(Err(io::Error::other("promoted")));
                }
                this.outbox.extend(undecided.gate.cover_waits().unwrap_or_default());
            }
            ready!(this.poll_outbox(context))?;
            this.note_visit();
            if let Some(undecided) = this.undecided.as_mut().filter(|undecided| !undecided.inbox.is_empty()) {
                undecided.give(buffer);
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.client).poll_read(context, buffer))?;
            this.traffic.up += (buffer.filled().len() - before) as u64;
            let Some(undecided) = &mut this.undecided else { return Poll::Ready(Ok(())) };
            match undecided.pass_gate(&buffer.filled()[before..], &mut this.outbox) {
                Read::Given => return Poll::Ready(Ok(())),
                Read::Held => buffer.set_filled(before),
            }
        }
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
        let Some(undecided) = &mut this.undecided else {
            let written = ready!(Pin::new(&mut this.client).poll_write_vectored(context, slices))?;
            this.traffic.down += written as u64;
            return Poll::Ready(Ok(written));
        };
        // All of them at once: a TLS stack that gives a handshake up writes what it has left in one call and never again.
        let written = slices.iter().map(|slice| slice.len()).sum();
        for bytes in slices {
            undecided.cover_said(bytes, &mut this.outbox);
        }
        // What cannot be written now is in the outbox, which goes first in all that follows.
        let _ = this.poll_outbox(context)?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(undecided) = &mut this.undecided {
            ready!(undecided.poll_judging(context, &mut this.outbox));
        }
        ready!(this.poll_outbox(context))?;
        Pin::new(&mut this.client).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(undecided) = &mut this.undecided {
            ready!(undecided.poll_judging(context, &mut this.outbox));
            this.outbox.extend(undecided.gate.cover_end());
        }
        ready!(this.poll_outbox(context))?;
        this.note_visit();
        Pin::new(&mut this.client).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::auth::{Declined, Judge, Keyring, ReplayMemory, Rules, TimeWindow};
    use crate::cover::Failure;
    use crate::cover::site::Content;

    #[derive(Default)]
    struct Told(Mutex<Vec<(u64, u64)>>);

    impl VisitObserver for Told {
        fn declined(&self, _: SocketAddr, _: &Declined) {}
        fn cover_away(&self, _: &io::Error) {}
        fn cover_failed(&self, _: Failure) {}
        fn visitor_moved(&self, up: u64, down: u64) {
            self.0.lock().unwrap().push((up, down));
        }
    }

    #[tokio::test]
    async fn the_bytes_of_a_visitor_are_told_when_it_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = site::self_signed(&["site.test"], folder.path()).unwrap();
        let content = Content::Folder(site::default_folder(folder.path()).unwrap());
        let settings = site::Settings::new(certificate, key, content);
        let site = Site::open(&settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut visitor = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (client, peer) = listener.accept().await.unwrap();
        let window = TimeWindow::new(Duration::from_secs(600));
        let judge = Judge::new(Rules { keyring: Keyring::new([]), window, names: None }, ReplayMemory::volatile());
        let told = Arc::new(Told::default());
        let caller = Caller {
            client,
            peer,
            barred: None,
            judge: Arc::new(judge),
            witness: Arc::clone(&told) as _,
            extension: None,
        };
        let visit = async {
            visitor.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            visitor.read_to_end(&mut answer).await.unwrap();
            drop(visitor);
            answer.len() as u64
        };
        let (outcome, got) = tokio::join!(receive(&site, caller), visit);
        assert!(matches!(outcome, Outcome::Visited) && got > 0, "{outcome:?} {got}");
        assert_eq!(told.0.lock().unwrap()[..], [(18, got)]);
    }
}
