//! How many change_cipher_spec records a cover takes. TLS 1.3 allows one and has servers ignore it; how many more they
//! ignore is a mark of the library.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{CoverDialer, HANDSHAKE, flight, within};
use crate::wire::hellos::TEMPLATES;
use crate::wire::record::CHANGE_CIPHER_SPEC;

/// One more than any server is known to take.
const MOST: u16 = 33;

/// Time limit for a cover to give a handshake up. One that was only slow is taken for one that goes on.
const PATIENCE: Duration = Duration::from_millis(700);

/// The number of records that the cover takes in a row, found by halving; `None` if it takes as many as are tried.
pub(super) async fn limit(door: &impl CoverDialer, name: &str) -> io::Result<Option<u16>> {
    if takes(door, name, MOST).await? {
        return Ok(None);
    }
    let (mut taken, mut refused) = (0, MOST);
    while refused - taken > 1 {
        let middle = (taken + refused) / 2;
        if takes(door, name, middle).await? {
            taken = middle;
        } else {
            refused = middle;
        }
    }
    Ok(Some(taken))
}

async fn takes(door: &impl CoverDialer, name: &str, count: u16) -> io::Result<bool> {
    let hello = TEMPLATES[1].hello(name, &mut rand::rng()).map_err(|_| io::Error::other("no hello could be made"))?;
    let mut leg = within(HANDSHAKE, async {
        let mut leg = door.open().await?;
        flight::watch(&mut leg, &hello, Some(1)).await.map(|_| leg)
    })
    .await?;
    let records = CHANGE_CIPHER_SPEC.repeat(count.into());
    let gave_up = async {
        if leg.write_all(&records).await.is_err() || leg.flush().await.is_err() {
            return;
        }
        // An alert, an end and a reset all say the same.
        let _ = leg.read(&mut [0]).await;
    };
    Ok(timeout(PATIENCE, gave_up).await.is_err())
}
