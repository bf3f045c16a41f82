//! From an admitted client to a session with its data centre.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rand::seq::IndexedRandom;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tracing::{Span, debug, field, info, warn};

use super::Server;
use super::event::Event;
use super::sessions::Live;
use super::tariff::Charges;
use crate::cover::Cover;
use crate::cover::gate::Promotion;
use crate::net::sockopt;
use crate::relay::Closed;
use crate::relay::halves::{BadRecord, Downlink, Uplink};
use crate::relay::meter::Meter;
use crate::relay::sizing::Pattern;
use crate::relay::stream::{self, Manner, Session};
use crate::telegram::DcId;
use crate::telegram::direct::{self, DirectError};
use crate::wire::obfuscated;

/// Connects the client to the data centre that its header names, and moves their bytes until they are done.
pub(super) async fn session(
    server: &Server,
    cover: &Cover,
    mut client: TcpStream,
    peer: SocketAddr,
    promotion: Promotion,
) {
    let Promotion { admission, opened, leftover, record_left } = promotion;
    let dc = DcId::new(opened.dc);
    // Not before: a visitor's connection has no probes that the cover would not send.
    sockopt::keep_alive(&client);
    Span::current().record("user", admission.member().name()).record("dc", field::display(dc));

    let settings = server.settings();
    let profile = cover.profile();
    // Before the first whole round of visits nothing is known but the number of records.
    let visit = profile.visit.as_ref().filter(|visit| !visit.greetings.is_empty());
    let manner =
        Manner { close_alert: visit.map_or(Some(CLOSE_NOTIFY), |visit| visit.close_alert), filler: rand::random };
    let pattern = Pattern::seen(visit.map_or(&[], |visit| &visit.bulk));
    let fills = settings.fillers.contains(&admission.class());
    let greeting = visit.filter(|_| fills).and_then(|visit| visit.greetings.choose(&mut rand::rng()));
    let (down, filler) =
        Downlink::behind_filler(opened.down, pattern, greeting.map_or(&[][..], |sizes| sizes), rand::random);
    if client.write_all(&filler).await.is_err() {
        return debug!("the client left right behind its header");
    }

    let (header, to_dc) = obfuscated::seal_for_dc(dc.number(), down.dc_keys(), rand::random);
    let mut up = Uplink::new(opened.up, to_dc, record_left);
    let first = match first_bytes(&header, &mut up, leftover) {
        Ok(first) => first,
        Err(BadRecord) => {
            info!("the client sent no data record");
            return stream::goodbye(client, down, manner).await;
        }
    };
    let far = match reach(server, dc, &first).await {
        Ok(far) => far,
        Err(()) => return stream::goodbye(client, down, manner).await,
    };
    debug!(address = far.peer_addr().ok().map(field::display::<SocketAddr>), "session");
    let class = admission.class();
    let permit = admission.into_permit();
    let entry = server.sessions.enter(Live {
        id: server.sessions.number(),
        member: Arc::clone(permit.member()),
        dc,
        class,
        since: SystemTime::now().into(),
        from: peer.ip().to_canonical(),
        key: permit.key(),
        meter: Arc::new(Meter::with_tariff(Arc::new(Charges(Arc::clone(permit.member()))))),
    });
    let since = Instant::now();
    let meter = Arc::clone(&entry.live().meter);
    let mut session = Session::new(client, far, up, down, manner, meter);
    let closed = session.run(settings.idle).await;
    let Closed { by, up, down } = closed;
    debug!(by = by.label(), up, down, "session is over");
    server.observer.observe(&Event::SessionOver { member: permit.member(), dc, closed, lasted: since.elapsed() });
}

/// Payload of the record that a TLS 1.3 close_notify comes in: level, description, content type and tag.
const CLOSE_NOTIFY: u16 = 19;

/// Our header and what the client sent along with its own.
fn first_bytes(header: &[u8], up: &mut Uplink, mut leftover: Vec<u8>) -> Result<Vec<u8>, BadRecord> {
    let mut ranges = Vec::new();
    up.transform(&mut leftover, |range| ranges.push(range))?;
    Ok(ranges.into_iter().fold(header.to_vec(), |mut bytes, range| {
        bytes.extend_from_slice(&leftover[range]);
        bytes
    }))
}

/// Connects and sends the first bytes. Failures are for the operator: the client only sees a session that ends.
async fn reach(server: &Server, dc: DcId, first: &[u8]) -> Result<TcpStream, ()> {
    let since = Instant::now();
    let failed = match direct::connect(&server.settings().telegram, dc).await {
        Ok(mut far) => match far.write_all(first).await {
            Ok(()) => {
                server.observer.observe(&Event::Dialled { dc, took: since.elapsed() });
                return Ok(far);
            }
            Err(error) => DirectError::Unreachable(error),
        },
        Err(error) => error,
    };
    let unknown = matches!(failed, DirectError::Unknown);
    server.observer.observe(&Event::Undialled { dc, unknown });
    match failed {
        DirectError::Unknown => info!("the client asked for a data centre that does not exist"),
        DirectError::Unreachable(error) => warn!(%error, "the data centre cannot be reached"),
    }
    Err(())
}
