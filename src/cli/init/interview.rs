//! From what was given, what the machine tells and what is answered to a first configuration.
//!
//! Whatever is given is not asked, and every question has a proposal. Nothing is written here.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rand::CryptoRng;

use super::ask::Ask;
use super::machine::{Machine, Port};
use crate::auth::{Domain, Secret};
use crate::cli::Failure;
use crate::cli::doctor::name::Leads;
use crate::config::import::Imported;
use crate::config::starter::{Certificate, Content, Cover, Person, Starter};
use crate::config::units;
use crate::cover::site::acme::{Authority, Challenge};
use crate::ops::links::is_public;

/// Answers that need not be asked for, as flags give them.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--domain`
    pub domain: Option<Domain>,
    /// `--name`
    pub names: Vec<Domain>,
    /// `--cover site`
    pub site: bool,
    /// `--cover HOST:PORT`
    pub remote: Option<String>,
    /// `--certificate` and `--key`
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `--self-signed`
    pub self_signed: bool,
    /// `--acme` and what belongs to it
    pub acme: Option<Acme>,
    /// `--folder` or `--upstream`
    pub content: Option<Content>,
    /// `--listen`
    pub listen: Vec<String>,
    /// `--link-host`
    pub link_host: Option<String>,
    /// `--user`
    pub users: Vec<String>,
    /// Settings that `--import` has brought.
    pub imported: Imported,
}

/// An authority that is to issue the certificate.
#[derive(Clone, Debug)]
pub struct Acme {
    /// Which, but for the challenge.
    pub authority: Authority,
    /// Challenge that proves control of the domain; without it, any that is possible.
    pub challenge: Option<Challenge>,
}

/// The three ways to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Own,
    Elsewhere,
    Trial,
}

/// Choices of a cover, in the order of [`Way`], with the reason why own sites come first.
const WAYS: [&str; 3] = [
    "my own domain, which leads to this machine (recommended: name and address agree, and the first answer is that of \
     any visit)",
    "another site, or mine on another machine (anyone can look up that its name leads elsewhere)",
    "only try it out: a made-up name and a self-signed certificate",
];

/// Whatever there is besides a certificate that was found.
const CERTIFICATES: [&str; 3] = [
    "one that Let's Encrypt issues and renews (this agrees to its terms: https://letsencrypt.org/repository/)",
    "files that I name",
    "a self-signed one, to try it out: browsers warn of it",
];

/// Which of the ports that authorities connect to can be had.
#[derive(Clone, Copy)]
struct Ports {
    https: bool,
    http: bool,
}

const USUAL_NAME: &str = "first";
const USUAL_PORT: u16 = 443;
const OTHER_PORT: &str = "8443";

/// Asks, and returns what shall be written.
pub fn interview(
    given: Given,
    machine: &dyn Machine,
    ask: &mut dyn Ask,
    random: &mut impl CryptoRng,
) -> Result<Starter, Failure> {
    let content = given.content.clone().or_else(|| given.imported.content.clone());
    let given = Given { content, ..given };
    let mut talk = Talk { machine, ask };
    let stated = given.domain.clone().or_else(|| given.imported.domain.clone());
    let way = talk.way(&given, stated.as_ref())?;
    let domain = match (stated, way) {
        (_, Way::Trial) => None,
        (Some(domain), _) => Some(domain),
        (None, way) => Some(talk.domain(way)?),
    };
    let leads = domain.as_ref().filter(|_| way == Way::Own).map(|domain| talk.leads(domain));
    let listen = talk.listen(&given)?;
    let cover = match way {
        Way::Elsewhere => Cover::Remote {
            address: given.remote.clone().or_else(|| given.imported.cover.clone()),
            accept_grade_c: false,
        },
        Way::Own | Way::Trial => talk.site(&given, domain.as_ref(), &listen)?,
    };
    let link_host = match given.link_host.clone().or_else(|| given.imported.link_host.clone()) {
        Some(host) => Some(host),
        None => talk.link_host(domain.as_ref(), &cover, leads.as_ref())?,
    };
    // A name of a link that is none of the site is a foreign one here.
    let mut people = given.imported.people;
    for person in &mut people {
        let name = person.limits.domain.take();
        let ours = |name: &String| domain.is_some() && given.names.iter().any(|ours| ours.as_str() == name);
        person.limits.domain = name.filter(ours);
    }
    Ok(Starter {
        state_dir: given.state_dir,
        names: domain.as_ref().map(|_| given.names).unwrap_or_default(),
        domain,
        listen,
        users: talk.users(given.users, people, random)?,
        link_host,
        link_port: given.imported.link_port,
        ad_tag: given.imported.tag,
        web: given.imported.web.filter(|_| matches!(cover, Cover::Site { .. })),
        cover,
    })
}

