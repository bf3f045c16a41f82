//! The built-in site beside nginx with the same folder and certificate: whatever one answers to an oddity, the other
//! answers too. A server that can be told by its oddities marks every installation of this program.

#![expect(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::site::support::{Host, client};

/// Requests, one a line, as they are sent; `{n*text}` stands for a repetition.
const REQUESTS: &str = include_str!("site/oddities.txt");

/// Sent behind each, so that a connection that is still open shows itself and then ends.
const BEHIND: &[u8] = b"GET /a.txt HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n";

/// What differs, by a part of the request, each with its reason.
const ALLOWED: [(&str, &str); 4] = [
    ("GET /sub HTTP/1.0\\r\\n\\r\\n", "nginx names an address of the machine, which the site does not know"),
    ("Host: \\xe9", "the site passes hosts on as UTF-8"),
    ("Transfer-Encoding: chunked\\r\\nContent-Length: 3", "nginx waits five seconds before it closes"),
    ("gzip", "the bytes of zlib and of this encoder differ; heads are compared"),
];

/// How long an answer may take before the connection counts as open.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn oddities_are_answered_as_by_nginx() {
    let host = Arc::new(Host::folder().await);
    let root = host.dir.path().join("site");
    fs::write(root.join("a.txt"), "hello world\n").unwrap();
    let nginx = Arc::new(Nginx::start(&host).await);
    let mut asking = JoinSet::new();
    for line in REQUESTS.lines() {
        let (host, nginx) = (Arc::clone(&host), Arc::clone(&nginx));
        asking.spawn(async move {
            let request = [&unescaped(line)[..], BEHIND].concat();
            let (ours, theirs) =
                tokio::join!(ask(&host, host.stream(), &request), ask(&host, nginx.stream(), &request));
            (line, ours, theirs)
        });
    }
    let answers = asking.join_all().await;
    assert!(answers.len() >= 200, "{}", answers.len());
    let mut different = BTreeMap::new();
    for (line, ours, theirs) in answers {
        let heads_only = line.contains("gzip");
        let (ours, theirs) = if heads_only { (head_of(&ours), head_of(&theirs)) } else { (ours, theirs) };
        let reason = ALLOWED.iter().find(|(part, _)| line.contains(part) && !heads_only);
        if ours != theirs && reason.is_none() {
            different.insert(line.chars().take(120).collect::<String>(), (theirs, ours));
        }
    }
    let shown: Vec<_> = different
        .iter()
        .map(|(line, (theirs, ours))| {
            format!("{line}\n  nginx: {}\n  site:  {}", theirs.escape_ascii(), ours.escape_ascii())
        })
        .collect();
    assert!(shown.is_empty(), "{} differ without a reason:\n{}", shown.len(), shown.join("\n"));
}

/// All that comes back until the connection ends, without what differs by itself.
async fn ask<S>(host: &Host, stream: impl Future<Output = S>, request: &[u8]) -> Vec<u8>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = Arc::new(client(&[&TLS13], &[b"http/1.1"]));
    let mut stream = host.handshake(&config, stream.await).await.unwrap();
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    let talking = async {
        // A server that has heard enough may close before it has taken all.
        let _ = stream.write_all(request).await;
        let _ = stream.flush().await;
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..read]);
        }
    };
    let ended = timeout(PATIENCE, talking).await.is_ok();
    let mut answer = without(answer, b"\r\nDate: ", b"\r\n");
    answer = without(answer, b"boundary=", b"\r\n");
    answer = without(answer, b"\r\n--0000", b"\r\n");
    answer.extend_from_slice(if ended { b"<end>" } else { b"<open>" });
    answer
}

/// Cuts out what stands between two marks, everywhere.
fn without(mut answer: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let find = |text: &[u8], mark: &[u8]| text.windows(mark.len()).position(|window| window == mark);
    let mut at = 0;
    while let Some(start) = find(&answer[at..], from).map(|start| at + start + from.len()) {
        let length = find(&answer[start..], to).unwrap_or(0);
        answer.drain(start..start + length);
        at = start;
    }
    answer
}

