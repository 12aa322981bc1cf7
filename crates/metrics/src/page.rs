//! The three pages: the metrics as text, in the format of Prometheus or as OpenMetrics, and the two
//! of one line.

use std::fmt::{Display, Write};
use std::time::{Duration, UNIX_EPOCH};

use crate::ServerFacts;
use crate::http::{Answer, Page, PageRequest};
use proactor::lifecycle::Stage;
use proactor::os;
use proactor::status::Status;

/// What the counters are called, and what each means.
const METRICS: &str = include_str!("metrics.txt");

/// Returns the answer to a request.
pub(crate) fn answer(
    about: &ServerFacts,
    stage: Stage,
    status: &dyn Fn() -> Status,
    request: PageRequest,
) -> Answer {
    match request.page {
        Page::Health => Answer::line("200 OK", "healthy"),
        Page::Ready if stage == Stage::Serving => Answer::line("200 OK", "ready"),
        Page::Ready => Answer::line("503 Service Unavailable", "draining"),
        Page::Metrics { open_metrics } => {
            let mut text = Text { text: String::new(), open_metrics };
            text.write_all(about, &status());
            let content_type = match open_metrics {
                true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
                false => "text/plain; version=0.0.4; charset=utf-8",
            };
            Answer { status: "200 OK", content_type, body: text.text }
        }
    }
}

/// Returns the names of all samples that a server may show, in the text format.
pub fn names() -> Vec<String> {
    let features = vec!["RECV_MULTISHOT"];
    let about = ServerFacts {
        version: String::new(),
        model: String::new(),
        features,
        started: UNIX_EPOCH,
        log_lines_dropped: || 0,
    };
    let mut text = Text { text: String::new(), open_metrics: false };
    text.write_all(&about, &example());
    let samples = text.text.lines().filter(|line| !line.starts_with('#'));
    let mut names: Vec<String> =
        samples.map(|line| line.split(['{', ' ']).next().unwrap_or_default().to_owned()).collect();
    names.dedup();
    names
}

/// A server that has done nothing.
fn example() -> Status {
    Status {
        counters: Default::default(),
        open: 0,
        max_connections: 0,
        stage: Stage::Serving,
        memory: 0,
        max_memory: 0,
        buffers: vec![Default::default()],
    }
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    /// A gauge that is always 1: its labels say it.
    Info,
}

/// The text of the metrics.
struct Text {
    text: String,
    open_metrics: bool,
}

impl Text {
    fn write_all(&mut self, about: &ServerFacts, status: &Status) {
        self.write_counters(about, status);
        self.write_gauges(status);
        self.write_about(about);
        if self.open_metrics {
            self.text.push_str("# EOF\n");
        }
    }

    fn write_counters(&mut self, about: &ServerFacts, status: &Status) {
        let counters = status.counters.named();
        let value = |name: &str| counters.iter().find(|(it, _)| *it == name).map(|(_, n)| *n);
        let (mut metric, mut shown) = ("", false);
        for line in METRICS.lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.split('|').map(str::trim);
            let name = parts.next().unwrap_or_default();
            if line.starts_with(' ') {
                let labels = parts.next().unwrap_or_default();
                let value = value(name).expect("a counter of this name");
                if shown {
                    self.sample(metric, Kind::Counter, labels, value);
                }
                continue;
            }
            let needs_ring = parts.next() == Some("ring");
            (metric, shown) = (name, !needs_ring || !about.features.is_empty());
            if shown {
                self.metric(metric, Kind::Counter, parts.next().unwrap_or_default());
            }
        }
    }

    fn write_gauges(&mut self, status: &Status) {
        let gauges = [
            ("proactor_connections_open", "Connections that are open.", status.open),
            (
                "proactor_connections_limit",
                "The most connections at a time.",
                status.max_connections,
            ),
            (
                "proactor_draining",
                "1 from the begin of the drain, otherwise 0.",
                usize::from(status.stage != Stage::Serving),
            ),
            ("proactor_memory_charged_bytes", "What is queued, or waits as input.", status.memory),
            ("proactor_memory_limit_bytes", "The most that may be.", status.max_memory),
        ];
        for (name, help, value) in gauges {
            self.metric(name, Kind::Gauge, help);
            self.sample(name, Kind::Gauge, "", value);
        }
        if !status.buffers.is_empty() {
            let name = "proactor_buffers";
            self.metric(name, Kind::Gauge, "Buffers by their size, and by where they are.");
            for of_size in &status.buffers {
                let states =
                    [("idle", of_size.idle), ("lent", of_size.lent), ("leased", of_size.leased)];
                for (state, count) in states {
                    let labels = format!("bytes=\"{}\",state=\"{state}\"", of_size.bytes);
                    self.sample(name, Kind::Gauge, &labels, count);
                }
            }
        }
    }

    /// Writes what does not come from the loop.
    fn write_about(&mut self, about: &ServerFacts) {
        let dropped = (about.log_lines_dropped)();
        self.metric(
            "proactor_log_lines_dropped",
            Kind::Counter,
            "Lines of the log that were lost.",
        );
        self.sample("proactor_log_lines_dropped", Kind::Counter, "", dropped);
        let [user, system] = os::cpu_times();
        let name = "proactor_cpu_seconds";
        let help = "CPU time of the server, and of its children that have ended.";
        self.metric(name, Kind::Counter, help);
        self.sample(name, Kind::Counter, "mode=\"user\"", user.as_secs_f64());
        self.sample(name, Kind::Counter, "mode=\"system\"", system.as_secs_f64());
        let name = "process_cpu_seconds";
        self.metric(name, Kind::Counter, "The same, in user and in kernel mode together.");
        self.sample(name, Kind::Counter, "", (user + system).as_secs_f64());
        let started = about.started.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let name = "process_start_time_seconds";
        self.metric(name, Kind::Gauge, "When the server was started, since 1970.");
        self.sample(name, Kind::Gauge, "", started.as_secs_f64());
        self.infos("proactor_build", "The version.", "version", [&*about.version]);
        self.infos("proactor_model", "How the server waits.", "model", [&*about.model]);
        if !about.features.is_empty() {
            let help = "The features of io_uring in use.";
            self.infos("proactor_ring_feature", help, "feature", about.features.iter().copied());
        }
    }

    fn infos<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'v str>,
    ) {
        self.metric(name, Kind::Info, help);
        for value in values {
            self.sample(name, Kind::Info, &format!("{label}=\"{}\"", escape(value)), 1);
        }
    }

    /// Begins a metric, whose name is without the suffix of its kind.
    fn metric(&mut self, name: &str, kind: Kind, help: &str) {
        // A suffix belongs to the samples in OpenMetrics, to the metric in the older format.
        let suffix = if self.open_metrics { "" } else { suffix(kind) };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Info if self.open_metrics => "info",
            Kind::Info | Kind::Gauge => "gauge",
        };
        let name = format!("{name}{suffix}");
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string grows");
    }

    fn sample(&mut self, name: &str, kind: Kind, labels: &str, value: impl Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(self.text, "{name}{}{labels} {value}", suffix(kind)).expect("a string grows");
    }
}

