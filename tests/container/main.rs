//! The image of `Dockerfile`, built and run without a container engine.
//!
//! buildah builds it on Debian packages and this machine's Rust (`container/build.sh`). runc runs it as an operator
//! would who trusts nothing: a user without a name, a read-only root, a folder for the state, no way to new privileges,
//! and of all capabilities only the one for ports below 1024. Every container has a network of its own, so that port
//! 443 is always free.
//!
//! Both programs need root and a few packages (`container/packages.txt`). Where those are missing the test says so and
//! does nothing, but fails if `CI` is set.

#![expect(clippy::unwrap_used, reason = "what surrounds a test may fail it from anywhere")]

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

#[test]
fn the_image_builds_and_runs() {
    let missing = missing();
    if !missing.is_empty() {
        let note = format!("the container test needs {}", missing.join(", "));
        assert!(std::env::var_os("CI").is_none(), "{note}");
        // Written past the test runner, which swallows what a passing test prints.
        let _ = writeln!(io::stderr(), "skipped the_image_builds_and_runs: {note}");
        return;
    }
    let image = Image::build();
    holds_one_static_program(&image);
    describes_itself(&image);
    is_unhealthy_without_a_proxy(&image);
    serves_without_privileges_and_stops_when_told(&image);
    listens_on_no_other_port(&image);
    keeps_its_secret(&image);
    runs_as_composed(&image);
    resolves_names(&image);
}

/// `docs/deploy/compose.yaml`, as the program that reads such files understands it.
fn composition() -> Value {
    let read = text(Command::new("docker-compose").args(["--file", "docs/deploy/compose.yaml", "config"]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("compose.yaml");
    fs::write(&file, read).unwrap();
    let convert = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    serde_json::from_str(&text(Command::new("python3").args(["-c", convert]).arg(&file))).unwrap()
}

#[test]
fn the_composition_gives_nothing_but_what_it_takes() {
    if Command::new("docker-compose").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "docker-compose is missing");
        let _ = writeln!(io::stderr(), "skipped the_composition_gives_nothing_but_what_it_takes: no docker-compose");
        return;
    }
    let composition = composition();
    let service = &composition["services"]["vizard"];
    for (key, value) in [
        ("user", json!(format!("{USER}:{USER}"))),
        ("read_only", json!(true)),
        ("cap_drop", json!(["ALL"])),
        ("cap_add", json!(["NET_BIND_SERVICE"])),
        ("security_opt", json!(["no-new-privileges:true"])),
        ("environment", json!({ "VIZARD_CONFIG": CONFIG, "VIZARD_LISTEN": "" })),
        ("sysctls", json!({ UNPRIVILEGED_PORTS.0: UNPRIVILEGED_PORTS.1 })),
    ] {
        assert_eq!(service[key], value, "{key}");
    }
    assert_eq!(service["healthcheck"]["test"], json!(["CMD", "/vizard", "health"]));
    for limit in ["mem_limit", "cpus", "pids_limit", "stop_grace_period"] {
        assert!(!service[limit].is_null(), "{limit} is not there");
    }
    let volumes: Vec<_> = service["volumes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(volumes.contains(&"state:/state:rw") && volumes.len() == 2, "{volumes:?}");
    assert!(volumes.iter().any(|volume| volume.ends_with(":/config:ro")), "{volumes:?}");
}

fn holds_one_static_program(image: &Image) {
    assert_eq!(entries(&image.rootfs()), ["state", "vizard"]);
    assert_eq!(entries(&image.rootfs().join(STATE)), [""; 0]);
    let state = fs::metadata(image.rootfs().join(STATE)).unwrap();
    assert_eq!((state.uid(), state.gid()), (USER, USER));

    let program = image.rootfs().join("vizard");
    let headers = text(Command::new("readelf").args(["--program-headers", "--dynamic", "--wide"]).arg(&program));
    assert!(headers.contains("LOAD") && !headers.contains("INTERP") && !headers.contains("(NEEDED)"), "{headers}");
    let answer = Command::new("ldd").arg(&program).output().unwrap();
    let answer = String::from_utf8([answer.stdout, answer.stderr].concat()).unwrap();
    assert!(answer.contains("statically linked") || answer.contains("not a dynamic executable"), "{answer}");
}

fn describes_itself(image: &Image) {
    let config = &image.config;
    assert_eq!(config["User"], format!("{USER}:{USER}"));
    assert_eq!(config["Entrypoint"], json!(["/vizard"]));
    assert_eq!(config["Cmd"], json!(["run"]));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/vizard", "health"]));
    assert_eq!(config["Volumes"], json!({ "/state": {} }));
    let environment = config["Env"].as_array().unwrap();
    assert!(environment.contains(&json!("VIZARD_LISTEN=[::]:443")), "{environment:?}");
    assert_eq!(config["ExposedPorts"], json!({ "443/tcp": {} }));
    assert_eq!(config["Labels"]["org.opencontainers.image.title"], "vizard");
}

fn is_unhealthy_without_a_proxy(image: &Image) {
    let check = Container::new(image).arguments(&["health"]).start();
    assert_eq!(check.end().code(), Some(1));
}

fn serves_without_privileges_and_stops_when_told(image: &Image) {
    let proxy = Container::new(image).start();
    proxy.wait_until_ready();

    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    for line in [
        format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}"),
        format!("CapBnd:\t{NET_BIND_SERVICE:016x}"),
        format!("CapEff:\t{NET_BIND_SERVICE:016x}"),
        "NoNewPrivs:\t1".to_owned(),
    ] {
        assert!(status.lines().any(|found| found == line), "no {line:?} in {status}");
    }

    let page = proxy.fetch("https://127.0.0.1/");
    assert!(page.status.success(), "{page:?}");
    assert!(String::from_utf8_lossy(&page.stdout).contains("<html"), "{page:?}");
    let health = proxy.exec(&["/vizard", "health"]);
    assert!(health.status.success(), "{health:?}");

    proxy.stop();
    assert_eq!(proxy.end().code(), Some(0));
}

