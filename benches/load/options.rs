//! What the load tool can be asked for.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use vizard::audit::captured::{self, Captured};
use vizard::auth::SecretText;

use super::goals::{Plan, Target, room};
use super::link::{Door, Greeting};
use super::wire::broken;

/// Measures a Telegram proxy beside bare relays: CPU time, memory, latency and throughput, with checked payload
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo bench --bench load --", disable_help_subcommand = true)]
pub struct Options {
    #[command(subcommand)]
    pub what: What,

    /// Write everything that was measured to this file
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// A little of everything, to see that it works and not how fast
    #[arg(long, global = true)]
    pub quick: bool,

    /// Rounds in which contestants take turns
    #[arg(long, global = true, value_name = "N")]
    rounds: Option<usize>,

    /// Begin no more rounds once these minutes are nearly used up [default: 5 for each three rows of rounds, of which
    /// goals 1, 2, 4, 5 and 8 have one, goal 6 three]
    #[arg(long, global = true, value_name = "N")]
    minutes: Option<u64>,

    /// Idle sessions and visitors, and the end of the curve of goal 8
    #[arg(long, global = true, value_name = "N")]
    sessions: Option<usize>,

    /// MiB of one bulk transfer
    #[arg(long, global = true, value_name = "N")]
    mib: Option<u64>,

    /// Messages of one ping-pong
    #[arg(long, global = true, value_name = "N")]
    messages: Option<usize>,

    /// The program under test, if not the one that cargo has built for benches
    #[arg(long, global = true, value_name = "FILE")]
    proxy_binary: Option<PathBuf>,

    /// Whose hello clients send, a file of fixtures/client_hello without its ending; old proxies take only those of 517
    /// bytes, such as tdesktop-5.7.2-1
    #[arg(long, global = true, value_name = "NAME", default_value = "tdlib-1.8.69-1")]
    hello: String,

    /// Measure the proxy that listens here too, and compare it instead; needs --secret, and --pid for CPU time and memory
    #[arg(long, global = true, value_name = "ADDR:PORT", requires = "secret")]
    target: Option<SocketAddr>,

    /// Its `ee` secret
    #[arg(long, global = true, value_name = "EE")]
    secret: Option<String>,

    /// The number of its process
    #[arg(long, global = true, value_name = "PID")]
    pid: Option<u32>,

    /// The data centre that clients ask it for
    #[arg(long, global = true, value_name = "N", default_value_t = 2, allow_hyphen_values = true)]
    dc: i16,

    /// Where the mock data centre listens; a target has to be told, or to find it there
    #[arg(long, global = true, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub dc_listen: SocketAddr,

    /// Where the mock site of visits listens; name it if the target passes strangers on to it
    #[arg(long, global = true, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub site_listen: SocketAddr,
}

/// The scenarios; each is what the goal of this number needs.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// All goals, or those of these numbers (1 to 8)
    Goals {
        /// Their numbers
        #[arg(value_parser = clap::value_parser!(u8).range(1..=8))]
        numbers: Vec<u8>,
    },
    /// Goal 1: bulk to the clients over 1 and 16 sessions
    Downlink,
    /// Goal 2: bulk from the clients over 1 and 16 sessions
    Uplink,
    /// Goal 3: memory and descriptors of idle sessions, fresh and after use
    Idle,
    /// Goal 4: strangers that are passed on, beside HAProxy in tcp mode
    Visits,
    /// Goal 5: ping-pong over 1, 64 and 500 sessions
    Pingpong,
    /// Goal 6: how many enter in a second, and how long it takes them
    Admissions,
    /// Goal 7: readers that stop reading
    Stuck,
    /// Goal 8: the cost from 10 to 10 000 sessions, cores, and fairness
    Scale,
}

impl What {
    /// The goals that it stands for.
    pub fn goals(&self) -> Vec<u8> {
        match self {
            Self::Goals { numbers } if numbers.is_empty() => (1..=8).collect(),
            Self::Goals { numbers } => numbers.clone(),
            Self::Downlink => vec![1],
            Self::Uplink => vec![2],
            Self::Idle => vec![3],
            Self::Visits => vec![4],
            Self::Pingpong => vec![5],
            Self::Admissions => vec![6],
            Self::Stuck => vec![7],
            Self::Scale => vec![8],
        }
    }
}

impl Options {
    /// Whether this word is one of the commands.
    pub fn is_command(word: &str) -> bool {
        <Self as clap::CommandFactory>::command().get_subcommands().any(|command| command.get_name() == word)
    }

    /// A little of everything.
    pub fn quick() -> Self {
        Self::parse_from(["load", "goals", "--quick"])
    }

    /// How much of everything.
    pub fn plan(&self) -> Plan {
        let mut plan = if self.quick { Plan::quick() } else { Plan::full() };
        plan.rounds = self.rounds.unwrap_or(plan.rounds).max(1);
        plan.patience = self.patience();
        plan.bytes = self.mib.map_or(plan.bytes, |mib| mib.max(1) << 20);
        plan.messages = self.messages.unwrap_or(plan.messages).max(8);
        let most = self.sessions.unwrap_or(plan.sessions).max(1);
        if self.sessions.is_some() || most > room(2) {
            // The relays need two descriptors for each, and so do client and far end, which share a process.
            plan.sessions = most.min(room(2));
            plan.curve.retain(|count| *count < plan.sessions);
            plan.curve.push(plan.sessions);
        }
        plan
    }

    /// How long each row of rounds may take. A fifth of the time is for what has no rounds, and for the last one of each.
    fn patience(&self) -> Duration {
        let rows = |goal: &u8| match goal {
            3 | 7 => 0,
            6 => 3,
            _ => 1,
        };
        let rows: u64 = self.what.goals().iter().map(rows).sum::<u64>().max(1);
        let minutes = self.minutes.unwrap_or(5 * rows.div_ceil(3));
        Duration::from_secs(minutes * 48 / rows)
    }

    /// The program under test.
    pub fn proxy(&self) -> PathBuf {
        self.proxy_binary.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_vizard").into())
    }

    /// Whose hello clients send.
    pub fn hello(&self) -> io::Result<&'static Captured> {
        captured::find(&self.hello).ok_or_else(|| broken(format!("no captured hello is called {}", self.hello)))
    }

    /// Someone else's proxy, if one is to be measured.
    pub fn target(&self) -> io::Result<Option<Target>> {
        let (Some(addr), Some(secret)) = (self.target, &self.secret) else { return Ok(None) };
        let text = SecretText::parse(secret).map_err(io::Error::other)?;
        let Some(domain) = text.domain else { return Err(broken("an `ee` secret names a domain")) };
        let (key, name, dc, hello) = (*text.secret.bytes(), domain.to_string(), self.dc, self.hello()?);
        let door = Door::FakeTls(Greeting { key, name, dc, hello });
        Ok(Some(Target { addr, door, pid: self.pid, visits: self.site_listen.port() != 0 }))
    }
}
