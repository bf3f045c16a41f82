//! Metrics for Prometheus: what is counted and what can be seen at the moment of a scrape, as one text.
//!
//! No label holds an address or anything that a peer wrote. Names of users are labels only where that is wanted, and of
//! the first [`MOST_USERS`] only. docs/monitoring.md has the table of all names.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::counts::Counts;
use super::process::Process;
use super::snapshot::Snapshot;
use super::tally::Tally;
use crate::auth::UnixTime;
use crate::server::fan_out::RANGES;
use crate::telegram::DcId;
use crate::telegram::middle::link::Cause;

/// Users beyond these have no metrics of their own; each takes seven lines of a scrape.
pub const MOST_USERS: usize = 500;

/// Media type of a scrape.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Asks for the state of the running proxy.
pub type Look = Arc<dyn Fn() -> Snapshot + Send + Sync>;

/// Everything that can be scraped.
pub struct Metrics(Registry);

impl Metrics {
    /// Metrics of what `counts` has counted and `look` sees.
    pub fn new(counts: Arc<Counts>, look: Look, started: UnixTime, per_user: bool) -> Self {
        let mut registry = Registry::default();
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("vizard_build", "The program that runs", version);
        let histogram = |registry: &mut Registry, name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        let help = "Time from a client's connection to its second proof";
        histogram(&mut registry, "vizard_handshake", help, &counts.handshake);
        histogram(&mut registry, "vizard_dc_dial", "Time to reach a data centre", &counts.dial);
        histogram(&mut registry, "vizard_session_length", "How long sessions lasted", &counts.lasted);
        registry.register_collector(Box::new(Source { counts, look, started, per_user }));
        Self(registry)
    }

    /// The text of a scrape.
    pub fn scrape(&self) -> String {
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = encode(&mut text, &self.0);
        text
    }
}

struct Source {
    counts: Arc<Counts>,
    look: Look,
    started: UnixTime,
    per_user: bool,
}

impl Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Collector for Source {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let seen = (self.look)();
        self.connections(&mut page, &seen)?;
        self.telegram(&mut page, &seen)?;
        routes(&mut page, &seen)?;
        state(&mut page, &seen)?;
        self.cover(&mut page, &seen)?;
        if self.per_user {
            users(&mut page, &seen)?;
        }
        process(&mut page, &Process::now(), self.started)
    }
}

impl Source {
    fn connections(&self, page: &mut Page<'_>, seen: &Snapshot) -> fmt::Result {
        let counts = &self.counts;
        page.gauge("vizard_start_time_seconds", "When the proxy started", self.started.0)?;
        let accepted = counts.accepted.load(Ordering::Relaxed);
        page.counter("vizard_connections", "Connections accepted", accepted)?;
        page.gauges(
            "vizard_connections_open",
            "Connections by state",
            "state",
            [("visitor", counts.visitors()), ("session", seen.sessions as u64)],
        )?;
        fan_out(page, seen)?;
        page.counters(
            "vizard_admissions",
            "Clients that passed both proofs, by class of hello",
            counts.admitted.list().into_iter().map(|(class, count)| ([("hello", class.label().to_owned())], count)),
        )?;
        page.counters(
            "vizard_declines",
            "Connections declined to the cover, by reason",
            counts
                .declined
                .list()
                .into_iter()
                .map(|(why, count)| ([("reason", why.reason.to_owned()), ("refusal", why.refusal.to_owned())], count)),
        )?;
        page.counters(
            "vizard_relay_ends",
            "Ends of sessions and of pass-throughs to a remote cover, by what ended them",
            counts
                .ends
                .list()
                .into_iter()
                .map(|(end, count)| ([("relay", end.what.to_owned()), ("by", end.by.to_owned())], count)),
        )?;
        page.counters(
            "vizard_session_bytes",
            "Bytes of sessions, running ones included, as the client sends and gets them",
            [([("direction", "up".to_owned())], seen.moved.up), ([("direction", "down".to_owned())], seen.moved.down)],
        )?;
        let (up, down) = (counts.passed_up.load(Ordering::Relaxed), counts.passed_down.load(Ordering::Relaxed));
        page.counters(
            "vizard_pass_through_bytes",
            "Bytes of ended visits to the cover",
            [([("direction", "up".to_owned())], up), ([("direction", "down".to_owned())], down)],
        )
    }

