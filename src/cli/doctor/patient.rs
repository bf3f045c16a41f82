//! What is to be examined: the configuration, with its gaps filled as far as an earlier start of the proxy has filled
//! them. The doctor makes nothing up: files that it made as another user would be in the way of the proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::finding::{Check, Finding};
use super::front;
use super::local::{self, look_at_state};
use super::login::Visitor;
use super::name::Whose;
use super::web_login::{DoorKind, WebDoor};
use crate::auth::{Domain, Policy, SecretTag};
use crate::cli::Failure;
use crate::cli::run::LISTS_FOLDER;
use crate::cli::ways::{Way, Ways};
use crate::cli::web::{self, WebObstacle};
use crate::config::embedded::CoverDraft;
use crate::config::parts;
use crate::config::report::quoted;
use crate::config::{Cover, Draft, User, WebChoice};
use crate::cover::site;
use crate::ops::lists as barring;
use crate::telegram::middle::{self, Directory};
use crate::telegram::{self, lists};

/// Time limit for looking up where a web server in front is.
const LOOKUP: Duration = Duration::from_secs(5);

/// Installation to examine.
pub struct Patient {
    /// TCP addresses on which clients are accepted.
    pub listeners: Vec<SocketAddr>,
    /// The ways to the other listeners.
    pub others: Vec<Way>,
    /// Whether a proxy runs that says where they are.
    pub running: bool,
    /// Whether the running proxy's cover has no handshake for clients that it admits.
    pub cover_fails: bool,
    /// Whom the configuration bars, if its lists can be read.
    pub lists: Option<barring::State>,
    /// Credentials of those who log in, by name; empty where the first start has still to make a user.
    pub visitors: Vec<(String, Visitor)>,
    /// Number of users of whom they are a sample.
    pub may_enter: usize,
    /// The names of the site, the first one first; missing likewise.
    pub names: Vec<Domain>,
    /// The cover; missing likewise.
    pub cover: Option<Cover>,
    /// Data centres.
    pub telegram: telegram::Settings,
    /// Middle proxies, if anybody's sessions go through them.
    pub middle: Option<middle::Settings>,
    /// What the site serves of WEB proxies, if they are on.
    pub web: Option<WebChoice>,
    /// Reason why no app can come by one.
    pub web_obstacle: Option<WebObstacle>,
    /// Tolerance for a client's clock.
    pub time_window: Duration,
    /// The host that links name, where it is configured.
    pub host: Option<String>,
    made_up_domain: bool,
    state_dir: PathBuf,
    missing: Vec<String>,
    tags: Vec<SecretTag>,
}

impl Patient {
    /// The patient of a configuration, and what kept its gaps from being filled. Only `user` logs in, if there is one.
    pub fn of(draft: Draft, user: Option<&str>) -> Result<(Self, Option<Finding>), Failure> {
        let missing = gaps(&draft);
        let (state_dir, settled) = (draft.state_dir.clone(), missing.is_empty() && draft.state_dir.is_dir());
        let (lists, time_window) = (parts::lists(&draft).ok(), draft.time_window);
        let ways = Ways::of(&draft.listen, &draft.proxied, &draft.state_dir);
        let (listeners, others, running, cover_fails) = (ways.tcp(), ways.others(), ways.running, ways.cover_fails);
        let (telegram, host) = (draft.telegram.clone(), draft.link.host.clone());
        let (web, web_obstacle) = (draft.web.clone(), web::expected_obstacle(&draft));
        let needs = |policy: &Policy| policy.needs_middle(draft.ad_tag, draft.middle_use);
        let tagged =
            draft.users.iter().any(|user| needs(&user.policy)) || (draft.users.is_empty() && needs(&Policy::default()));
        let mut middle = tagged.then(|| draft.middle.clone());
        let as_it_is = Gathered::of(&draft);
        let (gathered, trouble) = match settled.then(|| draft.settle(&mut rand::rng())) {
            None => (as_it_is, None),
            Some(Ok(config)) => {
                middle = middle.map(|_| parts::middle(&config));
                let made_up = config.made_up.domain;
                (Gathered { names: config.all_names(), users: config.users, cover: Some(config.cover), made_up }, None)
            }
            Some(Err(error)) => (as_it_is, Some(Finding::broken(Check::State, error.to_string(), error.fix()))),
        };
        let Gathered { users, names, cover, made_up } = gathered;
        let tags = users.iter().map(|user| SecretTag::of(user.secret.bytes())).collect();
        let all = visitors(&users, names.first(), user)?;
        let (may_enter, visitors) = (all.len(), sample(all));
        let made_up_domain = made_up;
        let patient = Self {
            listeners,
            others,
            running,
            cover_fails,
            lists,
            visitors,
            may_enter,
            names,
            cover,
            telegram,
            middle,
            web,
            web_obstacle,
            time_window,
            host,
            made_up_domain,
            state_dir,
            missing,
            tags,
        };
        Ok((patient, trouble))
    }

