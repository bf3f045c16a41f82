//! What a censor sends in place of the second flight of an admitted client.

use super::*;

/// Name, and the writes that come once the flight has been seen.
type Second = (&'static str, fn(&mut Draw<'_>) -> Vec<Vec<u8>>);

/// Probes that follow an admitted hello with something other than a valid header.
pub(super) fn tampered() -> Vec<Probe> {
    let mut probes = Vec::new();
    for class in [tdlib(), tdesktop()] {
        for (name, second) in seconds() {
            for then in [Then::Silence, Then::FinAtOnce] {
                // Only who knows the secret can make a header, whole or in parts.
                let needs = if name.contains("header") { Needs::Secret } else { Needs::CapturedHello };
                let name = format!("{} and {name} then {then:?}", class.client);
                let probe = Probe::new(name, move |draw| {
                    let record = fresh(class, By::Us, draw);
                    let mut steps = vec![Send(record.clone()), AwaitFlight];
                    steps.extend(second(draw).into_iter().map(Send));
                    match then {
                        Then::Silence => steps.extend([AwaitEnd, Poke]),
                        _ => steps.extend(then.steps()),
                    }
                    Script { steps, hello: Some(record), join: true, ..Script::default() }
                });
                probes.push(probe.needing(needs));
            }
        }
    }
    probes
}

/// Admitted hellos that are followed by too little, until the server has enough.
pub(super) fn silences() -> Vec<Probe> {
    type Then = fn(&mut Draw<'_>) -> Vec<u8>;
    let table: [(&str, Then); 4] = [
        ("nothing", |_| Vec::new()),
        ("one CCS", |_| CCS.to_vec()),
        ("half of a record", |draw| [&CCS[..], &data(&draw.bytes(300))[..100]].concat()),
        ("half of a header", |draw| [&CCS[..], &data(&valid(draw))[..40]].concat()),
    ];
    let probe = |(name, second): (&str, Then)| {
        let name = format!("an own hello and {name} for as long as the server likes");
        let probe = Probe::new(name, move |draw| {
            let record = fresh(tdlib(), By::Us, draw);
            let steps = vec![Send(record.clone()), AwaitFlight, Send(second(draw)), AwaitEnd, Poke];
            Script { steps, hello: Some(record), join: true, ..Script::default() }
        });
        probe.needing(Needs::CapturedHello).patient()
    };
    table.into_iter().map(probe).collect()
}

fn seconds() -> Vec<Second> {
    vec![
        ("garbage of 53", |draw| vec![[&CCS[..], &data(&draw.bytes(53))].concat()]),
        ("garbage of 64", |draw| vec![[&CCS[..], &data(&draw.bytes(64))].concat()]),
        ("garbage of 200 without CCS", |draw| vec![data(&draw.bytes(200))]),
        ("garbage of 16640", |draw| vec![[&CCS[..], &data(&draw.bytes(16640))].concat()]),
        ("garbage byte by byte", |draw| data(&draw.bytes(90)).chunks(1).map(<[u8]>::to_vec).collect()),
        ("ten records of garbage", |draw| vec![data(&draw.bytes(90)).repeat(10)]),
        ("an empty record", |_| vec![[&CCS[..], &data(&[])].concat()]),
        ("a record of one byte", |_| vec![[&CCS[..], &data(&[0])].concat()]),
        ("a record of 63", |draw| vec![[&CCS[..], &data(&valid(draw)[..63])].concat()]),
        ("a record of 16641", |draw| vec![[&CCS[..], &data(&draw.bytes(16641))].concat()]),
        ("the head of a record of 16641", |draw| vec![[&CCS[..], &[23, 3, 3, 0x41, 0x01][..], &valid(draw)].concat()]),
        ("type 22", |draw| vec![[&CCS[..], &typed(22, &draw.bytes(90))].concat()]),
        ("type 24", |draw| vec![[&CCS[..], &typed(24, &draw.bytes(90))].concat()]),
        ("type 0", |draw| vec![[&CCS[..], &typed(0, &draw.bytes(90))].concat()]),
        ("type 255", |draw| vec![[&CCS[..], &typed(255, &draw.bytes(90))].concat()]),
        ("a valid header in type 22", |draw| vec![[&CCS[..], &typed(22, &valid(draw))].concat()]),
        ("a valid header in version 3.1", |draw| {
            let mut record = data(&valid(draw));
            record[2] = 1;
            vec![[&CCS[..], &record].concat()]
        }),
        ("alert close_notify", |_| vec![typed(21, &[1, 0])]),
        ("alert unexpected_message", |_| vec![typed(21, &[2, 10])]),
        ("alert user_canceled", |_| vec![typed(21, &[1, 90])]),
        ("one CCS", |_| vec![CCS.to_vec()]),
        ("32 CCS", |_| vec![CCS.repeat(32)]),
        ("33 CCS", |_| vec![CCS.repeat(33)]),
        ("CCS of two bytes", |_| vec![typed(20, &[1, 1])]),
        ("CCS of another value", |_| vec![typed(20, &[2])]),
        ("CCS of another value, valid header", |draw| vec![[typed(20, &[2]), data(&valid(draw))].concat()]),
        ("text", |draw| vec![strangers::http_get(&draw.subject.name)]),
        ("random bytes", |draw| vec![draw.bytes(200)]),
        ("another hello", |draw| vec![fresh(tdlib(), By::Us, draw)]),
        ("a header of another secret", |draw| {
            let header = header(By::SomebodyElse, PADDED, draw);
            vec![[&CCS[..], &data(&[&header.wire[..], &draw.bytes(100)].concat())].concat()]
        }),
        ("a header of no secret", |draw| {
            let header = header(By::Nobody, PADDED, draw);
            vec![[&CCS[..], &data(&[&header.wire[..], &draw.bytes(100)].concat())].concat()]
        }),
        ("a header of another tag", |draw| {
            let header = header(By::Us, [1, 2, 3, 4], draw);
            vec![[&CCS[..], &data(&[&header.wire[..], &draw.bytes(100)].concat())].concat()]
        }),
        ("a header in two records", |draw| {
            let header = valid(draw);
            vec![[&CCS[..], &data(&header[..32]), &data(&header[32..])].concat()]
        }),
        ("a header of 63 and 1", |draw| {
            let header = valid(draw);
            vec![[&CCS[..], &data(&header[..63]), &data(&header[63..])].concat()]
        }),
        ("garbage and then a header", |draw| vec![[&CCS[..], &data(&draw.bytes(30)), &data(&valid(draw))].concat()]),
        ("garbage of 64 and then a header", |draw| {
            vec![[&CCS[..], &data(&draw.bytes(64)), &data(&valid(draw))].concat()]
        }),
        ("half of a record", |draw| vec![[&CCS[..], &data(&draw.bytes(300))[..100]].concat()]),
        ("half of a header", |draw| vec![[&CCS[..], &data(&valid(draw))[..40]].concat()]),
        ("the head of a record", |_| vec![[&CCS[..], &[23, 3, 3, 1, 0]].concat()]),
        ("one byte", |_| vec![vec![23]]),
    ]
}
