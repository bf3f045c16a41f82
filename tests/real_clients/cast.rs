//! Who plays in these tests: the data centre, TDLib, Telegram Desktop, the proxy, and sites that it stands before.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io, thread};

use serde_json::Value;

use crate::world::{Place, Running, Stream, World};

/// The secret of every proxy that is given one.
const SECRET: &str = "8d21ce1bfa7b4a1f9a6c5b0e3f7d2a94";

/// Where clients find the proxy.
pub const IPV4: &str = "198.51.100.10";
/// The same in IPv6.
pub const IPV6: &str = "2001:db8:51::10";

/// The name that the proxy's cover goes by.
pub const DOMAIN: &str = "cover.example";

/// Telegram, as far as these tests have it: `mock_dc.py` at all of its addresses.
pub struct Telegram {
    log: PathBuf,
    public_key: PathBuf,
    _running: Running,
}

/// One connection as the data centre saw it.
pub struct Seen {
    /// The number in the header.
    pub dc: i64,
    /// The address that was dialled, without its port.
    pub address: String,
}

impl Telegram {
    /// Listens when this returns.
    pub fn open(world: &World) -> Self {
        let (log, public_key) = (world.path("dc.jsonl"), world.path("dc.pub"));
        let mut command = world.python(Place::Internet, "mock_dc.py");
        command.args(["--listen", "0.0.0.0:443", "--listen", "[::]:443", "--rsa-key"]).arg(world.path("dc.pem"));
        command.arg("--public-key-out").arg(&public_key).arg("--log").arg(&log);
        let running = Running::start("the data centre", command);
        running.wait_for(Stream::Out, |line| (line == "ready").then_some(()));
        Self { log, public_key, _running: running }
    }

    /// All connections that got as far as their header.
    pub fn seen(&self) -> Vec<Seen> {
        let events: Vec<Value> =
            fs::read_to_string(&self.log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |kind: &'static str| events.iter().filter(move |event| event["ev"] == kind);
        of("transport")
            .map(|header| {
                let opened = of("open").find(|open| open["conn"] == header["conn"]).unwrap();
                let local = opened["local"].as_str().unwrap();
                let address = local.rsplit_once(':').unwrap().0.to_owned();
                Seen { dc: header["dc_field"].as_i64().unwrap(), address }
            })
            .collect()
    }
}

/// Middle proxies in front of Telegram: `mock_middle.py`, for every data centre and its media cluster.
pub struct Middle {
    log: PathBuf,
    configuration: PathBuf,
    _running: Running,
}

impl Middle {
    /// Whose channel it is.
    pub const TAG: &'static str = "00112233445566778899aabbccddeeff";

    /// Listens when this returns.
    pub fn open(world: &World) -> Self {
        const HOST: &str = "149.154.161.144";
        const CENTRES: [(u16, &str); 5] = [
            (1, "149.154.175.50"),
            (2, "149.154.167.51"),
            (3, "149.154.175.100"),
            (4, "149.154.167.91"),
            (5, "149.154.171.5"),
        ];
        let (log, secret, configuration) =
            (world.path("middle.jsonl"), world.path("proxy-secret"), world.path("middle.toml"));
        fs::write(&secret, [0x5c; 128]).unwrap();
        let mut command = world.python(Place::Internet, "mock_middle.py");
        command.arg("--secret").arg(&secret).arg("--log").arg(&log);
        let mut text = format!("ad_tag = \"{}\"\n[middle]\nsecret_file = {secret:?}\n[middle.addresses]\n", Self::TAG);
        for (number, address) in CENTRES {
            command
                .arg(format!("{}={number}@{address}", 8000 + number))
                .arg(format!("{}=-{number}@{address}", 8100 + number));
            text += &format!("{number} = [\"{HOST}:{}\"]\n-{number} = [\"{HOST}:{}\"]\n", 8000 + number, 8100 + number);
        }
        fs::write(&configuration, text).unwrap();
        let running = Running::start("the middle proxies", command);
        running.wait_for(Stream::Out, |line| (line == "ready").then_some(()));
        Self { log, configuration, _running: running }
    }

    /// The file that leads a proxy here.
    pub fn configuration(&self) -> &str {
        self.configuration.to_str().unwrap()
    }

