//! The end of a connection, without a reset.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Sends what is left and the FIN, for as long as the client takes it.
pub(super) async fn finish<S: AsyncWrite + Unpin>(stream: &mut S) {
    let _ = timeout(LINGER_QUIET, stream.shutdown()).await;
}

/// Closes a stream without a reset: sends FIN, then reads and forgets until the client has closed too, for at most half
/// a minute and five seconds of silence. A socket closed with unread bytes in it would answer with RST, which can
/// overtake and destroy what was sent last.
pub async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    finish(&mut stream).await;
    let forget = async {
        // Not within the future, which every connection carries from its start.
        let mut buffer = vec![0; 4096];
        while let Ok(Ok(1..)) = timeout(LINGER_QUIET, stream.read(&mut buffer)).await {}
    };
    let _ = timeout(LINGER_LONGEST, forget).await;
}

const LINGER_QUIET: Duration = Duration::from_secs(5);
const LINGER_LONGEST: Duration = Duration::from_secs(30);
