//! A small web site on BoringSSL: one page over HTTP/1.1, one thread for each visitor.
//!
//! `boring_cover CERTIFICATE KEY PAGE`, all of them files. It says `ready PORT` once it listens on loopback, and ends
//! with its standard input.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, process, thread};

use boring::ssl::{AlpnError, SslAcceptor, SslFiletype, SslMethod, SslStream, select_next_proto};

/// How long it waits for a handshake to go on and for a request, as the nginx of these tests does.
const PATIENCE: Duration = Duration::from_secs(3);

/// What it speaks, in the form of an ALPN list.
const PROTOCOLS: &[u8] = b"\x08http/1.1";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [certificate, key, page] = &arguments[..] else { return Err("CERTIFICATE KEY PAGE".into()) };
    let acceptor = Arc::new(acceptor(certificate, key)?);
    let page = Arc::new(fs::read(page)?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("ready {}", listener.local_addr()?.port());
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    for stream in listener.incoming() {
        let (stream, acceptor, page) = (stream?, acceptor.clone(), page.clone());
        thread::spawn(move || visit(stream, &acceptor, &page));
    }
    Ok(())
}

fn acceptor(certificate: &str, key: &str) -> Result<SslAcceptor, Failure> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    builder.set_private_key_file(key, SslFiletype::PEM)?;
    builder.set_certificate_chain_file(certificate)?;
    builder.set_curves_list("X25519MLKEM768:X25519:P-256:P-384")?;
    builder.set_session_id_context(b"cover")?;
    builder.set_alpn_select_callback(|_, offered| select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::NOACK));
    Ok(builder.build())
}

fn visit(stream: TcpStream, acceptor: &SslAcceptor, page: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let raw = stream.try_clone()?;
    // The library has sent its alert when a handshake fails.
    if let Ok(tls) = acceptor.accept(stream) {
        let mut tls = BufReader::new(tls);
        while let Some(length) = request(&mut tls)? {
            answer(tls.get_mut(), &page[..length.min(page.len())])?;
        }
        let _ = tls.get_mut().shutdown();
    }
    linger(raw)
}

/// How much of the page is asked for, once a whole request came: as much as a number in place of a path says.
fn request(tls: &mut BufReader<SslStream<TcpStream>>) -> io::Result<Option<usize>> {
    let (mut line, mut wanted) = (Vec::new(), None);
    loop {
        line.clear();
        match tls.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) if line == b"\r\n" => return Ok(Some(wanted.unwrap_or(usize::MAX))),
            Ok(_) => {
                let path = String::from_utf8_lossy(&line);
                wanted = wanted.or(path.split(' ').nth(1).and_then(|path| path.strip_prefix('/')?.parse().ok()));
            }
        }
    }
}

fn answer(tls: &mut SslStream<TcpStream>, page: &[u8]) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", page.len());
    tls.write_all(&[head.as_bytes(), page].concat())
}

/// FIN, and then whatever the visitor still says: a close with bytes unread would be a reset.
fn linger(mut raw: TcpStream) -> io::Result<()> {
    raw.shutdown(Shutdown::Write)?;
    let mut rest = [0; 4096];
    while raw.read(&mut rest)? > 0 {}
    Ok(())
}
