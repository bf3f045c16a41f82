//! `vizard link`: prints links and QR codes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::invitation::{Host, Invitation, LinkKind, LinkView, Source, invitations, port};
use super::ways::Ways;
use super::web::{self, WebObstacle};
use super::{Failure, Settings, output};
use crate::config::{self, Config, Environment, units};
use crate::ops::links::{Form, OwnAddress};

/// Flags of `vizard link`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only the link of this user; may be repeated
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    #[command(flatten)]
    look: Look,
    #[command(flatten)]
    settings: Settings,
}

/// Appearance of links.
#[derive(Default, clap::Args)]
pub struct Look {
    /// Host name or address that the links name
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Port that the links name
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Write the secret in base64url: shorter, but misread by old apps
    #[arg(long)]
    base64url: bool,
    /// Only links of this kind
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Option<LinkKind>,
    /// Put `dd` before the key in links of WEB proxies: apps pad what they send
    #[arg(long)]
    dd: bool,
    /// Draw the QR codes even if the output is no terminal
    #[arg(long, conflicts_with = "no_qr")]
    qr: bool,
    /// Draw no QR codes
    #[arg(long)]
    no_qr: bool,
    /// Print a JSON array instead
    #[arg(long, conflicts_with = "qr")]
    json: bool,
}

impl Arguments {
    /// The links of these users.
    pub(super) fn of(users: &[String], look: Look, settings: Settings) -> Self {
        Self { user: users.to_vec(), look, settings }
    }

    /// The links of all users.
    pub(super) fn all(look: Look, settings: Settings) -> Self {
        Self { user: Vec::new(), look, settings }
    }
}

impl Look {
    fn view(&self) -> LinkView {
        let codes = self.qr || (output::is_terminal() && !self.no_qr);
        LinkView { kind: self.kind, dd: self.dd, codes }
    }

    /// The same, without a QR code if so wished.
    pub(super) fn without_qr(self, wished: bool) -> Self {
        Self { no_qr: self.no_qr || wished, ..self }
    }
}

/// Prints the links of one user or of all. Makes the secret if there is none yet, so that the link is good afterwards.
pub fn link(arguments: &Arguments, environment: &Environment) -> Result<(), Failure> {
    output::print(text(arguments, environment)?);
    Ok(())
}

/// The same as a text.
pub(super) fn text(arguments: &Arguments, environment: &Environment) -> Result<String, Failure> {
    let stated = stated_target(&arguments.look)?;
    let loaded = config::load_for(&arguments.user, &arguments.settings.flags(), environment)?;
    output::report(&loaded.warnings);
    let mut config = loaded.draft.settle(&mut rand::rng())?;
    if config.users.is_empty() {
        return Err(Failure::new("there is no link: no users are configured", "add one: vizard user add NAME"));
    }
    config.link.host = stated.0.or(config.link.host);
    config.link.port = stated.1.or(config.link.port);
    let listeners = Ways::of(&config.listen, &config.proxied, &config.state_dir).tcp();
    let port = port(&config, &listeners);
    let obstacle = web::obstacle(&config, port);
    let view = arguments.look.view();
    refuse_other_kind(view, &config, obstacle)?;
    let host = match Host::choose(&config, &listeners, OwnAddress::find) {
        // Links of WEB proxies name the site.
        None if view.has(LinkKind::Ee) => return Err(no_host()),
        found => found.unwrap_or(Host { name: String::new(), source: Source::Domain }),
    };
    if port == 0 && view.has(LinkKind::Ee) {
        return Err(Failure::new("the port is chosen when the proxy starts", "name it: --port PORT"));
    }
    let chosen = chosen(arguments, &config, &host, port)?;
    let shown = Shown { view, host, port, obstacle: obstacle.filter(|_| view.has(LinkKind::Web)) };
    Ok(if arguments.look.json { shown.json(&chosen) } else { shown.text(&chosen) })
}

