//! What is compared: each contestant is a process of its own, so that what it uses is known apart from the load tool.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustix::process::{Resource, getrlimit};
use tempfile::TempDir;
use vizard::audit::captured::Captured;
use vizard::audit::hello::Key;

use super::far::{FarEnd, Tongue};
use super::link::{Door, Greeting, Link};
use super::meter::Meter;
use super::wire::broken;

/// The secret of every run.
pub const KEY: Key = *b"the load of vizd";

/// The name of the site.
pub const NAME: &str = "mask.example.org";

/// How long a program may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of those that are compared; its process ends with this value.
pub struct Contestant {
    /// What tables call it.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// How to get through it.
    pub door: Door,
    /// Its process, unless someone else's is measured and its number is not known.
    pub meter: Option<Meter>,
    _process: Option<Process>,
}

impl Contestant {
    /// Enters it as client `number`.
    pub async fn enter(&self, number: usize) -> io::Result<Link> {
        let entered = Link::open(self.addr, &self.door, number).await;
        entered.map_err(|error| broken(format!("{}: entering as number {number}: {error}", self.name)))
    }

    /// Someone's running proxy.
    pub fn elsewhere(addr: SocketAddr, door: Door, pid: Option<u32>) -> Self {
        Self { name: "target".to_owned(), addr, door, meter: pid.map(Meter), _process: None }
    }

    fn new(name: &str, addr: SocketAddr, door: Door, process: Process) -> Self {
        let meter = Some(Meter(process.child.id()));
        Self { name: name.to_owned(), addr, door, meter, _process: Some(process) }
    }
}

/// Starts contestants; the far ends and files that they need live as long as this value.
pub struct Stage {
    /// The program under test.
    pub proxy: PathBuf,
    /// The mock data centre.
    pub dc: FarEnd,
    /// Whose hello clients send.
    pub hello: &'static Captured,
    /// What stands behind bare relays.
    pub mirror: FarEnd,
    /// The site's side of visits.
    pub site: FarEnd,
    files: TempDir,
    next: std::cell::Cell<u32>,
}

/// What the program under test has for a cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// The built-in site.
    Site,
    /// A web server elsewhere.
    Remote(SocketAddr),
}

impl Stage {
    /// Far ends on loopback, but for the data centre and the site of visits, which are where they are told to be.
    pub fn new(proxy: PathBuf, hello: &'static Captured, dc: SocketAddr, site: SocketAddr) -> io::Result<Self> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let files = tempfile::tempdir()?;
        write_site(files.path())?;
        Ok(Self {
            proxy,
            hello,
            dc: FarEnd::start(dc, Tongue::Dc)?,
            mirror: FarEnd::start(anywhere, Tongue::Mirror(KEY))?,
            site: FarEnd::start(site, Tongue::Visit)?,
            files,
            next: 0.into(),
        })
    }

    /// The bare relay that reads and writes.
    pub fn copy(&self) -> io::Result<Contestant> {
        self.relay("copy", self.mirror.addr, Door::Bare { key: KEY })
    }

    /// The bare relay that reads and writes, once more, to see what it differs from itself by.
    pub fn copy_again(&self) -> io::Result<Contestant> {
        Ok(Contestant { name: "again".to_owned(), ..self.copy()? })
    }

    /// The bare relay that splices.
    pub fn splice(&self) -> io::Result<Contestant> {
        self.relay("splice", self.mirror.addr, Door::Bare { key: KEY })
    }

    /// The bare relay that reads and writes, in front of something else.
    pub fn copy_to(&self, to: SocketAddr, door: Door) -> io::Result<Contestant> {
        self.relay("copy", to, door)
    }

