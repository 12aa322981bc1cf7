//! Whole comparisons, with synthetic slices and with a small server in a child process.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use std::process::Command;
use std::time::Duration;

use super::plan::{BASELINE, Budget, ModelSpec, ParticipantSpec, Role};
use super::process_tree::ProcessTree;
use super::progress::{Activity, Progress};
use super::results::{Outcome, ResultTable};
use super::sampling::{Round, Sample, SampleProgress};
use super::server_process::ServerError;
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
    let slice = LoadSlice { messages, bytes, wall, cpu: wall, idle: wall / 2, unread_share: 0.1 };
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
        counters,
    };
    Outcome { stats: Some(stats), messages: 100_000, ..Outcome::new(spec) }
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
    (select.stats, select.messages) = (None, 0);
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
        schema: SCHEMA,
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
model              msg/s  vs epoll           rate                  CPU µs/msg  vs epoll           CPU                    busy  calls/msg
epoll               100k                     baseline                   10.00                     baseline              100 %       3.01
epoll again (A/A)   100k  1.00 [0.99..1.00]  noise floor 2.0 %          10.00  1.00 [1.00..1.01]  noise floor 2.0 %     100 %       3.00
uring               115k  1.15 [1.14..1.16]  faster                      8.70  0.87 [0.87..0.87]  less                  100 %       0.07
epoll-et            100k  1.00 [1.00..1.01]  same (within ±2.0 %)        9.99  1.00 [0.99..1.00]  same (within ±2.0 %)  100 %       2.04
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
        schema: SCHEMA,
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

#[test]
fn every_table_has_a_round_even_if_the_time_ended_before_it_began() {
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let budget = Budget::Seconds(1);
    // Each server of the later tables starts after the end of the second.
    let plan = ComparisonPlan {
        loads: vec![load; 3],
        budget,
        client_cpu: 0,
        ..plan(&["other", "b", "c"])
    };
    let comparison = run(&plan, &stand_in, &mut |_| true).expect("correct servers");
    assert_eq!(comparison.tables.len(), 3);
    for table in &comparison.tables {
        let measured = table.participants.iter().filter(|one| one.measured.is_some());
        assert_eq!((measured.count(), table.rounds.is_empty()), (5, false), "{table:?}");
    }
    let last = comparison.tables.last().expect("three tables");
    let verdict = last.participants[2].measured.as_ref().expect("a round").rate_verdict;
    assert!(matches!(verdict, Some(Verdict::NotShown | Verdict::Invalid)), "{verdict:?}");
    let few = "there is 1 round; a verdict needs 6. Use more --time or --rounds.";
    assert!(comparison.warnings.iter().any(|text| text.contains(few)), "{:?}", comparison.warnings);
}

