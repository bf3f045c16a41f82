//! `vizard check`: loads a configuration and prints every complaint.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::doubts::{doubts, lists_of};
use super::ways::Ways;
use super::{Failure, load, output, progress};
use crate::config::embedded::{CoverDraft, NOBODY, had_users};
use crate::config::{Draft, Environment, Flags, Listen, parts};
use crate::cover::grade::list;
use crate::cover::remote::leads_to_us;
use crate::net::listen::Address;

/// Most users that are named.
const MOST: usize = 20;

/// Time limit for looking up the cover's name.
const LOOKUP: Duration = Duration::from_secs(5);

/// Fails with every complaint printed, or says in a few lines what the configuration amounts to.
pub fn check(flags: &Flags, environment: &Environment) -> Result<(), Failure> {
    let loaded = load(flags, environment)?;
    refuse_mistakes(&loaded.draft)?;
    progress::during("looking up the cover", || refuse_loop(&loaded.draft, lookup))?;
    let name = loaded.path.map_or("the configuration without a file".into(), |path| path.display().to_string());
    let nobody = loaded.draft.users.is_empty() && had_users(&loaded.draft.state_dir);
    if nobody {
        output::complain(format!("warning: {NOBODY}"));
    }
    let doubts = doubts(&loaded.draft, lists_of(&loaded.draft).as_ref());
    doubts.iter().for_each(|doubt| output::complain(format!("warning: {doubt}")));
    let state = match loaded.warnings.complaints().len() + usize::from(nobody) + doubts.len() {
        0 => "is fine",
        _ => "can be used, see the warnings above",
    };
    let ways = Ways::of(&loaded.draft.listen, &loaded.draft.proxied, &loaded.draft.state_dir);
    output::print(format!("{name} {state}\n{}{}", summary(&loaded.draft), running(&ways)));
    Ok(())
}

/// Opens what a start would open: keys that do not fit or cannot be read are mistakes too.
fn refuse_mistakes(draft: &Draft) -> Result<(), Failure> {
    let mut found = parts::inspect(draft);
    let Some(last) = found.pop() else { return Ok(()) };
    found.into_iter().for_each(|error| output::complain(Failure::from(error)));
    Err(last.into())
}

/// Addresses in the configuration were looked at when it was read; where a name leads is only asked here. A name that
/// cannot be looked up now may still be a good one.
fn refuse_loop(draft: &Draft, lookup: impl Fn(&str, u16) -> Vec<SocketAddr>) -> Result<(), Failure> {
    let CoverDraft::Remote(cover) = &draft.cover else { return Ok(()) };
    let mut listeners = match &draft.listen {
        Listen::Given(_) => draft.listen.tcp(),
        Listen::Automatic => Listen::candidates()[..1].to_vec(),
    };
    listeners.extend(draft.proxied.listen.iter().filter_map(Address::tcp));
    match lookup(&cover.host, cover.port).into_iter().find(|address| leads_to_us(*address, &listeners)) {
        None => Ok(()),
        Some(address) => Err(Failure::usage(
            format!("the cover {}:{} is this proxy itself: it leads to {address}", cover.host, cover.port),
            "name another web server as the cover, or use the built-in site",
        )),
    }
}

/// Names the listeners of the proxy that runs with this configuration; they may differ until it has taken a change.
fn running(ways: &Ways) -> String {
    let handed_on = ways.proxied.iter().map(|address| format!("{address} (behind a PROXY protocol header)"));
    let open: Vec<String> = ways.clients.iter().map(ToString::to_string).chain(handed_on).collect();
    if ways.running { format!("\n  runs    on {}", open.join(", ")) } else { String::new() }
}

fn lookup(host: &str, port: u16) -> Vec<SocketAddr> {
    let (tell, found) = mpsc::channel();
    let host = host.to_owned();
    // The system's resolver takes as long as it likes; a thread that is late is left behind.
    thread::spawn(move || _ = tell.send((host.as_str(), port).to_socket_addrs().map(Vec::from_iter)));
    found.recv_timeout(LOOKUP).ok().and_then(Result::ok).unwrap_or_default()
}

fn summary(draft: &Draft) -> String {
    let listen = match &draft.listen {
        Listen::Given(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Listen::Automatic => vec!["port 443 where this user may, else port 8443".to_owned()],
    };
    let proxied = draft.proxied.listen.iter().map(|address| format!("{address} (behind a PROXY protocol header)"));
    let listen = listen.into_iter().chain(proxied).collect::<Vec<_>>().join(", ");
    let users = match &draft.users[..] {
        [] if had_users(&draft.state_dir) => "none: no client can connect".into(),
        [] => "one user with a secret generated at the first start".into(),
        users if users.len() > MOST => format!("{} users", users.len()),
        users => users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>().join(", "),
    };
    let names = draft.domain.iter().chain(&draft.names).map(ToString::to_string).collect::<Vec<_>>();
    let domain = if names.is_empty() { "generated at the first start, for tests".to_owned() } else { list(&names) };
    let cover = match &draft.cover {
        CoverDraft::Site { acme: Some(authority), .. } => {
            let host = authority.directory.host().unwrap_or_default();
            format!("built-in site with a certificate from {host} ({})", authority.challenge.label())
        }
        CoverDraft::Site { certificate: Some(_), .. } => "built-in site".into(),
        CoverDraft::Site { certificate: None, .. } => "built-in site with a self-signed certificate".into(),
        CoverDraft::Remote(remote) if remote.host.contains(':') => format!("[{}]:{}", remote.host, remote.port),
        CoverDraft::Remote(remote) => format!("{}:{}", remote.host, remote.port),
    };
    let state = draft.state_dir.display();
    format!("  listen  {listen}\n  users   {users}\n  domain  {domain}\n  cover   {cover}\n  state   {state}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_to_a_listener_is_refused() {
        for (listen, found, ours) in [
            ("listen = [\"[::]:8443\"]", &["192.0.2.1:8443", "127.0.0.1:8443"][..], true),
            ("listen = [\"127.0.0.1:8443\"]", &["127.0.0.1:8443"], true),
            ("listen = [\"[::]:443\"]", &["127.0.0.1:8443"], false),
            ("listen = [\"[::]:8443\"]", &["192.0.2.1:8443"], false),
            ("listen = [\"[::]:8443\"]", &[], false),
            ("", &["127.0.0.1:8443"], false),
        ] {
            let text = format!("{listen}\ndomain = \"www.example.com\"\n[cover]\naddress = \"www.example.com:8443\"\n");
            let environment = Environment::from_iter([("HOME", "/nowhere")]);
            let draft = crate::config::load_text(&text, None, &Flags::default(), &environment).unwrap().draft;
            let addresses: Vec<SocketAddr> = found.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(refuse_loop(&draft, |_, _| addresses.clone()).is_err(), ours, "{text} {found:?}");
        }
    }

    #[test]
    fn addresses_are_looked_up_and_names_without_one_have_none() {
        assert_eq!(lookup("192.0.2.1", 443), ["192.0.2.1:443".parse().unwrap()]);
        assert_eq!(lookup("no name at all", 443), []);
    }
}
