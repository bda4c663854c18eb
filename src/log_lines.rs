//! The log lines of the process: which, in which form, to standard error.

use std::{fmt::Write as _, io::IsTerminal, sync::Arc};

use tapeflow_console::terminal::Warnings;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{Targets, filter_fn},
    fmt::{self, MakeWriter},
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::args::commands::{LogFormat, Output};

/// Our own log lines. Drivers log each connection that they make or lose; the errors that matter
/// are part of our lines.
const DEFAULT: &str = "off,tapeflow=info";
/// `run` paints the screen of a terminal, which log lines would disturb. Its view shows what is
/// wrong, and the last warning ([`Shown`]).
const PAINTING: &str = "off,tapeflow=error";
/// Libraries whose lines hold whole messages of the feed. A server may repeat the token in one, so
/// no level shows them.
const SILENT: [&str; 2] = ["tungstenite", "tokio_tungstenite"];

/// Starts the log. It goes to standard error, so that the output can be piped. Returns where the
/// warnings go that `run` shows on a terminal; other commands leave it empty.
pub(crate) fn start(output: &Output, paints: bool) -> Arc<Warnings> {
    let paints = paints && std::io::stdout().is_terminal();
    let default = if paints { PAINTING } else { DEFAULT };
    let wanted = output.log_level.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let warnings = Arc::default();
    let shown = paints.then(|| Shown(Arc::clone(&warnings)));
    subscriber(filter, output.log_format, colours, std::io::stderr, shown).init();
    warnings
}

fn subscriber<W>(
    filter: EnvFilter,
    format: LogFormat,
    colours: bool,
    writer: W,
    shown: Option<Shown>,
) -> impl Subscriber + Send + Sync + 'static
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let silent = Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_targets(SILENT.map(|name| (name, LevelFilter::OFF)));
    let is_shown = filter_fn(move |line| silent.would_enable(line.target(), line.level()));
    let ours = Targets::new().with_target("tapeflow", LevelFilter::WARN);
    // Each has a filter of its own: a warning that is not among the lines must reach the view.
    tracing_subscriber::registry()
        .with(lines.with_filter(filter).with_filter(is_shown))
        .with(shown.map(|shown| shown.with_filter(ours)))
}

/// Passes our warnings to the view of `run`. Errors are not among them: they are log lines on a
/// terminal too.
struct Shown(Arc<Warnings>);

impl<S: Subscriber> Layer<S> for Shown {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::WARN {
            let mut text = Text::default();
            event.record(&mut text);
            self.0.add(&text.all());
        }
    }
}

/// The message of an event, and its fields as in a log line.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn all(self) -> String {
        self.message + &self.fields
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing into a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_level_shows_messages_of_the_feed() {
        for format in [LogFormat::Text, LogFormat::Json] {
            for level in [
                "trace",
                "tungstenite=trace,tungstenite::protocol=trace,info",
            ] {
                let captured = Captured::default();
                let writer = captured.clone();
                let filter = EnvFilter::new(level);
                let log = subscriber(filter, format, false, move || writer.clone(), None);
                tracing::subscriber::with_default(log, || {
                    tracing::trace!(target: "tungstenite::protocol", "received message sesame");
                    tracing::error!(target: "tokio_tungstenite", "sesame");
                    tracing::info!(target: "tapeflow_ingest::finnhub", "feed connected");
                });
                let text = String::from_utf8(captured.0.lock().expect("no panic").clone());
                let text = text.expect("UTF-8");
                assert!(text.contains("feed connected"), "{level}: {text}");
                assert!(!text.contains("sesame"), "{level}: {text}");
            }
        }
    }

    #[test]
    fn a_warning_that_is_no_line_on_a_terminal_is_shown_by_the_view() {
        let (captured, warnings) = (Captured::default(), Arc::new(Warnings::default()));
        let (writer, shown) = (captured.clone(), Shown(Arc::clone(&warnings)));
        let filter = EnvFilter::new(PAINTING);
        let writer = move || writer.clone();
        let log = subscriber(filter, LogFormat::Text, false, writer, Some(shown));
        tracing::subscriber::with_default(log, || {
            tracing::warn!(target: "rdkafka", "a driver's warning");
            tracing::info!(target: "tapeflow_dataflow", "no warning");
            assert_eq!(warnings.line(), None);
            tracing::warn!(target: "tapeflow::retention", error = "disk full", "cannot trim");
            tracing::error!(target: "tapeflow_dataflow", "the job failed");
        });
        let line = warnings.line().expect("a warning");
        assert!(line.ends_with("cannot trim error=\"disk full\""), "{line}");
        let text = String::from_utf8(captured.0.lock().expect("no panic").clone());
        let text = text.expect("UTF-8");
        assert!(
            text.contains("the job failed") && !text.contains("trim"),
            "{text}"
        );
    }
}