    /// Tags of all clients that came.
    pub fn tags(&self) -> Vec<String> {
        let tag =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["tag"].as_str().unwrap_or_default().to_owned();
        fs::read_to_string(&self.log).unwrap().lines().map(tag).collect()
    }
}

/// The proxy as a link names it.
pub struct Link {
    /// Host name or address.
    pub server: String,
    /// TCP port.
    pub port: String,
    /// In any of its forms.
    pub secret: String,
}

impl Link {
    /// Of a `tg://proxy` link as it was printed.
    pub fn parse(text: &str) -> Option<Self> {
        let start = text.find("tg://proxy?")? + "tg://proxy?".len();
        let end = |c: char| c.is_whitespace() || c == '"';
        let query = text[start..].split(end).next()?;
        let value = |name: &str| Some(query.split('&').find_map(|pair| pair.strip_prefix(name))?.to_owned());
        Some(Self { server: value("server=")?, port: value("port=")?, secret: value("secret=")? })
    }
}

/// TDLib's wishes and the data centre that it believes in.
pub struct Tdlib<'w> {
    command: Command,
    telegram: Option<&'w Telegram>,
}

impl<'w> Tdlib<'w> {
    /// Behind the proxy. Without a data centre it can do no more than `ping`.
    pub fn behind(world: &World, link: &Link, telegram: Option<&'w Telegram>) -> Self {
        let mut command = world.python(Place::Client, "tdlib_ping.py");
        command.args(["--server", &link.server, "--port", &link.port, "--secret", &link.secret]);
        Self { command, telegram }
    }

    /// Beside the proxy, so that it can do without.
    pub fn alone(world: &World, telegram: &'w Telegram) -> Self {
        Self { command: world.python(Place::Proxy, "tdlib_ping.py"), telegram: Some(telegram) }
    }

    /// More arguments for `tdlib_ping.py`.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Runs the checks; the report says of each whether it is `ok`.
    pub fn check(mut self, checks: &str) -> Value {
        self.command.args(["--checks", checks]);
        if let Some(telegram) = self.telegram {
            self.command.arg("--public-key").arg(&telegram.public_key).arg("--dc-log").arg(&telegram.log);
        }
        let output = self.command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {errors}"));
        eprintln!("{report:#}\n{errors}");
        let all_ok = checks.split(',').all(|check| report[check]["ok"] == true);
        assert_eq!(output.status.success(), all_ok, "the report and the exit code disagree");
        report
    }

    /// Runs the checks, and fails unless all of them pass.
    pub fn passes(self, checks: &str) {
        let report = self.check(checks);
        checks.split(',').for_each(|check| assert_eq!(report[check]["ok"], true, "{check} failed"));
    }
}

/// Telethon, over the FakeTLS transport that others have made for it, and over one such as its users write.
pub struct Telethon;

impl Telethon {
    /// Has it connect through the proxy, agree on a key, and ask for things for a while, all over connections that stay;
    /// with both transports at once.
    pub fn passes(world: &World, link: &Link, telegram: &Telegram) {
        thread::scope(|scope| {
            for transport in ["package", "own"] {
                scope.spawn(move || Self::passes_over(transport, world, link, telegram));
            }
        });
    }

    fn passes_over(transport: &str, world: &World, link: &Link, telegram: &Telegram) {
        let mut command = world.python(Place::Client, "telethon_ping.py");
        command.args(["--server", &link.server, "--port", &link.port, "--secret", &link.secret]);
        command.args(["--transport", transport]).arg("--public-key").arg(&telegram.public_key);
        let output = command.output().unwrap();
        let [report, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{transport}: {report}\n{errors}");
    }
}

/// mtcute, with the transport that it brings.
pub struct Mtcute;

impl Mtcute {
    /// Has it connect through the proxy, agree on a key, and ask for things for a while.
    pub fn passes(world: &World, link: &Link, telegram: &Telegram) {
        let mut command = world.node("mtcute/ping.mjs");
        let output = command.args([&link.server, &link.port, &link.secret]).arg(&telegram.public_key).output().unwrap();
        let [report, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{report}\n{errors}");
    }
}

/// Telegram Desktop, as Debian has it.
pub struct Desktop<'w> {
    world: &'w World,
    telegram: &'w Telegram,
}

impl<'w> Desktop<'w> {
    /// `None` with a note where it, or what shows it, is not installed; where `CI` is set that is a failure.
    pub fn find(world: &'w World, telegram: &'w Telegram) -> Option<Self> {
        let programs = ["telegram-desktop", "Xvfb", "xdotool"].map(|name| format!("/usr/bin/{name}"));
        let missing = programs.iter().find(|program| !Path::new(program).exists());
        if let Some(program) = missing {
            assert!(env::var_os("CI").is_none(), "{program} is not installed");
            // Past the test runner, which keeps what a passing test prints to itself.
            let _ = writeln!(io::stderr(), "skipped: {program} is not installed");
            return None;
        }
        Some(Self { world, telegram })
    }

