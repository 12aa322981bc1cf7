//! The results of a comparison, from synthetic blocks.

mod stand_ins;

use std::time::Duration;

use super::block::{MeasuredBlock, Sample, ServerUse};
use super::plan::{BASELINE, BLOCKS_MIN, Extent, ModelSpec, ParticipantSpec, Role, Rules};
use super::results::{GateVerdict, Measured, Outcome, ResultTable, Slowest};
use super::stats_line::{STATS_SCHEMA, ServerStats};
use super::verdict::{Ratio, Verdict};
use super::*;
use crate::idle::{Footprint, IdleCosts, IdleRow};
use crate::process_stat::CpuTicks;
use proactor::counters::Counters;
use proactor_load::{Arrivals, EngineChoice, LoadShape, LoadSlice, Offer, Workload};

const SHAPE: LoadShape = LoadShape { connections: 64, size: 64, depth: 1 };

/// Returns a slice of 40 ms with this rate and this CPU time of a message in µs.
fn sample(participant: usize, rate: f64, cpu_us: f64) -> Sample {
    let wall = Duration::from_millis(40);
    let messages = (rate * wall.as_secs_f64()).round() as u64;
    let slice = LoadSlice {
        messages,
        bytes: messages * 64,
        wall,
        cpu: wall,
        idle: wall / 2,
        longest_gap: wall / 200,
        unread_share: 0.1,
        ..LoadSlice::default()
    };
    Sample {
        participant,
        began_ns: 0,
        slice,
        server_cpu: Duration::from_secs_f64(messages as f64 * cpu_us * 1e-6),
        server_waited: Duration::ZERO,
        machine_ticks: Some(9),
        server_idle_cpu_share: 0.0,
    }
}

/// Returns blocks in which the baseline serves 100,000 messages a second for 10 µs each, and the
/// others have these relative rates and costs, within 1 %.
fn blocks_of(number: u32, others: &[(f64, f64)]) -> Vec<MeasuredBlock> {
    let block = |number: u32| {
        let noise = 1.0 + 0.01 * (f64::from(number % 5) - 2.0) / 2.0;
        let round = || {
            let row = |(at, &(rate, cpu)): (usize, &(f64, f64))| {
                sample(at + 1, 100_000.0 * rate * noise, 10.0 * cpu * noise)
            };
            let rows = others.iter().enumerate().map(row);
            rows.chain([sample(0, 100_000.0, 10.0)]).collect()
        };
        let server = |participant| ServerUse {
            participant,
            ticks: CpuTicks { user: 12, system: 88 },
            switches: Some(600),
            connection_messages: (180, 200),
            service_times: vec![(400_000, 900), (800_000, 90), (1_200_000, 10)],
            ..ServerUse::default()
        };
        MeasuredBlock {
            number,
            rounds: (0..3).map(|_| round()).collect(),
            servers: (0..=others.len()).map(server).collect(),
            ..MeasuredBlock::default()
        }
    };
    (0..number).map(block).collect()
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
    Outcome { stats: Some(stats), messages: 100_000, ..Outcome::new(spec) }
}

fn table(shape: LoadShape, participants: Vec<Outcome>, blocks: Vec<MeasuredBlock>) -> ResultTable {
    let judge = Judge { rules: Rules::DEFAULT, intervals: 2 * (participants.len() - 1) };
    summary::table(shape.into(), plan::SLICE, participants, blocks, &judge)
}

/// Returns the table of the baseline, its control and `uring` with these blocks.
fn uring_table(blocks: Vec<MeasuredBlock>) -> ResultTable {
    let participants = plan(&["uring"]).participants().into_iter().map(|spec| outcome(spec, 1));
    table(SHAPE, participants.collect(), blocks)
}

fn row(table: &ResultTable, at: usize) -> &Measured {
    table.participants[at].measured.as_ref().expect("it was measured")
}

