//! One connection from its first byte to its last.
//!
//! Every connection is received by the cover, whoever it is. Most of them end there. What leaves the cover again is a
//! client that has proved itself twice: with its hello (`auth::Judge`), and with the header behind it (`cover::gate`).
//! Only then does the proxy talk to Telegram, and from then on to its client in the cover's place.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tracing::debug;

use super::{Server, promote};
use crate::cover::Outcome;
use crate::net::sockopt;

/// Serves one client to the end.
pub(super) async fn serve(server: &Server, client: TcpStream, peer: SocketAddr) {
    sockopt::no_delay(&client);
    match server.cover.receive(client, peer, Arc::clone(&server.judge)).await {
        Outcome::Visited(None) => debug!("visit is over"),
        Outcome::Visited(Some(closed)) => {
            debug!(by = closed.by.label(), up = closed.up, down = closed.down, "visit is over");
        }
        Outcome::Promoted(client, promotion) => promote::session(server, client, *promotion).await,
    }
}
