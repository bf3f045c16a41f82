//! The two halves of a session in memory: what the relay adds to moving the bytes.
//!
//! ```text
//! cargo bench --bench relay
//! ```

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vizard::crypto::kdf::KeyIv;
use vizard::relay::downlink::{Downlink, FRAMING_BUFFER};
use vizard::relay::sizing::Pattern;
use vizard::relay::uplink::Uplink;
use vizard::wire::record::Header;

/// Payload of the records that official clients send in bulk.
const CLIENT_RECORD: usize = 2878;

fn keys(seed: u8) -> KeyIv {
    KeyIv { key: [seed; 32], iv: [seed; 16] }
}

fn uplink(criterion: &mut Criterion) {
    // A part of a file, in a frame of its own. The stream begins again each time, so that its length is read as it was sent.
    let records = 64 * 1024 / (5 + CLIENT_RECORD);
    let body = records * CLIENT_RECORD - 4;
    let mut plain = [&(body as u32).to_le_bytes()[..], &vec![0x5a; body]].concat();
    keys(1).stream().apply(&mut plain);
    let mut wire = Vec::new();
    for payload in plain.chunks(CLIENT_RECORD) {
        wire.extend_from_slice(&Header::application_data(CLIENT_RECORD as u16).encode());
        wire.extend_from_slice(payload);
    }
    let mut buffer = wire.clone();
    let mut group = criterion.benchmark_group("uplink");
    group.throughput(Throughput::Bytes(wire.len() as u64));
    group.bench_function("64 KiB of records", |bencher| {
        bencher.iter(|| {
            let mut uplink = Uplink::new(keys(1).stream(), keys(2).stream(), 0);
            // The copy stands for the read that the kernel does here.
            buffer.copy_from_slice(&wire);
            let (payload, outcome) = uplink.transform(black_box(&mut buffer));
            (outcome, payload.len())
        });
    });
    // What it cannot do without.
    group.bench_function("two passes of AES alone", |bencher| {
        let (mut from_client, mut to_dc) = (keys(1).stream(), keys(2).stream());
        bencher.iter(|| {
            from_client.apply(black_box(&mut buffer));
            to_dc.apply(black_box(&mut buffer));
        });
    });
    group.finish();
}

/// Frames of a file download: 128 KiB parts.
fn stream(length: usize) -> Vec<u8> {
    let frame = [&(128u32 << 10).to_le_bytes()[..], &vec![0x11; 128 << 10]].concat();
    let mut bytes: Vec<u8> = frame.iter().copied().cycle().take(length).collect();
    keys(3).stream().apply(&mut bytes);
    bytes
}

fn downlink(criterion: &mut Criterion) {
    const READ: usize = 64 * 1024;
    let stream = stream(16 << 20);
    let mut group = criterion.benchmark_group("downlink");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    for (name, moved) in [("16 MiB untouched", false), ("16 MiB after a NOP frame", true)] {
        group.bench_function(name, |bencher| {
            let mut buffer = vec![0; FRAMING_BUFFER];
            bencher.iter(|| {
                let mut downlink = Downlink::new(keys(3), Pattern::default());
                let mut sent = if moved { downlink.nops(19, || 0).map_or(0, |record| record.len()) } else { 0 };
                for piece in stream.chunks(READ) {
                    // The copy stands for the read that the kernel does here.
                    let mut left = piece;
                    for mut slice in downlink.room(&mut buffer) {
                        let (now, later) = left.split_at(left.len().min(slice.len()));
                        slice[..now.len()].copy_from_slice(now);
                        left = later;
                    }
                    sent += downlink.frame(&mut buffer, piece.len(), || 0);
                }
                sent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, uplink, downlink);
criterion_main!(benches);
