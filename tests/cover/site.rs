//! The built-in site against real clients: a rustls client, curl, and nginx as the server behind it.

#![expect(clippy::unwrap_used, reason = "a test stops at its first surprise")]

pub mod support;

use std::fs;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, SERVER, VARY,
};
use hyper::{Method, Request, StatusCode};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use support::{Host, Nginx, Tap, client, get, get_with, head, records, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use vizard::cover::site::{Content, Settings, Site};

#[tokio::test]
async fn handshakes_in_both_versions() {
    let host = Host::folder().await;
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let stream = host.connect(&Arc::new(client(&[version], &[]))).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], host.certificate());
    }
}

#[tokio::test]
async fn key_exchange_is_post_quantum_when_offered() {
    let host = Host::folder().await;
    let stream = host.connect(&Arc::new(client(&[&TLS13], &[]))).await;
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "no HelloRetryRequest");
}

#[tokio::test]
async fn server_flight_is_one_encrypted_record() {
    let host = Host::folder().await;
    let tap = Tap::new(host.stream().await);
    let seen = tap.seen();
    host.handshake(&Arc::new(client(&[&TLS13], &[b"h2", b"http/1.1"])), tap).await.unwrap();
    // The client has finished and not read on since, so this is the flight and nothing else.
    let kinds: Vec<u8> = records(&seen.lock().unwrap()).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [22, 20, 23], "ServerHello, CCS, one record for the rest");
}

#[tokio::test]
async fn sessions_are_resumed() {
    let host = Host::folder().await;
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(client(&[version], &[]));
        let mut first = host.connect(&config).await;
        // Reading an answer is what brings the tickets of TLS 1.3 in.
        first.write_all(b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n").await.unwrap();
        first.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        let second = host.connect(&config).await;
        assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
    }
}

#[tokio::test]
async fn failed_handshake_gives_the_stream_back_with_the_alert_sent() {
    let site = Host::folder().await.site;
    let (mut theirs, ours) = tokio::io::duplex(4096);
    theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (error, back) = site.serve(ours, None).await.expect_err("that was no hello");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    drop(back);
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer[..3], [21, 3, 3], "an alert record");
    assert_eq!(answer.len(), 7);
}

#[tokio::test]
async fn certificate_is_reloaded() {
    let host = Host::folder().await;
    let old = host.certificate();
    host.renew();
    assert_ne!(host.certificate(), old);
    let config = Arc::new(client(&[&TLS13], &[]));
    let renewed = async {
        loop {
            let stream = host.handshake(&config, host.stream().await).await.unwrap();
            if stream.get_ref().1.peer_certificates().unwrap()[0] == host.certificate() {
                break;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), renewed).await.expect("the new one is served at last");
}

#[tokio::test]
async fn errors_at_start_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let good = Host::settings(dir.path());
    let complaint = |spoil: &dyn Fn(&mut Settings)| {
        let mut settings = good.clone();
        spoil(&mut settings);
        Site::open(&settings).err().unwrap().to_string()
    };
    assert!(
        complaint(&|settings| settings.certificate = "/nonexistent/site.crt".into()).contains("/nonexistent/site.crt")
    );
    assert!(
        complaint(&|settings| settings.content = Content::Folder("/nonexistent/pages".into()))
            .contains("/nonexistent/pages")
    );
    let upstream = "https://127.0.0.1".parse().unwrap();
    assert!(
        complaint(&|settings| settings.content = Content::Upstream(hyper::Uri::clone(&upstream)))
            .contains("https://127.0.0.1")
    );
    assert!(complaint(&|settings| settings.server_header = Some("a\nb".to_owned())).contains("server header"));
}

