//! Measurements of whole conversations: each compares the proxy with its cover in one respect.

use std::time::Duration;

use super::captured::{Captured, tdesktop, tdlib};
use super::ends::{self, EndingAct};
use super::idle::{self, SilentParty};
use super::look::{SceneOutcome, SceneSetup};
use super::probe::{Class, Needs};
use super::segments::{self, FlightAsker};
use super::{bridge, greeting, held};

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub enum Scene {
    /// Cuts in first flights.
    Segments(FlightAsker, &'static Captured),
    /// Records behind the client's second flight.
    Greeting(&'static Captured),
    /// Ends of sessions.
    Ends(EndingAct, &'static Captured),
    /// A record of a session, its last byte held back.
    Held(&'static Captured),
    /// Requests with values in the form of those of WEB proxies.
    Bridge,
    /// Ends of silences.
    Idle(SilentParty),
}

impl Scene {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for client in [tdlib(), tdesktop()] {
            all.extend(FlightAsker::ALL.map(|asker| Self::Segments(asker, client)));
            all.push(Self::Greeting(client));
            all.extend(EndingAct::ALL.map(|act| Self::Ends(act, client)));
            all.push(Self::Held(client));
        }
        all.push(Self::Bridge);
        all.extend(idle::all().map(Self::Idle));
        all
    }

    /// Its name, unlike that of any other or of a probe.
    pub fn name(&self) -> String {
        match self {
            Self::Segments(asker, client) => {
                format!("segments for {} with a hello of {}", asker.label(), client.client)
            }
            Self::Greeting(client) => format!("greeting of {}", client.client),
            Self::Ends(act, client) => format!("ends of sessions of {}: {}", client.client, act.label()),
            Self::Held(client) => format!("{} and a later record, its last byte held back", client.client),
            Self::Bridge => "requests with values like those of WEB proxies".into(),
            Self::Idle(silent) => format!("silence of {}", silent.label()),
        }
    }

    /// Its kind.
    pub fn class(&self) -> Class {
        match self {
            Self::Segments(..) => Class::Segments,
            Self::Greeting(_) => Class::Greeting,
            Self::Ends(..) => Class::Ends,
            Self::Held(_) => Class::Held,
            Self::Bridge => Class::Bridge,
            Self::Idle(_) => Class::Idle,
        }
    }

    /// Means that an observer needs to do the same.
    pub fn needs(&self) -> Needs {
        match self {
            Self::Segments(FlightAsker::Client, _) | Self::Greeting(_) => Needs::Watching,
            Self::Ends(EndingAct::Fin, _) | Self::Idle(SilentParty::Client) => Needs::Watching,
            Self::Segments(..) | Self::Bridge | Self::Idle(SilentParty::Visitor(_)) => Needs::Connection,
            // A place on the way of the packets.
            Self::Held(_) | Self::Ends(EndingAct::Broken, _) => Needs::CapturedHello,
        }
    }

    /// Whether times count that other work would disturb.
    pub fn wants_quiet(&self) -> bool {
        matches!(self, Self::Greeting(_) | Self::Bridge)
    }

    /// Carries it out. Silences are borne for `idle`.
    pub async fn measure(self, idle: Option<Duration>, look: &SceneSetup<'_>) -> SceneOutcome {
        match self {
            Self::Segments(asker, client) => segments::measure(asker, client, look).await,
            Self::Greeting(client) => greeting::measure(client, look).await,
            Self::Ends(act, client) => ends::measure(act, client, look).await,
            Self::Held(client) => held::measure(client, look).await,
            Self::Bridge => bridge::measure(look).await,
            Self::Idle(silent) => idle::measure(silent, tdlib(), idle, look).await,
        }
    }
}
