//! Keys, and a search whose time depends neither on the answer nor on the name in the hello.
//!
//! Where the site has several names, each key belongs to one of them, and a hello is tried with the keys of its name alone:
//!
//! ```text
//! keys     a a a a a b b b c c c c     grouped by name; the widest bucket has five
//! hello b            b b b · ·         tried with five: three that count, and the next two in vain
//! hello x  a a a a a                   no name, or none of ours: the keys of the first name
//! ```
//!
//! Every search tries as many keys as the widest bucket has. The names stand in the certificate, so anybody may ask for each of
//! them and for a foreign one: buckets of their own sizes would tell by time which names have users, how many, and that a
//! name is searched at all. What is missing in a bucket is made up by the keys that stand next in the ring, so that work and
//! memory are of one kind. That one of them fits counts for nothing: the hello is a stranger's and is not spent, and its client
//! gets no flight with an authenticator, for which it would send a header. Buckets of one size cost nothing by that, and new
//! users are distributed so that they become that.
//!
//! Hellos without a name, or with one that is not the site's, are tried with the keys of the first name: it has the users
//! that were there before there were more names, whose links go on working whatever their hellos say, but for those that
//! [`super::past`] turns away.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use subtle::ConditionallySelectable;

use super::digest::Claim;
use super::member::{Member, Permit, Refusal};
use super::past::PastNames;
use super::replay::SecretTag;
use super::secret::{Domain, Secret};
use super::window::UnixTime;
use crate::crypto::Mac;

/// Number of a key, the same in every process, that does not reveal the secret. Long enough for no two keys of one proxy to
/// share one by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; KeyId::LENGTH]);

impl KeyId {
    /// Bytes of it.
    pub const LENGTH: usize = 6;

    /// The number of the key with this secret.
    fn of(secret: &Secret) -> Self {
        let digest = Sha256::new().chain_update(b"vizard key number\0").chain_update(secret.bytes()).finalize();
        Self(std::array::from_fn(|at| digest[at]))
    }

    /// A number that was written as these bytes.
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes that it is written as.
    pub fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

/// A secret that opens the door for a member.
#[derive(Debug)]
pub struct Key {
    member: Arc<Member>,
    secret: Secret,
    tag: SecretTag,
    id: KeyId,
    mac: Mac,
    until: Option<UnixTime>,
    /// Name that its hellos carry, where that is not the first.
    domain: Option<Domain>,
}

impl Key {
    /// A key of this member.
    pub fn new(member: Arc<Member>, secret: Secret) -> Self {
        let (mac, domain) = (Mac::new(secret.bytes()), member.policy().domain.clone());
        let (tag, id) = (SecretTag::of(secret.bytes()), KeyId::of(&secret));
        Self { member, tag, id, secret, mac, until: None, domain }
    }

    /// The same key, good until then.
    pub fn until(self, until: Option<UnixTime>) -> Self {
        Self { until, ..self }
    }

    /// Whether the member may enter with this key now, from this address.
    pub fn admit(&self, from: IpAddr, now: UnixTime) -> Result<Permit, Refusal> {
        self.standing(now)?;
        Ok(self.member.admit(from, now)?.for_key(self.tag))
    }

    /// Whether [`Key::admit`] would say yes; takes no place.
    pub(super) fn would_admit(&self, from: IpAddr, now: UnixTime) -> Result<(), Refusal> {
        self.standing(now)?;
        self.member.would_admit(from, now)
    }

    /// Whether one who came with this key from this address may be here.
    pub fn stands(&self, from: IpAddr, now: UnixTime) -> Result<(), Refusal> {
        self.standing(now)?;
        self.member.standing(from, now)
    }

    /// Member that the key belongs to.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The 16 bytes that the member's client knows.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    fn standing(&self, now: UnixTime) -> Result<(), Refusal> {
        if self.until.is_some_and(|until| now >= until) { Err(Refusal::OldSecret) } else { Ok(()) }
    }

    /// Tag of its entries in the replay cache.
    pub fn tag(&self) -> SecretTag {
        self.tag
    }

    /// Number that tells it from all other keys.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The name that its links carry, where that is not the first name of the site.
    pub fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }

    pub(super) fn mac(&self) -> &Mac {
        &self.mac
    }
}

/// The keys of all who may enter.
#[derive(Debug)]
pub struct Keyring {
    /// Those of one name stand beside each other.
    keys: Vec<Arc<Key>>,
    /// Names of the site; none where all keys are of one.
    names: Vec<Domain>,
    /// Those that it had.
    past: PastNames,
    /// Keys of each name.
    buckets: Vec<Range<usize>>,
    /// Keys that every search tries.
    widest: usize,
    /// Index of each key by its tag.
    places: BTreeMap<SecretTag, usize>,
    /// Earliest end of a key.
    next_end: Option<UnixTime>,
    /// The key of nobody, for work that is done in vain.
    nobody: Mac,
}

