//! `vizard top`: what the running proxy is doing, drawn again every other second.

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};

use super::{Failure, remote};
use crate::config::Environment;
use crate::ops::admin::client::{Client, ClientError};
use crate::ops::admin::page::{bytes, length, rate};
use crate::ops::admin::views::{Status, User};

/// Flags of `vizard top`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    remote: remote::Access,
}

/// Interval at which the proxy is asked, and longest time until a key is noticed.
const EVERY: Duration = Duration::from_secs(2);
const KEYS: Duration = Duration::from_millis(200);

/// Values of the small graphs.
const HISTORY: usize = 120;

type Answer = Result<(Status, Vec<User>), ClientError>;

/// Shows the proxy until `q` is pressed.
pub fn top(arguments: &Arguments, environment: &Environment) -> Result<(), Failure> {
    let client = arguments.remote.client(environment)?;
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("this is no terminal", "use `vizard status` or `vizard status --json`"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}"), "try again"))?;
    let mut view = View::new(client.place());
    // What is wrong from the beginning is said where it stays.
    view.take(runtime.block_on(ask(&client)), Instant::now())?;
    let (tell, answers) = channel();
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            if tell.send(ask(&client).await).is_err() {
                return;
            }
        }
    });
    let mut terminal = ratatui::try_init()
        .map_err(|error| Failure::new(format!("the terminal cannot be used: {error}"), "use `vizard status`"))?;
    let outcome = watch(&mut terminal, &mut view, &answers);
    ratatui::restore();
    runtime.shutdown_background();
    outcome.map_err(|error| Failure::new(format!("the terminal cannot be used: {error}"), "use `vizard status`"))
}

async fn ask(client: &Client) -> Answer {
    Ok((client.get("/api/v1/status").await?, client.get("/api/v1/users").await?))
}

fn watch(terminal: &mut ratatui::DefaultTerminal, view: &mut View, answers: &Receiver<Answer>) -> std::io::Result<()> {
    loop {
        terminal.draw(|frame| draw(frame, view))?;
        let until = Instant::now() + EVERY;
        while Instant::now() < until {
            if event::poll(KEYS)? {
                match event::read()? {
                    Event::Key(key) if ends(key.code, key.modifiers) => return Ok(()),
                    Event::Resize(..) => break,
                    _ => {}
                }
            }
            if let Ok(answer) = answers.try_recv() {
                // Later failures are shown in the view.
                let _ = view.take(answer, Instant::now());
                break;
            }
        }
    }
}

fn ends(key: KeyCode, modifiers: KeyModifiers) -> bool {
    let interrupted = key == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
    interrupted || matches!(key, KeyCode::Char('q') | KeyCode::Esc)
}

/// State of the display.
struct View {
    place: String,
    latest: Option<(Status, Vec<User>, Instant)>,
    failure: Option<String>,
    /// Bytes in a second: down and up.
    rates: Vec<(u64, u64)>,
}

impl View {
    fn new(place: String) -> Self {
        Self { place, latest: None, failure: None, rates: Vec::new() }
    }

    fn take(&mut self, answer: Answer, now: Instant) -> Result<(), ClientError> {
        let (status, users) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.failure = Some(error.to_string());
                return Err(error);
            }
        };
        self.failure = None;
        if let Some((before, _, at)) = &self.latest {
            let seconds = now.duration_since(*at).as_secs_f64().max(0.001);
            let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
            self.rates.push((rate(status.bytes.down, before.bytes.down), rate(status.bytes.up, before.bytes.up)));
            let surplus = self.rates.len().saturating_sub(HISTORY);
            self.rates.drain(..surplus);
        }
        self.latest = Some((status, users, now));
        Ok(())
    }
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let Some((status, users, _)) = &view.latest else { return };
    let rows = [
        Constraint::Length(4),
        Constraint::Length(5),
        Constraint::Length(9),
        Constraint::Min(4),
        Constraint::Length(1),
    ];
    let [head, graphs, middle, people, foot] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(Paragraph::new(summary(status)).block(Block::bordered().title(" vizard ".bold())), head);
    draw_rates(frame, graphs, &view.rates);
    let thirds = [Constraint::Percentage(34), Constraint::Percentage(33), Constraint::Percentage(33)];
    let [declines, centres, cover] = Layout::horizontal(thirds).areas(middle);
    draw_declines(frame, declines, status);
    draw_centres(frame, centres, status);
    draw_cover(frame, cover, status);
    draw_users(frame, people, users);
    let foot_line = match &view.failure {
        Some(failure) => Line::from(failure.as_str().red()),
        None => Line::from(vec![" q ".bold(), "ends".dim(), format!("   {}", view.place).dim()]),
    };
    frame.render_widget(foot_line, foot);
}