fn head_of(answer: &[u8]) -> Vec<u8> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
    answer[..end].to_vec()
}

fn unescaped(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some(next) = rest.chars().next() {
        rest = &rest[next.len_utf8()..];
        if next == '{'
            && let Some((repeated, behind)) = rest.split_once('}')
            && let Some((times, text)) = repeated.split_once('*')
        {
            bytes.extend(unescaped(text).repeat(times.parse().unwrap()));
            rest = behind;
        } else if next == '\\' {
            let (byte, length) = match rest.as_bytes()[0] {
                b'r' => (b'\r', 1),
                b'n' => (b'\n', 1),
                b't' => (b'\t', 1),
                b'x' => (u8::from_str_radix(&rest[1..3], 16).unwrap(), 3),
                other => (other, 1),
            };
            bytes.push(byte);
            rest = &rest[length..];
        } else {
            bytes.extend(next.to_string().bytes());
        }
    }
    bytes
}

/// nginx as Debian configures it, with what stands there in comments switched on.
struct Nginx {
    socket: std::path::PathBuf,
    process: Child,
}

impl Nginx {
    async fn start(host: &Host) -> Nginx {
        let dir = host.dir.path().to_owned();
        let root = dir.display();
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log stderr;
             events {{}}
             http {{
               access_log off; server_tokens off; sendfile on;
               include /etc/nginx/mime.types; default_type application/octet-stream;
               gzip on; gzip_vary on; gzip_proxied any; gzip_comp_level 6; gzip_buffers 16 8k; gzip_http_version 1.1;
               gzip_types text/plain text/css application/json application/javascript text/xml application/xml
                 application/xml+rss text/javascript;
               client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
               uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
               server {{
                 listen unix:{root}/nginx.socket ssl http2;
                 ssl_protocols TLSv1.2 TLSv1.3;
                 ssl_certificate {root}/site.crt; ssl_certificate_key {root}/site.key;
                 server_name site.test; root {root}/site; index index.html;
                 location ~ /\\.(?!well-known(/|$)) {{ deny all; }}
               }}
             }}"
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();
        let process = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .args(["-p", &root.to_string(), "-e", "stderr"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let socket = dir.join("nginx.socket");
        let listens = async {
            while UnixStream::connect(&socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, listens).await.expect("nginx listens");
        Nginx { socket, process }
    }

    async fn stream(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The settings and the window that nginx greets with, before the client has said a word.
#[tokio::test]
async fn http2_greets_as_nginx_does() {
    let host = Host::folder().await;
    let nginx = Nginx::start(&host).await;
    let config = Arc::new(client(&[&TLS13], &[b"h2"]));
    let mut ours = host.handshake(&config, host.stream().await).await.unwrap();
    let mut theirs = host.handshake(&config, nginx.stream().await).await.unwrap();
    let (mut our_greeting, mut their_greeting) = ([0; 40], [0; 40]);
    let reading = async {
        ours.read_exact(&mut our_greeting).await.unwrap();
        theirs.read_exact(&mut their_greeting).await.unwrap();
    };
    timeout(PATIENCE, reading).await.expect("both greet");
    assert_eq!(our_greeting, their_greeting);
    // What is no preface gets a GOAWAY that says no more than its code.
    let (mut our_end, mut their_end) = (Vec::new(), Vec::new());
    let nonsense = b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n";
    let ending = async {
        ours.write_all(nonsense).await.unwrap();
        theirs.write_all(nonsense).await.unwrap();
        let _ = ours.read_to_end(&mut our_end).await;
        let _ = theirs.read_to_end(&mut their_end).await;
    };
    timeout(PATIENCE, ending).await.expect("both end");
    assert_eq!(our_end, their_end);
}
