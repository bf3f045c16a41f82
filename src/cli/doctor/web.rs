//! WEB proxies: what keeps apps from them, and a login over each carrier that the page has.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::timeout;

use super::finding::{Check, Finding};
use super::front::USUAL_DC;
use super::login::Visitor;
use super::web_login::{DoorKind, WebDoor, WebLogin, WebLoginError, WebVisitor};
use crate::cli::web::WebObstacle;
use crate::config::WebChoice;
use crate::telegram::DcId;
use crate::webproxy::session::Mode;
use crate::webproxy::{BasePath, Host};

/// Time limit for one login.
const PATIENCE: Duration = Duration::from_secs(9);

/// A login by WEB, and its outcome.
#[derive(Debug)]
pub struct WebAsked {
    user: String,
    /// The path of the page.
    base: BasePath,
    door: DoorKind,
    /// The carrier; none where no page came.
    carrier: Option<Mode>,
    outcome: Result<WebLogin, WebLoginError>,
}

/// Logs one user in through each of the doors: at the root over each carrier, at the path of the configuration over the first.
pub async fn log_in(doors: &[WebDoor], (user, visitor): &(String, Visitor), choice: &WebChoice) -> Vec<WebAsked> {
    let Ok(host) = Host::lowered(visitor.name.as_str()) else { return Vec::new() };
    let mut asked = Vec::new();
    for door in doors {
        let path = Some(choice.path.clone()).filter(|path| !path.is_root());
        for base in std::iter::once(BasePath::default()).chain(path) {
            let visitor = WebVisitor { secret: visitor.secret.clone(), host: host.clone(), base: base.clone() };
            let most = if base.is_root() { usize::MAX } else { 1 };
            let logins = log_in_at(door, &visitor, most).await;
            let with = |(carrier, outcome)| WebAsked {
                user: user.clone(),
                base: base.clone(),
                door: door.kind,
                carrier,
                outcome,
            };
            asked.extend(logins.into_iter().map(with));
        }
    }
    asked
}

/// Logs in over each of the page's carriers, or over so many of them.
async fn log_in_at(
    door: &WebDoor,
    visitor: &WebVisitor,
    most: usize,
) -> Vec<(Option<Mode>, Result<WebLogin, WebLoginError>)> {
    let late = || Err(WebLoginError::Closed);
    let carriers = match timeout(PATIENCE, visitor.carriers(door)).await {
        Ok(Ok(carriers)) => carriers,
        Ok(Err(error)) => return vec![(None, Err(error))],
        Err(_) => return vec![(None, Err(WebLoginError::Broken))],
    };
    let mut logins = Vec::new();
    for carrier in carriers.into_iter().take(most) {
        let mut random = StdRng::from_rng(&mut rand::rng());
        let login = visitor.log_in(door, carrier, DcId::new(USUAL_DC), &mut random);
        logins.push((Some(carrier), timeout(PATIENCE, login).await.unwrap_or_else(|_| late())));
    }
    logins
}

/// Judges what keeps apps out.
pub fn blocked(obstacle: WebObstacle) -> Finding {
    Finding::warning(Check::Web, format!("no app can come by WEB proxy: {obstacle}"), obstacle.fix())
}

/// Judges a login.
pub fn login(asked: &WebAsked) -> Finding {
    let WebAsked { user, base, door, carrier, outcome } = asked;
    let by = carrier.map(|carrier| format!(" over {carrier}")).unwrap_or_default();
    let at = if base.is_root() { String::new() } else { format!(" at {}", base.prefix()) };
    let how = match door {
        DoorKind::Own => "",
        DoorKind::Plain => ", by plain HTTP",
        DoorKind::Front => ", through the web server in front",
    };
    let what = format!("{user}: WEB{by}{at}{how}");
    match outcome {
        Ok(login) if *door != DoorKind::Plain && !login.http2 => Finding::warning(
            Check::Web,
            format!("{what}: let in, but without HTTP/2"),
            "offer HTTP/2 in the web server in front; without it a browser has few connections",
        ),
        Ok(login) => Finding::ok(
            Check::Web,
            format!("{what}: to data centre {USUAL_DC} and back in {} ms", login.took.as_millis()),
        ),
        Err(error) => Finding::broken(Check::Web, format!("{what}: {error}"), error.fix()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;

    #[test]
    fn logins_are_judged() {
        let asked = |door, outcome| {
            let (user, carrier) = ("alice".to_owned(), Some(Mode::Https));
            login(&WebAsked { user, base: "team".parse().unwrap(), door, carrier, outcome })
        };
        let done = |http2| Ok(WebLogin { http2, took: Duration::from_millis(5) });
        for (door, outcome, expected) in [
            (DoorKind::Own, done(true), Fine),
            (DoorKind::Front, done(false), Warning),
            (DoorKind::Plain, done(false), Fine),
            (DoorKind::Own, Err(WebLoginError::NoPage(404)), Broken),
            (DoorKind::Own, Err(WebLoginError::Field("x-frame-options")), Broken),
            (DoorKind::Own, Err(WebLoginError::Closed), Broken),
        ] {
            let finding = asked(door, outcome);
            assert_eq!(finding.verdict, expected, "{finding:?}");
            assert!(finding.reason.starts_with("alice: WEB over https at /team/"), "{finding:?}");
        }
        assert!(blocked(WebObstacle::Port(8443)).reason.contains("8443"));
    }
}
