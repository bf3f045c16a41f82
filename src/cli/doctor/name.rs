//! Whether the domain leads to this machine, as anybody can look up.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::finding::{Check, Finding};
use crate::auth::Domain;
use crate::ops::links::{OwnAddress, is_public};

/// Result of resolving a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads {
    /// It has no address.
    Nowhere(io::ErrorKind),
    /// To these addresses, each with whether it is this machine.
    To(Vec<(IpAddr, bool)>),
}

impl Leads {
    /// Whether one address at least is this machine's.
    pub fn here(&self) -> bool {
        matches!(self, Self::To(addresses) if addresses.iter().any(|(_, ours)| *ours))
    }
}

/// Resolves `name`. An address is ours if this machine has it, or if `host`, which links name, leads there too: behind
/// an address translator the machine does not have its public address.
pub async fn leads(name: &str, host: Option<&str>) -> Leads {
    let stated = match host.filter(|host| !host.eq_ignore_ascii_case(name)) {
        Some(host) => resolve(host).await.unwrap_or_default(),
        None => Vec::new(),
    };
    match resolve(name).await {
        Ok(found) => Leads::To(found.into_iter().map(|at| (at, stated.contains(&at) || is_local(at))).collect()),
        Err(error) => Leads::Nowhere(error.kind()),
    }
}

/// Where each of the names leads, all looked up at once.
pub async fn all_lead(names: &[Domain], host: Option<&str>) -> Vec<(Domain, Leads)> {
    let look = |name: &Domain| {
        let (name, host) = (name.clone(), host.map(str::to_owned));
        tokio::spawn(async move { (leads(name.as_str(), host.as_deref()).await, name) })
    };
    let asked: Vec<_> = names.iter().map(look).collect();
    let mut found = Vec::new();
    for asked in asked {
        found.extend(asked.await.ok().map(|(leads, name)| (name, leads)));
    }
    found
}

async fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    const PATIENCE: Duration = Duration::from_secs(5);
    if let Ok(literal) = name.parse::<IpAddr>() {
        return Ok(vec![literal]);
    }
    let mut found: Vec<IpAddr> =
        timeout(PATIENCE, lookup_host((name, 443))).await??.map(|at| at.ip().to_canonical()).collect();
    found.sort();
    found.dedup();
    if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
}

/// Whether this machine has the address: only such a one can be bound.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Whether the public address of this machine is known: it has one, or links name a host.
pub fn knows_itself(host: Option<&str>) -> bool {
    host.is_some() || OwnAddress::find().is_some_and(|own| is_public(own.address))
}

/// Owner of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The operator's own, whose site is built in.
    Own,
    /// That of a web server elsewhere.
    Cover,
    /// No one's: it was made up.
    MadeUp,
}

/// Judges where the domain leads. `known` says whether this machine knows its public address.
pub fn name(domain: &str, whose: Whose, leads: &Leads, known: bool) -> Finding {
    const COVER: &str = "a cover of your own is better: a domain that leads here, and the built-in site";
    let warning = |reason: String, fix: &str| Finding::warning(Check::Name, reason, fix);
    let judged = |reason: String, fix: &str| match whose {
        Whose::Own => Finding::broken(Check::Name, reason, fix),
        Whose::Cover | Whose::MadeUp => Finding::warning(Check::Name, reason, COVER),
    };
    if whose == Whose::MadeUp {
        let reason = format!("{domain} is made up, and no one finds a site there");
        return warning(reason, "name a domain of your own that leads to this machine: --domain NAME");
    }
    let addresses = match leads {
        Leads::Nowhere(kind) => {
            return judged(
                format!("{domain} has no address ({kind})"),
                "give the domain an A or AAAA record with the address of this machine",
            );
        }
        Leads::To(addresses) => addresses,
    };
    let list = |ours: bool| {
        let chosen = addresses.iter().filter(|(_, is_ours)| *is_ours == ours);
        chosen.map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(", ")
    };
    match (leads.here(), addresses.iter().all(|(_, ours)| *ours)) {
        (true, true) => Finding::ok(Check::Name, format!("{domain} leads to this machine ({})", list(true))),
        (true, false) => warning(
            format!("{domain} leads here ({}) and elsewhere ({})", list(true), list(false)),
            "remove the A or AAAA records that are not of this machine, or name its address with --link-host",
        ),
        (false, _) if !known && whose == Whose::Own => warning(
            format!("{domain} leads to {}; this machine does not know its public address to compare", list(false)),
            "name the public address: --link-host ADDRESS",
        ),
        (false, _) => judged(
            format!("{domain} leads to {}, which is not this machine: anybody can look that up", list(false)),
            "point the domain's A and AAAA records to this machine, or name its address with --link-host",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;

    #[test]
    fn names() {
        let to = |addresses: &[(&str, bool)]| {
            Leads::To(addresses.iter().map(|(address, ours)| (address.parse().unwrap(), *ours)).collect())
        };
        let here = || to(&[("192.0.2.1", true), ("2001:db8::1", true)]);
        let both = || to(&[("192.0.2.1", true), ("2001:db8::9", false)]);
        let far = || to(&[("192.0.2.9", false)]);
        let nowhere = || Leads::Nowhere(io::ErrorKind::NotFound);
        for (whose, leads, known, expected) in [
            (Whose::Own, here(), true, Fine),
            (Whose::Own, both(), true, Warning),
            (Whose::Own, far(), true, Broken),
            (Whose::Own, far(), false, Warning),
            (Whose::Own, nowhere(), true, Broken),
            (Whose::Cover, here(), true, Fine),
            (Whose::Cover, both(), true, Warning),
            (Whose::Cover, far(), true, Warning),
            (Whose::Cover, nowhere(), false, Warning),
            (Whose::MadeUp, here(), true, Warning),
        ] {
            let finding = name("example.com", whose, &leads, known);
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }

    #[tokio::test]
    async fn addresses_of_this_machine_are_ours() {
        assert!(leads("127.0.0.1", None).await.here());
        assert!(leads("localhost", Some("192.0.2.77")).await.here());
        assert!(!leads("192.0.2.77", None).await.here());
    }
}
