//! A comparison as text, which depends on the results alone.

use std::collections::BTreeSet;

use crate::idle::IdleCosts;
use crate::plan::{PAIRS_FROM, Role, SLICE};
use crate::results::{Comparison, Measured, Outcome, ResultTable};
use crate::verdict::{Ratio, Verdict};
use proactor_load::LoadShape;
use proactor_report::units::{self, plural};
use proactor_report::{Align, Interval, NOTHING, Table};

/// Returns a comparison as tables and sentences for people.
pub fn text(comparison: &Comparison) -> String {
    let Comparison { plan, engine, environment, tables, idle, warnings, .. } = comparison;
    let mut text = format!(
        "proactor {} compare   seed {}   servers on CPU {}, client on CPU {} (engine {engine})\n\n\
         {}",
        environment.version,
        plan.seed,
        plan.server_cpu,
        plan.client_cpu,
        environment.text()
    );
    let mut described = BTreeSet::new();
    for results in tables {
        text.push('\n');
        text.push_str(&table(results, &mut described));
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

/// Returns the table and the sentences of one load. `described` contains the descriptions of models
/// that were already printed.
fn table(results: &ResultTable, described: &mut BTreeSet<String>) -> String {
    let LoadShape { connections, size, depth } = results.load;
    let baseline = baseline(results);
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
    for outcome in &results.participants {
        table.row(cells(outcome, results));
    }
    let rounds = match results.rounds_range() {
        (least, most) if least == most => plural(most as u64, "round"),
        (least, most) => format!("{least} to {most} rounds"),
    };
    let mut text = format!(
        "{}, {size} B echo, depth {depth}, closed loop, {rounds} of {} ms slices, paired per \
         round\n{table}\n",
        plural(connections as u64, "connection"),
        SLICE.as_millis(),
    );
    for outcome in &results.participants {
        let name = &outcome.spec.name;
        if let Some(reason) = &outcome.reason {
            text.push_str(&format!("{name}: not measured: {reason}\n"));
        } else if outcome.spec.role != Role::Control {
            let line = format!("{name}: {}\n", description(outcome));
            if described.insert(line.clone()) {
                text.push_str(&line);
            }
        }
    }
    if connections >= PAIRS_FROM {
        text.push_str(
            "measured in pairs, one pair after the other: compare ratios, not msg/s or µs\n",
        );
    }
    text.push_str(&format!(
        "[..] encloses the median ratio with 95 % or more; wrong replies 0 of {}\n",
        units::count(results.messages())
    ));
    let sentences: Vec<String> =
        results.participants.iter().filter_map(|outcome| sentence(outcome, baseline)).collect();
    if !sentences.is_empty() {
        text.push_str(&format!("\nIn words:\n  {}\n", sentences.join("\n  ")));
    }
    text
}

/// Returns what a server is: from its counters, or else from its first line.
fn description(outcome: &Outcome) -> String {
    let detail = outcome.stats.as_ref().map(|stats| stats.detail.as_str());
    let detail = detail.filter(|detail| !detail.is_empty()).unwrap_or(&outcome.about);
    let recorded = if outcome.spec.model.recorded { "; recorded into a file" } else { "" };
    format!("{detail}{recorded}")
}

fn baseline(results: &ResultTable) -> &str {
    results.participants.first().map_or(NOTHING, |outcome| &outcome.spec.name)
}

/// Returns the table of the costs of idle connections.
fn idle_table(idle: &IdleCosts) -> String {
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
        "Cost of an idle connection to the server: the growth from {} to {}, which have each \
         exchanged one message\n{table}\n",
        units::count(idle.from_connections as u64),
        plural(idle.connections as u64, "connection")
    );
    for row in &idle.rows {
        if let Some(reason) = &row.reason {
            text.push_str(&format!("{}: not measured: {reason}\n", row.model));
        }
    }
    text.push_str(
        "memory is the proportional set size of the server and its children: shared memory counts \
         once. Of the kernel's memory, the table\nhas only page tables; sockets, and the stacks and \
         tables of threads and processes, come in addition. Direct descriptors of\nio_uring are \
         slots of its ring and not descriptors of the process.\n",
    );
    text
}

fn cells(outcome: &Outcome, results: &ResultTable) -> Vec<String> {
    let name = outcome.spec.name.clone();
    let Some(measured) = &outcome.measured else {
        return vec![name, NOTHING.to_owned(), String::new(), "not measured".to_owned()];
    };
    let floor = |floor: Option<f64>| match floor {
        Some(floor) => format!("noise floor {}", units::percent(floor)),
        None => "noise floor unknown".to_owned(),
    };
    let word = |verdict: Option<Verdict>, higher, lower| {
        verdict.map_or(NOTHING.to_owned(), |verdict| verdict.word(higher, lower))
    };
    let (rate, cpu) = match outcome.spec.role {
        Role::Baseline => ("baseline".to_owned(), "baseline".to_owned()),
        Role::Control => (floor(results.rate_noise_floor), floor(results.cpu_noise_floor)),
        Role::Model => (
            match measured.is_client_bound {
                true => "CLIENT-BOUND".to_owned(),
                false => word(measured.rate_verdict, "faster", "slower"),
            },
            word(measured.cpu_verdict, "more", "less"),
        ),
    };
    let at_least = if measured.is_client_bound { "≥ " } else { "" };
    vec![
        name,
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

/// Formats a ratio with its interval: `0.86 [0.84..0.88]`.
fn ratio(ratio: Option<Ratio>) -> String {
    match ratio {
        None => String::new(),
        Some(Ratio { median, interval: None, .. }) => format!("{median:.2}"),
        Some(Ratio { median, interval: Some(interval), .. }) => {
            format!("{median:.2} [{:.2}..{:.2}]", interval.low, interval.high)
        }
    }
}

/// Returns the verdicts about a compared model in words.
fn sentence(outcome: &Outcome, baseline: &str) -> Option<String> {
    if !outcome.is_compared() {
        return None;
    }
    let name = &outcome.spec.name;
    let Some(measured) = &outcome.measured else {
        return Some(format!("{name} was not measured."));
    };
    Some(format!("{name} {}, and {}.", rate_words(measured, baseline), cpu_words(measured)))
}

fn rate_words(measured: &Measured, baseline: &str) -> String {
    let by = difference(measured.rate_ratio);
    match measured.rate_verdict {
        Some(Verdict::Higher) => format!("serves {by} more messages than {baseline}"),
        Some(Verdict::Lower) => format!("serves {by} fewer messages than {baseline}"),
        Some(Verdict::Same(within)) => {
            format!("serves as many messages as {baseline} (within ±{})", units::percent(within))
        }
        Some(Verdict::Invalid) => "has no valid rate here".to_owned(),
        Some(Verdict::NotShown) | None => {
            format!("is not shown to serve more or fewer messages than {baseline}")
        }
    }
}

fn cpu_words(measured: &Measured) -> String {
    let by = difference(measured.cpu_ratio);
    match measured.cpu_verdict {
        Some(Verdict::Higher) => format!("takes {by} more server CPU per message"),
        Some(Verdict::Lower) => format!("takes {by} less server CPU per message"),
        Some(Verdict::Same(within)) => {
            format!("takes the same server CPU per message (within ±{})", units::percent(within))
        }
        Some(Verdict::Invalid) => "no valid CPU time".to_owned(),
        Some(Verdict::NotShown) | None => "is not shown to differ in server CPU".to_owned(),
    }
}

/// Formats the distance of an interval from one: `7 to 14 %`.
fn difference(ratio: Option<Ratio>) -> String {
    let Some(Interval { low, high, .. }) = ratio.and_then(|ratio| ratio.interval) else {
        return "an unknown share".to_owned();
    };
    let (a, b) = ((low - 1.0).abs() * 100.0, (high - 1.0).abs() * 100.0);
    let (least, most) = (a.min(b).round(), a.max(b).round());
    if least == most { format!("{least:.0} %") } else { format!("{least:.0} to {most:.0} %") }
}