fn verdicts(table: &ResultTable, at: usize) -> [Verdict; 2] {
    let Measured { cpu_ratio, rate_ratio, .. } = row(table, at);
    [cpu_ratio, rate_ratio].map(|ratio| ratio.as_ref().expect("it is no baseline").verdict)
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
        loads: vec![SHAPE.into()],
        extent: Extent::DEFAULT.of_blocks(2),
        rules: Rules::DEFAULT,
        idle: 0,
        seed: 7419,
        engine: EngineChoice::Auto,
        server_cpu: 0,
        client_cpu: 1,
    }
}

fn synthetic_table() -> ResultTable {
    let specs = plan(&["uring", "epoll-et", "select"]).participants();
    let blocks = blocks_of(20, &[(1.0, 1.0), (1.15, 0.87), (1.001, 1.0)]);
    let calls = [301_000, 300_000, 7_000, 204_000, 0];
    let mut participants: Vec<Outcome> =
        specs.into_iter().zip(calls).map(|(spec, calls)| outcome(spec, calls)).collect();
    let select = &mut participants[4];
    select.reason = Some("select cannot watch descriptors from 1024 on".to_owned());
    (select.stats, select.messages) = (None, 0);
    table(SHAPE, participants, blocks)
}

fn synthetic_idle() -> IdleCosts {
    let row = |model: &str, cost: Result<Footprint, &str>| IdleRow {
        model: model.to_owned(),
        reason: cost.err().map(str::to_owned),
        cost: cost.ok(),
    };
    let cost = |memory, page_tables, descriptors, threads, processes| {
        let kernel_memory = memory + 8192.0;
        Ok(Footprint { memory, page_tables, kernel_memory, descriptors, threads, processes })
    };
    let rows = vec![
        row("epoll", cost(310.4, 8.2, 1.0, 0.0, 0.0)),
        row("process", cost(127_000.0, 61_440.0, 5.0, 1.0, 1.0)),
        row("blocking", Err("one connection at a time")),
    ];
    IdleCosts { from_connections: 500, connections: 1000, rows }
}

fn comparison_of(table: ResultTable) -> Comparison {
    Comparison {
        environment: Environment::default(),
        plan: plan(&["uring"]),
        engine: "uring",
        intervals: 4,
        tables: vec![table],
        gates: Vec::new(),
        idle: None,
        interrupted: false,
        warnings: Vec::new(),
    }
}

fn synthetic_environment() -> Environment {
    Environment {
        version: "0.1.0",
        kernel: Some("6.18.44".to_owned()),
        cpu: Some("AMD EPYC".to_owned()),
        cpus: 2,
        virtual_machine: Some(true),
        mitigations: vec!["spectre_v2: Mitigation: Retpolines".to_owned()],
        clocksource: Some("tsc".to_owned()),
        congestion_control: Some("bbr".to_owned()),
        ..Environment::default()
    }
}

