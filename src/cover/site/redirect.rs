//! Plain HTTP, answered with the way to HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::header::{HOST, HeaderValue, LOCATION};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tokio::net::TcpStream;

use super::answer::{Body, Handler, page};
use super::visit::{self, Protocol, Visit};

/// Answers one client to the end.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, handler: &Arc<Handler>) {
    let visit = Visit { protocol: Protocol::Http1, peer: Some(peer), handler: Arc::clone(handler) };
    if let Some(stream) = visit.drive(stream).await {
        visit::linger(stream).await;
    }
}

/// The same place over HTTPS. Methods that carry content keep it with 308, which old clients do not know, so that the
/// others get 301.
pub(super) fn answer<B>(request: &Request<B>) -> Response<Body> {
    let Some(location) = location(request.uri(), request.headers()) else { return page(StatusCode::BAD_REQUEST) };
    let mut response = page(match *request.method() {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    });
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Where the request should have gone; `None` if it does not say whom it is for.
fn location(uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
    let named = match uri.authority() {
        Some(authority) => authority.clone(),
        None => headers.get(HOST)?.to_str().ok()?.parse::<Authority>().ok()?,
    };
    let host = named.host();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let sound = !host.is_empty() && !named.as_str().contains('@') && path.starts_with('/');
    sound.then(|| HeaderValue::try_from(format!("https://{host}{path}")).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, uri: &str, host: Option<&str>) -> (StatusCode, Option<String>) {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let response = answer(&request.body(()).unwrap());
        (response.status(), response.headers().get(LOCATION).map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn points_to_the_same_place_over_https() {
        let table = [
            ("/", "example.org", "https://example.org/"),
            ("/a%20b?c=d&e", "example.org", "https://example.org/a%20b?c=d&e"),
            ("//evil.example/", "example.org", "https://example.org//evil.example/"),
            ("/", "example.org:8080", "https://example.org/"),
            ("/", "192.0.2.1:80", "https://192.0.2.1/"),
            ("/", "[2001:db8::1]:80", "https://[2001:db8::1]/"),
            ("http://other.example/x", "example.org", "https://other.example/x"),
        ];
        for (uri, host, location) in table {
            let expected = (StatusCode::MOVED_PERMANENTLY, Some(location.to_owned()));
            assert_eq!(ask(Method::GET, uri, Some(host)), expected, "{uri} at {host}");
        }
    }

    #[test]
    fn keeps_the_method_where_it_matters() {
        assert_eq!(ask(Method::HEAD, "/", Some("a.example")).0, StatusCode::MOVED_PERMANENTLY);
        assert_eq!(ask(Method::POST, "/", Some("a.example")).0, StatusCode::PERMANENT_REDIRECT);
    }

    #[test]
    fn refuses_what_names_no_host() {
        for host in [None, Some(""), Some("a b"), Some("user@a.example"), Some("a.example/x"), Some(":80")] {
            assert_eq!(ask(Method::GET, "/", host), (StatusCode::BAD_REQUEST, None), "{host:?}");
        }
        assert_eq!(ask(Method::OPTIONS, "*", Some("a.example")).0, StatusCode::BAD_REQUEST);
    }
}
