//! `vizard status`: what the running proxy is doing, once.

use std::fmt::Write;

use super::{Failure, output, progress, remote};
use crate::config::Environment;
use crate::ops::admin::page::{bytes, length};
use crate::ops::admin::views::{Status, User};

/// Flags of `vizard status`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    remote: remote::Access,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the state of the running proxy.
pub fn status(arguments: &Arguments, environment: &Environment) -> Result<(), Failure> {
    let client = arguments.remote.client(environment)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}"), "try again"))?;
    let asked = async {
        let status: serde_json::Value = client.get("/api/v1/status").await?;
        let users: Vec<User> = client.get("/api/v1/users").await?;
        Ok::<_, Failure>((status, users))
    };
    let (status, users) = progress::during("asking the proxy", || runtime.block_on(asked))?;
    if arguments.json {
        let users = serde_json::to_value(users).unwrap_or_default();
        output::print(serde_json::json!({ "status": status, "users": users }));
        return Ok(());
    }
    let status: Status = serde_json::from_value(status)
        .map_err(|error| Failure::new(format!("the answer cannot be parsed: {error}"), "use the same version"))?;
    output::print(text(&status, &users).trim_end());
    Ok(())
}

fn text(status: &Status, users: &[User]) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| _ = writeln!(out, "{name:<12} {value}");
    let ending = if status.draining { ", ending" } else { "" };
    line("vizard", format!("{}, up {}{ending}", status.version, length(status.uptime_seconds)));
    line("listens on", status.listen.join(", "));
    let connections = &status.connections;
    line("now", format!("{} sessions, {} visitors", connections.sessions, connections.visitors));
    let (accepted, admitted, declined) = (connections.accepted, connections.admitted, connections.declined);
    line("so far", format!("{accepted} connections: {admitted} admitted, {declined} declined"));
    line("traffic", format!("{} down, {} up", bytes(status.bytes.down as f64), bytes(status.bytes.up as f64)));
    let cover = &status.cover;
    let grade = cover.grade.as_deref().unwrap_or("not visited yet");
    let up = cover.standing();
    line("cover", format!("{} ({}), {up}, grade {grade}, changed {} times", cover.name, cover.kind, cover.changes));
    cover.flaws.iter().for_each(|flaw| line("", flaw.clone()));
    if let Some(ends) = &cover.certificate_ends {
        line("certificate", format!("until {ends}"));
    }
    let disk = if status.replay.healthy { "kept on disk" } else { "NOT kept on disk" };
    line("replay", format!("{} entries, {disk}", status.replay.entries));
    status.alarms.iter().for_each(|alarm| line("alarm", format!("{}: {} ({}x)", alarm.name, alarm.text, alarm.count)));
    status.declines.iter().for_each(|(reason, count)| line("declined", format!("{count} for {reason}")));
    for centre in &status.data_centres {
        let (sessions, reached, failed) = (centre.sessions, centre.reached, centre.failed);
        line("data centre", format!("{}: {sessions} sessions, reached {reached} times, {failed} failures", centre.dc));
    }
    for route in &status.routes {
        let (up, reached, failed) = (if route.up { "up" } else { "DOWN" }, route.reached, route.failed);
        line("route", format!("{} ({}), {up}, reached {reached} times, {failed} failures", route.name, route.kind));
    }
    users.iter().for_each(|user| line("user", user_line(user)));
    out
}

fn user_line(user: &User) -> String {
    let state = user.reason.as_deref().unwrap_or("active");
    let (up, down) = (bytes(user.bytes.up as f64), bytes(user.bytes.down as f64));
    let mut text = format!("{}: {state}, {} sessions, {down} down, {up} up", user.name, user.sessions);
    if let Some(quota) = &user.quota {
        let (used, all) = (bytes(quota.used as f64), bytes(quota.bytes as f64));
        text += &format!(", {used} of {all} used ({})", quota.period);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_line() {
        let status: Status = serde_json::from_value(serde_json::json!({
            "version": "0.1.0", "started": "2026-01-01T00:00:00Z", "uptime_seconds": 300, "listen": ["[::]:443"],
            "draining": false, "bytes": {"up": 1000, "down": 2500},
            "connections": {"accepted": 9, "admitted": 2, "declined": 7, "visitors": 3, "sessions": 2},
            "declines": {"digest": 7}, "hellos": {"chrome": 2}, "session_ends": {}, "users": 1, "alarms": [],
            "data_centres": [{"dc": "2", "reached": 2, "failed": 0, "sessions": 2}],
            "routes": [{"name": "abroad", "kind": "mtproto", "up": false, "reached": 3, "failed": 1}],
            "cover": {"kind": "site", "name": "example.com", "grade": "A", "flaws": [], "up": true, "away": 0,
                      "changes": 0, "visited": null, "certificate_ends": null},
            "replay": {"entries": 2, "unsaved": 0, "dropped": 0, "healthy": true}
        }))
        .unwrap();
        let text = text(&status, &[]);
        for part in [
            "up 5 min",
            "2 sessions, 3 visitors",
            "2.5 kB down, 1.0 kB up",
            "7 for digest",
            "grade A",
            "2: 2 sessions",
            "abroad (mtproto), DOWN, reached 3 times",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
