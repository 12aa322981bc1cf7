//! `proactor trace follow`: prints events when they are recorded.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::Selection;
use crate::commands::output::{await_ready, stdout};
use proactor_trace::{Filter, Follow};

/// Period at which the file is read. A recorder writes into mapped memory: nothing could wake a
/// reader without a cost for each record.
const INTERVAL: Duration = Duration::from_millis(20);

/// Print the events of a trace while it is written, until its recorder ends
#[derive(Debug, clap::Args)]
pub(super) struct FollowArgs {
    /// Trace file, or the id of the process that writes it
    #[arg(value_name = "FILE|PID")]
    source: String,

    #[command(flatten)]
    selection: Selection,

    /// Only events from now on
    #[arg(long)]
    now: bool,

    /// Print as JSON: the header, then one object per line
    #[arg(long)]
    json: bool,
}

impl FollowArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let file = match self.source.parse() {
            Ok(pid) if !Path::new(&self.source).exists() => proactor_trace::open_process(pid)?,
            _ => {
                File::open(&self.source).with_context(|| format!("cannot read {}", self.source))?
            }
        };
        let follow = Follow::new(file, self.now)
            .with_context(|| format!("cannot follow {}", self.source))?;
        follow_to_end(follow, &self.selection.filter(), self.json, &mut stdout())
    }
}

/// Prints events until the recorder ends, or until the output is closed.
pub(in crate::commands) fn follow_to_end(
    mut follow: Follow,
    filter: &Filter,
    json: bool,
    out: &mut (impl Write + AsFd),
) -> anyhow::Result<()> {
    let header = follow.header();
    if json {
        writeln!(out, "{}", proactor_trace::json_header(header, 0, &[]))?;
    } else {
        writeln!(out, "{}", proactor_trace::title(header, 0))?;
        writeln!(out, "{}", proactor_trace::heading())?;
    }
    loop {
        let over = follow.is_over();
        let events = follow.poll()?;
        let header = follow.header();
        let mut text = String::new();
        for event in events.iter().filter(|event| filter.passes(event)) {
            if json {
                text.push_str(&proactor_trace::json(header, event).to_string());
            } else {
                text.push_str(&proactor_trace::line(header, event));
            }
            text.push('\n');
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        if over && follow.is_read() {
            return Ok(());
        }
        // Without events to print, the end of the output's reader is noticed here. Nothing is asked
        // for: only errors and a closed reader end the wait early.
        if events.is_empty() && await_ready(out, 0, Some(INTERVAL))? {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
    }
}
