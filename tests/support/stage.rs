//! A cover, a bare relay in front of it, and the proxy in front of it.

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;
use vizard::audit::cover::Target;
use vizard::cover::site::{Content, Settings};

use super::KEY;
use super::mock_dc::MockDc;
use super::nginx::Nginx;
use super::origin::{Origin, Sink};
use super::probe::Lineup;
use super::relay::{Fault, Relay};
use super::vizard::{Setup, Vizard};

/// The two kinds of cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A real nginx elsewhere.
    Nginx,
    /// The built-in site.
    Site,
}

pub const BOTH: [Kind; 2] = [Kind::Nginx, Kind::Site];

/// Everything that a comparison needs; all of it ends with this value.
pub struct Stage {
    pub proxy: Vizard,
    pub setup: Setup,
    pub cover: SocketAddr,
    pub relay: Relay,
    pub origin: Origin,
    pub state: TempDir,
    _cover: Cover,
}

enum Cover {
    Nginx { _nginx: Nginx, _uploads: Sink },
    Site { _site: Target },
}

impl Stage {
    /// `None` where nginx is wanted and not installed.
    pub async fn start(kind: Kind) -> Option<Self> {
        Self::with(kind, Origin::make(), |setup| setup.usual(&KEY)).await
    }

    /// One user, and this data centre under the usual number.
    pub async fn with_dc(kind: Kind, dc: &MockDc) -> Option<Self> {
        Self::with(kind, Origin::make(), |setup| setup.usual(&KEY).dc(2, dc.addr)).await
    }

    pub async fn with(kind: Kind, origin: Origin, arrange: impl FnOnce(Setup) -> Setup) -> Option<Self> {
        let state = tempfile::tempdir().expect("a temporary folder");
        let (addr, cover, setup) = match kind {
            Kind::Nginx => {
                let uploads = Sink::start().await;
                let nginx = Nginx::start(&origin, uploads.addr).await?;
                let setup = Setup::new(state.path(), &nginx.addr.to_string());
                (nginx.addr, Cover::Nginx { _nginx: nginx, _uploads: uploads }, setup)
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
        Some(Self { proxy, setup, cover: addr, relay, origin, state, _cover: cover })
    }

    pub fn lineup(&self, limit: Duration) -> Lineup {
        Lineup { cover: self.cover, relay: self.relay.addr, proxy: self.proxy.addr, limit }
    }
}

/// The built-in site without a proxy around it, with the same files.
async fn bare_site(origin: &Origin) -> Target {
    let settings = Settings {
        certificate: origin.certificate(),
        key: origin.key(),
        content: Content::Folder(origin.folder()),
        server_header: None,
        redirect_from: Vec::new(),
    };
    vizard::audit::cover::site(&settings).await.expect("the site opens")
}
