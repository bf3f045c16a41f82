//! The metrics of a proxy whose admin listener is the socket in its state directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Numbers by name and labels.
pub type Numbers = BTreeMap<String, f64>;

/// What is told now.
pub async fn scrape(state: &Path) -> Numbers {
    let mut socket = UnixStream::connect(state.join("admin")).await.expect("the admin listener");
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request).await.expect("it is read");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("# EOF\n"), "{answer}");
    let lines = answer.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// Scrapes until it is so.
pub async fn until(state: &Path, what: &str, enough: impl Fn(&Numbers) -> bool) -> Numbers {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let numbers = scrape(state).await;
        if enough(&numbers) {
            return numbers;
        }
        assert!(Instant::now() < end, "never {what}: {numbers:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The number of this name; 0 where there is none yet.
pub fn at(numbers: &Numbers, name: &str) -> f64 {
    numbers.get(name).copied().unwrap_or_default()
}

/// The sum of all whose names begin like this.
pub fn sum(numbers: &Numbers, start: &str) -> f64 {
    numbers.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, number)| number).sum()
}
