//! The first proof: form, digest, replay, time, name, the member's own limits, in this order.
//!
//! The digest comes before anything is remembered, so that a stranger cannot fill the memory; and whatever comes behind it,
//! the hello is spent ([`super::replay`] says why), before anything is answered.
//!
//! Nothing in here changes anything: what the memory is to be asked is a value ([`Inquiry::question`]) that the gate has
//! carried out, and its answer is handed to [`Inquiry::verdict`]. Even the member's place is taken later, when the second
//! proof has come ([`Admission::take_place`]): a hello alone, recorded or not, keeps no one out.
//!
//! A hello that is declined for any reason but its form costs as much time as one that is admitted: what only the latter
//! needs is done for the former too, in vain. Otherwise the time of the first answer would tell who was let in.

use std::fmt;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::digest::{self, Claim};
use super::keyring::{Key, Keyring, Search};
use super::member::{Member, Permit, Refusal};
use super::replay::{Entry, Question, ReplayCache, SecretTag};
use super::search::{SearchPool, Searched};
use super::secret::Domain;
use super::window::{TimeWindow, UnixTime};
use crate::wire::fingerprint::Fingerprint;
use crate::wire::server_flight::Flight;
use crate::wire::{ClientHello, HelloClass, HelloCollector};

/// Decides on hellos.
#[derive(Debug)]
pub struct Judge {
    rules: ArcSwap<Rules>,
    /// Threads for long searches, once there was one; `None` if they could not be had.
    pool: OnceLock<Option<SearchPool>>,
    /// Replay cache.
    pub replay: Arc<dyn ReplayCache>,
}

/// Rules of the judge. Can be replaced while it is at work.
#[derive(Debug)]
pub struct Rules {
    /// Keys of all who may enter.
    pub keyring: Keyring,
    /// Tolerance for clients' clocks.
    pub window: TimeWindow,
    /// Names that a hello may carry; `None`: any. A hello without a name may always enter, but for what the keyring turns away.
    pub names: Option<Vec<Domain>>,
}

/// Decision on a hello.
#[derive(Debug)]
pub enum Verdict {
    /// A visitor, and it stays one.
    Decline(Declined),
    /// The first proof holds.
    Admit(Admission),
}

/// A visitor that stays one.
#[derive(Clone, Debug)]
pub struct Declined {
    /// Reason for declining it.
    pub reason: Reason,
    /// Member whose key was shown, if any.
    pub member: Option<Arc<Member>>,
}

impl Declined {
    fn of(reason: Reason, member: &Arc<Member>) -> Self {
        Self { reason, member: Some(Arc::clone(member)) }
    }
}

/// No one's.
impl From<Reason> for Declined {
    fn from(reason: Reason) -> Self {
        Self { reason, member: None }
    }
}

