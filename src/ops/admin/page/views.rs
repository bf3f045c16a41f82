//! The pages themselves.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{Line, bar, graph};
use super::look::{bytes, encoded, length, per_second, rate, short, whole};
use crate::ops::admin::control::{Links, Trouble};
use crate::ops::admin::desk::Shared;
use crate::ops::admin::login::Login;
use crate::ops::admin::samples::rates;
use crate::ops::admin::token::Role;
use crate::ops::admin::views::{Cover, Session, Status, User, moment, now};
use crate::ops::links::qr_svg;

/// Values in a graph of a proxy that has just been started: five minutes.
const LEAST: usize = 30;

/// Rows of a long table.
const MOST_ROWS: usize = 500;

fn page(title: &str, path: &str, login: &Login, refresh: bool, body: Markup) -> Markup {
    let places = [("/", "Overview"), ("/users", "Users"), ("/sessions", "Sessions"), ("/events", "Events")];
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title, refresh))
            body {
                header {
                    a class="brand" href="/" { "vizard" }
                    nav {
                        @for (target, name) in places {
                            a href=(target) class=[(target == path).then_some("here")] { (name) }
                        }
                    }
                    span class="who" { (login.caller.name) " · " (login.caller.role) }
                    (button("/logout", login, "Log out", ""))
                }
                main {
                    @if let Some(notice) = &login.notice { p class="notice" role="status" { (notice) } }
                    (body)
                }
                footer { "vizard " (env!("CARGO_PKG_VERSION")) " · " (short(&moment(now()))) " UTC" }
            }
        }
    }
}

fn head(title: &str, refresh: bool) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="robots" content="noindex";
            @if refresh { meta http-equiv="refresh" content="15"; }
            title { (title) " · vizard" }
            link rel="stylesheet" href="/style.css";
        }
    }
}

/// A form that is one button.
fn button(to: &str, login: &Login, text: &str, class: &str) -> Markup {
    html! {
        form class="inline" method="post" action=(to) {
            input type="hidden" name="csrf" value=(login.csrf);
            button class=(class) { (text) }
        }
    }
}

/// The form for a token.
pub fn login(why_not: Option<&str>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("Log in", false))
            body {
                main class="login card" {
                    h1 { "vizard" }
                    form method="post" action="/login" {
                        label { "Token" input type="password" name="token" autocomplete="current-password" required autofocus; }
                        @if let Some(why) = why_not { span class="bad" role="alert" { (why) } }
                        button class="first" { "Log in" }
                    }
                }
            }
        }
    }
}

/// A page that says what is wrong.
pub fn wrong(text: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("Not possible", false))
            body { main class="login card" { h1 { "Not possible" } p { (text) } p { a href="/" { "Overview" } } } }
        }
    }
}

/// Renders the overview.
pub fn overview(desk: &Shared, login: &Login) -> Markup {
    let status = Status::of(&*desk.control, desk.started);
    let mut samples = desk.samples.list();
    samples.push(crate::ops::admin::samples::Sample::of(&*desk.control));
    let sessions: Vec<f64> = samples.iter().map(|sample| sample.sessions as f64).collect();
    let visitors: Vec<f64> = samples.iter().map(|sample| sample.visitors as f64).collect();
    // The last sample is not a whole interval old.
    let whole_ones = &samples[..samples.len() - 1];
    let (up, down) = (rates(whole_ones, |sample| sample.up), rates(whole_ones, |sample| sample.down));
    let admitted = rates(whole_ones, |sample| sample.admitted);
    let declined = rates(whole_ones, |sample| sample.declined);
    let slots = samples.len().max(LEAST);
    let line = |class, label, values| Line { class, label, values };
    let body = html! {
        h1 { "Overview" }
        @for alarm in &status.alarms {
            p class="card alarm" { strong { (alarm.name) } " " (alarm.text)
                span class="soft" { " · " (alarm.count) "×, last " (short(alarm.last.as_deref().unwrap_or_default())) } }
        }
        (cards(&status))
        div class="columns" {
            div class="card" { (graph("Connections", &[line("a", "sessions", &sessions), line("b", "visitors", &visitors)], slots, whole)) }
            div class="card" { (graph("Traffic of sessions", &[line("a", "down", &down), line("b", "up", &up)], slots, rate)) }
            div class="card" { (graph("Handshakes", &[line("a", "admitted", &admitted), line("b", "declined", &declined)], slots, per_second)) }
            (cover_card(&status.cover))
        }
        div class="columns" {
            (tally("Declined, by reason", "Each of these got the cover.", &status.declines))
            (tally("Admitted, by class of hello", "What the clients' first packets look like.", &status.hellos))
            (fan_out(&status))
            (centres(&status))
            (routes(&status))
            (about(&status, login))
        }
    };
    page("Overview", "/", login, true, body)
}

