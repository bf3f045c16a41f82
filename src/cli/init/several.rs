//! Covers whose first flight has several encrypted records: clients get it in one, and a single flow tells.

use std::time::Duration;

use tokio::time::timeout;

use super::ask::Ask;
use crate::cli::Failure;
use crate::config::Draft;
use crate::config::embedded::CoverDraft;
use crate::config::parts::SEVERAL;
use crate::cover::Cover;
use crate::cover::remote::Remote;

/// Time limit for a visit to the cover.
const PATIENCE: Duration = Duration::from_secs(5);

/// Number of encrypted records in the first flight of a remote cover; `None` if it cannot be visited.
pub(super) fn records(draft: &Draft) -> Option<usize> {
    let (CoverDraft::Remote(settings), Some(domain)) = (&draft.cover, &draft.domain) else { return None };
    let visit = async {
        let remote = Remote::new(settings.clone());
        remote.resolve(&[]).await.ok()?;
        Some(Cover::remote(remote, domain.clone(), None).quick_scan().await.ok()?.records)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let seen = runtime.block_on(async { timeout(PATIENCE, visit).await.ok().flatten() });
    runtime.shutdown_background();
    seen
}

/// Asks a person whether to go on; without one, refuses.
pub(super) fn confirm(ask: &mut dyn Ask) -> Result<(), Failure> {
    let what = "the first flight of this cover has several encrypted records (grade C), and clients get one: a single flow \
                tells them apart";
    if ask.is_person() {
        ask.tell(&format!(
            "- {what}. The built-in site in front of your own web server has none of this: --upstream URL."
        ));
        if ask.yes("Use this cover nevertheless?", false).unwrap_or(false) {
            return Ok(());
        }
    }
    Err(Failure::usage(
        format!("nothing was written: {what}"),
        format!("vizard init --cover site --upstream http://127.0.0.1:8080, or {SEVERAL}"),
    ))
}
