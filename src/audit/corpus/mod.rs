//! The probes: what a censor tries before anything is proved, and with a hello that he has captured.

use super::captured::{self, Captured, tdesktop, tdlib};
use super::fake_tls::CCS;
use super::hello::{self, Key, Parts, ext, push_counted};
use super::obfuscated::{Header, PADDED};
use super::probe::{Class, Draw, Needs, Probe, Script, Step};

mod held;
mod hellos;
mod jarm;
mod recorded;
mod shapes;
mod strangers;
mod tampered;
mod ways;

use Step::{AwaitEnd, AwaitFlight, Finish, Poke, Reset, Send};

/// Every probe of the table.
pub fn all() -> Vec<Probe> {
    type Group = fn() -> Vec<Probe>;
    let groups: [(Class, Group); 16] = [
        (Class::Shapes, hellos::classes),
        (Class::Shapes, shapes::shapes),
        (Class::Shapes, ways::wrappings),
        (Class::Jarm, jarm::jarm),
        (Class::Names, shapes::names),
        (Class::NotTls, strangers::strangers),
        (Class::Lengths, strangers::lengths),
        (Class::Records, strangers::records),
        (Class::Replay, hellos::replays),
        (Class::Replay, hellos::mutations),
        (Class::Recorded, recorded::pairs),
        (Class::SecondFlight, tampered::tampered),
        (Class::Held, held::held),
        (Class::Time, strangers::truncated),
        (Class::Time, strangers::silences),
        (Class::Time, tampered::silences),
    ];
    groups.iter().flat_map(|(class, group)| group().into_iter().map(|probe| probe.of(*class))).collect()
}

/// A key that no proxy knows.
const OTHER_KEY: Key = [0x5a; 16];

/// Signer of the hello, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nobody,
    Us,
    SomebodyElse,
}

impl By {
    fn key(self, draw: &Draw<'_>) -> Option<Key> {
        match self {
            By::Nobody => None,
            By::Us => Some(draw.subject.key),
            By::SomebodyElse => Some(OTHER_KEY),
        }
    }

    /// Signs a hello; the session id of one that may enter is like no other, whatever the seed.
    fn sign(self, mut parts: Parts, draw: &mut Draw<'_>) -> Vec<u8> {
        if self == By::Us {
            parts.session = draw.once.bytes(parts.session.len());
        }
        let mut record = parts.record();
        if let Some(key) = self.key(draw) {
            hello::sign(&mut record, &key, hello::now());
        }
        record
    }

    /// Access that an attacker needs to make such a hello.
    fn needs(self) -> Needs {
        if self == By::Us { Needs::Secret } else { Needs::Connection }
    }
}

/// Action of the prober after the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Silence,
    Fin,
    FinAtOnce,
    Rst,
}

impl Then {
    fn steps(self) -> Vec<Step> {
        match self {
            Then::Silence => vec![AwaitFlight, AwaitEnd, Poke],
            Then::Fin => vec![AwaitFlight, Finish, AwaitEnd],
            Then::FinAtOnce => vec![Finish, AwaitEnd],
            Then::Rst => vec![AwaitFlight, Reset],
        }
    }
}

/// Bytes at once, then `then`.
fn bytes(
    name: impl Into<String>,
    then: Then,
    make: impl Fn(&mut Draw<'_>) -> Vec<u8> + Sync + 'static + std::marker::Send,
) -> Probe {
    Probe::new(name, move |draw| Script { steps: [vec![Send(make(draw))], then.steps()].concat(), ..Script::default() })
}

/// A changed hello; the proxy may admit it if it is signed by us.
fn altered(
    name: impl Into<String>,
    class: &'static Captured,
    by: By,
    change: impl Fn(Parts, &str) -> Parts + Sync + 'static + std::marker::Send,
) -> Probe {
    let probe = Probe::new(name, move |draw| {
        let parts = class.parts_for(&draw.subject.name).fresh(draw);
        let record = by.sign(change(parts, &draw.subject.name), draw);
        let steps = [vec![Send(record.clone())], Then::Silence.steps()].concat();
        Script { steps, hello: Some(record), join: by == By::Us, ..Script::default() }
    });
    probe.needing(by.needs())
}

fn fresh(class: &Captured, by: By, draw: &mut Draw<'_>) -> Vec<u8> {
    let parts = class.parts_for(&draw.subject.name).fresh(draw);
    by.sign(parts, draw)
}

fn header(by: By, tag: [u8; 4], draw: &mut Draw<'_>) -> Header {
    let (key, dc) = (by.key(draw), draw.subject.dc);
    Header::make(key.as_ref(), tag, dc, draw)
}

/// A header that would open a session, with something behind it.
fn valid(draw: &mut Draw<'_>) -> Vec<u8> {
    header(By::Us, PADDED, draw).wire.to_vec()
}

fn data(payload: &[u8]) -> Vec<u8> {
    typed(23, payload)
}

fn typed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    push_counted(&mut record, 2, payload);
    record
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::audit::probe::Subject;

    fn subject(name: &str) -> Subject {
        Subject { key: [7; 16], name: name.to_owned(), dc: 2 }
    }

    #[test]
    fn no_two_probes_have_one_name_and_no_class_is_empty() {
        let probes = all();
        let mut known = HashSet::new();
        assert!(probes.iter().all(|probe| known.insert(probe.name.clone())), "two probes of one name");
        assert!(probes.len() >= 934, "{}", probes.len());
        let measured = |class: &Class| {
            use Class::*;
            matches!(class, Segments | Greeting | Ends | Idle | Latency | Forms | Bridge | Passive)
        };
        for class in Class::ALL.into_iter().filter(|class| !measured(class)) {
            assert!(probes.iter().any(|probe| probe.class == class), "{class:?}");
        }
    }

    #[test]
    fn a_seed_repeats_what_strangers_say_and_never_what_may_enter() {
        let subject = subject("www.example.org");
        for probe in all() {
            let [once, again] = [(); 2].map(|()| format!("{:?}", probe.script(7, &subject)));
            // What is signed says when it was.
            let signed = probe.needs != Needs::Connection || probe.name.contains("SomebodyElse");
            assert!(signed || once == again, "{}", probe.name);
        }
        let probe = all().into_iter().find(|probe| probe.name.ends_with("by Us then Silence")).unwrap();
        let [once, again] = [(); 2].map(|()| probe.script(7, &subject).hello.unwrap());
        assert_ne!(once[44..76], again[44..76]);
    }

    #[test]
    fn names_of_any_length_make_scripts() {
        for name in ["a.io", "mask.example.org", &format!("{}.example", "a".repeat(60))] {
            for probe in all() {
                let script = probe.script(1, &subject(name));
                assert!(!script.steps.is_empty(), "{}", probe.name);
            }
        }
    }
}
