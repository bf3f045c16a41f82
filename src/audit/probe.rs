//! A probe is a name, a generator and a seed: what a censor says to a server, and what is noted of its answer.

use std::fmt;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::dice::Dice;
use super::fake_tls::End;
use super::hello::Key;
use super::transcript::{After, Transcript};

/// Whom the probes are about: what the configuration says that a client has to know.
#[derive(Clone)]
pub struct Subject {
    /// The secret of one user.
    pub key: Key,
    /// The name that hellos ask for.
    pub name: String,
    /// Number of the data centre in headers.
    pub dc: i16,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("name", &self.name).field("dc", &self.dc).finish_non_exhaustive()
    }
}

/// Input of a generator: random numbers, and the subject of the probe.
#[derive(Debug)]
pub struct Draw<'a> {
    dice: Dice,
    /// For what must not come a second time: a proxy never forgets a hello that it has admitted.
    pub once: Dice,
    /// Whom it is about.
    pub subject: &'a Subject,
}

impl Deref for Draw<'_> {
    type Target = Dice;

    fn deref(&self) -> &Dice {
        &self.dice
    }
}

impl DerefMut for Draw<'_> {
    fn deref_mut(&mut self) -> &mut Dice {
        &mut self.dice
    }
}

/// One act of the prober.
#[derive(Clone, Debug)]
pub enum Step {
    /// One write, which is one segment as long as it fits into one.
    Send(Vec<u8>),
    /// Waits until the server has said something and then stopped, or has ended.
    AwaitFlight,
    /// FIN.
    Finish,
    /// RST, and the end of the script.
    Reset,
    /// Reads on until the server ends or the limit is reached.
    AwaitEnd,
    /// Writes one byte after the server's FIN.
    Poke,
}

/// A whole conversation.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Played first, each on a connection of its own, and not compared.
    pub before: Vec<Vec<Step>>,
    /// The conversation.
    pub steps: Vec<Step>,
    /// The first hello, for the session id that it should get back.
    pub hello: Option<Vec<u8>>,
    /// The proxy may admit the hello, and joins the encrypted records of a cover that sends several.
    pub join: bool,
}

/// The kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Hellos of real clients, and hellos of other shapes.
    Shapes,
    /// The ten hellos of the JARM fingerprint.
    Jarm,
    /// Names in the hello.
    Names,
    /// Other protocols.
    NotTls,
    /// Random bytes of many lengths.
    Lengths,
    /// Records that no client sends.
    Records,
    /// A hello for the second time, at a wrong time, or changed.
    Replay,
    /// Recorded hellos and headers, put together anyhow.
    Recorded,
    /// Bytes after an admitted hello.
    SecondFlight,
    /// Records whose last byte is held back on the way.
    Held,
    /// Hellos cut short, silence, and who ends first.
    Time,
    /// Places where a flight is cut into segments.
    Segments,
    /// Records behind the client's second flight, in sessions and in visits.
    Greeting,
    /// Ends of sessions and of visits.
    Ends,
    /// Lifetimes of silent connections.
    Idle,
    /// Time of the first answer.
    Latency,
    /// Time of the first answer to hellos of one form, against those of another.
    Forms,
    /// Requests with values in the form of those of WEB proxies.
    Bridge,
    /// Statistics of first flights, for which an observer sends no byte.
    Passive,
}

impl Class {
    /// Every class, in the order of reports.
    pub const ALL: [Class; 19] = [
        Class::Shapes,
        Class::Jarm,
        Class::Names,
        Class::NotTls,
        Class::Lengths,
        Class::Records,
        Class::Replay,
        Class::Recorded,
        Class::SecondFlight,
        Class::Held,
        Class::Time,
        Class::Segments,
        Class::Greeting,
        Class::Ends,
        Class::Idle,
        Class::Latency,
        Class::Forms,
        Class::Bridge,
        Class::Passive,
    ];

    /// Its name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Shapes => "hello shapes",
            Self::Jarm => "JARM",
            Self::Names => "names",
            Self::NotTls => "not TLS",
            Self::Lengths => "random bytes and lengths",
            Self::Records => "malformed records",
            Self::Replay => "replay, clock and mutation",
            Self::Recorded => "recorded pairs",
            Self::SecondFlight => "second flight",
            Self::Held => "held bytes",
            Self::Time => "time and closing",
            Self::Segments => "segments",
            Self::Greeting => "greeting",
            Self::Ends => "ends",
            Self::Idle => "idle",
            Self::Latency => "latency",
            Self::Forms => "form against form",
            Self::Bridge => "bridge",
            Self::Passive => "passive flight statistics",
        }
    }
}

/// Access that an attacker needs to see a difference; the least access is the worst and comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Needs {
    /// Only the packets of others.
    Watching,
    /// One connection of his own.
    Connection,
    /// The hello of a real client, or a place on its way.
    CapturedHello,
    /// The secret.
    Secret,
}

impl Needs {
    /// The same for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Watching => "by watching",
            Self::Connection => "with one connection",
            Self::CapturedHello => "with a captured hello",
            Self::Secret => "with the secret",
        }
    }
}

/// Duration class of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A few seconds.
    Quick,
    /// Longer than the time-outs of usual web servers.
    Patient,
}

type Generator = Arc<dyn Fn(&mut Draw<'_>) -> Script + Send + Sync>;

/// A script for every seed.
#[derive(Clone)]
pub struct Probe {
    /// Its name, unlike that of any other.
    pub name: String,
    /// Its kind.
    pub class: Class,
    /// Access that an attacker needs to do the same.
    pub needs: Needs,
    /// Duration class.
    pub pace: Pace,
    generator: Generator,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Probe").field(&self.name).finish()
    }
}