#[tokio::test]
async fn serves_the_folder() {
    let host = Host::folder().await;
    let ok = StatusCode::OK;
    let table = [
        ("/", ok, "text/html"),
        ("/index.html", ok, "text/html"),
        ("/?query", ok, "text/html"),
        ("/sub/", ok, "text/html"),
        ("/big.css", ok, "text/css"),
        ("/data.json", ok, "application/json"),
        ("/picture.png", ok, "image/png"),
        ("/with%20space.txt", ok, "text/plain"),
        ("/.well-known/proof", ok, "application/octet-stream"),
        ("/missing", StatusCode::NOT_FOUND, "text/html"),
        ("/empty/", StatusCode::FORBIDDEN, "text/html"),
        ("/.hidden", StatusCode::FORBIDDEN, "text/html"),
        ("/.git/config", StatusCode::FORBIDDEN, "text/html"),
        ("/../secret", StatusCode::BAD_REQUEST, "text/html"),
        ("/sub/../../secret", StatusCode::BAD_REQUEST, "text/html"),
        ("/%2e%2e/secret", StatusCode::BAD_REQUEST, "text/html"),
        ("/..%2fsecret", StatusCode::BAD_REQUEST, "text/html"),
        ("/%00", StatusCode::BAD_REQUEST, "text/html"),
        ("/%ff", StatusCode::NOT_FOUND, "text/html"),
        ("/index.html/x", StatusCode::NOT_FOUND, "text/html"),
        ("/sub", StatusCode::MOVED_PERMANENTLY, "text/html"),
    ];
    for alpn in support::BOTH {
        for (path, status, kind) in table {
            let answer = get(&host, alpn, path).await;
            assert_eq!((answer.status, answer.header(CONTENT_TYPE)), (status, kind), "{path} over {alpn:?}");
            assert!(answer.headers.contains_key(DATE));
            assert_eq!(answer.header(SERVER), "nginx");
            assert!(!answer.text().contains("secret"), "{path}");
        }
        assert_eq!(get(&host, alpn, "/").await.text(), "<h1>Home</h1>\n");
        assert_eq!(get(&host, alpn, "/sub?a=b").await.header(LOCATION), "https://site.test/sub/?a=b");
        assert!(get(&host, alpn, "/missing").await.text().contains("404 Not Found"));
    }
    let long = format!("/{}", "a".repeat(5000));
    assert_eq!(get(&host, b"http/1.1", &long).await.status, StatusCode::NOT_FOUND);
    fs::write(host.dir.path().join("site/404.html"), "<h1>Lost?</h1>").unwrap();
    let lost = get(&host, b"h2", "/missing").await;
    assert_eq!((lost.status, lost.text().as_str()), (StatusCode::NOT_FOUND, "<h1>Lost?</h1>"));
}

#[tokio::test]
async fn other_methods() {
    let host = Host::folder().await;
    for alpn in support::BOTH {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            let answer = send(&host, alpn, Request::builder().method(method.clone()).uri("/"), "").await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        }
        for (path, length) in [("/", 14), ("/big.css", 40_000)] {
            let head = send(&host, alpn, Request::builder().method(Method::HEAD).uri(path), "").await;
            assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
            assert_eq!(head.header(CONTENT_LENGTH), length.to_string());
        }
        let lost = send(&host, alpn, Request::builder().method(Method::HEAD).uri("/missing"), "").await;
        assert_eq!((lost.status, lost.body.len()), (StatusCode::NOT_FOUND, 0));
    }
}

#[tokio::test]
async fn conditional_requests() {
    let host = Host::folder().await;
    let first = get(&host, b"h2", "/picture.png").await;
    let (tag, date) = (first.header(ETAG).to_owned(), first.header(LAST_MODIFIED).to_owned());
    for (name, value) in [(IF_NONE_MATCH, &tag), (IF_MODIFIED_SINCE, &date)] {
        for alpn in support::BOTH {
            let again = get_with(&host, alpn, "/picture.png", &[(name.clone(), value)]).await;
            assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0), "{name}");
            assert_eq!((again.header(ETAG), again.header(LAST_MODIFIED)), (tag.as_str(), date.as_str()));
        }
    }
    let other = get_with(&host, b"h2", "/picture.png", &[(IF_NONE_MATCH, "\"other\"")]).await;
    assert_eq!(other.status, StatusCode::OK);
    let page = get_with(&host, b"h2", "/big.css", &[(ACCEPT_ENCODING, "gzip")]).await;
    let again =
        get_with(&host, b"h2", "/big.css", &[(ACCEPT_ENCODING, "gzip"), (IF_NONE_MATCH, page.header(ETAG))]).await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED, "the tag of a compressed answer holds too");
}