fn cards(status: &Status) -> Markup {
    let figure = |label: &str, value: String, more: String| {
        html! {
            div class="card figure" {
                span class="label" { (label) } span class="value" { (value) } span class="more" { (more) }
            }
        }
    };
    let connections = &status.connections;
    html! {
        div class="cards" {
            (figure("Sessions", connections.sessions.to_string(), format!("{} users configured", status.users)))
            (figure("Visitors", connections.visitors.to_string(), format!("{} connections so far", connections.accepted)))
            (figure("Admitted", connections.admitted.to_string(), "since the start".into()))
            (figure("Declined", connections.declined.to_string(), "since the start".into()))
            (figure("Down", bytes(status.bytes.down as f64), format!("up {}", bytes(status.bytes.up as f64))))
            (figure("Running", length(status.uptime_seconds), if status.draining { "ending".into() } else { format!("since {}", short(&status.started)) }))
        }
    }
}

fn cover_card(cover: &Cover) -> Markup {
    let class = match cover.grade.as_deref() {
        Some("A") => "good",
        Some("B" | "C") => "warn",
        Some(_) => "bad",
        None => "soft",
    };
    html! {
        div class="card" {
            h2 { "Cover" }
            div class="beside" {
            span class={ "grade " (class) } { (cover.grade.as_deref().unwrap_or("?")) }
            div {
                (cover.name) " · " @if cover.kind == "site" { "built-in site" } @else { "remote" }
                " · " span class=(if cover.up { "good" } else { "bad" }) { (cover.standing()) }
                br;
                span class="soft" {
                    @if let Some(visited) = &cover.visited { "last visited " (short(visited)) } @else { "not visited yet" }
                    " · changed " (cover.changes) "× · away " (cover.away) "× · without a handshake " (cover.failed) "×"
                    @if let Some(ends) = &cover.certificate_ends { br; "certificate until " (short(ends)) }
                }
                @if !cover.flaws.is_empty() { ul { @for flaw in &cover.flaws { li { (flaw) } } } }
            }
            }
        }
    }
}

fn fan_out(status: &Status) -> Markup {
    html! {
        div class="card" {
            h2 { "Connections of one client" }
            @if status.fan_out.is_empty() { p class="soft" { "None now." } } @else {
                table {
                    tr { th { "Hello" } th { "Clients" } th { "Each" } th { "Most" } }
                    @for (class, seen) in &status.fan_out {
                        tr {
                            td class="nowrap" { (class) }
                            td class="number" { (seen.clients) }
                            td class="number" { (format!("{:.1}", seen.sessions as f64 / seen.clients.max(1) as f64)) }
                            td class="number" { (seen.most) }
                        }
                    }
                }
            }
            p class="soft" { "Sessions that are open now; who watches the line counts them, too. A client is a user at an address." }
        }
    }
}

fn tally(title: &str, what: &str, counts: &std::collections::BTreeMap<String, u64>) -> Markup {
    let mut rows: Vec<_> = counts.iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let most = rows.first().map_or(1, |(_, count)| **count).max(1);
    html! {
        div class="card" {
            h2 { (title) }
            @if rows.is_empty() { p class="soft" { "None so far." } }
            table { @for (name, count) in rows {
                tr { td class="nowrap" { (name) } td class="wide" { (bar(*count as f64 / most as f64, "")) } td class="number" { (count) } }
            } }
            p class="soft" { (what) }
        }
    }
}

fn centres(status: &Status) -> Markup {
    html! {
        div class="card" {
            h2 { "Data centres" }
            @if status.data_centres.is_empty() { p class="soft" { "No session has asked for one yet." } }
            @else {
                table {
                    tr { th { "Number" } th class="number" { "sessions" } th class="number" { "reached" } th class="number" { "failed" } }
                    @for centre in &status.data_centres {
                        tr {
                            td { (centre.dc) } td class="number" { (centre.sessions) } td class="number" { (centre.reached) }
                            td class={ "number" @if centre.failed > 0 { " bad" } } { (centre.failed) }
                        }
                    }
                }
            }
        }
    }
}

fn routes(status: &Status) -> Markup {
    html! {
        div class="card" {
            h2 { "Routes" }
            table {
                tr { th { "Name" } th { "Kind" } th { "State" } th class="number" { "reached" } th class="number" { "failed" } }
                @for route in &status.routes {
                    tr {
                        td { (route.name) } td { (route.kind) }
                        td { @if route.up { span class="good" { "up" } } @else { span class="bad" { "down" } } }
                        td class="number" { (route.reached) } td class="number" { (route.failed) }
                    }
                }
            }
        }
    }
}

