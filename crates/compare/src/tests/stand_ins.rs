//! Comparisons of servers in child processes, of which some fail.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::*;
use crate::plan::{OfferedRate, OpenLoop, PlannedLoad};
use crate::process_tree::ProcessTree;
use crate::progress::{Activity, Progress};
use crate::server_process::{ServerCommand, ServerError};

/// Started as a child process, this test is a server that echoes with a thread per connection. Its
/// model selects a fault: `liar` changes a byte, `mute` sends nothing, `absent` does not start,
/// `staller` does nothing for half of the time.
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
    let (serving, began) = (model.clone(), std::time::Instant::now());
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
                    let millis = began.elapsed().as_millis() % 100;
                    if model == "staller" && millis >= 50 {
                        thread::sleep(Duration::from_millis(100 - millis as u64));
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

fn stand_in(ModelSpec { model, .. }: &ModelSpec) -> Result<ServerCommand, ServerError> {
    let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
    command
        .args(["--exact", "tests::stand_ins::a_stand_in_server", "--nocapture"])
        .env("PROACTOR_STAND_IN", model);
    Ok(command.into())
}

/// Compares stand-ins; client and servers may share a CPU.
fn compared(models: &[&str], blocks: u32) -> anyhow::Result<Comparison> {
    let load = LoadShape { connections: 2, size: 64, depth: 1 }.into();
    let extent = Extent::DEFAULT.of_blocks(blocks);
    let plan = ComparisonPlan { loads: vec![load], extent, client_cpu: 0, ..plan(models) };
    run(&plan, &stand_in, &mut |_| true)
}

/// Returns why this model has no numbers, and asserts that the others have.
fn reason(model: &str, blocks: u32) -> String {
    let comparison = compared(&[model, "other"], blocks).expect("one failed model ends nothing");
    let rows = &comparison.tables[0].participants;
    for other in [0, 1, 3] {
        assert!(rows[other].measured.is_some(), "{:?}", rows[other]);
    }
    assert!(render::text(&comparison).contains(&format!("{model}: not measured: ")));
    rows[2].reason.clone().expect("it has no numbers")
}

#[test]
fn a_server_that_dies_is_a_row_with_its_last_log_line() {
    let reason = reason("mortal", 1);
    assert!(
        reason.starts_with("the server ended (exit status: 7): a fatal accident; "),
        "{reason}"
    );
}

#[test]
fn a_server_that_dies_during_sampling_is_a_row_with_its_last_log_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("die");
    let load = LoadShape { connections: 2, size: 64, depth: 1 }.into();
    let plan = ComparisonPlan { loads: vec![load], client_cpu: 0, ..plan(&["doomed", "other"]) };
    let command = |model: &ModelSpec| {
        let mut start = stand_in(model)?;
        start.command.env("PROACTOR_DIE", &file);
        Ok(start)
    };
    let mut watch = |progress: &Progress<'_>| {
        if progress.block == (1, 2) && matches!(progress.activity, Activity::Sampled(..)) {
            std::fs::write(&file, "").expect("a writable directory");
        }
        true
    };
    let comparison = run(&plan, &command, &mut watch).expect("one failed model ends nothing");
    let rows = &comparison.tables[0].participants;
    assert_eq!(comparison.tables[0].blocks[1].slices(3).count(), 3, "it goes on without it");
    let reason = rows[2].reason.as_deref().expect("it died in the second block");
    assert!(
        reason.starts_with("the server ended (exit status: 7): a fatal accident; "),
        "{reason}"
    );
}

#[test]
fn a_server_that_hangs_is_a_row_with_its_last_log_line() {
    let reason = reason("hanging", 1);
    assert!(reason.contains("has stalled"), "{reason}");
    assert!(reason.ends_with("; the server said: no connection is served"), "{reason}");
}

#[test]
fn a_known_limit_is_a_row_and_not_tried() {
    assert_eq!(
        reason("blocking", 1),
        "does not serve several connections at once: the next is accepted when the current one is \
         closed"
    );
}

