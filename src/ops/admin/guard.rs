//! Who asks: tokens, the owner of the socket, and how often someone may ask.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::answer::refuse;
use super::desk::Shared;
use super::token::{Role, TokenHash};

/// Origin of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// From this address.
    Tcp(IpAddr),
    /// Through the socket in the file system; says whether by its owner or by root.
    Unix {
        /// Whether it is.
        owner: bool,
    },
}

/// Sender of a request, as far as its identity was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name of the token.
    pub name: String,
    /// Role that the token grants.
    pub role: Role,
    /// The token's hash; `None`: the owner of the socket, who needs no token.
    pub token: Option<TokenHash>,
}

/// Name of the socket's owner in the log. No token can have this name.
pub const OWNER: &str = "(socket owner)";

/// Rate limits of requests and of wrong tokens.
pub struct Limits {
    requests: Limiter,
    failures: Limiter,
}

type Limiter = RateLimiter<Option<IpAddr>, HashMapStateStore<Option<IpAddr>>, DefaultClock>;

/// Requests from one address: in a second, and at once. A page with its pictures takes five.
const REQUESTS: (u32, u32) = (50, 200);

/// Wrong tokens from one address: in a minute, and at once.
const FAILURES: (u32, u32) = (30, 20);

/// Addresses that are remembered before those are forgotten that were silent for long.
const MANY: usize = 4096;

impl Default for Limits {
    fn default() -> Self {
        let number = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            requests: Limiter::hashmap(Quota::per_second(number(REQUESTS.0)).allow_burst(number(REQUESTS.1))),
            failures: Limiter::hashmap(Quota::per_minute(number(FAILURES.0)).allow_burst(number(FAILURES.1))),
        }
    }
}

impl Limits {
    /// Whether one more request from there may be answered.
    pub fn may_ask(&self, peer: Peer) -> bool {
        check(&self.requests, peer)
    }

    /// Notes a wrong token, and says whether that may be told.
    pub fn may_fail(&self, peer: Peer) -> bool {
        check(&self.failures, peer)
    }
}

fn check(limiter: &Limiter, peer: Peer) -> bool {
    if limiter.len() > MANY {
        limiter.retain_recent();
    }
    let key = match peer {
        Peer::Tcp(ip) => Some(network(ip)),
        Peer::Unix { .. } => None,
    };
    limiter.check_key(&key).is_ok()
}

/// The unit that limits count: an IPv4 address, or the /64 of an IPv6 address.
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// The caller of an API request.
pub fn caller(desk: &Shared, peer: Peer, request: &Request) -> Result<Caller, Box<Response>> {
    let sent = request.headers().get(header::AUTHORIZATION);
    let bearer = sent.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match (bearer, peer) {
        (Some(text), _) => desk.log_in(peer, text.trim()),
        (None, Peer::Unix { owner: true }) if sent.is_none() => {
            Ok(Caller { name: OWNER.into(), role: Role::Admin, token: None })
        }
        _ => Err(Box::new(unknown("this needs a token", "send the header `Authorization: Bearer TOKEN`"))),
    }
}

/// An answer to someone without a token.
pub fn unknown(error: &str, next: &str) -> Response {
    let mut response = refuse(StatusCode::UNAUTHORIZED, error, next);
    let challenge = header::HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

/// An answer to someone who asks too often.
pub fn too_often() -> Response {
    let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests", "wait a few seconds");
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
    response
}

/// Lets those through who have at least this role.
pub async fn at_least(State((desk, least)): State<(Shared, Role)>, mut request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let caller = match caller(&desk, peer, &request) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    if caller.role < least {
        let error = format!("the role {} may not do this", caller.role);
        // The route, not the path: someone may have put a secret there.
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        desk.note(&caller, &format!("{} {route}", request.method()), "", Some(&error));
        return refuse(StatusCode::FORBIDDEN, &error, &format!("use a token of the role {least}"));
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_share_a_limit() {
        let limits = Limits::default();
        let peer = |text: &str| Peer::Tcp(text.parse().unwrap());
        let refused = |peer: Peer| (0..2 * FAILURES.1).filter(|_| !limits.may_fail(peer)).count();
        assert!(refused(peer("2001:db8::1")) >= 19);
        assert!(refused(peer("2001:db8::2")) >= 39, "the same /64");
        assert!(limits.may_fail(peer("2001:db8:0:1::2")) && limits.may_fail(peer("192.0.2.1")));
        assert!(limits.may_fail(Peer::Unix { owner: false }));
    }
}
