//! What visits to the cover have taught us: plain data, kept on disk.
//!
//! A [`super::scout`] writes it. What an admitted client sees behind its header is cut after it, and when the cover is
//! away, so is the flight.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything that is known of a cover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The first flight, by class of hello ([`crate::wire::HelloClass::label`]).
    pub flights: BTreeMap<String, FlightShape>,
    /// What came in a whole visit with a handshake that was completed; `None` if there was none yet.
    pub visit: Option<VisitShape>,
    /// When this was learnt, in seconds since 1970.
    pub learnt: i64,
}

/// The cover's first answer to a class of hellos.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightShape {
    /// Chosen version: 0x0304 for TLS 1.3.
    pub version: u16,
    /// Whether the answer was a HelloRetryRequest.
    pub retry: bool,
    /// Cipher suite.
    pub cipher_suite: u16,
    /// Group of the key share.
    pub group: u16,
    /// Types of the ServerHello's extensions, in order.
    pub extensions: Vec<u16>,
    /// Payload sizes of the encrypted records.
    pub records: Vec<u16>,
    /// Whether several hellos of the class were all answered with records of these sizes.
    pub stable: bool,
}

/// What came behind the first flight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitShape {
    /// Encrypted records up to the server's Finished.
    pub flight_records: usize,
    /// Records that the cover sends before it has heard from the client again, behind its flight.
    pub before_finished: Vec<u16>,
    /// Payload sizes of the records that come by themselves once the client's Finished has arrived: session tickets and
    /// HTTP/2 settings.
    pub after_finished: Vec<u16>,
    /// How long after the client's Finished the first of them came, in milliseconds.
    pub after_finished_ms: u64,
    /// Payload sizes of successive records in the midst of a large answer; empty if the cover has none to offer.
    pub bulk: Vec<u16>,
    /// Payload size of the close alert that the cover ends a connection with; `None` if it sends none.
    pub close_alert: Option<u16>,
    /// How many change_cipher_spec records in a row the cover takes before it gives the handshake up; `None`: not seen to.
    pub ccs_limit: Option<u16>,
}
