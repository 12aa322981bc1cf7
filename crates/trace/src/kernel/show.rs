//! The kernel's events of a recorded ring, as lines among those of the recording.

use std::time::Duration;

use serde_json::{Value, json};

use super::{KernelEvent, KernelEventKind, operation};
use crate::event::token_conn;
use crate::show::{Filter, MARK, columns, end_line, moment};
use proactor::ring::{Cqe, Token};
use proactor_record::Header;

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
        let at = Duration::from_nanos(header.nanos(self.time));
        let conn = token_conn(self.user_data);
        let is = |&(slot, generation): &(u32, Option<u32>)| {
            conn.is_some_and(|conn| {
                slot == conn.slot() && generation.is_none_or(|one| one == conn.generation())
            })
        };
        let named = |name: &String| *name == self.op() || name == self.kind.name();
        let result = |wanted: &String| match self.kind.result() {
            None => false,
            Some(Ok(n)) => wanted == "ok" || wanted.parse() == Ok(n),
            Some(Err(errno)) => wanted == "error" || errno.to_string().eq_ignore_ascii_case(wanted),
        };
        (filter.conns.is_empty() || filter.conns.iter().any(is))
            && (filter.ops.is_empty() || filter.ops.iter().any(named))
            && (filter.results.is_empty() || filter.results.iter().any(result))
            && filter.since.is_none_or(|since| at >= since)
            && filter.until.is_none_or(|until| at < until)
            && (!filter.abnormal || self.is_abnormal())
    }

    /// The event as a line, in the columns of the recording's lines.
    pub fn line(&self, header: &Header) -> String {
        let at = header.nanos(self.time);
        let conn = token_conn(self.user_data).map_or(String::new(), |conn| format!("c{conn}"));
        let result = match self.kind.result() {
            Some(Ok(n)) => n.to_string(),
            Some(Err(errno)) => errno.to_string(),
            None => String::new(),
        };
        let details = match self.kind {
            KernelEventKind::Created { fd, .. } => format!("fd {fd}"),
            KernelEventKind::Completed { flags, .. } if flags & Cqe::MORE != 0 => "more".to_owned(),
            KernelEventKind::Overflowed { .. } => "queue full: posted outside it".to_owned(),
            KernelEventKind::Arrived => "what it waited for has arrived".to_owned(),
            KernelEventKind::Punted => "to a worker thread (io-wq)".to_owned(),
            _ => String::new(),
        };
        let (time, name) = (moment(at), self.kind.name());
        let text = columns([&time, "krnl", name, &self.op(), &conn, &result, &details]);
        end_line(text, MARK, self.is_abnormal())
    }

    /// The event as JSON.
    pub fn json(&self, header: &Header) -> Value {
        let mut value = json!({
            "t_ns": header.nanos(self.time),
            "lane": "kernel",
            "kind": self.kind.name(),
            "op": self.op(),
            "thread": self.thread,
            "abnormal": self.is_abnormal(),
            "user_data": format!("{:#018x}", self.user_data),
        });
        if let Some(conn) = token_conn(self.user_data) {
            value["conn"] = json!(format!("c{conn}"));
        }
        if let Some((res, flags)) = self.kind.completion() {
            value["res"] = json!(res);
            value["flags"] = json!(flags);
            value["more"] = json!(flags & Cqe::MORE != 0);
        }
        if let Some(Err(errno)) = self.kind.result() {
            value["error"] = json!(errno.to_string());
        }
        value
    }
}
