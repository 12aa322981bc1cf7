//! The log of a server: its level and its format.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Write};

use super::output::note;
use clap::ValueEnum;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

/// The options of the log.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct LogArgs {
    /// Level of the log on stderr: off, error, warn, info, debug or trace
    #[arg(long = "log", value_name = "LEVEL", default_value = "warn")]
    level: LevelFilter,

    /// Format of the log: text, or json with one object per line
    #[arg(long = "log-format", value_name = "FORMAT", default_value = "text")]
    #[arg(hide_possible_values = true)]
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
        let text = tracing_subscriber::fmt().log_internal_errors(false).with_target(false);
        match self.format {
            LogFormat::Text => text.with_max_level(self.level).with_writer(io::stderr).init(),
            LogFormat::Json => registry().with(self.level).with(JsonLog).init(),
        }
    }

    /// Prints a message on stderr at every level, in the format of the log.
    pub(super) fn print(&self, message: &str) {
        match self.format {
            LogFormat::Text => note!("{message}"),
            LogFormat::Json => print_line("INFO", vec![("message", message.into())]),
        }
    }
}

/// Prints an event as a JSON object: its time, its level, its message and its other fields.
struct JsonLog;

impl<S: Subscriber> Layer<S> for JsonLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(Vec::new());
        event.record(&mut fields);
        print_line(event.metadata().level().as_str(), fields.0);
    }
}

/// Prints an object of the log, in one write.
fn print_line(level: &str, fields: Vec<(&'static str, Value)>) {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time)).expect("a String takes every text");
    let head = [("time", Value::from(time)), ("level", level.to_lowercase().into())];
    let line: BTreeMap<&str, Value> = head.into_iter().chain(fields).collect();
    let line = serde_json::to_string(&line).expect("text, numbers and booleans");
    // A failure is ignored: it cannot be reported either.
    let _ = io::stderr().write_all((line + "\n").as_bytes());
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
