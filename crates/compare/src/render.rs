//! A comparison as text. Pure: what is printed is made from the results alone.

use std::collections::BTreeSet;

use super::idle::Idle;
use super::plan::{PAIRS_FROM, Role, SLICE};
use super::summary::{Measured, Row};
use super::verdict::{CpuWord, Finding, RateWord, Ratio};
use super::{Comparison, Heat};
use proactor_report::{Align, Interval, NOTHING, Table, units};

/// The whole comparison.
pub fn text(comparison: &Comparison) -> String {
    let Comparison { plan, wire, environment, tables, idle, warnings, .. } = comparison;
    let mut text = format!(
        "proactor {} compare   seed {}   servers on CPU {}, client on CPU {} (wire {wire})\n\n{}",
        environment.version,
        plan.seed,
        plan.server_cpu,
        plan.client_cpu,
        environment.text()
    );
    let mut said = BTreeSet::new();
    for heat in tables {
        text.push('\n');
        text.push_str(&table(heat, &mut said));
    }
    if let Some(idle) = idle {
        text.push('\n');
        text.push_str(&idle_table(idle));
    }
    if !warnings.is_empty() {
        text.push('\n');
    }
    for warning in warnings {
        text.push_str(&format!("Warning: {warning}\n"));
    }
    text
}

/// One load: its table, and what it says in words. What a model is stands in `said` once it was
/// said, and is not said again.
pub fn table(heat: &Heat, said: &mut BTreeSet<String>) -> String {
    let Heat { connections, size, depth, .. } = heat;
    let plural = if *connections == 1 { "" } else { "s" };
    let baseline = baseline(heat);
    let versus = format!("vs {baseline}");
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("msg/s", Align::Right),
        (&versus, Align::Left),
        ("rate", Align::Left),
        ("CPU µs/msg", Align::Right),
        (&versus, Align::Left),
        ("CPU", Align::Left),
        ("busy", Align::Right),
        ("calls/msg", Align::Right),
    ]);
    for row in &heat.rows {
        table.row(cells(row, heat));
    }
    let rounds = match heat.rounds_each() {
        (least, most) if least == most => most.to_string(),
        (least, most) => format!("{least} to {most}"),
    };
    let mut text = format!(
        "{connections} connection{plural}, {size} B echo, depth {depth}, closed loop, {rounds} rounds of \
         {} ms slices, paired per round\n{table}\n",
        SLICE.as_millis(),
    );
    for ((row, server), entrant) in heat.rows.iter().zip(&heat.servers).zip(&heat.entrants) {
        if let Some(reason) = &row.reason {
            text.push_str(&format!("{}: not measured: {reason}\n", row.name));
        } else if row.role != Role::Again {
            let detail = server.stats.as_ref().map(|stats| stats.detail.as_str());
            let detail = detail.filter(|detail| !detail.is_empty()).unwrap_or(&server.about);
            let recorded = if entrant.model.recorded { "; recorded into a file" } else { "" };
            let line = format!("{}: {detail}{recorded}\n", row.name);
            if !said.contains(&line) {
                text.push_str(&line);
                said.insert(line);
            }
        }
    }
    if *connections >= PAIRS_FROM {
        text.push_str(
            "measured in pairs, one pair after the other: compare ratios, not msg/s or µs\n",
        );
    }
    text.push_str(&format!(
        "[..] encloses the median ratio with 95 % or more; wrong replies 0 of {}\n\n",
        units::count(heat.messages())
    ));
    text.push_str("In words:\n");
    for sentence in heat.rows.iter().filter_map(|row| sentence(row, baseline)) {
        text.push_str(&format!("  {sentence}\n"));
    }
    text
}

/// What the others are compared with.
fn baseline(heat: &Heat) -> &str {
    heat.rows.first().map_or(NOTHING, |row| &row.name)
}

/// What an idle connection costs, and what is in that.
pub fn idle_table(idle: &Idle) -> String {
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("memory", Align::Right),
        ("page tables", Align::Right),
        ("descriptors", Align::Right),
        ("threads", Align::Right),
        ("processes", Align::Right),
    ]);
    for row in &idle.rows {
        let cells = match &row.cost {
            Some(cost) => [
                units::bytes(cost.memory.round()),
                units::bytes(cost.page_tables.round()),
                format!("{:.2}", cost.descriptors),
                format!("{:.2}", cost.threads),
                format!("{:.2}", cost.processes),
            ],
            None => [NOTHING; 5].map(str::to_owned),
        };
        table.row(std::iter::once(row.model.clone()).chain(cells));
    }
    let mut text = format!(
        "What an idle connection costs the server: {} of them, each of which has exchanged one \
         message, divided by their number\n{table}\n",
        units::count(idle.connections as u64)
    );
    for row in &idle.rows {
        if let Some(reason) = &row.reason {
            text.push_str(&format!("{}: not measured: {reason}\n", row.model));
        }
    }
    text.push_str(
        "memory is the proportional set size of the server and its children: what they share counts \
         once. Of the kernel's memory only page\ntables are in the table; sockets, and the stack and \
         the tables of each thread and process, come on top. io_uring's direct\ndescriptors are \
         slots of its ring, and no descriptors of the process.\n",
    );
    text
}

