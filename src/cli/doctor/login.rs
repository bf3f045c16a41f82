//! A client of our own: enters through the front as Telegram does, with a user's secret, and asks a data centre the
//! question that [`ping`] asks directly.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rand::CryptoRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::auth::{Domain, Secret, UnixTime};
use crate::cover::scout;
use crate::crypto::kdf::{Directions, MATERIAL, directions};
use crate::crypto::{Ctr, Mac};
use crate::net::{dial, sockopt};
use crate::telegram::DcId;
use crate::telegram::ping::{Odd, Question};
use crate::wire::HelloClass;
use crate::wire::client_hello::RANDOM_RANGE;
use crate::wire::obfuscated::{HEADER, PADDED_INTERMEDIATE};
use crate::wire::record::{self, Header, kind};
use crate::wire::server_flight;

/// Why a login failed.
#[derive(Debug)]
pub enum LoginError {
    /// No connection to the front.
    Unreachable(io::Error),
    /// The answer is not signed: whoever answers does not know the secret, or does not let it in.
    NotAdmitted,
    /// The connection ended behind a signed answer, or a record came that no proxy sends.
    Dropped,
    /// The data centre's answer is none.
    Odd(Odd),
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "no connection: {error}"),
            Self::NotAdmitted => f.write_str("answered as a stranger"),
            Self::Dropped => f.write_str("let in, but the data centre did not answer"),
            Self::Odd(odd) => write!(f, "let in, but {odd}"),
        }
    }
}

/// Who wants to enter.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The user's key.
    pub secret: Secret,
    /// The name in the hello.
    pub name: Domain,
}

impl Visitor {
    /// Enters and asks data centre `dc`: how long it took from the first packet to the answer. The caller limits the time.
    pub async fn log_in(
        &self,
        front: SocketAddr,
        dc: DcId,
        random: &mut impl CryptoRng,
    ) -> Result<Duration, LoginError> {
        let start = Instant::now();
        let mut stream = self.greet(front, random).await?;
        let (header, mut up, mut down) = client_header(&self.secret, dc, &array(random));
        let question = Question::new(array(random));
        let mut frame = question.frame(SystemTime::now().into());
        up.apply(&mut frame);
        let head = Header::application_data((HEADER + frame.len()) as u16).encode();
        let opening = [&record::CHANGE_CIPHER_SPEC[..], &head, &header, &frame].concat();
        stream.write_all(&opening).await.map_err(|_| LoginError::Dropped)?;

        let mut plain = Vec::new();
        loop {
            let mut record = read_record(&mut stream).await.map_err(|_| LoginError::Dropped)?;
            if record[0] != kind::APPLICATION_DATA {
                return Err(LoginError::Dropped);
            }
            down.apply(&mut record[record::HEADER..]);
            plain.extend_from_slice(&record[record::HEADER..]);
            if question.answer(&plain).map_err(LoginError::Odd)?.is_some() {
                return Ok(start.elapsed());
            }
        }
    }

    /// The first half of a login, up to an answer that is signed with the secret.
    pub async fn greet(&self, front: SocketAddr, random: &mut impl CryptoRng) -> Result<TcpStream, LoginError> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let mut stream = dial::dial(&[front], PATIENCE).await.map_err(LoginError::Unreachable)?;
        sockopt::no_delay(&stream);
        let hello = hello(&self.secret, &self.name, SystemTime::now().into(), random)
            .ok_or_else(|| LoginError::Unreachable(io::Error::other("no hello could be made")))?;
        stream.write_all(&hello).await.map_err(|_| LoginError::NotAdmitted)?;
        let mut flight = Vec::new();
        for expected in [kind::HANDSHAKE, kind::CHANGE_CIPHER_SPEC, kind::APPLICATION_DATA] {
            let record = read_record(&mut stream).await.map_err(|_| LoginError::NotAdmitted)?;
            if record[0] != expected {
                return Err(LoginError::NotAdmitted);
            }
            flight.extend(record);
        }
        if is_signed(&flight, &self.secret, &hello[RANDOM_RANGE]) { Ok(stream) } else { Err(LoginError::NotAdmitted) }
    }
}

async fn read_record(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = [0; record::HEADER];
    stream.read_exact(&mut head).await?;
    let mut record = head.to_vec();
    record.resize(record::HEADER + usize::from(Header::decode(head).length), 0);
    stream.read_exact(&mut record[record::HEADER..]).await?;
    Ok(record)
}

