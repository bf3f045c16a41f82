//! Another MTProto proxy as the way to Telegram: it is entered as a client enters it.

use std::io;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::auth::{Secret, SecretText, UnixTime};
use crate::relay::wrap;
use crate::wire::client_hello::RANDOM_RANGE;
use crate::wire::record::{self, Header, kind};
use crate::wire::{HelloClass, fake_tls};

/// Goes through the disguise that the proxy's secret asks for, if it asks for one. Behind that the stream takes the header
/// of [`obfuscated::seal_for_proxy`](crate::wire::obfuscated::seal_for_proxy).
pub async fn enter(mut stream: TcpStream, pass: &SecretText, class: HelloClass) -> io::Result<TcpStream> {
    let Some(domain) = &pass.domain else { return Ok(stream) };
    let now = UnixTime::from(SystemTime::now()).0 as u32;
    let hello = fake_tls::signed_hello(class, domain.as_str(), pass.secret.bytes(), now, &mut rand::rng());
    let hello = hello.ok_or_else(|| io::Error::other("no hello could be made"))?;
    greet(&mut stream, &pass.secret, &hello).await?;
    let (near, moving) = wrap::wrap(stream)?;
    tokio::spawn(moving);
    Ok(near)
}

/// Sends a signed hello and waits for an answer that is signed with the same secret. Fails with
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) if the answer is another: anyone who gives it does not know the
/// secret, or does not let it in.
pub async fn greet(stream: &mut TcpStream, secret: &Secret, hello: &[u8]) -> io::Result<()> {
    stream.write_all(hello).await?;
    let stranger = || io::Error::new(io::ErrorKind::PermissionDenied, "it answers as to a visitor");
    let mut flight = Vec::new();
    for expected in [kind::HANDSHAKE, kind::CHANGE_CIPHER_SPEC, kind::APPLICATION_DATA] {
        let record = read_record(stream).await?;
        if record[0] != expected {
            return Err(stranger());
        }
        flight.extend(record);
    }
    let signed = fake_tls::is_signed(&flight, secret.bytes(), &hello[RANDOM_RANGE]);
    if signed { Ok(()) } else { Err(stranger()) }
}

/// The next record with its header.
pub async fn read_record(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = [0; record::HEADER];
    stream.read_exact(&mut head).await?;
    let mut record = head.to_vec();
    record.resize(record::HEADER + usize::from(Header::decode(head).length), 0);
    stream.read_exact(&mut record[record::HEADER..]).await?;
    Ok(record)
}