    fn telegram(&self, page: &mut Page<'_>, seen: &Snapshot) -> fmt::Result {
        page.counters(
            "vizard_dc_dials",
            "Data centres reached for sessions",
            self.counts.dialled.list().into_iter().map(|(dc, count)| ([("dc", dc.to_string())], count)),
        )?;
        // The later number is read first, so that one in between does not make the difference negative.
        let hits = self.counts.dialled_warm.load(Ordering::Relaxed);
        let misses = self.counts.dialled.sum().saturating_sub(hits);
        page.counters(
            "vizard_dc_warm",
            "Sessions by whether a connection to their data centre stood ready",
            [("hit", hits), ("miss", misses)].map(|(outcome, n)| ([("outcome", outcome.to_owned())], n)),
        )?;
        page.gauge("vizard_dc_warm_open", "Connections to data centres that stand ready", seen.ready)?;
        let name = |dc: Option<_>| dc.map_or_else(|| "unknown".to_owned(), |dc: DcId| dc.to_string());
        page.counters(
            "vizard_dc_dial_failures",
            "Data centres that could not be reached; unknown: there is no such one",
            self.counts.undialled.list().into_iter().map(|(dc, count)| ([("dc", name(dc))], count)),
        )?;
        let by_dc =
            |tally: &Tally<DcId>| tally.list().into_iter().map(|(dc, n)| ([("dc", dc.to_string())], n)).collect();
        let (attached, fallbacks): (Vec<_>, Vec<_>) = (by_dc(&self.counts.attached), by_dc(&self.counts.fallbacks));
        page.counters("vizard_middle_sessions", "Sessions that went through middle proxies", attached)?;
        let help = "Sessions with a tag that went directly because there was no link to a middle proxy";
        page.counters("vizard_middle_fallbacks", help, fallbacks)?;
        page.counter("vizard_middle_link_failures", "Links to middle proxies that failed to open", seen.middle.failed)?;
        let ends = Cause::ALL.into_iter().zip(seen.middle.ends);
        let ends = ends.map(|(cause, n)| ([("cause", cause.label().to_owned())], n));
        page.counters("vizard_middle_link_ends", "Links to middle proxies that have ended", ends)?;
        page.gauge("vizard_middle_links", "Links to middle proxies that are open", seen.middle.links)?;
        page.gauge(
            "vizard_middle_waiting_bytes",
            "Bytes from middle proxies that wait for clients",
            seen.middle.waiting,
        )
    }

    fn cover(&self, page: &mut Page<'_>, seen: &Snapshot) -> fmt::Result {
        let counts = &self.counts;
        let up = !counts.cover_is_away() && !counts.cover_fails();
        page.gauge(
            "vizard_cover_up",
            "0: the cover was unreachable, or had no handshake, at the last attempt",
            i64::from(up),
        )?;
        let away = counts.cover_away.load(Ordering::Relaxed);
        page.counter("vizard_cover_away", "Times that the cover could not be reached", away)?;
        let failed = counts.cover_failed.list().into_iter().map(|(how, n)| ([("cause", how.to_owned())], n));
        page.counters("vizard_cover_failures", "Admitted clients that the cover had no handshake for", failed)?;
        page.counter("vizard_cover_changes", "Scans that found the cover changed", seen.cover.changes)?;
        if let Some(learnt) = seen.cover.learnt {
            page.gauge("vizard_cover_visit_time_seconds", "When the cover was last scanned", learnt.0)?;
        }
        if let Some(graded) = &seen.cover.graded {
            let grade = graded.grade as i64;
            page.gauge("vizard_cover_grade", "The cover's grade: 0 is A, 3 is D", grade)?;
        }
        if let Some(ends) = seen.certificate_ends {
            page.gauge("vizard_certificate_expiry_time_seconds", "When the certificate expires", ends.0)?;
        }
        let Some(acme) = &seen.acme else { return Ok(()) };
        page.counters(
            "vizard_acme_orders",
            "Certificates ordered from the authority since the start",
            [("issued", acme.issued), ("failed", acme.failed)].map(|(end, n)| ([("outcome", end.to_owned())], n)),
        )?;
        page.gauge("vizard_acme_failures", "Orders in a row that failed, over restarts", acme.failures)?;
        match acme.next {
            Some(next) => page.gauge("vizard_acme_next_time_seconds", "When the authority is asked next", next.0),
            None => Ok(()),
        }
    }
}

