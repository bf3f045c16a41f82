//! Clients that another program hands on: they keep their address, and everybody else is still a visitor of the cover.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::dice::Dice;
use crate::support::fake_tls::{Login, Refused, Session, read_flight};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::{NAME, Origin};
use crate::support::vizard::{Setup, Vizard};
use crate::support::{KEY, installed};
use data_encoding::HEXLOWER;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The only address that the user of these tests may come from.
const HOME: &str = "127.0.0.77";

/// A name that the front leads elsewhere.
const NEIGHBOUR: &str = "neighbour.test";

/// The proxy with its site, a data centre, and what is in front of it.
struct Bed {
    proxy: Vizard,
    origin: Origin,
    _dc: MockDc,
    _state: TempDir,
}

impl Bed {
    async fn start(section: &str) -> Self {
        let (dc, origin) = (MockDc::start(Role::Echo).await, Origin::make());
        let state = tempfile::tempdir().expect("a temporary folder");
        let file = origin.path().join("vizard.toml");
        std::fs::write(&file, configuration(&origin, &dc, "listen = [\"127.0.0.1:0\"]", section)).expect("writes");
        let setup = Setup::file(state.path(), &file);
        let proxy = tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts");
        Self { proxy, origin, _dc: dc, _state: state }
    }

    /// The TCP address that was asked for second.
    async fn second(&self) -> SocketAddr {
        let line: serde_json::Value = serde_json::from_str(&self.proxy.logged("\"started\"").await).expect("JSON");
        let listeners = line["listen"].as_str().expect("a list").trim_matches(['[', ']']).to_owned();
        listeners.split(", ").nth(1).expect("a second one").parse().expect("an address")
    }
}

fn configuration(origin: &Origin, dc: &MockDc, listen: &str, section: &str) -> String {
    let (certificate, key, folder) = (origin.certificate(), origin.key(), origin.folder());
    let (certificate, key, folder) = (certificate.display(), key.display(), folder.display());
    let secret = HEXLOWER.encode(&KEY);
    format!(
        "{listen}\ndomain = \"{NAME}\"\n{section}\n\
         [site]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\nfolder = \"{folder}\"\n\
         [telegram.addresses]\n2 = [\"{}\"]\n\
         [[users]]\nname = \"alice\"\nsecret = \"{secret}\"\nallow = [\"{HOME}\", \"2001:db8:77::/48\"]\n",
        dc.addr
    )
}

fn login() -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen())
}

/// Enters as someone at `from`.
async fn enter_from(from: &str, front: SocketAddr) -> Result<Session, Refused> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{from}:0").parse().expect("an address")).expect("a loopback address");
    let stream = socket.connect(front).await.expect("someone listens");
    enter(stream, b"").await
}

async fn enter(mut stream: TcpStream, header: &[u8]) -> Result<Session, Refused> {
    let login = login();
    say(&mut stream, header, &login).await;
    let flight = read_flight(&mut stream, &login.key, &login.random).await?;
    Ok(login.session(stream, flight))
}

async fn say(stream: &mut TcpStream, header: &[u8], login: &Login) {
    stream.write_all(header).await.expect("it is read");
    stream.write_all(&login.wire).await.expect("it is read");
}

async fn works(session: Result<Session, Refused>, what: &str) {
    let mut session = session.unwrap_or_else(|refused| panic!("{what}: {refused:?}"));
    session.echo(&[7; 3000]).await.unwrap_or_else(|end| panic!("{what}: {end:?}"));
}

fn is_a_visit(outcome: &Result<Session, Refused>, what: &str) {
    assert!(matches!(outcome, Err(Refused::Digest)), "{what}: the cover should have answered");
}

