//! The eight goals: what is run for each, and what it is compared with.

use std::io;
use std::time::{Duration, Instant};

use crate::contestants::{Contestant, Cover, Stage, descriptors};
use crate::link::Door;
use crate::report::{Limit, Report};
use crate::scenarios::admissions::{self, Junk, Wait};
use crate::scenarios::bulk::{self, Bulk};
use crate::scenarios::fairness::{self, Fairness};
use crate::scenarios::idle::{self, Idle, Said};
use crate::scenarios::pingpong::{self, PingPong};
use crate::scenarios::requests::{self, Requests};
use crate::scenarios::stuck;
use crate::wire::{broken, check};
use Limit::{AtLeast, AtMost};

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds in which contestants take turns.
    pub rounds: usize,
    /// After this long in one row of rounds no further one is begun.
    pub patience: Duration,
    /// Bytes of one bulk transfer.
    pub bytes: u64,
    /// Bytes that each idle connection moves once.
    pub each: u64,
    /// Idle connections.
    pub sessions: usize,
    /// Messages of one ping-pong.
    pub messages: usize,
    /// Connections of ping-pongs.
    pub lanes: Vec<usize>,
    /// Clients that enter in one round, requests of visitors in one round.
    pub clients: usize,
    /// Clients whose wait is measured in one round.
    pub waits: usize,
    /// Readers that get stuck.
    pub stuck: usize,
    /// Sessions of the curve.
    pub curve: Vec<usize>,
    /// Secrets of the crowded proxy.
    pub secrets: usize,
}

impl Plan {
    /// What the goals speak of.
    pub fn full() -> Self {
        Self {
            rounds: 5,
            patience: Duration::MAX,
            bytes: 1 << 30,
            each: 1 << 20,
            sessions: 10_000,
            messages: 20_000,
            lanes: vec![1, 64, 500],
            clients: 3_000,
            waits: 200,
            stuck: 1_000,
            curve: vec![10, 100, 1_000, 10_000],
            secrets: 1_000,
        }
    }

    /// A little of everything, to see that it works and not how fast.
    pub fn quick() -> Self {
        Self {
            rounds: 1,
            patience: Duration::MAX,
            bytes: 4 << 20,
            each: 1 << 16,
            sessions: 20,
            messages: 40,
            lanes: vec![1, 8],
            clients: 40,
            waits: 3,
            stuck: 4,
            curve: vec![2, 8],
            secrets: 20,
        }
    }
}

impl Plan {
    /// So many rounds, as far as there is time for them; at least one.
    fn rounds_of(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let (began, patience) = (Instant::now(), self.patience);
        (1..=count).take_while(move |round| {
            let in_time = *round == 1 || began.elapsed() < patience;
            if in_time {
                eprintln!("  round {round} of {count} …");
            } else {
                eprintln!("  no time for more rounds");
            }
            in_time
        })
    }
}

/// What a run has.
pub struct Run<'a> {
    /// Far ends and programs.
    pub stage: &'a Stage,
    /// How much.
    pub plan: &'a Plan,
    /// What came of it.
    pub report: &'a mut Report,
    /// Someone else's proxy in place of the program under test.
    pub target: Option<Target>,
}

/// Someone else's proxy.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub addr: std::net::SocketAddr,
    /// How clients enter it.
    pub door: Door,
    /// Its process.
    pub pid: Option<u32>,
    /// Whether it passes strangers on to the site's far end.
    pub visits: bool,
}

