//! The first record behind the flight, its end held back on the way: nothing may come before the last byte is there, whatever
//! part of it is enough to know who is there.

use super::recorded::second;
use super::*;

/// How many bytes of change_cipher_spec, head, header and packet are let through.
const LET_THROUGH: [usize; 8] = [1, 6, 10, 11, 40, 74, 75, 76];

/// Every place where the first record may be held.
pub(super) fn held() -> Vec<Probe> {
    let mut probes = Vec::new();
    for class in [tdlib(), tdesktop()] {
        for place in LET_THROUGH.into_iter().map(Some).chain([None]) {
            let what = place.map_or_else(|| "all but the last byte".to_owned(), |place| format!("{place} bytes"));
            let name = format!("{} and {what} of the first record, the rest held back", class.client);
            let probe = Probe::new(name, move |draw| {
                let record = fresh(class, By::Us, draw);
                let second = second(By::Us, draw);
                let through = second[..place.unwrap_or(second.len() - 1)].to_vec();
                let steps = vec![Send(record.clone()), AwaitFlight, Send(through), AwaitEnd];
                Script { steps, hello: Some(record), join: true, ..Script::default() }
            });
            probes.push(probe.needing(Needs::CapturedHello));
        }
    }
    probes
}
