//! The kernel's events of a recorded ring, as lines among those of the recording.

use proactor::ring::Token;
use proactor_record::Header;
use proactor_report::units;
use serde_json::{Map, Value, json};

use super::{KernelEvent, KernelEventKind, operation};
use crate::event::token_conn;
use crate::show::{Filter, MARK, columns, end_line, moment, put_result, result_text};

impl KernelEvent {
    fn op(&self) -> String {
        match (Token(self.user_data).kind(), self.opcode) {
            (Some(kind), _) => kind.name().to_owned(),
            (None, Some(opcode)) => operation(opcode),
            (None, None) => String::new(),
        }
    }

    fn is_abnormal(&self) -> bool {
        matches!(self.kind, KernelEventKind::Overflowed { .. } | KernelEventKind::Punted)
    }

    /// Whether the filter selects the event, by the same rules as the recording's own.
    pub fn passes(&self, header: &Header, filter: &Filter) -> bool {
        let at = header.nanos(self.time);
        let is_named = |name: &str| name == self.op() || name == self.kind.name();
        let conn = token_conn(self.user_data);
        filter.selects(at, conn, is_named, self.kind.result(), self.is_abnormal())
    }

    /// The event as a line, in the columns of the recording's lines.
    pub fn line(&self, header: &Header) -> String {
        let time = moment(header.nanos(self.time));
        let conn = token_conn(self.user_data).map_or(String::new(), |conn| format!("c{conn}"));
        let result = result_text(self.kind.result());
        let (name, details) = (self.kind.name(), self.kind.details());
        let text = columns([&time, "krnl", name, &self.op(), &conn, &result, &details]);
        end_line(text, MARK, self.is_abnormal())
    }

    /// The event as JSON.
    pub fn json(&self, header: &Header) -> Value {
        let mut fields = self.fields();
        fields.insert("t_ns".to_owned(), json!(header.nanos(self.time)));
        fields.insert("lane".to_owned(), json!("kernel"));
        fields.insert("op".to_owned(), json!(self.op()));
        fields.insert("abnormal".to_owned(), json!(self.is_abnormal()));
        if let Some(conn) = token_conn(self.user_data) {
            fields.insert("conn".to_owned(), json!(format!("c{conn}")));
        }
        Value::Object(fields)
    }

    /// The fields of the tracepoint as JSON. Keys that do not apply are omitted.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        put("kind", json!(self.kind.name()));
        put("thread", json!(self.thread));
        if self.kind.is_of_request() {
            put("user_data", json!(format!("{:#018x}", self.user_data)));
        }
        put_result(self.kind.result(), &mut put);
        if let Some((_, flags)) = self.kind.completion() {
            put("flags", json!(flags));
            put("more", json!(self.kind.more()));
        }
        match self.kind {
            KernelEventKind::WorkRun { count } => put("count", json!(count)),
            KernelEventKind::Waited { least } => put("min_events", json!(least)),
            _ => {}
        }
        fields
    }
}

impl KernelEventKind {
    /// What the event says beside its result, in a few words.
    pub(crate) fn details(&self) -> String {
        match *self {
            KernelEventKind::Created { fd, .. } => format!("fd {fd}"),
            KernelEventKind::Submitted { by_kernel: true } => {
                "by the kernel's submission thread".to_owned()
            }
            KernelEventKind::Rejected { .. } => "before it started".to_owned(),
            KernelEventKind::Completed { .. } if self.more() => "more".to_owned(),
            KernelEventKind::Overflowed { .. } => "queue full: posted outside it".to_owned(),
            KernelEventKind::Arrived => "what it waited for has arrived".to_owned(),
            KernelEventKind::Punted => "to a worker thread (io-wq)".to_owned(),
            KernelEventKind::PollArmed => "waits by polling".to_owned(),
            KernelEventKind::WorkRun { count } => {
                format!("{} of deferred work", units::plural(count.into(), "piece"))
            }
            KernelEventKind::Waited { least } => format!("for {least}"),
            _ => String::new(),
        }
    }
}
