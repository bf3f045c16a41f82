//! `vizard health`: asks whether the proxy serves.
//!
//! A port that accepts connections says little: the kernel does that for a program that hangs. So a visit is begun, as
//! anybody might begin one, and what counts is that something comes of it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::ways::{Way, Ways, reachable};
use super::{Failure, load, output, progress};
use crate::auth::Domain;
use crate::config::embedded::CoverDraft;
use crate::config::{Environment, Flags, Listen};
use crate::cover::remote;
use crate::cover::remote::Remote;
use crate::cover::scout::{Reaction, ping};
use crate::ops::control;

/// Time limit for one visit. Two of them fit into the five seconds that the image gives the command.
const VISIT: Duration = Duration::from_millis(2300);

/// Succeeds if the first listener reacts to a visitor in time. To the proxy that is a visitor like any other.
pub fn health(flags: &Flags, environment: &Environment) -> Result<(), Failure> {
    let draft = load(flags, environment)?.draft;
    // Any name does: a client that knows no better is answered as well.
    let name = draft.domain.clone().or_else(|| "localhost.test".parse().ok());
    let name = name.ok_or_else(|| Failure::new("there is no domain to ask for", "name one with --domain"))?;
    let remote = match &draft.cover {
        CoverDraft::Remote(settings) => Some(settings.clone()),
        CoverDraft::Site { .. } => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}"), "try again"))?;
    let known = Ways::of(&draft.listen, &draft.proxied, &draft.state_dir);
    let ways: Vec<Way> = match &draft.listen {
        // One that cannot be asked may be at either.
        Listen::Automatic if !known.running => {
            Listen::candidates().iter().flat_map(|one| Way::all(&[(*one).into()], &[])).collect()
        }
        _ => known.first(),
    };
    let visiting = visit(&ways, &name, remote.as_ref(), Some(&draft.state_dir));
    let outcome = progress::during("visiting the proxy", || runtime.block_on(visiting));
    runtime.shutdown_background();
    let outcome = outcome.map(|said| match known.cover_fails {
        true => format!("{said}; its cover has no handshake for the clients that it admits, see its log"),
        false => said,
    });
    outcome.map(output::print).map_err(|message| {
        Failure::new(message, "see its log; `vizard health` needs the same flags and variables as `vizard run`")
    })
}

/// Visits the first of these that accepts connections, and says what came of it. `state` is the folder of a proxy that is
/// another process.
pub(super) async fn visit(
    ways: &[Way],
    name: &Domain,
    remote: Option<&remote::Settings>,
    state: Option<&Path>,
) -> Result<String, String> {
    for target in ways {
        return match front(target, name).await {
            Ok(Reaction::Answered) => Ok(format!("{target} answers")),
            Ok(Reaction::Closed) if remote.is_some() => Ok(format!("{target} is serving; its cover is unreachable")),
            Ok(Reaction::Closed) => Err(format!("{target} closes connections without an answer")),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let hangs = match remote {
                    // A cover that does not answer must not make the proxy in front of it look as if it hung.
                    Some(cover) => tokio::join!(answers(cover, name), is_mute(state)) != (false, false),
                    None => true,
                };
                match hangs {
                    true => Err(format!("{target} accepts connections and does not answer: the proxy hangs")),
                    false => Ok(format!("{target} accepts connections; no answer from it or its cover")),
                }
            }
            Err(_) => continue,
        };
    }
    Err("the proxy does not accept connections".into())
}

/// Reaction of the proxy. Fails if no one accepts the connection, and with `TimedOut` if nothing happens on it.
async fn front(target: &Way, name: &Domain) -> io::Result<Reaction> {
    timeout(VISIT, async { ping(target.connect().await?, name).await }).await?
}

async fn answers(cover: &remote::Settings, name: &Domain) -> bool {
    let remote = Remote::new(cover.clone());
    let visit = async {
        remote.resolve(&[]).await.map_err(io::Error::other)?;
        ping(remote.visit().await?, name).await
    };
    matches!(timeout(VISIT, visit).await, Ok(Ok(_)))
}

/// Whether the proxy has its control socket open and says nothing there. Without the socket nothing is known of it.
async fn is_mute(state: Option<&Path>) -> bool {
    let Some(state) = state.map(Path::to_owned) else { return false };
    timeout(VISIT, spawn_blocking(move || control::ask_who(&state))).await.is_err()
}

/// Whether someone else accepts a connection in time.
pub(super) fn accepts(target: &SocketAddr) -> bool {
    // Without a listener, a port that the system happens to give to this very socket connects to itself.
    TcpStream::connect_timeout(target, PATIENCE).is_ok_and(|stream| stream.local_addr().is_ok_and(|own| own != *target))
}

const PATIENCE: Duration = Duration::from_secs(3);

/// Every address of this machine includes the one of the loopback.
pub(super) fn targets(listen: &Listen) -> Vec<SocketAddr> {
    let listeners = match listen {
        Listen::Given(_) => listen.tcp().into_iter().take(1).collect(),
        Listen::Automatic => listen.tcp(),
    };
    listeners.into_iter().flat_map(reachable).collect()
}
