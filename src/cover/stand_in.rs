//! What admitted clients get while a remote cover is away, or accepts and has no flight for them: the flight that it last
//! gave to hellos of their class, made for this one. The only emulation in the program (docs/architecture.md).
//!
//! Sizes, cipher suite, group and order of extensions are the cover's; the key share is a real one for this hello, and
//! what would be encrypted is random, which it looks like. Everybody else gets what a dead back end gives, an end; and where
//! the cover accepts, what it says and does.

use std::time::{Duration, SystemTime};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::gate::{Promotion, enter, second_proof};
use super::profile::{FlightShape, Profile};
use super::remote::write_flight;
use super::{Caller, Outcome, site};
use crate::auth::{Admission, Reason, Verdict};
use crate::crypto::shares;
use crate::wire::client_hello::{self, ClientHello, HelloCollector};
use crate::wire::obfuscated::{self, HeaderCollector, Wrapped};
use crate::wire::server_flight::{Flight, Plan};
use crate::wire::{HelloClass, numbers};

/// Time limit for a client's hello, and again for its header: as long as nginx and the built-in site wait for a
/// handshake, so that a silent stranger finds a time that many servers have.
const PATIENCE: Duration = Duration::from_secs(60);

/// Receives a client without a cover.
pub(super) async fn receive(mut caller: Caller, profile: &Profile) -> Outcome {
    let entered = match timeout(PATIENCE, greet(&mut caller, profile)).await {
        Ok(Some(admission)) => timeout(PATIENCE, read_header(&mut caller, admission)).await,
        _ => Ok(None),
    };
    end(caller, entered.unwrap_or_default()).await
}

/// Ends without a reset where nothing came of it, however much of what the client says was not read.
async fn end(caller: Caller, promotion: Option<Promotion>) -> Outcome {
    match promotion {
        Some(promotion) => Outcome::Promoted(caller.client, Box::new(promotion)),
        None => {
            site::linger(caller.client).await;
            Outcome::Visited
        }
    }
}

/// Receives a client that was admitted, and whom the cover has no flight for: it gets this one.
pub(super) async fn answer(mut caller: Caller, admission: Admission, mut flight: Flight) -> Outcome {
    let answered = async {
        tell(&mut caller, &admission, &mut flight).await?;
        read_header(&mut caller, admission).await
    };
    let entered = timeout(PATIENCE, answered).await.unwrap_or_default();
    end(caller, entered).await
}

/// The flight that the cover was last seen to answer a hello of this class with, made for this one, which stands in one
/// record; `None` where it was not seen or cannot be made.
pub(super) fn flight(profile: &Profile, record: &[u8]) -> Option<Flight> {
    let hello = ClientHello::decode(record).ok()?;
    let shape = profile.flights.get(HelloClass::of(&hello).label())?;
    rebuild(shape, &hello, |bytes| rand::fill(bytes))
}

async fn tell(caller: &mut Caller, admission: &Admission, flight: &mut Flight) -> Option<()> {
    admission.stamp(flight);
    write_flight(&mut caller.client, flight.as_bytes(), admission.class().minds_read_ends()).await.ok()
}

/// Reads the hello, and answers it if it is one of ours and of a class that the cover was seen to answer.
async fn greet(caller: &mut Caller, profile: &Profile) -> Option<Admission> {
    let hello = read_hello(&mut caller.client).await?;
    let flight = flight(profile, hello.record());
    let verdict = judge(caller, hello).await?;
    match (verdict, flight) {
        (Verdict::Admit(admission), Some(mut flight)) => {
            tell(caller, &admission, &mut flight).await?;
            Some(admission)
        }
        (Verdict::Admit(admission), None) => {
            let reason = Reason::Cover("away, and it was not seen to answer such a hello");
            caller.witness.declined(caller.peer, &admission.declined(reason));
            None
        }
        (Verdict::Decline(declined), _) => {
            caller.witness.declined(caller.peer, &declined);
            None
        }
    }
}

