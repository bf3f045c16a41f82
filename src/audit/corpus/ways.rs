//! A client's hello, carried in other ways than clients carry it.

use super::*;

/// Name, whether the proxy may admit it, and the way to send the hello.
type Way = (&'static str, bool, fn(&[u8], &mut Draw<'_>) -> Vec<Step>);

/// The same hello, carried in other ways.
pub(super) fn wrappings() -> Vec<Probe> {
    let mut probes = Vec::new();
    for (name, may_enter, wrap) in ways() {
        for by in [By::Nobody, By::Us] {
            let probe = Probe::new(format!("{name} by {by:?}"), move |draw| {
                let record = fresh(tdlib(), by, draw);
                let steps = [wrap(&record, draw), Then::Silence.steps()].concat();
                Script { steps, hello: Some(record), join: by == By::Us && may_enter, ..Script::default() }
            });
            let needs = if by == By::Us { Needs::CapturedHello } else { Needs::Connection };
            probes.push(probe.needing(needs));
        }
    }
    probes.push(Probe::new("a second hello after a retry", |draw| {
        let parts = tdlib().parts_for(&draw.subject.name).fresh(draw);
        let first = parts.clone().with(ext::KEY_SHARE, vec![0, 0]).record();
        let steps = vec![Send(first.clone()), AwaitFlight, Send([&CCS[..], &parts.record()].concat()), AwaitEnd, Poke];
        Script { steps, hello: Some(first), ..Script::default() }
    }));
    probes
}

fn ways() -> Vec<Way> {
    vec![
        ("segments of one byte", true, |record, _| record.chunks(1).map(|byte| Send(byte.to_vec())).collect()),
        ("segments of 100 bytes", true, |record, _| record.chunks(100).map(|part| Send(part.to_vec())).collect()),
        ("two records", true, |record, _| vec![Send(hello::in_records(record, &[100]))]),
        ("five records", true, |record, _| vec![Send(hello::in_records(record, &[1, 4, 38, 500]))]),
        ("many records", true, |record, _| {
            let cuts: Vec<usize> = (1..record.len() / 50).map(|part| part * 50).collect();
            vec![Send(hello::in_records(record, &cuts))]
        }),
        ("an empty record in the middle", true, |record, _| vec![Send(hello::in_records(record, &[50, 50]))]),
        ("the hello twice", true, |record, _| vec![Send(record.repeat(2))]),
        ("the hello five times", true, |record, _| vec![Send(record.repeat(5))]),
        ("garbage behind it", true, |record, draw| vec![Send([record, &draw.bytes(300)].concat())]),
        ("a record of garbage behind it", true, |record, draw| vec![Send([record, &data(&draw.bytes(90))].concat())]),
        ("CCS behind it", true, |record, _| vec![Send([record, &CCS].concat())]),
        ("CCS before it", false, |record, _| vec![Send([&CCS, record].concat())]),
        ("an alert behind it", true, |record, _| vec![Send([record, &[21, 3, 3, 0, 2, 1, 0]].concat())]),
        ("an empty record before it", false, |record, _| vec![Send([&[22, 3, 1, 0, 0], record].concat())]),
        ("a byte before it", false, |record, _| vec![Send([&[0], record].concat())]),
        ("a byte behind the message", false, |record, _| {
            let mut out = record[..3].to_vec();
            push_counted(&mut out, 2, &[&record[5..], &[0]].concat());
            vec![Send(out)]
        }),
        ("a message that claims more", false, |record, _| {
            let mut out = record.to_vec();
            out[8] = out[8].wrapping_add(40);
            vec![Send(out)]
        }),
        ("a message that claims 16 MB", false, |record, _| {
            let mut out = record.to_vec();
            out[6] = 0xff;
            vec![Send(out)]
        }),
        ("a HelloRequest before it", false, |record, _| vec![Send([&[22, 3, 3, 0, 4, 0, 0, 0, 0], record].concat())]),
        ("as a ServerHello", false, |record, _| {
            let mut out = record.to_vec();
            out[5] = 2;
            vec![Send(out)]
        }),
    ]
}
