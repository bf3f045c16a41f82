//! Settings that are allowed and that keep an operator's own clients out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::web::{self, WebObstacle};
use crate::auth::Domain;
use crate::config::embedded::CoverDraft;
use crate::config::{Draft, parts};
use crate::cover::grade::list;
use crate::cover::site;
use crate::net::listen::Address;
use crate::ops::lists;

/// A client opens 13 to 18 connections at once, and one that is refused tries again without end: a TDLib above its limit makes
/// 555 hellos a minute.
const FEW: u32 = 20;

/// Keys of one name that may be tried for each hello. Measured, see docs/threat-model.md: the search for so many takes about as
/// long as the built-in site by itself takes for its first answer.
const HIDDEN: usize = 300;

/// Most users that are named in one sentence.
const MOST: usize = 5;

/// An address of each network that a list from the web may bar without anybody wanting it: FireHOL's first level has them all.
const INSIDE: [(&str, IpAddr); 5] = [
    ("127.0.0.0/8", IpAddr::V4(Ipv4Addr::LOCALHOST)),
    ("::1", IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ("10.0.0.0/8", IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))),
    ("172.16.0.0/12", IpAddr::V4(Ipv4Addr::new(172, 16, 0, 1))),
    ("192.168.0.0/16", IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1))),
];

/// Lists what is doubtful about a configuration, as sentences with what to do. `lists` is what it bars.
pub(super) fn doubts(draft: &Draft, lists: Option<&lists::State>) -> Vec<String> {
    let mut found = tight_limits(draft);
    found.extend(crowded_names(draft).map(|(what, next)| format!("{what}; {next}")));
    found.extend(uncertified_names(draft));
    found.extend(nameless_visitors(draft));
    found.extend(web::expected_obstacle(draft).map(WebObstacle::sentence));
    found.extend(lists.into_iter().flat_map(|lists| wide_lists(draft, lists)));
    found
}

/// The lists of a configuration, if they can be read.
pub(super) fn lists_of(draft: &Draft) -> Option<lists::State> {
    parts::lists(draft).ok()
}

fn tight_limits(draft: &Draft) -> Vec<String> {
    let tight = |user: &&crate::config::User| user.policy.max_sessions.is_some_and(|most| most < FEW);
    let users: Vec<&str> = draft.users.iter().filter(tight).map(|user| user.name.as_str()).collect();
    let named = match users.len() {
        0..=MOST => users.join(", "),
        count => format!("{} and {} more", users[..MOST].join(", "), count - MOST),
    };
    let why = "one client opens 13 to 18 connections at once, and endlessly retries those that are refused";
    let address = draft.misuse.limits.address.connections.filter(|most| most.get() < FEW);
    let found = [
        (!users.is_empty())
            .then(|| format!("max_sessions of {named} is below {FEW}: {why}; allow {FEW} for each device")),
        address.map(|most| {
            format!("limits.address_connections is {most}: {why}; allow {FEW} for each device at an address")
        }),
    ];
    found.into_iter().flatten().collect()
}

/// A hello is tried with the keys of all users of its name, and the time that this takes has to hide in the cover's own.
pub(super) fn crowded_names(draft: &Draft) -> Option<(String, &'static str)> {
    let mut users: BTreeMap<Option<&Domain>, usize> = BTreeMap::new();
    for user in &draft.users {
        *users.entry(draft.name_of(user)).or_default() += user.secrets().count();
    }
    let (name, keys) = users.into_iter().max_by_key(|(_, keys)| *keys).filter(|(_, keys)| *keys > HIDDEN)?;
    let name = name.map_or_else(|| "the name of the site".into(), ToString::to_string);
    let next = match draft.names.is_empty() {
        true => "give the site further names, `names = [\"…\"]`, which new users are spread over: docs/users.md",
        false => {
            "move some with `vizard user change USER --domain NAME`, which makes new links, or add names: docs/users.md"
        }
    };
    let what = format!(
        "{name} has {keys} keys of users: every hello is tried with all of them, and above {HIDDEN} that takes longer than the \
         longer than the cover's own answer"
    );
    Some((what, next))
}

/// A certificate from files that lacks names. One that cannot be read is a mistake, which is told elsewhere.
fn uncertified_names(draft: &Draft) -> Option<String> {
    let CoverDraft::Site { certificate: Some((certificate, _)), .. } = &draft.cover else { return None };
    let names: Vec<&str> = draft.domain.iter().chain(&draft.names).map(Domain::as_str).collect();
    let lacking = site::lacking(certificate, &names).ok().filter(|lacking| !lacking.is_empty())?;
    let certificate = certificate.display();
    Some(format!(
        "the certificate {certificate} is not for {}: browsers warn of it, and anybody who visits sees that; get one for all names \
         of the site",
        list(&lacking)
    ))
}

/// Web servers in front, on this machine, whose word about visitors does not count.
fn nameless_visitors(draft: &Draft) -> Option<String> {
    let CoverDraft::Site { fronts, trusted_proxies, .. } = &draft.cover else { return None };
    let trusted = |address: IpAddr| trusted_proxies.iter().any(|network| network.contains(&address));
    let mut here = fronts.listen.iter().filter_map(Address::tcp).map(|address| address.ip());
    let address = here.find(|address| address.is_loopback() && !trusted(*address))?;
    Some(format!(
        "who comes to site.http_listen by WEB counts as coming from {address}, the web server in front, for users' networks and \
         addresses: name it in site.trusted_proxies, so that its word counts"
    ))
}

