//! Whole hellos of real clients: fresh, repeated, re-dated, with one bit changed.

use super::*;
use crate::audit::dice::Dice;

/// Hellos of every captured class, admitted and not.
pub(super) fn classes() -> Vec<Probe> {
    let mut probes = Vec::new();
    let others = ["tdlib-1.8.69-shortsni-1", "tdlib-1.8.69-longsni-1", "tdlib-1.8.69-ipv6-1"];
    let others = others.into_iter().filter_map(captured::find);
    for class in captured::classes().into_iter().chain(others) {
        for by in [By::Nobody, By::Us, By::SomebodyElse] {
            for then in [Then::Silence, Then::Fin, Then::FinAtOnce, Then::Rst] {
                let name = format!("class {} by {by:?} then {then:?}", class.file);
                let needs = if by == By::Us { Needs::CapturedHello } else { Needs::Connection };
                let probe = Probe::new(name, move |draw| {
                    let record = fresh(class, by, draw);
                    let steps = [vec![Send(record.clone())], then.steps()].concat();
                    Script { steps, hello: Some(record), join: by == By::Us, ..Script::default() }
                });
                probes.push(probe.needing(needs));
            }
        }
    }
    probes
}

/// The same hello a second time, and hellos whose time is wrong. None of them may enter.
pub(super) fn replays() -> Vec<Probe> {
    let replay = |name: &str, first: fn() -> Vec<Step>, change: fn(&mut Vec<u8>)| {
        let probe = Probe::new(name, move |draw| {
            let record = fresh(tdlib(), By::Us, draw);
            let mut again = record.clone();
            change(&mut again);
            let before = vec![[vec![Send(record)], first()].concat()];
            let steps = [vec![Send(again.clone())], Then::Silence.steps()].concat();
            Script { before, steps, hello: Some(again), join: false }
        });
        probe.needing(Needs::CapturedHello)
    };
    let later = |name: &str, offset: i64| {
        let probe = Probe::new(name, move |draw| {
            let mut record = fresh(tdlib(), By::Us, draw);
            hello::sign(&mut record, &draw.subject.key, (i64::from(hello::now()) + offset) as u32);
            let steps = [vec![Send(record.clone())], Then::Silence.steps()].concat();
            Script { steps, hello: Some(record), ..Script::default() }
        });
        probe.needing(Needs::Secret)
    };
    vec![
        replay("replay after FIN", || vec![AwaitFlight, Finish, AwaitEnd], |_| ()),
        replay("replay after RST", || vec![AwaitFlight, Reset], |_| ()),
        replay("replay without waiting for the flight", || vec![AwaitFlight], |_| ()),
        replay("replay after a bad record", || vec![AwaitFlight, Send(data(&[1; 90])), AwaitEnd], |_| ()),
        replay("replay a minute later", || vec![AwaitFlight, Finish, AwaitEnd], |record| later_by(record, 60)),
        replay("replay a day later", || vec![AwaitFlight, Finish, AwaitEnd], |record| later_by(record, 86400)),
        later("clock a day behind", -86400),
        later("clock a day ahead", 86400),
        later("clock at 1970", -i64::from(hello::now())),
    ]
}

/// Moves the time of a hello that was signed just now.
fn later_by(record: &mut [u8], seconds: u32) {
    let sent = hello::now();
    hello::redate(record, sent, sent + seconds);
}

/// One bit of a signed hello changed, everywhere but in the time, which the code does not cover.
pub(super) fn mutations() -> Vec<Probe> {
    let length = tdlib().record.len();
    let mut dice = Dice::new(40);
    let heads = (0..11).chain([11, 27, 38, 43, 44, 60, 75, 76, 77, 78, 110, 112]);
    let spread: Vec<usize> = (0..28).map(|_| 43 + dice.below(length - 43)).chain([length - 1]).collect();
    let mut places: Vec<usize> = heads.chain(spread).collect();
    places.sort_unstable();
    places.dedup();
    let flip = |place: usize, bit: usize| {
        let name = format!("bit {bit} of byte {place} changed");
        let probe = Probe::new(name, move |draw| {
            let mut record = fresh(tdlib(), By::Us, draw);
            // A hello for a shorter name is shorter.
            let place = place.min(record.len() - 1);
            record[place] ^= 1 << bit;
            let steps = [vec![Send(record.clone())], Then::Silence.steps()].concat();
            let join = hello::RANDOM.contains(&place) && place >= 39;
            Script { steps, hello: Some(record), join, ..Script::default() }
        });
        probe.needing(Needs::CapturedHello)
    };
    let mut probes: Vec<Probe> = places.into_iter().map(|place| flip(place, dice.below(8))).collect();
    probes.extend([flip(39, 0), flip(42, 7)]);
    probes
}
