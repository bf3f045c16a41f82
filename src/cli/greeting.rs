//! What `vizard run` says when it has started: where it listens, the links, and what is missing for real use.
//!
//! Links carry secrets, and what a service prints is kept in a log. So they are printed on a terminal only, and while they
//! are few; otherwise the greeting names the command that prints them.

use std::net::SocketAddr;

use serde_json::json;

use super::invitation::{Host, Invitation, LinkView, Source, invitations, port};
use super::{output, web};
use crate::config::embedded::NOBODY;
use crate::config::{Config, Cover, Flags, LogFormat};
use crate::ops::links::{Form, OwnAddress};

/// Most links that are printed at the start.
const FEW: usize = 5;

/// Whether the greeting has the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Links {
    /// All of them, with QR codes.
    Shown,
    /// This command prints them.
    PrintedBy(String),
}

impl Links {
    /// Shown on a terminal while they are few.
    fn choose(config: &Config, terminal: bool, command: String) -> Self {
        match terminal && config.users.len() <= FEW {
            true => Self::Shown,
            false => Self::PrintedBy(command),
        }
    }
}

/// The command that prints the links of a proxy that was started with `flags`.
pub fn link_command(flags: &Flags) -> String {
    let Flags {
        config,
        state_dir,
        listen,
        domain,
        cover,
        secrets,
        secret_files,
        data_centres: _,
        log: _,
        link_host,
        ..
    } = flags;
    let mut command = "vizard link".to_owned();
    for (name, path) in [("--config", config), ("--state-dir", state_dir)] {
        command += &path.as_ref().map(|path| format!(" {name} {}", path.display())).unwrap_or_default();
    }
    let lists = [listen, secrets, secret_files].into_iter().all(Vec::is_empty);
    let plain = lists && [domain, cover, link_host].into_iter().all(Option::is_none);
    // Values may be secrets.
    command + if plain { "" } else { " and the other flags of this `vizard run`" }
}

/// Prints the greeting to the standard output, then the line `ready`. With a JSON log each is one JSON object.
/// `command` prints the links where the greeting does not.
pub fn greet(config: &Config, listeners: &[SocketAddr], format: LogFormat, command: String) {
    web::log_obstacle(config, port(config, listeners));
    let host = Host::choose(config, listeners, OwnAddress::find);
    let links = Links::choose(config, output::is_terminal(), command);
    match format {
        LogFormat::Text => {
            output::print(greeting(config, listeners, host.as_ref(), &links));
            output::print("ready");
        }
        LogFormat::Json => {
            output::print(greeting_json(config, listeners, host.as_ref(), &links));
            output::print(json!({ "ready": true, "listen": texts(listeners) }));
        }
    }
}

/// The greeting in words.
pub fn greeting(config: &Config, listeners: &[SocketAddr], host: Option<&Host>, links: &Links) -> String {
    let mut text = format!("vizard {} listens on {}\n", env!("CARGO_PKG_VERSION"), texts(listeners).join(", "));
    text += &format!("Visitors see {}.\n\n", cover(config));
    match (links, host) {
        _ if config.users.is_empty() => text += &format!("Attention: {NOBODY}.\n\n"),
        (Links::Shown, Some(host)) => {
            let view = LinkView { codes: true, ..LinkView::default() };
            for invitation in invitations(config, host, port(config, listeners), Form::Hex) {
                text += &format!("{}\n", invitation.text(view));
            }
        }
        (Links::Shown, None) => {}
        (Links::PrintedBy(command), _) => {
            let users = match config.users.len() {
                1 => "the link of 1 user".to_owned(),
                users => format!("the links of {users} users"),
            };
            text += &format!("To print {users}: {command}\n\n");
        }
    }
    let missing = missing(config, listeners, host);
    if !missing.is_empty() {
        text += "Good for trying out. For real use, this is still missing:\n";
        missing.iter().for_each(|item| text += &format!("  - {item}\n"));
    }
    text.trim_end().to_owned() + "\n"
}

