//! What has to be done from time to time while the proxy runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::Server;

/// How often spent hellos are forced to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Runs for as long as it is polled.
pub(super) async fn keep(server: Arc<Server>) {
    tokio::join!(server.cover.watch(), keep_replay_memory(&server));
}

/// Forces spent hellos to the disk, and says when that fails and when it works again.
async fn keep_replay_memory(server: &Arc<Server>) {
    let mut ticks = interval(SYNC_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let keeper = Arc::clone(server);
        let outcome = tokio::task::spawn_blocking(move || keeper.judge.replay.sync()).await;
        match outcome {
            Ok(Ok(())) if failing => {
                info!("spent hellos are kept on disk again");
                failing = false;
            }
            Ok(Err(error)) if !failing => {
                error!(%error, "spent hellos cannot be kept on disk: a restart now would forget the latest; make room or mend the state directory");
                failing = true;
            }
            Ok(_) => {}
            Err(panic) => warn!(%panic, "keeping spent hellos failed"),
        }
    }
}

/// The last sync before the proxy ends.
pub(super) fn sync(server: &Server) {
    if let Err(error) = server.judge.replay.sync() {
        error!(%error, "spent hellos could not be kept on disk");
    }
}
