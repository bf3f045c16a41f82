//! The client's side of CONNECT (RFC 9110 §9.3.6).

use std::fmt::Write;
use std::io;

use data_encoding::BASE64;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{Endpoint, Login, Refusal};

/// Most bytes of an answer that are read.
const LONGEST: usize = 8 * 1024;

/// Asks an HTTP proxy for a connection to `target`.
pub(super) async fn connect(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &Endpoint,
    login: Option<&Login>,
) -> io::Result<()> {
    stream.write_all(request(target, login).as_bytes()).await?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if answer.len() > LONGEST || stream.read_buf(&mut answer).await? == 0 {
            return Err(Refusal::NotAProxy.into());
        }
    };
    match status(&answer).ok_or(Refusal::NotAProxy)? {
        // No one that we connect to speaks first.
        200..=299 if end == answer.len() => Ok(()),
        200..=299 => Err(Refusal::NotAProxy.into()),
        407 => Err(if login.is_some() { Refusal::LoginWrong } else { Refusal::LoginWanted }.into()),
        403 | 405 => Err(Refusal::Forbidden.into()),
        502..=504 => Err(Refusal::Unreachable.into()),
        other => Err(Refusal::Failed(other).into()),
    }
}

fn request(target: &Endpoint, login: Option<&Login>) -> Zeroizing<String> {
    let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
    if let Some(Login { user, password }) = login {
        let both = Zeroizing::new(format!("{user}:{}", **password));
        let _ = write!(request, "Proxy-Authorization: Basic {}\r\n", BASE64.encode(both.as_bytes()));
    }
    request.push_str("\r\n");
    request
}

/// The status in a first line such as `HTTP/1.1 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next().filter(|code| code.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::script;
    use super::*;

    const PLAIN: &[u8] = b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n";

    async fn run(target: &Endpoint, login: Option<&Login>, request: &[u8], answer: &[u8]) -> io::Result<()> {
        let (mut near, talking) = script::proxy(&[(request, answer)]);
        let outcome = connect(&mut near, target, login).await;
        talking.await.unwrap();
        outcome
    }

    #[tokio::test]
    async fn a_good_answer_of_any_length_opens_the_way() {
        let target = Endpoint::new("192.0.2.1", 443);
        for answer in ["HTTP/1.1 200 Connection established\r\n\r\n", "HTTP/1.0 200 OK\r\nVia: x\r\n\r\n"] {
            run(&target, None, PLAIN, answer.as_bytes()).await.unwrap();
        }
        let login = Login { user: "me".into(), password: Zeroizing::new("pw".into()) };
        let request = b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
            Proxy-Authorization: Basic bWU6cHc=\r\n\r\n";
        run(&Endpoint::new("2001:db8::1", 443), Some(&login), request, b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let request = b"CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n";
        run(&Endpoint::new("example.com", 80), None, request, b"HTTP/1.1 200\r\n\r\n").await.unwrap();
    }

    #[tokio::test]
    async fn everything_else_says_why_not() {
        let target = Endpoint::new("192.0.2.1", 443);
        for (answer, kind) in [
            ("HTTP/1.1 407 Log in\r\n\r\n", io::ErrorKind::PermissionDenied),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", io::ErrorKind::PermissionDenied),
            ("HTTP/1.1 502 Bad Gateway\r\nX: y\r\n\r\nhello", io::ErrorKind::HostUnreachable),
            ("HTTP/1.1 400 Bad Request\r\n\r\n", io::ErrorKind::Other),
            ("HTTP/1.1 200 OK\r\n\r\nhello", io::ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\n", io::ErrorKind::InvalidData),
            ("SSH-2.0-x\r\n\r\n", io::ErrorKind::InvalidData),
            ("", io::ErrorKind::InvalidData),
        ] {
            let error = run(&target, None, PLAIN, answer.as_bytes()).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{answer:?}");
        }
        let endless = vec![b'x'; LONGEST + 2];
        assert_eq!(run(&target, None, PLAIN, &endless).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