fn cells(row: &Row, heat: &Heat) -> Vec<String> {
    let Some(measured) = &row.measured else {
        let mut cells = vec![row.name.clone(), NOTHING.to_owned(), String::new()];
        cells.push("not measured".to_owned());
        return cells;
    };
    let floor = |floor: Option<f64>| match floor {
        Some(floor) => format!("noise floor {}", units::percent(floor)),
        None => "noise floor unknown".to_owned(),
    };
    let (rate, cpu) = match row.role {
        Role::Baseline => ("baseline".to_owned(), "baseline".to_owned()),
        Role::Again => (floor(heat.rate_floor), floor(heat.cpu_floor)),
        Role::Model => (
            match measured.is_client_bound {
                true => "CLIENT-BOUND".to_owned(),
                false => word(measured.rate_finding, |finding| RateWord(finding).to_string()),
            },
            word(measured.cpu_finding, |finding| CpuWord(finding).to_string()),
        ),
    };
    let at_least = if measured.is_client_bound { "≥ " } else { "" };
    vec![
        row.name.clone(),
        format!("{at_least}{}", units::rate(measured.rate)),
        ratio(measured.rate_ratio),
        rate,
        format!("{:.2}", measured.cpu_us),
        ratio(measured.cpu_ratio),
        cpu,
        units::percent(measured.server_busy),
        measured.calls_per_message.map_or(NOTHING.to_owned(), |calls| format!("{calls:.2}")),
    ]
}

fn word(finding: Option<Finding>, say: impl Fn(Finding) -> String) -> String {
    finding.map_or(NOTHING.to_owned(), say)
}

/// `0.86 [0.84..0.88]`.
fn ratio(ratio: Option<Ratio>) -> String {
    match ratio {
        None => String::new(),
        Some(Ratio { median, interval: None, .. }) => format!("{median:.2}"),
        Some(Ratio { median, interval: Some(interval), .. }) => {
            format!("{median:.2} [{:.2}..{:.2}]", interval.low, interval.high)
        }
    }
}

/// What is found out of a model.
fn sentence(row: &Row, baseline: &str) -> Option<String> {
    if row.role != Role::Model {
        return None;
    }
    let name = &row.name;
    let Some(measured) = &row.measured else {
        return Some(format!("{name} was not measured."));
    };
    Some(format!("{name} {}, and {}.", rate_words(measured, baseline), cpu_words(measured)))
}

fn rate_words(measured: &Measured, baseline: &str) -> String {
    let by = difference(measured.rate_ratio);
    match measured.rate_finding {
        Some(Finding::Higher) => format!("serves {by} more messages than {baseline}"),
        Some(Finding::Lower) => format!("serves {by} fewer messages than {baseline}"),
        Some(Finding::Same(within)) => {
            format!("serves as many messages as {baseline} (within ±{})", units::percent(within))
        }
        Some(Finding::Invalid) => "has no valid rate here".to_owned(),
        Some(Finding::NotShown) | None => {
            format!("is not shown to serve more or fewer messages than {baseline}")
        }
    }
}

fn cpu_words(measured: &Measured) -> String {
    let by = difference(measured.cpu_ratio);
    match measured.cpu_finding {
        Some(Finding::Higher) => format!("takes {by} more server CPU for each"),
        Some(Finding::Lower) => format!("takes {by} less server CPU for each"),
        Some(Finding::Same(within)) => {
            format!("takes the same server CPU for each (within ±{})", units::percent(within))
        }
        Some(Finding::Invalid) => "no valid CPU time".to_owned(),
        Some(Finding::NotShown) | None => "is not shown to differ in server CPU".to_owned(),
    }
}

/// `7 to 14 %`: how far the interval is from one.
fn difference(ratio: Option<Ratio>) -> String {
    let Some(Interval { low, high, .. }) = ratio.and_then(|ratio| ratio.interval) else {
        return "an unknown share".to_owned();
    };
    let (a, b) = ((low - 1.0).abs() * 100.0, (high - 1.0).abs() * 100.0);
    let (least, most) = (a.min(b).round(), a.max(b).round());
    if least == most { format!("{least:.0} %") } else { format!("{least:.0} to {most:.0} %") }
}
