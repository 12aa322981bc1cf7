//! The results of a comparison, from synthetic slices.

mod stand_ins;

use std::time::Duration;

use super::plan::{BASELINE, Budget, ModelSpec, ParticipantSpec, Role};
use super::results::{Outcome, ResultTable};
use super::sampling::{Round, Sample};
use super::stats_line::{STATS_SCHEMA, ServerStats};
use super::verdict::Verdict;
use super::*;
use crate::idle::{Footprint, IdleCosts, IdleRow};
use proactor::counters::Counters;
use proactor_load::{EngineChoice, LoadShape, LoadSlice};

const SHAPE: LoadShape = LoadShape { connections: 64, size: 64, depth: 1 };

/// Returns a slice of 40 ms with this rate and this share of a busy server.
fn sample(participant: usize, rate: f64, busy: f64) -> Sample {
    let wall = Duration::from_millis(40);
    let messages = (rate * wall.as_secs_f64()).round() as u64;
    let bytes = messages * 64;
    let slice = LoadSlice {
        messages,
        bytes,
        wall,
        cpu: wall,
        idle: wall / 2,
        unread_share: 0.1,
        ..LoadSlice::default()
    };
    let server_cpu = wall.mul_f64(busy);
    let server_waited = Duration::ZERO;
    Sample { participant, slice, server_cpu, server_waited, server_idle_cpu_share: 0.0 }
}

/// Returns rounds in which the baseline serves 100,000 messages a second, and the others have these
/// relative rates, within 1 %, and busy shares.
fn rounds_of(number: u32, others: &[(f64, f64)], steal: f64) -> Vec<Round> {
    let round = |number: u32| {
        let noise = 1.0 + 0.01 * (f64::from(number % 5) - 2.0) / 2.0;
        let baseline = sample(0, 100_000.0, 1.0);
        let mut slices = vec![baseline];
        for (at, &(ratio, busy)) in others.iter().enumerate() {
            slices.push(sample(at + 1, 100_000.0 * ratio * noise, busy));
            slices.push(baseline);
        }
        Round { steal: Some(steal), slices }
    };
    (0..number).map(round).collect()
}

fn outcome(spec: ParticipantSpec, calls: u64) -> Outcome {
    let mut counters = Counters::default();
    counters.calls = calls;
    let stats = ServerStats {
        schema: STATS_SCHEMA.to_owned(),
        model: String::new(),
        detail: "its own description".to_owned(),
        lock_down: Vec::new(),
        counters,
    };
    let (stats, user_share) = (Some(stats), Some(0.12));
    Outcome { stats, user_share, messages: 100_000, ..Outcome::new(spec) }
}

/// Returns the table of the baseline, its control and `uring` with these rounds.
fn uring_table(rounds: Vec<Round>) -> ResultTable {
    let participants = plan(&["uring"]).participants().into_iter().map(|spec| outcome(spec, 1));
    summary::table(SHAPE, participants.collect(), rounds)
}

fn warnings(table: &ResultTable, engine: &str) -> Vec<String> {
    summary::warnings(table, engine)
}

fn plan(models: &[&str]) -> ComparisonPlan {
    ComparisonPlan {
        baseline: BASELINE.into(),
        models: models.iter().map(|&model| model.into()).collect(),
        peers: Vec::new(),
        protocol: proactor_load::LoadProtocol::echo(),
        loads: vec![SHAPE],
        budget: Budget::Rounds(6),
        idle: 0,
        seed: 7419,
        engine: EngineChoice::Auto,
        server_cpu: 0,
        client_cpu: 1,
    }
}

fn synthetic_table() -> ResultTable {
    let specs = plan(&["uring", "epoll-et", "select"]).participants();
    let rounds = rounds_of(20, &[(1.0, 1.0), (1.15, 1.0), (1.001, 1.0)], 0.0);
    let calls = [301_000, 300_000, 7_000, 204_000, 0];
    let mut participants: Vec<Outcome> =
        specs.into_iter().zip(calls).map(|(spec, calls)| outcome(spec, calls)).collect();
    let select = &mut participants[4];
    select.reason = Some("select cannot watch descriptors from 1024 on".to_owned());
    (select.stats, select.user_share, select.messages) = (None, None, 0);
    summary::table(SHAPE, participants, rounds)
}

