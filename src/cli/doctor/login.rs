//! A client of our own: enters through the front as Telegram does, with a user's secret, and asks a data centre the
//! question that [`ping`] asks directly.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rand::CryptoRng;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::auth::{Domain, Secret, UnixTime};
use crate::net::{dial, sockopt};
use crate::telegram::ping::{Odd, Question};
use crate::telegram::{DcId, hop};
use crate::wire::obfuscated::{self, HEADER};
use crate::wire::packets::Framing;
use crate::wire::record::{self, Header, kind};
use crate::wire::{HelloClass, fake_tls};

/// Reason why a login failed.
#[derive(Debug)]
pub enum LoginError {
    /// No connection to the front.
    Unreachable(io::Error),
    /// The answer is not signed: the one who answers does not know the secret, or does not let it in.
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
            Self::NotAdmitted => f.write_str("rejected: answered as a visitor"),
            Self::Dropped => f.write_str("accepted, but the data centre did not answer"),
            Self::Odd(odd) => write!(f, "accepted, but {odd}"),
        }
    }
}

/// Credentials for a login.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The user's key.
    pub secret: Secret,
    /// The name in the hello.
    pub name: Domain,
}

impl Visitor {
    /// Enters over this connection and asks data centre `dc`: how long it took from the first packet to the answer. The
    /// caller limits the time.
    pub async fn log_in(
        &self,
        front: TcpStream,
        dc: DcId,
        random: &mut impl CryptoRng,
    ) -> Result<Duration, LoginError> {
        let start = Instant::now();
        let mut stream = self.greet_over(front, random).await?;
        let (header, mut up, down) =
            obfuscated::seal_for_proxy(dc.number(), Framing::Padded, self.secret.bytes(), || array(random));
        let mut down = down.stream();
        let question = Question::new(array(random));
        let mut frame = question.frame(SystemTime::now().into());
        up.apply(&mut frame);
        let head = Header::application_data((HEADER + frame.len()) as u16).encode();
        let opening = [&record::CHANGE_CIPHER_SPEC[..], &head, &header, &frame].concat();
        stream.write_all(&opening).await.map_err(|_| LoginError::Dropped)?;

        let mut plain = Vec::new();
        loop {
            let mut record = hop::read_record(&mut stream).await.map_err(|_| LoginError::Dropped)?;
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
        let stream = dial::dial(&[front], PATIENCE).await.map_err(LoginError::Unreachable)?;
        sockopt::no_delay(&stream);
        self.greet_over(stream, random).await
    }

    /// The same over a connection that is there.
    pub async fn greet_over(
        &self,
        mut stream: TcpStream,
        random: &mut impl CryptoRng,
    ) -> Result<TcpStream, LoginError> {
        let hello = self
            .hello(SystemTime::now().into(), random)
            .ok_or_else(|| LoginError::Unreachable(io::Error::other("no hello could be made")))?;
        hop::greet(&mut stream, &self.secret, &hello).await.map_err(|_| LoginError::NotAdmitted)?;
        Ok(stream)
    }

    /// A hello of TDLib's shape; `None` if the crypto library fails.
    fn hello(&self, now: UnixTime, random: &mut impl CryptoRng) -> Option<Vec<u8>> {
        let (name, key, time) = (self.name.as_str(), self.secret.bytes(), now.0 as u32);
        fake_tls::signed_hello(HelloClass::ChromeHybrid, name, key, time, random)
    }
}

fn array<const N: usize>(random: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::auth::{Judge, Key, Keyring, Member, ReplayMemory, Rules, TimeWindow, Verdict};
    use crate::wire::client_hello::{ClientHello, HelloCollector, Progress};

    fn secret() -> Secret {
        Secret::new([7; 16])
    }

    #[test]
    fn the_hello_is_admitted_under_its_name_and_keeps_its_shape() {
        let now = UnixTime(1_767_225_600);
        let name: Domain = "a-longer-name.example.com".parse().unwrap();
        let visitor = Visitor { secret: secret(), name: name.clone() };
        let hello = visitor.hello(now, &mut StdRng::seed_from_u64(1)).unwrap();
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
}
