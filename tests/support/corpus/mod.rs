//! The probes: what a censor tries before anything is proved, and with a hello that he has captured.

use super::dice::Dice;
use super::fake_tls::CCS;
use super::hello::{self, Captured, Parts, capture, ext, push_counted};
use super::obfuscated::{Header, PADDED};
use super::probe::{Probe, Script, Step};
use super::{KEY, OTHER_KEY};

mod hellos;
mod shapes;
mod strangers;
mod tampered;
mod ways;

use Step::{AwaitEnd, AwaitFlight, Finish, Poke, Reset, Send};

/// Every probe of the table.
pub fn all() -> Vec<Probe> {
    let groups = [
        hellos::classes,
        hellos::replays,
        hellos::mutations,
        shapes::names,
        shapes::shapes,
        ways::wrappings,
        strangers::records,
        strangers::strangers,
        strangers::lengths,
        strangers::truncated,
        tampered::tampered,
    ];
    let probes: Vec<Probe> = groups.iter().flat_map(|group| group()).collect();
    let mut known = std::collections::HashSet::new();
    assert!(probes.iter().all(|probe| known.insert(probe.name.clone())), "two probes of one name");
    probes
}

/// Who signs the hello, if anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nobody,
    Us,
    SomebodyElse,
}

impl By {
    fn sign(self, record: &mut [u8]) {
        match self {
            By::Nobody => {}
            By::Us => hello::sign(record, &KEY, hello::now()),
            By::SomebodyElse => hello::sign(record, &OTHER_KEY, hello::now()),
        }
    }
}

/// What the prober does once the hello is out.
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
    make: impl Fn(&mut Dice) -> Vec<u8> + Sync + 'static + std::marker::Send,
) -> Probe {
    Probe::new(name, move |dice| Script { steps: [vec![Send(make(dice))], then.steps()].concat(), ..Script::default() })
}

/// A changed hello of `class`; `join` where the proxy may admit it.
fn altered(
    name: impl Into<String>,
    class: &'static Captured,
    by: By,
    change: impl Fn(Parts) -> Parts + Sync + 'static + std::marker::Send,
) -> Probe {
    Probe::new(name, move |dice| {
        let mut record = change(class.parts().fresh(dice)).record();
        by.sign(&mut record);
        let steps = [vec![Send(record.clone())], Then::Silence.steps()].concat();
        Script { steps, hello: Some(record), join: by == By::Us, ..Script::default() }
    })
}

fn fresh(class: &Captured, by: By, dice: &mut Dice) -> Vec<u8> {
    let mut record = class.parts().fresh(dice).record();
    by.sign(&mut record);
    record
}

fn tdlib() -> &'static Captured {
    capture("tdlib-1.8.69-1")
}

fn tdesktop() -> &'static Captured {
    capture("tdesktop-5.7.2-1")
}

/// A header that would open a session, with something behind it.
fn valid(dice: &mut Dice) -> Vec<u8> {
    Header::make(Some(&KEY), PADDED, 2, dice).wire.to_vec()
}

fn data(payload: &[u8]) -> Vec<u8> {
    typed(23, payload)
}

fn typed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    push_counted(&mut record, 2, payload);
    record
}