    /// Has it connect through the proxy, agree on a key, ask for things and ping, all over one connection that stays.
    pub fn stays_behind(&self, link: &Link) {
        let Link { server, port, secret } = link;
        let mut command = self.world.python(Place::Client, "tdesktop.py");
        command.args(["--link", &format!("tg://proxy?server={server}&port={port}&secret={secret}"), "--dc-log"]);
        command.arg(&self.telegram.log).arg("--public-key").arg(&self.telegram.public_key);
        let picture = format!("{}.png", thread::current().name().unwrap_or("telegram-desktop"));
        command.arg("--screenshot").arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join(picture));
        let output = command.output().unwrap();
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        eprintln!("{}\n{}", told[0], told[1]);
        assert!(output.status.success(), "Telegram Desktop does not stay behind the proxy");
    }
}

/// A running `vizard run`.
pub struct Proxy {
    running: Running,
    /// Where it says that it listens.
    pub listen: Vec<SocketAddr>,
}

impl Proxy {
    /// With a secret of its own, at port 443 of all addresses. Accepts connections when this returns, and knows its cover,
    /// so that sessions are all that they will ever be.
    pub fn open(world: &World, cover: &str, more: &[&str]) -> Self {
        let secret = format!("user={SECRET}");
        let mut arguments = vec!["--listen", "[::]:443", "--log", "json"];
        arguments.extend(["--domain", DOMAIN, "--cover", cover, "--secret", &secret]);
        arguments.extend(more);
        let proxy = Self::run(world, Place::Proxy, "the proxy", "proxy", &arguments);
        proxy.running.wait_for(Stream::Err, |line| line.contains("the cover was visited").then_some(()));
        let kept = fs::read(world.path("proxy").join("cover-profile.json")).unwrap();
        let kept: Value = serde_json::from_slice(&kept).unwrap();
        let greetings = kept["profile"]["visit"]["greetings_http2"].as_array().expect("a profile");
        let filled = |greeting: &Value| greeting["writes"].as_array().is_some_and(|writes| !writes.is_empty());
        assert!(!greetings.is_empty() && greetings.iter().all(filled), "sessions would be without fillers: {kept}");
        proxy
    }

    /// With nothing but a folder for its state.
    pub fn embedded(world: &World, state: &str) -> Self {
        Self::run(world, Place::Proxy, "the unconfigured proxy", state, &[])
    }

    /// A site elsewhere: the one that the program brings along, whose flight is rustls' own.
    pub fn as_rustls_site(world: &World) -> Self {
        let arguments = ["--listen", "[::]:8443", "--domain", DOMAIN, "--cover", "site"];
        Self::run(world, Place::Internet, "the rustls site", "site", &arguments)
    }

    /// On the other side, for another one that takes it for its next hop. It has the same secret.
    pub fn abroad(world: &World) -> Self {
        let secret = format!("home={SECRET}");
        let arguments = ["--listen", "[::]:8443", "--domain", DOMAIN, "--cover", "site", "--secret", &secret];
        Self::run(world, Place::Internet, "the proxy abroad", "abroad", &arguments)
    }

    fn run(world: &World, place: Place, name: &str, state: &str, arguments: &[&str]) -> Self {
        let mut command = world.command(place, env!("CARGO_BIN_EXE_vizard"));
        command.args(["run", "--state-dir"]).arg(world.path(state)).args(arguments);
        // nginx sends several records, and is a cover here all the same.
        command.env("VIZARD_ACCEPT_GRADE_C", "true");
        let running = Running::start(name, command);
        let listen = running.wait_for(Stream::Out, ready);
        Self { running, listen }
    }

    /// The link for clients that come to this address, if the proxy was given its secret.
    pub fn link(&self, server: &str) -> Link {
        let domain = DOMAIN.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        Link { server: server.into(), port: "443".into(), secret: format!("ee{SECRET}{domain}") }
    }

    /// The link that `vizard link` prints of the unconfigured proxy with this state directory: no service prints its own.
    pub fn printed_link(&self, world: &World, state: &str) -> Link {
        let mut command = world.command(Place::Proxy, env!("CARGO_BIN_EXE_vizard"));
        command.args(["link", "--state-dir"]).arg(world.path(state));
        command.args(["--port", &self.listen[0].port().to_string()]);
        let output = command.output().expect("the program runs");
        Link::parse(&String::from_utf8_lossy(&output.stdout)).expect("a link on the standard output")
    }

