//! What `vizard run` says when it has started: where it listens, the links, and what is missing for real use.
//!
//! Links carry secrets. They are for the standard output; the log only says how to have them printed.

use std::net::SocketAddr;

use serde_json::json;

use super::invitation::{Host, Source, invitations, port};
use super::output;
use crate::config::{Config, Cover, LogFormat};
use crate::ops::links::{Form, OwnAddress, qr};

/// Prints the greeting to the standard output, then the line `ready`. With a JSON log each is one JSON object. QR codes
/// are drawn on a terminal only.
pub fn greet(config: &Config, listeners: &[SocketAddr], format: LogFormat) {
    let host = Host::choose(config, listeners, OwnAddress::find);
    match format {
        LogFormat::Text => {
            output::print(greeting(config, listeners, host.as_ref(), output::is_terminal()));
            output::print("ready");
        }
        LogFormat::Json => {
            output::print(greeting_json(config, listeners, host.as_ref()));
            output::print(json!({ "ready": true, "listen": texts(listeners) }));
        }
    }
}

/// The greeting in words.
pub fn greeting(config: &Config, listeners: &[SocketAddr], host: Option<&Host>, draws: bool) -> String {
    let mut text = format!("vizard {} listens on {}\n", env!("CARGO_PKG_VERSION"), texts(listeners).join(", "));
    text += &format!("Strangers meet {}.\n\n", cover(config));
    if let Some(host) = host {
        for invitation in invitations(config, &host.name, port(config, listeners), Form::Hex) {
            text += &format!("{}\n  {}\n  {}\n", invitation.user, invitation.tg, invitation.web);
            text += &draws.then(|| qr(&invitation.tg)).flatten().map(|code| format!("\n{code}")).unwrap_or_default();
            text += "\n";
        }
    }
    let missing = missing(config, listeners, host);
    if !missing.is_empty() {
        text += "Good for trying out. For real use there is still missing:\n";
        missing.iter().for_each(|item| text += &format!("  - {item}\n"));
    }
    text.trim_end().to_owned() + "\n"
}

/// The greeting as one JSON object on one line.
pub fn greeting_json(config: &Config, listeners: &[SocketAddr], host: Option<&Host>) -> String {
    let links: Vec<_> = host
        .map(|host| invitations(config, &host.name, port(config, listeners), Form::Hex))
        .unwrap_or_default()
        .into_iter()
        .map(|invitation| json!({ "user": invitation.user, "tg": invitation.tg, "web": invitation.web }))
        .collect();
    let missing = missing(config, listeners, host);
    json!({ "event": "started", "listen": texts(listeners), "links": links, "missing": missing }).to_string()
}

fn texts(listeners: &[SocketAddr]) -> Vec<String> {
    listeners.iter().map(ToString::to_string).collect()
}

fn cover(config: &Config) -> String {
    match &config.cover {
        Cover::Site(_) => format!("the built-in site as {}", config.domain),
        Cover::Remote(remote) => format!("the web server {} as {}", remote.host, config.domain),
    }
}