    fn relay(&self, name: &str, to: SocketAddr, door: Door) -> io::Result<Contestant> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["process", name, &to.to_string()]);
        let (process, addr) = Process::start(command, None, |line| line.strip_prefix("ready ")?.parse().ok())?;
        Ok(Contestant::new(name, addr, door, process))
    }

    /// The built-in site by itself.
    pub fn bare_site(&self) -> io::Result<Contestant> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["process", "site"]).arg(self.files.path());
        let (process, addr) = Process::start(command, None, |line| line.strip_prefix("ready ")?.parse().ok())?;
        Ok(Contestant::new("site", addr, Door::Visit { name: NAME.to_owned() }, process))
    }

    /// The program under test; with `users` secrets, of which the last is ours.
    pub fn vizard(&self, cover: Cover, users: usize) -> io::Result<Contestant> {
        let number = self.next.replace(self.next.get() + 1);
        let state = self.files.path().join(format!("state-{number}"));
        std::fs::create_dir(&state)?;
        let config = state.join("vizard.toml");
        std::fs::write(&config, self.config(cover, users, &state))?;
        let mut command = Command::new(&self.proxy);
        command.args(["run", "--log", "json", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
        let ready = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["ready"] == true).then(|| line["listen"][0].as_str()?.parse().ok())?
        };
        let (process, addr) = Process::start(command, Some(&state.join("log")), ready)?;
        let door = Door::FakeTls(Greeting { key: KEY, name: NAME.to_owned(), dc: 2, hello: self.hello });
        Ok(Contestant::new("vizard", addr, door, process))
    }

    /// The program under test as a stranger meets it, passing on to the site's far end.
    pub fn vizard_for_visitors(&self) -> io::Result<Contestant> {
        let proxy = self.vizard(Cover::Remote(self.site.addr), 1)?;
        Ok(Contestant { door: Door::Visit { name: NAME.to_owned() }, ..proxy })
    }

    /// HAProxy in tcp mode in front of the site's far end; `None` where it is not installed.
    pub fn haproxy(&self) -> io::Result<Option<Contestant>> {
        let Some(program) = haproxy() else { return Ok(None) };
        // It takes no port 0, so one is looked for that is free now.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let file = self.files.path().join(format!("haproxy-{port}.cfg"));
        std::fs::write(
            &file,
            format!(
                "global\n    maxconn {}\n\
                 defaults\n    mode tcp\n    timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n\
                 listen front\n    bind 127.0.0.1:{port} backlog 4096\n    server site {}\n",
                descriptors() / 2 - 50,
                self.site.addr
            ),
        )?;
        let mut command = Command::new(program);
        command.args(["-db", "-q", "-f"]).arg(file);
        let process = Process::quiet(command)?;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let end = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(addr).is_err() {
            if Instant::now() > end {
                return Err(broken("haproxy does not listen"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(Contestant::new("haproxy", addr, Door::Visit { name: NAME.to_owned() }, process)))
    }

    fn config(&self, cover: Cover, users: usize, state: &Path) -> String {
        let path = |path: &Path| toml::Value::String(path.display().to_string());
        let file = |name: &str| path(&self.files.path().join(name));
        let mut text = format!("domain = \"{NAME}\"\nstate_dir = {}\n", path(state));
        for number in 1..users {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&(number as u64).to_le_bytes());
            text += &user(&format!("other{number}"), &key);
        }
        text += &user("load", &KEY);
        // Connections that stand ready would be taken for what sessions left behind.
        text += &format!("[telegram]\nwarm = 0\n[telegram.addresses]\n2 = [\"{}\"]\n", self.dc.addr);
        // Sessions that rest are to be there until they are counted.
        text += "[session]\nidle = \"1h\"\n";
        match cover {
            Cover::Site => {
                let [certificate, key, folder] = ["cert.pem", "key.pem", "www"].map(file);
                text += &format!("[site]\ncertificate = {certificate}\nkey = {key}\nfolder = {folder}\n");
            }
            Cover::Remote(addr) => text += &format!("[cover]\nkind = \"remote\"\naddress = \"{addr}\"\n"),
        }
        text
    }
}

fn user(name: &str, key: &Key) -> String {
    format!("[[users]]\nname = \"{name}\"\nsecret = \"{}\"\n", HEXLOWER.encode(key))
}

/// How many descriptors this process may have, and every one that it starts.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Where HAProxy is, if it is.
pub fn haproxy() -> Option<&'static str> {
    ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"]
        .into_iter()
        .find(|path| Path::new(path).exists())
}

/// A page and a certificate like those that most sites have.
fn write_site(folder: &Path) -> io::Result<()> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, NAME);
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    std::fs::write(folder.join("cert.pem"), certificate.pem())?;
    std::fs::write(folder.join("key.pem"), key.serialize_pem())?;
    std::fs::create_dir(folder.join("www"))?;
    std::fs::write(folder.join("www/index.html"), "<!doctype html><title>Load</title><p>Nothing to see.\n")
}

/// A child that is killed with this value.
struct Process {
    child: Child,
}

impl Process {
    /// Starts a program that says where it listens.
    fn start(
        mut command: Command,
        log: Option<&Path>,
        ready: impl Fn(&str) -> Option<SocketAddr>,
    ) -> io::Result<(Self, SocketAddr)> {
        let errors = log.map_or(Ok(Stdio::inherit()), |path| std::fs::File::create(path).map(Stdio::from))?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn()?;
        let out = child.stdout.take().ok_or_else(|| broken("no output"))?;
        let process = Self { child };
        let (tell, lines) = std::sync::mpsc::channel();
        // Whatever it prints later must have a reader, or it would meet a closed pipe.
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|line| _ = tell.send(line))
        });
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if let Some(addr) = ready(&line) {
                return Ok((process, addr));
            }
        }
        let log = log.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        Err(broken(format!("{:?} does not start: {log}", command.get_program())))
    }

    fn quiet(mut command: Command) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn()?;
        Ok(Self { child })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
