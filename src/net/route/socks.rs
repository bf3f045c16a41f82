//! The client's side of SOCKS5 (RFC 1928, RFC 1929) and of SOCKS4 with names.
//!
//! ```text
//! 5   05 ├ count ┼ ways to log in ┤       ▶    05 ├ way ┤ ◀         ff: none of them
//!     01 ├ length ┼ user ┼ length ┼ password ┤ ▶    01 ├ status ┤ ◀
//!     05 01 00 ├ kind ┼ address ┼ port ┤  ▶    05 ├ reply ┼ 00 ┼ kind ┼ address ┼ port ┤ ◀
//! 4a  04 01 ├ port ┼ address ┼ user ┼ 00 ┤ ▶    00 ├ reply ┼ … 6 bytes ┤ ◀
//!            0.0.0.1 and a name behind it where the proxy is to resolve
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Endpoint, Login, Refusal};

const NO_LOGIN: u8 = 0;
const WITH_PASSWORD: u8 = 2;
const NO_WAY: u8 = 0xff;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Asks a SOCKS5 proxy for a connection to `target`.
pub(super) async fn connect5(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &Endpoint,
    login: Option<&Login>,
) -> io::Result<()> {
    let request = request5(target)?;
    let (greeting, password): (&[u8], _) = match login {
        None => (&[5, 1, NO_LOGIN], Vec::new()),
        Some(login) => (&[5, 2, NO_LOGIN, WITH_PASSWORD], password(login)?),
    };
    stream.write_all(greeting).await?;
    match array(stream).await? {
        [5, NO_LOGIN] => {}
        [5, WITH_PASSWORD] if login.is_some() => {
            stream.write_all(&password).await?;
            // The version is not looked at: some give that of SOCKS.
            let [_, status]: [u8; 2] = array(stream).await?;
            if status != 0 {
                return Err(Refusal::LoginWrong.into());
            }
        }
        [5, NO_WAY] => return Err(if login.is_some() { Refusal::LoginWrong } else { Refusal::LoginWanted }.into()),
        _ => return Err(Refusal::NotAProxy.into()),
    }
    stream.write_all(&request).await?;
    let [version, reply, _, kind] = array(stream).await?;
    if version != 5 {
        return Err(Refusal::NotAProxy.into());
    }
    if reply != 0 {
        return Err(refusal5(reply).into());
    }
    // Where the proxy connects from says nothing to us, and nothing else may be read with it.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await?),
        _ => return Err(Refusal::NotAProxy.into()),
    };
    stream.read_exact(&mut [0; 255 + 2][..length + 2]).await?;
    Ok(())
}

/// Asks a SOCKS4 proxy for a connection to `target`.
pub(super) async fn connect4a(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &Endpoint,
    user: &str,
) -> io::Result<()> {
    stream.write_all(&request4a(target, user)?).await?;
    let [version, reply, ..]: [u8; 8] = array(stream).await?;
    match (version, reply) {
        (0, 90) => Ok(()),
        (0, 91) => Err(Refusal::Unreachable.into()),
        (0, 92 | 93) => Err(Refusal::LoginWrong.into()),
        (0, other) => Err(Refusal::Failed(other.into()).into()),
        _ => Err(Refusal::NotAProxy.into()),
    }
}

fn request5(target: &Endpoint) -> Result<Vec<u8>, Refusal> {
    let mut request = vec![5, 1, 0];
    let port = match target {
        Endpoint::Address(address) => {
            match address.ip() {
                IpAddr::V4(v4) => request.extend([&[IPV4][..], &v4.octets()].concat()),
                IpAddr::V6(v6) => request.extend([&[IPV6][..], &v6.octets()].concat()),
            }
            address.port()
        }
        Endpoint::Name(name, port) => {
            request.push(NAME);
            put_short(&mut request, name)?;
            *port
        }
    };
    request.extend(port.to_be_bytes());
    Ok(request)
}

fn request4a(target: &Endpoint, user: &str) -> Result<Vec<u8>, Refusal> {
    const RESOLVE: [u8; 4] = [0, 0, 0, 1];
    let (port, address, name) = match target {
        Endpoint::Address(SocketAddr::V4(v4)) => (v4.port(), v4.ip().octets(), None),
        Endpoint::Address(SocketAddr::V6(_)) => return Err(Refusal::Unsupported),
        Endpoint::Name(name, port) => (*port, RESOLVE, Some(name.clone())),
    };
    let text = |text: &str| if text.contains('\0') { Err(Refusal::Unsupported) } else { Ok(text.as_bytes().to_vec()) };
    let mut request = [&[4, 1][..], &port.to_be_bytes(), &address, &text(user)?, &[0]].concat();
    if let Some(name) = name {
        request.extend(text(&name)?);
        request.push(0);
    }
    Ok(request)
}

fn password(login: &Login) -> Result<Vec<u8>, Refusal> {
    let mut message = vec![1];
    put_short(&mut message, &login.user)?;
    put_short(&mut message, &login.password)?;
    Ok(message)
}

/// A text behind its length in one byte.
fn put_short(to: &mut Vec<u8>, text: &str) -> Result<(), Refusal> {
    to.push(u8::try_from(text.len()).map_err(|_| Refusal::TooLong)?);
    to.extend(text.as_bytes());
    Ok(())
}

fn refusal5(reply: u8) -> Refusal {
    match reply {
        2 => Refusal::Forbidden,
        3..=6 => Refusal::Unreachable,
        7 | 8 => Refusal::Unsupported,
        other => Refusal::Failed(other.into()),
    }
}