    /// What its metrics say now, by name and labels. They are behind the socket in its state directory.
    pub fn scrape(&self, world: &World) -> BTreeMap<String, f64> {
        let mut socket = UnixStream::connect(world.path("proxy").join("admin")).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let answer = io::read_to_string(socket).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("# EOF\n"), "{answer}");
        for address in [IPV4, IPV6, "198.51.100.20", "2001:db8:51::20"] {
            assert!(!answer.contains(address), "an address is in the metrics: {answer}");
        }
        let lines = answer.lines().filter(|line| !line.starts_with('#'));
        let number = |line: &str| Some((line.rsplit_once(' ')?.0.to_owned(), line.rsplit_once(' ')?.1.parse().ok()?));
        lines.filter_map(number).collect()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.running.said(Stream::Err)
    }

    /// Ends it as a service manager does, and fails unless it ends well, never panicked and told no one its secret.
    pub fn close(mut self) {
        let link = Link::parse(&self.running.said(Stream::Out));
        let status = self.running.terminate();
        assert!(status.success(), "ended with {status}");
        assert!(!self.log().contains("panicked"), "a connection panicked");
        if let Some(link) = link {
            assert!(!self.log().contains(&link.secret[2..34]), "the secret is in the log");
        }
    }
}

/// The addresses in the line that says that connections are accepted.
fn ready(line: &str) -> Option<Vec<SocketAddr>> {
    let line: Value = serde_json::from_str(line).ok().filter(|line: &Value| line["ready"] == true)?;
    Some(line["listen"].as_array()?.iter().map(|address| address.as_str().unwrap().parse().unwrap()).collect())
}

/// A SOCKS proxy, an HTTP proxy and a Shadowsocks server on the other side.
pub struct Forwarders {
    _running: [Running; 3],
}

impl Forwarders {
    /// All listen when this returns. `None` with a note where one of them is not installed; where `CI` is set that is a
    /// failure.
    pub fn open(world: &World) -> Option<Self> {
        let [socks, http, shadow] = ["/usr/bin/microsocks", "/usr/bin/tinyproxy", "/usr/bin/ss-server"];
        if let Some(program) = [socks, http, shadow].iter().find(|program| !Path::new(program).exists()) {
            assert!(env::var_os("CI").is_none(), "{program} is not installed");
            let _ = writeln!(io::stderr(), "skipped: {program} is not installed");
            return None;
        }
        let file = world.path("tinyproxy.conf");
        fs::write(&file, "Port 3128\nTimeout 600\n").unwrap();
        let mut command = world.command(Place::Internet, socks);
        command.args(["-p", "1080"]);
        let socks = Running::start("the SOCKS proxy", command);
        let mut command = world.command(Place::Internet, http);
        command.args(["-d", "-c"]).arg(file);
        let http = Running::start("the HTTP proxy", command);
        let mut command = world.command(Place::Internet, shadow);
        command.args(["-s", "0.0.0.0", "-p", "8388", "-k", "correct horse", "-m", "aes-256-gcm", "-t", "600"]);
        let shadow = Running::start("the Shadowsocks server", command);
        for port in [1080, 3128, 8388] {
            let mut command = world.command(Place::Internet, "timeout");
            command.args(["30", "bash", "-c", &format!("until : 3<>/dev/tcp/127.0.0.1/{port}; do :; done")]);
            assert!(command.output().unwrap().status.success(), "no one listens at port {port}");
        }
        Some(Self { _running: [socks, http, shadow] })
    }
}

/// A real nginx, whose flight has several encrypted records.
pub struct Nginx {
    _running: Running,
}

impl Nginx {
    /// Listens at port 8443 of `cover.example` when this returns.
    pub fn open(world: &World) -> Self {
        let (certificate, key) = (world.path("site.crt"), world.path("site.key"));
        let mut openssl = world.command(Place::Internet, "openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=cover.example"]);
        let made = openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

        let configuration = world.path("nginx.conf");
        let text = NGINX.replace("FOLDER", world.path("").to_str().unwrap());
        fs::write(&configuration, text).unwrap();
        let mut command = world.command(Place::Internet, "/usr/sbin/nginx");
        command.args(["-e", "stderr", "-p"]).arg(world.path("")).arg("-c").arg(configuration);
        let running = Running::start("nginx", command);
        // It says how it waits for events once its sockets listen.
        running.wait_for(Stream::Err, |line| line.contains("event method").then_some(()));
        Self { _running: running }
    }
}

/// One process, so that it needs no second user and ends with its parent.
const NGINX: &str = "
daemon off;
master_process off;
error_log stderr notice;
pid FOLDER/nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxied;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    server {
        listen 0.0.0.0:8443 ssl http2;
        listen [::]:8443 ssl http2;
        server_name cover.example;
        ssl_certificate FOLDER/site.crt;
        ssl_certificate_key FOLDER/site.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        return 200 'a site';
    }
}
";
