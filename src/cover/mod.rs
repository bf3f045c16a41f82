//! Being the site.
//!
//! A [`Cover`] receives a client and is simply what it is: a web server. Between the two stands a [`gate::Gate`], which
//! ends in one of two ways: the connection is a visit to the end, or the client has proved itself twice and leaves with a
//! [`gate::Promotion`]. The two kinds of cover differ in how the gate is put in: `guarded` is a stream that the built-in
//! site is served through, [`remote`] stands between two sockets.

pub mod chain;
pub mod gate;
pub mod grade;
mod guarded;
mod parcels;
pub mod profile;
pub mod remote;
pub mod scout;
pub mod site;
mod stand_in;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpStream;

use crate::auth::{Declined, Domain, Judge, Reason, UnixTime};
use crate::base::told::Uptime;
use crate::relay::splice::Splice;
use gate::Promotion;
use profile::Profile;
use scout::{CoverDialer, Examined, Leg, Round, Scout, SeenFlight, TooSoon, Whose};
use site::extension::SiteExtension;

/// The site that everybody meets, and what is known of it.
pub struct Cover {
    place: CoverBackend,
    scout: Scout,
}

enum CoverBackend {
    Site(Arc<site::Site>),
    Remote(Box<remote::Remote>),
}

/// Client that arrives, and the judge that decides on it.
pub struct Caller {
    /// The client, of which nothing has been read.
    pub client: TcpStream,
    /// Its address.
    pub peer: SocketAddr,
    /// Reason why it is not judged, if it is not.
    pub barred: Option<Reason>,
    /// Judge that decides on it.
    pub judge: Arc<Judge>,
    /// Observer that hears of it.
    pub witness: Arc<dyn VisitObserver>,
    /// What is asked for its requests before the built-in site, if anything is.
    pub extension: Option<Arc<dyn SiteExtension>>,
}

/// Hears what happens at the door, as it happens.
pub trait VisitObserver: Send + Sync {
    /// The connection is known to be a mere visit.
    fn declined(&self, from: SocketAddr, declined: &Declined);

    /// A remote cover could not be reached, or left before the client spoke.
    fn cover_away(&self, error: &io::Error);

    /// A remote cover had no flight for an admitted client.
    fn cover_failed(&self, failure: Failure);

    /// A visitor of the built-in site has left, who had sent and got so many bytes.
    fn visitor_moved(&self, up: u64, down: u64);
}

/// Hears nothing.
#[cfg(test)]
struct NoObserver;

#[cfg(test)]
impl VisitObserver for NoObserver {
    fn declined(&self, _: SocketAddr, _: &Declined) {}
    fn cover_away(&self, _: &io::Error) {}
    fn cover_failed(&self, _: Failure) {}
    fn visitor_moved(&self, _: u64, _: u64) {}
}

/// Way in which a remote cover that accepts connections fails an admitted client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// It reset the connection.
    Reset,
    /// It ended the connection.
    Ended,
    /// It said something else than a flight that a client takes; says which part.
    Unfit(&'static str),
    /// It said nothing, or too little, for longer than clients wait.
    Slow,
}

impl Failure {
    /// A short name without details.
    pub fn label(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Ended => "ended",
            Self::Unfit(_) => "unfit",
            Self::Slow => "slow",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("it reset the connection"),
            Self::Ended => f.write_str("it ended the connection"),
            Self::Unfit(what) => write!(f, "its answer is no handshake: {what}"),
            Self::Slow => f.write_str("it did not answer in time"),
        }
    }
}

/// Outcome of receiving a client.
#[derive(Debug)]
pub enum Outcome {
    /// It was a visit and is over.
    Visited,
    /// It is a visit, and all that is left to do is to move its bytes.
    PassThrough(Splice),
    /// The client is one of ours; the cover has been left.
    Promoted(TcpStream, Box<Promotion>),
}

impl Cover {
    /// The built-in web server, known as `name`. What is learnt of it is kept in the folder `state`, if one is given.
    pub fn site(site: Arc<site::Site>, name: Domain, state: Option<&Path>) -> Self {
        let whose = Whose { host: String::new(), port: 0, domain: name.to_string() };
        Self { place: CoverBackend::Site(site), scout: Scout::new(name, whose, state) }
    }

    /// A web server elsewhere, known as `name`. What is learnt of it is kept in the folder `state`, if one is given.
    pub fn remote(remote: remote::Remote, name: Domain, state: Option<&Path>) -> Self {
        let (host, port) = remote.host_and_port();
        let whose = Whose { host: host.to_owned(), port, domain: name.to_string() };
        Self { place: CoverBackend::Remote(Box::new(remote)), scout: Scout::new(name, whose, state) }
    }

    /// The same site, known by these names too: its certificate has to hold them.
    pub fn also_known_as(self, names: &[Domain]) -> Self {
        Self { scout: self.scout.also_known_as(names), ..self }
    }

    /// Receives a client, from its first byte on.
    pub async fn receive(&self, caller: Caller) -> Outcome {
        match &self.place {
            CoverBackend::Site(site) => guarded::receive(site, caller).await,
            CoverBackend::Remote(remote) => remote.receive(caller, &self.scout).await,
        }
    }