/// Another port than the one that is published would be there for no one.
fn listens_on_no_other_port(image: &Image) {
    let mut proxy = Container::new(image);
    for set in ["bounding", "permitted", "inheritable", "effective", "ambient"] {
        proxy.spec["process"]["capabilities"][set] = json!([]);
    }
    assert_eq!(proxy.start().end().code(), Some(1));
}

fn keeps_its_secret(image: &Image) {
    let state = image.folder("kept");
    let link = || {
        let proxy = Container::new(image).state(&state).start();
        proxy.wait_until_ready();
        let link = proxy.exec(&["/vizard", "link", "--host", "proxy.example"]);
        proxy.stop();
        assert_eq!(proxy.end().code(), Some(0));
        String::from_utf8(link.stdout).unwrap()
    };
    let first = link();
    assert!(first.contains("tg://proxy?server=proxy.example&port=443&secret=ee"), "{first}");
    assert_eq!(first, link());
}

/// Docker hands a capability to root only, so what lets others have port 443 is a setting of the container's network.
fn runs_as_composed(image: &Image) {
    let folder = image.folder("config");
    fs::write(folder.join("vizard.toml"), "listen = [\"0.0.0.0:443\", \"127.0.0.1:8443\"]\n[site]\n").unwrap();
    let proxy = Container::new(image)
        .without_capabilities()
        .mount(&folder, Path::new(CONFIG).parent().unwrap().to_str().unwrap())
        .set(&format!("VIZARD_CONFIG={CONFIG}"))
        .set("VIZARD_LISTEN=")
        .start();
    proxy.wait_until_ready();
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    assert!(status.lines().any(|line| line == "CapEff:\t0000000000000000"), "{status}");
    let health = proxy.exec(&["/vizard", "health"]);
    assert!(health.status.success(), "{health:?}");
    // The file decides where to listen, and not the image.
    let page = proxy.fetch("https://127.0.0.1:8443/");
    assert!(page.status.success(), "{page:?}");
    proxy.stop();
    assert_eq!(proxy.end().code(), Some(0));
}

