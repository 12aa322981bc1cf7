//! `proactor trace follow`: one line an event, while they happen.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::Selection;
use crate::commands::output::stdout;
use proactor_trace::{Filter, Follow};

/// How long between two looks at the file.
const INTERVAL: Duration = Duration::from_millis(20);

/// Follow a trace while it is written, until its recorder ends
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file that is being written, or the id of the process that writes it
    #[arg(value_name = "FILE|PID")]
    whom: String,

    #[command(flatten)]
    selection: Selection,

    /// Only what happens from now on
    #[arg(long)]
    now: bool,

    /// As JSON: the header, then one object a line
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let file = match self.whom.parse() {
            Ok(pid) if !Path::new(&self.whom).exists() => proactor_trace::open_process(pid)?,
            _ => File::open(&self.whom).with_context(|| format!("cannot read {}", self.whom))?,
        };
        let follow =
            Follow::new(file, self.now).with_context(|| format!("cannot follow {}", self.whom))?;
        follow_to_end(follow, &self.selection.filter(), self.json, &mut stdout())
    }
}

/// Writes what happens until the recorder ends, or nobody reads it any more.
pub(in crate::commands) fn follow_to_end(
    mut follow: Follow,
    filter: &Filter,
    json: bool,
    out: &mut impl Write,
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
        if events.is_empty() {
            std::thread::sleep(INTERVAL);
        }
    }
}