fn synthetic_idle() -> IdleCosts {
    let row = |model: &str, cost: Result<Footprint, &str>| IdleRow {
        model: model.to_owned(),
        reason: cost.err().map(str::to_owned),
        cost: cost.ok(),
    };
    let cost = |memory, page_tables, descriptors, threads, processes| {
        Ok(Footprint { memory, page_tables, descriptors, threads, processes })
    };
    let rows = vec![
        row("epoll", cost(310.4, 8.2, 1.0, 0.0, 0.0)),
        row("process", cost(127_000.0, 61_440.0, 5.0, 1.0, 1.0)),
        row("blocking", Err("one connection at a time")),
    ];
    IdleCosts { from_connections: 500, connections: 1000, rows }
}

#[test]
fn a_comparison_is_rendered_as_text() {
    let environment = Environment {
        version: "0.1.0",
        kernel: Some("6.18.44".to_owned()),
        cpu: Some("AMD EPYC".to_owned()),
        cpus: 2,
        virtual_machine: Some(true),
        mitigations: vec!["spectre_v2: Mitigation: Retpolines".to_owned()],
        clocksource: Some("tsc".to_owned()),
        congestion_control: Some("bbr".to_owned()),
        ..Environment::default()
    };
    let comparison = Comparison {
        warnings: environment.warnings(),
        environment,
        plan: plan(&["uring", "epoll-et", "select"]),
        engine: "uring",
        tables: vec![synthetic_table()],
        idle: Some(synthetic_idle()),
    };
    let expected = "\
proactor 0.1.0 compare   seed 7419   servers on CPU 0, client on CPU 1 (engine uring)

kernel       6.18.44
cpu          AMD EPYC (2 usable, virtual)
mitigations  spectre_v2: Mitigation: Retpolines
settings     tcp bbr, governor none, clock tsc

64 connections, 64 B echo, depth 1, closed loop, 20 rounds of 40 ms slices, paired per round
model              msg/s  vs epoll           rate                  CPU µs/msg  vs epoll           CPU                   user   busy  calls/msg
epoll               100k                     baseline                   10.00                     baseline              12 %  100 %       3.01
epoll again (A/A)   100k  1.00 [0.99..1.00]  noise floor 2.0 %          10.00  1.00 [1.00..1.01]  noise floor 2.0 %     12 %  100 %       3.00
uring               115k  1.15 [1.14..1.16]  faster                      8.70  0.87 [0.87..0.87]  less                  12 %  100 %       0.07
epoll-et            100k  1.00 [1.00..1.01]  same (within ±2.0 %)        9.99  1.00 [0.99..1.00]  same (within ±2.0 %)  12 %  100 %       2.04
select                 –                     not measured
epoll: its own description
uring: its own description
epoll-et: its own description
select: not measured: select cannot watch descriptors from 1024 on
[..] encloses the median ratio with 95 % or more; wrong replies 0 of 400,000

In words:
  uring serves 14 to 16 % more messages than epoll, and takes 13 % less server CPU per message.
  epoll-et serves as many messages as epoll (within ±2.0 %), and takes the same server CPU per message (within ±2.0 %).
  select was not measured.

Cost of an idle connection to the server: the growth from 500 to 1,000 connections, which have each exchanged one message
model     memory  page tables  descriptors  threads  processes
epoll      310 B          8 B         1.00     0.00       0.00
process   127 kB      61.4 kB         5.00     1.00       1.00
blocking       –            –            –        –          –
blocking: not measured: one connection at a time
memory is that of the server and its children without files: what they share counts once. Of the kernel's memory, the table
has only page tables; sockets, and the stacks and tables of threads and processes, come in addition. Direct descriptors of
io_uring are slots of its ring and not descriptors of the process.

Warning: there are two CPUs, one for the servers and one for the client: every other program affects the numbers.
";
    assert_eq!(render::text(&comparison), expected);
}

