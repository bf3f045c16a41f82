//! The log: where it goes, what it looks like, how much of it there is.
//!
//! Events go to the standard error stream; the standard output belongs to the commands.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Registry, fmt, reload};

/// Settings of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `None`: text on a terminal, JSON otherwise.
    pub format: Option<Format>,
    /// Least severe level that is written.
    pub level: Level,
    /// Whether clients' addresses may appear in the log. Off by default.
    pub client_addresses: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: None, level: Level::INFO, client_addresses: false }
    }
}

impl Settings {
    /// The format to use when the log goes to a terminal or does not.
    pub fn format_on(&self, terminal: bool) -> Format {
        self.format.unwrap_or(if terminal { Format::Text } else { Format::Json })
    }
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line, the fields of the event on its top level.
    Json,
}

/// Starts logging to the standard error stream for the whole process and says in which format; an error means that
/// someone did so before.
pub fn start(settings: &Settings) -> Result<Format, TryInitError> {
    let terminal = std::io::stderr().is_terminal();
    let format = settings.format_on(terminal);
    let layer = layer(format, terminal, std::io::stderr);
    let (filter, handle) = reload::Layer::new(filter(settings.level));
    Registry::default().with(layer.with_filter(filter)).try_init()?;
    // There is one log in a process, and anyone who is second has failed above.
    let _ = FILTER.set(handle);
    Ok(format)
}

/// Filter of the events that the process's log writes, once it was started.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// From now on the log goes down to `level`. Does nothing to a log that [`start`] did not start.
pub fn set_level(level: Level) {
    if let Some(handle) = FILTER.get() {
        let _ = handle.reload(filter(level));
    }
}

/// Our own events down to `level`; what libraries say only from warnings on, because they know nothing of the rule
/// that clients' addresses stay out of the log.
fn filter(level: Level) -> Targets {
    let level = LevelFilter::from_level(level);
    let ours = [env!("CARGO_PKG_NAME"), super::admin::desk::AUDIT].map(|target| (target, level));
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(ours)
}

fn layer<W>(format: Format, colours: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(colours);
    match format {
        Format::Text => layer.with_target(false).boxed(),
        Format::Json => layer.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: Format, level: Level, act: impl FnOnce()) -> String {
        let buffer = Written::default();
        let writer = buffer.clone();
        let layer = layer(format, false, move || writer.clone()).with_filter(filter(level));
        tracing::subscriber::with_default(Registry::default().with(layer), act);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_flat_object_a_line() {
        let text = written(Format::Json, Level::INFO, || {
            let _span = tracing::info_span!("connection", id = 7).entered();
            tracing::info!(reason = "digest", "declined");
            tracing::info!("second");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "declined");
        assert_eq!(lines[0]["reason"], "digest");
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["span"]["id"], 7);
    }

    #[test]
    fn the_level_holds_for_us_and_libraries_only_warn() {
        let text = written(Format::Text, Level::DEBUG, || {
            tracing::debug!("ours");
            tracing::trace!("too fine");
            tracing::info!(target: "library", "chatter");
            tracing::warn!(target: "library", "trouble");
        });
        assert!(text.contains("ours") && text.contains("trouble"), "{text}");
        assert!(!text.contains("too fine") && !text.contains("chatter"), "{text}");
    }

    #[test]
    fn quiet_levels_hold_for_libraries_too() {
        let text = written(Format::Text, Level::ERROR, || tracing::warn!(target: "library", "trouble"));
        assert_eq!(text, "");
    }

    #[test]
    fn the_stream_decides_the_format_unless_it_is_given() {
        let given = Settings { format: Some(Format::Text), ..Settings::default() };
        assert_eq!(given.format_on(false), Format::Text);
        assert_eq!(Settings::default().format_on(true), Format::Text);
        assert_eq!(Settings::default().format_on(false), Format::Json);
    }
}
