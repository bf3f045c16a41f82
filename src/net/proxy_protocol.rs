//! The header in which a program in front of us names its client (PROXY protocol, versions 1 and 2, as HAProxy defines it).
//!
//! ```text
//! PROXY TCP4 192.0.2.7 198.51.100.1 50123 443 CR LF                                version 1, at most 107 bytes
//! 0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A │ command │ family │ length (2) │ addresses │ more   version 2
//! ```

use std::fmt;
use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Signature at the beginning of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// First word of version 1.
const WORD: &[u8] = b"PROXY ";

/// The part of version 2 that always has this length.
const FIXED: usize = 16;

/// Longest header of version 1, and of version 2 that is taken: addresses of 36 bytes, and whatever programs add to them.
const LONGEST_LINE: usize = 107;
const LONGEST: usize = 2048;

/// Reason why there is no header.
#[derive(Debug)]
pub enum NoHeader {
    /// No one said anything, as in a check of health.
    Nothing,
    /// Bytes of another protocol came.
    Foreign,
    /// The connection broke.
    Broken(io::Error),
}

impl fmt::Display for NoHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("it ended before a PROXY protocol header came"),
            Self::Foreign => f.write_str("what came is no PROXY protocol header"),
            Self::Broken(error) => write!(f, "it broke before a PROXY protocol header had come: {error}"),
        }
    }
}

/// Reads the header, and not a byte of what is behind it. `None` if the connection is the sender's own.
pub async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, NoHeader> {
    let mut bytes = vec![0; WORD.len()];
    if stream.read(&mut bytes[..1]).await.map_err(NoHeader::Broken)? == 0 {
        return Err(NoHeader::Nothing);
    }
    read(stream, &mut bytes[1..]).await?;
    if bytes == WORD {
        while !bytes.ends_with(b"\n") {
            if bytes.len() == LONGEST_LINE {
                return Err(NoHeader::Foreign);
            }
            bytes.push(0);
            let last = bytes.len() - 1;
            read(stream, &mut bytes[last..]).await?;
        }
    } else if SIGNATURE.starts_with(&bytes) {
        bytes.resize(FIXED, 0);
        read(stream, &mut bytes[WORD.len()..]).await?;
        let length = FIXED + usize::from(u16::from_be_bytes([bytes[FIXED - 2], bytes[FIXED - 1]]));
        if !bytes.starts_with(SIGNATURE) || length > LONGEST {
            return Err(NoHeader::Foreign);
        }
        bytes.resize(length, 0);
        read(stream, &mut bytes[FIXED..]).await?;
    }
    source(&bytes)
}

async fn read(stream: &mut (impl AsyncRead + Unpin), bytes: &mut [u8]) -> Result<(), NoHeader> {
    stream.read_exact(bytes).await.map(|_| ()).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => NoHeader::Foreign,
        _ => NoHeader::Broken(error),
    })
}

/// The client that a whole header names.
fn source(bytes: &[u8]) -> Result<Option<SocketAddr>, NoHeader> {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, length)) if length == bytes.len() => Ok(header.proxied_address().map(|address| address.source)),
        Ok(_) | Err(_) => Err(NoHeader::Foreign),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// What is read, and what is left behind it.
    async fn read_all(bytes: &[u8]) -> (Result<Option<SocketAddr>, NoHeader>, usize) {
        let mut rest = bytes;
        let outcome = receive(&mut rest).await;
        (outcome, rest.len())
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_leave_what_is_behind() {
        for (client, here) in [("192.0.2.7:50123", "198.51.100.1:443"), ("[2001:db8::7]:9", "[2001:db8::1]:443")] {
            let header = ProxyHeader::with_address(ProxiedAddress::stream(at(client), at(here)));
            let (mut first, mut second) = (Vec::new(), Vec::new());
            header.encode_v1(&mut first).unwrap();
            header.encode_v2(&mut second).unwrap();
            for mut bytes in [first, second] {
                bytes.extend(b"\x16\x03\x01");
                let (outcome, left) = read_all(&bytes).await;
                assert_eq!((outcome.unwrap(), left), (Some(at(client)), 3));
            }
        }
    }

    #[tokio::test]
    async fn a_connection_of_the_sender_itself_names_nobody() {
        let mut local = Vec::new();
        ProxyHeader::with_local().encode_v2(&mut local).unwrap();
        for bytes in [&local[..], b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"] {
            assert_eq!(read_all(bytes).await.0.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn everything_else_is_foreign() {
        let endless = [b"PROXY ".as_slice(), &[b'a'; 200]].concat();
        let huge = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff], &[0; 70_000]].concat();
        let cut = [SIGNATURE, &[0x21, 0x11, 0, 12, 1, 2]].concat();
        let other_command = [SIGNATURE, &[0x2f, 0x11, 0, 12], &[0; 12]].concat();
        for bytes in [
            &endless[..],
            &huge,
            &cut,
            &other_command,
            b"P",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 50123\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 50123 70000\r\n",
            b"GET / HTTP/1.1\r\n",
        ] {
            assert!(matches!(read_all(bytes).await.0, Err(NoHeader::Foreign)), "{bytes:?}");
        }
        assert!(matches!(read_all(b"").await.0, Err(NoHeader::Nothing)));
    }

    proptest! {
        #[test]
        fn nothing_panics_or_reads_far(start in 0_usize..3, bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let bytes = [[&b""[..], WORD, SIGNATURE][start], &bytes].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (_, left) = runtime.block_on(read_all(&bytes));
            prop_assert!(bytes.len() - left <= LONGEST);
        }
    }
}