fn comparison_of(table: ResultTable) -> Comparison {
    Comparison {
        environment: Environment::default(),
        plan: plan(&["uring"]),
        engine: "uring",
        tables: vec![table],
        idle: None,
        warnings: Vec::new(),
    }
}

/// Returns a table in which much is not known.
fn table_with_gaps() -> ResultTable {
    let specs = plan(&["uring+trace", "poll", "select"]).participants().into_iter();
    // Models of different phases have different numbers of rounds.
    let mut rounds = rounds_of(9, &[(1.0, 1.0), (1.15, 1.0), (0.8, 1.0)], 0.0);
    rounds[0].slices.truncate(5);
    let mut participants: Vec<Outcome> = specs.map(|spec| outcome(spec, 1)).collect();
    // One was killed before its counters arrived, one failed at the start.
    participants[2].stats = None;
    participants[2].about = "as it began".to_owned();
    participants[4].reason = Some("it ended".to_owned());
    let shape = LoadShape { connections: 1000, ..SHAPE };
    let mut table = summary::table(shape, participants, rounds);
    (table.rate_noise_floor, table.cpu_noise_floor) = (None, None);
    let measured = table.participants[2].measured.as_mut().expect("it was measured");
    measured.rate_ratio = None;
    (measured.rate_verdict, measured.cpu_verdict) = (Some(Verdict::Higher), Some(Verdict::Lower));
    table
}