fn fan_out(page: &mut Page<'_>, seen: &Snapshot) -> fmt::Result {
    let hello = |class: &str| ("hello", class.to_owned());
    let clients = seen.fan_out.iter().flat_map(|(class, fan_out)| {
        let ranges = RANGES.iter().zip(fan_out.by_range);
        ranges.map(|((range, _), count)| ([hello(class), ("sessions", (*range).to_owned())], count))
    });
    let help = "Clients by the number of sessions that each has now and by class of hello";
    page.gauge_family("vizard_clients", help, clients)?;
    let most = seen.fan_out.iter().map(|(class, fan_out)| ([hello(class)], fan_out.most));
    page.gauge_family("vizard_client_sessions_most", "Most sessions that one client has now, by class of hello", most)
}

fn routes(page: &mut Page<'_>, seen: &Snapshot) -> fmt::Result {
    let well = seen.routes.iter().map(|route| (&*route.name, u64::from(route.well)));
    page.gauges("vizard_route_up", "Whether a route to Telegram worked when last tried", "route", well)?;
    let dials = seen.routes.iter().flat_map(|route| {
        [("reached", route.reached), ("failed", route.failed)]
            .map(|(outcome, n)| ([("route", route.name.clone()), ("outcome", outcome.to_owned())], n))
    });
    page.counters("vizard_route_dials", "Data centres reached over a route, and not", dials)
}

fn state(page: &mut Page<'_>, seen: &Snapshot) -> fmt::Result {
    page.gauge("vizard_replay_entries", "Hellos and headers that the replay cache holds", seen.replay.entries)?;
    page.gauge("vizard_replay_unsaved", "Entries of the replay cache that wait for the disk", seen.replay.unsaved)?;
    page.counter("vizard_replay_dropped", "Entries of the replay cache that a restart will lose", seen.replay.dropped)?;
    page.gauge(
        "vizard_replay_healthy",
        "Whether entries of the replay cache can be written to disk",
        i64::from(seen.replay.well),
    )?;
    page.gauge("vizard_draining", "Whether no more clients are accepted", i64::from(seen.draining))?;
    page.gauge("vizard_users", "Users that are configured", seen.users.len())?;
    page.counters(
        "vizard_alarms",
        "Alarms raised, by name",
        seen.alarms.iter().map(|alarm| ([("alarm", alarm.name.to_owned())], alarm.count)),
    )
}

fn users(page: &mut Page<'_>, seen: &Snapshot) -> fmt::Result {
    let users = || seen.users.iter().take(MOST_USERS);
    let user = |name: &str| ("user", name.to_owned());
    let bytes = users().flat_map(|one| {
        [("up", one.up), ("down", one.down)].map(|(way, n)| ([user(&one.name), ("direction", way.to_owned())], n))
    });
    page.counters("vizard_user_bytes", "Bytes of a user's sessions, over restarts", bytes)?;
    page.gauges(
        "vizard_user_sessions",
        "Sessions of a user",
        "user",
        users().map(|one| (&*one.name, one.sessions as u64)),
    )?;
    let open = users().map(|one| (&*one.name, u64::from(one.shut.is_none())));
    page.gauges("vizard_user_enabled", "Whether a user is active", "user", open)?;
    let quota = |value: fn(&super::snapshot::QuotaState) -> u64| {
        users().filter_map(move |one| Some((&*one.name, value(one.quota.as_ref()?))))
    };
    page.gauges("vizard_user_quota_bytes", "The quota of a user", "user", quota(|quota| quota.bytes))?;
    page.gauges("vizard_user_quota_used_bytes", "Bytes used of the quota", "user", quota(|quota| quota.used))?;
    let ends = users().filter_map(|one| Some((&*one.name, u64::try_from(one.expires?.0).unwrap_or_default())));
    page.gauges("vizard_user_expiry_time_seconds", "When a user expires", "user", ends)
}