/// What comes back when the page is asked for under this name.
async fn page(front: SocketAddr, name: &str, from: &str) -> String {
    let port = front.port();
    let mut curl = Command::new("/usr/bin/curl");
    curl.args(["--silent", "--show-error", "--insecure", "--noproxy", "*", "--interface", from]);
    curl.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}/")]);
    let output = tokio::task::spawn_blocking(move || curl.output()).await.expect("no panic").expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a page")
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_those_who_are_believed_name_the_client() {
    let bed = Bed::start("[proxy_protocol]\nlisten = [\"127.0.0.1:0\"]").await;
    let front = bed.second().await;
    let connect = || async { TcpStream::connect(front).await.expect("it listens") };
    let at_home = format!("PROXY TCP4 {HOME} 198.51.100.1 50123 443\r\n");
    works(enter(connect().await, at_home.as_bytes()).await, "version 1").await;
    works(enter(connect().await, b"PROXY TCP6 2001:db8:77::5 2001:db8::1 9 443\r\n").await, "IPv6").await;
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\x7f\0\0\x4d\xc6\x33\x64\x01\xc3\xcb\x01\xbb".to_vec();
    binary.extend(b"\x04\0\x01\0");
    works(enter(connect().await, &binary).await, "version 2").await;
    for (other, what) in [
        (&b"PROXY TCP4 192.0.2.9 198.51.100.1 50123 443\r\n"[..], "an address that is not alice's"),
        (b"PROXY UNKNOWN\r\n", "the front itself"),
    ] {
        is_a_visit(&enter(connect().await, other).await, what);
    }
    // On the other listener no one speaks for others.
    is_a_visit(&enter_from("127.0.0.1", bed.proxy.addr).await, "no header");
    works(enter_from(HOME, bed.proxy.addr).await, "alice herself").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_believed_and_sends_no_header_is_given_up() {
    let bed = Bed::start("[proxy_protocol]\nlisten = [\"127.0.0.1:0\"]").await;
    let mut stream = TcpStream::connect(bed.second().await).await.expect("it listens");
    say(&mut stream, b"", &login()).await;
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    assert!(said.is_empty());
    bed.proxy.logged("no PROXY protocol header").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_others_are_a_visitors_words() {
    let bed = Bed::start("[proxy_protocol]\nlisten = [\"127.0.0.1:0\"]\nfrom = [\"192.0.2.0/24\"]").await;
    let front = bed.second().await;
    works(enter_from(HOME, front).await, "no header is expected").await;
    let mut stream = TcpStream::connect(front).await.expect("it listens");
    stream.write_all(format!("PROXY TCP4 {HOME} 198.51.100.1 50123 443\r\n").as_bytes()).await.expect("it is read");
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    assert_eq!(said.first(), Some(&21), "the cover answers such bytes with an alert");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_in_the_file_system_take_clients() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("front.sock");
    let bed = Bed::start(&format!("[proxy_protocol]\nlisten = [\"unix:{}\"]", path.display())).await;
    let stream = UnixStream::connect(&path).expect("it listens");
    stream.set_nonblocking(true).expect("a socket option");
    // The helpers are for TCP; reading and writing is the same.
    let stream = TcpStream::from_std(OwnedFd::from(stream).into()).expect("a stream");
    let header = format!("PROXY TCP4 {HOME} 198.51.100.1 50123 443\r\n");
    works(enter(stream, header.as_bytes()).await, "alice").await;
    assert!(bed.proxy.terminate().success());
    assert!(!path.exists());
}

/// A program in front; it ends with this value.
struct Front {
    addr: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Front {
    /// Starts the program with a configuration for a port that is free. If it was taken in the meantime, with another.
    async fn start(command: impl Fn(&Path) -> Command, configuration: impl Fn(&Path, SocketAddr) -> String) -> Self {
        for _ in 0..10 {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let addr = crate::support::aside().local_addr().expect("an address");
            std::fs::write(folder.path().join("front.conf"), configuration(folder.path(), addr)).expect("writes");
            let mut command = command(folder.path());
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it runs");
            let mut front = Self { addr, child, _folder: folder };
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end && front.child.try_wait().expect("our child").is_none() {
                if TcpStream::connect(addr).await.is_ok() {
                    return front;
                }
                tokio::task::yield_now().await;
            }
        }
        panic!("the program in front did not start in ten attempts");
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What docs/front.md says of a front is what these tests run.
async fn the_front_shares_its_port(bed: &Bed, front: &Front) {
    works(enter_from(HOME, front.addr).await, "alice").await;
    is_a_visit(&enter_from("127.0.0.1", front.addr).await, "someone with alice's secret elsewhere");
    let site = std::fs::read_to_string(bed.origin.folder().join("index.html")).expect("a page");
    assert_eq!(page(front.addr, NAME, "127.0.0.1").await, site);
    assert_eq!(page(front.addr, NEIGHBOUR, "127.0.0.9").await, "the neighbour greets 127.0.0.9\n");
}

fn socket() -> (TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("vizard.sock");
    let section = format!("[proxy_protocol]\nlisten = [\"unix:{}\"]", path.display());
    (folder, path, section)
}

/// The other site on this machine, which takes PROXY protocol headers, too.
fn neighbour(origin: &Origin, folder: &Path, place: &str) -> String {
    let (certificate, key, folder) = (origin.certificate(), origin.key(), folder.display());
    format!(
        "http {{
            access_log off;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            server {{
                listen {place} ssl proxy_protocol; server_name {NEIGHBOUR};
                ssl_certificate {}; ssl_certificate_key {};
                location / {{ return 200 \"the neighbour greets $proxy_protocol_addr\\n\"; }}
            }}
        }}",
        certificate.display(),
        key.display()
    )
}

const NGINX: &str = "/usr/sbin/nginx";
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const HAPROXY: &str = "/usr/sbin/haproxy";

fn nginx(folder: &Path) -> Command {
    let mut command = Command::new(NGINX);
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("front.conf")).arg("-e").arg(folder.join("error.log"));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_in_front_shares_its_port() {
    if !installed(NGINX) || !installed(STREAM) || !installed("/usr/bin/curl") {
        return;
    }
    let (_folder, path, section) = socket();
    let bed = Bed::start(&section).await;
    let front = Front::start(nginx, |folder, addr| {
        let http = neighbour(&bed.origin, folder, &format!("unix:{}/site.sock", folder.display()));
        format!(
            "load_module {STREAM}; daemon off; master_process off; pid {dir}/pid; events {{ }}
            stream {{
                map $ssl_preread_server_name $behind {{
                    {NEIGHBOUR} unix:{dir}/site.sock;
                    default unix:{};
                }}
                server {{ listen {addr}; ssl_preread on; proxy_pass $behind; proxy_protocol on; }}
            }}
            {http}\n",
            path.display(),
            dir = folder.display(),
        )
    })
    .await;
    the_front_shares_its_port(&bed, &front).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_shares_its_port() {
    if !installed(HAPROXY) || !installed(NGINX) || !installed("/usr/bin/curl") {
        return;
    }
    let (_folder, path, section) = socket();
    let bed = Bed::start(&section).await;
    let site = Front::start(nginx, |folder, addr| {
        let http = neighbour(&bed.origin, folder, &addr.to_string());
        format!("daemon off; master_process off; pid {}/pid; events {{ }}\n{http}\n", folder.display())
    })
    .await;
    let haproxy = |folder: &Path| {
        let mut command = Command::new(HAPROXY);
        command.arg("-f").arg(folder.join("front.conf")).arg("-db");
        command
    };
    let front = Front::start(haproxy, |_, addr| {
        format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             frontend web\n bind {addr}\n tcp-request inspect-delay 5s\n\
             \x20tcp-request content accept if {{ req.ssl_hello_type 1 }}\n\
             \x20use_backend neighbour if {{ req.ssl_sni -i {NEIGHBOUR} }}\n default_backend vizard\n\
             backend vizard\n server vizard unix@{} send-proxy-v2\n\
             backend neighbour\n server site {} send-proxy-v2\n",
            path.display(),
            site.addr
        )
    })
    .await;
    the_front_shares_its_port(&bed, &front).await;
}

/// The other way round: a remote cover that is told who its visitors are.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_behind_learns_its_visitors_addresses() {
    if !installed(NGINX) || !installed("/usr/bin/curl") {
        return;
    }
    let origin = Origin::make();
    let site = Front::start(nginx, |folder, addr| {
        let http = neighbour(&origin, folder, &addr.to_string());
        format!("daemon off; master_process off; pid {}/pid; events {{ }}\n{http}\n", folder.display())
    })
    .await;
    let state = tempfile::tempdir().expect("a temporary folder");
    let file = origin.path().join("vizard.toml");
    let cover = format!("[cover]\naddress = \"{}\"\nproxy_protocol = \"v2\"\n", site.addr);
    std::fs::write(&file, format!("listen = [\"127.0.0.1:0\"]\ndomain = \"{NEIGHBOUR}\"\n{cover}")).expect("writes");
    let setup = Setup::file(state.path(), &file);
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts");
    assert_eq!(page(proxy.addr, NEIGHBOUR, "127.0.0.9").await, "the neighbour greets 127.0.0.9\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_systemd_opens_are_taken() {
    const ACTIVATE: &str = "/usr/bin/systemd-socket-activate";
    if !installed(ACTIVATE) {
        return;
    }
    let (dc, origin) = (MockDc::start(Role::Echo).await, Origin::make());
    let state = tempfile::tempdir().expect("a temporary folder");
    let file = origin.path().join("vizard.toml");
    std::fs::write(&file, configuration(&origin, &dc, "listen = [\"systemd:web\"]", "")).expect("writes");
    let activate = |folder: &Path| {
        let addr = std::fs::read_to_string(folder.join("front.conf")).expect("an address");
        let mut command = Command::new(ACTIVATE);
        command.args(["--listen", &addr, "--fdname", "web", env!("CARGO_BIN_EXE_vizard"), "run"]);
        command.arg("--state-dir").arg(state.path()).arg("--config").arg(&file);
        command
    };
    let front = Front::start(activate, |_, addr| addr.to_string()).await;
    works(enter_from(HOME, front.addr).await, "alice").await;
}
