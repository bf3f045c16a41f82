//! The replay memory at ten million entries: what a hello costs, what a start costs, what an entry costs.
//!
//! `cargo bench --bench replay` on two shared virtual cores of a 2026 server, file in the page cache:
//!
//! | what | figure |
//! |---|---|
//! | start from a file of ten million | 0.6 to 0.8 s |
//! | resident after that start | 51 MiB, 5.4 bytes an entry |
//! | resident when grown one by one | 49 MiB, 5.2 bytes an entry |
//! | a fresh hello, without and with the file | 0.9 µs, 1.3 µs |
//! | a repeated hello | 0.5 to 0.8 µs, nearly all of it cache misses |
//! | the file | 153 MiB, 16 bytes an entry |

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::Criterion;
use vizard::auth::{ReplayMemory, SecretTag};

const ENTRIES: u64 = 10_000_000;

/// Names the file that a child of this program fills, so that what filling it freed is not reused by what is measured.
const FILL: &str = "VIZARD_BENCH_REPLAY_FILL";

fn main() {
    if let Some(path) = env::var_os(FILL) {
        return fill_file(Path::new(&path));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("replay");
    let this = env::current_exe().expect("this program");
    assert!(Command::new(this).env(FILL, &path).status().expect("a child").success());
    let memory = start(&path);
    let mut criterion = Criterion::default().configure_from_args();
    spend(&mut criterion, "volatile", &grown());
    spend(&mut criterion, "on disk", &memory);
    criterion.final_summary();
}

/// A hello seen for the first time and one seen before, on a memory that holds ten million.
fn spend(criterion: &mut Criterion, kind: &str, memory: &ReplayMemory) {
    let mut group = criterion.benchmark_group(format!("replay/{kind}"));
    let mut fresh = ENTRIES;
    group.bench_function("fresh", |bencher| {
        bencher.iter(|| {
            fresh += 1;
            memory.spend(tag(), black_box(&authenticator(fresh)))
        });
    });
    let mut old = 0;
    group.bench_function("repeated", |bencher| {
        bencher.iter(|| {
            old = (old + 1) % ENTRIES;
            memory.spend(tag(), black_box(&authenticator(old)))
        });
    });
    group.finish();
}

/// Writes the file through a memory, as a proxy would have.
fn fill_file(path: &Path) {
    let (memory, _) = ReplayMemory::open(path, &[tag()]).expect("a new file");
    fill("on disk", &memory);
    memory.sync().expect("room on the disk");
}

/// Opens the file of ten million, tells how long that took and what it takes.
fn start(path: &Path) -> ReplayMemory {
    let before = resident();
    let begun = Instant::now();
    let (memory, loaded) = ReplayMemory::open(path, &[tag()]).expect("the file");
    eprintln!("start from a file of {} entries: {:.0?}", loaded.entries, begun.elapsed());
    tell_size("loaded", &memory, before);
    memory
}

/// A memory that took its ten million one by one.
fn grown() -> ReplayMemory {
    let before = resident();
    let memory = ReplayMemory::volatile();
    fill("volatile", &memory);
    tell_size("grown", &memory, before);
    memory
}

/// Spends ten million and tells how long that took, and the longest of them: no one may wait for a table to grow.
fn fill(kind: &str, memory: &ReplayMemory) {
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    for number in 0..ENTRIES {
        let before = Instant::now();
        memory.spend(tag(), &authenticator(number));
        longest = longest.max(before.elapsed());
    }
    eprintln!("{kind}: {ENTRIES} spends in {:.1?}, the longest {longest:.1?}", begun.elapsed());
}

fn tell_size(kind: &str, memory: &ReplayMemory, before: u64) {
    let bytes = resident().saturating_sub(before);
    eprintln!("{kind}: {} MiB resident, {:.2} bytes an entry", bytes >> 20, bytes as f64 / memory.len() as f64);
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn tag() -> SecretTag {
    SecretTag::of(&[7; 16])
}

/// Bytes as evenly spread as a digest and cheaper to make (SplitMix64).
fn authenticator(number: u64) -> [u8; 28] {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mut bytes = [0; 28];
    bytes[..8].copy_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
    bytes
}
