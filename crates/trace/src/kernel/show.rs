//! The kernel's events of a recorded ring, as lines among those of the recording.

use proactor::ring::Token;
use proactor_report::units;
use serde_json::{Value, json};

use super::{KernelEvent, Tracepoint, operation};
use crate::event::token_conn;
use crate::show::{Filter, MARK, applying, columns, end_line, moment, result_fields, result_text};

impl KernelEvent {
    fn op(&self) -> String {
        match (Token(self.user_data).kind(), self.opcode) {
            (Some(kind), _) => kind.name().to_owned(),
            (None, Some(opcode)) => operation(opcode),
            (None, None) => String::new(),
        }
    }

    fn is_abnormal(&self) -> bool {
        matches!(self.tracepoint, Tracepoint::CqeOverflow | Tracepoint::QueueAsyncWork)
    }

    /// Whether the filter selects the event, by the same rules as the recording's own.
    pub fn passes(&self, filter: &Filter) -> bool {
        let is_named = |name: &str| name == self.op() || name == self.name();
        let conn = token_conn(self.user_data);
        filter.selects(self.time, conn, is_named, self.result(), self.is_abnormal())
    }

    /// The event as a line, in the columns of the recording's lines.
    pub fn line(&self) -> String {
        self.line_at(&moment(self.time))
    }

    /// The same, with this time.
    pub(crate) fn line_at(&self, time: &str) -> String {
        let conn = token_conn(self.user_data).map_or(String::new(), |conn| format!("c{conn}"));
        let result = result_text(self.result());
        let (op, details) = (self.op(), self.details());
        let text = columns([time, "krnl", self.name(), &op, &conn, &result, &details]);
        end_line(text, MARK, self.is_abnormal())
    }

    /// The event as JSON.
    pub fn json(&self) -> Value {
        self.fields(json!({
            "t_ns": self.time, "lane": "kernel", "op": self.op(), "abnormal": self.is_abnormal(),
            "conn": token_conn(self.user_data).map(|conn| format!("c{conn}")),
        }))
    }

    /// The fields of the tracepoint and these as JSON. Those that are null do not apply and are
    /// omitted.
    pub(crate) fn fields(&self, more: Value) -> Value {
        let first_of = |point| (self.tracepoint == point).then_some(self.own[0] as u32);
        let user_data = format!("{:#018x}", self.user_data);
        let own = json!({
            "kind": self.name(), "thread": self.thread,
            "user_data": self.tracepoint.is_of_request().then_some(user_data),
            "flags": self.completion().map(|(_, flags)| flags),
            "more": self.completion().map(|_| self.more()),
            "count": first_of(Tracepoint::LocalWorkRun),
            "min_events": first_of(Tracepoint::CqringWait),
        });
        let fields = [applying(own), applying(more), result_fields(self.result())];
        Value::Object(fields.into_iter().flatten().collect())
    }

    /// What the event says beside its result, in a few words.
    pub(crate) fn details(&self) -> String {
        let first = self.own[0] as u32;
        match self.tracepoint {
            Tracepoint::Create => format!("fd {}", first as i32),
            Tracepoint::LocalWorkRun => {
                format!("{} of deferred work", units::plural(first.into(), "piece"))
            }
            Tracepoint::CqringWait => format!("for {first}"),
            Tracepoint::Complete if !self.more() => String::new(),
            // A `bool` may be followed by any bytes.
            Tracepoint::SubmitReq if first & 0xff == 0 => String::new(),
            point => point.words().to_owned(),
        }
    }
}