/// Returns what the name of a sample of this kind ends with.
fn suffix(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge => "",
    }
}

/// Escapes the value of a label.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proactor::Counters;

    fn about(features: Vec<&'static str>) -> ServerFacts {
        let (version, model) = ("1.2.3".to_owned(), "a\"b\\".to_owned());
        ServerFacts { version, model, features, started: UNIX_EPOCH, log_lines_dropped: || 7 }
    }

    fn text(open_metrics: bool, status: &Status) -> String {
        let mut text = Text { text: String::new(), open_metrics };
        text.write_all(&about(vec!["OP_SHUTDOWN"]), status);
        text.text
    }

    /// A counter that is not shown is counted without a reader.
    #[test]
    fn every_counter_is_in_exactly_one_metric() {
        let rows = METRICS.lines().filter(|line| line.starts_with(' '));
        let named: Vec<&str> =
            rows.map(|row| row.split('|').next().unwrap_or_default().trim()).collect();
        let all = Counters::default().named().map(|(name, _)| name);
        // The sum of the connections that were closed, by reason.
        let expected: BTreeSet<&str> = all.into_iter().filter(|name| *name != "closed").collect();
        assert_eq!(BTreeSet::from_iter(named.iter().copied()), expected);
        assert_eq!(named.len(), expected.len(), "once");
    }

    #[test]
    fn each_sample_has_the_value_of_its_counter() {
        let mut status = example();
        let numbered = status.counters.named().into_iter().zip(1..);
        status.counters = Counters::from_named(numbered.map(|((name, _), n)| (name, n)));
        status.open = 1_000;
        let text = text(false, &status);
        let value = |name: &str| status.counters.named().iter().find(|it| it.0 == name).unwrap().1;
        for (sample, value) in [
            ("proactor_connections_accepted_total", value("accepted")),
            ("proactor_connections_closed_total{reason=\"evicted\"}", value("closed_evicted")),
            ("proactor_accept_errors_total{class=\"lost\"}", value("accepts_lost")),
            (
                "proactor_ring_multishot_ends_total{reason=\"no_buffer\"}",
                value("multishot_no_buffer"),
            ),
            ("proactor_connections_open", 1_000),
            ("proactor_log_lines_dropped_total", 7),
            ("proactor_model_info{model=\"a\\\"b\\\\\"}", 1),
        ] {
            assert!(text.contains(&format!("\n{sample} {value}\n")), "{sample} {value}: {text}");
        }
    }

    #[test]
    fn what_a_ring_counts_is_not_shown_of_another_model() {
        let mut without = Text { text: String::new(), open_metrics: false };
        without.write_all(&about(Vec::new()), &example());
        assert!(!without.text.contains("ring"), "{}", without.text);
        assert!(text(false, &example()).contains("proactor_ring_overflows_total"));
    }

    /// What promtool and the parser of Python check too, where they are installed.
    #[test]
    fn each_metric_is_declared_once_before_its_samples() {
        for open_metrics in [false, true] {
            let text = text(open_metrics, &example());
            let mut metrics = BTreeSet::new();
            let mut metric = ("", "");
            for line in text.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                match words[..] {
                    ["#", "EOF"] => assert!(open_metrics && text.ends_with("\n# EOF\n")),
                    ["#", "HELP", name, _, ..] => assert!(metrics.insert(name), "{name} twice"),
                    ["#", "TYPE", name, kind] => metric = (name, kind),
                    [sample, value] => {
                        let name = sample.split('{').next().unwrap();
                        let (of, kind) = metric;
                        let suffix = match kind {
                            "counter" if open_metrics => "_total",
                            "info" => "_info",
                            _ => "",
                        };
                        assert_eq!(name, format!("{of}{suffix}"), "{line}");
                        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                        value.parse::<f64>().expect("a number");
                    }
                    _ => panic!("neither a comment nor a sample: {line:?}"),
                }
            }
        }
    }
}
