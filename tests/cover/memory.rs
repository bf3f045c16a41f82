//! What clients that ask for much and read nothing can make the built-in site keep in memory.

#![expect(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rustls::version::TLS13;
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::site::support::client;
use crate::support::origin::{NAME, Origin};
use crate::support::vizard::{Setup, Vizard};

const CONNECTIONS: usize = 4;
const STREAMS: u32 = 128;

/// For 4 connections with 128 requests each: what the streams hold, the compressed file, and what a process grows by itself.
/// With an encoder for each request it was 1300 MB.
const BOUND: u64 = 64 << 20;

#[tokio::test]
async fn clients_that_do_not_read_cost_little() {
    let origin = Origin::make();
    fs::write(origin.folder().join("huge.css"), "p{color:#000;margin:1px}\n".repeat(335_544)).unwrap();
    let state = tempfile::tempdir().unwrap();
    let vizard = Setup::site(state.path(), &origin).domain(NAME).start();
    let config = Arc::new(client(&[&TLS13], &[b"h2"]));
    for encoding in ["identity", "gzip", "br"] {
        let before = resident(&vizard);
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(vizard.addr).await.unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            let mut stream = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.unwrap();
            stream.write_all(&demand(encoding)).await.unwrap();
            stream.flush().await.unwrap();
            open.push(stream);
        }
        let mut peak = before;
        // Long enough for encoders to fill what there is to fill: at ten looks in a row nothing grows.
        let mut still = 0;
        while still < 10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = resident(&vizard);
            still = if now > peak { 0 } else { still + 1 };
            peak = peak.max(now);
            assert!(peak - before < BOUND, "{encoding}: {} MB", (peak - before) >> 20);
        }
    }
}

/// A client's preface with windows as large as can be, and requests for the large file on all streams.
fn demand(encoding: &str) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let field = |name: &str, value: &str| {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [vec![0], text(name), text(value)].concat()
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    bytes.extend(frame(8, 0, 0, &[0x7f, 0xff, 0, 0]));
    let fields = [field(":path", "/huge.css"), field(":authority", NAME), field("accept-encoding", encoding)];
    let block = [vec![0x82, 0x87], fields.concat()].concat();
    (0..STREAMS).for_each(|stream| bytes.extend(frame(1, 5, 2 * stream + 1, &block)));
    bytes
}

fn resident(vizard: &Vizard) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", vizard.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
