//! What a censor has recorded, put together in every way: hellos that were admitted, refused, re-dated or stopped, with
//! headers that were shown before, behind them or elsewhere, and new ones.
//!
//! None of these pairs may open a session. A hello that never reached the proxy with a header that never did is one that
//! may, and is not among them.

use super::*;
use crate::audit::dice::Dice;

/// Which header is shown behind a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// The one that was behind this hello before.
    Own,
    /// The one of a session of the same user.
    Old,
    /// A new one of another secret.
    Others,
    /// A new one of the same secret.
    Fresh,
}

/// First use of a hello, before the recording is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Admitted,
    /// With a clock that is seven hours behind.
    Late,
    /// For a name that is not the proxy's.
    Misnamed,
    /// With the header in the same write.
    Early,
    /// Half of it.
    Stopped,
}

/// Clock error of a device that is set to another time zone.
const HOURS: u32 = 7 * 3600;

/// Every pair that must not enter.
pub(super) fn pairs() -> Vec<Probe> {
    let mut probes = Vec::new();
    for which in [Which::Own, Which::Old, Which::Others, Which::Fresh] {
        for first in [First::Admitted, First::Late, First::Misnamed, First::Early] {
            let name = format!("recorded hello, {first:?} before, and a header: {which:?}");
            probes.push(Probe::new(name, move |draw| pair(first, which, |hello| hello, draw)));
        }
        let name = format!("recorded hello, Late before and re-dated, and a header: {which:?}");
        probes.push(Probe::new(name, move |draw| pair(First::Late, which, to_now, draw)));
    }
    for which in [Which::Own, Which::Old, Which::Others] {
        let name = format!("stopped hello and a header: {which:?}");
        probes.push(Probe::new(name, move |draw| pair(First::Stopped, which, |hello| hello, draw)));
    }
    probes.into_iter().map(|probe| probe.needing(Needs::CapturedHello)).collect()
}

fn to_now(mut hello: Vec<u8>) -> Vec<u8> {
    let now = hello::now();
    hello::redate(&mut hello, now - HOURS, now);
    hello
}

/// A session that is recorded, a first showing of the hello, and then the pair.
fn pair(first: First, which: Which, change: fn(Vec<u8>) -> Vec<u8>, draw: &mut Draw<'_>) -> Script {
    let [old, own, fresh] = [(); 3].map(|()| second(By::Us, draw));
    let session = vec![Send(fresh_hello(draw)), AwaitFlight, Send(old.clone()), AwaitFlight, Reset];
    let hello = made(first, draw);
    let shown = |hello: Vec<u8>| vec![Send(hello), AwaitFlight, Send(own.clone()), AwaitFlight, Reset];
    let before = match first {
        First::Admitted | First::Late | First::Misnamed => vec![session, shown(hello.clone())],
        First::Early => {
            vec![session, vec![Send([&hello[..], &own].concat()), AwaitFlight, Reset], shown(late(draw))]
        }
        // Its own header was shown behind another, which was refused.
        First::Stopped => {
            vec![session, vec![Send(hello[..hello.len() / 2].to_vec()), Reset], shown(late(draw))]
        }
    };
    let header = match which {
        Which::Own => own.clone(),
        Which::Old => old,
        Which::Others => second(By::SomebodyElse, draw),
        Which::Fresh => fresh,
    };
    let hello = change(hello);
    let steps = vec![Send(hello.clone()), AwaitFlight, Send(header), AwaitEnd, Poke];
    Script { before, steps, hello: Some(hello), join: first == First::Stopped }
}

fn made(first: First, draw: &mut Draw<'_>) -> Vec<u8> {
    match first {
        First::Admitted | First::Early | First::Stopped => fresh_hello(draw),
        First::Late => late(draw),
        First::Misnamed => {
            let parts = tdlib().parts().named(&[b"www.example.net"]).fresh(draw);
            By::Us.sign(parts, draw)
        }
    }
}

fn fresh_hello(draw: &mut Draw<'_>) -> Vec<u8> {
    fresh(tdlib(), By::Us, draw)
}

fn late(draw: &mut Draw<'_>) -> Vec<u8> {
    let mut hello = fresh_hello(draw);
    hello::sign(&mut hello, &draw.subject.key, hello::now() - HOURS);
    hello
}

/// Builds what a client sends after the flight, with a new header: header and one packet in a record.
pub(super) fn second(by: By, draw: &mut Draw<'_>) -> Vec<u8> {
    let (key, dc) = (by.key(draw), draw.subject.dc);
    let mut header = Header::make(key.as_ref(), PADDED, dc, &mut Dice::unseen());
    let mut packet = [&40u32.to_le_bytes()[..], &draw.once.bytes(40)].concat();
    header.up.apply(&mut packet);
    [&CCS[..], &data(&[&header.wire[..], &packet].concat())].concat()
}
