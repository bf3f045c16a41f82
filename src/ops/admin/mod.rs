//! The admin listener: an API, metrics and a page for those who run the proxy. Off unless it is configured.
//!
//! ```text
//! connection ─▶ serve (TLS, places, deadlines) ─▶ origin ─▶ guard (token, role) ─▶ api ──┐
//!                                                     └───▶ page (cookie, role) ─────────┴─▶ Control
//! ```
//!
//! It listens on this machine alone, or with TLS and tokens; anything else is refused before it starts
//! ([`Settings::refusal`]). It never speaks to clients of the proxy, and no limit of it touches them.

pub mod answer;
pub mod api;
pub mod client;
pub mod control;
pub mod desk;
pub mod events;
pub mod guard;
pub mod keys;
pub mod listen;
pub mod login;
pub mod origin;
pub mod page;
mod places;
pub mod samples;
mod serve;
pub mod token;
pub mod views;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::{Extension, Router};

pub use self::keys::Keys;
pub use self::listen::AdminAddress;
pub use self::serve::{Open, StartError, open};
pub use self::token::{Role, Token, Tokens};

/// Settings of the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// AdminAddress where it listens.
    pub place: AdminAddress,
    /// PEM files of certificate chain and key, if it speaks TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Tokens that are accepted.
    pub tokens: Vec<Token>,
    /// Names that browsers may know it by, besides `localhost`, its address, and the names of its certificate.
    pub hosts: Vec<String>,
    /// Whether names of users are labels of metrics.
    pub per_user_metrics: bool,
}

/// Reason why these settings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Others could read along.
    PublicWithoutTls,
    /// No one could enter, or everybody.
    NoToken,
}

impl Settings {
    /// Whether these settings would give away what the listener shows, or nothing to anybody.
    pub fn refusal(&self) -> Option<Refusal> {
        let tcp = matches!(self.place, AdminAddress::Tcp(_));
        if !self.place.is_local() && self.tls.is_none() {
            return Some(Refusal::PublicWithoutTls);
        }
        (tcp && self.tokens.is_empty()).then_some(Refusal::NoToken)
    }
}

impl Refusal {
    /// Returns a description of the error.
    pub fn error(self) -> &'static str {
        match self {
            Self::PublicWithoutTls => "the admin listener would be reached from other machines without TLS",
            Self::NoToken => "the admin listener has no token, so no one could use it",
        }
    }

    /// Returns advice on what to do.
    pub fn fix(self) -> &'static str {
        match self {
            Self::PublicWithoutTls => {
                "listen on 127.0.0.1 or on unix:/PATH, or add `certificate` and `key` to the section [admin]"
            }
            Self::NoToken => "make one with `vizard token ROLE` and add it as [[admin.tokens]]",
        }
    }
}

/// Largest body of a request. The largest that makes sense is a user with a long note.
pub const LARGEST_BODY: usize = 16 * 1024;

/// All routes.
pub fn routes(desk: desk::Shared) -> Router {
    let (api, document) = api::router(&desk);
    let api =
        api.layer(Extension(Arc::new(document))).layer(from_fn(origin::no_form)).layer(from_fn(failures_are_json));
    let router = api.merge(page::router(desk.clone()));
    router
        .fallback(|| async { desk::nowhere() })
        .method_not_allowed_fallback(api::no_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(from_fn_with_state(desk.clone(), origin::from_our_pages))
        .layer(from_fn(headers))
        .with_state(desk)
}

/// Turns the framework's own refusals into the JSON that all others have.
async fn failures_are_json(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let plain = response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json");
    if !(status.is_client_error() || status.is_server_error()) || !plain {
        return response;
    }
    let error = status.canonical_reason().unwrap_or("refused").to_lowercase();
    answer::refuse(status, &error, "see /openapi.json for what can be asked")
}

/// Nothing of this belongs into a cache, into a frame, or to anybody else; and the pages have no scripts.
async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                      frame-ancestors 'none'; base-uri 'none'";

#[cfg(test)]
mod tests;