/// A remote cover needs names, and a static glibc among no files at all is not known for finding them.
fn resolves_names(image: &Image) {
    let cover = Container::new(image)
        .set("VIZARD_LISTEN=0.0.0.0:8443")
        .set("VIZARD_DOMAIN=cover.example")
        .set("VIZARD_COVER=site")
        .start();
    cover.wait_until_ready();
    // The name of a cover may lead to no inner address.
    let added = Command::new("nsenter")
        .arg(format!("--net=/proc/{}/ns/net", cover.pid()))
        .args(["ip", "address", "add", "203.0.113.78/32", "dev", "lo"])
        .status()
        .unwrap();
    assert!(added.success(), "{added}");
    let hosts = image.work.path().join("hosts");
    fs::write(&hosts, "203.0.113.78 cover.example\n").unwrap();
    let proxy = Container::new(image)
        .set("VIZARD_LISTEN=127.0.0.1:443")
        .set("VIZARD_DOMAIN=cover.example")
        .set("VIZARD_COVER=cover.example:8443")
        .mount(&hosts, "/etc/hosts")
        .network_of(&cover)
        .start();
    proxy.wait_until_ready();

    let (through, direct) = (proxy.fetch("https://127.0.0.1/"), proxy.fetch("https://127.0.0.1:8443/"));
    assert!(through.status.success(), "{through:?}");
    assert_eq!(through.stdout, direct.stdout);
}

/// Number of the image's user and group.
const USER: u32 = 65532;
/// The state directory, seen from the root.
const STATE: &str = "state";
/// The configuration of `docs/deploy/compose.yaml`, and its setting for ports below 1024.
const CONFIG: &str = "/config/vizard.toml";
const UNPRIVILEGED_PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "443");
/// The capability's bit in `/proc/PID/status`.
const NET_BIND_SERVICE: u64 = 1 << 10;
/// How long a container may take to say something; a start takes well under a second.
const PATIENCE: Duration = Duration::from_secs(60);

fn missing() -> Vec<&'static str> {
    let absent = |tool: &&str| Command::new(tool).arg("--version").output().is_err();
    let tools = ["buildah", "curl", "ldd", "mmdebstrap", "nsenter", "readelf", "runc"];
    let mut missing: Vec<_> = tools.into_iter().filter(absent).collect();
    if !rustix::process::geteuid().is_root() {
        missing.push("root");
    }
    missing
}

/// The image laid out as files, and a folder for everything made of it, which goes when this goes.
struct Image {
    work: TempDir,
    config: Value,
}

impl Image {
    fn build() -> Self {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let work = TempDir::with_prefix_in("container-", scratch).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let built = Command::new(source.join("tests/container/build.sh"))
            .args([source, &scratch.join("container"), work.path()])
            .output()
            .unwrap();
        assert!(built.status.success(), "{}: {}", built.status, String::from_utf8_lossy(&built.stderr));
        let image = fs::read(work.path().join("image.json")).unwrap();
        let mut image: Value = serde_json::from_slice(&image).unwrap();
        Self { work, config: image["Docker"]["config"].take() }
    }

    fn rootfs(&self) -> PathBuf {
        self.work.path().join("rootfs")
    }

    /// A new folder that the image's user may write to, as a new volume would be.
    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.work.path().join(name);
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(USER), Some(USER)).unwrap();
        folder
    }
}

/// A container that has not started yet.
struct Container<'i> {
    image: &'i Image,
    name: String,
    bundle: PathBuf,
    spec: Value,
}

impl<'i> Container<'i> {
    /// What the image says, under the tightest settings that it promises to work with.
    fn new(image: &'i Image) -> Self {
        let number = fs::read_dir(image.work.path()).unwrap().count();
        let name = format!("vizard-test-{}-{number}", process::id());
        let (bundle, state) = (image.work.path().join(&name), image.folder(&format!("{name}-state")));
        let capabilities = json!(["CAP_NET_BIND_SERVICE"]);
        let spec = json!({
            "ociVersion": "1.0.2",
            "root": { "path": image.rootfs(), "readonly": true },
            "process": {
                "cwd": "/",
                "user": { "uid": USER, "gid": USER },
                "args": [image.config["Entrypoint"][0], image.config["Cmd"][0]],
                "env": image.config["Env"],
                "noNewPrivileges": true,
                "capabilities": {
                    "bounding": capabilities,
                    "permitted": capabilities,
                    "inheritable": capabilities,
                    "effective": capabilities,
                    "ambient": capabilities,
                },
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
                {},
            ],
            "linux": { "namespaces": [
                { "type": "network" },
                { "type": "mount" },
                { "type": "pid" },
                { "type": "ipc" },
                { "type": "uts" },
            ] },
        });
        Self { image, name, bundle, spec }.state(&state)
    }

