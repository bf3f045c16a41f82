//! A cover, a bare relay in front of it, and the proxy in front of it.

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;
use vizard::audit::cover::Target;
use vizard::cover::site::{Content, Settings};

use super::KEY;
use super::mock_dc::{MockDc, Role};
use super::nginx::Nginx;
use super::origin::{Origin, Sink};
use super::probe::Lineup;
use super::relay::{Fault, Relay};
use super::server::Server;
use super::vizard::{Setup, Vizard};

/// The kinds of cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A real nginx elsewhere.
    Nginx,
    /// The same with small records, as some set it for the sake of the first byte's time.
    SmallRecords,
    /// The built-in site.
    Site,
    /// A server on OpenSSL 3.5.
    Node,
    /// A server on BoringSSL.
    Boring,
}

impl Kind {
    /// Whether its encrypted flight is one record, so that clients can be shown exactly that.
    pub fn one_record(self) -> bool {
        matches!(self, Self::Site | Self::Boring)
    }

    /// Whether it takes a post-quantum share.
    pub fn post_quantum(self) -> bool {
        matches!(self, Self::Site | Self::Node | Self::Boring)
    }
}

/// One of every TLS library.
pub const ALL: [Kind; 4] = [Kind::Nginx, Kind::Site, Kind::Node, Kind::Boring];

/// The covers that operators have most, for tests of everything that is not TLS.
pub const BOTH: [Kind; 2] = [Kind::Nginx, Kind::Site];

/// Everything that a comparison needs; all of it ends with this value.
pub struct Stage {
    pub proxy: Vizard,
    pub setup: Setup,
    pub cover: SocketAddr,
    pub relay: Relay,
    pub origin: Origin,
    pub state: TempDir,
    kind: Kind,
    _cover: Cover,
    _dc: Option<MockDc>,
}

enum Cover {
    Nginx { _nginx: Nginx, _uploads: Sink },
    Site { _site: Target },
    Server { _server: Server },
}

impl Stage {
    /// `None` where the wanted cover is not installed.
    pub async fn start(kind: Kind) -> Option<Self> {
        // Of a session that should not be there, a prober would see that it stays.
        let dc = MockDc::start(Role::Sink).await;
        let stage = Self::with_dc(kind, &dc).await?;
        Some(Self { _dc: Some(dc), ..stage })
    }

    /// One user, and this data centre under the usual number.
    pub async fn with_dc(kind: Kind, dc: &MockDc) -> Option<Self> {
        Self::with(kind, Origin::make(), |setup| setup.usual(&KEY).dc(2, dc.addr)).await
    }

    pub async fn with(kind: Kind, origin: Origin, arrange: impl FnOnce(Setup) -> Setup) -> Option<Self> {
        let state = tempfile::tempdir().expect("a temporary folder");
        let (addr, cover, setup) = match kind {
            Kind::Nginx | Kind::SmallRecords => {
                let uploads = Sink::start().await;
                let more = if kind == Kind::SmallRecords { "ssl_buffer_size 4k;" } else { "" };
                let nginx = Nginx::start_with(&origin, uploads.addr, more).await?;
                let setup = Setup::new(state.path(), &nginx.addr.to_string());
                (nginx.addr, Cover::Nginx { _nginx: nginx, _uploads: uploads }, setup)
            }
            Kind::Node | Kind::Boring => {
                let server = if kind == Kind::Node { Server::node(&origin)? } else { Server::boring(&origin)? };
                let setup = Setup::new(state.path(), &server.addr.to_string());
                (server.addr, Cover::Server { _server: server }, setup)
            }
            Kind::Site => {
                let site = bare_site(&origin).await;
                (site.addr, Cover::Site { _site: site }, Setup::site(state.path(), &origin))
            }
        };
        let setup = arrange(setup);
        let starting = setup.clone();
        let proxy = tokio::task::spawn_blocking(move || starting.start()).await.expect("the program starts");
        let relay = Relay::start(addr, Fault::None).await.expect("a free port");
        Some(Self { proxy, setup, cover: addr, relay, origin, state, kind, _cover: cover, _dc: None })
    }

    pub fn lineup(&self, limit: Duration) -> Lineup {
        let one_record = self.kind.one_record();
        Lineup { cover: self.cover, relay: self.relay.addr, proxy: self.proxy.addr, limit, one_record }
    }
}

/// The built-in site without a proxy around it, with the same files.
async fn bare_site(origin: &Origin) -> Target {
    let settings = Settings::new(origin.certificate(), origin.key(), Content::Folder(origin.folder()));
    vizard::audit::cover::site(&settings).await.expect("the site opens")
}
