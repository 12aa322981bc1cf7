//! The kernel's events of a recorded ring, as lines among those of the recording.

use proactor::ring::Token;
use proactor_report::units;
use serde_json::{Map, Value, json};

use super::{KernelEvent, Tracepoint, operation};
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
        let conn = token_conn(self.user_data).map_or(String::new(), |conn| format!("c{conn}"));
        let (time, result) = (moment(self.time), result_text(self.result()));
        let (op, details) = (self.op(), self.details());
        let text = columns([&time, "krnl", self.name(), &op, &conn, &result, &details]);
        end_line(text, MARK, self.is_abnormal())
    }

    /// The event as JSON.
    pub fn json(&self) -> Value {
        let mut fields = self.fields();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        put("t_ns", json!(self.time));
        put("lane", json!("kernel"));
        put("op", json!(self.op()));
        put("abnormal", json!(self.is_abnormal()));
        if let Some(conn) = token_conn(self.user_data) {
            put("conn", json!(format!("c{conn}")));
        }
        Value::Object(fields)
    }

    /// The fields of the tracepoint as JSON. Keys that do not apply are omitted.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        put("kind", json!(self.name()));
        put("thread", json!(self.thread));
        if self.tracepoint.is_of_request() {
            put("user_data", json!(format!("{:#018x}", self.user_data)));
        }
        put_result(self.result(), &mut put);
        if let Some((_, flags)) = self.completion() {
            put("flags", json!(flags));
            put("more", json!(self.more()));
        }
        match self.tracepoint {
            Tracepoint::LocalWorkRun => put("count", json!(self.own[0] as u32)),
            Tracepoint::CqringWait => put("min_events", json!(self.own[0] as u32)),
            _ => {}
        }
        fields
    }

    /// What the event says beside its result, in a few words.
    pub(crate) fn details(&self) -> String {
        let first = self.own[0];
        let words = match self.tracepoint {
            Tracepoint::Create => return format!("fd {}", first as i32),
            Tracepoint::LocalWorkRun => {
                return format!("{} of deferred work", units::plural(first as u32 as u64, "piece"));
            }
            Tracepoint::CqringWait => return format!("for {}", first as u32),
            // A `bool` may be followed by any bytes.
            Tracepoint::SubmitReq if first & 0xff != 0 => "by the kernel's submission thread",
            Tracepoint::ReqFailed => "before it started",
            Tracepoint::Complete if self.more() => "more",
            Tracepoint::CqeOverflow => "queue full: posted outside it",
            Tracepoint::TaskAdd => "what it waited for has arrived",
            Tracepoint::QueueAsyncWork => "to a worker thread (io-wq)",
            Tracepoint::PollArm => "waits by polling",
            _ => "",
        };
        words.to_owned()
    }
}