#[test]
fn a_comparison_is_rendered_as_text() {
    let environment = synthetic_environment();
    let comparison = Comparison {
        warnings: environment.warnings(),
        environment,
        plan: plan(&["uring", "epoll-et", "select"]),
        intervals: 6,
        idle: Some(synthetic_idle()),
        ..comparison_of(synthetic_table())
    };
    let expected = "\
proactor 0.1.0 compare   seed 7419   servers on CPU 0, client on CPU 1 (engine uring)

kernel       6.18.44
cpu          AMD EPYC (2 usable, virtual)
mitigations  spectre_v2: Mitigation: Retpolines
settings     tcp bbr, governor none, clock tsc

64 connections, 64 B echo, depth 1, closed loop, 20 blocks of fresh servers, 3 slices of 40 ms in each
model              msg/s  vs epoll              rate          CPU µs/msg  vs epoll              CPU
epoll               100k                        baseline           10.00                        baseline
epoll again (A/A)   100k  1.000 [0.993..1.007]  within ±5 %        10.00  1.000 [0.993..1.007]  within ±2 %
uring               115k  1.150 [1.142..1.158]  faster              8.70  0.870 [0.864..0.876]  less
epoll-et            100k  1.001 [0.994..1.008]  within ±5 %        10.00  1.000 [0.993..1.007]  within ±2 %
select                 –                        not measured
[..] 95 % for all 6 intervals of this run together, 20 blocks, 0 void; wrong replies 0 of 400,000

model              user µs  system µs  machine µs  calls/msg  switches/msg  iterations/msg  submitted/msg  completed/msg
epoll                 1.20       8.80       12.50       3.01          0.05            0.00           0.00           0.00
epoll again (A/A)     1.20       8.80       12.50       3.00          0.05            0.00           0.00           0.00
uring                 1.04       7.66       10.87       0.07          0.04            0.00           0.00           0.00
epoll-et              1.20       8.80       12.49       2.04          0.05            0.00           0.00           0.00

model              server busy  client waits  unread  least served  longest wait  p50                      p99
epoll                    100 %          50 %    10 %          90 %        200 µs  400 µs [400 µs..400 µs]  800 µs [800 µs..800 µs]
epoll again (A/A)        100 %          50 %    10 %          90 %        200 µs  400 µs [400 µs..400 µs]  800 µs [800 µs..800 µs]
uring                    100 %          50 %    10 %          90 %        200 µs  400 µs [400 µs..400 µs]  800 µs [800 µs..800 µs]
epoll-et                 100 %          50 %    10 %          90 %        200 µs  400 µs [400 µs..400 µs]  800 µs [800 µs..800 µs]
p50 and p99 are service times of a closed loop, in which a stall delays only one message of each connection: see the longest wait
epoll: its own description
uring: its own description
epoll-et: its own description
select: not measured: select cannot watch descriptors from 1024 on

In words, relative to epoll:
  epoll again (A/A) takes as much CPU per message within ±2 %: between 0.7 % less and 0.7 % more, and serves as many messages within ±5 %: between 0.7 % fewer and 0.7 % more.
  uring takes 12.4 to 13.6 % less CPU per message, and serves 14.2 to 15.8 % more messages.
  epoll-et takes as much CPU per message within ±2 %: between 0.7 % less and 0.7 % more, and serves as many messages within ±5 %: between 0.6 % fewer and 0.8 % more.
  select was not measured.

Cost of an idle connection to the server: the growth from 500 to 1,000 connections, which have each exchanged one message
model     memory  page tables  kernel, both ends  descriptors  threads  processes
epoll      310 B          8 B            8.50 kB         1.00     0.00       0.00
process   127 kB      61.4 kB             135 kB         5.00     1.00       1.00
blocking       –            –                  –            –        –          –
blocking: not measured: one connection at a time
memory is that of the server and its children without files: what they share counts once. The kernel's memory is that of
the whole machine, slabs that cannot be reclaimed and stacks: the client's end of a connection is in it. Direct descriptors
of io_uring are slots of its ring and not descriptors of the process.

Warning: there are two CPUs, one for the servers and one for the client: every other program affects the numbers.
";
    assert_eq!(render::text(&comparison), expected);
}

/// Returns the table of an open loop of 50,000 messages a second, of which `uring` serves fewer.
fn open_table() -> ResultTable {
    let mut blocks = blocks_of(20, &[(1.0, 1.0), (0.9, 1.0)]);
    for sample in blocks.iter_mut().flat_map(|block| &mut block.rounds).flatten() {
        let slice = &mut sample.slice;
        slice.messages /= 2;
        (slice.offered, slice.late) = (slice.messages, slice.messages / 100);
        slice.wall = slice.wall.mul_f64(1.0 + 0.1 * (sample.participant / 2) as f64);
    }
    for server in blocks.iter_mut().flat_map(|block| &mut block.servers) {
        server.latencies = vec![(500_000, 9_900), (900_000, 90), (5_000_000, 10)];
        server.offer_lags = vec![(100_000, 10_000)];
    }
    let offer = Some(Offer { rate: 50_000.0, arrivals: Arrivals::Poisson });
    let load = Workload { offer, ..LoadShape { depth: 1024, ..SHAPE }.into() };
    let participants = plan(&["uring"]).participants().into_iter().map(|spec| outcome(spec, 1));
    let judge = Judge { rules: Rules::DEFAULT, intervals: 4 };
    let table = summary::table(load, plan::SLICE, participants.collect(), blocks, &judge);
    let slowest = Some(Slowest { model: "uring".to_owned(), rate: 100_000.0 });
    ResultTable { slowest, ..table }
}