struct Talk<'t> {
    machine: &'t dyn Machine,
    ask: &'t mut dyn Ask,
}

impl Talk<'_> {
    fn way(&mut self, given: &Given, domain: Option<&Domain>) -> Result<Way, Failure> {
        let certified = given.certificate.is_some() || given.acme.is_some();
        let of_a_site = certified || given.self_signed || given.content.is_some() || given.site;
        if given.remote.is_some() {
            return Ok(Way::Elsewhere);
        }
        if of_a_site {
            return match (domain, self.ask.is_person(), certified) {
                (None, false, true) => {
                    Err(Failure::usage("a certificate belongs to a domain", "name it: --domain NAME"))
                }
                (None, false, false) => Ok(Way::Trial),
                _ => Ok(Way::Own),
            };
        }
        let usual = match domain {
            Some(domain) if self.machine.certificate(domain).is_some() => Way::Own,
            Some(domain) if self.machine.leads(domain).here() => Way::Own,
            Some(_) => Way::Elsewhere,
            None if self.ask.is_person() => Way::Own,
            None => Way::Trial,
        };
        let items = if domain.is_some() { &WAYS[..2] } else { &WAYS };
        let chosen = self.ask.choose("What should visitors see?", items, usual as usize).map_err(unanswered)?;
        Ok([Way::Own, Way::Elsewhere, Way::Trial][chosen])
    }

    fn domain(&mut self, way: Way) -> Result<Domain, Failure> {
        let (question, usual) = match way {
            Way::Elsewhere => ("Name of the site", None),
            Way::Own | Way::Trial => {
                let name = self.machine.host_name().filter(|name| self.machine.leads(name).here());
                ("Domain that leads to this machine", name)
            }
        };
        let usual = usual.map(|name| name.to_string()).unwrap_or_default();
        let fits = |text: &str| match text.parse::<Domain>() {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error}: {}", error.fix())),
        };
        let name = self.ask.text(question, &usual, &fits).map_err(unanswered)?;
        name.parse().map_err(|_| Failure::usage("there is no domain", "name it: --domain NAME"))
    }

    /// Says at once where the domain leads: a record in the name system may take hours to change.
    fn leads(&mut self, domain: &Domain) -> Leads {
        let leads = self.machine.leads(domain);
        let own = self.machine.own().map_or("the address of this machine".into(), |own| own.to_string());
        let told = match &leads {
            _ if leads.here() => format!("{domain} leads to this machine."),
            Leads::Nowhere(_) => format!("{domain} has no address yet: give it an A or AAAA record with {own}."),
            Leads::To(_) => format!(
                "{domain} leads to {}. This machine has {own}: if it is not reached under that other address, correct the \
                 records.",
                addresses(&leads).map(|address| address.to_string()).collect::<Vec<_>>().join(", ")
            ),
        };
        self.ask.tell(&told);
        leads
    }

    fn site(&mut self, given: &Given, domain: Option<&Domain>, listen: &[String]) -> Result<Cover, Failure> {
        let ports = Ports {
            https: listen.iter().any(|address| address.ends_with(":443")),
            http: domain.is_some() && self.machine.port(80) == Port::Free,
        };
        let certificate = match (&given.certificate, &given.acme, domain) {
            (Some((certificate, key)), _, _) => files(certificate, key),
            (_, Some(acme), Some(domain)) => self.issued(acme, domain, ports),
            (_, _, Some(domain)) if !given.self_signed => self.certificate(domain, ports)?,
            _ => Certificate::SelfSigned,
        };
        let content = match (&given.content, domain) {
            (Some(content), _) => content.clone(),
            (None, Some(_)) => self.content()?,
            (None, None) => Content::Sample,
        };
        let asked_over_http =
            matches!(&certificate, Certificate::Issued(authority) if authority.challenge == Challenge::Http01);
        Ok(Cover::Site { certificate, content, redirect: asked_over_http || (ports.https && ports.http) })
    }

    fn certificate(&mut self, domain: &Domain, ports: Ports) -> Result<Certificate, Failure> {
        let found = self.machine.certificate(domain);
        let mine = found.as_ref().map(|(certificate, _)| format!("{} and its key", certificate.display()));
        let mut items: Vec<&str> = mine.iter().map(String::as_str).collect();
        items.extend(CERTIFICATES);
        // No one has agreed to terms where no one is asked.
        let usual = if mine.is_some() || self.ask.is_person() { 0 } else { items.len() - 1 };
        let chosen = self.ask.choose("Which certificate?", &items, usual).map_err(unanswered)?;
        match (found, items.len() - chosen) {
            (Some((certificate, key)), 4) => Ok(files(&certificate, &key)),
            (_, 3) => {
                let acme = Acme { authority: Authority::lets_encrypt(false), challenge: None };
                Ok(self.issued(&acme, domain, ports))
            }
            (_, 2) => {
                let chain = self.file("File with the certificate chain (PEM)")?;
                let key = self.file("File with its key (PEM)")?;
                Ok(files(&chain, &key))
            }
            _ => {
                self.ask.tell("Browsers will warn of the self-signed certificate; --acme has one issued.");
                Ok(Certificate::SelfSigned)
            }
        }
    }

    /// Says what the authority needs: it is the first to notice that no one comes through a firewall.
    fn issued(&mut self, acme: &Acme, domain: &Domain, ports: Ports) -> Certificate {
        let challenge = acme.challenge.unwrap_or(match ports {
            Ports { https: false, http: true } => Challenge::Http01,
            Ports { .. } => Challenge::TlsAlpn01,
        });
        let (port, asked) = (challenge.port(), acme.authority.directory.host().unwrap_or("the authority"));
        let mut told = format!(
            "{asked} will connect to port {port} of {domain} from several places, and so will clients: let that in, also \
             where the hoster has a firewall."
        );
        if challenge == Challenge::TlsAlpn01 && !ports.https {
            told += " The program on port 443 must forward this name: docs/front.md.";
        }
        self.ask.tell(&told);
        Certificate::Issued(Box::new(Authority { challenge, ..acme.authority.clone() }))
    }

    fn file(&mut self, question: &str) -> Result<PathBuf, Failure> {
        let fits = |text: &str| std::fs::File::open(text).map(drop).map_err(|error| error.to_string());
        self.ask.text(question, "", &fits).map(PathBuf::from).map_err(unanswered)
    }

    fn content(&mut self) -> Result<Content, Failure> {
        let items =
            ["the pages that come with vizard, to be replaced soon", "files below a folder", "a web server behind it"];
        match self.ask.choose("What does the site show?", &items, 0).map_err(unanswered)? {
            1 => {
                let fits = |text: &str| match Path::new(text).is_dir() {
                    true => Ok(()),
                    false => Err("there is no such folder".to_owned()),
                };
                Ok(Content::Folder(self.ask.text("Folder", "", &fits).map_err(unanswered)?.into()))
            }
            2 => {
                let fits = |text: &str| match text.starts_with("http://") {
                    true => Ok(()),
                    false => Err("write it like http://127.0.0.1:8080".to_owned()),
                };
                let usual = "http://127.0.0.1:8080";
                Ok(Content::Upstream(self.ask.text("Its address", usual, &fits).map_err(unanswered)?))
            }
            _ => Ok(Content::Sample),
        }
    }

    fn listen(&mut self, given: &Given) -> Result<Vec<String>, Failure> {
        for stated in [&given.listen, &given.imported.listen] {
            if !stated.is_empty() {
                return Ok(stated.clone());
            }
        }
        let told = match self.machine.port(USUAL_PORT) {
            Port::Free => return Ok(vec![format!("[::]:{USUAL_PORT}")]),
            Port::Taken => {
                "Another program uses port 443. docs/front.md tells how to share it; or stop that program, and enter \
                 443 here."
            }
            Port::Forbidden => {
                "This user may not bind port 443, the port of web sites. As root, or as a systemd service, enter 443 \
                 here."
            }
        };
        self.ask.tell(told);
        let fits = |text: &str| units::port(text).map(drop).map_err(|error| error.to_string());
        let port = self.ask.text("Port", OTHER_PORT, &fits).map_err(unanswered)?;
        Ok(vec![format!("[::]:{port}")])
    }

    /// Host for the links, where it cannot be left to the start: a public address is not known from behind a NAT.
    fn link_host(
        &mut self,
        domain: Option<&Domain>,
        cover: &Cover,
        leads: Option<&Leads>,
    ) -> Result<Option<String>, Failure> {
        let made_here =
            matches!(cover, Cover::Remote { .. } | Cover::Site { certificate: Certificate::SelfSigned, .. });
        if !made_here && domain.is_some() {
            return Ok(None);
        }
        if let (Some(domain), true) = (domain, leads.is_some_and(Leads::here)) {
            return Ok(Some(domain.to_string()));
        }
        if self.machine.own().is_some_and(|own| own.public) {
            return Ok(None);
        }
        let by_name = leads.and_then(|leads| addresses(leads).find(|address| is_public(*address)));
        let usual = by_name.map(|address| address.to_string()).unwrap_or_default();
        if usual.is_empty() && !self.ask.is_person() {
            self.ask.tell("This machine does not know its public address: name it with --link-host HOST.");
            return Ok(None);
        }
        let usual =
            if usual.is_empty() { self.machine.own().map(|own| own.to_string()).unwrap_or_default() } else { usual };
        let fits = |text: &str| units::host(text).map(drop).map_err(|error| error.to_string());
        let question = "Public address of this machine, for the links (it has only a private one)";
        Ok(Some(self.ask.text(question, &usual, &fits).map_err(unanswered)?))
    }

    fn users(
        &mut self,
        names: Vec<String>,
        imported: Vec<Person>,
        random: &mut impl CryptoRng,
    ) -> Result<Vec<Person>, Failure> {
        let mut users = imported;
        let mut names = names;
        if users.is_empty() && names.is_empty() {
            let fits = |text: &str| match is_name(text) {
                true => Ok(()),
                false => Err("1 to 64 letters, digits, `-`, `_`, `.` and `@`".to_owned()),
            };
            names.push(self.ask.text("Name of the first user", USUAL_NAME, &fits).map_err(unanswered)?);
        }
        users.extend(names.into_iter().map(|name| Person::new(name, Secret::generate(random))));
        Ok(users)
    }
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
}

