//! What a censor sends in place of the second flight of an admitted client.

use super::*;

/// Name, and the writes that come once the flight has been seen.
type Second = (&'static str, fn(&mut Dice) -> Vec<Vec<u8>>);

/// What follows an admitted hello and is no valid header.
pub(super) fn tampered() -> Vec<Probe> {
    let mut probes = Vec::new();
    for class in [tdlib(), tdesktop()] {
        for (name, second) in seconds() {
            for then in [Then::Silence, Then::FinAtOnce] {
                let name = format!("{} and {name} then {then:?}", class.client);
                probes.push(Probe::new(name, move |dice| {
                    let record = fresh(class, By::Us, dice);
                    let mut steps = vec![Send(record.clone()), AwaitFlight];
                    steps.extend(second(dice).into_iter().map(Send));
                    match then {
                        Then::Silence => steps.extend([AwaitEnd, Poke]),
                        _ => steps.extend(then.steps()),
                    }
                    Script { steps, hello: Some(record), join: true, ..Script::default() }
                }));
            }
        }
    }
    probes
}

fn seconds() -> Vec<Second> {
    vec![
        ("garbage of 53", |dice| vec![[&CCS[..], &data(&dice.bytes(53))].concat()]),
        ("garbage of 64", |dice| vec![[&CCS[..], &data(&dice.bytes(64))].concat()]),
        ("garbage of 200 without CCS", |dice| vec![data(&dice.bytes(200))]),
        ("garbage of 16640", |dice| vec![[&CCS[..], &data(&dice.bytes(16640))].concat()]),
        ("garbage byte by byte", |dice| data(&dice.bytes(90)).chunks(1).map(<[u8]>::to_vec).collect()),
        ("ten records of garbage", |dice| vec![data(&dice.bytes(90)).repeat(10)]),
        ("an empty record", |_| vec![[&CCS[..], &data(&[])].concat()]),
        ("a record of one byte", |_| vec![[&CCS[..], &data(&[0])].concat()]),
        ("a record of 63", |dice| vec![[&CCS[..], &data(&valid(dice)[..63])].concat()]),
        ("a record of 16641", |dice| vec![[&CCS[..], &data(&dice.bytes(16641))].concat()]),
        ("the head of a record of 16641", |dice| vec![[&CCS[..], &[23, 3, 3, 0x41, 0x01][..], &valid(dice)].concat()]),
        ("type 22", |dice| vec![[&CCS[..], &typed(22, &dice.bytes(90))].concat()]),
        ("type 24", |dice| vec![[&CCS[..], &typed(24, &dice.bytes(90))].concat()]),
        ("type 0", |dice| vec![[&CCS[..], &typed(0, &dice.bytes(90))].concat()]),
        ("type 255", |dice| vec![[&CCS[..], &typed(255, &dice.bytes(90))].concat()]),
        ("a valid header in type 22", |dice| vec![[&CCS[..], &typed(22, &valid(dice))].concat()]),
        ("a valid header in version 3.1", |dice| {
            let mut record = data(&valid(dice));
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
        ("CCS of another value, valid header", |dice| vec![[typed(20, &[2]), data(&valid(dice))].concat()]),
        ("text", |_| vec![b"GET / HTTP/1.1\r\nHost: mask.example.org\r\n\r\n".to_vec()]),
        ("random bytes", |dice| vec![dice.bytes(200)]),
        ("another hello", |dice| vec![fresh(tdlib(), By::Us, dice)]),
        ("a header of another secret", |dice| {
            let header = Header::make(Some(&OTHER_KEY), PADDED, 2, dice);
            vec![[&CCS[..], &data(&[&header.wire[..], &dice.bytes(100)].concat())].concat()]
        }),
        ("a header of no secret", |dice| {
            let header = Header::make(None, PADDED, 2, dice);
            vec![[&CCS[..], &data(&[&header.wire[..], &dice.bytes(100)].concat())].concat()]
        }),
        ("a header of another tag", |dice| {
            let header = Header::make(Some(&KEY), [1, 2, 3, 4], 2, dice);
            vec![[&CCS[..], &data(&[&header.wire[..], &dice.bytes(100)].concat())].concat()]
        }),
        ("a header in two records", |dice| {
            let header = valid(dice);
            vec![[&CCS[..], &data(&header[..32]), &data(&header[32..])].concat()]
        }),
        ("a header of 63 and 1", |dice| {
            let header = valid(dice);
            vec![[&CCS[..], &data(&header[..63]), &data(&header[63..])].concat()]
        }),
        ("garbage and then a header", |dice| vec![[&CCS[..], &data(&dice.bytes(30)), &data(&valid(dice))].concat()]),
        ("garbage of 64 and then a header", |dice| {
            vec![[&CCS[..], &data(&dice.bytes(64)), &data(&valid(dice))].concat()]
        }),
        ("half of a record", |dice| vec![[&CCS[..], &data(&dice.bytes(300))[..100]].concat()]),
        ("half of a header", |dice| vec![[&CCS[..], &data(&valid(dice))[..40]].concat()]),
        ("the head of a record", |_| vec![[&CCS[..], &[23, 3, 3, 1, 0]].concat()]),
        ("one byte", |_| vec![vec![23]]),
    ]
}
