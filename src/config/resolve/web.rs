//! The section `[web]`.

use super::Resolver;
use crate::config::WebChoice;
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
    /// Settings of WEB on the built-in site, if it is on. What keeps apps out is no mistake of the configuration: the proxy
    /// works without it, so that the commands say it.
    pub(super) fn web(&mut self, written: Option<WebWritten>) -> Option<WebChoice> {
        let WebWritten { enabled, carrier, path, .. } = written?;
        let carrier = self.choice(carrier, CARRIERS).unwrap_or(Mode::Websocket);
        let path = path.and_then(|path| match path.value.parse::<BasePath>() {
            Ok(base) => Some(base),
            Err(error) => {
                self.complaints.push(Complaint::new(&path.at, error.to_string(), error.fix()));
                None
            }
        });
        enabled.filter(|written| written.value)?;
        Some(WebChoice { carrier, path: path.unwrap_or_default() })
    }
}