    fn arguments(mut self, arguments: &[&str]) -> Self {
        self.spec["process"]["args"] = [&["/vizard"], arguments].concat().into();
        self
    }

    fn set(mut self, variable: &str) -> Self {
        self.spec["process"]["env"].as_array_mut().unwrap().push(variable.into());
        self
    }

    fn without_capabilities(mut self) -> Self {
        let none = json!([]);
        let bounding = self.spec["process"]["capabilities"]["bounding"].take();
        self.spec["process"]["capabilities"] = json!({
            "bounding": bounding, "permitted": none, "inheritable": none, "effective": none, "ambient": none,
        });
        let (setting, value) = UNPRIVILEGED_PORTS;
        self.spec["linux"]["sysctl"] = json!({ setting: value });
        self
    }

    fn state(mut self, folder: &Path) -> Self {
        self.spec["mounts"][2] = json!({
            "destination": format!("/{STATE}"), "source": folder, "options": ["bind", "nosuid", "nodev", "noexec"],
        });
        self
    }

    fn mount(mut self, file: &Path, destination: &str) -> Self {
        let mount = json!({ "destination": destination, "source": file, "options": ["bind", "ro"] });
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    fn network_of(mut self, other: &Running) -> Self {
        self.spec["linux"]["namespaces"][0]["path"] = format!("/proc/{}/ns/net", other.pid()).into();
        self
    }

    fn start(self) -> Running {
        fs::create_dir(&self.bundle).unwrap();
        fs::write(self.bundle.join("config.json"), self.spec.to_string()).unwrap();
        let registry = self.image.work.path().join("runc");
        let mut runtime = runc(&registry)
            .args(["run", "--bundle"])
            .args([self.bundle.as_os_str(), OsStr::new(&self.name)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        send_lines(runtime.stdout.take().unwrap(), sender.clone());
        send_lines(runtime.stderr.take().unwrap(), sender);
        Running { name: self.name, registry, runtime, lines }
    }
}

/// A container that runs until it is dropped.
struct Running {
    name: String,
    registry: PathBuf,
    runtime: Child,
    lines: Receiver<String>,
}

impl Running {
    fn wait_until_ready(&self) {
        let mut said: Vec<String> = Vec::new();
        while !said.last().is_some_and(|line| is_ready(line)) {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => said.push(line),
                Err(error) => panic!("{} never got ready ({error}); it said {said:#?}", self.name),
            }
        }
    }

    fn pid(&self) -> u64 {
        let state = text(runc(&self.registry).args(["state", &self.name]));
        serde_json::from_str::<Value>(&state).unwrap()["pid"].as_u64().unwrap()
    }

    fn exec(&self, command: &[&str]) -> Output {
        runc(&self.registry).args(["exec", &self.name]).args(command).output().unwrap()
    }

    /// The page at `url`, asked for from outside the container but inside its network.
    fn fetch(&self, url: &str) -> Output {
        Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.pid()))
            .args(["curl", "--silent", "--show-error", "--fail", "--insecure", "--max-time", "30", url])
            .output()
            .unwrap()
    }

    fn stop(&self) {
        text(runc(&self.registry).args(["kill", &self.name, "TERM"]));
    }

    /// Waits for the program to end by itself; what it returned.
    fn end(mut self) -> process::ExitStatus {
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        assert!(self.lines.try_recv() == Err(mpsc::TryRecvError::Disconnected), "{} goes on and on", self.name);
        self.runtime.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = runc(&self.registry).args(["delete", "--force", &self.name]).output();
        let _ = self.runtime.kill();
        let _ = self.runtime.wait();
    }
}

fn send_lines(stream: impl Read + Send + 'static, lines: Sender<String>) {
    let stream = BufReader::new(stream);
    thread::spawn(move || stream.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
}

fn is_ready(line: &str) -> bool {
    line == "ready" || serde_json::from_str::<Value>(line).is_ok_and(|object| object["ready"] == true)
}

fn runc(registry: &Path) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(registry);
    command
}

/// What a command that must succeed prints.
fn text(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn entries(folder: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}
