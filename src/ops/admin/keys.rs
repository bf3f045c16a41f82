//! What the admin listener shows and whom it believes, both of which can be replaced while it runs.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::origin::Hosts;
use super::{Settings, StartError, Tokens};

/// The tokens and names of a running listener, and its certificate if it speaks TLS. Cheap to clone; all clones are the
/// same.
#[derive(Clone, Default)]
pub struct Keys {
    tokens: Arc<ArcSwap<Tokens>>,
    hosts: Arc<ArcSwap<Hosts>>,
    tls: Option<Arc<ArcSwap<Tls>>>,
}

/// A certificate that was read, ready to be shown.
pub struct Tls {
    chain: Vec<CertificateDer<'static>>,
    names: Vec<String>,
    acceptor: TlsAcceptor,
}

impl Keys {
    /// Reads what the settings name.
    pub fn open(settings: &Settings) -> Result<Self, StartError> {
        let tls = settings.tls.as_ref().map(|(certificate, key)| Tls::load(certificate, key)).transpose()?;
        let tokens = Arc::new(ArcSwap::from_pointee(Tokens::new(settings.tokens.clone())));
        let hosts = Arc::new(ArcSwap::from_pointee(hosts(settings, tls.as_ref())));
        Ok(Self { tokens, hosts, tls: tls.map(|tls| Arc::new(ArcSwap::from_pointee(tls))) })
    }

    /// The tokens that are accepted.
    pub fn tokens(&self) -> &Arc<ArcSwap<Tokens>> {
        &self.tokens
    }

    /// The names that browsers may know the listener by.
    pub fn hosts(&self) -> Arc<Hosts> {
        self.hosts.load_full()
    }

    /// Whether the listener speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls.as_ref().map(|tls| tls.load().acceptor.clone())
    }

    /// Reads the certificate that other settings name, for [`Keys::replace`]. `None` if there is nothing to be replaced: a
    /// running listener neither begins to speak TLS nor ceases to.
    pub fn read(&self, settings: &Settings) -> Result<Option<Tls>, StartError> {
        let wanted = settings.tls.as_ref().filter(|_| self.is_secure());
        wanted.map(|(certificate, key)| Tls::load(certificate, key)).transpose()
    }

    /// From now on these tokens, these names and this certificate hold; says whether the certificate is another.
    pub fn replace(&self, settings: &Settings, fresh: Option<Tls>) -> bool {
        self.tokens.store(Arc::new(Tokens::new(settings.tokens.clone())));
        let shown = self.tls.as_ref().map(|tls| tls.load_full());
        self.hosts.store(Arc::new(hosts(settings, fresh.as_ref().or(shown.as_deref()))));
        let (Some(tls), Some(fresh)) = (&self.tls, fresh) else { return false };
        let changed = tls.load().chain != fresh.chain;
        tls.store(Arc::new(fresh));
        changed
    }
}

impl Tls {
    fn load(certificate: &Path, key: &Path) -> Result<Self, StartError> {
        Self::read(certificate, key).map_err(|error| StartError::Tls(error.to_string()))
    }

    fn read(certificate: &Path, key: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), PrivateKeyDer::from_pem_file(key)?)?;
        let names = chain.first().map(names).unwrap_or_default();
        Ok(Self { chain, names, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

/// A page of a name in the certificate came from a holder of its key.
fn hosts(settings: &Settings, tls: Option<&Tls>) -> Hosts {
    let certified = tls.into_iter().flat_map(|tls| tls.names.iter().cloned());
    Hosts::new(settings.hosts.iter().cloned().chain(certified))
}

fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let names = parsed.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    };
    names.into_iter().flatten().filter_map(text).collect()
}
