//! The webhook: alarms as JSON, posted until someone takes them or the time for that is over.

use std::time::Duration;

use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{Alarm, Alarms, Webhook, now};
use crate::net::https::{Bounds, Client};

/// Number of attempts on a webhook for one alarm, and the pause after the first failure, which doubles with each.
#[derive(Clone, Copy, Debug)]
pub struct Persistence {
    /// Number of attempts.
    pub tries: u32,
    /// The first pause.
    pub pause: Duration,
}

impl Default for Persistence {
    /// For five minutes.
    fn default() -> Self {
        Self { tries: 7, pause: Duration::from_secs(5) }
    }
}

/// Limits on the size and the time of a webhook's answer.
const BOUNDS: Bounds = Bounds { size: 64 << 10, time: Duration::from_secs(15) };

/// Posts alarms one after the other, for as long as this is polled.
pub async fn post(alarms: &Alarms, mut waiting: mpsc::Receiver<Alarm>, client: Client, persistence: Persistence) {
    while let Some(alarm) = waiting.recv().await {
        // As it is now: the operator may have changed it.
        if let Some(webhook) = alarms.webhook() {
            post_one(&alarm, &webhook, &client, persistence).await;
        }
    }
}

async fn post_one(alarm: &Alarm, webhook: &Webhook, client: &Client, persistence: Persistence) {
    let headers: Vec<(HeaderName, HeaderValue)> = webhook
        .token
        .iter()
        .filter_map(|token| HeaderValue::try_from(format!("Bearer {token}")).ok())
        .map(|mut value| {
            value.set_sensitive(true);
            (AUTHORIZATION, value)
        })
        .collect();
    let Ok(url) = webhook.url.parse::<Uri>() else { return };
    let body = alarm.json(now());
    let mut pause = persistence.pause;
    for attempt in 1..=persistence.tries {
        match client.post_json(&url, &headers, body.clone().into(), BOUNDS).await {
            Ok(()) => return,
            Err(error) if attempt == persistence.tries => {
                warn!(%error, alarm = alarm.kind(), "an alarm could not be posted");
            }
            Err(error) => {
                debug!(%error, attempt, "the webhook does not work yet");
                sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::ops::alarms::Settings;

    #[tokio::test]
    async fn a_webhook_that_fails_is_tried_again_and_gets_the_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let mut seen = Vec::new();
            for answer in ["", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 OK\r\n\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                seen.push(String::from_utf8(request).unwrap());
            }
            seen
        });
        let webhook = Some(Webhook { url, token: Some("s3cret".into()) });
        let (alarms, waiting) = Alarms::new(Settings { webhook, ..Settings::default() });
        let persistence = Persistence { tries: 5, pause: Duration::from_millis(1) };
        let posting = Arc::clone(&alarms);
        let posting = tokio::spawn(async move { post(&posting, waiting, Client::default(), persistence).await });
        let alarm = alarms.lock().quota("alice", 80, 100, None);
        alarms.sound(alarm);
        let seen = serving.await.unwrap();
        posting.abort();
        let sounded = alarms.sounded();
        assert_eq!((sounded[0].name, sounded[0].count), ("quota", 1));
        assert!(seen.iter().all(|request| request.contains("authorization: Bearer s3cret\r\n")), "{seen:?}");
        let (_, body) = seen[2].split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["alarm"], &body["user"]), (&"quota".into(), &"alice".into()));
        assert!(!format!("{:?}", alarms.webhook()).contains("s3cret"));
    }
}