fn about(status: &Status, login: &Login) -> Markup {
    let replay = &status.replay;
    html! {
        div class="card" {
            h2 { "Proxy" }
            table {
                tr { th { "Version" } td { (status.version) } }
                tr { th { "Listens on" } td { (status.listen.join(", ")) } }
                tr { th { "Replay cache" } td {
                    (replay.entries) " "
                    @if replay.healthy { span class="good" { "kept on disk" } } @else { span class="bad" { (replay.unsaved) " not yet on disk" } }
                } }
                @for (by, count) in &status.session_ends { tr { th { "Sessions ended: " (by) } td { (count) } } }
            }
            @if login.caller.role >= Role::Admin { p { (button("/reload", login, "Reload the configuration", "")) } }
        }
    }
}

/// All users.
pub fn users(desk: &Shared, login: &Login) -> Markup {
    let seen = desk.control.look();
    let users: Vec<User> = seen.users.iter().map(User::from).collect();
    let body = html! {
        h1 { "Users" }
        div class="card scroll" {
            table {
                tr {
                    th { "Name" } th { "State" } th class="number" { "Sessions" } th class="number" { "Up" }
                    th class="number" { "Down" } th { "Quota" } th { "Until" }
                }
                @for user in &users {
                    tr {
                        td { a href={ "/users/" (encoded(&user.name)) } { (user.name) }
                            @if let Some(middle) = &user.middle { tr { th { "Middle proxies" } td { (middle) } } }
                    @if let Some(note) = &user.note { br; span class="soft" { (note) } } }
                        td { (state(user)) }
                        td class="number" { (user.sessions) @if let Some(most) = user.max_sessions { " / " (most) } }
                        td class="number" { (bytes(user.bytes.up as f64)) }
                        td class="number" { (bytes(user.bytes.down as f64)) }
                        td class="wide" { (quota(user)) }
                        td class="nowrap" { (user.expires.as_deref().map(short).unwrap_or_default()) }
                    }
                }
            }
        }
        @if login.caller.role >= Role::Operator { (new_user(login)) }
    };
    page("Users", "/users", login, false, body)
}

fn new_user(login: &Login) -> Markup {
    html! {
        div class="card" {
            h2 { "New user" }
            form method="post" action="/users" {
                input type="hidden" name="csrf" value=(login.csrf);
                div class="fields" {
                    label { "Name" input name="name" required maxlength="64" autocomplete="off"; }
                    label { "Until, as in 2030-01-31" input name="expires" maxlength="40" autocomplete="off"; }
                    label { "Quota, as in 50GB/month" input name="quota" maxlength="40" autocomplete="off"; }
                    label { "Note" input name="note" maxlength="200" autocomplete="off"; }
                    div { button class="first" { "Add" } }
                }
            }
        }
    }
}

fn state(user: &User) -> Markup {
    html! {
        @match &user.reason {
            None => span class="badge good" { "active" },
            Some(reason) => span class="badge bad" { (reason) },
        }
    }
}

fn quota(user: &User) -> Markup {
    let Some(quota) = &user.quota else { return html! { span class="soft" { "none" } } };
    let part = if quota.bytes == 0 { 1.0 } else { quota.used as f64 / quota.bytes as f64 };
    let class = if part >= 1.0 {
        "bad"
    } else if part >= 0.8 {
        "warn"
    } else {
        ""
    };
    html! {
        (bar(part, class))
        span class="soft" { (bytes(quota.used as f64)) " of " (bytes(quota.bytes as f64)) " · " (quota.period)
            @if let Some(resets) = &quota.resets { " · resets " (short(resets)) } }
    }
}

/// One user.
pub fn user(desk: &Shared, login: &Login, user: &User, links: Option<&Result<Links, Trouble>>) -> Markup {
    let sessions = desk.control.sessions().list();
    let own: Vec<Session> =
        sessions.iter().filter(|live| live.member.name() == user.name).map(|live| Session::from(&**live)).collect();
    let body = html! {
        h1 { (user.name) " " (state(user)) }
        div class="columns" {
            div class="card" {
                h2 { "Usage" }
                table {
                    tr { th { "Sessions" } td { (user.sessions) @if let Some(most) = user.max_sessions { " of " (most) } } }
                    tr { th { "Networks" } td { (user.addresses) @if let Some(most) = user.max_addresses { " of " (most) } } }
                    tr { th { "Up" } td { (bytes(user.bytes.up as f64)) } }
                    tr { th { "Down" } td { (bytes(user.bytes.down as f64)) } }
                    tr { th { "Quota" } td { (quota(user)) } }
                    tr { th { "Until" } td { (user.expires.as_deref().map(short).unwrap_or_else(|| "no end".into())) } }
                    @if let Some(domain) = &user.domain { tr { th { "Name of the site" } td { (domain) } } }
                    @if let Some(tag) = &user.ad_tag { tr { th { "Promoted channel" } td { (tag) } } }
                    @if let Some(note) = &user.note { tr { th { "Note" } td { (note) } } }
                }
                @if login.caller.role >= Role::Operator { (actions(user, login)) }
            }
            @match links {
                None => {},
                Some(Err(trouble)) => div class="card" { h2 { "Link" } p class="bad" { (trouble.error) } p { (trouble.next) } },
                Some(Ok(links)) => (invitation(links)),
            }
        }
        (session_table("Sessions", &own, login))
    };
    page(&user.name, "/users", login, false, body)
}