fn addresses(leads: &Leads) -> impl Iterator<Item = IpAddr> {
    let found = match leads {
        Leads::To(addresses) => addresses.as_slice(),
        Leads::Nowhere(_) => &[],
    };
    found.iter().map(|(address, _)| *address)
}

fn files(certificate: &Path, key: &Path) -> Certificate {
    Certificate::Files { certificate: certificate.into(), key: key.into() }
}

fn unanswered(error: io::Error) -> Failure {
    Failure::new(format!("there was no answer: {error}"), "answer at a terminal, or give flags: `vizard init --help`")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::ask::{Check, Nobody};
    use super::*;
    use crate::ops::links::OwnAddress;

    /// A machine as it is told to be.
    struct Paper {
        own: Option<&'static str>,
        https: Port,
        http: Port,
        leads: Leads,
        certified: bool,
    }

    const PUBLIC: &str = "203.0.114.9";

    fn paper() -> Paper {
        Paper { own: Some(PUBLIC), https: Port::Free, http: Port::Free, leads: here(), certified: false }
    }

    fn here() -> Leads {
        Leads::To(vec![(PUBLIC.parse().unwrap(), true)])
    }

    fn elsewhere() -> Leads {
        Leads::To(vec![("203.0.115.1".parse().unwrap(), false)])
    }

    impl Machine for Paper {
        fn own(&self) -> Option<OwnAddress> {
            self.own.map(|own| OwnAddress::new(own.parse().unwrap()))
        }

        fn port(&self, number: u16) -> Port {
            if number == 443 { self.https } else { self.http }
        }

        fn host_name(&self) -> Option<Domain> {
            Some("host.example.com".parse().unwrap())
        }

        fn leads(&self, _: &Domain) -> Leads {
            self.leads.clone()
        }

        fn certificate(&self, domain: &Domain) -> Option<(PathBuf, PathBuf)> {
            let folder = PathBuf::from("/certificates").join(domain.as_str());
            self.certified.then(|| (folder.join("chain"), folder.join("key")))
        }
    }

    /// Someone who has prepared the answers; `usual` takes the proposal.
    struct Script {
        answers: Vec<&'static str>,
        heard: String,
    }

    impl Script {
        fn next(&mut self, question: &str, usual: String) -> String {
            assert!(!self.answers.is_empty(), "no one expected {question:?}");
            self.heard += &format!("{question} [{usual}]\n");
            match self.answers.remove(0) {
                "usual" => usual,
                answer => answer.to_owned(),
            }
        }
    }

    impl Ask for Script {
        fn is_person(&self) -> bool {
            true
        }

        fn tell(&mut self, text: &str) {
            self.heard += &format!("{text}\n");
        }

        fn choose(&mut self, question: &str, items: &[&str], usual: usize) -> io::Result<usize> {
            let chosen = self.next(question, items[usual].to_owned());
            Ok(items.iter().position(|item| item.starts_with(&chosen)).expect("one of the items"))
        }

        fn text(&mut self, question: &str, usual: &str, check: Check<'_>) -> io::Result<String> {
            let answer = self.next(question, usual.to_owned());
            check(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"));
            Ok(answer)
        }

        fn yes(&mut self, question: &str, usual: bool) -> io::Result<bool> {
            Ok(self.next(question, usual.to_string()) == "true")
        }
    }

    fn talk(given: Given, machine: &Paper, answers: &[&'static str]) -> (Starter, String) {
        let mut script = Script { answers: answers.to_vec(), heard: String::new() };
        let starter = interview(given, machine, &mut script, &mut StdRng::seed_from_u64(1)).unwrap();
        assert_eq!(script.answers, Vec::<&str>::new(), "{}", script.heard);
        (starter, script.heard)
    }

    fn alone(given: Given, machine: &Paper) -> Result<Starter, Failure> {
        interview(given, machine, &mut Nobody, &mut StdRng::seed_from_u64(1))
    }

    fn domain(given: &str) -> Given {
        Given { domain: Some(given.parse().unwrap()), ..Given::default() }
    }

    #[test]
    fn all_that_is_proposed_is_ones_own_domain() {
        let machine = Paper { certified: true, ..paper() };
        let (starter, heard) = talk(Given::default(), &machine, &["usual", "usual", "usual", "usual", "usual"]);
        assert_eq!(starter.domain.unwrap().as_str(), "host.example.com");
        assert_eq!((starter.listen.as_slice(), starter.link_host), (&["[::]:443".to_owned()][..], None));
        let certificate =
            files(Path::new("/certificates/host.example.com/chain"), Path::new("/certificates/host.example.com/key"));
        assert_eq!(starter.cover, Cover::Site { certificate, content: Content::Sample, redirect: true });
        assert_eq!(starter.users[0].name, "first");
        assert!(
            heard.contains("recommended: name and address agree") && heard.contains("leads to this machine."),
            "{heard}"
        );
    }

    fn certificate(starter: &Starter) -> (&Certificate, bool) {
        let Cover::Site { certificate, redirect, .. } = &starter.cover else { panic!("{:?}", starter.cover) };
        (certificate, *redirect)
    }

    fn lets_encrypt(challenge: Challenge) -> Certificate {
        Certificate::Issued(Box::new(Authority { challenge, ..Authority::lets_encrypt(false) }))
    }

    #[test]
    fn without_files_a_certificate_is_to_be_issued_in_the_way_that_is_possible() {
        let answers = ["usual", "usual", "usual", "usual", "usual"];
        let (starter, heard) = talk(Given::default(), &paper(), &answers);
        assert_eq!(certificate(&starter), (&lets_encrypt(Challenge::TlsAlpn01), true));
        assert_eq!(starter.link_host, None, "the domain");
        assert!(
            heard.contains("letsencrypt.org/repository") && heard.contains("to port 443 of host.example"),
            "{heard}"
        );

        let machine = Paper { https: Port::Taken, ..paper() };
        let (starter, heard) = talk(Given::default(), &machine, &[&answers[..], &["usual"]].concat());
        assert_eq!(certificate(&starter), (&lets_encrypt(Challenge::Http01), true));
        assert!(heard.contains("to port 80 of host.example.com"), "{heard}");

        let machine = Paper { http: Port::Taken, ..machine };
        let (starter, heard) = talk(Given::default(), &machine, &[&answers[..], &["usual"]].concat());
        assert_eq!(certificate(&starter), (&lets_encrypt(Challenge::TlsAlpn01), false));
        assert!(heard.contains("must forward this name: docs/front.md"), "{heard}");
    }

    #[test]
    fn nobody_agrees_to_terms_but_by_a_flag() {
        let starter = alone(domain("www.example.com"), &paper()).unwrap();
        assert_eq!(certificate(&starter), (&Certificate::SelfSigned, true));
        let authority = Authority { email: Some("you@example.com".into()), ..Authority::lets_encrypt(true) };
        for (stated, challenge) in [(None, Challenge::TlsAlpn01), (Some(Challenge::Http01), Challenge::Http01)] {
            let acme = Some(Acme { authority: authority.clone(), challenge: stated });
            let starter = alone(Given { acme, ..domain("www.example.com") }, &paper()).unwrap();
            let wanted = Certificate::Issued(Box::new(Authority { challenge, ..authority.clone() }));
            assert_eq!(certificate(&starter), (&wanted, true));
        }
        let acme = Some(Acme { authority, challenge: None });
        let failure = alone(Given { acme, ..Given::default() }, &paper()).unwrap_err();
        assert!(failure.to_string().contains("--domain"), "{failure}");
    }

    #[test]
    fn nobody_is_asked_and_gets_a_trial() {
        let starter = alone(Given::default(), &paper()).unwrap();
        assert_eq!((starter.domain, starter.cover), (None, Cover::default()));
        assert_eq!(starter.link_host, None);
    }

    #[test]
    fn a_domain_alone_is_ones_own_if_it_leads_here_and_a_cover_elsewhere_otherwise() {
        let starter = alone(domain("www.example.com"), &paper()).unwrap();
        assert!(matches!(starter.cover, Cover::Site { certificate: Certificate::SelfSigned, .. }));
        assert_eq!(starter.link_host.as_deref(), Some("www.example.com"), "it leads here");
        let starter = alone(domain("www.example.com"), &Paper { leads: elsewhere(), ..paper() }).unwrap();
        assert_eq!(starter.cover, Cover::Remote { address: None, accept_grade_c: false });
    }

    #[test]
    fn a_port_that_is_taken_is_asked_for() {
        for (https, part) in [(Port::Taken, "front.md"), (Port::Forbidden, "root")] {
            let (starter, heard) = talk(Given::default(), &Paper { https, ..paper() }, &["only try", "usual", "carol"]);
            assert_eq!((starter.listen, starter.users[0].name.as_str()), (vec!["[::]:8443".to_owned()], "carol"));
            assert!(heard.contains(part), "{heard}");
        }
    }

    #[test]
    fn a_private_address_is_no_address_for_links() {
        let machine = Paper { own: Some("10.0.0.1"), leads: elsewhere(), ..paper() };
        let starter = alone(Given { self_signed: true, ..domain("www.example.com") }, &machine).unwrap();
        assert_eq!(starter.link_host.as_deref(), Some("203.0.115.1"), "where the domain leads");
        assert_eq!(alone(Given::default(), &machine).unwrap().link_host, None);
        let given = Given { link_host: Some("proxy.example.com".into()), ..Given::default() };
        assert_eq!(alone(given, &machine).unwrap().link_host.as_deref(), Some("proxy.example.com"));
        let (starter, _) = talk(domain("www.example.com"), &machine, &["usual", "192.0.2.8", "usual"]);
        assert_eq!(starter.link_host.as_deref(), Some("192.0.2.8"));
    }

    #[test]
    fn what_was_imported_is_not_asked() {
        let text = std::fs::read_to_string("fixtures/import/telemt.toml").unwrap();
        let (_, imported) = crate::config::import::import(&text, None).unwrap();
        let machine = Paper { leads: elsewhere(), ..paper() };
        let starter = alone(Given { imported, ..Given::default() }, &machine).unwrap();
        assert_eq!(starter.cover, Cover::Remote { address: Some("192.0.2.1:443".into()), accept_grade_c: false });
        assert_eq!((starter.users.len(), starter.listen), (2, vec!["[::]:8443".to_owned()]));
        assert_eq!((starter.link_host.as_deref(), starter.link_port), (Some("proxy.example.com"), Some(443)));
    }

    #[test]
    fn a_link_that_is_imported_keeps_a_further_name_of_the_site() {
        let link = |key: &str, name: &str| {
            let name: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
            format!("ee{}{name}", key.repeat(16))
        };
        let mut imported = Imported::default();
        let all = [link("01", "www.example.com"), link("02", "two.example.com"), link("03", "old.example.com")];
        imported.add_secrets(&all.join("\n"));
        let names = vec!["two.example.com".parse().unwrap()];
        let given = Given { imported, names, self_signed: true, ..domain("www.example.com") };
        let starter = alone(given, &paper()).unwrap();
        let domains: Vec<_> = starter.users.iter().map(|user| user.limits.domain.as_deref()).collect();
        assert_eq!(domains, [None, Some("two.example.com"), None]);
    }

    #[test]
    fn a_certificate_without_a_domain_is_refused() {
        let given = Given { certificate: Some(("chain".into(), "key".into())), ..Given::default() };
        assert!(alone(given, &paper()).unwrap_err().to_string().contains("--domain"));
    }
}
