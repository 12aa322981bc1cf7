//! The log of a server: its level and its format.

use std::fmt::{self, Debug};
use std::io;

use super::output::note;
use clap::ValueEnum;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The options of the log.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct LogArgs {
    /// Level of the log on stderr: off, error, warn, info, debug or trace
    #[arg(long = "log", value_name = "LEVEL", default_value = "warn")]
    level: LevelFilter,

    /// Format of the log: text, or json with one object per line
    #[arg(
        long = "log-format",
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogArgs {
    /// Starts the log of this process.
    pub(super) fn start(&self) {
        // A line that stderr does not take is lost: reporting that would panic.
        let log = tracing_subscriber::fmt().log_internal_errors(false);
        let log = log.with_max_level(self.level).with_writer(io::stderr);
        match self.format {
            LogFormat::Text => log.with_target(false).init(),
            LogFormat::Json => log.event_format(JsonFormat).init(),
        }
    }

    /// Prints a message on stderr at every level, in the format of the log.
    pub(super) fn print(&self, message: &str) {
        match self.format {
            LogFormat::Text => note!("{message}"),
            LogFormat::Json => note!("{}", line("INFO", [("message", message.into())])),
        }
    }
}

/// Formats an event as a JSON object: its time, its level, its message and its other fields.
struct JsonFormat;

impl<S, N> FormatEvent<S, N> for JsonFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Vec::new());
        event.record(&mut fields);
        writeln!(writer, "{}", line(event.metadata().level().as_str(), fields.0))
    }
}

/// Returns an object of the log.
fn line(level: &str, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time)).expect("a String takes every text");
    let head = [("time", Value::from(time)), ("level", level.to_lowercase().into())];
    let fields = head.into_iter().chain(fields).map(|(name, value)| (name.to_owned(), value));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// Collects the fields of an event.
struct Fields(Vec<(&'static str, Value)>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.into()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        // A number or a boolean is one in JSON, too.
        let value = serde_json::from_str(&text).ok().filter(|_| field.name() != "message");
        self.0.push((field.name(), value.unwrap_or(text.into())));
    }
}