/// The greeting as one JSON object on one line.
pub fn greeting_json(config: &Config, listeners: &[SocketAddr], host: Option<&Host>, links: &Links) -> String {
    let missing = missing(config, listeners, host);
    let mut greeting = json!({ "event": "started", "listen": texts(listeners), "missing": missing });
    match links {
        Links::PrintedBy(command) => greeting["links_printed_by"] = command.as_str().into(),
        Links::Shown => {
            let all = host.map(|host| invitations(config, host, port(config, listeners), Form::Hex));
            let link =
                |one: &Invitation| json!({ "user": one.user, "tg": one.tg, "web": one.web, "webproxy": one.webproxy });
            greeting["links"] = all.iter().flatten().map(link).collect();
        }
    }
    greeting.to_string()
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

/// Lists what keeps this configuration from being good for real use, each with what to do.
fn missing(config: &Config, listeners: &[SocketAddr], host: Option<&Host>) -> Vec<String> {
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
            "A domain of your own that leads to this machine: the name in use is made up, and no one finds a site \
             there. Links with it are for trying out on your own phone only. Name yours: --domain NAME.",
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
    let web = web::obstacle(config, port).map(|obstacle| format!("WEB proxies: {}.", obstacle.sentence()));
    items.into_iter().flatten().map(str::to_owned).chain(web).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::config::{Environment, load};

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
        let text = greeting(&config, &listeners, host(&config, private).as_ref(), &Links::Shown);
        for part in
            ["[::]:8443", "server=10.0.0.1&port=8443", "A domain", "A certificate", "A public address", "Port 443"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn the_link_is_there_with_a_qr_code_on_a_terminal() {
        let (config, _folder) = config(|flags| flags.domain = Some("example.com".into()));
        let listeners = [LISTENER.parse().unwrap()];
        let text = greeting(&config, &listeners, host(&config, public).as_ref(), &Links::Shown);
        assert!(text.contains("tg://proxy?server=9.9.9.9&port=443&secret=ee") && text.contains("\x1b[38;5;"), "{text}");
        assert!(!text.contains("A domain of your own") && !text.contains("public address"), "{text}");
    }

    #[test]
    fn json_is_one_object_with_the_links_or_with_the_command_that_prints_them() {
        let (config, _folder) = config(|_| {});
        let greeting = |links: &Links| {
            let text = greeting_json(&config, &[LISTENER.parse().unwrap()], host(&config, public).as_ref(), links);
            assert_eq!(text.lines().count(), 1);
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let shown = greeting(&Links::Shown);
        assert_eq!(shown["links"][0]["user"], "default");
        assert_eq!(shown["listen"][0], LISTENER);
        let hidden = greeting(&Links::PrintedBy("vizard link".into()));
        assert_eq!((hidden["links_printed_by"].as_str(), hidden.get("links")), (Some("vizard link"), None));
    }

    #[test]
    fn links_are_shown_on_a_terminal_while_they_are_few() {
        let users = |count: usize| {
            let secret = |number: usize| format!("user{number}={:032x}", number + 1);
            config(|flags| flags.secrets = (0..count).map(secret).collect())
        };
        let command = || "vizard link".to_owned();
        for (count, terminal, shown) in [(1, true, true), (FEW, true, true), (FEW + 1, true, false), (1, false, false)]
        {
            let (config, _folder) = users(count);
            let links = Links::choose(&config, terminal, command());
            assert_eq!(links == Links::Shown, shown, "{count} {terminal}");
            let text = self::greeting(&config, &[LISTENER.parse().unwrap()], host(&config, public).as_ref(), &links);
            assert_eq!(text.contains("secret="), shown, "{text}");
            assert_eq!(text.contains("vizard link"), !shown, "{text}");
        }
    }

    #[test]
    fn the_command_that_prints_links_repeats_no_secret() {
        let flags = Flags { config: Some("/etc/vizard/vizard.toml".into()), ..Flags::default() };
        assert_eq!(link_command(&flags), "vizard link --config /etc/vizard/vizard.toml");
        let flags = Flags { secrets: vec!["a=00112233445566778899aabbccddeeff".into()], ..flags };
        assert!(link_command(&flags).contains("other flags") && !link_command(&flags).contains("0011"));
        assert!(!format!("{flags:?}").contains("0011"));
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
