//! Deadlines and closing, over in-memory pipes and with a clock that does not wait.

use super::extension::{Claim, ExtensionAnswer, SiteExtension, VisitorRequest};
use super::socket::SocketHandler;
use super::*;
use crate::cover::scout::AnyCertificate;
use bytes::Bytes;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n";

struct Scene {
    dir: TempDir,
    site: Arc<Site>,
}

impl Scene {
    fn new(index: &[u8]) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let folder = default_folder(dir.path()).unwrap();
        std::fs::write(folder.join("index.html"), index).unwrap();
        Scene::with(dir, Content::Folder(folder))
    }

    /// A site whose upstream has one connection, handed back with its listener.
    fn upstream() -> (Scene, std::net::TcpListener) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        (Scene::with(tempfile::tempdir().unwrap(), Content::Upstream(uri.parse().unwrap())), listener)
    }

    fn with(dir: TempDir, content: Content) -> Scene {
        let (certificate, key) = self_signed(&["site.test"], dir.path()).unwrap();
        let settings = Settings::new(certificate, key, content);
        Scene { site: Arc::new(Site::open(&settings).unwrap()), dir }
    }

    fn serve(&self, stream: DuplexStream) -> JoinHandle<bool> {
        let site = Arc::clone(&self.site);
        tokio::spawn(async move { site.serve(stream, None).await.is_ok() })
    }

    async fn connect(&self, stream: DuplexStream, alpn: &[u8]) -> TlsStream<DuplexStream> {
        let mut roots = RootCertStore::empty();
        let certificate = self.dir.path().join("self-signed-site.test.crt");
        roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::try_from("site.test").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn visitor(&self, buffer: usize, alpn: &[u8]) -> (TlsStream<DuplexStream>, JoinHandle<bool>) {
        let (theirs, ours) = duplex(buffer);
        let serving = self.serve(ours);
        (self.connect(theirs, alpn).await, serving)
    }
}

/// Reads one answer with the default page.
async fn answered(stream: &mut TlsStream<DuplexStream>) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"It works!") {
        answer.push(stream.read_u8().await.unwrap());
    }
}

/// The upstream's end of the first connection, with the request taken from it.
async fn asked(listener: std::net::TcpListener) -> tokio::net::TcpStream {
    let (mut stream, _) = tokio::net::TcpListener::from_std(listener).unwrap().accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream
}