impl Probe {
    /// A quick probe that takes one connection.
    pub fn new(name: impl Into<String>, generator: impl Fn(&mut Draw<'_>) -> Script + Send + Sync + 'static) -> Self {
        let (class, needs, pace) = (Class::Shapes, Needs::Connection, Pace::Quick);
        Self { name: name.into(), class, needs, pace, generator: Arc::new(generator) }
    }

    /// The same in this class.
    pub fn of(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// The same, for which someone needs this.
    pub fn needing(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// The same, waiting until the server ends of its own accord.
    pub fn patient(self) -> Self {
        Self { pace: Pace::Patient, ..self }
    }

    /// The conversation of this seed. Only what a proxy must not have seen before is drawn again each time.
    pub fn script(&self, seed: u64, subject: &Subject) -> Script {
        (self.generator)(&mut Draw { dice: Dice::new(seed), once: Dice::unseen(), subject })
    }
}

/// Plays a script against one target, waiting for its end until the limit.
pub async fn play(script: &Script, target: SocketAddr, limit: Duration) -> Transcript {
    for before in &script.before {
        let Ok(mut player) = Player::connect(target, limit).await else { return Transcript::unreachable() };
        player.perform(before).await;
    }
    let Ok(mut player) = Player::connect(target, limit).await else { return Transcript::unreachable() };
    player.perform(&script.steps).await;
    let flight = player.flight.unwrap_or(player.reply.len());
    let mut transcript = Transcript::new(&player.reply, script.hello.as_deref(), script.join.then_some(flight));
    transcript.end = player.end.unwrap_or(End::Open);
    transcript.took = player.ended_at.saturating_duration_since(player.acted_at);
    transcript.after = player.after;
    transcript
}

/// Says `hello` and gives the first flight as it came; nothing if none did.
pub async fn overhear(hello: &[u8], target: SocketAddr, limit: Duration) -> Vec<u8> {
    let Ok(mut player) = Player::connect(target, limit).await else { return Vec::new() };
    player.perform(&[Step::Send(hello.to_vec()), Step::AwaitFlight, Step::Reset]).await;
    player.reply
}

/// Time from the hello to the first byte of the answer.
pub async fn first_byte(hello: &[u8], target: SocketAddr, limit: Duration) -> Option<Duration> {
    let mut player = Player::connect(target, limit).await.ok()?;
    let start = Instant::now();
    player.send(hello).await;
    let came = player.read_until(start + limit).await;
    let took = start.elapsed();
    player.reset();
    came.then_some(took)
}

/// A pause that shows that a server has said what it had to say.
const PAUSE: Duration = Duration::from_millis(250);

struct Player {
    stream: Option<TcpStream>,
    limit: Duration,
    reply: Vec<u8>,
    /// Length of the reply when the first flight was over.
    flight: Option<usize>,
    end: Option<End>,
    acted_at: Instant,
    ended_at: Instant,
    after: After,
}

impl Player {
    async fn connect(target: SocketAddr, limit: Duration) -> std::io::Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let now = Instant::now();
        let (reply, after) = (Vec::new(), After::NotTried);
        Ok(Self { stream: Some(stream), limit, reply, flight: None, end: None, acted_at: now, ended_at: now, after })
    }

    async fn perform(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Send(bytes) => self.send(bytes).await,
                Step::AwaitFlight => self.await_flight().await,
                Step::Finish => self.finish().await,
                Step::Reset => self.reset(),
                Step::AwaitEnd => self.await_end().await,
                Step::Poke => self.poke().await,
            }
        }
    }

    /// A target that has ended already takes nothing more; that it has is what the transcript will say.
    async fn send(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        if self.end.is_none() {
            let _ = stream.write_all(bytes).await;
            self.acted_at = Instant::now();
        }
    }

    async fn finish(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        if self.end.is_none() {
            let _ = stream.shutdown().await;
            self.acted_at = Instant::now();
        }
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.set_zero_linger();
        }
    }

    async fn await_flight(&mut self) {
        let end = Instant::now() + self.limit;
        while self.reply.is_empty() && self.read_until(end).await {}
        while self.read_until(Instant::now() + PAUSE).await {}
        self.flight.get_or_insert(self.reply.len());
    }

    async fn await_end(&mut self) {
        let end = self.acted_at + self.limit;
        while self.read_until(end).await {}
    }

    /// Whether bytes came.
    async fn read_until(&mut self, end: Instant) -> bool {
        let (Some(stream), None) = (&mut self.stream, self.end) else { return false };
        self.reply.reserve(64 << 10);
        let Ok(read) = timeout_at(end, stream.read_buf(&mut self.reply)).await else { return false };
        if let Ok(1..) = read {
            return true;
        }
        self.end = Some(if read.is_ok() { End::Fin } else { End::Reset });
        self.ended_at = Instant::now();
        false
    }

    async fn poke(&mut self) {
        let (Some(stream), Some(End::Fin)) = (&mut self.stream, self.end) else { return };
        let wrote = stream.write_all(b"x").await;
        let reset = timeout(Duration::from_secs(1), stream.ready(tokio::io::Interest::ERROR)).await;
        self.after = if wrote.is_err() || reset.is_ok() { After::Reset } else { After::Quiet };
    }
}