impl Keyring {
    /// A keyring of these keys.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Self {
        Self::of(keys.into_iter().map(Arc::new).collect(), Vec::new(), PastNames::default())
    }

    /// The same keys, spread over the names of the site. Those of no name, or of one that is not among them, are of the first.
    pub fn over(self, names: Vec<Domain>) -> Self {
        Self::of(self.keys, names, self.past)
    }

    /// The same at a site that had these names.
    pub fn after(self, past: PastNames) -> Self {
        Self { past, ..self }
    }

    /// Names that the site had.
    pub fn past(&self) -> &PastNames {
        &self.past
    }

    /// Whether a hello with this name is declined whatever key made it, for the names that the site had.
    pub(super) fn turns_away(&self, name: Option<&[u8]>) -> bool {
        self.past.turn_away(name, &self.names)
    }

    fn of(mut keys: Vec<Arc<Key>>, names: Vec<Domain>, past: PastNames) -> Self {
        let by_name: HashMap<&Domain, usize> = names.iter().enumerate().map(|(bucket, name)| (name, bucket)).collect();
        let bucket = |key: &Arc<Key>| key.domain.as_ref().and_then(|name| by_name.get(name)).copied().unwrap_or(0);
        keys.sort_by_cached_key(bucket);
        let start = |wanted: usize| keys.partition_point(|key| bucket(key) < wanted);
        let buckets: Vec<_> = (0..names.len().max(1)).map(|bucket| start(bucket)..start(bucket + 1)).collect();
        let widest = buckets.iter().map(Range::len).max().unwrap_or_default();
        // Should two secrets share a tag, the one without an end counts.
        let (ending, lasting): (Vec<_>, Vec<_>) =
            keys.iter().enumerate().partition::<Vec<(usize, &Arc<Key>)>, _>(|(_, key)| key.until.is_some());
        let places = ending.into_iter().chain(lasting).map(|(place, key)| (key.tag, place)).collect();
        let next_end = keys.iter().filter_map(|key| key.until).min();
        Self { keys, names, past, buckets, widest, places, next_end, nobody: Mac::new(&[]) }
    }

    /// The keyring without the keys whose time is over, if there are any. What a search takes then is less for everybody,
    /// so that it still tells nothing of anyone who asks.
    pub(super) fn without_ended(&self, now: UnixTime) -> Option<Self> {
        let ended = |key: &Arc<Key>| key.standing(now).is_err();
        self.next_end.filter(|end| now >= *end)?;
        Some(Self::of(
            self.keys.iter().filter(|key| !ended(key)).cloned().collect(),
            self.names.clone(),
            self.past.clone(),
        ))
    }

    /// All of them.
    pub fn keys(&self) -> &[Arc<Key>] {
        &self.keys
    }

    /// Tags of all keys, whose entries the replay cache has to remember.
    pub fn tags(&self) -> Vec<SecretTag> {
        self.keys.iter().map(|key| key.tag).collect()
    }

    /// Whether a search takes less time than it takes to have it done elsewhere.
    pub(super) fn is_short(&self) -> bool {
        self.widest <= SHORT
    }

    /// Begins the search for the key of a hello that carries this name.
    pub(super) fn search(&self, claim: Claim, name: Option<&[u8]>) -> Search {
        // All names are compared, so that their order tells nothing.
        let ours = |name: &[u8]| {
            let names = self.names.iter().enumerate();
            names.fold(None, |found, (bucket, known)| known.is_asked_for(name).then_some(bucket).or(found))
        };
        let bucket = name.and_then(ours).unwrap_or(0);
        Search { claim, bucket, tried: 0, found: u64::MAX, time: 0 }
    }

    fn bucket(&self, search: &Search) -> Range<usize> {
        self.buckets.get(search.bucket).cloned().unwrap_or_default()
    }

    pub(super) fn nobody(&self) -> &Mac {
        &self.nobody
    }

    /// Whether one may stay inside who came in with this key. Not for strangers: its time says something about the key.
    pub fn standing(&self, key: SecretTag, now: UnixTime) -> Result<(), Refusal> {
        let place = self.places.get(&key).ok_or(Refusal::OldSecret)?;
        self.keys[*place].standing(now)
    }

    /// Tries as many keys as are tried at a stretch; says whether all have been.
    ///
    /// As many keys are tried as the widest bucket has, no matter who asks: a search that stopped at the right one would tell a
    /// stranger that there is one, and its place in the list.
    pub(super) fn go_on(&self, search: &mut Search) -> bool {
        let first = search.tried;
        search.tried = self.widest.min(first + STRETCH);
        let (before, since) = self.keys.split_at(self.bucket(search).start);
        let ring = since.iter().chain(before).skip(first).take(search.tried - first);
        let macs: SmallVec<[&Mac; STRETCH]> = ring.map(|key| key.mac()).collect();
        let (found, time) = (&mut search.found, &mut search.time);
        search.claim.examine(&macs, |place, genuine, claimed| {
            found.conditional_assign(&((first + place) as u64), genuine);
            time.conditional_assign(&claimed.0, genuine);
        });
        search.tried == self.widest
    }

    /// The key that made the hello, and the time that the hello carries, once all have been tried. A key of another name
    /// counts for nothing.
    pub(super) fn found(&self, search: &Search) -> Option<(&Arc<Key>, UnixTime)> {
        let key = self.keys[self.bucket(search)].get(usize::try_from(search.found).ok()?)?;
        Some((key, UnixTime(search.time)))
    }
}