fn summary(status: &Status) -> Vec<Line<'_>> {
    let connections = &status.connections;
    let figure = |value: String, what: &'static str| [value.bold(), Span::raw(what)];
    let first = [
        figure(connections.sessions.to_string(), " sessions   "),
        figure(connections.visitors.to_string(), " visitors   "),
        figure(connections.admitted.to_string(), " admitted   "),
        figure(connections.declined.to_string(), " declined   "),
        figure(bytes(status.bytes.down as f64), " down   "),
        figure(bytes(status.bytes.up as f64), " up"),
    ];
    let ending = if status.draining { "   ENDING" } else { "" };
    let second = format!(
        "version {}   up {}   on {}{ending}",
        status.version,
        length(status.uptime_seconds),
        status.listen.join(", ")
    );
    vec![Line::from(first.into_iter().flatten().collect::<Vec<_>>()), Line::from(second.dim())]
}

fn draw_rates(frame: &mut Frame<'_>, area: Rect, rates: &[(u64, u64)]) {
    let halves = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]);
    let [left, right] = halves.areas(area);
    let down: Vec<u64> = rates.iter().map(|(down, _)| *down).collect();
    let up: Vec<u64> = rates.iter().map(|(_, up)| *up).collect();
    for (area, name, values, colour) in [(left, "down", down, Color::Blue), (right, "up", up, Color::Cyan)] {
        let latest = values.last().copied().unwrap_or_default();
        let title = format!(" {name} {} ", rate(latest as f64));
        let room = usize::from(area.width.saturating_sub(2));
        let shown = &values[values.len().saturating_sub(room)..];
        let graph = Sparkline::default().data(shown).style(Style::new().fg(colour));
        frame.render_widget(graph.block(Block::bordered().title(title)), area);
    }
}

fn draw_declines(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let mut reasons: Vec<_> = status.declines.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let rows = reasons.into_iter().map(|(reason, count)| Row::new([count.to_string(), reason.clone()]));
    let table = Table::new(rows, [Constraint::Length(9), Constraint::Min(10)]);
    frame.render_widget(table.block(Block::bordered().title(" declined, by reason ")), area);
}

fn draw_centres(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let rows = status.data_centres.iter().map(|centre| {
        let failed = Span::from(centre.failed.to_string());
        let failed = if centre.failed > 0 { failed.red() } else { failed };
        Row::new([
            Line::from(centre.dc.clone()),
            Line::from(centre.sessions.to_string()),
            Line::from(centre.reached.to_string()),
            Line::from(failed),
        ])
    });
    let table =
        Table::new(rows, [Constraint::Length(8), Constraint::Length(8), Constraint::Length(8), Constraint::Min(6)])
            .header(Row::new(["dc", "sessions", "reached", "failed"]).dim());
    frame.render_widget(table.block(Block::bordered().title(" data centres ")), area);
}

