//! Users that are spread over several names of the site: each enters by its own, under one certificate for all.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::dice::Dice;
use crate::support::fake_tls::{Login, Refused};
use crate::support::hello::{self, Key, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::{NAME, Origin};
use crate::support::vizard::{Setup, Vizard};
use crate::support::{KEY, OTHER_KEY};
use data_encoding::HEXLOWER;
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use vizard::cover::chain::Chain;
use vizard::cover::scout::AnyCertificate;

const SECOND: &str = "second.example.org";
const FOREIGN: &str = "foreign.example.org";

/// A running proxy and its configuration file.
struct Running {
    proxy: Vizard,
    dc: MockDc,
    origin: Origin,
    _state: TempDir,
}

impl Running {
    /// With these lines at the top of the file, for alice, and for bob with these lines; `site` stands in its section.
    async fn start(top: &str, bob: &str, site: &str) -> Self {
        let (dc, origin) = (MockDc::start(Role::Echo).await, Origin::make());
        let state = tempfile::tempdir().expect("a temporary folder");
        let file = origin.path().join("vizard.toml");
        write(&file, &dc, top, bob, site);
        let setup = Setup::file(state.path(), &file);
        let proxy = tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts");
        Self { proxy, dc, origin, _state: state }
    }

    /// Another configuration, which holds when this returns.
    async fn change(&self, top: &str, bob: &str, site: &str, changed: &str) {
        let draft = self.origin.path().join("draft");
        write(&draft, &self.dc, top, bob, site);
        std::fs::rename(&draft, self.origin.path().join("vizard.toml")).expect("replaces the configuration");
        self.proxy.hangup();
        self.proxy.logged(changed).await;
    }

    /// Whether a client of this key gets in with a hello for that name.
    async fn enters(&self, key: Key, name: &str) -> bool {
        let mut record = capture("tdlib-1.8.69-1").parts_for(name).fresh(&mut Dice::unseen()).fresh_shares().record();
        hello::sign(&mut record, &key, hello::now());
        match Login::with(record, key).enter(self.proxy.addr).await {
            Ok(mut session) => session.echo(b"hello").await.is_ok(),
            Err(refused) => {
                assert_eq!(refused, Refused::Digest, "{name}: no visit of the cover");
                false
            }
        }
    }

    /// The certificate that visitors are shown.
    async fn chain(&self) -> Chain {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.expect("versions").dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
        let stream = TcpStream::connect(self.proxy.addr).await.expect("it listens");
        let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
        let stream = connector.connect(NAME.try_into().expect("a name"), stream).await.expect("a handshake");
        Chain::read(stream.get_ref().1.peer_certificates().expect("a certificate")).expect("a whole one")
    }
}

fn write(file: &Path, dc: &MockDc, top: &str, bob: &str, site: &str) {
    let (alice, key) = (HEXLOWER.encode(&KEY), HEXLOWER.encode(&OTHER_KEY));
    let text = format!(
        "domain = \"{NAME}\"\nlisten = [\"127.0.0.1:0\"]\n{top}\n[[users]]\nname = \"alice\"\nsecret = \"{alice}\"\n\
         [[users]]\nname = \"bob\"\nsecret = \"{key}\"\n{bob}\n[site]\n{site}\n[telegram.addresses]\n2 = [\"{}\"]\n",
        dc.addr
    );
    std::fs::write(file, text).expect("writes the configuration");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_enters_by_the_name_of_the_link_and_old_links_go_on_working() {
    let running = Running::start("", "", "").await;
    for (key, name) in [(KEY, NAME), (OTHER_KEY, NAME), (OTHER_KEY, SECOND)] {
        assert!(running.enters(key, name).await, "{name}: with one name any will do");
    }
    let names = format!("names = [\"{SECOND}\"]");
    running.change(&names, &format!("domain = \"{SECOND}\""), "", "\"names").await;
    for (key, name, expected) in [
        (OTHER_KEY, SECOND, true),
        (OTHER_KEY, NAME, false),
        (OTHER_KEY, FOREIGN, false),
        (KEY, NAME, true),
        (KEY, FOREIGN, true),
        (KEY, SECOND, false),
    ] {
        let who = if key == KEY { "alice" } else { "bob" };
        assert_eq!(running.enters(key, name).await, expected, "{who} by {name}");
    }
    running.change("", "", "", "user bob changed").await;
    let end = Instant::now() + Duration::from_secs(20);
    while !running.enters(OTHER_KEY, NAME).await {
        assert!(Instant::now() < end, "bob's change never holds");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_that_is_made_follows_the_names_of_the_site() {
    let running = Running::start(&format!("names = [\"{SECOND}\"]"), "", "").await;
    let before = running.chain().await;
    assert!(before.is_for(NAME) && before.is_for(SECOND) && before.self_signed, "{before:?}");
    running.change(&format!("names = [\"{SECOND}\", \"third.example.org\"]"), "", "", "\"names").await;
    let after = running.chain().await;
    assert!(["third.example.org", NAME, SECOND].iter().all(|name| after.is_for(name)), "{after:?}");
}