/// Reason why a connection is a mere visitor. A closed set: it is also the name in logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No Telegram client begins like this; says which part.
    Form(&'static str),
    /// Something happened before the hello was whole; says what.
    Unfinished(&'static str),
    /// No known secret made this hello.
    Digest,
    /// The clock of a client that knows a secret is too far off: by this many seconds, positive when it is ahead.
    Time(i64),
    /// The hello carries a name that is not among the accepted ones.
    Name,
    /// So many hellos came that it was not searched whose this is.
    Unsearched,
    /// The client's address is barred: it is on a list, or above a limit; says which.
    Barred(&'static str),
    /// The member may not enter now.
    Refused(Refusal),
    /// This hello, or the header behind it, was shown before.
    Replay,
    /// The client spoke again before the cover had answered its hello.
    Early,
    /// The cover's answer is not one that a Telegram client takes; says which part.
    Cover(&'static str),
    /// No header under the same secret followed the flight; says which part is wrong.
    Header(&'static str),
}

impl Reason {
    /// A short name without details.
    pub fn label(self) -> &'static str {
        match self {
            Self::Form(_) => "form",
            Self::Unfinished(_) => "unfinished",
            Self::Digest => "digest",
            Self::Time(_) => "time",
            Self::Name => "name",
            Self::Unsearched => "unsearched",
            Self::Barred(_) => "barred",
            Self::Refused(_) => "refused",
            Self::Replay => "replay",
            Self::Early => "early",
            Self::Cover(_) => "cover",
            Self::Header(_) => "header",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(part) => write!(f, "form: {part}"),
            Self::Unfinished(what) => write!(f, "unfinished: {what}"),
            Self::Time(skew) => write!(f, "time: the client's clock is off by {skew} s"),
            Self::Barred(by) => write!(f, "barred: {by}"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Cover(part) => write!(f, "cover: {part}"),
            Self::Header(part) => write!(f, "header: {part}"),
            other => f.write_str(other.label()),
        }
    }
}

/// Proof that a hello was judged and may be answered. Only the judge makes one.
#[derive(Debug)]
pub struct Admission {
    key: Arc<Key>,
    from: IpAddr,
    client_random: [u8; 32],
    class: HelloClass,
    fingerprint: Fingerprint,
    http2: bool,
    apple: bool,
}

impl Admission {
    /// Which key it was.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Member whose key it was.
    pub fn member(&self) -> &Arc<Member> {
        self.key.member()
    }

    /// The member's place inside, now that the second proof has come. Whether there is one was asked with the hello too, but
    /// a hello takes none.
    pub fn take_place(&self, now: UnixTime) -> Result<Permit, Refusal> {
        self.key.admit(self.from, now)
    }

    /// Class of the hello.
    pub fn class(&self) -> HelloClass {
        self.class
    }

    /// Whether the hello offers HTTP/2.
    pub fn offers_http2(&self) -> bool {
        self.http2
    }

    /// Whether the hello has the shape of those of Telegram's apps for Apple's systems.
    pub fn has_apples_shape(&self) -> bool {
        self.apple
    }

    /// Which client's hello it was.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// A visitor after all, for what came behind the hello.
    pub fn declined(&self, reason: Reason) -> Declined {
        Declined::of(reason, self.member())
    }

    /// Makes the flight one that this client accepts: its random becomes the authenticator.
    pub fn stamp(&self, flight: &mut Flight) {
        digest::stamp(self.key.mac(), &self.client_random, flight);
    }
}

/// A hello that is being judged, by the rules that held when it came. With many keys that takes long, so it can be done
/// elsewhere ([`Judge::search`]), and others can be served meanwhile; how long it takes says nothing of what comes of it.
#[derive(Debug)]
pub struct Inquiry {
    search: Search,
    over: bool,
    rules: Arc<Rules>,
    class: HelloClass,
    fingerprint: Fingerprint,
    http2: bool,
    apple: bool,
    /// Whether the name in the hello is accepted.
    named: bool,
    from: IpAddr,
    /// Reason for a verdict that is known already, if it is.
    barred: Option<Reason>,
    now: UnixTime,
}

impl Inquiry {
    /// The same for a client that is declined for this reason whatever its hello is, if there is one.
    pub fn barred(self, reason: Option<Reason>) -> Self {
        Self { barred: reason.or(self.barred), ..self }
    }

    pub(super) fn from(&self) -> IpAddr {
        self.from
    }

    /// Whether the client's address is barred, so that others come first.
    pub(super) fn is_barred(&self) -> bool {
        matches!(self.barred, Some(Reason::Barred(_)))
    }

    /// Does the next piece; says whether that was the last one, so that the rest will take no time.
    pub fn go_on(&mut self) -> bool {
        self.over = self.over || self.rules.keyring.go_on(&mut self.search);
        self.over
    }

    /// The key that made the hello, once all is done.
    pub fn key(&self) -> Option<&Arc<Key>> {
        self.rules.keyring.found(&self.search).map(|(key, _)| key)
    }

    /// Class of the hello.
    pub fn class(&self) -> HelloClass {
        self.class
    }

    /// Finishes the search and returns the query to the replay cache that comes before the verdict. A hello whose
    /// digest holds is spent, whatever the verdict will be.
    pub fn question(&mut self) -> Question {
        while !self.go_on() {}
        let entry = |tag| Entry::of_hello(tag, self.search.claim.authenticator());
        self.key().map_or_else(|| Question::InVain(entry(SecretTag::NONE)), |key| Question::Spend(entry(key.tag())))
    }

    /// The verdict; `new` is the memory's answer.
    pub fn verdict(self, new: bool) -> Verdict {
        match self.examine(new) {
            Err(declined) => Verdict::Decline(declined),
            Ok(key) => {
                let client_random = *self.search.claim.random();
                let (class, fingerprint, http2, apple) = (self.class, self.fingerprint, self.http2, self.apple);
                Verdict::Admit(Admission { key, from: self.from, client_random, class, fingerprint, http2, apple })
            }
        }
    }

    fn examine(&self, new: bool) -> Result<Arc<Key>, Declined> {
        let found = self.rules.keyring.found(&self.search);
        let member = found.map(|(key, _)| Arc::clone(key.member()));
        let declined = |reason| Declined { reason, member: member.clone() };
        if let Some(reason) = self.barred {
            return Err(declined(reason));
        }
        let (key, claimed) = found.ok_or(Reason::Digest)?;
        if !new {
            return Err(declined(Reason::Replay));
        }
        self.rules.window.check(claimed, self.now).map_err(|skew| declined(Reason::Time(skew)))?;
        if !self.named {
            return Err(declined(Reason::Name));
        }
        key.would_admit(self.from, self.now).map_err(|refusal| declined(Reason::Refused(refusal)))?;
        Ok(Arc::clone(key))
    }
}

impl Judge {
    /// A judge with these rules and this memory.
    pub fn new(rules: Rules, replay: impl ReplayCache + 'static) -> Self {
        Self { rules: ArcSwap::from_pointee(rules), pool: OnceLock::new(), replay: Arc::new(replay) }
    }

    /// From now on these rules hold. What was spent under keys that are new here must have been learnt before
    /// ([`ReplayCache::learn`]).
    pub fn replace_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Keys whose time is over are searched no more.
    pub fn forget_ended(&self, now: UnixTime) {
        // Other rules may come meanwhile; then those are looked at.
        loop {
            let rules = self.rules.load();
            let Some(keyring) = rules.keyring.without_ended(now) else { return };
            let rest = Rules { keyring, window: rules.window, names: rules.names.clone() };
            self.rules.compare_and_swap(&rules, Arc::new(rest));
        }
    }

    /// The rules that hold now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Judges a whole hello from this address at once, with a memory that answers at once; without an answer the hello counts
    /// as seen. For tests and benches.
    pub fn judge(&self, record: &[u8], from: IpAddr, now: UnixTime) -> Verdict {
        match self.inquire(record, from, now) {
            Ok(mut inquiry) => {
                let new = self.replay.ask(inquiry.question()).now();
                inquiry.verdict(new.unwrap_or(false))
            }
            Err(declined) => Verdict::Decline(declined),
        }
    }

    /// Does the search of an inquiry: here if it is short, else on threads of its own. Where that is decides the number of
    /// users alone.
    pub fn search(&self, mut inquiry: Box<Inquiry>) -> Searched {
        let start = || SearchPool::start(SearchPool::usual_threads()).ok();
        let pool = if inquiry.rules.keyring.is_short() { None } else { self.pool.get_or_init(start).as_ref() };
        match pool {
            Some(pool) => pool.search(inquiry),
            None => {
                while !inquiry.go_on() {}
                Box::pin(std::future::ready(Some(inquiry)))
            }
        }
    }

    /// Begins to judge a whole hello from this address; fails if its form already declines it.
    pub fn inquire(&self, record: &[u8], from: IpAddr, now: UnixTime) -> Result<Inquiry, Declined> {
        let hello = ClientHello::decode(record).map_err(|_| Reason::Form("hello"))?;
        if !hello.offers_tls13 {
            return Err(Reason::Form("no TLS 1.3").into());
        }
        let rules = self.rules.load_full();
        let (class, named) = (HelloClass::of(&hello), rules.accepts_name(hello.server_name));
        Ok(Inquiry {
            search: rules.keyring.search(Claim::of(&hello), hello.server_name),
            over: false,
            rules,
            class,
            fingerprint: Fingerprint::of(&hello),
            http2: hello.offers_http2(),
            apple: hello.has_apples_shape(),
            named,
            from,
            barred: None,
            now,
        })
    }

    /// Begins to judge what a TLS server takes for a handshake although no client of ours sends it: the work is the same, so
    /// that the time of the answer does not tell one form from another, and the verdict is known.
    pub fn inquire_in_vain(&self, record: &[u8], reason: Reason, from: IpAddr, now: UnixTime) -> Inquiry {
        let rules = self.rules.load_full();
        Inquiry {
            search: rules.keyring.search(Claim::in_vain(record), None),
            over: false,
            rules,
            class: HelloClass::Other,
            fingerprint: Fingerprint::default(),
            http2: false,
            apple: false,
            named: false,
            from,
            barred: Some(reason),
            now,
        }
    }

    /// Begins to judge whatever was collected, from a client that is declined for the reason `barred` if there is one.
    pub fn inquire_any(&self, hello: HelloCollector, barred: Option<Reason>, from: IpAddr, now: UnixTime) -> Inquiry {
        let (odd, record) = (hello.oddity().map(Reason::Form), hello.into_record());
        // What is odd may have been made on the way of a client's hello, which is spent then.
        let inquiry = match self.inquire(&record, from, now) {
            Ok(inquiry) => Inquiry { barred: odd, ..inquiry },
            Err(declined) => self.inquire_in_vain(&record, odd.unwrap_or(declined.reason), from, now),
        };
        inquiry.barred(barred)
    }

    /// Notes that a user entered from there, whose next hellos are searched before those of strangers.
    pub fn note_user(&self, from: IpAddr) {
        if let Some(Some(pool)) = self.pool.get() {
            pool.note_user(from);
        }
    }

    /// Whether there are threads that search.
    #[cfg(test)]
    pub(super) fn pool_is_running(&self) -> bool {
        matches!(self.pool.get(), Some(Some(_)))
    }

    /// Takes as long as [`Admission::stamp`], for the flight to a client that was declined.
    pub fn stamp_in_vain(&self, flight: &mut Flight) {
        digest::stamp(self.rules.load().keyring.nobody(), &[0; 32], flight);
        black_box(flight);
    }
}

impl Rules {
    fn accepts_name(&self, name: Option<&[u8]>) -> bool {
        if self.keyring.turns_away(name) {
            return false;
        }
        let (Some(names), Some(name)) = (&self.names, name) else { return true };
        names.iter().any(|accepted| accepted.is_asked_for(name))
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;
    use std::time::Duration;

    use super::*;
    use crate::auth::PastNames;
    use crate::auth::replay::ReplayMemory;
    use crate::auth::secret::Secret;
    use crate::fixtures::{captured, vector, vector_array};
    use crate::wire::server_flight::FlightCollector;

    const TIME: UnixTime = UnixTime(1_767_225_600);
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn judge_of(keys: &[[u8; 16]]) -> Judge {
        let members = keys.iter().enumerate();
        let keys = members.map(|(n, key)| Key::new(Member::new(format!("user{n}")), Secret::new(*key)));
        let window = TimeWindow::new(Duration::from_secs(600));
        Judge::new(Rules { keyring: Keyring::new(keys), window, names: None }, ReplayMemory::volatile())
    }

    /// Rules for the key of the vectors, with this name alone if there is one.
    fn rules_of(name: Option<&str>) -> Rules {
        let keys = [Key::new(Member::new("somebody"), Secret::new(vector_array("const", "key")))];
        let names = name.map(|name| vec![Domain::from_str(name).unwrap()]);
        Rules { keyring: Keyring::new(keys), window: TimeWindow::new(Duration::from_secs(600)), names }
    }

    fn vector_judge() -> Judge {
        judge_of(&[[9; 16], vector_array("const", "key"), [8; 16]])
    }

    fn reason(verdict: Verdict) -> Option<Reason> {
        match verdict {
            Verdict::Decline(declined) => Some(declined.reason),
            Verdict::Admit(_) => None,
        }
    }

    #[test]
    fn admits_the_vectors_once_and_stamps_their_flights() {
        let judge = vector_judge();
        for (hello, flight) in [("helloA", "flightA"), ("helloB", "flightB")] {
            let record = vector(hello, "record");
            let Verdict::Admit(admission) = judge.judge(&record, HERE, TIME) else { panic!("{hello}") };
            assert_eq!(admission.member().name(), "user1");
            let mut collector = FlightCollector::default();
            let mut bytes = vector(flight, "bytes");
            bytes[11..43].fill(0x77);
            collector.feed(&bytes).unwrap();
            let (mut stamped, _) = collector.join(1).unwrap();
            admission.stamp(&mut stamped);
            assert_eq!(stamped.into_bytes(), vector(flight, "bytes"));
            assert_eq!(reason(judge.judge(&record, HERE, TIME)), Some(Reason::Replay));
        }
    }

    #[test]
    fn admits_every_captured_hello_at_its_time() {
        for hello in captured() {
            let Some((key, time)) = hello.signed else {
                assert_eq!(
                    reason(vector_judge().judge(&hello.record, HERE, TIME)),
                    Some(Reason::Digest),
                    "{}",
                    hello.file
                );
                continue;
            };
            assert_eq!(reason(judge_of(&[key]).judge(&hello.record, HERE, time)), None, "{}", hello.file);
        }
    }

    /// Of the site with these names, one user with this key and this name of the site, beside one of each other name.
    fn judge_of_names(names: &[&str], key: [u8; 16], name: Option<&str>, accepted: Option<&[&str]>) -> Judge {
        let domains = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Domain>>();
        let member = |number: usize, domain: Option<&str>| {
            let domain = domain.map(|domain| domain.parse().unwrap());
            Member::with(format!("user{number}"), crate::auth::Policy { domain, ..Default::default() }, None)
        };
        let others =
            names.iter().enumerate().map(|(n, name)| Key::new(member(n + 1, Some(name)), Secret::new([n as u8; 16])));
        let ours = Key::new(member(0, name), Secret::new(key));
        let keyring = Keyring::new(others.chain([ours])).over(domains(names));
        Judge::new(
            Rules { keyring, window: TimeWindow::new(Duration::from_secs(600)), names: accepted.map(domains) },
            ReplayMemory::volatile(),
        )
    }

    #[test]
    fn a_hello_is_searched_among_the_users_of_its_name() {
        let mut seen = [0; 2];
        for hello in captured() {
            let Some((key, time)) = hello.signed else { continue };
            let reason =
                |names: &[&str], name| reason(judge_of_names(names, key, name, None).judge(&hello.record, HERE, time));
            match hello.server_name.as_deref() {
                Some(own) => {
                    let names = ["first.example", own, "third.example"];
                    assert_eq!(reason(&names, Some(own)), None, "{}", hello.file);
                    for name in [None, Some("first.example"), Some("third.example")] {
                        assert_eq!(reason(&names, name), Some(Reason::Digest), "{}: {name:?}", hello.file);
                    }
                    // A foreign name is one of the first, as if there were no others.
                    let foreign = ["first.example", "third.example"];
                    assert_eq!(reason(&foreign, None), None, "{}", hello.file);
                    assert_eq!(reason(&foreign, Some("third.example")), Some(Reason::Digest), "{}", hello.file);
                }
                None => {
                    assert_eq!(reason(&["first.example", "third.example"], None), None, "{}", hello.file);
                    let other = reason(&["first.example", "third.example"], Some("third.example"));
                    assert_eq!(other, Some(Reason::Digest), "{}", hello.file);
                }
            }
            seen[usize::from(hello.server_name.is_none())] += 1;
        }
        assert!(seen[0] > 0, "{seen:?}");
    }

    #[test]
    fn a_name_that_is_not_accepted_stays_declined_and_its_hello_is_spent() {
        let hello = captured().into_iter().find(|hello| hello.signed.is_some() && hello.server_name.is_some()).unwrap();
        let (key, time) = hello.signed.unwrap();
        let names = ["first.example", "third.example"];
        let judge = judge_of_names(&names, key, None, Some(&names));
        let verdict = |judge: &Judge| reason(judge.judge(&hello.record, HERE, time));
        assert_eq!(verdict(&judge), Some(Reason::Name));
        assert_eq!(verdict(&judge), Some(Reason::Replay));
        let further = [&names[..], &[hello.server_name.as_deref().unwrap()]].concat();
        assert_eq!(verdict(&judge_of_names(&names, key, None, Some(&further))), None);
    }

    /// The hello is one of a user whose name it does not carry, and its copy is shown when other names hold.
    #[test]
    fn a_hello_that_was_not_spent_under_several_names_enters_under_no_others() {
        let hello = captured().into_iter().find(|hello| hello.signed.is_some() && hello.server_name.is_some()).unwrap();
        let ((key, time), carried) = (hello.signed.unwrap(), hello.server_name.as_deref().unwrap());
        for (user, before, after) in [
            (Some("first.example"), &["first.example", carried][..], &["first.example"][..]),
            (Some("second.example"), &["first.example", "second.example"], &["second.example", "first.example"]),
            (Some("second.example"), &["first.example", "second.example"], &["second.example"]),
            (Some("second.example"), &[carried, "second.example"], &["second.example"]),
        ] {
            let past = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Domain>>();
            let past = PastNames::default().and(&past(before)).and(&past(after));
            let verdict = |judge: &Judge| reason(judge.judge(&hello.record, HERE, time));
            assert_eq!(verdict(&judge_of_names(before, key, user, None)), Some(Reason::Digest), "{before:?}");
            let judge = judge_of_names(after, key, user, None);
            let Rules { keyring, window, names } = Arc::into_inner(judge.rules.swap(Arc::new(rules_of(None)))).unwrap();
            judge.replace_rules(Rules { keyring: keyring.after(past), window, names });
            assert_eq!(verdict(&judge), Some(Reason::Name), "{before:?} {after:?}");
            assert_eq!(verdict(&judge), Some(Reason::Replay), "it is spent: {before:?} {after:?}");
        }
    }

    #[test]
    fn any_changed_bit_is_noticed_and_none_of_the_time_buys_a_second_entry() {
        let judge = vector_judge();
        let record = vector("helloA", "record");
        assert_eq!(reason(judge.judge(&record, HERE, TIME)), None);
        for bit in 0..record.len() * 8 {
            let mut altered = record.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            match reason(judge.judge(&altered, HERE, TIME)) {
                Some(Reason::Digest | Reason::Form(_)) if !(39..43).contains(&(bit / 8)) => {}
                Some(Reason::Time(_) | Reason::Replay) if (39..43).contains(&(bit / 8)) => {}
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_redated_hello_is_a_replay_of_the_original_whichever_comes_first() {
        let mut redated = vector("helloA", "record");
        redated[39..43].copy_from_slice(&vector("redated", "bytes_39_42"));
        let tomorrow = UnixTime(TIME.0 + 86_400);
        let judge = vector_judge();
        assert_eq!(reason(judge.judge(&redated, HERE, TIME)), Some(Reason::Time(86_400)));
        assert_eq!(reason(judge.judge(&vector("helloA", "record"), HERE, TIME)), Some(Reason::Replay));
        let judge = vector_judge();
        assert_eq!(reason(judge.judge(&vector("helloA", "record"), HERE, TIME)), None);
        assert_eq!(reason(judge.judge(&redated, HERE, tomorrow)), Some(Reason::Replay));
    }

    #[test]
    fn a_hello_is_spent_whatever_it_is_declined_for() {
        let record = vector("helloA", "record");
        let late = UnixTime(TIME.0 + 601);
        let barred = Reason::Barred("list");
        for (first, bar, name, now) in [
            (Reason::Time(-601), None, None, late),
            (Reason::Name, None, Some("other.example"), TIME),
            (barred, Some(barred), None, TIME),
        ] {
            let judge = Judge::new(rules_of(name), ReplayMemory::volatile());
            let mut inquiry = judge.inquire(&record, HERE, now).unwrap().barred(bar);
            let Question::Spend(_) = inquiry.question() else { panic!("{first} is not spent") };
            let new = judge.replay.ask(inquiry.question()).now().unwrap();
            assert_eq!(reason(inquiry.verdict(new)), Some(first));
            judge.replace_rules(rules_of(None));
            assert_eq!(reason(judge.judge(&record, HERE, TIME)), Some(Reason::Replay), "{first}");
        }
    }

    #[test]
    fn a_verdict_changes_nothing_but_what_the_memory_is_asked_for() {
        let judge = vector_judge();
        for _ in 0..2 {
            let mut inquiry = judge.inquire(&vector("helloA", "record"), HERE, TIME).unwrap();
            assert!(matches!(inquiry.question(), Question::Spend(_)));
            let Verdict::Admit(admission) = inquiry.verdict(true) else { panic!("declined") };
            assert_eq!(admission.member().sessions(), 0);
        }
        assert!(judge.replay.is_empty());
        let mut inquiry = judge.inquire(&vector("helloA", "record"), HERE, TIME).unwrap();
        inquiry.question();
        assert_eq!(reason(inquiry.verdict(false)), Some(Reason::Replay));
    }

    /// The time of the last write to the file of spent hellos, put back each time, tells whether there was another.
    #[test]
    fn a_client_that_is_declined_for_more_than_the_form_costs_a_write_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let replay = ReplayMemory::open(&path, &rules_of(None).keyring.tags()).unwrap().0;
        let judge = Judge::new(rules_of(None), replay);
        let cost = |name: Option<&str>, record: &[u8], now: UnixTime| {
            judge.replace_rules(rules_of(name));
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
            let reason = reason(judge.judge(record, HERE, now)).map(Reason::label);
            (reason, file.metadata().unwrap().modified().unwrap() > std::time::UNIX_EPOCH)
        };
        let record = vector("helloA", "record");
        let other = vector("helloB", "record");
        let mut stranger = record.clone();
        stranger[44] ^= 1;
        let length = || std::fs::metadata(&path).unwrap().len();
        let empty = length();
        assert_eq!(cost(None, &record[..100], TIME), (Some("form"), false));
        assert_eq!(cost(None, &stranger, TIME), (Some("digest"), true));
        assert_eq!(length(), empty, "strangers leave nothing");
        assert_eq!(cost(None, &record, UnixTime(TIME.0 + 601)), (Some("time"), true));
        assert_eq!(cost(None, &other, TIME), (None, true));
        assert_eq!(length(), empty + 32, "what holds is remembered, admitted or not");
        assert_eq!(cost(None, &record, TIME), (Some("replay"), true));
        assert_eq!(cost(None, &other, TIME), (Some("replay"), true));
        assert_eq!(length(), empty + 32);
    }

    #[test]
    fn strangers_leave_no_trace_in_the_memory() {
        let judge = judge_of(&[[1; 16]]);
        assert_eq!(reason(judge.judge(&vector("helloA", "record"), HERE, TIME)), Some(Reason::Digest));
        assert!(judge.replay.is_empty());
    }
}