/// Judges the hello as the gate does.
async fn judge(caller: &Caller, hello: HelloCollector) -> Option<Verdict> {
    let now = SystemTime::now().into();
    let inquiry = caller.judge.inquire_any(hello, caller.barred, caller.peer.ip(), now);
    let mut inquiry = caller.judge.search(Box::new(inquiry)).await?;
    let new = caller.judge.replay.ask(inquiry.question()).await;
    Some(inquiry.verdict(new))
}

async fn read_hello(client: &mut TcpStream) -> Option<HelloCollector> {
    let mut hello = HelloCollector::default();
    loop {
        match hello.feed(&read_some(client).await?) {
            client_hello::Progress::More => {}
            client_hello::Progress::Whole => return Some(hello),
            client_hello::Progress::Foreign(_) => return None,
        }
    }
}

/// Reads the client's first record, which has to be whole before anything follows from it. The header in it is spent as
/// soon as that is there.
async fn read_header(caller: &mut Caller, admission: Admission) -> Option<Promotion> {
    let mut header = HeaderCollector::default();
    let (Wrapped { header, used, record_left }, bytes) = loop {
        let bytes = read_some(&mut caller.client).await?;
        match header.feed(&bytes) {
            obfuscated::Progress::More => {}
            obfuscated::Progress::Foreign(_) => return None,
            obfuscated::Progress::Whole(wrapped) => break (wrapped, bytes),
        }
    };
    let (opened, question) = second_proof(Some(admission.key()), &header);
    let new = caller.judge.replay.ask(question).await;
    let mut leftover = bytes[used..].to_vec();
    while opened.is_some() && new && leftover.len() < record_left {
        leftover.extend(read_some(&mut caller.client).await?);
    }
    match enter(admission, opened, new, SystemTime::now().into()) {
        Ok((admission, permit, opened)) => {
            caller.judge.note_user(caller.peer.ip());
            Some(Promotion { admission, permit, opened, leftover, record_left, by_cover: false, answered: None })
        }
        Err(declined) => {
            caller.witness.declined(caller.peer, &declined);
            None
        }
    }
}

/// Reads the next bytes; `None` at the end.
async fn read_some(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    client.read_buf(&mut bytes).await.ok().filter(|read| *read > 0).map(|_| bytes)
}