/// The names are those that every exporter gives these figures.
fn process(page: &mut Page<'_>, process: &Process, started: UnixTime) -> fmt::Result {
    page.gauge("process_start_time_seconds", "When the process started", started.0)?;
    let gauges = [
        ("process_resident_memory_bytes", "Memory in use", process.resident_bytes),
        ("process_virtual_memory_bytes", "Memory reserved", process.virtual_bytes),
        ("process_open_fds", "Open descriptors", process.open_fds),
        ("process_max_fds", "Most open descriptors", process.max_fds),
        ("process_threads", "Threads", process.threads),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            page.gauge(name, help, value)?;
        }
    }
    process.cpu_seconds.map_or(Ok(()), |seconds| page.counter("process_cpu_seconds", "Processor time", seconds))
}

/// A scrape that is being written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// `_total` is put behind the name.
    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, String); N], u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge_family<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, String); N], u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            encoder.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn gauges<'n>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'n str, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (key, value) in values {
            encoder.encode_family(&[(label, key)])?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cover::site::acme;
    use crate::ops::snapshot::{AlarmState, QuotaState, UserState};
    use crate::server::event::{Event, Observer};
    use crate::server::sessions::Moved;
    use crate::telegram::routes::Standing;

    fn scrape(snapshot: Snapshot, per_user: bool) -> String {
        let counts = Arc::new(Counts::default());
        counts.observe(&Event::Accepted);
        Metrics::new(counts, Arc::new(move || snapshot.clone()), UnixTime(1_700_000_000), per_user).scrape()
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let quota = QuotaState { bytes: 100, used: 40, period: "month".into(), resets: None };
        let alice =
            UserState { name: "al\"ice".into(), up: 7, sessions: 1, quota: Some(quota), ..UserState::default() };
        let alarm = AlarmState { name: "replay", count: 2, text: String::new(), last: None };
        let moved = Moved { up: 7, down: 9 };
        let acme = acme::Standing { issued: 1, failed: 5, failures: 2, next: Some(UnixTime(1_700_000_600)) };
        let seen =
            Snapshot { users: vec![alice], sessions: 1, alarms: vec![alarm], moved, ready: 3, ..Snapshot::default() };
        let route = Standing { name: "abroad".into(), kind: "socks5", well: false, reached: 4, failed: 1 };
        let seen = Snapshot { acme: Some(acme), routes: vec![route], ..seen };
        let text = scrape(seen.clone(), true);
        for line in [
            "vizard_build_info{version=",
            "vizard_start_time_seconds 1700000000\n",
            "vizard_connections_total 1\n",
            "vizard_connections_open{state=\"visitor\"} 1\n",
            "vizard_connections_open{state=\"session\"} 1\n",
            "vizard_session_bytes_total{direction=\"down\"} 9\n",
            "vizard_user_bytes_total{user=\"al\\\"ice\",direction=\"up\"} 7\n",
            "vizard_user_quota_used_bytes{user=\"al\\\"ice\"} 40\n",
            "vizard_dc_warm_total{outcome=\"miss\"} 0\n",
            "vizard_dc_warm_open 3\n",
            "vizard_route_up{route=\"abroad\"} 0\n",
            "vizard_route_dials_total{route=\"abroad\",outcome=\"reached\"} 4\n",
            "vizard_alarms_total{alarm=\"replay\"} 2\n",
            "vizard_acme_orders_total{outcome=\"failed\"} 5\n",
            "vizard_acme_failures 2\n",
            "vizard_acme_next_time_seconds 1700000600\n",
            "vizard_handshake_seconds_bucket{le=\"+Inf\"} 0\n",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let silent = scrape(seen, false);
        assert!(!silent.contains("vizard_user_") && !silent.contains("al\\\"ice"), "{silent}");
    }

    #[test]
    fn there_is_a_bound_on_users() {
        let user = |n: usize| UserState { name: format!("user{n}"), ..UserState::default() };
        let seen = Snapshot { users: (0..MOST_USERS + 9).map(user).collect(), ..Snapshot::default() };
        let text = scrape(seen, true);
        assert_eq!(text.matches("vizard_user_sessions{").count(), MOST_USERS);
        assert!(text.contains(&format!("vizard_users {}\n", MOST_USERS + 9)));
    }
}
