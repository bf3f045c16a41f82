//! Plain HTTP, answered with the way to HTTPS, or with the proof that an authority has asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::acme::Challenges;
use super::answer::Handler;
use super::content::Content;
use super::message::{Head, Own, Reply, Request};
use super::{HANDSHAKE, closing, http1, page};

/// Answers one client to the end.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, handler: &Arc<Handler>) {
    let first = Instant::now() + HANDSHAKE;
    if let Some(stream) = http1::serve(stream, Some(peer).into(), Arc::clone(handler), first).await {
        closing::linger(stream).await;
    }
}

/// The same place over HTTPS, as `return 301 https://$host$request_uri` of nginx has it.
pub(super) fn answer(request: &Request, challenges: &Challenges) -> Reply {
    let path = std::str::from_utf8(&request.target.path).unwrap_or_default();
    let method = hyper::Method::from_bytes(&request.method).unwrap_or_default();
    if let Some(proof) = challenges.page(&method, path) {
        let kind = Some("application/octet-stream".into());
        let own = Own { kind, length: Some(proof.len() as u64), ..Own::default() };
        let content = Content::bytes(proof);
        return Reply { status: 200, line: None, head: Head::Own(Box::new(own)), content, last: false };
    }
    let Some(host) = &request.host else { return page::page(400, &request.fields) };
    let mut reply = page::page(301, &request.fields);
    if let Head::Own(own) = &mut reply.head {
        own.location = Some(format!("https://{host}{}", String::from_utf8_lossy(&request.target.raw)));
    }
    reply
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::request_head::HeadReader;
    use super::*;

    fn ask(text: &str) -> (u16, Option<String>) {
        let whole = HeadReader::default().read(&mut BytesMut::from(text)).unwrap().unwrap();
        let reply = answer(&whole.request, &Challenges::default());
        let Head::Own(own) = reply.head else { panic!("not ours") };
        (reply.status, own.location)
    }

    #[test]
    fn points_to_the_same_place_over_https() {
        let table = [
            ("GET / HTTP/1.1\r\nHost: example.org", "https://example.org/"),
            ("POST /a%20b?c=d&e HTTP/1.1\r\nHost: example.org", "https://example.org/a%20b?c=d&e"),
            ("GET //evil.example/ HTTP/1.1\r\nHost: example.org", "https://example.org//evil.example/"),
            ("HEAD / HTTP/1.1\r\nHost: Example.org:8080", "https://example.org/"),
            ("GET / HTTP/1.1\r\nHost: [2001:db8::1]:80", "https://[2001:db8::1]/"),
            ("GET http://other.example/x HTTP/1.1\r\nHost: a", "https://other.example/x"),
        ];
        for (text, location) in table {
            assert_eq!(ask(&format!("{text}\r\n\r\n")), (301, Some(location.to_owned())), "{text}");
        }
    }

    #[test]
    fn refuses_what_names_no_host() {
        assert_eq!(ask("GET / HTTP/1.0\r\n\r\n"), (400, None));
    }
}