/// The flight that the cover would have answered this hello with; `None` where that cannot be made.
fn rebuild(shape: &FlightShape, hello: &ClientHello<'_>, mut random: impl FnMut(&mut [u8])) -> Option<Flight> {
    let offered = hello.cipher_suites.chunks_exact(2).any(|suite| suite == shape.cipher_suite.to_be_bytes());
    if shape.retry || !offered {
        return None;
    }
    let (_, client_share) = hello.key_shares().ok()?.into_iter().find(|(group, _)| *group == shape.group)?;
    let mut private = [0; shares::X25519_LEN];
    random(&mut private);
    let share = match shape.group {
        numbers::group::X25519MLKEM768 => shares::answer_x25519_mlkem768(client_share, private)?,
        numbers::group::X25519 => shares::answer_x25519(client_share, private)?,
        _ => return None,
    };
    let mut payload = vec![0; shape.records.iter().map(|size| usize::from(*size)).sum()];
    random(&mut payload);
    Flight::build(Plan {
        session_id: hello.session_id,
        cipher_suite: shape.cipher_suite,
        extensions: &shape.extensions,
        group: shape.group,
        key_share: &share,
        payload: &payload,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::super::NoObserver;
    use super::*;
    use crate::auth::{Judge, Keyring, ReplayMemory, Rules, TimeWindow};
    use crate::fixtures::captured;

    /// A stranger whose cover is away.
    async fn stranger() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outside = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (client, peer) = listener.accept().await.unwrap();
        let window = TimeWindow::new(Duration::from_secs(600));
        let rules = Rules { keyring: Keyring::new([]), window, names: None };
        let judge = Arc::new(Judge::new(rules, ReplayMemory::volatile()));
        let witness = Arc::new(NoObserver);
        let caller = Caller { client, peer, barred: None, judge, witness, extension: None };
        tokio::spawn(async move { receive(caller, &Profile::default()).await });
        outside
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_borne_as_long_as_elsewhere() {
        let (mut stranger, since) = (stranger().await, Instant::now());
        assert_eq!(stranger.read(&mut [0]).await.unwrap(), 0);
        let borne = since.elapsed().as_secs();
        assert!((60..=100).contains(&borne), "{borne} s");
    }

    #[tokio::test]
    async fn however_much_a_stranger_says_the_end_is_no_reset() {
        let mut stranger = stranger().await;
        stranger.write_all(&[b'x'; 200_000]).await.unwrap();
        let end = timeout(Duration::from_secs(20), stranger.read(&mut [0])).await.unwrap();
        assert_eq!(end.unwrap(), 0);
    }

    fn shape(group: u16) -> FlightShape {
        FlightShape {
            version: 0x0304,
            retry: false,
            cipher_suite: 0x1301,
            group,
            extensions: vec![51, 43],
            records: vec![23, 420, 96, 53],
            stable: true,
        }
    }

    /// How often each value of ten bits comes up in a compressed coefficient (FIPS 203, 4.2.1): 3 or 4 in 3329.
    fn preimages() -> Vec<f64> {
        let mut counts = vec![0.0; 1024];
        for x in 0..3329u32 {
            counts[((x * 1024 + 1664) / 3329 % 1024) as usize] += 1.0;
        }
        counts
    }

    /// The log-likelihood ratio of a ciphertext being ML-KEM's rather than uniformly random.
    fn likelihood(ciphertext: &[u8], preimages: &[f64]) -> f64 {
        let coefficients = ciphertext[..960].chunks_exact(5).flat_map(|five| {
            let word = five.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            (0..4).map(move |index| (word >> (10 * index)) as usize & 0x3ff)
        });
        coefficients.map(|value| (preimages[value] * 1024.0 / 3329.0).ln()).sum()
    }

    #[test]
    fn key_shares_are_real() {
        let preimages = preimages();
        let mut ratio = 0.0;
        let mut noise = 0.0;
        let hello = captured().into_iter().find(|hello| hello.file.starts_with("tdlib")).unwrap();
        let parsed = ClientHello::decode(&hello.record).unwrap();
        for _ in 0..20 {
            let hybrid = rebuild(&shape(numbers::group::X25519MLKEM768), &parsed, |_| {}).unwrap().into_bytes();
            let share = &hybrid[hybrid.len() - 592 - 5 - 6 - 6 - 1120..][..1120];
            assert!(share[1119] < 0x80, "the top bit of an X25519 value is clear");
            ratio += likelihood(&share[..1088], &preimages);
            let mut random = [0; 1088];
            rand::fill(&mut random);
            noise += likelihood(&random, &preimages);
        }
        assert!(ratio > 0.0 && noise < 0.0, "genuine {ratio}, random {noise}");
    }

    #[test]
    fn every_captured_hello_of_ours_can_be_answered() {
        for hello in captured().into_iter().filter(|hello| hello.signed.is_some()) {
            let parsed = ClientHello::decode(&hello.record).unwrap();
            let flight = rebuild(&shape(numbers::group::X25519), &parsed, |bytes| bytes.fill(7)).unwrap().into_bytes();
            assert_eq!(flight.len(), 127 + 6 + 5 + 592, "{}", hello.file);
            assert_eq!(&flight[44..76], parsed.session_id);
        }
    }

    #[test]
    fn what_the_hello_does_not_offer_is_not_answered() {
        let hello = captured().into_iter().find(|hello| hello.file.starts_with("tdesktop")).unwrap();
        let parsed = ClientHello::decode(&hello.record).unwrap();
        for shape in [
            shape(numbers::group::X25519MLKEM768),
            shape(0x0017),
            FlightShape { retry: true, ..shape(numbers::group::X25519) },
            FlightShape { cipher_suite: 0x1304, ..shape(numbers::group::X25519) },
            FlightShape { extensions: vec![51, 43, 41], ..shape(numbers::group::X25519) },
            FlightShape { records: vec![], ..shape(numbers::group::X25519) },
        ] {
            assert!(rebuild(&shape, &parsed, |_| {}).is_none(), "{shape:?}");
        }
    }
}