fn array<const N: usize>(random: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill_bytes(&mut bytes);
    bytes
}

/// A signed hello of TDLib's shape with this name; `None` if the crypto library fails.
fn hello(secret: &Secret, name: &Domain, now: UnixTime, random: &mut impl CryptoRng) -> Option<Vec<u8>> {
    let mut hello = scout::hello(HelloClass::ChromeHybrid, name, random)?;
    hello[RANDOM_RANGE].fill(0);
    let mut digest = Mac::new(secret.bytes()).digest(&[&hello]);
    for (byte, time) in digest[28..].iter_mut().zip((now.0 as u32).to_le_bytes()) {
        *byte ^= time;
    }
    hello[RANDOM_RANGE].copy_from_slice(&digest);
    Some(hello)
}

fn is_signed(flight: &[u8], secret: &Secret, client_random: &[u8]) -> bool {
    let random = server_flight::RANDOM;
    let Some(stamp) = flight.get(random.clone()) else { return false };
    let parts = [client_random, &flight[..random.start], &[0; 32], &flight[random.end..]];
    Mac::new(secret.bytes()).digest(&parts) == stamp
}

/// A client's header with the keystreams behind it. `free` fills what says nothing.
fn client_header(secret: &Secret, dc: DcId, free: &[u8; HEADER]) -> ([u8; HEADER], Ctr, Ctr) {
    const TAG: usize = 8 + MATERIAL;
    let mut header = *free;
    header[TAG..TAG + 4].copy_from_slice(&PADDED_INTERMEDIATE);
    header[TAG + 4..TAG + 6].copy_from_slice(&dc.number().to_le_bytes());
    let mut material = [0; MATERIAL];
    material.copy_from_slice(&header[8..TAG]);
    let Directions { up, down } = directions(&material, Some(secret.bytes()));
    let mut up = up.stream();
    let mut encrypted = header;
    up.apply(&mut encrypted);
    header[TAG..].copy_from_slice(&encrypted[TAG..]);
    (header, up, down.stream())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::auth::{Judge, Key, Keyring, Member, ReplayMemory, Rules, TimeWindow, Verdict};
    use crate::fixtures::vector;
    use crate::wire::client_hello::{ClientHello, HelloCollector, Progress};
    use crate::wire::obfuscated::open;

    fn secret() -> Secret {
        Secret::new([7; 16])
    }

    #[test]
    fn the_hello_is_admitted_under_its_name_and_keeps_its_shape() {
        let now = UnixTime(1_767_225_600);
        let name: Domain = "a-longer-name.example.com".parse().unwrap();
        let hello = hello(&secret(), &name, now, &mut StdRng::seed_from_u64(1)).unwrap();
        let mut collector = HelloCollector::default();
        assert_eq!(collector.feed(&hello), Progress::Whole);
        let decoded = ClientHello::decode(&hello).unwrap();
        assert_eq!(decoded.server_name, Some(name.as_str().as_bytes()));
        assert_eq!(HelloClass::of(&decoded), HelloClass::ChromeHybrid);
        let keyring = Keyring::new([Key::new(Member::new("alice"), secret())]);
        let rules = Rules { keyring, window: TimeWindow::new(Duration::ZERO), names: Some(vec![name]) };
        let judge = Judge::new(rules, ReplayMemory::volatile());
        assert!(matches!(judge.judge(&hello, [127, 0, 0, 1].into(), now), Verdict::Admit(_)));
    }

    #[test]
    fn flights_of_the_vectors_are_signed_for_their_hello_alone() {
        let (flight, hello) = (vector("flightA", "bytes"), vector("helloA", "record"));
        let secret = Secret::new(vector("const", "key").try_into().unwrap());
        assert!(is_signed(&flight, &secret, &hello[RANDOM_RANGE]));
        assert!(!is_signed(&flight, &secret, &[0; 32]));
        assert!(!is_signed(&flight[..20], &secret, &hello[RANDOM_RANGE]));
    }

    #[test]
    fn the_header_opens_under_its_secret() {
        let (header, ..) = client_header(&secret(), DcId::new(-4), &[0x33; HEADER]);
        assert_eq!(open(&header, secret().bytes()).unwrap().dc, -4);
        assert!(open(&header, &[8; 16]).is_none());
    }
}
