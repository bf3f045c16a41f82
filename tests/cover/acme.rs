//! Certificates from a real authority that runs on loopback: asked for, proved in both ways, kept, renewed, refused.

mod pebble;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::installed;
use crate::support::origin::{NAME, Origin, PAGE};
use crate::support::vizard::{Setup, Vizard};
use pebble::{Names, PEBBLE, Pebble, Ports, Trust};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The proxy to be, and the authority that it will ask.
struct Bed {
    ports: Ports,
    trust: Trust,
    names: Names,
    origin: Origin,
    state: TempDir,
}

impl Bed {
    /// `challenge` is a line of the configuration.
    fn lay(challenge: &str) -> Self {
        let bed = Self::bare();
        bed.write(challenge, &[]);
        bed
    }

    fn bare() -> Self {
        Self {
            ports: Ports::free(),
            trust: Trust::make(),
            names: Names::serve(),
            origin: Origin::make(),
            state: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// Writes the configuration, with these further names of the site.
    fn write(&self, challenge: &str, names: &[&str]) {
        let Ports { tls, http, .. } = self.ports;
        let (folder, directory, roots) = (self.origin.folder(), self.ports.directory(), self.trust.file("root.pem"));
        let names = if names.is_empty() { String::new() } else { format!("names = {names:?}\n") };
        let text = format!(
            "listen = [\"127.0.0.1:{tls}\"]\ndomain = \"{NAME}\"\n{names}\
             [site]\nfolder = \"{}\"\nredirect_from = [\"127.0.0.1:{http}\"]\n\
             [site.acme]\ndirectory = \"{directory}\"\nca_file = \"{roots}\"\n{challenge}\n",
            folder.display()
        );
        fs::write(self.file(), text).expect("writes");
    }

    fn file(&self) -> PathBuf {
        self.origin.path().join("vizard.toml")
    }

    async fn authority(&self) -> Pebble {
        Pebble::start(&self.trust, self.ports, &self.names).await
    }

    async fn proxy(&self) -> Vizard {
        let setup = Setup::file(self.state.path(), &self.file());
        tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts")
    }

    /// What is kept for this authority.
    fn kept(&self, name: &str) -> PathBuf {
        self.state.path().join(format!("acme/127.0.0.1_{}_dir/{name}", self.ports.api))
    }

    fn pem(&self) -> PathBuf {
        self.kept(&format!("{NAME}.pem"))
    }

    fn memory(&self) -> Value {
        let text = fs::read(self.kept(&format!("{NAME}.json"))).expect("a memory");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// The page, as a visitor gets it who trusts this root only.
    async fn page(&self, root: CertificateDer<'static>) -> Result<String, std::io::Error> {
        self.page_of(NAME, root).await
    }

    /// The same at this name of the site.
    async fn page_of(&self, host: &str, root: CertificateDer<'static>) -> Result<String, std::io::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(root).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", self.ports.tls)).await?;
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

async fn is_issued_and_outlives_a_restart(challenge: &str) {
    if !installed(PEBBLE) {
        return;
    }
    let bed = Bed::lay(challenge);
    let authority = bed.authority().await;
    let root = authority.root().await;
    let proxy = bed.proxy().await;
    proxy.logged("a certificate was issued").await;
    assert!(bed.page(root.clone()).await.expect("a certificate to trust").ends_with(PAGE));
    for file in [bed.pem(), bed.kept("account.json"), bed.kept(&format!("{NAME}.json"))] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!((&bed.memory()["failures"], &bed.memory()["why"]), (&Value::from(0), &Value::Null));
    let secret = fs::read_to_string(bed.pem()).expect("PEM").lines().nth(1).expect("a key").to_owned();
    assert!(!proxy.log().concat().contains(&secret), "the key shows in the log");

    drop(authority);
    assert!(proxy.terminate().success());
    let proxy = bed.proxy().await;
    assert!(bed.page(root).await.expect("still the same certificate").ends_with(PAGE));
    let line: Value = serde_json::from_str(&proxy.logged("asked later").await).expect("JSON");
    assert!(line["next"].as_str().is_some_and(|next| next > "2027"), "pebble's are good for five years: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_issued_by_a_handshake() {
    is_issued_and_outlives_a_restart("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_issued_by_plain_http() {
    is_issued_and_outlives_a_restart("challenge = \"http-01\"").await;
}

/// One certificate for all names, each of which is proved; and another at once when there is a further name, though the first is
/// not due for years.
async fn is_issued_for_all_names_and_again_for_more(challenge: &str) {
    const FURTHER: [&str; 3] = ["two.example.org", "three.example.org", "four.example.org"];
    if !installed(PEBBLE) {
        return;
    }
    let bed = Bed::bare();
    bed.write(challenge, &FURTHER[..2]);
    let authority = bed.authority().await;
    let root = authority.root().await;
    let proxy = bed.proxy().await;
    let ordered: Value = serde_json::from_str(&proxy.logged("a certificate is ordered").await).expect("JSON");
    assert_eq!(ordered["names"], format!("{NAME}, two.example.org, three.example.org"));
    proxy.logged("a certificate was issued").await;
    for name in [NAME, FURTHER[0], FURTHER[1]] {
        assert!(bed.page_of(name, root.clone()).await.expect("a certificate to trust").ends_with(PAGE), "{name}");
    }
    assert!(bed.page_of(FURTHER[2], root.clone()).await.is_err());
    proxy.logged("asked later").await;

    bed.write(challenge, &FURTHER);
    proxy.hangup();
    let end = Instant::now() + Duration::from_secs(40);
    while bed.page_of(FURTHER[2], root.clone()).await.is_err() {
        assert!(Instant::now() < end, "no certificate for the further name: {:#?}", proxy.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(bed.page(root).await.expect("for the others too").ends_with(PAGE));
    let orders = proxy.log().iter().filter(|line| line.contains("a certificate is ordered")).count();
    assert_eq!(orders, 2, "{:#?}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_certificate_is_issued_for_all_names_by_handshakes() {
    is_issued_for_all_names_and_again_for_more("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_certificate_is_issued_for_all_names_by_plain_http() {
    is_issued_for_all_names_and_again_for_more("challenge = \"http-01\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_issued_for_what_init_has_written() {
    if !installed(PEBBLE) {
        return;
    }
    let bed = Bed::lay("");
    let (listen, roots) = (format!("127.0.0.1:{}", bed.ports.tls), bed.trust.file("root.pem"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.args(["init", "--yes", "--force", "--domain", NAME, "--acme", "--acme-challenge", "tls-alpn-01"]);
    command.args(["--skip", "telegram", "--skip", "name", "--acme-directory", &bed.ports.directory()]);
    command.args(["--acme-ca-file", &roots, "--listen", &listen, "--folder"]).arg(bed.origin.folder());
    let command = command.arg("--config").arg(bed.file()).arg("--state-dir").arg(bed.state.path());
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("was requested from") && said.contains(&format!("server={NAME}&port=")), "{said}");

    let authority = bed.authority().await;
    let proxy = bed.proxy().await;
    proxy.logged("a certificate was issued").await;
    assert!(bed.page(authority.root().await).await.expect("a certificate to trust").ends_with(PAGE));
}

/// The authority that comes back has forgotten the account, so that is made again as well.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_certificate_is_renewed_while_it_is_served() {
    if !installed(PEBBLE) {
        return;
    }
    let bed = Bed::lay("email = \"somebody@example.org\"");
    let authority = bed.authority().await;
    let proxy = bed.proxy().await;
    proxy.logged("a certificate was issued").await;
    assert!(proxy.terminate().success());
    let account = fs::read(bed.kept("account.json")).expect("an account");
    drop(authority);
    let (old, pem) = nearly_over();
    fs::write(bed.pem(), pem).expect("writes");

    // Without an authority the old one is served, and the failure is remembered.
    let proxy = bed.proxy().await;
    let line = proxy.logged("no certificate was issued").await;
    assert!(line.contains("cannot be asked") && line.contains("ca_file"), "{line}");
    assert!(bed.page(old).await.expect("the old one").ends_with(PAGE));
    assert!(proxy.terminate().success());
    assert_eq!(bed.memory()["failures"], 1);

    fs::remove_file(bed.kept(&format!("{NAME}.json"))).expect("it was there");
    let authority = bed.authority().await;
    let proxy = bed.proxy().await;
    proxy.logged("does not know the account").await;
    proxy.logged("a certificate was issued").await;
    assert!(bed.page(authority.root().await).await.expect("the new one").ends_with(PAGE));
    assert_ne!(fs::read(bed.kept("account.json")).expect("an account"), account);
}

/// A certificate of one's own that has a tenth of its life left.
fn nearly_over() -> (CertificateDer<'static>, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([NAME.to_owned()]).expect("parameters");
    let day = |days: i64| {
        let date = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days))
            .to_zoned(jiff::tz::TimeZone::UTC)
            .date();
        let part = |part: i8| u8::try_from(part).expect("a part of a date");
        rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
    };
    (params.not_before, params.not_after) = (day(-81), day(9));
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.der().clone(), key.serialize_pem() + &certificate.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_its_mend_and_is_not_forgotten() {
    if !installed(PEBBLE) {
        return;
    }
    for (challenge, known, why, fix) in [
        ("", false, "no address for mask.example.org", "A record"),
        ("", true, "cannot reach mask.example.org on port 443", "firewall"),
        ("challenge = \"http-01\"", true, "cannot reach mask.example.org on port 80", "redirect_from"),
    ] {
        let bed = Bed::lay(challenge);
        if !known {
            bed.names.forget();
        }
        // The authority comes to ports where no one is.
        let elsewhere = Ports::free();
        let ports = Ports { tls: elsewhere.tls, http: elsewhere.http, ..bed.ports };
        let _authority = Pebble::start(&bed.trust, ports, &bed.names).await;
        let proxy = bed.proxy().await;
        let line: Value = serde_json::from_str(&proxy.logged("no certificate was issued").await).expect("JSON");
        let says = |key: &str, part: &str| line[key].as_str().is_some_and(|text| text.contains(part));
        assert!(says("why", why) && says("fix", fix), "{line}");
        let memory = bed.memory();
        assert_eq!((&memory["failures"], &memory["why"]), (&Value::from(1), &line["why"]));
        proxy.kill();

        // A program that starts again and again asks no more often for that.
        let proxy = bed.proxy().await;
        proxy.logged("asked later").await;
        assert_eq!(bed.memory(), memory);
        assert!(!proxy.log().concat().contains("a certificate is ordered"));
        drop(proxy);
        let doctor = doctor(&bed);
        assert!(doctor.contains("acme") && doctor.contains(why) && doctor.contains(fix), "{doctor}");
    }
}

/// What the doctor says of the certificate.
fn doctor(bed: &Bed) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.args(["doctor", "--skip", "telegram", "--skip", "clock"]);
    let command = command.arg("--config").arg(bed.file()).arg("--state-dir").arg(bed.state.path());
    String::from_utf8(command.output().expect("the program runs").stdout).expect("text")
}
