//! `vizard check`: loads a configuration and prints every complaint.

use super::{Failure, load, output};
use crate::config::embedded::CoverDraft;
use crate::config::{Draft, Environment, Flags, Listen};

/// Fails with every complaint printed, or says in a few lines what the configuration amounts to.
pub fn check(flags: &Flags, environment: &Environment) -> Result<(), Failure> {
    let loaded = load(flags, environment)?;
    let name = loaded.path.map_or("the configuration without a file".into(), |path| path.display().to_string());
    let state = match loaded.warnings.complaints().len() {
        0 => "is fine",
        _ => "can be used, see the warnings above",
    };
    output::print(format!("{name} {state}\n{}", summary(&loaded.draft)));
    Ok(())
}

fn summary(draft: &Draft) -> String {
    let listen = match &draft.listen {
        Listen::Given(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Listen::Automatic => "port 443 where this user may, else port 8443".into(),
    };
    let users = match &draft.users[..] {
        [] => "one user with a secret made at the first start".into(),
        users => users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>().join(", "),
    };
    let domain = draft.domain.as_ref().map_or("made up at the first start, for trying out", |domain| domain.as_str());
    let cover = match &draft.cover {
        CoverDraft::Site { certificate: Some(_), .. } => "built-in site".into(),
        CoverDraft::Site { certificate: None, .. } => "built-in site with a self-signed certificate".into(),
        CoverDraft::Remote(remote) if remote.host.contains(':') => format!("[{}]:{}", remote.host, remote.port),
        CoverDraft::Remote(remote) => format!("{}:{}", remote.host, remote.port),
    };
    let state = draft.state_dir.display();
    format!("  listen  {listen}\n  users   {users}\n  domain  {domain}\n  cover   {cover}\n  state   {state}")
}
