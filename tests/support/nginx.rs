//! A real nginx as the cover.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::origin::{NAME, Origin};

const BINARY: &str = "/usr/sbin/nginx";

/// How long nginx waits for a handshake, a request and a next request. Short, so that a test sees it happen.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// A running nginx; it ends with this value.
pub struct Nginx {
    pub addr: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl Nginx {
    /// As it comes. `None` where nginx is not installed.
    pub async fn start(origin: &Origin, uploads: SocketAddr) -> Option<Self> {
        Self::start_with(origin, uploads, "").await
    }

    /// With more directives for its site.
    pub async fn start_with(origin: &Origin, uploads: SocketAddr, more: &str) -> Option<Self> {
        if !super::installed(BINARY) {
            return None;
        }
        for _ in 0..10 {
            if let Some(nginx) = Self::attempt(origin, uploads, more).await {
                return Some(nginx);
            }
        }
        panic!("nginx did not start in ten attempts");
    }

    /// The port is free when it is chosen; `None` if someone else has taken it before nginx could.
    async fn attempt(origin: &Origin, uploads: SocketAddr, more: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let addr = super::aside().local_addr().expect("an address");
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, configuration(dir.path(), origin, addr, uploads, more))
            .expect("writes the configuration");
        let mut command = Command::new(BINARY);
        command.arg("-p").arg(dir.path()).arg("-c").arg(&file).arg("-e").arg(dir.path().join("error.log"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut nginx = Self { addr, child: child.expect("nginx runs"), _dir: dir };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if nginx.child.try_wait().expect("nginx is our child").is_some() {
                return None;
            }
            if tokio::net::TcpStream::connect(addr).await.is_ok() {
                return Some(nginx);
            }
            tokio::task::yield_now().await;
        }
        None
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One process, so that ending the child ends nginx.
fn configuration(dir: &Path, origin: &Origin, addr: SocketAddr, uploads: SocketAddr, more: &str) -> String {
    let (dir, seconds) = (dir.display(), TIMEOUT.as_secs());
    let (certificate, key) = (origin.certificate(), origin.key());
    let (certificate, key, folder) = (certificate.display(), key.display(), origin.folder());
    let folder = folder.display();
    format!(
        "daemon off; master_process off; pid {dir}/pid; worker_rlimit_nofile 8192;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; default_type application/octet-stream; types {{ text/html html; }}
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
            uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
            client_header_timeout {seconds}s; keepalive_timeout {seconds}s; client_max_body_size 0;
            ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
            ssl_session_cache shared:tickets:1m;
            server {{
                listen {addr} ssl http2; server_name {NAME}; root {folder}; {more}
                location /upload {{
                    proxy_pass http://{uploads}; proxy_request_buffering off; proxy_http_version 1.1;
                }}
            }}
        }}\n"
    )
}
