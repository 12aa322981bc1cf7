//! The views of a whole trace: summary, conn, doctor, diff and delays.

use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::json;

use super::{Conn, How, Look, check_connection, read};
use crate::commands::{ExitStatus, output};
use proactor_trace::view::{
    ConnectionList, ConnectionTimeline, Cut, Diff, DiffSide, Doctor, Heatmap, ListOrder, Severity,
    Summary, TimeSeries, TraceStats,
};

/// Connections in the list without `--all`.
const LISTED: usize = 20;

/// Prints counts and latencies per operation, or a row for each interval of the time.
pub(super) fn summary(
    Look { file, how }: &Look,
    conn: Option<Conn>,
    every: Option<Duration>,
) -> anyhow::Result<()> {
    let trace = read(file)?;
    let cut = how.part.cut(&trace, conn);
    conn.map_or(Ok(()), |conn| check_connection(&trace, file, conn))?;
    if let Some(every) = every {
        let series = TimeSeries::of(&trace, &cut, every);
        return how.print(&series.map_err(|rows| {
            anyhow!("--every {every:?} makes {rows} rows of {}: too many to read", file.display())
        })?);
    }
    how.print(&Summary { stats: TraceStats::of(&trace, &cut) })
}

/// Prints the list of connections.
pub(super) fn connections(
    Look { file, how }: &Look,
    all: bool,
    order: ListOrder,
) -> anyhow::Result<()> {
    let most = if all { usize::MAX } else { LISTED };
    how.print(&ConnectionList::new(how.statistics(file)?, most, order))
}

/// Prints the timeline of a connection.
pub(super) fn connection(
    Look { file, how }: &Look,
    conn: Conn,
    all: bool,
    slowest: usize,
) -> anyhow::Result<()> {
    let trace = read(file)?;
    let cut = how.part.cut(&trace, None);
    check_connection(&trace, file, conn)?;
    let timeline = ConnectionTimeline::of(&trace, &cut, conn, slowest, all);
    how.print(&timeline.expect("the connection is in the trace"))
}

/// Prints how long operations took over the time.
pub(super) fn heatmap(Look { file, how }: &Look, op: Option<&str>) -> anyhow::Result<()> {
    let trace = read(file)?;
    let cut = how.part.cut(&trace, None);
    let maps = Heatmap::all(&trace, &cut, &TraceStats::of(&trace, &cut));
    let names: Vec<&str> = maps.iter().map(|map| map.of).collect();
    // Without replies, the first of what there is.
    match maps.iter().find(|map| op.is_none_or(|op| map.of == op)) {
        Some(map) => how.print(map),
        None if names.is_empty() => bail!("{} has no durations", file.display()),
        None => {
            let (file, op, names) = (file.display(), op.unwrap_or_default(), names.join(", "));
            bail!("{file} has no durations of `{op}`: it has those of {names}")
        }
    }
}

/// Prints the state of the loop, and what is found. The status is 3 if a finding is at least as bad
/// as `fail_on`, and 4 if nothing can be said.
pub(super) fn doctor(
    Look { file, how }: &Look,
    fail_on: Option<Severity>,
    ignore: &[String],
) -> anyhow::Result<()> {
    let doctor = Doctor::without(how.statistics(file)?, ignore);
    // The status says what was found, though the reader of the output has ended.
    let printed = how.print(&doctor);
    match fail_on.map(|severity| doctor.fails(severity)) {
        Some(Some(true)) => Err(anyhow::Error::msg(ExitStatus(3))),
        Some(None) => Err(anyhow::Error::msg(ExitStatus(4))),
        _ => printed,
    }
}

/// Prints the differences of two traces, beside those of the first and `against`.
pub(super) fn diff(a: &Path, b: &Path, against: Option<&Path>, how: &How) -> anyhow::Result<()> {
    let side = |file| {
        let trace = read(file)?;
        anyhow::Ok(DiffSide::of(&trace, &how.part.cut(&trace, None)))
    };
    let diff = Diff::new(side(a)?, side(b)?, against.map(side).transpose()?);
    how.print(&diff.map_err(|why| anyhow!(why))?)
}

/// Prints the delays between arrival and handling of completions.
pub(super) fn delays(file: &Path, json: bool) -> anyhow::Result<()> {
    let trace = super::open(file)?;
    let Some(delays) = TraceStats::of(&trace, &Cut::default()).kernel else {
        bail!("no kernel events: record with `serve --trace=FILE --kernel-events`");
    };
    let title = proactor_trace::title(&trace.header, trace.lost());
    let text = if json { json!(delays).to_string() } else { format!("{title}\n\n{delays}") };
    Ok(output::print(&(text + "\n"))?)
}
