//! What the integration tests share: clients, covers and data centres on loopback, and the comparison of transcripts.

// Each program links all of it and uses a part.
#![allow(dead_code, unused_imports)]

pub use ::vizard::audit::{corpus, dice, relay};
use sha2::{Digest, Sha256};

pub mod browser;
pub mod command;
pub mod fake_tls;
pub mod forest;
pub mod fork;
pub mod hello;
pub mod mock_dc;
pub mod mock_middle;
pub mod network;
pub mod nginx;
pub mod obfuscated;
pub mod origin;
pub mod packets;
pub mod probe;
pub mod raw_cover;
pub mod scrape;
pub mod server;
pub mod stage;
pub mod tap;
pub mod toy;
pub mod vizard;

/// The key that the captured hellos were signed with.
pub const KEY: hello::Key =
    [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

/// A key that no proxy in these tests knows.
pub const OTHER_KEY: hello::Key = [0x5a; 16];

/// Whether a program of the system is there. Where tests must be complete, its absence is a failure.
pub fn installed(program: &str) -> bool {
    let there = std::path::Path::new(program).exists();
    assert!(there || std::env::var_os("CI").is_none(), "{program} is not installed");
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

/// Held by tests that put load on the machine, one at a time, and shared by those that compare times.
static MACHINE: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

/// The machine for a test that loads it, or measures as finely as the audit does: within a program no other one that does
/// either runs meanwhile. Tests that mostly wait do not ask.
pub async fn turn() -> tokio::sync::RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// The machine without load, for tests that compare when something happens; they may run side by side.
pub async fn quiet() -> tokio::sync::RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

/// A listener for a program that cannot be given port 0: it is dropped, and the program told its address. The kernel would
/// give a port of its own choice to the next who asks; these it gives to no one by itself.
pub fn aside() -> std::net::TcpListener {
    loop {
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", rand::random_range(10_000..32_000))) {
            return listener;
        }
    }
}

/// Takes packets until the server ends: count and SHA-256 of their bytes, and the end.
pub async fn take_all(session: &mut fake_tls::Session) -> (mock_dc::Sum, fake_tls::End) {
    let mut hash = Sha256::new();
    let mut count = 0;
    loop {
        match session.down.frame().await {
            Ok(obfuscated::Frame::Packet(packet)) => {
                count += packet.len() as u64;
                hash.update(&packet);
            }
            Ok(obfuscated::Frame::Token(token)) => panic!("token {token:#x} out of nowhere"),
            Err(end) => return ((count, hash.finalize().into()), end),
        }
    }
}

/// SHA-256 of a file in hex.
pub fn sum_of_file(path: &std::path::Path) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(std::fs::read(path).expect("a file")))
}
