//! JSON lines: the header, then one object an event, decoded and raw.

use std::io::{self, Write};

use crate::{Filter, TraceFile, json_header, merged};

/// Writes the header's line, and one for each event that passes, of the recording and of the
/// kernel. Schema: `proactor.trace.events/3`.
///
/// # Errors
/// `out` cannot be written to.
pub fn jsonl(trace: &TraceFile, filter: &Filter, out: &mut impl Write) -> io::Result<()> {
    let header = &trace.header;
    writeln!(out, "{}", json_header(header, trace.lost(), &trace.remarks))?;
    let mut events = merged(trace, filter);
    events.try_for_each(|event| writeln!(out, "{}", event.json(header)))
}
