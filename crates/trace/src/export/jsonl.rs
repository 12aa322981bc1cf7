//! JSON lines: the header, then one object an event, decoded and raw.

use std::io::{self, Write};

use crate::{Filter, Trace, events, json, json_header};

/// Writes the header's line, and one for each event that passes. Schema: `proactor.trace.events/3`.
///
/// # Errors
/// `out` cannot be written to.
pub fn jsonl(trace: &Trace, filter: &Filter, out: &mut impl Write) -> io::Result<()> {
    let header = &trace.header;
    writeln!(out, "{}", json_header(header, trace.lost(), &trace.remarks))?;
    let mut events = events(trace).filter(|event| filter.passes(event));
    events.try_for_each(|event| writeln!(out, "{}", json(header, &event)))
}
