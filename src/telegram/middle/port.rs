//! What a session holds of a link: a seat, and what stands in every request from there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::link::Link;
use super::streams::StreamSlot;
use crate::relay::End;
use crate::relay::packets::{self, Reply};
use crate::wire::packets::{ClientPacket, Framing};
use crate::wire::rpc::{AdTag, ConnectionId, Message, Request};

/// Origin of the packets, as far as the middle proxy is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The client's address; without it our own stands in its place, with a port that nothing can be read from.
    pub client: Option<SocketAddr>,
    /// Framing of the client's packets.
    pub framing: Framing,
    /// In whose name the proxy runs, if in anyone's: without one no channel is promoted.
    pub tag: Option<AdTag>,
}

/// A seat on a link. Dropped, it is given back, and the middle proxy is told.
#[derive(Debug)]
pub struct Port {
    link: Arc<Link>,
    seat: Arc<StreamSlot>,
    id: ConnectionId,
    client: SocketAddr,
    caller: Caller,
}

/// Size of a request besides its packet, frame and padding included.
const REQUEST: usize = 120;

impl Port {
    /// Sits down; `None` if no one may attach down there any more. `id` is random.
    pub(super) fn on(link: &Arc<Link>, id: u64, caller: Caller) -> Option<Self> {
        let seat = link.streams.take(ConnectionId(id))?;
        // One that a system gives to a client.
        let port = id as u16 | 0x8000;
        let client = caller.client.unwrap_or(SocketAddr::new(link.ours.ip(), port));
        Some(Self { link: Arc::clone(link), seat, id: ConnectionId(id), client, caller })
    }

    /// The middle proxy.
    pub fn address(&self) -> SocketAddr {
        self.link.theirs
    }
}

impl packets::Port for Port {
    async fn send(&self, packet: ClientPacket<'_>, quick_ack: bool) -> Result<(), End> {
        let Caller { framing, tag, .. } = self.caller;
        let (client, ours) = (self.client, self.link.ours);
        let request = Request { connection: self.id, client, ours, framing, quick_ack, tag, packet };
        self.link.send(&Message::Request(request), packet.bytes().len() + REQUEST).await
    }

    fn poll_receive(&self, context: &mut Context<'_>, replies: &mut Vec<Reply>) -> Poll<Result<(), End>> {
        self.seat.poll_receive(context, replies)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.link.leave(self.id, self.seat.is_over());
    }
}
