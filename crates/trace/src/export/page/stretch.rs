//! The time on which a page opens, and the time of which it draws every mark.

use std::collections::HashSet;

use proactor::keys::ConnId;
use proactor_record::Content;

use crate::event::Event;
use crate::trace_file::TraceFile;
use crate::view::{Cut, TraceStats};

/// Two moments: nanoseconds since recording began.
pub(super) type Span = (u64, u64);

/// As many messages, one after the other, as can be seen at a time.
#[derive(Debug, Clone, Copy, Default)]
struct MessageChunk {
    from: u64,
    until: u64,
    messages: u64,
    /// The number of connections that it has messages of.
    conns: u64,
    /// The number of marks that it has, at most.
    marks: usize,
}

/// What is drawn of a recording at first, and in detail.
#[derive(Debug)]
pub(super) struct Stretch {
    /// On this the page opens: the connections are as busy as in the busier half of the time.
    pub(super) opens: Span,
    /// Of this every mark is drawn: around the former as much as there may be marks.
    pub(super) detail: Span,
}

impl Stretch {
    /// Of a part of a trace, of which these connections have rows, with no more than `most` marks.
    pub(super) fn of(
        trace: &TraceFile,
        cut: &Cut,
        stats: &TraceStats,
        rows: &HashSet<ConnId>,
        most: usize,
    ) -> Stretch {
        let source = &stats.source;
        let whole = (source.from_ns, source.from_ns + source.span_ns);
        let size = (8 * stats.connections).clamp(200, 4000);
        let chunks = chunks(trace, cut, rows, size);
        let Some(best) = typical(&chunks, size) else {
            return Stretch { opens: whole, detail: whole };
        };
        let detail = around(&chunks, best, most);
        let mut times = (chunks[detail.0].from, chunks[detail.1].until);
        // What comes before the first message and after the last one belongs to it.
        if detail.0 == 0 {
            times.0 = whole.0;
        }
        if detail.1 == chunks.len() - 1 {
            times.1 = whole.1;
        }
        Stretch { opens: (chunks[best].from, chunks[best].until), detail: times }
    }
}

/// Cuts the time into chunks of `size` messages; the last one may have fewer.
fn chunks(trace: &TraceFile, cut: &Cut, rows: &HashSet<ConnId>, size: u64) -> Vec<MessageChunk> {
    let (mut chunks, mut conns) = (Vec::new(), HashSet::new());
    let mut chunk: Option<MessageChunk> = None;
    for event in trace.events().filter(|event| cut.is_in_time(event.at)) {
        let is_drawn = event.conn.is_none_or(|conn| rows.contains(&conn));
        let Some(open) = &mut chunk else {
            // Before the first connection there is nothing to see.
            chunk = event.conn.map(|_| MessageChunk { from: event.at, ..MessageChunk::default() });
            continue;
        };
        open.until = event.at;
        open.marks += if is_drawn { marks(&event) } else { 0 };
        if let Some(conn) = event.conn.filter(|_| event.is_message()) {
            open.messages += 1;
            open.conns += u64::from(conns.insert(conn));
        }
        if open.messages == size {
            chunks.push(*open);
            conns.clear();
            *open = MessageChunk { from: event.at, ..MessageChunk::default() };
        }
    }
    chunks.extend(chunk.filter(|chunk| chunk.until > chunk.from));
    chunks
}

/// How many marks an event makes at most: on the row of its connection, and of its thread.
fn marks(event: &Event) -> usize {
    match event.what {
        Content::Ready { .. } => 1,
        Content::CallEnd { .. } => 2,
        _ => usize::from(event.result().is_some()),
    }
}

/// The chunk whose duration is nearest to that of the busier half, of those that have nearly all
/// connections. The slower half has pauses, in which nothing is seen.
fn typical(chunks: &[MessageChunk], size: u64) -> Option<usize> {
    let full = || (0..chunks.len()).filter(|&at| chunks[at].messages == size);
    let lasted = |at: usize| chunks[at].until - chunks[at].from;
    let mut all: Vec<u64> = full().map(lasted).collect();
    all.sort_unstable();
    let Some(&usual) = all.get(all.len() / 4) else {
        return (!chunks.is_empty()).then_some(0);
    };
    let most = full().map(|at| chunks[at].conns).max().unwrap_or(0);
    let has_all = |at: &usize| chunks[*at].conns * 10 >= most * 9;
    full().filter(has_all).min_by_key(|&at| lasted(at).abs_diff(usual))
}

/// The first and the last of the chunks around one that have at most so many marks together, but
/// this one in any case.
fn around(chunks: &[MessageChunk], best: usize, most: usize) -> (usize, usize) {
    let (mut first, mut last, mut marks) = (best, best, chunks[best].marks);
    loop {
        let fits = |at: &usize| chunks.get(*at).is_some_and(|one| marks + one.marks <= most);
        let before = first.checked_sub(1).filter(fits);
        let after = Some(last + 1).filter(fits);
        if before.is_none() && after.is_none() {
            return (first, last);
        }
        if let Some(at) = before {
            (first, marks) = (at, marks + chunks[at].marks);
        }
        if let Some(at) = after.filter(|&at| marks + chunks[at].marks <= most) {
            (last, marks) = (at, marks + chunks[at].marks);
        }
    }
}