#[test]
fn what_is_not_known_is_rendered_as_well() {
    let mut comparison = comparison_of(table_with_gaps());
    comparison.environment.virtual_machine = Some(false);
    comparison.tables.push(table_with_gaps());
    comparison.warnings = vec!["one".to_owned(), "two".to_owned()];
    let text = render::text(&comparison);
    for part in [
        "kernel       unknown\ncpu          unknown (0 usable, no hypervisor seen)\n",
        "mitigations  none known\nsettings     tcp unknown, governor none, clock unknown\n",
        "\n1,000 connections, 64 B echo, depth 1, closed loop, 8 to 9 rounds of 40 ms slices",
        "noise floor unknown",
        "uring+trace: as it began; recorded into a file\n",
        "select: not measured: it ended\n",
        "measured in pairs, one pair after the other",
        "uring+trace serves an unknown share more messages than epoll, and takes 12 to 13 % less",
        "\n  select was not measured.\n",
        "\n\nWarning: one\nWarning: two\n",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    assert_eq!(text.matches("as it began").count(), 1, "it is described once: {text}");
    let row = text.lines().find(|line| line.starts_with("uring+trace  ")).expect("a row");
    assert!(row.ends_with(" –"), "calls per message are unknown: {row}");
}

#[test]
fn a_server_that_was_not_busy_is_client_bound() {
    let rounds = rounds_of(20, &[(1.0, 1.0), (1.15, 0.8)], 0.0);
    let table = uring_table(rounds);
    let uring = table.participants[2].measured.as_ref().expect("it was measured");
    assert!(uring.is_client_bound);
    assert_eq!(uring.rate_verdict, Some(Verdict::Invalid));
    assert_eq!(uring.cpu_verdict, Some(Verdict::Lower));
    let advice = |engine| {
        let mut warnings = warnings(&table, engine).into_iter();
        warnings.find(|text| text.contains("did not keep all servers busy (uring)")).unwrap()
    };
    assert!(advice("epoll").ends_with("Use more --connections, or --engine uring."));
    assert!(advice("uring").ends_with("Use more --connections."), "it is already in use");
    assert!(render::text(&comparison_of(table)).contains("≥ 115k"));
}

#[test]
fn a_verdict_is_a_word_and_a_sentence() {
    let text = |verdict: Option<Verdict>| {
        let mut table = uring_table(rounds_of(20, &[(1.0, 1.0), (1.15, 1.0)], 0.0));
        let uring = table.participants[2].measured.as_mut().expect("it was measured");
        (uring.rate_verdict, uring.cpu_verdict) = (verdict, verdict);
        render::text(&comparison_of(table))
    };
    let expected = [
        (
            Some(Verdict::Higher),
            "faster",
            "more",
            "serves 14 to 16 % more messages than epoll",
            "takes 13 % more server CPU per message",
        ),
        (
            Some(Verdict::Lower),
            "slower",
            "less",
            "serves 14 to 16 % fewer messages than epoll",
            "takes 13 % less server CPU per message",
        ),
        (
            Some(Verdict::Same(0.04)),
            "same (within ±4.0 %)",
            "same (within ±4.0 %)",
            "serves as many messages as epoll (within ±4.0 %)",
            "takes the same server CPU per message (within ±4.0 %)",
        ),
        (
            Some(Verdict::NotShown),
            "not shown",
            "not shown",
            "is not shown to serve more or fewer messages than epoll",
            "is not shown to differ in server CPU",
        ),
        (
            Some(Verdict::Invalid),
            "invalid",
            "invalid",
            "has no valid rate here",
            "no valid CPU time",
        ),
        (
            None,
            "–",
            "–",
            "is not shown to serve more or fewer messages than epoll",
            "is not shown to differ in server CPU",
        ),
    ];
    for (verdict, rate, cpu, serves, takes) in expected {
        let text = text(verdict);
        let row = text.lines().find(|line| line.starts_with("uring  ")).expect("a row");
        let cells: Vec<&str> =
            row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!((cells[3], cells[6]), (rate, cpu), "{text}");
        assert!(
            text.ends_with(&format!("\nIn words:\n  uring {serves}, and {takes}.\n")),
            "{text}"
        );
    }
}

#[test]
fn a_server_that_waited_for_its_cpu_is_not_client_bound() {
    let mut rounds = rounds_of(20, &[(1.0, 1.0), (1.15, 0.8)], 0.0);
    for sample in rounds.iter_mut().flat_map(|round| &mut round.slices) {
        sample.server_waited = sample.slice.wall / 5;
    }
    let table = uring_table(rounds);
    let uring = table.participants[2].measured.as_ref().expect("it was measured");
    assert!(!uring.is_client_bound);
    assert_eq!(uring.rate_verdict, Some(Verdict::Higher));
    let warnings = warnings(&table, "epoll");
    let warning = "another program used the CPU of busy servers";
    assert!(warnings.iter().any(|text| text.contains(warning)), "{warnings:?}");
}

#[test]
fn a_host_that_takes_cpu_time_makes_all_findings_invalid() {
    let rounds = rounds_of(20, &[(1.0, 1.0), (1.15, 1.0)], 0.03);
    let table = uring_table(rounds);
    let uring = table.participants[2].measured.as_ref().expect("it was measured");
    assert_eq!(
        (uring.rate_verdict, uring.cpu_verdict),
        (Some(Verdict::Invalid), Some(Verdict::Invalid))
    );
    assert!(warnings(&table, "epoll").iter().any(|text| text.contains("no verdict is valid")));
}

#[test]
fn five_rounds_have_numbers_and_no_verdict() {
    let rounds = rounds_of(5, &[(1.0, 1.0), (1.5, 1.0)], 0.0);
    let table = uring_table(rounds);
    let uring = table.participants[2].measured.as_ref().expect("it was measured");
    assert_eq!(uring.rate_verdict, Some(Verdict::NotShown));
    assert!(warnings(&table, "epoll")[0].contains("there are 5 rounds; a verdict needs 6"));
}

#[test]
fn a_table_without_rounds_has_a_reason_for_each_model_and_no_verdict() {
    let table = uring_table(Vec::new());
    for participant in &table.participants {
        assert_eq!(participant.reason.as_deref(), Some("no round was completed"));
        assert_eq!(participant.measured, None);
    }
    assert_eq!((table.rate_noise_floor, table.cpu_noise_floor), (None, None));
}
