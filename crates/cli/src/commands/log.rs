//! The log of a server: its level and its format.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::Context;
use clap::ValueEnum;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{self, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

use super::repeats::LineKind;
use super::stderr::{self, Wording, note};
use proactor::printable::escape;
use proactor_report::units;

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
        registry().with(self.level).with(LogLayer(self.format)).init();
    }

    /// From now on no line of the log waits for standard error; see [`stderr::never_wait`].
    ///
    /// # Errors
    /// Standard error cannot have a writer of its own.
    pub(super) fn never_wait(&self, forks: bool) -> anyhow::Result<()> {
        let wording = match self.format {
            LogFormat::Text => Wording {
                dropped: |count| text_line(Level::WARN, &dropped(count)),
                repeated: |line, count| format!("{} repeated={count}\n", line.trim_end()),
            },
            LogFormat::Json => Wording {
                dropped: |count| json_line("WARN", vec![("message", dropped(count).into())]),
                repeated: |line, count| {
                    let object = line.strip_suffix("}\n").unwrap_or(line);
                    format!("{object},\"repeated\":{count}}}\n")
                },
            },
        };
        stderr::never_wait(forks, wording).context("cannot start the writer of the log")
    }

    /// Prints a message on stderr at every level, in the format of the log.
    pub(super) fn print(&self, message: &str) {
        match self.format {
            LogFormat::Text => note!("{message}"),
            LogFormat::Json => {
                stderr::write(&json_line("INFO", vec![("message", message.into())]));
            }
        }
    }
}

fn dropped(count: u64) -> String {
    format!("{} of the log could not be written", units::plural(count, "line"))
}

/// Prints each event as a line of text, or as a JSON object: its time, its level, its message and
/// its other fields. Warnings and errors that repeat are limited.
struct LogLayer(LogFormat);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let (mut fields, level) = (Fields(Vec::new()), *event.metadata().level());
        event.record(&mut fields);
        let message = fields.0.iter().find(|(name, _)| *name == "message");
        let message = message.map(|(_, message)| message.to_string());
        let line = match self.0 {
            LogFormat::Text => text_line(level, &text_of(event)),
            LogFormat::Json => json_line(level.as_str(), fields.0),
        };
        if level > Level::WARN {
            return stderr::write(&line);
        }
        // The metadata is a static of the call.
        let site = std::ptr::from_ref(event.metadata()).addr() as u64;
        stderr::write_line(LineKind::new(site, &message), &line);
    }
}

/// A String takes every text.
const TAKES_ALL: &str = "a String takes every text";

fn now() -> String {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time)).expect(TAKES_ALL);
    time
}

fn text_of(event: &Event<'_>) -> String {
    let mut text = String::new();
    DefaultFields::new().format_fields(Writer::new(&mut text), event).expect(TAKES_ALL);
    text
}

fn text_line(level: Level, text: &str) -> String {
    format!("{} {level:>5} {}\n", now(), escape(text).replace('\n', "\\n"))
}

fn json_line(level: &str, fields: Vec<(&'static str, Value)>) -> String {
    let head = [("time", Value::from(now())), ("level", level.to_lowercase().into())];
    let line: BTreeMap<&str, Value> = head.into_iter().chain(fields).collect();
    let line = serde_json::to_string(&line).expect("text, numbers and booleans");
    format!("{}\n", escape(&line))
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