#[tokio::test]
async fn ranges() {
    let host = Host::folder().await;
    let whole = get(&host, b"h2", "/picture.png").await;
    assert_eq!(whole.header(ACCEPT_RANGES), "bytes");
    let (tag, total) = (whole.header(ETAG).to_owned(), whole.body.len());
    let partial = StatusCode::PARTIAL_CONTENT;
    let table = [
        ("bytes=0-4", partial, 0..5),
        ("bytes=5-", partial, 5..total),
        ("bytes=-3", partial, total - 3..total),
        ("bytes=0-999999", StatusCode::PARTIAL_CONTENT, 0..total),
        ("lines=0-1", StatusCode::OK, 0..total),
    ];
    for alpn in support::BOTH {
        for (range, status, part) in table.clone() {
            // A picture is not compressed, and neither may a part of a style sheet be.
            let answer = get_with(&host, alpn, "/picture.png", &[(RANGE, range), (ACCEPT_ENCODING, "gzip")]).await;
            assert_eq!(answer.status, status, "{range}");
            assert_eq!(answer.body, whole.body[part], "{range}");
        }
        let beyond = get_with(&host, alpn, "/picture.png", &[(RANGE, "bytes=999999-")]).await;
        assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(beyond.header(CONTENT_RANGE), format!("bytes */{total}"));
        let current = get_with(&host, alpn, "/picture.png", &[(RANGE, "bytes=0-4"), (IF_RANGE, &tag)]).await;
        assert_eq!(current.status, partial);
        let stale = get_with(&host, alpn, "/picture.png", &[(RANGE, "bytes=0-4"), (IF_RANGE, "\"old\"")]).await;
        assert_eq!((stale.status, stale.body.len()), (StatusCode::OK, total));
        let text = get_with(&host, alpn, "/big.css", &[(RANGE, "bytes=0-1999")]).await;
        assert_eq!((text.status, text.body.len()), (partial, 2000));
        assert!(!text.headers.contains_key(CONTENT_ENCODING));
    }
}

#[tokio::test]
async fn compression() {
    let host = Host::folder().await;
    let table = [
        ("/big.css", "gzip, br", Some("gzip")),
        ("/big.css", "gzip", Some("gzip")),
        ("/big.css", "identity", None),
        ("/big.css", "br;q=0, gzip;q=0", None),
        ("/picture.png", "gzip, br", None),
    ];
    for alpn in support::BOTH {
        for (path, accepted, encoding) in table {
            let answer = get_with(&host, alpn, path, &[(ACCEPT_ENCODING, accepted)]).await;
            let got = answer.headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap());
            assert_eq!((answer.status, got), (StatusCode::OK, encoding), "{path} for {accepted}");
            assert_eq!(answer.headers.contains_key(VARY), path == "/big.css");
            assert_eq!(answer.header(ETAG).starts_with("W/"), encoding.is_some());
        }
    }
}

#[tokio::test]
async fn server_header_is_sent_if_configured() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Host::settings(dir.path());
    settings.server_header = Some("web".to_owned());
    let host = Host::start(dir, settings).await;
    for path in ["/", "/missing"] {
        assert_eq!(get(&host, b"h2", path).await.header(SERVER), "web");
    }
}