#[test]
fn a_server_without_a_command_is_a_row_with_the_reason() {
    let load = LoadShape { connections: 2, size: 64, depth: 1 }.into();
    let models = ["other+trace", "another"];
    let plan = ComparisonPlan { loads: vec![load], client_cpu: 0, ..plan(&models) };
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
    let load = LoadShape { connections: 2, size: 64, depth: 1 }.into();
    let plan = ComparisonPlan { loads: vec![load], client_cpu: 0, ..plan(&["other"]) };
    let command = |_: &ModelSpec| {
        let mut start = stand_in(&"doomed".into())?;
        start.command.env("PROACTOR_DIE", &file);
        Ok(start)
    };
    let fails = |when: fn(&Progress<'_>) -> bool| {
        let _ = std::fs::remove_file(&file);
        let mut watch = |progress: &Progress<'_>| {
            if when(progress) {
                std::fs::write(&file, "").expect("a writable directory");
            }
            true
        };
        let error = run(&plan, &command, &mut watch);
        format!("{:#}", error.expect_err("without it there is nothing to compare with"))
    };
    let at_once = fails(|_| true);
    assert!(at_once.starts_with("the baseline, epoll, cannot run: the server ended"), "{at_once}");
    let later = fails(|progress| {
        progress.block.1 > 0 && matches!(progress.activity, Activity::Sampled(..))
    });
    assert!(later.starts_with("the baseline, epoll, cannot go on: the server ended"), "{later}");
    for text in [at_once, later] {
        assert!(text.contains("a fatal accident"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn the_cpu_of_a_child_counts_and_a_spinning_server_is_stopped() {
    let load = LoadShape { connections: 2, size: 64, depth: 1 }.into();
    let plan = ComparisonPlan { loads: vec![load], client_cpu: 0, ..plan(&["parent", "other"]) };
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
    assert_eq!(seen, 3 + 2 * 3 * 3, "of three others, a slice in the trial and in each round");
    let table = &comparison.tables[0];
    assert!(row(table, 2).is_spinning, "its child burns a CPU: {:?}", row(table, 2));
    assert!(!row(table, 3).is_spinning && !row(table, 0).is_spinning, "{:?}", row(table, 3));
    let warnings = warnings(table, "epoll");
    assert!(warnings.iter().any(|text| text.contains("parent used CPU time while idle")));
    let samples = |at| table.blocks.iter().flat_map(move |block| block.slices(at));
    assert!(samples(2).all(|sample| sample.server_idle_cpu_share > connected_server::SPINNING));
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
    let ours = all
        .pids
        .iter()
        .map(|pid| pid.folder)
        .filter(|&pid| read(pid, "environ").contains(&environment));
    let stopped = |&pid: &u32| read(pid, "status").contains("State:\tT");
    (ours.clone().count(), ours.filter(stopped).count())
}

#[test]
fn the_cost_of_idle_connections_is_measured_for_each_model() {
    let load = LoadShape { connections: 1, size: 64, depth: 1 }.into();
    let plan = ComparisonPlan {
        loads: vec![load],
        extent: Extent::DEFAULT.of_blocks(1),
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
    let comparison = compared(&["other", "absent"], 2).expect("correct servers");
    let table = &comparison.tables[0];
    let roles: Vec<Role> = table.participants.iter().map(|one| one.spec.role).collect();
    assert_eq!(roles, [Role::Baseline, Role::Control, Role::Model, Role::Model]);
    for participant in &table.participants[..3] {
        let stats = participant.stats.as_ref().expect("it reported its counters");
        let blocks = table.blocks.len() as u64;
        assert_eq!(stats.counters.calls, 123 * blocks, "each block has a server of its own");
        assert!(participant.messages > 0);
        assert_eq!(participant.about, "stand-in, echo");
        assert!(participant.measured.as_ref().expect("it was measured").cpu_us > 0.0);
    }
    assert_eq!(table.participants[3].reason.as_deref(), Some("no such model: absent"));
    assert_eq!(comparison.intervals, 4, "of two rows, without the one that is absent");
    let json = serde_json::to_value(&comparison).expect("it is plain data");
    assert_eq!(json["schema"], "proactor.compare/5");
    let rounds = &json["tables"][0]["blocks"][0]["rounds"];
    assert_eq!(rounds.as_array().map(Vec::len), Some(3));
    assert!(rounds[0][0]["server_cpu_ns"].is_u64() && rounds[0][0]["began_ns"].is_u64());
}

/// Every server has one slice in each round, the baseline too; the order changes, and the numbers
/// of blocks are those that were planned, and at most a quarter more.
#[test]
fn a_round_has_one_slice_of_each_server_in_an_order_of_its_own() {
    let comparison = compared(&["other"], 4).expect("correct servers");
    let blocks = &comparison.tables[0].blocks;
    assert!((4..=5).contains(&blocks.len()), "{}", blocks.len());
    let rounds = || blocks.iter().flat_map(|block| &block.rounds);
    let orders: Vec<Vec<usize>> =
        rounds().map(|round| round.iter().map(|it| it.participant).collect()).collect();
    for order in &orders {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2], "{order:?}");
    }
    assert!(orders.windows(2).any(|two| two[0] != two[1]), "{orders:?}");
    let starts: Vec<u64> = rounds().flatten().map(|sample| sample.began_ns).collect();
    assert!(starts.is_sorted() && starts[0] > 0, "each has its time: {starts:?}");
}

#[test]
fn a_thousand_connections_are_measured_with_a_baseline_for_each_model() {
    os::raise_descriptor_limit();
    let load = LoadShape { connections: plan::CROWD_FROM, size: 1, depth: 1 }.into();
    let extent = Extent::DEFAULT.of_blocks(1);
    let plan = ComparisonPlan { loads: vec![load], extent, client_cpu: 0, ..plan(&["crowd"]) };
    let comparison = run(&plan, &stand_in, &mut |_| true).expect("correct servers");
    let table = &comparison.tables[0];
    let pairs: Vec<Vec<usize>> = table
        .blocks
        .iter()
        .map(|block| block.servers.iter().map(|server| server.participant).collect())
        .collect();
    assert_eq!(pairs, [[0, 1], [0, 2]]);
    assert!(table.slice > plan::SLICE, "twenty messages of each connection: {:?}", table.slice);
}

#[test]
fn a_server_that_stalls_keeps_the_client_waiting() {
    let comparison = compared(&["staller"], 1).expect("correct servers");
    let measured = row(&comparison.tables[0], 2);
    assert!(!measured.is_client_bound && measured.client_waiting > 0.1, "{measured:?}");
    assert!(measured.longest_wait > Duration::from_millis(5), "{measured:?}");
    let warnings = comparison.warnings.iter();
    let mut named = warnings.filter(|it| it.contains("although replies were owed: "));
    assert!(named.any(|warning| warning.contains("staller")), "{:?}", comparison.warnings);
}

#[test]
fn a_wrong_byte_makes_the_whole_run_void() {
    let error = compared(&["liar"], 2).expect_err("a byte was changed");
    let text = format!("{error:#}");
    assert!(text.starts_with("liar"), "{text}");
    assert!(text.contains("wrong reply on connection"), "{text}");
}

#[test]
fn an_open_loop_offers_a_share_of_what_the_slowest_server_serves() {
    let closed = LoadShape { connections: 2, size: 64, depth: 1 }.into();
    let open =
        OpenLoop { rate: OfferedRate::OfSlowest(0.5), arrivals: Arrivals::Constant, depth: 9 };
    let load = PlannedLoad { closed, open: Some(open) };
    let extent = Extent::DEFAULT.of_blocks(1);
    let plan = ComparisonPlan { loads: vec![load], extent, client_cpu: 0, ..plan(&["other"]) };
    let comparison = run(&plan, &stand_in, &mut |_| true).expect("correct servers");
    let table = &comparison.tables[0];
    let slowest = table.slowest.as_ref().expect("a trial found it");
    let offer = table.load.offer.expect("an open loop");
    assert_eq!((offer.rate, table.load.shape.depth), (slowest.rate / 2.0, 9));
    let slices = || table.blocks.iter().flat_map(|block| block.rounds.iter().flatten());
    assert!(slices().count() == 9 && slices().all(|it| it.slice.offered > 0));
    let servers = || table.blocks.iter().flat_map(|block| &block.servers);
    let total = |counts: &[(u64, u64)]| counts.iter().map(|it| it.1).sum::<u64>();
    for server in servers() {
        let its = slices().filter(|it| it.participant == server.participant);
        let messages: u64 = its.map(|it| it.slice.messages + it.slice.unsent).sum();
        assert_eq!(total(&server.latencies), messages, "each has a latency");
        assert_eq!(total(&server.service_times), total(&server.offer_lags), "of what was sent");
    }
    assert!(render::text(&comparison).contains("open loop of "));
}

#[test]
fn an_interrupted_comparison_has_the_results_until_then() {
    let load = LoadShape { connections: 1, size: 64, depth: 1 }.into();
    let plan = ComparisonPlan { loads: vec![load; 2], client_cpu: 0, ..plan(&[]) };
    let mut slices = 0;
    let comparison = run(&plan, &stand_in, &mut |progress| {
        slices += u32::from(matches!(progress.activity, Activity::Sampled(..)));
        slices < 2 * 2 + 3 * 2 + 2
    });
    let comparison = comparison.expect("correct servers");
    assert_eq!(comparison.tables.len(), 1);
    let blocks = comparison.tables[0].blocks.len();
    assert_eq!(blocks, 1, "two trials, three rounds of two slices, and a second block not whole");
    assert!(comparison.interrupted && !comparison.is_empty());
    assert!(render::text(&comparison).contains("\nINTERRUPTED: "));
}

#[test]
fn a_comparison_can_be_interrupted_before_the_first_slice() {
    for end in 1..=4 {
        let load = LoadShape { connections: 1, size: 64, depth: 1 }.into();
        let plan = ComparisonPlan { loads: vec![load], client_cpu: 0, idle: 5, ..plan(&["other"]) };
        let mut reports = 0;
        let comparison = run(&plan, &stand_in, &mut |_| {
            reports += 1;
            reports < end
        });
        let comparison = comparison.expect("the end is no failure");
        assert!(comparison.idle.is_none() && comparison.interrupted && comparison.is_empty());
    }
}

#[test]
fn every_table_has_a_block_even_if_the_time_has_ended() {
    let load = LoadShape { connections: 2, size: 64, depth: 1 }.into();
    let extent = Extent::DEFAULT.of_seconds(1);
    let plan = ComparisonPlan {
        loads: vec![load; 3],
        extent,
        client_cpu: 0,
        ..plan(&["other", "b", "c"])
    };
    let comparison = run(&plan, &stand_in, &mut |_| true).expect("correct servers");
    assert_eq!(comparison.tables.len(), 3);
    for table in &comparison.tables {
        let measured = table.participants.iter().filter(|one| one.measured.is_some());
        assert_eq!((measured.count(), table.blocks.len()), (5, 1), "{table:?}");
    }
}