    /// Keeps fresh what is known of the cover, and its certificate, for as long as this is polled. `listeners` is where the proxy itself is.
    pub async fn watch(&self, listeners: &[SocketAddr]) {
        match &self.place {
            CoverBackend::Site(site) => {
                tokio::join!(self.scout.watch(site), site.keep_certificate(|| self.scout.note_stale()));
            }
            CoverBackend::Remote(remote) => {
                tokio::join!(remote.watch_name(listeners), self.scout.watch(&**remote));
            }
        }
    }

    /// Answers a client that speaks plain HTTP with the way to the built-in site. A remote cover has no answer.
    pub async fn redirect(&self, client: TcpStream, peer: SocketAddr) {
        match &self.place {
            CoverBackend::Site(site) => site.redirect(client, peer).await,
            CoverBackend::Remote(_) => drop(client),
        }
    }

    /// Serves the built-in site to a web server in front, over plain HTTP: see [`site::Site::serve_front`]. A remote cover has
    /// nothing to serve.
    pub async fn serve_front(
        &self,
        client: TcpStream,
        peer: (SocketAddr, bool),
        extension: Option<Arc<dyn SiteExtension>>,
    ) {
        match &self.place {
            CoverBackend::Site(site) => site.serve_front(client, peer, extension).await,
            CoverBackend::Remote(_) => drop(client),
        }
    }

    /// The name that it is known as.
    pub fn name(&self) -> &Domain {
        self.scout.name()
    }

    /// `site` or `remote`.
    pub fn kind(&self) -> &'static str {
        match &self.place {
            CoverBackend::Site(_) => "site",
            CoverBackend::Remote(_) => "remote",
        }
    }

    /// Settings of a remote cover; `None` for the built-in site.
    pub fn elsewhere(&self) -> Option<&remote::Settings> {
        match &self.place {
            CoverBackend::Site(_) => None,
            CoverBackend::Remote(remote) => Some(remote.settings()),
        }
    }

    /// Host and port of a remote cover.
    pub fn place(&self) -> Option<(&str, u16)> {
        match &self.place {
            CoverBackend::Site(_) => None,
            CoverBackend::Remote(remote) => Some(remote.host_and_port()),
        }
    }

    /// Reads the certificate of the built-in site again now, and says whether it was a new one.
    pub fn reload_certificate(&self) -> Result<bool, site::SiteError> {
        match &self.place {
            CoverBackend::Site(site) => site.reload_certificate(),
            CoverBackend::Remote(_) => Ok(false),
        }
    }

    /// End of validity of the built-in site's certificate.
    pub fn certificate_ends(&self) -> Option<UnixTime> {
        match &self.place {
            CoverBackend::Site(site) => site.certificate_ends(),
            CoverBackend::Remote(_) => None,
        }
    }

    /// Wishes that the authority which issues the site's certificate is asked again soon, if it has refused before.
    pub fn ask_for_certificate(&self) {
        if let CoverBackend::Site(site) = &self.place {
            site.ask_for_certificate();
        }
    }

    /// Status of certificate issuance by that authority, if there is one.
    pub fn acme(&self) -> Option<site::acme::Standing> {
        match &self.place {
            CoverBackend::Site(site) => site.acme(),
            CoverBackend::Remote(_) => None,
        }
    }

    /// Profile of the cover; cheap enough for every connection to ask.
    pub fn profile(&self) -> Arc<Profile> {
        self.scout.profile()
    }

    /// By how many seconds the clock of a remote cover is ahead, by the last visit. The built-in site has this machine's.
    pub fn clock_ahead(&self) -> Option<i64> {
        self.elsewhere().and_then(|_| self.scout.told_time().ahead(SystemTime::now(), Uptime::now()))
    }

    /// Number of rounds of visits that found the cover changed.
    pub fn changes(&self) -> u64 {
        self.scout.changes()
    }

    /// Asks [`Cover::watch`] to visit the cover again, as soon as it may be.
    pub fn request_scan(&self) {
        self.scout.note_stale();
    }

    /// Visits the cover in every way there is, which may take a minute. See [`Cover::quick_scan`] for less.
    pub async fn look(&self) -> Result<Round, TooSoon> {
        match &self.place {
            CoverBackend::Site(site) => self.scout.round(site).await,
            CoverBackend::Remote(remote) => self.scout.round(&**remote).await,
        }
    }

    /// Visits the cover for someone who wants to know now what it is like, and keeps nothing of it.
    pub async fn examine(&self) -> io::Result<Examined> {
        match &self.place {
            CoverBackend::Site(site) => self.scout.examine(site).await,
            CoverBackend::Remote(remote) => self.scout.examine(&**remote).await,
        }
    }

    /// Visits the cover for a moment, to learn what the first clients need: the number of records in its first flight,
    /// and what comes behind it.
    pub async fn quick_scan(&self) -> io::Result<SeenFlight> {
        match &self.place {
            CoverBackend::Site(site) => self.scout.quick_scan(site).await,
            CoverBackend::Remote(remote) => self.scout.quick_scan(&**remote).await,
        }
    }
}

/// Most bytes under way between the scout and the site.
const IN_PROCESS: usize = 64 * 1024;

impl CoverDialer for Arc<site::Site> {
    /// Without a socket: the site serves the other end, and ends with this one.
    async fn open(&self) -> io::Result<Leg> {
        let (near, far) = parcels::parcels(IN_PROCESS);
        let site = Arc::clone(self);
        tokio::spawn(async move { _ = site.serve(far, None).await });
        Ok(Box::new(near))
    }
}