/// The search for the key that made a hello.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) claim: Claim,
    bucket: usize,
    tried: usize,
    /// Place in the ring that begins with the bucket.
    found: u64,
    time: i64,
}

/// Keys that are tried at a stretch. It is a multiple of what fills the processor's vectors, so that none are left over but
/// at the end.
const STRETCH: usize = 128;

/// Keys that are tried within 50 microseconds, on processors without wide vectors too.
const SHORT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Policy;

    fn domain(name: &str) -> Domain {
        format!("{name}.example").parse().unwrap()
    }

    fn key(name: &str, number: u32) -> Key {
        let member =
            Member::with(format!("{name}{number}"), Policy { domain: Some(domain(name)), ..Policy::default() }, None);
        let mut bytes = [name.as_bytes()[0]; 16];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        Key::new(member, Secret::new(bytes))
    }

    /// A keyring with so many keys of each name, mixed.
    fn spread(counts: &[(&str, u32)]) -> Keyring {
        let most = counts.iter().map(|(_, count)| *count).max().unwrap_or_default();
        let keys = (0..most).flat_map(|number| {
            counts.iter().filter(move |(_, count)| number < *count).map(move |(name, _)| key(name, number))
        });
        Keyring::new(keys).over(counts.iter().map(|(name, _)| domain(name)).collect())
    }

    /// Keys that a whole search tries, piece by piece.
    fn cost(keyring: &Keyring, name: Option<&str>) -> Vec<usize> {
        let mut search = keyring.search(Claim::in_vain(&[0; 100]), name.map(str::as_bytes));
        let mut pieces = Vec::new();
        loop {
            let (before, over) = (search.tried, keyring.go_on(&mut search));
            pieces.push(search.tried - before);
            if over {
                return pieces;
            }
        }
    }

    #[test]
    fn every_search_costs_the_same_whatever_name_is_asked_for() {
        for (counts, expected) in [
            (&[("a", 300), ("b", 3), ("c", 0)][..], vec![STRETCH, STRETCH, 300 - 2 * STRETCH]),
            (&[("a", 1), ("b", 130), ("c", 129)], vec![STRETCH, 2]),
            (&[("a", 0), ("b", 0)], vec![0]),
            (&[("a", 7)], vec![7]),
        ] {
            let keyring = spread(counts);
            for name in
                [None, Some("a.example"), Some("B.example"), Some("c.example"), Some("foreign.example"), Some("")]
            {
                assert_eq!(cost(&keyring, name), expected, "{counts:?} {name:?}");
            }
        }
    }

    #[test]
    fn users_over_several_names_cost_what_those_of_one_cost() {
        let all: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| (name, 20)).to_vec();
        assert_eq!(cost(&spread(&all), Some("c.example")).iter().sum::<usize>(), 20);
        assert!(!spread(&all).is_short() && spread(&[("a", 16), ("b", 16)]).is_short());
    }

    #[test]
    fn keys_stay_with_their_names_when_some_have_ended() {
        let until = |number: u32| key("b", number).until(Some(UnixTime(10)));
        let keys = [until(0), key("a", 0), until(1), key("b", 2)];
        let keyring = Keyring::new(keys).over(vec![domain("a"), domain("b")]);
        assert_eq!((keyring.widest, &keyring.buckets), (3, &vec![0..1, 1..4]));
        let rest = keyring.without_ended(UnixTime(10)).unwrap();
        assert_eq!((rest.widest, &rest.buckets), (1, &vec![0..1, 1..2]));
        assert!(rest.standing(key("b", 2).tag(), UnixTime(10)).is_ok());
    }
}