fn draw_cover(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let cover = &status.cover;
    let up = if cover.up { "up".green() } else { "away".red() };
    let grade = match cover.grade.as_deref() {
        Some("A") => "grade A".green(),
        Some(grade) => Span::from(format!("grade {grade}")).yellow(),
        None => "not visited yet".dim(),
    };
    let mut lines = vec![
        Line::from(vec![Span::raw(cover.name.clone()), " ".into(), up]),
        Line::from(vec![grade, format!(", changed {} times, away {} times", cover.changes, cover.away).into()]),
    ];
    lines.extend(cover.flaws.iter().map(|flaw| Line::from(format!("- {flaw}"))));
    if let Some(ends) = &cover.certificate_ends {
        lines.push(Line::from(format!("certificate until {}", ends.get(..10).unwrap_or(ends))));
    }
    if !status.replay.healthy {
        lines.push(Line::from("the replay cache is not kept on disk".red()));
    }
    lines.extend(status.alarms.iter().map(|alarm| Line::from(format!("! {}: {}", alarm.name, alarm.text).yellow())));
    let block = Block::bordered().title(format!(" cover: {} ", cover.kind));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_users(frame: &mut Frame<'_>, area: Rect, users: &[User]) {
    let mut users: Vec<&User> = users.iter().collect();
    users.sort_by_key(|user| std::cmp::Reverse((user.sessions, user.bytes.down)));
    let rows = users.into_iter().map(|user| {
        let quota = user
            .quota
            .as_ref()
            .map_or_else(String::new, |quota| format!("{} of {}", bytes(quota.used as f64), bytes(quota.bytes as f64)));
        let state = match &user.reason {
            None => Line::from("active".green()),
            Some(reason) => Line::from(reason.clone().red()),
        };
        Row::new([
            Line::from(user.name.clone()),
            state,
            Line::from(user.sessions.to_string()),
            Line::from(user.addresses.to_string()),
            Line::from(bytes(user.bytes.down as f64)),
            Line::from(bytes(user.bytes.up as f64)),
            Line::from(quota),
        ])
    });
    let widths = [
        Constraint::Min(12),
        Constraint::Length(14),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(20),
    ];
    let header = Row::new(["user", "state", "sessions", "networks", "down", "up", "quota"]).dim();
    let table = Table::new(rows, widths).header(header);
    frame.render_widget(table.block(Block::bordered().title(" users ")), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::ops::admin::views::{Bytes, DataCentre};

    fn answer(down: u64) -> (Status, Vec<User>) {
        let status = serde_json::json!({
            "version": "0.1.0", "started": "2026-01-01T00:00:00Z", "uptime_seconds": 300, "listen": ["[::]:443"],
            "draining": false, "bytes": {"up": 1000, "down": down},
            "connections": {"accepted": 9, "admitted": 2, "declined": 7, "visitors": 3, "sessions": 2},
            "declines": {"digest": 7, "refused: quota": 1}, "hellos": {}, "session_ends": {}, "users": 1, "alarms": [],
            "data_centres": [], "routes": [],
            "cover": {"kind": "remote", "name": "example.com", "grade": "B", "flaws": ["a flaw"], "up": false, "away": 4,
                      "changes": 0, "visited": null, "certificate_ends": null},
            "replay": {"entries": 2, "unsaved": 0, "dropped": 0, "healthy": true}
        });
        let mut status: Status = serde_json::from_value(status).unwrap();
        status.data_centres.push(DataCentre { dc: "-2".into(), reached: 5, failed: 1, sessions: 2 });
        let user = User {
            name: "alice".into(),
            enabled: true,
            reason: None,
            expires: None,
            note: None,
            sessions: 2,
            addresses: 1,
            max_sessions: None,
            max_addresses: None,
            ad_tag: None,
            middle: None,
            domain: None,
            bytes: Bytes { up: 1000, down },
            quota: None,
        };
        (status, vec![user])
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_is_on_the_screen() {
        let mut view = View::new("unix:/run/vizard/admin".into());
        let start = Instant::now();
        view.take(Ok(answer(0)), start).unwrap();
        view.take(Ok(answer(4_000_000)), start + Duration::from_secs(2)).unwrap();
        assert_eq!(view.rates, [(2_000_000, 0)]);
        let screen = drawn(&view, 110, 36);
        for part in [
            "2 sessions",
            "down 2.0 MB/s",
            "refused: quota",
            "-2",
            "example.com away",
            "grade B",
            "a flaw",
            "alice",
            "active",
            "q ends",
        ] {
            assert!(screen.contains(part), "{part} is missing in\n{screen}");
        }
        let refused = ClientError::Unreachable("gone".into());
        view.take(Err(refused), start).unwrap_err();
        assert!(drawn(&view, 110, 36).contains("gone"));
        for (width, height) in [(1, 1), (20, 5), (400, 3)] {
            drawn(&view, width, height);
        }
    }

    #[test]
    fn keys_that_end() {
        assert!(ends(KeyCode::Char('q'), KeyModifiers::NONE) && ends(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!ends(KeyCode::Char('c'), KeyModifiers::NONE) && !ends(KeyCode::Enter, KeyModifiers::NONE));
    }
}
