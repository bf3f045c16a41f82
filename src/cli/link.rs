//! `vizard link`: prints links and QR codes.

use std::collections::BTreeSet;

use serde_json::json;

use super::invitation::{Host, Invitation, Source, invitations, port};
use super::ways::Ways;
use super::{Failure, Settings, load, output};
use crate::config::{Config, Environment, units};
use crate::ops::links::{Form, OwnAddress, qr};

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
    /// Draw the QR code even if the output is no terminal
    #[arg(long, conflicts_with = "no_qr")]
    qr: bool,
    /// Draw no QR code
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
    let mut config = load(&arguments.settings.flags(), environment)?.draft.settle(&mut rand::rng())?;
    if config.users.is_empty() {
        return Err(Failure::new("there is no link: no users are configured", "add one: vizard user add NAME"));
    }
    config.link.host = stated.0.or(config.link.host);
    config.link.port = stated.1.or(config.link.port);
    let listeners = Ways::of(&config.listen, &config.proxied, &config.state_dir).tcp();
    let host = Host::choose(&config, &listeners, OwnAddress::find).ok_or_else(no_host)?;
    let port = port(&config, &listeners);
    if port == 0 {
        return Err(Failure::new("the port is chosen when the proxy starts", "name it: --port PORT"));
    }
    let chosen = chosen(arguments, &config, &host, port)?;
    Ok(match arguments.look.json {
        true => as_json(&chosen, &host, port),
        false => as_text(&chosen, &host, draws(&arguments.look)),
    })
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

fn draws(look: &Look) -> bool {
    look.qr || (output::is_terminal() && !look.no_qr)
}

fn as_text(invitations: &[Invitation], host: &Host, draws: bool) -> String {
    let mut text = String::new();
    for Invitation { user, tg, web, .. } in invitations {
        text += &format!("{user}\n  {tg}\n  {web}\n");
        text += &draws.then(|| qr(tg)).flatten().map(|code| format!("\n{code}")).unwrap_or_default();
        text += "\n";
    }
    text += match host.source {
        Source::PrivateAddress => {
            "The server in these links is a private address: only clients in the same network can reach it.\n\
             Name the public one: `--host HOST`, or `host = \"HOST\"` in the section [link].\n"
        }
        Source::Configured | Source::Domain | Source::Address => "",
    };
    text.trim_end().to_owned()
}

fn as_json(invitations: &[Invitation], host: &Host, port: u16) -> String {
    let public = host.source != Source::PrivateAddress;
    let object = |Invitation { user, tg, web, server }: &Invitation| json!({ "user": user, "tg": tg, "web": web, "server": server, "port": port, "public": public });
    serde_json::Value::Array(invitations.iter().map(object).collect()).to_string()
}
