//! One connection from its first byte to its last.
//!
//! Every connection is received by the cover, whoever it is. Most of them end there. What leaves the cover again is a
//! client that has proved itself twice: with its hello (`auth::Judge`), and with the header behind it (`cover::gate`).
//! Only then does the proxy talk to Telegram, and from then on to its client in the cover's place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tracing::debug;

use super::event::Event;
use super::{Server, promote};
use crate::cover::{Caller, Outcome};
use crate::net::sockopt;
use crate::relay::Closed;

/// Serves one client to the end.
pub(super) async fn serve(server: &Server, client: TcpStream, peer: SocketAddr) {
    let since = Instant::now();
    sockopt::no_delay(&client);
    server.observer.observe(&Event::Accepted);
    let (judge, witness) = (Arc::clone(&server.judge), Arc::clone(&server.witness));
    let cover = server.cover();
    match cover.receive(Caller { client, peer, judge, witness }).await {
        Outcome::Visited(closed) => {
            match closed {
                Some(Closed { by, up, down }) => debug!(by = by.label(), up, down, "visit is over"),
                None => debug!("visit is over"),
            }
            server.observer.observe(&Event::VisitOver { closed, lasted: since.elapsed() });
        }
        Outcome::Promoted(client, promotion) => {
            let (member, class) = (promotion.admission.member(), promotion.admission.class());
            server.observer.observe(&Event::Admitted { from: peer, member, class, took: since.elapsed() });
            promote::session(server, &cover, client, peer, *promotion).await;
        }
    }
}