    /// Findings about the state directory.
    pub fn findings(&self) -> Vec<Finding> {
        local::state(&self.state_dir, &look_at_state(&self.state_dir, self.missing.clone(), &self.tags))
    }

    /// Places where the built-in site is reached by who speaks HTTP: the first of these ways that is open; where web servers
    /// stand in front, the listener for them, and theirs, which the first name leads to.
    pub async fn web_doors(&self, ways: &[Way]) -> Vec<WebDoor> {
        let Some(Cover::Site(site)) = &self.cover else { return Vec::new() };
        let own = front::first_open(ways).await.map(|way| WebDoor { way, kind: DoorKind::Own });
        let plain = Way::all(&site.fronts.listen, &[]).into_iter().map(|way| WebDoor { way, kind: DoorKind::Plain });
        let led = match self.names.first().filter(|_| !site.fronts.listen.is_empty()) {
            Some(name) => {
                let found = timeout(LOOKUP, lookup_host((name.as_str(), 443))).await;
                found.ok().and_then(Result::ok).and_then(|mut found| found.next())
            }
            None => None,
        };
        let led = led.and_then(|address| Way::all(&[address.into()], &[]).pop());
        own.into_iter().chain(plain).chain(led.map(|way| WebDoor { way, kind: DoorKind::Front })).collect()
    }

    /// Addresses of middle proxies that Telegram publishes, as far as a running proxy has fetched them.
    pub fn published(&self) -> Option<Directory> {
        Directory::published(&lists::stored(&self.state_dir.join(LISTS_FOLDER)))
    }

    /// Owner of the domain.
    pub fn whose(&self) -> Whose {
        match &self.cover {
            _ if self.made_up_domain => Whose::MadeUp,
            Some(Cover::Remote(_)) => Whose::Cover,
            Some(Cover::Site(_)) | None => Whose::Own,
        }
    }
}

struct Gathered {
    users: Vec<User>,
    names: Vec<Domain>,
    cover: Option<Cover>,
    made_up: bool,
}

impl Gathered {
    /// Gathers what the configuration has without the state directory.
    fn of(draft: &Draft) -> Self {
        let cover = match draft.cover.clone() {
            CoverDraft::Remote(settings) => Some(Cover::Remote(settings)),
            CoverDraft::Site {
                certificate: Some((certificate, key)),
                acme: None,
                content: Some(content),
                server_header,
                redirect_from,
                trusted_proxies,
                fronts,
            } => {
                let acme = None;
                Some(Cover::Site(site::Settings {
                    certificate,
                    key,
                    acme,
                    content,
                    server_header,
                    redirect_from,
                    trusted_proxies,
                    fronts,
                }))
            }
            CoverDraft::Site { .. } => None,
        };
        let names = draft.domain.iter().chain(&draft.names).cloned().collect();
        Self { users: draft.users.clone(), names, cover, made_up: false }
    }
}

fn visitors(users: &[User], domain: Option<&Domain>, wanted: Option<&str>) -> Result<Vec<(String, Visitor)>, Failure> {
    let Some(domain) = domain else { return Ok(Vec::new()) };
    let now = SystemTime::now().into();
    // That someone who may not enter from here does not is no finding.
    let may_enter =
        |user: &User| user.policy.allow.is_empty() && user.policy.admits(Ipv4Addr::LOCALHOST.into(), now).is_ok();
    let chosen = users.iter().filter(|user| wanted.map_or_else(|| may_enter(user), |wanted| user.name == wanted));
    let name = |user: &User| user.policy.domain.as_ref().unwrap_or(domain).clone();
    let visitor = |user: &User| (user.name.clone(), Visitor { secret: user.secret.clone(), name: name(user) });
    let visitors: Vec<_> = chosen.map(visitor).collect();
    match wanted {
        Some(wanted) if visitors.is_empty() => {
            let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
            let next = format!("name one of these: {}", names.join(", "));
            Err(Failure::usage(format!("there is no user {}", quoted(wanted)), next))
        }
        _ => Ok(visitors),
    }
}

/// Most users that log in; where the site has more names, one for each.
const SAMPLE: usize = 16;