impl Run<'_> {
    /// Runs what one goal needs, and judges it.
    pub async fn goal(&mut self, number: u8) -> io::Result<()> {
        match number {
            1 => self.bulk(1, true, 1.1).await,
            2 => self.bulk(2, false, 1.35).await,
            3 => self.idle().await,
            4 => self.visits().await,
            5 => self.latency().await,
            6 => self.admissions().await,
            7 => self.stuck().await,
            8 => self.scale().await,
            _ => Err(broken(format!("there is no goal {number}"))),
        }
    }

    fn rounds(&self) -> impl Iterator<Item = usize> + use<> {
        self.plan.rounds_of(self.plan.rounds)
    }

    /// The proxy as its clients meet it.
    fn proxy(&self) -> io::Result<Contestant> {
        match &self.target {
            Some(target) => Ok(Contestant::elsewhere(target.addr, target.door.clone(), target.pid)),
            None => self.stage.vizard(Cover::Site, 1),
        }
    }

    /// The proxy as strangers meet it, if it passes them on to us.
    fn visited(&mut self, goal: u8) -> io::Result<Option<Contestant>> {
        match &self.target {
            Some(Target { addr, pid, visits: true, door: Door::FakeTls(greeting) }) => {
                Ok(Some(Contestant::elsewhere(*addr, Door::Visit { name: greeting.name.clone() }, *pid)))
            }
            Some(_) => {
                self.report.left_out.push(format!("goal {goal}: the target passes no one on to the load tool"));
                Ok(None)
            }
            None => self.stage.vizard_for_visitors().map(Some),
        }
    }

    /// The bare relays, the program under test, and someone else's proxy if there is one. The last is the one that is
    /// compared.
    fn lineup(&self) -> io::Result<Vec<Contestant>> {
        let mut lineup = vec![self.stage.copy()?, self.stage.splice()?, self.stage.vizard(Cover::Site, 1)?];
        if self.target.is_some() {
            lineup.push(self.proxy()?);
        }
        Ok(lineup)
    }

    async fn bulk(&mut self, goal: u8, down: bool, most: f64) -> io::Result<()> {
        let lineup = self.lineup()?;
        let all = [1, 16].map(|connections| Bulk { down, connections, bytes: self.plan.bytes });
        for _ in self.rounds() {
            for bulk in all {
                bulk.round("session", &lineup, self.report).await?;
                if !down {
                    self.report.add(&bulk.name("session"), bulk::CIPHERS, bulk::CPU, bulk::ciphers()?);
                }
            }
        }
        for bulk in all {
            let (name, pair) = (bulk.name("session"), [&*lineup[lineup.len() - 1].name, "copy"]);
            let [copy, ciphers] = ["copy", bulk::CIPHERS].map(|who| self.report.median(&name, who, bulk::CPU));
            if let (Some(copy), Some(ciphers)) = (copy, ciphers) {
                // No relay can be below it, whatever the goal.
                self.report.add(&name, "floor", "copy and ciphers / copy", (copy + ciphers) / copy);
            }
            self.report.check_ratio(goal, &name, bulk::CPU, pair, AtMost(most));
        }
        Ok(())
    }

    async fn idle(&mut self) -> io::Result<()> {
        let idle = Idle { connections: self.plan.sessions, bytes: self.plan.each };
        idle.measure("sessions", &self.stage.copy()?, self.report).await?;
        let fewer = Idle { connections: idle.connections.min(room(6)), ..idle };
        fewer.measure("sessions", &self.stage.splice()?, self.report).await?;
        let proxy = self.proxy()?;
        idle.measure("sessions", &proxy, self.report).await?;
        self.check_idle(3, &idle.name("sessions"), &proxy.name);
        Ok(())
    }

    fn check_idle(&mut self, goal: u8, name: &str, who: &str) {
        for (metric, most) in [(idle::FRESH, 3.0), (idle::USED, 3.0), (idle::DESCRIPTORS, 2.001)] {
            if let Some(value) = self.report.median(name, who, metric) {
                self.report.check(goal, format!("{name}: {metric}"), value, AtMost(most));
            }
        }
    }

    async fn visits(&mut self) -> io::Result<()> {
        let Some(proxy) = self.visited(4)? else { return Ok(()) };
        let ours = proxy.name.clone();
        let mut lineup = Vec::from_iter(self.stage.haproxy()?);
        if lineup.is_empty() {
            // As among the tests: where everything must be there, it must.
            check(std::env::var_os("CI").is_none(), || "haproxy is not installed".to_owned())?;
            self.report.left_out.push("goal 4: haproxy is not installed, so there is no yardstick".to_owned());
        }
        lineup.push(proxy);
        let pair = [&*ours, "haproxy"];
        let transfers: Vec<Bulk> = [(true, 1), (true, 16), (false, 1), (false, 16)]
            .map(|(down, connections)| Bulk { down, connections, bytes: self.plan.bytes })
            .to_vec();
        let messages =
            PingPong { size: 1024, connections: 64.min(self.plan.sessions), messages: self.plan.messages / SHORT };
        let requests = Requests { size: 1024, count: self.plan.clients / SHORT };
        for _ in self.rounds() {
            for bulk in &transfers {
                bulk.round("visit", &lineup, self.report).await?;
            }
            for _ in 0..SHORT {
                messages.round("requests", &lineup, self.report).await?;
                requests.round("requests", &lineup, self.report).await?;
                lineup.reverse();
            }
        }
        for bulk in transfers {
            self.report.check_ratio(4, &bulk.name("visit"), bulk::CPU, pair, AtMost(1.0));
            self.report.check_ratio(4, &bulk.name("visit"), bulk::RATE, pair, AtLeast(0.95));
        }
        self.report.check_ratio(4, &messages.name("requests"), pingpong::RATE, pair, AtLeast(1.0));
        self.report.check_ratio(4, &requests.name("requests"), requests::RATE, pair, AtLeast(1.0));
        drop(lineup);

        let idle = Idle { connections: self.plan.sessions, bytes: self.plan.each };
        if let Some(haproxy) = self.stage.haproxy()? {
            idle.measure("visitors", &haproxy, self.report).await?;
        }
        let Some(proxy) = self.visited(4)? else { return Ok(()) };
        idle.measure("visitors", &proxy, self.report).await?;
        self.check_idle(4, &idle.name("visitors"), &proxy.name);
        if self.target.is_some() {
            return Ok(());
        }
        // The goal speaks of those that are passed on; these are what the site costs, with the proxy and without.
        for said in [Said::Nothing, Said::Hello] {
            for contestant in [self.stage.bare_site()?, self.stage.vizard(Cover::Site, 1)?] {
                idle::at_the_site(self.plan.sessions, said, &contestant, self.report).await?;
            }
        }
        Ok(())
    }

    async fn latency(&mut self) -> io::Result<()> {
        let mut lineup = self.lineup()?;
        let pair = [&*lineup[lineup.len() - 1].name.clone(), "copy"];
        lineup.push(self.stage.copy_again()?);
        let mut all = Vec::new();
        for size in [100, 1024] {
            for connections in &self.plan.lanes {
                // One by one they take long, and are many enough with less.
                let messages = self.plan.messages / if *connections == 1 { 4 } else { 1 };
                all.push(PingPong { size, connections: *connections, messages });
            }
        }
        for _ in self.plan.rounds_of(self.plan.rounds * SHORT) {
            for pingpong in &all {
                pingpong.round("ping-pong", &lineup, self.report).await?;
                // Anyone who comes right behind another finds the machine as that one has left it.
                lineup.rotate_left(1);
            }
            pingpong::tails("small tails", &lineup, self.report).await?;
        }
        for pingpong in all {
            let name = pingpong.name("ping-pong");
            for metric in [pingpong::P50, pingpong::P99] {
                // In these few rounds no one can be held to less than the yardstick differs from itself by.
                let itself = self.report.ratio(&name, metric, ["again", "copy"]).unwrap_or(1.0);
                self.report.check_ratio(5, &name, metric, pair, AtMost(itself.max(1.0 / itself).max(1.1)));
            }
        }
        Ok(())
    }

    async fn admissions(&mut self) -> io::Result<()> {
        if self.target.is_some() {
            let proxy = self.proxy()?;
            for _ in self.rounds() {
                admissions::rate("entering", self.plan.clients, std::slice::from_ref(&proxy), self.report).await?;
            }
            return Ok(());
        }
        self.rate().await?;
        self.remote_latency().await?;
        self.crowd().await
    }

    async fn rate(&mut self) -> io::Result<()> {
        let name = "entering through the built-in site";
        let lineup = [self.stage.bare_site()?, self.stage.vizard(Cover::Site, 1)?];
        for _ in self.rounds() {
            admissions::rate(name, self.plan.clients, &lineup, self.report).await?;
        }
        self.report.check_ratio(6, name, admissions::RATE, ["vizard", "site"], AtLeast(0.8));
        Ok(())
    }

    async fn remote_latency(&mut self) -> io::Result<()> {
        let name = "the flight through a remote cover";
        let site = self.stage.bare_site()?;
        let relay = self.stage.copy_to(site.addr, site.door.clone())?;
        let proxy = self.stage.vizard(Cover::Remote(site.addr), 1)?;
        for _ in self.rounds() {
            for contestant in [&site, &relay, &proxy] {
                let times = admissions::latency(contestant, Wait::Flight, self.plan.waits, PAUSE).await?;
                admissions::add_latency(name, &contestant.name, times, self.report);
            }
        }
        self.report.check_ratio(6, name, admissions::P50, ["vizard", "copy"], AtMost(1.1));
        Ok(())
    }

    async fn crowd(&mut self) -> io::Result<()> {
        let names = ["entering, one secret", "entering, many secrets and junk"];
        let (alone, crowded) = (self.stage.vizard(Cover::Site, 1)?, self.stage.vizard(Cover::Site, self.plan.secrets)?);
        for _ in self.rounds() {
            let times = admissions::latency(&alone, Wait::Message, self.plan.waits, PAUSE).await?;
            admissions::add_latency(names[0], &alone.name, times, self.report);
            let _junk = Junk::start(crowded.addr, 100);
            let times = admissions::latency(&crowded, Wait::Message, self.plan.waits, PAUSE).await?;
            admissions::add_latency(names[1], &crowded.name, times, self.report);
        }
        let [alone, crowded] =
            names.map(|name| self.report.median(name, "vizard", admissions::P99).unwrap_or_default());
        self.report.check(
            6,
            "many secrets and junk: p99 of entering grows by, ms".to_owned(),
            crowded - alone,
            AtMost(2.0),
        );
        Ok(())
    }

    async fn stuck(&mut self) -> io::Result<()> {
        let name = format!("{} stuck readers", self.plan.stuck);
        let mut ours = String::new();
        for _ in self.rounds() {
            // New ones each time: memory that an earlier rush has left behind would hide what a later one takes.
            for contestant in [self.stage.copy()?, self.stage.splice()?, self.proxy()?] {
                stuck::measure(&name, self.plan.stuck, &contestant, self.report).await?;
                ours = contestant.name;
            }
        }
        for (metric, most) in [(stuck::MORE, 2.0), (stuck::GROWTH, 0.1), (stuck::LEFT, 0.0)] {
            if let Some(value) = self.report.median(&name, &ours, metric) {
                self.report.check(7, format!("{name}: {metric}"), value, AtMost(most));
            }
        }
        Ok(())
    }

    async fn scale(&mut self) -> io::Result<()> {
        let lineup = [self.stage.copy()?, self.proxy()?];
        let ours = lineup[1].name.clone();
        let bulk = |connections| Bulk { down: true, connections, bytes: self.plan.bytes };
        let pings = |connections| PingPong { size: 1024, connections, messages: self.plan.messages };
        let neighbours = Fairness { connections: 64.min(self.plan.sessions), messages: self.plan.messages / 16 };
        for _ in self.rounds() {
            for connections in &self.plan.curve {
                bulk(*connections).round("scale", &lineup, self.report).await?;
                pings(*connections).round("scale", &lineup, self.report).await?;
            }
            for _ in 0..SHORT {
                neighbours.round(&lineup, self.report).await?;
            }
            fairness::cores("cores", 16, self.plan.bytes, &lineup[1], self.report).await?;
        }
        drop(lineup);
        for connections in &self.plan.curve {
            let idle = Idle { connections: *connections, bytes: self.plan.each };
            idle.measure("sessions", &self.proxy()?, self.report).await?;
        }
        let (few, many) = (self.plan.curve[0], self.plan.curve[self.plan.curve.len() - 1]);
        let scenarios = [
            (bulk(few).name("scale"), bulk(many).name("scale"), bulk::CPU),
            (pings(few).name("scale"), pings(many).name("scale"), pingpong::CPU),
        ];
        for (few, many, metric) in scenarios {
            let growth =
                |who: &str| Some(self.report.median(&many, who, metric)? / self.report.median(&few, who, metric)?);
            let [Some(proxy), Some(copy)] = [&*ours, "copy"].map(growth) else { continue };
            let what = format!("{metric} from few to many, {ours} {proxy:.2}, copy {copy:.2}: growth against growth");
            self.report.check(8, what, proxy / copy, AtMost(1.25));
        }
        for metric in [fairness::P50, fairness::P99] {
            self.report.check_ratio(8, &neighbours.name(), metric, [&ours, "copy"], AtMost(1.25));
        }
        if let Some(share) = self.report.median("cores", &ours, fairness::SHARE) {
            self.report.check(8, "share of the laziest core in a transfer".to_owned(), share, AtLeast(0.5));
        }
        Ok(())
    }
}

/// How many connections a process has descriptors for that needs so many for each. vizard keeps 256 for everything else.
pub fn room(each: u64) -> usize {
    (descriptors().saturating_sub(400) / each) as usize
}

/// The tail of short waits falls out one way or the other as threads happen to be placed, so many short rounds tell more
/// than few long ones.
const SHORT: usize = 3;

/// Between two clients whose wait is measured.
const PAUSE: Duration = Duration::from_millis(2);
