use std::sync::Mutex as StdMutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::fixtures::vector;

/// A cover that says the same to everybody, then waits or ends.
struct Parrot {
    says: StdMutex<Vec<u8>>,
    stays: bool,
}

impl Parrot {
    fn new(says: Vec<u8>, stays: bool) -> Self {
        Self { says: StdMutex::new(says), stays }
    }
}

impl CoverDialer for Parrot {
    async fn open(&self) -> io::Result<Leg> {
        let (near, mut far) = duplex(1 << 16);
        let (says, stays) = (self.says.lock().unwrap().clone(), self.stays);
        tokio::spawn(async move {
            let _ = far.read(&mut [0; 4096]).await;
            let _ = far.write_all(&says).await;
            if stays {
                let _ = far.read_to_end(&mut Vec::new()).await;
            }
        });
        Ok(Box::new(near))
    }
}

fn scout(state: Option<&Path>) -> Scout {
    let whose = Whose { host: "cover.example".into(), port: 443, domain: "cover.example".into() };
    Scout::new("cover.example".parse().unwrap(), whose, state)
}

fn flight() -> Vec<u8> {
    vector("flightB", "bytes")
}

#[tokio::test(start_paused = true)]
async fn nothing_that_a_cover_says_ends_the_scout_or_teaches_it_nonsense() {
    let record = |kind: u8, payload: &[u8]| [&[kind, 3, 3, 0, payload.len() as u8][..], payload].concat();
    let empty = record(23, &[]).repeat(100_000);
    for says in [
        Vec::new(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        record(21, &[2, 40]),
        record(22, &[2, 0, 0, 1, 0]),
        vec![0x17; 1 << 20],
        [&flight()[..1215], &empty].concat(),
        flight()[..3000].to_vec(),
    ] {
        for stays in [true, false] {
            let scout = scout(None);
            let round = scout.round(&Parrot::new(says.clone(), stays)).await.unwrap();
            assert_eq!(round.failures.len(), 1 + TEMPLATES.len() * TIMES, "{round:?}");
            assert_eq!(*scout.profile(), Profile::default());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cover_of_which_only_flights_can_be_seen_is_known_by_them() {
    let scout = scout(None);
    let cover = Parrot::new(flight(), true);
    let round = scout.round(&cover).await.unwrap();
    assert_eq!(round.failures.len(), 1, "the handshake: {round:?}");
    let profile = scout.profile();
    assert_eq!((profile.flights.len(), &profile.visit), (4, &None));
    assert!(profile.flights.values().all(|flight| flight.stable && flight.records == [2048]));
    assert!(profile.learnt > 0);

    let older = [&[22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3][..], &[7; 32], &[0, 0xc0, 0x2f, 0]].concat();
    *cover.says.lock().unwrap() = older;
    assert_eq!(scout.round(&cover).await, Err(TooSoon));
    tokio::time::advance(AGAIN).await;
    let round = scout.round(&cover).await.unwrap();
    assert!(round.changes.contains(&"version for chrome: 0304, now 0303".to_owned()), "{round:?}");
    assert_eq!(scout.changes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_visits_at_once_then_hourly_and_when_asked_but_never_twice_in_half_a_minute() {
    /// No one answers, and the times of the attempts are noted.
    struct Closed(StdMutex<Vec<Instant>>);
    impl CoverDialer for Closed {
        async fn open(&self) -> io::Result<Leg> {
            self.0.lock().unwrap().push(Instant::now());
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }
    let rounds = |door: &Closed, start: Instant| {
        let mut rounds: Vec<u64> = door.0.lock().unwrap().iter().map(|at| (*at - start).as_secs()).collect();
        rounds.dedup();
        rounds
    };
    let folder = tempfile::tempdir().unwrap();
    for known in [false, true] {
        let state = known.then(|| folder.path());
        if known {
            let whose = Whose { host: "cover.example".into(), port: 443, domain: "cover.example".into() };
            Store::new(folder.path(), whose).save(&Profile { learnt: 1, ..Profile::default() }).unwrap();
        }
        let (scout, door, start) = (scout(state), Closed(StdMutex::default()), Instant::now());
        for _ in 0..3 {
            scout.note_stale();
        }
        let _ = timeout(Duration::from_secs(3 * 3600 / 2), scout.watch(&door)).await;
        let rounds = rounds(&door, start);
        assert!(rounds.windows(2).all(|pair| pair[1] - pair[0] >= 30), "{rounds:?}");
        match known {
            false => assert!((179..=181).contains(&rounds.len()), "{rounds:?}"),
            true => assert!(rounds.len() == 3 && rounds[..2] == [0, 30], "{rounds:?}"),
        }
    }
}

#[test]
fn rounds_are_an_hour_apart_give_or_take_a_fifth() {
    assert_eq!(pause(true, 0), EVERY * 4 / 5);
    assert_eq!(pause(true, u16::MAX), EVERY * 6 / 5);
    assert_eq!(pause(false, 1), AGAIN);
}

#[test]
fn records_behind_a_flight_are_none_of_the_flights() {
    let shape = |records: &[u16]| FlightShape { records: records.to_vec(), stable: true, ..FlightShape::default() };
    let flight = |shapes: Vec<FlightShape>, behind: &[u16]| {
        let merged = merged(shapes.into_iter().map(|shape| (1, shape)).collect(), behind).unwrap();
        (merged.records, merged.stable)
    };
    assert_eq!(flight(vec![shape(&[32, 900, 130])], &[130]), (vec![32, 900], true));
    assert_eq!(flight(vec![shape(&[32, 900]), shape(&[32, 900, 130])], &[130]), (vec![32, 900], true));
    assert_eq!(flight(vec![shape(&[32, 900]), shape(&[32, 902])], &[]), (vec![32, 902], false));
    assert_eq!(flight(vec![shape(&[130])], &[130]), (vec![130], true));
    // What another template is answered with says nothing of that.
    let apart = vec![(1, shape(&[900])), (1, shape(&[900])), (2, shape(&[903])), (2, shape(&[903]))];
    let merged = merged(apart, &[]).unwrap();
    assert_eq!((merged.records, merged.stable), (vec![903], true));
    assert_eq!(super::merged(Vec::new(), &[]), None);
}
