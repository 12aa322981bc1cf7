//! A recording's events and those of the kernel about the same ring, in the order of time; and the
//! names by which both are selected.

use std::collections::BTreeSet;
use std::iter;

use proactor_record::{Call, Header, Kind, OpKind, RecordKind};
use serde_json::Value;

use crate::event::Event;
use crate::kernel::{KernelEvent, Tracepoint, operation};
use crate::show::{self, Filter};
use crate::trace_file::TraceFile;

/// An event of a recording, or of its kernel events.
#[derive(Debug, Clone)]
pub enum MergedEvent {
    /// Of the recording. It is large.
    Own(Box<Event>),
    /// Of the kernel, about the same ring.
    Kernel(KernelEvent),
}

/// Returns the events of a recording and of the kernel that a filter selects. Of two at the same
/// time, the kernel's is first.
pub fn merged<'a>(
    trace: &'a TraceFile,
    filter: &'a Filter,
) -> impl Iterator<Item = MergedEvent> + 'a {
    let kernel = trace.sidecar().map_or(&[][..], |sidecar| &sidecar.events);
    let mut kernel = kernel.iter().filter(|event| event.passes(filter)).peekable();
    let mut own = trace.events().filter(|event| filter.passes(event)).peekable();
    iter::from_fn(move || match (kernel.peek(), own.peek()) {
        (Some(one), Some(other)) if one.time > other.at => next(&mut own),
        (Some(_), _) => kernel.next().copied().map(MergedEvent::Kernel),
        (None, _) => next(&mut own),
    })
}

fn next(own: &mut impl Iterator<Item = Event>) -> Option<MergedEvent> {
    own.next().map(|event| MergedEvent::Own(Box::new(event)))
}

impl MergedEvent {
    /// Nanoseconds since recording began.
    pub fn at(&self) -> u64 {
        match self {
            MergedEvent::Own(event) => event.at,
            MergedEvent::Kernel(event) => event.time,
        }
    }

    /// Whether a filter selects it.
    pub fn passes(&self, filter: &Filter) -> bool {
        match self {
            MergedEvent::Own(event) => filter.passes(event),
            MergedEvent::Kernel(event) => event.passes(filter),
        }
    }

    /// The event as a line of text, with its time since recording began.
    pub fn line(&self, header: &Header) -> String {
        self.line_at(&show::moment(self.at()), header)
    }

    /// The same, with the time of day (UTC).
    pub fn line_of_day(&self, header: &Header) -> String {
        self.line_at(&show::time_of_day(header, self.at()), header)
    }

    fn line_at(&self, time: &str, header: &Header) -> String {
        match self {
            MergedEvent::Own(event) => show::line(time, header, event),
            MergedEvent::Kernel(event) => event.line_at(time),
        }
    }

    /// The event as JSON.
    pub fn json(&self, header: &Header) -> Value {
        match self {
            MergedEvent::Own(event) => show::json(header, event),
            MergedEvent::Kernel(event) => event.json(),
        }
    }
}

/// Parses the name of an operation, a call, or a kind of record or kernel event, as a [`Filter`]
/// has it.
///
/// # Errors
/// A sentence with the known names.
pub fn parse_name(text: &str) -> Result<String, String> {
    let name = text.to_lowercase();
    let records = RecordKind::ALL.iter().map(|kind| kind.name().trim_matches(['<', '>']));
    let rings = Kind::ALL.iter().map(|kind| kind.name());
    let calls = Call::ALL.iter().map(|call| call.name());
    let kernel = Tracepoint::ALL.iter().map(|point| point.word());
    let own = [OpKind::Wait.name()].into_iter().chain(records).chain(rings).chain(calls);
    let known: BTreeSet<String> = own.chain(kernel).map(str::to_lowercase).collect();
    // With kernel events, an operation that is not of the server has the kernel's name.
    if known.contains(&name) || (0..=u8::MAX).any(|opcode| operation(opcode) == name) {
        return Ok(name);
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    Err(format!("it is one of {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::jsonl;
    use crate::kernel::Sidecar;
    use proactor_record::{About, Clock, Record, Recorder, Settings, Trace};

    #[test]
    fn events_of_the_kernel_are_where_their_times_put_them_in_json_lines_too() {
        let settings = Settings { bytes: 0, clock: Some(Clock::Nanos), ..Settings::default() };
        let mut log = Recorder::new(None, &settings, &About::default()).expect("memory");
        for at in [10, 20, 30] {
            log.write_at(at, Record::completed(at, 0, 0, 0));
        }
        let trace = Trace::from_bytes(log.bytes()).expect("a trace");
        let kernel = [5, 20, 25, 40].map(|time| KernelEvent {
            time,
            thread: 1,
            ring: 0,
            request: 0,
            user_data: time,
            opcode: None,
            tracepoint: Tracepoint::Complete,
            own: [0; 4],
        });
        let sidecar = Sidecar { events: kernel.to_vec(), ..Sidecar::default() };
        let trace = TraceFile::new(trace, Some(sidecar));
        let lines = |filter: &Filter| {
            let mut out = Vec::new();
            jsonl(&trace, filter, &mut out).expect("memory");
            let lines = String::from_utf8(out).expect("JSON is UTF-8");
            let parsed =
                lines.lines().skip(1).map(|line| serde_json::from_str(line).expect("JSON"));
            let names = parsed.map(|line: Value| format!("{} {}", line["lane"], line["t_ns"]));
            names.collect::<Vec<_>>().join(", ").replace('"', "")
        };
        let all = "kernel 5, r0 10, kernel 20, r0 20, kernel 25, r0 30, kernel 40";
        assert_eq!(lines(&Filter::default()), all);
        let since = Some(std::time::Duration::from_nanos(25));
        assert_eq!(lines(&Filter { since, ..Filter::default() }), "kernel 25, r0 30, kernel 40");
    }

    #[test]
    fn each_name_of_an_event_is_known_and_no_other() {
        for name in ["recv", "send", "cqe", "CQE", "enter", "wait", "lost", "arrive", "poll_add"] {
            assert_eq!(parse_name(name), Ok(name.to_lowercase()));
        }
        for wrong in ["", "bogus", "rcv", "<enter"] {
            assert!(parse_name(wrong).is_err_and(|why| why.contains("accept, ")), "{wrong}");
        }
    }
}