/// What keeps this configuration from being good for real use, each with what to do.
fn missing(config: &Config, listeners: &[SocketAddr], host: Option<&Host>) -> Vec<&'static str> {
    let port = port(config, listeners);
    let address = match host.map(|host| host.source) {
        Some(Source::Configured | Source::Domain | Source::Address) => None,
        Some(Source::PrivateAddress) => Some(
            "A public address: clients outside this network cannot reach the one in the links. If there is another, \
             name it: --link-host HOST.",
        ),
        None => Some("An address for the links: this machine has none. Name the server: --link-host HOST."),
    };
    let items = [
        config.made_up.domain.then_some(
            "A domain of your own that leads to this machine: the name in use is made up, and nobody finds a site \
             there. Name yours: --domain NAME.",
        ),
        config.made_up.certificate.then_some(
            "A certificate: the one in use is self-signed, and browsers warn of it. Let an authority issue one, with a \
             section [site.acme], or name the files of your own in [site].",
        ),
        config.made_up.content.then_some(
            "Pages of your own: every untouched copy of the built-in ones looks the same. Name a folder or an upstream \
             in the section [site].",
        ),
        (port != 443).then_some(
            "Port 443: web sites are rarely found elsewhere. Run with the right to bind it, or pass that \
             port on to this one.",
        ),
        address,
        matches!(config.cover, Cover::Remote(_)).then_some(
            "A cover of your own, unless that site is yours: its name does not lead to this address, which \
             anybody can look up.",
        ),
    ];
    items.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::config::{Environment, Flags, load};

    const LISTENER: &str = "[::]:443";

    fn config(change: impl FnOnce(&mut Flags)) -> (Config, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut flags = Flags { state_dir: Some(folder.path().into()), ..Flags::default() };
        change(&mut flags);
        let draft = load(&flags, &Environment::default()).unwrap().draft;
        (draft.settle(&mut StdRng::seed_from_u64(1)).unwrap(), folder)
    }

    fn host(config: &Config, own: fn() -> Option<OwnAddress>) -> Option<Host> {
        Host::choose(config, &[LISTENER.parse().unwrap()], own)
    }

    fn public() -> Option<OwnAddress> {
        Some(OwnAddress::new([9, 9, 9, 9].into()))
    }

    fn private() -> Option<OwnAddress> {
        Some(OwnAddress::new([10, 0, 0, 1].into()))
    }

    #[test]
    fn an_empty_configuration_is_told_everything_that_is_missing() {
        let (config, _folder) = config(|_| {});
        let listeners = ["[::]:8443".parse().unwrap()];
        let text = greeting(&config, &listeners, host(&config, private).as_ref(), false);
        for part in
            ["[::]:8443", "server=10.0.0.1&port=8443", "A domain", "A certificate", "A public address", "Port 443"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\x1b'), "no QR code unless it is asked for");
    }

    #[test]
    fn the_link_is_there_with_a_qr_code_on_a_terminal() {
        let (config, _folder) = config(|flags| flags.domain = Some("example.com".into()));
        let listeners = [LISTENER.parse().unwrap()];
        let text = greeting(&config, &listeners, host(&config, public).as_ref(), true);
        assert!(text.contains("tg://proxy?server=9.9.9.9&port=443&secret=ee") && text.contains("\x1b[38;5;"), "{text}");
        assert!(!text.contains("A domain of your own") && !text.contains("public address"), "{text}");
    }

    #[test]
    fn json_is_one_object_with_the_links() {
        let (config, _folder) = config(|_| {});
        let text = greeting_json(&config, &[LISTENER.parse().unwrap()], host(&config, public).as_ref());
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["links"][0]["user"], "default");
        assert_eq!(value["listen"][0], LISTENER);
    }

    #[test]
    fn the_host_of_links_is_the_best_that_is_known() {
        let (plain, _folder) = config(|_| {});
        assert_eq!(host(&plain, private).unwrap().source, Source::PrivateAddress);
        assert_eq!(host(&plain, public).unwrap().source, Source::Address);
        assert_eq!(host(&plain, || None), None);
        let bound = Host::choose(&plain, &["203.0.113.5:443".parse().unwrap()], public).unwrap();
        assert_eq!(bound.name, "203.0.113.5");
        let (stated, _folder) = config(|flags| flags.link_host = Some("proxy.example.com".into()));
        assert_eq!(host(&stated, public).unwrap().name, "proxy.example.com");
        let (mut own, _folder) = config(|flags| {
            flags.domain = Some("own.example".into());
            flags.cover = Some("site".into());
        });
        assert_eq!(host(&own, public).unwrap().source, Source::Address, "a self-signed certificate proves nothing");
        own.made_up.certificate = false;
        assert_eq!(host(&own, public).unwrap().name, "own.example");
    }
}
