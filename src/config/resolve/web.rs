//! The section `[web]`.

use super::Resolver;
use crate::config::WebChoice;
use crate::config::embedded::CoverDraft;
use crate::config::layer::WebWritten;
use crate::config::report::Complaint;
use crate::webproxy::BasePath;
use crate::webproxy::session::Mode;

const CARRIERS: &[(&str, Mode)] = &[
    ("https", Mode::Https),
    ("https-lanes", Mode::HttpsLanes),
    ("websocket", Mode::Websocket),
    ("websocket-lanes", Mode::WebsocketLanes),
];

impl Resolver<'_> {
    /// Settings of WEB on the built-in site, if it is on; `cover` is what everybody meets.
    pub(super) fn web(&mut self, written: Option<WebWritten>, cover: &CoverDraft) -> Option<WebChoice> {
        let WebWritten { enabled, carrier, path, at } = written?;
        let carrier = self.choice(carrier, CARRIERS).unwrap_or(Mode::Websocket);
        let path = path.and_then(|path| match path.value.parse::<BasePath>() {
            Ok(base) => Some(base),
            Err(error) => {
                self.complaints.push(Complaint::new(&path.at, error.to_string(), error.fix()));
                None
            }
        });
        let enabled = enabled.filter(|written| written.value)?;
        if self.whole {
            self.complaints.extend(
                obstacle(cover).map(|(what, fix)| Complaint::new(&enabled.at, what, fix).and(&at, "in this section")),
            );
        }
        Some(WebChoice { carrier, path: path.unwrap_or_default() })
    }
}

/// Obstacle to WEB in such a cover, and the way out.
fn obstacle(cover: &CoverDraft) -> Option<(&'static str, &'static str)> {
    match cover {
        CoverDraft::Remote(_) => Some((
            "WEB proxies come through the built-in site, and the cover is a remote one",
            "put the built-in site in front of your web server: `[site]` with `upstream = \"http://127.0.0.1:8080\"`",
        )),
        CoverDraft::Site { certificate: None, acme: None, .. } => Some((
            "WEB proxies need a certificate that browsers believe, and the site has none",
            "add an empty section `[site.acme]`, or `certificate` and `key` to `[site]`",
        )),
        CoverDraft::Site { .. } => None,
    }
}