/// Some users in the place of very many: as many of each name of the site, from the first to the last in the file.
fn sample(all: Vec<(String, Visitor)>) -> Vec<(String, Visitor)> {
    if all.len() <= SAMPLE {
        return all;
    }
    let mut by_name: BTreeMap<String, Vec<(String, Visitor)>> = BTreeMap::new();
    for one in all {
        by_name.entry(one.1.name.to_string()).or_default().push(one);
    }
    let each = (SAMPLE / by_name.len()).max(1);
    let chosen = by_name.into_values().flat_map(|of_name| {
        let (last, steps) = (of_name.len() - 1, each.min(of_name.len()).max(2) - 1);
        let places: BTreeSet<usize> = (0..each.min(of_name.len())).map(|step| step * last / steps).collect();
        of_name.into_iter().enumerate().filter(move |(at, _)| places.contains(at)).map(|(_, one)| one)
    });
    chosen.collect()
}

/// Lists what the first start would make in the state directory and has not made yet.
fn gaps(draft: &Draft) -> Vec<String> {
    let folder = &draft.state_dir;
    let has = |file: &str| exists(&folder.join(file));
    let kept_domain = || fs::read_to_string(folder.join("domain")).ok().map(|text| text.trim().to_owned());
    let domain = draft.domain.as_ref().map(ToString::to_string).or_else(kept_domain);
    let (certificate, content) = match &draft.cover {
        CoverDraft::Site { certificate, content, .. } => (certificate.is_none(), content.is_none()),
        CoverDraft::Remote(_) => (false, false),
    };
    let certified = domain.is_some_and(|domain| {
        let names: Vec<&str> = std::iter::once(domain.as_str()).chain(draft.names.iter().map(Domain::as_str)).collect();
        let file = folder.join(format!("self-signed-{domain}.crt"));
        // One that may not be looked at is left to the start, which is refused and says so.
        exists(&file) && site::lacking(&file, &names).is_ok_and(|lacking| lacking.is_empty())
    });
    [
        (draft.users.is_empty() && !has("secret"), "the secret"),
        (draft.domain.is_none() && !has("domain"), "the domain"),
        (certificate && !certified, "the certificate"),
        (content && !has("site"), "the pages"),
    ]
    .into_iter()
    .filter(|(gap, _)| *gap)
    .map(|(_, what)| what.to_owned())
    .collect()
}

/// Whether a file is there. One that may not be looked at counts as there: whatever reads it reports the refusal.
fn exists(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::config::{Environment, Flags, load};

    fn draft(state: &Path) -> Draft {
        let flags = Flags { state_dir: Some(state.into()), ..Flags::default() };
        load(&flags, &Environment::default()).unwrap().draft
    }

    #[test]
    fn nothing_is_made_up_before_the_first_start() {
        let folder = tempfile::tempdir().unwrap();
        for state in [folder.path().join("none"), folder.path().to_owned()] {
            let (patient, trouble) = Patient::of(draft(&state), None).unwrap();
            assert!(patient.visitors.is_empty() && patient.cover.is_none() && trouble.is_none());
            assert_eq!(patient.missing.len(), 4, "{:?}", patient.missing);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_sample_has_users_of_every_name_from_the_first_to_the_last() {
        let user = |number: usize, name: &str| {
            let name: Domain = format!("{name}.example").parse().unwrap();
            (format!("user{number}"), Visitor { secret: crate::auth::Secret::new([7; 16]), name })
        };
        let names = |chosen: &[(String, Visitor)]| chosen.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let few: Vec<_> = (0..SAMPLE).map(|number| user(number, "a")).collect();
        assert_eq!(names(&sample(few.clone())), names(&few));
        let many: Vec<_> = (0..50_000).map(|number| user(number, "a")).collect();
        let chosen = names(&sample(many));
        assert!(chosen.len() == SAMPLE && chosen[0] == "user0" && chosen[SAMPLE - 1] == "user49999", "{chosen:?}");
        let mut mixed: Vec<_> = (0..100).map(|number| user(number, "a")).collect();
        mixed.extend([user(100, "b"), user(101, "c"), user(102, "c")]);
        let chosen = names(&sample(mixed));
        assert_eq!(chosen[5..], ["user100", "user101", "user102"]);
        let wide: Vec<_> = (0..200).map(|number| user(number, &format!("n{}", number % 100))).collect();
        assert_eq!(sample(wide).len(), 100);
    }

    #[test]
    fn after_it_everything_is_there() {
        let folder = tempfile::tempdir().unwrap();
        draft(folder.path()).settle(&mut StdRng::seed_from_u64(1)).unwrap();
        let (patient, trouble) = Patient::of(draft(folder.path()), None).unwrap();
        assert_eq!(patient.missing, Vec::<String>::new());
        assert!(trouble.is_none() && patient.visitors.len() == 1 && patient.cover.is_some());
        assert_eq!(patient.whose(), Whose::MadeUp);
        assert!(Patient::of(draft(folder.path()), Some("carol")).is_err());
        fs::write(folder.path().join("secret"), "spoilt").unwrap();
        assert!(Patient::of(draft(folder.path()), None).unwrap().1.is_some());
    }
}
