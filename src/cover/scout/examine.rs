//! A look for someone who wants to know now: what a round begins with, whose certificate the cover shows, and what time
//! it believes it is. Nothing of it is kept.

use std::io;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::{CoverDialer, Scout, VISIT, reading, within};
use crate::auth::UnixTime;
use crate::base::told;
use crate::cover::chain::Shown;
use crate::cover::profile::Profile;

/// Result of an examination.
#[derive(Clone, Debug, Default)]
pub struct Examined {
    /// The first flights by class of hello, and what comes behind them.
    pub profile: Profile,
    /// Numbers of encrypted records in the flight, visit by visit; empty if no handshake of TLS 1.3 was completed.
    pub counts: Vec<usize>,
    /// The certificates as shown, the site's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Seconds by which the cover's clock is ahead of ours; `None` if it did not say.
    pub ahead: Option<i64>,
}

impl Scout {
    /// Fails if the cover could not be visited at all, or answered no hello of a client.
    pub(in crate::cover) async fn examine(&self, door: &impl CoverDialer) -> io::Result<Examined> {
        let read = async { reading::farewell(door.open().await?, self.name.as_str()).await };
        let (greeting, read) = tokio::join!(self.greeting(door), within(VISIT, read));
        let read = match (&greeting, read) {
            (Err(_), Err(error)) => return Err(error),
            (_, read) => read.unwrap_or_default(),
        };
        let now = UnixTime::from(SystemTime::now());
        let ahead = date(&read.head).as_deref().and_then(told::parse).map(|date| date - now.0);
        let mut examined = Examined { chain: read.chain, ahead, ..Examined::default() };
        if let Ok(greeting) = greeting {
            // A site that shakes hands and then serves no page has shown it too.
            if examined.chain.is_empty() {
                examined.chain.clone_from(&greeting.first.chain);
            }
            examined.counts = greeting.all.iter().map(|heard| heard.flight.records).collect();
            examined.profile.visit = Some(greeting.shape(None));
        }
        examined.profile.certificate = Shown::of(&examined.chain, &self.names());
        let mut failures = Vec::new();
        self.learn_flights(door, &mut examined.profile, &mut failures).await;
        match failures.into_iter().next().filter(|_| examined.profile.flights.is_empty()) {
            Some(first) => Err(io::Error::other(first)),
            None => Ok(examined),
        }
    }
}

/// The header `Date` of an answer.
pub(super) fn date(head: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(head);
    let fields = text.lines().skip(1).take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let (_, value) = fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_found_among_the_headers() {
        let date = |head: &[u8]| date(head).as_deref().and_then(told::parse);
        let head = |fields: &str| date(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nDate: in the page\r\n").as_bytes());
        assert_eq!(head("Server: x\r\ndate: Tue, 15 Nov 1994 08:12:31 GMT"), Some(784_887_151));
        assert_eq!(head("Date: soon"), None);
        assert_eq!(head("Server: x"), None);
        assert_eq!(date(b"\xff\xfe"), None);
    }
}