fn wide_lists(draft: &Draft, lists: &lists::State) -> Vec<String> {
    let handed_on = !draft.proxied.listen.is_empty();
    let fronts = draft.proxied.from.iter().filter(|_| handed_on);
    let fronts = fronts.map(|front| (format!("the front {front}"), front.addr()));
    let inside = INSIDE.iter().map(|(network, address)| ((*network).to_owned(), *address));
    let mut barred: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (whom, address) in inside.chain(fronts) {
        if let Some(why) = lists.told(address) {
            barred.entry(why).or_default().push(whom);
        }
    }
    let sentence = |(why, whom): (String, Vec<String>)| {
        let whom = whom.join(", ");
        format!(
            "{whom} would be rejected ({why}): this machine, a home network or a front; to accept them, add them to a \
             list of lists.allow"
        )
    };
    barred.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Flags, load_text};

    fn found(text: &str) -> Vec<String> {
        let state = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("VIZARD_STATE_DIR", state.path().to_str().unwrap())]);
        let draft = load_text(text, None, &Flags::default(), &environment).unwrap().draft;
        doubts(&draft, lists_of(&draft).as_ref())
    }

    #[test]
    fn limits_below_what_one_client_needs_are_doubtful() {
        let user = |name: &str, most: u32| {
            format!(
                "[[users]]\nname = \"{name}\"\nsecret = \"000102030405060708090a0b0c0d0e0f\"\nmax_sessions = {most}\n"
            )
        };
        assert_eq!(found(&user("alice", 20)), [""; 0]);
        let limits = "[limits]\naddress_connections = 19\n";
        let said = found(&format!("{}{limits}", user("alice", 19)));
        assert!(said.len() == 2 && said[0].contains("max_sessions of alice is below 20"), "{said:?}");
        assert!(said[1].contains("limits.address_connections is 19"), "{said:?}");
        assert_eq!(found(&limits.replace("19", "20")), [""; 0]);
    }

    /// Users of these names of the site, with keys of their own.
    fn users(names: &[Option<&str>]) -> String {
        let user = |(number, name): (usize, &Option<&str>)| {
            let domain = name.map(|name| format!("domain = \"{name}\"\n")).unwrap_or_default();
            format!("[[users]]\nname = \"user{number}\"\nsecret = \"{:032x}\"\n{domain}", number + 1)
        };
        names.iter().enumerate().map(user).collect()
    }

    #[test]
    fn a_name_with_more_users_than_time_hides_is_doubtful() {
        let all = |count: usize| users(&vec![None; count]);
        assert_eq!(found(&all(HIDDEN)), [""; 0]);
        let said = found(&all(HIDDEN + 1));
        assert!(said.len() == 1 && said[0].contains(&format!("has {} keys", HIDDEN + 1)), "{said:?}");
        assert!(said[0].contains("`names = "), "{said:?}");
        let head = "domain = \"a.example\"\nnames = [\"b.example\"]\n[cover]\nkind = \"site\"\n";
        let spread = [vec![None; HIDDEN], vec![Some("b.example"); HIDDEN]].concat();
        assert_eq!(found(&format!("{head}{}", users(&spread))), [""; 0]);
        let said = found(&format!("{head}{}", users(&[spread, vec![Some("b.example")]].concat())));
        assert!(said[0].starts_with("b.example has") && said[0].contains("user change"), "{said:?}");
    }

    #[test]
    fn a_certificate_that_lacks_a_name_is_doubtful_and_the_name_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = site::self_signed(&["a.example", "b.example"], folder.path()).unwrap();
        let site = format!("[site]\ncertificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display());
        let said = |names: &str| found(&format!("domain = \"a.example\"\nnames = [{names}]\n{site}"));
        assert_eq!(said("\"b.example\""), [""; 0]);
        let said = said("\"b.example\", \"c.example\"");
        assert!(said.len() == 1 && said[0].contains("is not for c.example:"), "{said:?}");
    }

    #[test]
    fn web_servers_in_front_whose_word_does_not_count_are_doubtful() {
        let said = |more: &str| found(&format!("[site]\nhttp_listen = [\"127.0.0.1:8080\", \"unix:/run/x\"]\n{more}"));
        assert!(said("").len() == 1 && said("")[0].contains("site.trusted_proxies"), "{:?}", said(""));
        assert_eq!(said("trusted_proxies = [\"127.0.0.1\"]\n"), [""; 0]);
    }

    #[test]
    fn lists_that_bar_what_is_inside_are_doubtful_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (wide, home) = (file("wide", "10.0.0.0/8\n127.0.0.0/8\n192.0.2.0/24\n"), file("home", "127.0.0.1\n"));
        let said = found(&format!("[lists]\ndeny = [\"{wide}\"]\n"));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with(&format!("127.0.0.0/8, 10.0.0.0/8 would be rejected (on a deny list: {wide})")),
            "{said:?}"
        );
        let said = found(&format!("[lists]\ndeny = [\"{wide}\"]\nallow = [\"{home}\"]\n"));
        assert!(said[0].starts_with("10.0.0.0/8 would be rejected"), "{said:?}");
        let front = "[proxy_protocol]\nlisten = [\"127.0.0.1:8443\"]\nfrom = [\"192.0.2.7\"]\n";
        let said = found(&format!("{front}[lists]\ndeny = [\"{wide}\"]\n"));
        assert!(said[0].contains("the front 192.0.2.7/32 would be rejected"), "{said:?}");
    }
}
