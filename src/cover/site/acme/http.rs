//! The way to the authority: this program's own client, in the shape that instant-acme asks for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Request, Response};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Authority;
use super::trouble::Trouble;
use crate::net::https::{Bounds, Client};

/// Bounds of one answer. A chain of certificates has a few kilobytes.
const BOUNDS: Bounds = Bounds { size: 256 * 1024, time: Duration::from_secs(60) };

/// Asks the authority, and remembers for how long it does not want to be asked.
#[derive(Clone)]
pub(super) struct Road {
    client: Client,
    refused: Arc<AtomicI64>,
}

impl Road {
    pub(super) fn to(authority: &Authority) -> Result<Self, Trouble> {
        let client = match &authority.roots {
            None => Client::default(),
            Some(file) => {
                let roots = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
                let mut store = RootCertStore::empty();
                let added = roots.map(|roots| store.add_parsable_certificates(roots).0).unwrap_or_default();
                if added == 0 {
                    return Err(Trouble::roots(file));
                }
                Client::trusting(store)
            }
        };
        // All further places are the authority's to name.
        Ok(Self { client: client.named_by(&authority.directory), refused: Arc::default() })
    }

    /// Seconds that the authority's last refusal asks to wait.
    pub(super) fn refused(&self) -> Option<i64> {
        Some(self.refused.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0)
    }
}

impl HttpClient for Road {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let road = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let answer = road.client.request(Request::from_parts(parts, body), BOUNDS).await;
            let answer: Response<Bytes> = answer.map_err(|error| Error::Other(Box::new(error)))?;
            if answer.status().is_client_error() || answer.status().is_server_error() {
                road.refused.store(wait(answer.headers()).unwrap_or_default(), Ordering::Relaxed);
            }
            Ok(answer.map(Full::new).into())
        })
    }
}

/// `Retry-After` in seconds. A date, which authorities hardly use, is taken for none.
fn wait(headers: &HeaderMap) -> Option<i64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}