#[tokio::test]
async fn curl_is_content() {
    let host = Host::folder().await;
    for version in ["--http1.1", "--http2"] {
        for tls in ["1.2", "1.3"] {
            let text = host.curl(&[version, "--tls-max", tls, "--compressed", "/big.css"]).await;
            assert_eq!(text.len(), 40_000, "{version} over TLS {tls}");
            let shown = host.curl(&[version, "--tls-max", tls, "-I", "/"]).await;
            let shown = String::from_utf8(shown).unwrap().to_ascii_lowercase();
            assert!(shown.contains(" 200") && shown.contains("content-length: 14\r\n"), "{shown}");
            let ranged = host.curl(&[version, "-r", "0-9", "/big.css"]).await;
            assert_eq!(ranged.len(), 10);
        }
    }
}

#[tokio::test]
async fn redirects_plain_http() {
    let host = Host::folder().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let site = Arc::clone(&host.site);
    tokio::spawn(async move {
        while let Ok((client, peer)) = listener.accept().await {
            let site = Arc::clone(&site);
            tokio::spawn(async move { site.redirect(client, peer).await });
        }
    });
    let ask = async |request: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let moved = ask("GET /a?b HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n").await;
    assert!(moved.starts_with("HTTP/1.1 301 "), "{moved}");
    assert!(moved.contains("Location: https://site.test/a?b\r\n"), "{moved}");
    let posted = ask("POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab").await;
    assert!(posted.starts_with("HTTP/1.1 301 "), "{posted}");
    assert!(ask("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    assert!(ask("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn nginx_behind_the_site() {
    let nginx = Nginx::start().await;
    let host = Host::upstream(nginx.address).await;
    for alpn in support::BOTH {
        let request = Request::builder().uri("/who").header("x-forwarded-for", "198.51.100.1").header("x-real-ip", "x");
        let who = send(&host, alpn, request, "").await;
        assert_eq!(who.text(), "site.test|127.0.0.1|https|site.test|127.0.0.1|HTTP/1.1");
        assert!(who.header(SERVER).starts_with("nginx/"), "the upstream's own");
        assert!(alpn != b"h2" || !who.headers.contains_key(hyper::header::CONNECTION));
        let file = get(&host, alpn, "/file").await;
        assert_eq!((file.status, file.body.len()), (StatusCode::OK, 3_000_000));
        let part = get_with(&host, alpn, "/file", &[(RANGE, "bytes=0-9")]).await;
        assert_eq!((part.status, part.body.len()), (StatusCode::PARTIAL_CONTENT, 10));
        let head = send(&host, alpn, Request::builder().method(Method::HEAD).uri("/file"), "").await;
        assert_eq!((head.header(CONTENT_LENGTH), head.body.len()), ("3000000", 0));
        assert_eq!(get(&host, alpn, "/missing").await.status, StatusCode::NOT_FOUND);
        let trace = send(&host, alpn, Request::builder().method(Method::TRACE).uri("/"), "").await;
        assert_eq!(trace.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    for version in ["--http1.1", "--http2"] {
        assert_eq!(host.curl(&[version, "/file"]).await.len(), 3_000_000);
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_says_where_a_visitor_comes_from() {
    for (trusted, expected) in [
        ("127.0.0.0/8", "site.test|198.51.100.1, 127.0.0.1|https|site.test|198.51.100.1|HTTP/1.1"),
        ("192.0.2.0/24", "site.test|127.0.0.1|https|site.test|127.0.0.1|HTTP/1.1"),
    ] {
        let nginx = Nginx::start().await;
        let host = Host::behind(nginx.address, &[trusted]).await;
        for alpn in support::BOTH {
            let request = Request::builder().uri("/who");
            let request = request.header("x-forwarded-for", "198.51.100.1").header("x-real-ip", "198.51.100.1");
            assert_eq!(send(&host, alpn, request, "").await.text(), expected, "{trusted}");
        }
    }
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = Host::upstream(echo.local_addr().unwrap()).await;
    tokio::spawn(support::serve_echo(echo));
    for alpn in support::BOTH {
        let (pieces, body) = support::pieces();
        let mut sender = host.client(alpn).await;
        let response = sender.send(Request::builder().method(Method::POST).uri("/"), body);
        let (response, ()) = tokio::join!(response, async { pieces.send(Bytes::from("first")).await.unwrap() });
        let mut answer = response.into_body();
        let mut heard = async || answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(heard().await, "first");
        // Each piece is sent only after the one before has come back: nothing waits for the end of the body.
        for piece in ["second", "third"] {
            pieces.send(Bytes::from(piece)).await.unwrap();
            assert_eq!(heard().await, piece, "over {alpn:?}");
        }
        drop(pieces);
        assert!(answer.collect().await.unwrap().to_bytes().is_empty());
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = Host::upstream(echo.local_addr().unwrap()).await;
    tokio::spawn(support::serve_echo(echo));
    let sent = Bytes::from((0..8_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    for alpn in support::BOTH {
        let mut client = host.client(alpn).await;
        let response = client.send(Request::builder().method(Method::PUT).uri("/"), Full::new(sent.clone())).await;
        assert!(response.into_body().collect().await.unwrap().to_bytes() == sent, "over {alpn:?}");
    }
}

#[tokio::test]
async fn websockets_pass() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = Host::upstream(upstream.local_addr().unwrap()).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let asked = head(&mut stream).await;
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Own: 1\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
        asked.to_ascii_lowercase()
    });
    let mut stream = host.connect(&Arc::new(client(&[&TLS13], &[b"http/1.1"]))).await;
    let ask = "GET /chat HTTP/1.1\r\nHost: site.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("\r\nupgrade: websocket\r\n") && answer.contains("\r\nx-own: 1\r\n"), "{answer}");
    for piece in ["one", "two"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        let mut back = [0; 3];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, piece.as_bytes());
    }
    stream.shutdown().await.unwrap();
    // A close without its alert would be an error here.
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    let asked = server.await.unwrap();
    assert!(asked.contains("connection: upgrade\r\n") && asked.contains("upgrade: websocket\r\n"), "{asked}");
}

#[tokio::test]
async fn upstream_that_is_down_is_a_bad_gateway() {
    // Bound and not listening: no one else can get the port, and connections are refused.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let host = Host::upstream(nobody.local_addr().unwrap()).await;
    for alpn in support::BOTH {
        let answer = get(&host, alpn, "/").await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        assert!(answer.text().contains("502 Bad Gateway"));
    }
}

#[tokio::test]
async fn upstream_that_breaks_off_breaks_the_answer_off() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = Host::upstream(upstream.local_addr().unwrap()).await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = upstream.accept().await.unwrap();
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
        }
    });
    for alpn in support::BOTH {
        let mut client = host.client(alpn).await;
        let response = client.send(Request::builder().uri("/"), Full::<Bytes>::default()).await;
        assert!(response.into_body().collect().await.is_err(), "over {alpn:?}");
    }
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let host = Host::folder().await;
    let table = ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "nonsense\r\n\r\n"];
    for request in table {
        let mut stream = host.connect(&Arc::new(client(&[&TLS13], &[]))).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?} to {request:?}");
    }
}

#[tokio::test]
async fn client_that_closes_its_half_still_gets_the_file() {
    let host = Host::folder().await;
    let mut stream = host.connect(&Arc::new(client(&[&TLS13], &[]))).await;
    stream.write_all(b"GET /big.css HTTP/1.1\r\nHost: site.test\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("a close alert, then FIN");
    assert!(answer.len() > 40_000);
}

#[tokio::test]
async fn refused_upload_is_no_reset() {
    let host = Host::folder().await;
    let mut stream = host.connect(&Arc::new(client(&[&TLS13], &[]))).await;
    let mut request = b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 30000000\r\n\r\n".to_vec();
    request.resize(request.len() + 30_000_000, 0);
    // The refusal comes long before the end of the body, and must survive what is still under way.
    stream.write_all(&request).await.expect("nothing is reset while we send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("nothing is reset after it");
    assert!(answer.starts_with(b"HTTP/1.1 413 "));
}