fn actions(user: &User, login: &Login) -> Markup {
    let to = |action: &str| format!("/users/{}/{action}", encoded(&user.name));
    html! {
        div class="buttons" {
            @if user.reason.as_deref() == Some("disabled") { (button(&to("enable"), login, "Enable", "first")) }
            @else { (button(&to("disable"), login, "Disable", "")) }
            (button(&to("close"), login, "End sessions", ""))
            (button(&to("rotate"), login, "New secret", ""))
            (button(&to("remove"), login, "Remove", "danger"))
        }
    }
}

fn invitation(links: &Links) -> Markup {
    html! {
        div class="card" {
            h2 { "Link" }
            p class="soft" { "This is the key. Give it to one person only." }
            code class="link" { (links.tg) }
            code class="link" { (links.web) }
            @if let Some(code) = qr_svg(&links.tg) { div class="qr" { (PreEscaped(code)) } }
        }
        @if let Some(web) = &links.webproxy {
            div class="card" {
                h2 { "WEB proxy" }
                p class="soft" { "The same key for apps since Desktop 7.1, Android 12.10 and iOS 13, which come by a browser." }
                @for link in web.of_form(false) { code class="link" { (link) } }
                @if let Some(code) = qr_svg(&web.root) { div class="qr" { (PreEscaped(code)) } }
            }
        }
        @if let Some(reason) = &links.no_webproxy {
            div class="card" { h2 { "WEB proxy" } p class="soft" { (reason) } }
        }
    }
}

/// All sessions.
pub fn sessions(desk: &Shared, login: &Login) -> Markup {
    let all: Vec<Session> = desk.control.sessions().list().iter().map(|live| Session::from(&**live)).collect();
    page("Sessions", "/sessions", login, true, session_table("Sessions", &all, login))
}

fn session_table(title: &str, sessions: &[Session], login: &Login) -> Markup {
    let may_close = login.caller.role >= Role::Operator;
    html! {
        h1 { (title) " " span class="soft" { (sessions.len()) } }
        div class="card scroll" {
            @if sessions.is_empty() { p class="soft" { "None now." } }
            @else {
                table {
                    tr {
                        th { "Number" } th { "User" } th { "Since" } th { "Data centre" } th { "Hello" }
                        th class="number" { "Up" } th class="number" { "Down" } th {}
                    }
                    @for session in sessions.iter().rev().take(MOST_ROWS) {
                        tr {
                            td { (session.id) }
                            td { a href={ "/users/" (encoded(&session.user)) } { (session.user) } }
                            td class="nowrap" { (short(&session.since)) }
                            td { (session.dc) } td { (session.hello) }
                            td class="number" { (bytes(session.bytes.up as f64)) }
                            td class="number" { (bytes(session.bytes.down as f64)) }
                            td class="number" { @if may_close { (button(&format!("/sessions/{}/close", session.id), login, "End", "")) } }
                        }
                    }
                }
                @if sessions.len() > MOST_ROWS { p class="soft" { "The latest " (MOST_ROWS) " of " (sessions.len()) "." } }
            }
        }
    }
}

/// The latest events.
pub fn events(desk: &Shared, login: &Login) -> Markup {
    let entries = desk.events.list(0, MOST_ROWS);
    let body = html! {
        h1 { "Events" }
        div class="card scroll" {
            @if entries.is_empty() { p class="soft" { "None so far. Visitors are counted, not listed." } }
            @else {
                table {
                    tr { th { "Time" } th { "What" } th { "Who" } th { "Detail" } }
                    @for entry in entries.iter().rev() {
                        tr {
                            td class="nowrap" { (short(&entry.time)) } td { (entry.kind) }
                            td { (entry.user.as_deref().unwrap_or_default()) } td { (entry.detail) }
                        }
                    }
                }
            }
        }
    };
    page("Events", "/events", login, true, body)
}
