//! Connections to data centres.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use super::{DcId, Settings};
use crate::net::{dial, sockopt};

/// How long a data centre has to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no connection to a data centre.
#[derive(Debug)]
pub enum DirectError {
    /// There is no data centre of this number.
    Unknown,
    /// None of its addresses could be reached.
    Unreachable(io::Error),
}

/// Connects to a data centre; nothing has been sent yet.
pub async fn connect(settings: &Settings, dc: DcId) -> Result<TcpStream, DirectError> {
    let addresses = settings.addresses(dc);
    if addresses.is_empty() {
        return Err(DirectError::Unknown);
    }
    let stream = dial::dial(&addresses, PATIENCE).await.map_err(DirectError::Unreachable)?;
    sockopt::no_delay(&stream);
    sockopt::keep_alive(&stream);
    Ok(stream)
}