/// Started as a child process, this test is a server that echoes with a thread per connection. Its
/// model selects a fault: `liar` changes a byte, `mute` sends nothing, `absent` does not start.
#[test]
fn a_stand_in_server() {
    let Ok(model) = std::env::var("PROACTOR_STAND_IN") else { return };
    if model == "absent" {
        eprintln!("no such model: absent");
        std::process::exit(2);
    }
    // It is killed below; the limit is for the case that this process is killed.
    let burn = || Command::new("/bin/sh").args(["-c", "ulimit -t 60; while :; do :; done"]).spawn();
    let child = (model == "parent").then(|| burn().expect("a shell"));
    let stop = os::ShutdownSignal::new().expect("a descriptor");
    stop.on_signals().expect("a descriptor");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    println!("\nlistening on {} (stand-in, echo)", listener.local_addr().expect("it is bound"));
    let serving = model.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, model) = (stream.expect("a connection"), serving.clone());
            thread::spawn(move || {
                let (mut buffer, mut echoed) = ([0; 4096], 0);
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    echoed += len;
                    if model == "liar" && echoed > 20_000 {
                        buffer[0] ^= 1;
                    }
                    let must_die = || {
                        std::env::var_os("PROACTOR_DIE")
                            .is_some_and(|file| std::path::Path::new(&file).exists())
                    };
                    if model == "mortal" && echoed > 20_000 || model == "doomed" && must_die() {
                        eprintln!("error: a fatal accident");
                        std::process::exit(7);
                    }
                    if model == "hanging" && echoed > 20_000 {
                        eprintln!("2026-11-21T00:00:00Z  WARN no connection is served");
                        thread::park();
                    }
                    if model != "mute" && stream.write_all(&buffer[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    while stop.take() == 0 {
        thread::park_timeout(Duration::from_millis(5));
    }
    if let Some(mut child) = child {
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
    }
    println!(r#"{{"schema":"proactor.stats/2","model":"{model}","counters":{{"calls":123}}}}"#);
    std::process::exit(0);
}

fn stand_in(ModelSpec { model, .. }: &ModelSpec) -> Result<Command, ServerError> {
    let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
    command
        .args(["--exact", "tests::a_stand_in_server", "--nocapture"])
        .env("PROACTOR_STAND_IN", model);
    Ok(command)
}

/// Compares stand-ins; client and servers may share a CPU.
fn compared(models: &[&str], budget: Budget) -> anyhow::Result<Comparison> {
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let plan = ComparisonPlan { loads: vec![load], budget, client_cpu: 0, ..plan(models) };
    run(&plan, &stand_in, &mut |_| true)
}

/// Returns why this model has no numbers, and asserts that the others have.
fn reason(model: &str, budget: Budget) -> String {
    let comparison = compared(&[model, "other"], budget).expect("one failed model ends nothing");
    let rows = &comparison.tables[0].participants;
    for other in [0, 1, 3] {
        assert!(rows[other].measured.is_some(), "{:?}", rows[other]);
    }
    assert!(render::text(&comparison).contains(&format!("{model}: not measured: ")));
    rows[2].reason.clone().expect("it has no numbers")
}

#[test]
fn a_server_that_dies_is_a_row_with_its_last_log_line() {
    let reason = reason("mortal", Budget::Rounds(3));
    assert!(
        reason.starts_with("the server ended (exit status: 7): a fatal accident; "),
        "{reason}"
    );
}

#[test]
fn a_server_that_dies_during_sampling_is_a_row_with_its_last_log_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("die");
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let budget = Budget::Rounds(3);
    let plan =
        ComparisonPlan { loads: vec![load], budget, client_cpu: 0, ..plan(&["doomed", "other"]) };
    let command = |model: &ModelSpec| {
        let mut start = stand_in(model)?;
        start.env("PROACTOR_DIE", &file);
        Ok(start)
    };
    let mut watch = |progress: &Progress<'_>| {
        if matches!(progress.activity, Activity::Sampled(SampleProgress { round: 1, .. })) {
            std::fs::write(&file, "").expect("a writable directory");
        }
        true
    };
    let comparison = run(&plan, &command, &mut watch).expect("one failed model ends nothing");
    let rows = &comparison.tables[0].participants;
    assert_eq!(rows[3].measured.as_ref().expect("it is correct").slices, 3);
    let reason = rows[2].reason.as_deref().expect("it died in the second round");
    assert!(
        reason.starts_with("the server ended (exit status: 7): a fatal accident; "),
        "{reason}"
    );
}

#[test]
fn a_server_that_hangs_is_a_row_with_its_last_log_line() {
    let reason = reason("hanging", Budget::Rounds(2));
    assert!(reason.contains("has stalled"), "{reason}");
    assert!(reason.ends_with("; the server said: no connection is served"), "{reason}");
}

#[test]
fn a_known_limit_is_a_row_and_not_tried() {
    assert_eq!(
        reason("blocking", Budget::Rounds(1)),
        "does not serve several connections at once: the next is accepted when the current one is \
         closed"
    );
}

#[test]
fn a_server_without_a_command_is_a_row_with_the_reason() {
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let budget = Budget::Rounds(1);
    let models = ["other+trace", "another"];
    let plan = ComparisonPlan { loads: vec![load], budget, client_cpu: 0, ..plan(&models) };
    let command = |model: &ModelSpec| match model.recorded {
        true => Err(ServerError("no space".to_owned())),
        false => stand_in(model),
    };
    let comparison = run(&plan, &command, &mut |_| true).expect("the others can");
    let reasons = |table: &ResultTable| -> Vec<Option<String>> {
        table.participants.iter().map(|participant| participant.reason.clone()).collect()
    };
    let expected = [None, None, Some("no space".to_owned()), None];
    assert_eq!(reasons(&comparison.tables[0]), expected);
}

#[test]
fn a_baseline_that_fails_is_an_error_of_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("die");
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let plan = ComparisonPlan { loads: vec![load], client_cpu: 0, ..plan(&["other"]) };
    let command = |_: &ModelSpec| {
        let mut start = stand_in(&"doomed".into())?;
        start.env("PROACTOR_DIE", &file);
        Ok(start)
    };
    let fails = |when: fn(&Activity) -> bool| {
        let _ = std::fs::remove_file(&file);
        let mut watch = |progress: &Progress<'_>| {
            if when(&progress.activity) {
                std::fs::write(&file, "").expect("a writable directory");
            }
            true
        };
        let error = run(&plan, &command, &mut watch);
        format!("{:#}", error.expect_err("without it there is nothing to compare with"))
    };
    let at_once = fails(|_| true);
    assert!(at_once.starts_with("the baseline, epoll, cannot run: the server ended"), "{at_once}");
    let later = fails(|activity| matches!(activity, Activity::Sampled(..)));
    assert!(later.starts_with("the baseline, epoll, cannot go on: the server ended"), "{later}");
    for text in [at_once, later] {
        assert!(text.contains("a fatal accident"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn the_cpu_of_a_child_counts_and_a_spinning_server_is_stopped() {
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let budget = Budget::Rounds(3);
    let plan =
        ComparisonPlan { loads: vec![load], budget, client_cpu: 0, ..plan(&["parent", "other"]) };
    let mut seen = 0;
    let mut watch = |progress: &Progress<'_>| {
        if matches!(progress.activity, Activity::Sampled(..))
            && progress.participant.model != ModelSpec::from("parent")
        {
            let (all, stopped) = stand_ins("parent");
            assert_eq!((all, stopped), (2, 2), "both are stopped in the slices of others");
            seen += 1;
        }
        true
    };
    let comparison = run(&plan, &stand_in, &mut watch).expect("correct servers");
    assert_eq!(seen, 3 * 6, "one of seven slices in a round is its own");
    let table = &comparison.tables[0];
    let row = |at: usize| table.participants[at].measured.as_ref().expect("it was measured");
    let (parent, other) = (row(2), row(3));
    assert!(parent.is_spinning, "its child burns a CPU: {parent:?}");
    assert!(!other.is_spinning && !row(0).is_spinning, "{other:?}");
    let warnings = warnings(table, "epoll");
    assert!(warnings.iter().any(|text| text.contains("parent used CPU time while idle")));
    let samples = |at| {
        let all = table.rounds.iter().flat_map(|round| &round.slices);
        all.filter(move |sample| sample.participant == at)
    };
    assert!(samples(2).all(|sample| sample.server_idle_cpu_share > summary::SPINNING));
    assert!(samples(0).chain(samples(3)).all(|sample| !sample.server_cpu.is_zero()));
}

/// Returns the number of stand-in processes of this model, and how many of them are stopped.
fn stand_ins(model: &str) -> (usize, usize) {
    let environment = format!("PROACTOR_STAND_IN={model}\0");
    let read = |pid: u32, file: &str| {
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default())
            .into_owned()
    };
    let all = ProcessTree::of(std::process::id()).expect("this process runs");
    let ours = all.pids.iter().filter(|&&pid| read(pid, "environ").contains(&environment));
    let stopped = |&&pid: &&u32| read(pid, "status").contains("State:\tT");
    (ours.clone().count(), ours.filter(stopped).count())
}

#[test]
fn the_cost_of_idle_connections_is_measured_for_each_model() {
    let load = LoadShape { connections: 1, size: 64, depth: 1 };
    let plan = ComparisonPlan {
        loads: vec![load],
        budget: Budget::Rounds(1),
        idle: 20,
        client_cpu: 0,
        ..plan(&["blocking", "absent"])
    };
    let comparison = run(&plan, &stand_in, &mut |_| true).expect("a correct baseline");
    let idle = comparison.idle.as_ref().expect("it was asked for");
    let names: Vec<&str> = idle.rows.iter().map(|row| row.model.as_str()).collect();
    assert_eq!(names, ["epoll", "blocking", "absent"], "the baseline is measured once");
    let cost = idle.rows[0].cost.expect("it was measured");
    assert_eq!((cost.descriptors, cost.threads, cost.processes), (1.0, 1.0, 0.0));
    assert!(cost.memory > 0.0, "a thread has a stack");
    let reason = |at: usize| idle.rows[at].reason.as_deref().unwrap_or("none");
    assert!(reason(1).starts_with("does not serve several connections at once"), "{}", reason(1));
    assert_eq!(reason(2), "no such model: absent");
    let text = render::text(&comparison);
    assert!(text.contains("absent: not measured: no such model: absent"), "{text}");
    let json = serde_json::to_value(&comparison).expect("it is plain data");
    assert_eq!(json["idle"]["rows"][0]["cost"]["threads"], 1.0);
}

#[test]
fn servers_are_started_measured_and_report_their_counters() {
    let comparison = compared(&["other", "absent"], Budget::Rounds(2)).expect("correct servers");
    let table = &comparison.tables[0];
    let roles: Vec<Role> = table.participants.iter().map(|one| one.spec.role).collect();
    assert_eq!(roles, [Role::Baseline, Role::Control, Role::Model, Role::Model]);
    assert_eq!(table.rounds.len(), 2);
    for participant in &table.participants[..3] {
        let stats = participant.stats.as_ref().expect("it reported its counters");
        assert_eq!(stats.counters.calls, 123);
        assert!(participant.messages > 0);
        assert_eq!(participant.about, "stand-in, echo");
        assert!(participant.measured.as_ref().expect("it was measured").cpu_us > 0.0);
    }
    assert_eq!(table.participants[3].reason.as_deref(), Some("no such model: absent"));
    let json = serde_json::to_value(&comparison).expect("it is plain data");
    assert_eq!(json["schema"], "proactor.compare/3");
    assert_eq!(json["tables"][0]["rounds"].as_array().map(Vec::len), Some(2));
    assert!(json["tables"][0]["rounds"][0]["slices"][0]["server_cpu_ns"].is_u64());
}

#[test]
fn a_wrong_byte_makes_the_whole_run_void() {
    let error = compared(&["liar"], Budget::Rounds(1000)).expect_err("a byte was changed");
    let text = format!("{error:#}");
    assert!(text.starts_with("liar"), "{text}");
    assert!(text.contains("wrong reply on connection"), "{text}");
}

#[test]
fn an_interrupted_comparison_has_the_results_until_then() {
    let load = LoadShape { connections: 1, size: 64, depth: 1 };
    let plan = ComparisonPlan { loads: vec![load; 2], client_cpu: 0, ..plan(&[]) };
    let mut slices = 0;
    let comparison = run(&plan, &stand_in, &mut |progress| {
        slices += u32::from(matches!(progress.activity, Activity::Sampled(..)));
        slices < 4
    });
    let comparison = comparison.expect("correct servers");
    assert_eq!(comparison.tables.len(), 1);
    assert_eq!(
        comparison.tables[0].rounds.len(),
        1,
        "three slices, and a fourth that begins the next round"
    );
    assert!(comparison.warnings.iter().any(|text| text.starts_with("interrupted: ")));
}

#[test]
fn a_comparison_can_be_interrupted_before_the_first_slice() {
    for end in 1..=4 {
        let load = LoadShape { connections: 1, size: 64, depth: 1 };
        let plan = ComparisonPlan { loads: vec![load], client_cpu: 0, idle: 5, ..plan(&["other"]) };
        let mut reports = 0;
        let comparison = run(&plan, &stand_in, &mut |_| {
            reports += 1;
            reports < end
        });
        match comparison {
            Ok(comparison) => assert!(comparison.idle.is_none()),
            Err(error) => assert!(error.to_string().contains("interrupted"), "{error:#}"),
        }
    }
}