#[test]
fn an_open_loop_has_latencies_from_plan_to_reply() {
    let table = open_table();
    assert_eq!(
        warnings(&table, "uring"),
        ["at 64 connections and 50.0k msg/s uring did not hold the offered rate: their latencies \
          grow with the length of a slice, and are those of a queue. Lower --rate."]
    );
    let mut comparison = comparison_of(table);
    let gate: gate::Gate = "epoll p99 <= 600us".parse().expect("a condition");
    comparison.gates = gate.judge(&comparison);
    let text = render::text(&comparison);
    for part in [
        "64 connections, 64 B echo, up to depth 1024, open loop of 50.0k msg/s (poisson), 50 % of \
         what uring served in a closed loop, 20 blocks",
        "500 µs [500 µs..500 µs]  500 µs [500 µs..500 µs]\n",
        "model              sent late  never sent  p99.9                    service p99",
        "1.0 %         0 %  900 µs [900 µs..900 µs]  800 µs [800 µs..800 µs]  100 µs [100 µs",
        "p99 <= 600us, at 64 connections and 50.0k msg/s, epoll: holds",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
}

#[test]
fn an_open_loop_without_a_valid_block_has_the_numbers_of_all() {
    let shares = |void: Option<&str>| {
        let ResultTable { load, participants, mut blocks, .. } = open_table();
        blocks.iter_mut().for_each(|block| block.void = void.map(str::to_owned));
        let participants = participants.into_iter().map(|it| outcome(it.spec, 1)).collect();
        let judge = Judge { rules: Rules::DEFAULT, intervals: 4 };
        let table = summary::table(load, plan::SLICE, participants, blocks, &judge);
        let open = row(&table, 2).open.expect("an open loop");
        (open.is_behind, open.late_share, open.service_p99)
    };
    assert_eq!(shares(Some("a busy machine")), shares(None));
}

#[test]
fn a_comparison_as_markdown_has_its_tables_and_sentences() {
    let mut comparison = comparison_of(synthetic_table());
    comparison.warnings = vec!["one".to_owned()];
    comparison.tables[0].participants[2].spec.name = "a|b".to_owned();
    let text = render::markdown(&comparison);
    for part in [
        "\n| kernel ",
        "\n\n## 64 connections, 64 B echo",
        "\n| model             | msg/s |",
        "\n|-------------------|-------|",
        "\n| a\\|b ",
        "\n- a\\|b takes 12.4 to 13.6 % less",
        "\n- Warning: one\n",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
}

#[test]
fn a_comparison_as_csv_has_as_many_values_in_each_line_as_names() {
    let mut comparison = comparison_of(synthetic_table());
    comparison.tables.push(open_table());
    comparison.tables[0].participants[4].reason = Some("no \"such\" file".to_owned());
    let text = render::csv(&comparison);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 5 + 3);
    let count = |line: &str| line.split(',').count();
    assert!(lines.iter().all(|line| count(line) == count(lines[0])), "{text}");
    let starts = |at: usize, with: &str| assert!(lines[at].starts_with(with), "{}", lines[at]);
    starts(1, "echo,64,64,,1,,,\"epoll\",baseline,20,");
    starts(3, "echo,64,64,,1,,,\"uring\",model,20,");
    starts(8, "echo,64,64,,1024,50000.0,poisson,\"uring\",model,20,");
    assert!(lines[3].contains(",0.864,0.876,lower,"), "{}", lines[3]);
    assert!(lines[5].ends_with(",\"no \"\"such\"\" file\""), "{}", lines[5]);
}

/// Returns a table in which much is not known.
fn table_with_gaps() -> ResultTable {
    let specs = plan(&["uring+trace", "poll", "select"]).participants().into_iter();
    let blocks = blocks_of(9, &[(1.0, 1.0), (1.15, 0.87), (0.8, 1.0)]);
    let mut participants: Vec<Outcome> = specs.map(|spec| outcome(spec, 1)).collect();
    // One was killed before its counters arrived, one failed at the start.
    participants[2].stats = None;
    participants[2].about = "as it began".to_owned();
    participants[4].reason = Some("it ended".to_owned());
    table(LoadShape { connections: 1000, ..SHAPE }, participants, blocks)
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
        "\n1,000 connections, 64 B echo, depth 1, closed loop, 9 blocks of fresh servers, 3 slices",
        "too few blocks",
        "uring+trace: as it began; recorded into a file\n",
        "select: not measured: it ended\n",
        "measured in pairs, each with a baseline of its own",
        "uring+trace has no verdict on CPU per message: 9 of 12 blocks, and has no verdict on",
        "\n  select was not measured.\n",
        "\n\nWarning: one\nWarning: two\n",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    assert_eq!(text.matches("as it began").count(), 1, "it is described once: {text}");
}

#[test]
fn a_client_that_is_busy_while_messages_wait_for_the_server_is_not_the_limit() {
    let mut blocks = blocks_of(20, &[(1.0, 1.0), (1.15, 0.87)]);
    for sample in blocks.iter_mut().flat_map(|block| &mut block.rounds).flatten() {
        (sample.slice.idle, sample.slice.unread_share) = (Duration::ZERO, 0.03);
    }
    assert_eq!(verdicts(&uring_table(blocks), 2), [Verdict::Lower, Verdict::Higher]);
}

#[test]
fn a_client_for_which_messages_wait_is_the_limit_and_the_rate_has_no_verdict() {
    let mut blocks = blocks_of(20, &[(1.0, 1.0), (1.15, 0.87)]);
    for sample in blocks.iter_mut().flat_map(|block| &mut block.rounds).flatten() {
        if sample.participant == 2 {
            (sample.slice.idle, sample.slice.unread_share) = (sample.slice.wall / 100, 0.9);
        }
    }
    let table = uring_table(blocks);
    assert!(row(&table, 2).is_client_bound);
    assert_eq!(verdicts(&table, 2), [Verdict::Lower, Verdict::ClientBound]);
    assert_eq!(verdicts(&table, 1), [Verdict::Within, Verdict::Within]);
    let advice = |engine| {
        let mut warnings = warnings(&table, engine).into_iter();
        let bound = "messages waited for the client, and not for the server (uring)";
        warnings.find(|text| text.contains(bound)).expect("a warning")
    };
    assert!(advice("epoll").ends_with("Use --engine uring."));
    assert!(advice("uring").ends_with("Use a smaller --depth."), "it is already in use");
    let text = render::text(&comparison_of(table));
    assert!(text.contains("≥ 115k") && text.contains("CLIENT-BOUND"), "{text}");
    assert!(text.contains("and has no verdict on messages: the client was the limit."), "{text}");
}

/// A baseline whose rate the client sets leaves no rate to compare with.
#[test]
fn a_baseline_that_the_client_bounds_leaves_no_verdict_on_any_rate() {
    let mut blocks = blocks_of(20, &[(1.0, 1.0), (0.8, 1.2)]);
    for sample in blocks.iter_mut().flat_map(|block| &mut block.rounds).flatten() {
        if sample.participant == 0 {
            (sample.slice.idle, sample.slice.unread_share) = (Duration::ZERO, 0.9);
        }
    }
    let table = uring_table(blocks);
    assert_eq!(verdicts(&table, 2), [Verdict::Higher, Verdict::ClientBound]);
    assert_eq!(verdicts(&table, 1)[1], Verdict::ClientBound);
}

/// A server that does nothing in 8 ms of every 100 keeps the client waiting, however busy the
/// client is in between.
#[test]
fn a_server_that_stalls_is_named_and_not_client_bound() {
    let mut blocks = blocks_of(20, &[(1.0, 1.0), (0.92, 1.0)]);
    for sample in blocks.iter_mut().flat_map(|block| &mut block.rounds).flatten() {
        if sample.participant == 2 {
            (sample.slice.idle, sample.slice.unread_share) = (sample.slice.wall * 8 / 100, 0.9);
            sample.slice.longest_gap = Duration::from_millis(8);
        }
    }
    let table = uring_table(blocks);
    assert_eq!(verdicts(&table, 2), [Verdict::Within, Verdict::Lower]);
    let warnings = warnings(&table, "uring");
    assert!(warnings[0].ends_with(
        "nothing came for more than 5.00 ms in half of the blocks although replies were owed: uring. The \
         server, or its CPU, stood still."
    ));
    assert_eq!(warnings.len(), 1);
}

/// The median of the rounds leaves out what comes in one round of three, and the totals do not.
#[test]
fn a_cost_that_comes_in_bursts_is_not_within() {
    let mut blocks = blocks_of(20, &[(1.0, 1.0), (1.0, 1.0)]);
    for block in &mut blocks {
        let rounds = &mut block.rounds[block.number as usize % 3];
        let slice = rounds.iter_mut().find(|sample| sample.participant == 2);
        slice.expect("one of each").server_cpu *= 2;
    }
    let table = uring_table(blocks);
    assert!(row(&table, 2).cost_in_bursts && !row(&table, 1).cost_in_bursts);
    assert_eq!(verdicts(&table, 2), [Verdict::NotShown, Verdict::Within]);
    let text = render::text(&comparison_of(table));
    assert!(text.contains("(its cost comes in bursts), and serves as many"), "{text}");
}

#[test]
fn void_blocks_do_not_count_and_are_named() {
    let mut blocks = blocks_of(24, &[(1.0, 1.0), (1.0, 1.0)]);
    for block in &mut blocks[20..] {
        block.void = Some("the host took 9 % of the time of the two CPUs".to_owned());
        for sample in block.rounds.iter_mut().flatten() {
            sample.server_cpu *= 1 + sample.participant as u32;
        }
    }
    let table = uring_table(blocks.clone());
    assert_eq!(verdicts(&table, 2), [Verdict::Within, Verdict::Within]);
    assert_eq!(row(&table, 2).blocks, 20);
    let expected = "4 of 24 blocks are void, and do not count: the host took 9 % of the time of the \
                    two CPUs, in the first of them. Use an idle machine.";
    assert!(warnings(&table, "uring")[0].ends_with(expected), "{:?}", warnings(&table, "uring"));
    let text = render::text(&comparison_of(table));
    assert!(text.contains("95 % for all 4 intervals of this run together, 20 blocks, 4 void"));
    // Where none is valid, the numbers are those of what was measured, without a word.
    let table = uring_table(blocks.split_off(20));
    assert_eq!(row(&table, 2).blocks, 4);
    assert_eq!(row(&table, 2).cpu_ratio, None);
}

#[test]
fn eleven_blocks_have_numbers_and_no_word() {
    let table = uring_table(blocks_of(BLOCKS_MIN - 1, &[(1.0, 1.0), (1.5, 1.0)]));
    assert_eq!(verdicts(&table, 2), [Verdict::TooFewBlocks; 2]);
    let Ratio { centre, interval, .. } = row(&table, 2).rate_ratio.clone().expect("a ratio");
    assert!((centre - 1.5).abs() < 0.01 && interval.is_none(), "{centre}");
}

#[test]
fn a_control_that_differs_is_said_before_all_tables() {
    let head = |control| {
        let table = uring_table(blocks_of(20, &[control, (1.0, 1.0)]));
        let text = render::text(&comparison_of(table));
        text.lines().nth(1).unwrap_or_default().to_owned()
    };
    let misses = "THE A/A ROW MISSES 1.000: the same server differs from itself.";
    assert!(head((1.0, 1.05)).starts_with(misses), "{}", head((1.0, 1.05)));
    assert!(head((1.1, 1.0)).starts_with(misses));
    assert_eq!(head((1.0, 1.0)), "");
}

#[test]
fn a_gate_is_judged_by_the_interval_of_its_row() {
    let mut comparison = comparison_of(uring_table(blocks_of(20, &[(1.0, 1.0), (1.15, 0.87)])));
    let judged = |text: &str| -> Vec<(String, GateVerdict)> {
        let gate: gate::Gate = text.parse().expect("a condition");
        assert_eq!(gate.wrong_name(&comparison.plan), None, "{text}");
        gate.judge(&comparison).into_iter().map(|it| (it.model, it.verdict)).collect()
    };
    let one = |text| judged(text).remove(0).1;
    assert_eq!(one("uring cpu <= 0.97 epoll"), GateVerdict::Holds);
    assert_eq!(one("uring cpu <= 0.87 epoll"), GateVerdict::Undecided);
    assert_eq!(one("uring rate >= 1.2 epoll"), GateVerdict::Fails);
    let all = judged("p99 <= 1ms");
    let holds = |name: &str| (name.to_owned(), GateVerdict::Holds);
    assert_eq!(all, [holds("epoll"), holds("uring")], "one of a hundred is slower");
    assert_eq!(one("uring p99.5 <= 1ms"), GateVerdict::Fails);
    assert_eq!(one("uring p50 <= 1ms"), GateVerdict::Holds);
    let wrong = |text: &str| {
        let gate: gate::Gate = text.parse().expect("a condition");
        gate.wrong_name(&comparison.plan).expect("a wrong name")
    };
    let baseline = "the ratios are to \"epoll\", not to \"poll\" (--baseline)";
    assert_eq!(wrong("uring cpu <= 1 poll"), baseline);
    assert!(wrong("select p99 <= 2ms").starts_with("\"select\" is not among the models"));
    let gate: gate::Gate = "uring cpu <= 0.97 epoll".parse().expect("a condition");
    comparison.gates = gate.judge(&comparison);
    let text = render::text(&comparison);
    let line = "  uring cpu <= 0.97 epoll, at 64 connections, uring: holds (0.870 [0.864..0.876], half \
                a width of 0.6 %)\n";
    assert!(text.contains(&format!("\nGates:\n{line}")), "{text}");
}

#[test]
fn a_machine_whose_speed_changes_says_so() {
    let mut blocks = blocks_of(20, &[(1.0, 1.0), (1.0, 1.0)]);
    for sample in blocks[..10].iter_mut().flat_map(|block| &mut block.rounds).flatten() {
        sample.server_cpu = sample.server_cpu * 3 / 2;
    }
    let table = uring_table(blocks);
    assert_eq!(verdicts(&table, 2), [Verdict::Within, Verdict::Within], "the ratio is the same");
    let warnings = warnings(&table, "uring");
    assert!(warnings[0].contains("the machine's own speed changed by 50 % during the run"));
}

#[test]
fn a_server_that_waited_for_its_cpu_is_named() {
    let mut blocks = blocks_of(20, &[(1.0, 1.0), (1.15, 0.8)]);
    for sample in blocks.iter_mut().flat_map(|block| &mut block.rounds).flatten() {
        sample.server_waited = sample.slice.wall / 5;
    }
    let warnings = warnings(&uring_table(blocks), "epoll");
    let warning = "another program used the CPU of busy servers";
    assert!(warnings.iter().any(|text| text.contains(warning)), "{warnings:?}");
}

#[test]
fn a_table_without_blocks_has_a_reason_for_each_model_and_no_verdict() {
    let table = uring_table(Vec::new());
    for participant in &table.participants {
        assert_eq!(participant.reason.as_deref(), Some("no block was completed"));
        assert_eq!(participant.measured, None);
    }
    assert!(comparison_of(table).is_empty());
}
