//! From a configuration to the parts of the running proxy, for the start and for every reload.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tracing::warn;

use super::{Config, Listen, User};
use crate::auth::{Enrolment, People, Rules, SecretTag, TimeWindow};
use crate::cover::grade::IOS_FLIGHT;
use crate::cover::remote::{Remote, Unusable};
use crate::cover::site::Site;
use crate::cover::{self, Cover};
use crate::server::{self, Purpose, Wanted};

/// A part that could not be made.
#[derive(Debug)]
pub struct PartError {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

impl PartError {
    fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), mend: mend.into() }
    }
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.mend)
    }
}

impl std::error::Error for PartError {}

/// Who may enter: from now on exactly these, and running sessions hear of it.
pub fn rules(config: &Config, people: &People) -> Rules {
    let enrolment = |user: &User| Enrolment {
        name: user.name.clone(),
        policy: user.policy.clone(),
        secrets: user.secrets().map(|(secret, until)| (secret.clone(), until)).collect(),
    };
    let keyring = people.enrol(config.users.iter().map(enrolment));
    let names = config.accepted_names.clone().map(|further| [vec![config.domain.clone()], further].concat());
    Rules { keyring, window: TimeWindow::new(config.time_window), names }
}

/// What the replay memory has to remember for.
pub fn tags(config: &Config) -> Vec<SecretTag> {
    config.users.iter().flat_map(User::secrets).map(|(secret, _)| SecretTag::of(secret.bytes())).collect()
}

/// Settings of the server itself.
pub fn settings(config: &Config) -> server::Settings {
    server::Settings {
        telegram: config.telegram.clone(),
        idle: config.idle,
        drain: config.drain,
        fillers: config.fillers.clone(),
        log_addresses: config.log.client_addresses,
    }
}

/// The listeners; `automatic` is what [`Listen::Automatic`] came to.
pub fn listeners(config: &Config, automatic: SocketAddr) -> Vec<Wanted> {
    let clients = match &config.listen {
        Listen::Given(addresses) => addresses.clone(),
        Listen::Automatic => vec![automatic],
    };
    let redirects = match &config.cover {
        super::Cover::Site(site) => &site.redirect_from[..],
        super::Cover::Remote(_) => &[],
    };
    let wanted = |purpose| move |address| Wanted { purpose, address };
    clients
        .into_iter()
        .map(wanted(Purpose::Cover))
        .chain(redirects.iter().copied().map(wanted(Purpose::Redirect)))
        .collect()
}

/// How much a cover must show before it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// At the start a cover that is away for the moment is better than no proxy.
    Start,
    /// In a running proxy the cover that works is better than one that does not.
    Reload,
}

/// The cover of a proxy that listens on `listeners`.
pub async fn open_cover(config: &Config, listeners: &[SocketAddr], demand: Demand) -> Result<Cover, PartError> {
    match &config.cover {
        super::Cover::Site(settings) => {
            let site = Site::open(settings).map_err(|error| {
                PartError::new(error.to_string(), "correct the section [site], then `vizard check`")
            })?;
            Ok(Cover::site(Arc::new(site), config.domain.clone(), Some(&config.state_dir)))
        }
        super::Cover::Remote(settings) => {
            let remote = Remote::new(settings.clone());
            let found = remote.resolve(listeners).await;
            let cover = Cover::remote(remote, config.domain.clone(), Some(&config.state_dir));
            match found {
                Ok(()) => look_at(&cover, demand).await?,
                Err(Unusable::Ourselves) => {
                    return Err(PartError::new(
                        format!("the cover {}:{} is this proxy itself", settings.host, settings.port),
                        "name another web server with --cover, or use the built-in site: --cover site",
                    ));
                }
                Err(error) if demand == Demand::Reload => {
                    return Err(PartError::new(error.to_string(), "the cover in use stays"));
                }
                Err(error) => warn!(%error, "going on, and trying again"),
            }
            Ok(cover)
        }
    }
}

/// Visits the cover and tells the operator what about it will be visible.
async fn look_at(cover: &cover::Cover, demand: Demand) -> Result<(), PartError> {
    match cover.glance().await {
        Ok(flight) => {
            if flight.records > 1 {
                warn!(
                    records = flight.records,
                    "the cover's first flight has several encrypted records, which are joined into one for clients: that is visible"
                );
            }
            if flight.payload > IOS_FLIGHT {
                warn!(bytes = flight.payload, "the cover's first flight is too long for Telegram on iOS");
            }
        }
        Err(error) if demand == Demand::Reload => {
            return Err(PartError::new(
                format!("the new cover could not be visited: {error}"),
                "the cover in use stays; try again when the other one answers",
            ));
        }
        Err(error) => warn!(%error, "the cover could not be visited; going on, and trying again"),
    }
    Ok(())
}