async fn array<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::script;
    use super::*;

    const DONE: &[u8] = &[5, 0, 0, IPV4, 0, 0, 0, 0, 0, 0];

    fn login() -> Login {
        Login { user: "me".into(), password: Zeroizing::new("pw".into()) }
    }

    fn name() -> Endpoint {
        Endpoint::new("example.com", 443)
    }

    async fn run5(target: &Endpoint, login: Option<&Login>, turns: &[(&[u8], &[u8])]) -> io::Result<()> {
        let (mut near, talking) = script::proxy(turns);
        let outcome = connect5(&mut near, target, login).await;
        talking.await.unwrap();
        outcome
    }

    async fn run4(target: &Endpoint, user: &str, request: &[u8], answer: &[u8]) -> io::Result<()> {
        let (mut near, talking) = script::proxy(&[(request, answer)]);
        let outcome = connect4a(&mut near, target, user).await;
        talking.await.unwrap();
        outcome
    }

    #[tokio::test]
    async fn socks5_takes_addresses_of_both_families_and_names() {
        for (target, address) in [
            (Endpoint::new("192.0.2.1", 443), &b"\x01\xc0\x00\x02\x01\x01\xbb"[..]),
            (Endpoint::new("::ffff:192.0.2.1", 443), b"\x01\xc0\x00\x02\x01\x01\xbb"),
            (Endpoint::new("2001:db8::1", 443), b"\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb"),
            (name(), b"\x03\x0bexample.com\x01\xbb"),
        ] {
            let request = [&[5, 1, 0][..], address].concat();
            run5(&target, None, &[(&[5, 1, 0], &[5, 0]), (&request, DONE)]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn socks5_says_who_it_is_when_it_is_asked() {
        let request = b"\x05\x01\0\x03\x0bexample.com\x01\xbb";
        let password = b"\x01\x02me\x02pw";
        let name_back = b"\x05\0\0\x03\x04here\0\x01";
        run5(&name(), Some(&login()), &[(&[5, 2, 0, 2], &[5, 2]), (password, &[1, 0]), (request, name_back)])
            .await
            .unwrap();
        let v6_back = [&[5, 0, 0, IPV6][..], &[0; 18]].concat();
        run5(&name(), Some(&login()), &[(&[5, 2, 0, 2], &[5, 0]), (request, &v6_back)]).await.unwrap();
    }

    #[tokio::test]
    async fn socks5_tells_why_not() {
        let request = b"\x05\x01\0\x03\x0bexample.com\x01\xbb";
        let refusal = |error: io::Error| *error.get_ref().unwrap().downcast_ref::<Refusal>().unwrap();
        for (reply, expected) in [
            (1, Refusal::Failed(1)),
            (2, Refusal::Forbidden),
            (4, Refusal::Unreachable),
            (5, Refusal::Unreachable),
            (8, Refusal::Unsupported),
        ] {
            let turns = [(&[5, 1, 0][..], &[5, 0][..]), (request, &[5, reply, 0, 1])];
            assert_eq!(refusal(run5(&name(), None, &turns).await.unwrap_err()), expected);
        }
        for (login, turns, expected) in [
            (None, &[(&[5, 1, 0][..], &[5, 0xff][..])][..], Refusal::LoginWanted),
            (None, &[(&[5, 1, 0], &[5, 2])], Refusal::NotAProxy),
            (None, &[(&[5, 1, 0], b"HTTP/1.1 400 Bad Request")], Refusal::NotAProxy),
            (Some(login()), &[(&[5, 2, 0, 2], &[5, 0xff])], Refusal::LoginWrong),
            (Some(login()), &[(&[5, 2, 0, 2], &[5, 2]), (b"\x01\x02me\x02pw", &[1, 1])], Refusal::LoginWrong),
        ] {
            assert_eq!(refusal(run5(&name(), login.as_ref(), turns).await.unwrap_err()), expected);
        }
        let cut_short = run5(&name(), None, &[(&[5, 1, 0], &[5])]).await.unwrap_err();
        assert_eq!(cut_short.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn socks4a_lets_the_proxy_resolve() {
        let done = &[0, 90, 0, 0, 0, 0, 0, 0];
        run4(&name(), "me", b"\x04\x01\x01\xbb\0\0\0\x01me\0example.com\0", done).await.unwrap();
        run4(&Endpoint::new("192.0.2.1", 80), "", b"\x04\x01\0\x50\xc0\0\x02\x01\0", done).await.unwrap();
        for (reply, kind) in [(91, io::ErrorKind::HostUnreachable), (93, io::ErrorKind::PermissionDenied)] {
            let answer = &[0, reply, 0, 0, 0, 0, 0, 0];
            let error = run4(&Endpoint::new("192.0.2.1", 80), "", b"\x04\x01\0\x50\xc0\0\x02\x01\0", answer).await;
            assert_eq!(error.unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn what_has_no_room_or_would_change_the_meaning_is_refused() {
        assert_eq!(request5(&Endpoint::new(&"a".repeat(256), 1)), Err(Refusal::TooLong));
        assert_eq!(request4a(&name(), "a\0b"), Err(Refusal::Unsupported));
        assert_eq!(request4a(&Endpoint::new("2001:db8::1", 80), ""), Err(Refusal::Unsupported));
        let long = Login { user: "a".repeat(256), ..login() };
        assert_eq!(password(&long), Err(Refusal::TooLong));
    }
}