/// Seconds until the site closes, which it must do with its alert: without one, reading would fail.
async fn closed_after(stream: &mut TlsStream<DuplexStream>, since: Instant) -> u64 {
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    since.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn silent_stranger_is_left_after_a_minute() {
    let scene = Scene::new(b"It works!");
    let (mut theirs, ours) = duplex(4096);
    let serving = scene.serve(ours);
    let start = Instant::now();
    theirs.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 60);
    assert!(serving.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn first_request_may_take_a_minute() {
    let scene = Scene::new(b"It works!");
    for alpn in [b"http/1.1".as_slice(), b"h2"] {
        let (mut stream, serving) = scene.visitor(4096, alpn).await;
        let start = Instant::now();
        let waited = closed_after(&mut stream, start).await;
        assert!((60..=66).contains(&waited), "{waited} s");
        drop(stream);
        assert!(serving.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn slow_head_may_take_a_minute() {
    let scene = Scene::new(b"It works!");
    let (mut stream, _serving) = scene.visitor(4096, b"http/1.1").await;
    tokio::time::advance(Duration::from_secs(50)).await;
    stream.write_all(&GET[..5]).await.unwrap();
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stream.write_all(&GET[5..9]).await.unwrap();
    assert_eq!(closed_after(&mut stream, start).await, 10, "counted from the start, whatever trickles in");
}

#[tokio::test(start_paused = true)]
async fn next_request_may_take_longer() {
    let scene = Scene::new(b"It works!");
    let (mut stream, _serving) = scene.visitor(4096, b"http/1.1").await;
    for _ in 0..3 {
        stream.write_all(GET).await.unwrap();
        answered(&mut stream).await;
        tokio::time::sleep(Duration::from_secs(74)).await;
    }
    stream.write_all(GET).await.unwrap();
    answered(&mut stream).await;
    let start = Instant::now();
    assert_eq!(closed_after(&mut stream, start).await, 75);
}

#[tokio::test(start_paused = true)]
async fn slow_download_goes_on_while_the_client_takes_some() {
    let scene = Scene::new(&[b'x'; 300_000]);
    let (mut stream, serving) = scene.visitor(1024, b"http/1.1").await;
    let request = [GET.strip_suffix(b"\r\n").unwrap(), b"Connection: close\r\n\r\n"].concat();
    stream.write_all(&request).await.unwrap();
    let mut total = 0;
    let mut buffer = vec![0; 20_000];
    loop {
        // A kilobyte each time. Less than 64 of them a minute would be too slow.
        tokio::time::sleep(Duration::from_millis(500)).await;
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            n => total += n,
        }
    }
    assert!(total > 300_000);
    drop(stream);
    assert!(serving.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn client_that_takes_nothing_is_left_after_a_minute() {
    let scene = Scene::new(&[b'x'; 300_000]);
    let (mut stream, serving) = scene.visitor(1024, b"http/1.1").await;
    let start = Instant::now();
    stream.write_all(GET).await.unwrap();
    assert!(serving.await.unwrap());
    // A minute, and what closing with an alert that no one reads may take. Paused time may leap another minute ahead while
    // the file is read, before there is anything to take.
    assert!((60..=160).contains(&start.elapsed().as_secs()), "{} s", start.elapsed().as_secs());
}

/// The socket is free, but the client of HTTP/2 has given no leave to send.
#[tokio::test(start_paused = true)]
async fn stream_that_takes_nothing_is_left_after_a_minute() {
    let scene = Scene::new(&[b'x'; 300_000]);
    let (stream, serving) = scene.visitor(1 << 20, b"h2").await;
    let (mut requests, connection) = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .handshake::<_, http_body_util::Empty<bytes::Bytes>>(hyper_util::rt::TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let start = Instant::now();
    let request = hyper::Request::get("https://site.test/").body(http_body_util::Empty::new()).unwrap();
    let _never_read = requests.send_request(request).await.unwrap();
    assert!(serving.await.unwrap());
    assert!((60..=160).contains(&start.elapsed().as_secs()), "{} s", start.elapsed().as_secs());
}

#[tokio::test(start_paused = true)]
async fn client_that_never_closes_is_waited_for_half_a_minute() {
    let (mut theirs, ours) = duplex(64);
    let start = Instant::now();
    let chatter = async {
        while theirs.write_all(b"more").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = chatter => unreachable!("the stream is read to the end"),
        () = linger(ours) => assert_eq!(start.elapsed().as_secs(), 30),
    }
    let (_silent, ours) = duplex(64);
    let start = Instant::now();
    linger(ours).await;
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn waiting_connection_is_small() {
    let scene = Scene::new(b"It works!");
    let (_theirs, ours) = duplex(64);
    let future = scene.site.serve(ours, None);
    assert!(size_of_val(&future) <= 512, "{} bytes", size_of_val(&future));
}

#[tokio::test]
async fn dropping_the_visit_closes_the_stream() {
    let scene = Scene::new(b"It works!");
    let (mut stream, serving) = scene.visitor(4096, b"h2").await;
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn upstream_that_says_nothing_is_a_gateway_timeout() {
    let (scene, listener) = Scene::upstream();
    let (mut stream, _serving) = scene.visitor(4096, b"http/1.1").await;
    stream.write_all(GET).await.unwrap();
    let _silent = asked(listener).await;
    // From here on nothing comes over real sockets, so the clock may run.
    tokio::time::pause();
    let start = Instant::now();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
    assert!((595..=600).contains(&start.elapsed().as_secs()));
}

#[tokio::test]
async fn a_slow_upload_ends_only_among_many_others() {
    for (others, ends) in [(0, false), (767, false), (768, true)] {
        let (scene, listener) = Scene::upstream();
        let handler = Arc::clone(&scene.site.content);
        let _others: Vec<_> = (0..others).map(|_| handler.body()).collect();
        let (mut stream, serving) = scene.visitor(4096, b"http/1.1").await;
        stream.write_all(b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        let _upstream = asked(listener).await;
        tokio::time::pause();
        for _ in 0..10 {
            let _ = stream.write_all(b"x").await;
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        assert_eq!(serving.is_finished(), ends, "among {others}");
        tokio::time::resume();
    }
}

/// Takes every request, and waits for the end of its body.
#[derive(Default)]
struct Patient(std::sync::atomic::AtomicUsize);

impl SiteExtension for Patient {
    fn claim(&self, _: &VisitorRequest<'_>) -> Option<Claim> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(Box::new(|mut body| {
            Box::pin(async move {
                while body.next().await.is_some() {}
                std::future::pending().await
            })
        }))
    }
}

#[tokio::test]
async fn bodies_for_an_extension_hurry_no_upload_to_the_site() {
    let (scene, _listener) = Scene::upstream();
    let (handler, extension) = (Arc::clone(&scene.site.content), Arc::new(Patient::default()));
    let mut others = Vec::new();
    for _ in 0..800 {
        let (mut theirs, ours) = duplex(4096);
        let visitor =
            SiteVisitor { peer: None, extension: Some(Arc::clone(&extension) as _), ..SiteVisitor::default() };
        let first = Instant::now() + Duration::from_secs(600);
        let serving = tokio::spawn(http1::serve(ours, visitor, Arc::clone(&handler), first));
        theirs.write_all(b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 10\r\n\r\nx").await.unwrap();
        others.push((theirs, serving));
    }
    let taken = async {
        while extension.0.load(std::sync::atomic::Ordering::Relaxed) < 800 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), taken).await.unwrap();
    let mut own = handler.body();
    own.note(1, Duration::from_secs(600));
    assert_eq!(own.patience(), Duration::from_secs(60));
}

#[tokio::test]
async fn long_poll_is_answered() {
    let (scene, listener) = Scene::upstream();
    let (mut stream, _serving) = scene.visitor(4096, b"http/1.1").await;
    stream.write_all(GET).await.unwrap();
    let mut upstream = asked(listener).await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(500)).await;
    tokio::time::resume();
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nIt works!").await.unwrap();
    answered(&mut stream).await;
}

#[tokio::test]
async fn upstream_learns_that_the_client_has_left() {
    let (scene, listener) = Scene::upstream();
    let (mut stream, serving) = scene.visitor(4096, b"http/1.1").await;
    stream.write_all(GET).await.unwrap();
    let mut upstream = asked(listener).await;
    drop(stream);
    assert_eq!(upstream.read(&mut [0; 16]).await.unwrap(), 0);
    assert!(serving.await.unwrap());
}

/// A client that offers these protocols and takes any certificate, and its server.
async fn offering(
    scene: &Scene,
    name: &str,
    alpn: &[&[u8]],
) -> io::Result<(TlsStream<DuplexStream>, JoinHandle<bool>)> {
    let (theirs, ours) = duplex(16 * 1024);
    let serving = scene.serve(ours);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    Ok((TlsConnector::from(Arc::new(config)).connect(name, theirs).await?, serving))
}

/// What such a client is shown: the protocol that is agreed on, and the certificate.
async fn offered(scene: &Scene, name: &str, alpn: &[&[u8]]) -> io::Result<(Option<Vec<u8>>, CertificateDer<'static>)> {
    let (stream, _) = offering(scene, name, alpn).await?;
    let session = stream.get_ref().1;
    Ok((session.alpn_protocol().map(<[u8]>::to_vec), session.peer_certificates().unwrap()[0].clone()))
}

#[tokio::test]
async fn only_an_authority_sees_a_challenge_and_only_while_it_is_pending() {
    const CHALLENGE: &[u8] = b"acme-tls/1";
    let scene = Scene::new(b"It works!");
    let own = CertificateDer::from_pem_file(scene.dir.path().join("self-signed-site.test.crt")).unwrap();
    let refused = |answer: io::Result<_>| answer.err().unwrap().to_string().contains("NoApplicationProtocol");
    assert!(refused(offered(&scene, "site.test", &[CHALLENGE]).await), "as by any server without it");

    let pending = scene.site.challenges.by_tls("site.test", &[9; 32]).unwrap();
    let (agreed, shown) = offered(&scene, "site.test", &[CHALLENGE]).await.unwrap();
    assert!(agreed.as_deref() == Some(CHALLENGE) && shown != own);
    assert!(offered(&scene, "other.test", &[CHALLENGE]).await.is_err());
    for alpn in [&[b"h2".as_slice(), b"http/1.1"][..], &[b"http/1.1"], &[CHALLENGE, b"http/1.1"], &[]] {
        let (agreed, shown) = offered(&scene, "site.test", alpn).await.unwrap();
        assert!(agreed.as_deref() != Some(CHALLENGE) && shown == own, "{alpn:?}");
    }
    drop(pending);
    assert!(refused(offered(&scene, "site.test", &[CHALLENGE]).await));
}

#[tokio::test]
async fn the_authority_is_let_go_when_it_has_seen_the_challenge() {
    let scene = Scene::new(b"It works!");
    let _pending = scene.site.challenges.by_tls("site.test", &[9; 32]).unwrap();
    let (mut stream, serving) = offering(&scene, "site.test", &[b"acme-tls/1"]).await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0, "a close alert and nothing else");
    drop(stream);
    assert!(serving.await.unwrap());
}

/// Claims what is below a folder of its own.
struct Apart;

impl SiteExtension for Apart {
    fn claim(&self, asked: &VisitorRequest<'_>) -> Option<Claim> {
        let (method, target) = (asked.method.to_vec(), asked.target.strip_prefix(b"/apart/")?.to_vec());
        let wants_socket = asked.all("upgrade").next().is_some();
        Some(Box::new(move |body| {
            Box::pin(async move {
                if wants_socket {
                    let fields = vec![("Upgrade", "websocket".into()), ("Sec-WebSocket-Protocol", "own".into())];
                    return ExtensionAnswer::Socket { fields, socket: Box::new(Echo) };
                }
                if target == b"never" {
                    std::future::pending::<()>().await;
                }
                let Some(body) = body.whole(100).await else {
                    return ExtensionAnswer::Reply {
                        status: 204,
                        fields: vec![("X-Own", "too long".into())],
                        content: vec![],
                    };
                };
                let content = vec![Bytes::from(method), Bytes::from_static(b" "), Bytes::from(target), body];
                ExtensionAnswer::Reply { status: 200, fields: vec![("X-Own", "yes".into())], content }
            })
        }))
    }
}

/// Says again what it hears, until it hears the end.
struct Echo;

impl SocketHandler for Echo {
    fn run<'s>(
        self: Box<Self>,
        stream: &'s mut dyn socket::DuplexStream,
        early: Bytes,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + 's>> {
        Box::pin(async move {
            let mut heard = early.to_vec();
            while !heard.ends_with(b"!") && stream.read_buf(&mut heard).await.is_ok_and(|read| read > 0) {}
            stream.write_all(&heard).await.unwrap();
            stream.flush().await.unwrap();
        })
    }
}

impl Scene {
    /// A visitor whose requests an extension is asked for first.
    async fn extended(&self, alpn: &[u8]) -> TlsStream<DuplexStream> {
        self.extended_by(Arc::new(Apart), alpn).await
    }

    async fn extended_by(&self, extension: Arc<dyn SiteExtension>, alpn: &[u8]) -> TlsStream<DuplexStream> {
        let (theirs, ours) = duplex(64 * 1024);
        let site = Arc::clone(&self.site);
        let guest = SiteVisitor::new(([192, 0, 2, 1], 1).into(), Some(extension));
        tokio::spawn(async move { site.serve(ours, guest).await.is_ok() });
        self.connect(theirs, alpn).await
    }
}

/// Answers what is below a folder of its own when it leaves, and nothing else.
#[derive(Clone, Default)]
struct Leaves(CancellationToken);

impl SiteExtension for Leaves {
    fn claim(&self, asked: &VisitorRequest<'_>) -> Option<Claim> {
        let leaving = self.0.clone();
        asked.target.starts_with(b"/apart/").then(|| -> Claim {
            Box::new(move |_| {
                Box::pin(async move {
                    leaving.cancelled().await;
                    ExtensionAnswer::Reply { status: 404, fields: vec![], content: vec![] }
                })
            })
        })
    }

    fn leaving(&self) -> CancellationToken {
        self.0.clone()
    }
}

#[tokio::test]
async fn connections_are_closed_when_visitors_are_to_come_again() {
    let (scene, leaves) = (Scene::new(b"It works!"), Leaves::default());
    let mut idle = scene.extended_by(Arc::new(leaves.clone()), b"http/1.1").await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"It works!") {
        assert_ne!(idle.read_buf(&mut answer).await.unwrap(), 0);
    }
    assert!(String::from_utf8_lossy(&answer).contains("\r\nConnection: keep-alive\r\n"));
    let mut busy = scene.extended_by(Arc::new(leaves.clone()), b"http/1.1").await;
    busy.write_all(b"GET /apart/ HTTP/1.1\r\nHost: site.test\r\n\r\n").await.unwrap();
    let streams = scene.extended_by(Arc::new(leaves.clone()), b"h2").await;
    let (client, connection) = h2::client::handshake(streams).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = hyper::Request::get("https://site.test/apart/").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    tokio::task::yield_now().await;

    leaves.0.cancel();
    let soon = Duration::from_secs(10);
    assert_eq!(timeout(soon, idle.read_buf(&mut Vec::new())).await.unwrap().unwrap(), 0, "one that waits is closed");
    let mut answer = Vec::new();
    timeout(soon, busy.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(
        String::from_utf8_lossy(&answer).contains("\r\nConnection: close\r\n"),
        "the answer says that it is the last"
    );
    assert_eq!(timeout(soon, response).await.unwrap().unwrap().status().as_u16(), 404, "what was asked is answered");
    timeout(soon, connection).await.unwrap().unwrap().unwrap();
    assert!(client.ready().await.is_err(), "and no more may be asked");
}

/// The window is left in part by a short piece, and the client has taken too little of it to say that there is more.
#[tokio::test(start_paused = true)]
async fn short_pieces_of_an_answer_need_no_larger_window() {
    let scene = Scene::new(&[b'x'; 400]);
    let (stream, _serving) = scene.visitor(1 << 16, b"h2").await;
    let mut builder = h2::client::Builder::new();
    let (client, connection) = builder.initial_window_size(1000).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = hyper::Request::get("https://site.test/").header("range", "bytes=0-0,2-2").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut content = Vec::new();
    while let Some(piece) = timeout(Duration::from_secs(9), body.data()).await.expect("the rest") {
        content.extend_from_slice(&piece.unwrap());
    }
    assert!(content.ends_with(b"--\r\n") && content.iter().filter(|byte| **byte == b'x').count() >= 2, "{content:?}");
}

/// Sends a request and reads to the end of its connection.
async fn closing(mut stream: TlsStream<DuplexStream>, head: &str, body: &str) -> String {
    let request = format!("{head}\r\nHost: site.test\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn an_extension_answers_what_it_claims_and_nothing_of_the_site_lands_on_it() {
    let (upstream, _listener) = Scene::upstream();
    for scene in [Scene::new(b"It works!"), upstream] {
        for (head, body, expected) in [
            (
                "GET /apart/x?y HTTP/1.1",
                "",
                "HTTP/1.1 200 OK\r\nX-Own: yes\r\nContent-Length: 7\r\nConnection: close\r\n\r\nGET x?y",
            ),
            (
                "POST /apart/ HTTP/1.1\r\nContent-Length: 4",
                "body",
                "HTTP/1.1 200 OK\r\nX-Own: yes\r\nContent-Length: 9\r\nConnection: close\r\n\r\nPOST body",
            ),
            (
                "POST /apart/ HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked",
                "4\r\nbody\r\n0\r\n\r\n",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Own: yes\r\nContent-Length: 9\r\nConnection: close\r\n\r\nPOST body",
            ),
            (
                "HEAD /apart/ HTTP/1.1",
                "",
                "HTTP/1.1 200 OK\r\nX-Own: yes\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
            ),
        ] {
            assert_eq!(closing(scene.extended(b"http/1.1").await, head, body).await, expected);
        }
        let long = "x".repeat(101);
        let head = "POST /apart/ HTTP/1.1\r\nContent-Length: 101";
        let answer = closing(scene.extended(b"http/1.1").await, head, &long).await;
        assert_eq!(answer, "HTTP/1.1 204 No Content\r\nX-Own: too long\r\nConnection: close\r\n\r\n");
    }
}

#[tokio::test]
async fn what_no_extension_claims_is_answered_as_without_one() {
    let scene = Scene::new(b"It works!");
    for (head, body) in [
        ("GET / HTTP/1.1", ""),
        ("GET /apart HTTP/1.1", ""),
        ("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4", "body"),
        ("GET / HTTP/1.1\r\nUpgrade: websocket", ""),
        ("OPTIONS * HTTP/1.1", ""),
        ("CONNECT /apart/ HTTP/1.1", ""),
    ] {
        let (plain, _serving) = scene.visitor(64 * 1024, b"http/1.1").await;
        let dateless =
            |answer: String| answer.lines().filter(|line| !line.starts_with("Date: ")).collect::<Vec<_>>().join("\n");
        let expected = dateless(closing(plain, head, body).await);
        assert_eq!(dateless(closing(scene.extended(b"http/1.1").await, head, body).await), expected, "{head}");
    }
}

#[tokio::test]
async fn an_extension_goes_on_with_a_connection_as_a_socket() {
    let scene = Scene::new(b"It works!");
    let mut stream = scene.extended(b"http/1.1").await;
    let request = b"GET /apart/ HTTP/1.1\r\nHost: site.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly ";
    stream.write_all(request).await.unwrap();
    let head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: own\r\nConnection: upgrade\r\n\r\n";
    let mut answer = vec![0; head.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), String::from_utf8_lossy(head));
    stream.write_all(b"and late!").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"early and late!", "and then the close alert of TLS");
}

#[tokio::test]
async fn an_extension_answers_over_http2_and_learns_of_a_reset() {
    let scene = Scene::new(b"It works!");
    let (mut client, connection) = h2::client::handshake(scene.extended(b"h2").await).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| hyper::Request::post(format!("https://site.test{path}")).body(()).unwrap();
    let (response, mut body) = client.send_request(request("/apart/a"), false).unwrap();
    body.send_data(Bytes::from_static(b" body"), true).unwrap();
    let response = response.await.unwrap();
    let names: Vec<_> = response.headers().keys().map(|name| name.as_str()).collect();
    assert_eq!((response.status().as_u16(), names), (200, vec!["x-own", "content-length"]));
    let answer = response.into_body().data().await.unwrap().unwrap();
    assert!(b"POST a body".starts_with(&answer), "{answer:?}");
    let (response, mut never) = client.send_request(request("/apart/never"), true).unwrap();
    never.send_reset(h2::Reason::CANCEL);
    assert!(response.await.is_err());
    let (response, _) = client.send_request(request("/elsewhere"), true).unwrap();
    assert_eq!(response.await.unwrap().headers()["server"], "nginx", "the site's own");
}
