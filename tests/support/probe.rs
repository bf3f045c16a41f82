//! A probe is a name, a generator and a seed. It is played against the cover, against a bare relay in front of the
//! cover, and against the proxy; what the proxy shows must be what one of the other two shows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::dice::Dice;
use super::fake_tls::End;
use super::transcript::{After, Transcript};

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
    /// Played first, on a connection of its own, and not compared.
    pub before: Vec<Step>,
    pub steps: Vec<Step>,
    /// The first hello, for the session id that it should get back.
    pub hello: Option<Vec<u8>>,
    /// The proxy may admit the hello, and joins the encrypted records of a cover that sends several.
    pub join: bool,
}

type Generator = Box<dyn Fn(&mut Dice) -> Script + Send + Sync>;

/// A script for every seed.
pub struct Probe {
    pub name: String,
    generator: Generator,
}

impl Probe {
    pub fn new(name: impl Into<String>, generator: impl Fn(&mut Dice) -> Script + Send + Sync + 'static) -> Self {
        Self { name: name.into(), generator: Box::new(generator) }
    }

    /// The conversation of this seed. A repeated round gets another seed, since a proxy never forgets a hello.
    pub fn script(&self, seed: u64) -> Script {
        (self.generator)(&mut Dice::new(seed))
    }
}

/// The three targets, and how long a prober waits for an end.
#[derive(Clone, Copy, Debug)]
pub struct Lineup {
    pub cover: SocketAddr,
    pub relay: SocketAddr,
    pub proxy: SocketAddr,
    pub limit: Duration,
    /// The cover sends its encrypted flight as one record, so nothing is joined, neither by the proxy nor here.
    pub one_record: bool,
}

/// Outcome of a comparison.
#[derive(Debug, Default)]
pub struct Report {
    pub probes: usize,
    /// The proxy did what neither cover nor relay ever did, and did it again.
    pub differences: Vec<Finding>,
    /// Everything else that was not alike on all three at the first attempt.
    pub noise: Vec<Finding>,
}

/// A probe whose transcripts were not alike.
#[derive(Clone, Debug)]
pub struct Finding {
    pub probe: String,
    pub text: String,
}

impl Report {
    /// Panics with every difference.
    pub fn expect_none(&self) {
        for Finding { probe, text } in &self.noise {
            eprintln!("noise in {probe}:\n{text}");
        }
        let found: Vec<_> = self.differences.iter().map(|found| format!("{}:\n{}", found.probe, found.text)).collect();
        assert!(found.is_empty(), "{} of {} probes differ\n{}", found.len(), self.probes, found.join("\n"));
    }
}

/// How many probes run at once. Each talks to three targets.
const AT_ONCE: usize = 64;

/// How often a probe is repeated once its transcripts were not alike.
const ROUNDS: u64 = 5;

/// Plays every probe against all three targets.
pub async fn compare(probes: Vec<Probe>, lineup: Lineup) -> Report {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut report = Report { probes: probes.len(), ..Report::default() };
    let seed = Dice::unseen().number();
    let mut running = Vec::new();
    for (index, probe) in probes.into_iter().enumerate() {
        let permits = permits.clone();
        running.push(tokio::spawn(async move {
            let _permit = permits.acquire_owned().await.expect("the semaphore is open");
            judge(&probe, lineup, seed.wrapping_add((index as u64) << 8)).await
        }));
    }
    for task in running {
        match task.await.expect("no probe panics") {
            Outcome::Same => {}
            Outcome::Noise(finding) => report.noise.push(finding),
            Outcome::Different(finding) => report.differences.push(finding),
        }
    }
    report
}

enum Outcome {
    Same,
    Noise(Finding),
    Different(Finding),
}

async fn judge(probe: &Probe, lineup: Lineup, seed: u64) -> Outcome {
    let mut honest: Vec<Transcript> = Vec::new();
    let mut suspect: Vec<Transcript> = Vec::new();
    for round in 0..ROUNDS {
        let [cover, relay, proxy] = round_of(probe, lineup, seed + round).await;
        if round == 0 && cover.same(&relay) && cover.same(&proxy) {
            return Outcome::Same;
        }
        honest.extend([cover, relay]);
        suspect.push(proxy);
    }
    let strange = |proxy: &&Transcript| !honest.iter().any(|known| known.same(proxy));
    let odd: Vec<_> = suspect.iter().filter(strange).collect();
    let shown = odd.first().copied().unwrap_or(&suspect[0]);
    let text = format!(
        "  seed  {seed:#x}, {} of {ROUNDS} rounds\n  cover {}\n  relay {}\n  proxy {shown}",
        odd.len(),
        honest[0],
        honest[1]
    );
    let finding = Finding { probe: probe.name.clone(), text };
    // One stray may be the machine's fault. Where cover and relay never waver, two are the proxy's.
    let steady = honest.iter().all(|known| known.same(&honest[0]));
    let bearable = if steady { 1 } else { ROUNDS as usize / 2 };
    if odd.len() > bearable { Outcome::Different(finding) } else { Outcome::Noise(finding) }
}

/// All three at once, begun in random order, so that they share whatever the machine is busy with.
async fn round_of(probe: &Probe, lineup: Lineup, seed: u64) -> [Transcript; 3] {
    let mut script = probe.script(seed);
    script.join &= !lineup.one_record;
    let script = Arc::new(script);
    let targets = [lineup.cover, lineup.relay, lineup.proxy];
    let mut order = [0, 1, 2];
    Dice::new(seed).shuffle(&mut order);
    let mut tasks: [Option<tokio::task::JoinHandle<Transcript>>; 3] = [None, None, None];
    for target in order {
        let script = script.clone();
        tasks[target] = Some(tokio::spawn(async move { play(&script, targets[target], lineup.limit).await }));
    }
    let [cover, relay, proxy] = tasks.map(|task| task.expect("each was begun"));
    let done = tokio::join!(cover, relay, proxy);
    [done.0, done.1, done.2].map(|transcript| transcript.expect("no probe panics"))
}

/// Plays a script against one target.
pub async fn play(script: &Script, target: SocketAddr, limit: Duration) -> Transcript {
    if !script.before.is_empty() {
        let mut player = Player::connect(target, limit).await;
        player.perform(&script.before).await;
    }
    let mut player = Player::connect(target, limit).await;
    player.perform(&script.steps).await;
    let flight = player.flight.unwrap_or(player.reply.len());
    let mut transcript = Transcript::new(&player.reply, script.hello.as_deref(), script.join.then_some(flight));
    transcript.end = player.end.unwrap_or(End::Open);
    transcript.took = player.ended_at.saturating_duration_since(player.acted_at);
    transcript.after = player.after;
    transcript
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
    async fn connect(target: SocketAddr, limit: Duration) -> Self {
        let stream = TcpStream::connect(target).await.expect("the target accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        let now = Instant::now();
        let (reply, after) = (Vec::new(), After::NotTried);
        Self { stream: Some(stream), limit, reply, flight: None, end: None, acted_at: now, ended_at: now, after }
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
            stream.set_zero_linger().expect("a socket option");
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
