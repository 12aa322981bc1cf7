//! The score of `trace doctor`: does it find the faults that are there, and nothing in servers that
//! are well?
//!
//! ```console
//! $ cargo bench -p proactor-cli --bench doctor
//! ```
//!
//! Servers of all models are recorded for half a second each: healthy ones under several loads, and
//! those with one fault that is injected. The runs are two halves: no load, and no size of a fault
//! that has one, is in both. The thresholds of the checks are fixed on the first (`--first`), and
//! scores are given of the second. A load by which a check was mended belongs to the first from
//! then on. A finding that is wrong or costly in a healthy run is a false alarm; in a run with a
//! fault, every one that the fault does not bring with it. A run in which other programs use the
//! CPUs is repeated, unless they are usual there (`--busy`): a server that has no CPU is a finding.
//! An argument that is no option selects the runs whose name contains it.
//!
//! This program is also the server, with protocols and a ring that have faults. What a server that
//! is in order does not do is written into its recording. The status is 3 if there is a false
//! alarm, or a fault is missed that should be visible, and 4 if a run was left out because others
//! disturbed it. Quotas and the kernel's events need root, and quotas the controller `cpu`.

mod cases;
mod faults;
mod run;
mod server;

use std::process::ExitCode;
use std::time::Instant;

use cases::{Case, Truth};
use run::{Finding, Report, undisturbed};

fn main() -> ExitCode {
    match std::env::var(server::ROLE) {
        Ok(role) => server::play(&role),
        Err(_) => score(),
    }
}

fn score() -> ExitCode {
    let (options, names): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let [is_first, is_busy] =
        ["--first", "--busy"].map(|name| options.iter().any(|option| option == name));
    let mut cases = cases::all(is_first);
    cases.retain(|case| names.iter().all(|name| case.name().contains(name)));
    let (mut table, begin) = (Table::default(), Instant::now());
    for case in &cases {
        match undisturbed(case, is_busy) {
            Ok(report) => table.add(case, &report),
            Err(why) => {
                table.disturbed += u32::from(why.is_some());
                let why = why.unwrap_or("it cannot be injected here".to_owned());
                println!("left out: {}: {why}", case.name());
            }
        }
    }
    let seconds = begin.elapsed().as_secs();
    let uname = proactor_record::sys::uname();
    let kernel = uname.split(' ').nth(1).unwrap_or_default();
    let (runs, left_out) = (table.rows.iter().map(|row| row.runs).sum::<u32>(), table.disturbed);
    println!("\n{runs} runs in {seconds} s, {left_out} left out as disturbed, Linux {kernel}\n");
    table.print();
    ExitCode::from(match table.rows.iter().all(Row::holds) {
        false => 3,
        true if left_out > 0 => 4,
        true => 0,
    })
}

/// All runs, fault by fault.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
    /// The runs that were left out because others disturbed them.
    disturbed: u32,
    /// Findings that are wrong or costly, and are of the fault.
    true_alarms: u32,
}

/// The runs of one fault, or the healthy ones.
#[derive(Debug)]
struct Row {
    fault: &'static str,
    truth: Truth,
    runs: u32,
    found: u32,
    false_alarms: u32,
}

impl Table {
    fn add(&mut self, case: &Case, report: &Report) {
        let row = match self.rows.iter_mut().position(|row| row.fault == case.fault) {
            Some(at) => &mut self.rows[at],
            None => {
                let Case { fault, truth, .. } = *case;
                self.rows.push(Row { fault, truth, runs: 0, found: 0, false_alarms: 0 });
                self.rows.last_mut().expect("it was pushed")
            }
        };
        let is_found = case.truth.is_in(report);
        let bad = || report.findings.iter().filter(|one| one.is_bad);
        let is_true = |one: &&Finding| case.explains(&one.name);
        let false_alarms: Vec<_> =
            bad().filter(|one| !is_true(one)).map(|one| &*one.name).collect();
        row.runs += 1;
        row.found += u32::from(is_found);
        row.false_alarms += false_alarms.len() as u32;
        self.true_alarms += bad().filter(is_true).count() as u32;
        if !is_found || !false_alarms.is_empty() {
            let missed = if is_found { "" } else { "missed " };
            println!("{missed}{}: {}", case.name(), false_alarms.join(", "));
        }
    }

    fn print(&self) {
        println!("| fault | what should be found | runs | recall | false alarms |");
        println!("|---|---|---:|---:|---:|");
        for Row { fault, truth, runs, found, false_alarms } in &self.rows {
            let share = format!("{found} of {runs}");
            let (truth, recall) = match truth {
                Truth::Healthy => ("nothing".to_owned(), "–"),
                Truth::Finding(name) => (format!("`{name}`"), &*share),
                Truth::Hidden(name) => (format!("*not visible*: `{name}`"), &*share),
            };
            println!("| {fault} | {truth} | {runs} | {recall} | {false_alarms} |");
        }
        let visible = self.rows.iter().filter(|row| matches!(row.truth, Truth::Finding(_)));
        let (found, faults) = visible.fold((0, 0), |(f, r), row| (f + row.found, r + row.runs));
        let false_alarms: u32 = self.rows.iter().map(|row| row.false_alarms).sum();
        let (alarms, right) = (self.true_alarms + false_alarms, self.true_alarms);
        println!("\nrecall: {found} of {faults} faults that a recording shows");
        println!("precision: {right} of {alarms} findings that are wrong or costly");
    }
}

impl Row {
    fn holds(&self) -> bool {
        self.false_alarms == 0 && self.found == self.runs
    }
}