/// Only links of WEB proxies are wanted, and there are none.
fn refuse_other_kind(view: LinkView, config: &Config, obstacle: Option<WebObstacle>) -> Result<(), Failure> {
    match obstacle {
        _ if view.has(LinkKind::Ee) => Ok(()),
        Some(obstacle) => Err(Failure::new(format!("no app can come by WEB proxy: {obstacle}"), obstacle.fix())),
        None if config.web.is_none() => {
            Err(Failure::new("WEB proxies are off", "switch them on: `enabled = true` in the section [web]"))
        }
        None => Ok(()),
    }
}

fn no_host() -> Failure {
    Failure::new("this machine has no address to put into a link", "name the server: --host HOST")
}

fn stated_target(look: &Look) -> Result<(Option<String>, Option<u16>), Failure> {
    let failure = |flag: &str, error: units::ValueError| Failure::usage(format!("{flag}: {error}"), error.fix());
    let host = look.host.as_deref().map(units::host).transpose().map_err(|error| failure("--host", error))?;
    let port = look.port.as_deref().map(units::port).transpose().map_err(|error| failure("--port", error))?;
    Ok((host, port))
}

fn chosen(arguments: &Arguments, config: &Config, host: &Host, port: u16) -> Result<Vec<Invitation>, Failure> {
    let form = if arguments.look.base64url { Form::Base64Url } else { Form::Hex };
    let mut chosen = invitations(config, host, port, form);
    if arguments.user.is_empty() {
        return Ok(chosen);
    }
    let mut missing: BTreeSet<_> = arguments.user.iter().map(String::as_str).collect();
    let wanted = missing.clone();
    chosen.retain(|invitation| wanted.contains(invitation.user.as_str()));
    chosen.iter().for_each(|invitation| _ = missing.remove(invitation.user.as_str()));
    if let Some(wanted) = missing.first() {
        let names: Vec<_> = config.users.iter().map(|user| user.name.as_str()).collect();
        let message = format!("there is no user {}", crate::config::report::quoted(wanted));
        return Err(Failure::usage(message, format!("name one of these: {}", names.join(", "))));
    }
    Ok(chosen)
}

/// Links as they are printed.
struct Shown {
    view: LinkView,
    host: Host,
    port: u16,
    /// Reason why there are none of WEB proxies, though they are on.
    obstacle: Option<WebObstacle>,
}

impl Shown {
    fn text(&self, invitations: &[Invitation]) -> String {
        let mut text: String = invitations.iter().map(|invitation| invitation.text(self.view) + "\n").collect();
        if self.host.source == Source::PrivateAddress && self.view.has(LinkKind::Ee) {
            text += "The server in these links is a private address: only clients in the same network can reach it.\n\
                     Name the public one: `--host HOST`, or `host = \"HOST\"` in the section [link].\n";
        }
        if let Some(obstacle) = self.obstacle {
            text += &format!("There are no links of WEB proxies: {}.\n", obstacle.sentence());
        }
        text.trim_end().to_owned()
    }

    fn json(&self, invitations: &[Invitation]) -> String {
        Value::Array(invitations.iter().map(|invitation| self.object(invitation)).collect()).to_string()
    }

    /// Where WEB proxies are off, nothing is said about them.
    fn object(&self, invitation: &Invitation) -> Value {
        let Invitation { user, tg, web, server, webproxy } = invitation;
        let mut object = json!({ "user": user });
        if self.view.has(LinkKind::Ee) {
            let public = self.host.source != Source::PrivateAddress;
            object =
                json!({ "user": user, "tg": tg, "web": web, "server": server, "port": self.port, "public": public });
        }
        if let Some(links) = webproxy.as_ref().filter(|_| self.view.has(LinkKind::Web)) {
            object["webproxy"] = json!(links);
        }
        if let Some(obstacle) = self.obstacle {
            object["no_webproxy"] = obstacle.sentence().into();
        }
        object
    }
}
