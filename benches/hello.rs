//! Parsing a ClientHello and judging it against 1, 100 and 1000 secrets, for a member and for a stranger; what each secret
//! costs; and what a session asks its member before each read.
//!
//! ```text
//! cargo bench --bench hello
//! ```

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::task::Waker;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vizard::auth::{
    Direction, Judge, Key, Keyring, Member, Period, Policy, Quota, ReplayMemory, Rules, Secret, TimeWindow, UnixTime,
};
use vizard::wire::{ClientHello, HelloCollector};

/// A short hello, captured from Telegram Desktop.
const SHORT: &[u8] = include_bytes!("../fixtures/client_hello/tdesktop-5.7.2-1.bin");
/// A captured hello of TDLib, and the key and time in it.
const HELLO: &[u8] = include_bytes!("../fixtures/client_hello/tdlib-1.8.69-1.bin");
const KEY: [u8; 16] = [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn judge(members: usize) -> Judge {
    let others = (1..members).map(|number| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number.to_le_bytes());
        Key::new(Member::new(number.to_string()), Secret::new(key))
    });
    let captured = Key::new(Member::new("captured"), Secret::new(KEY));
    let keyring = Keyring::new(std::iter::once(captured).chain(others));
    Judge::new(Rules { keyring, window: TimeWindow::new(Duration::MAX), names: None }, ReplayMemory::volatile())
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.bench_function("collect", |bencher| {
        bencher.iter(|| HelloCollector::default().feed(black_box(HELLO)));
    });
    group.bench_function("decode", |bencher| bencher.iter(|| ClientHello::decode(black_box(HELLO))));
    group.finish();
}

fn stranger(hello: &[u8]) -> Vec<u8> {
    let mut hello = hello.to_vec();
    hello[44] ^= 1;
    hello
}

fn judging(criterion: &mut Criterion) {
    let stranger = stranger(HELLO);
    let mut group = criterion.benchmark_group("judge");
    for members in [1, 100, 1000] {
        let judge = judge(members);
        // After the first time a replay: the search and the digest are the same, and the memory is asked too.
        for (who, hello) in [("member", HELLO), ("stranger", &stranger)] {
            group.bench_with_input(BenchmarkId::new(who, members), hello, |bencher, hello| {
                bencher.iter(|| judge.judge(black_box(hello), HERE, UnixTime(0)));
            });
        }
    }
    group.finish();
}

/// What each of a thousand secrets costs, for a short hello and a long one.
fn searching(criterion: &mut Criterion) {
    const SECRETS: usize = 1000;
    let mut group = criterion.benchmark_group("search");
    group.throughput(Throughput::Elements(SECRETS as u64));
    let judge = judge(SECRETS);
    for hello in [SHORT, HELLO] {
        group.bench_with_input(BenchmarkId::from_parameter(hello.len()), &stranger(hello), |bencher, hello| {
            bencher.iter(|| judge.judge(black_box(hello), HERE, UnixTime(0)));
        });
    }
    group.finish();
}

/// What a session asks before each read: of one without limits, of one with a rate and a quota.
fn asking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ask");
    let limits = Policy {
        quota: Some(Quota { bytes: u64::MAX, period: Period::CalendarMonth }),
        bandwidth_up: Some(u64::MAX),
        ..Policy::default()
    };
    for (who, policy) in [("free", Policy::default()), ("limited", limits)] {
        let member = Member::new(who);
        member.set_policy(policy);
        group.bench_function(who, |bencher| {
            let now = (Instant::now(), UnixTime(1_767_225_600));
            bencher.iter(|| {
                if black_box(&member).is_metered() {
                    black_box(member.ask(Direction::Up, now.0, now.1, Waker::noop()));
                    member.charge(Direction::Up, 16_384, now.0, now.1);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parse, judging, searching, asking);
criterion_main!(benches);
