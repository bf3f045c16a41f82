//! What has to be done from time to time while the proxy runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use super::{Server, web};
use crate::auth::{Member, Refusal};
use crate::base::summary::{self, Cause};
use crate::telegram::Need;
use crate::telegram::middle::Directory;

/// Interval at which the replay cache is synced to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Longest time for which the disk may hold back the end of the program.
const LAST_SYNC: Duration = Duration::from_secs(5);

/// Interval at which sessions are counted, and those are looked for whose users may not be inside any more.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Runs for as long as it is polled.
pub(super) async fn keep(server: Arc<Server>) {
    tokio::join!(
        watch_cover(&server),
        keep_replay_memory(&server),
        sweep(&server),
        follow_lists(&server),
        server.upstream.keep_probing(),
        summary::keep_telling()
    );
}

/// Tells the links which middle proxies Telegram publishes.
async fn follow_lists(server: &Server) {
    let mut lists = server.upstream.lists();
    ask_for_lists(server);
    loop {
        let published = Directory::published(&lists.borrow_and_update());
        if let Some(directory) = published {
            server.middle.publish(directory);
        }
        if lists.changed().await.is_err() {
            return;
        }
    }
}

/// Has Telegram's lists fetched if someone's sessions go through middle proxies and they are not stated.
pub(super) fn ask_for_lists(server: &Server) {
    let settings = server.settings();
    let needs = |member: &Arc<Member>| member.policy().needs_middle(settings.ad_tag, settings.middle_use);
    if settings.middle.directory(None).is_none() && server.people.list().iter().any(needs) {
        server.upstream.want_lists(Need::Soon);
    }
}

/// Keeps what is known of the cover fresh, whichever cover it is, until another process does.
async fn watch_cover(server: &Server) {
    let mut changed = server.changed.subscribe();
    loop {
        let cover = server.cover();
        let listeners: Vec<SocketAddr> =
            server.listeners.list().iter().filter_map(|listening| listening.local).collect();
        tokio::select! {
            () = cover.watch(&listeners) => {}
            _ = changed.changed() => {}
            () = server.handed.cancelled() => return,
        }
    }
}

/// Finds the sessions whose time is over, those that were on their way in when the rules changed, and those of addresses
/// that are barred since. Each round is a sign of life.
async fn sweep(server: &Server) {
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = server.asked.notified() => {}
        }
        server.judge.forget_ended(SystemTime::now().into());
        end_unwanted(server);
        web::sweep(server);
        server.limits.load().tidy();
        server.stream_places.tidy();
        let _ = (server.listeners.list(), server.connections.len(), server.streams.len());
        server.beats.send_replace(());
    }
}

/// Ends the sessions of those who may not enter any more, as the cover ends a connection.
pub(super) fn end_unwanted(server: &Server) {
    if server.sessions.is_empty() {
        return;
    }
    let (now, rules) = (SystemTime::now().into(), server.judge.rules());
    server.sessions.end(|live| {
        live.count(now);
        let refused = live.standing(&rules.keyring, now).err().map(Refusal::label);
        let refused = refused.or_else(|| server.barrier.bars(live.from)).filter(|_| !live.meter.is_ending());
        if let Some(reason) = refused {
            let cause = Cause::info("a session ends: its user is no longer admitted");
            summary::note(cause.of(Some(live.member.name())).because(reason), String::new);
        }
        refused.is_some()
    });
}

/// Forces spent hellos to the disk, and says when that fails and when it works again.
async fn keep_replay_memory(server: &Arc<Server>) {
    let mut ticks = interval(SYNC_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut failing, mut dropped) = (false, 0);
    loop {
        ticks.tick().await;
        sync(server).await;
        let health = server.judge.replay.health();
        match &health.error {
            Some(error) if !failing => error!(
                %error,
                "the replay cache cannot be kept on disk: a restart now would lose the latest entries; make room or \
                 fix the state directory"
            ),
            None if failing && health.is_well() => info!("the replay cache is kept on disk again"),
            _ => {}
        }
        if health.dropped > dropped {
            error!(
                dropped = health.dropped,
                "replay cache entries that could not be written will be lost at the next restart"
            );
        }
        (failing, dropped) = (!health.is_well(), health.dropped);
    }
}

/// The last sync before the proxy ends.
pub(super) async fn last_sync(server: &Arc<Server>) {
    if timeout(LAST_SYNC, sync(server)).await.is_err() || !server.judge.replay.health().is_well() {
        error!("the latest replay cache entries could not be kept on disk");
    }
}

/// Errors of the disk are kept by the memory, for its health.
async fn sync(server: &Arc<Server>) {
    let server = Arc::clone(server);
    if let Err(panic) = tokio::task::spawn_blocking(move || _ = server.judge.replay.sync()).await {
        warn!(%panic, "writing the replay cache failed");
    }
}
