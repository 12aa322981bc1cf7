//! The whole, with made-up slices and with a small server in a process of its own.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::plan::{Budget, Role};
use super::rounds::{Sample, Turn};
use super::verdict::Finding;
use super::*;
use proactor::counters::Counters;
use proactor_load::{EngineChoice, Slice};

const SHAPE: LoadShape = LoadShape { connections: 64, size: 64, depth: 1 };

/// A slice of 40 ms at this rate, with the server this busy.
fn sample(rate: f64, busy: f64) -> Sample {
    let wall = Duration::from_millis(40);
    let messages = (rate * wall.as_secs_f64()).round() as u64;
    let bytes = messages * 64;
    let slice = Slice { messages, bytes, wall, cpu: wall, idle: wall / 2, unread_share: 0.1 };
    let server_cpu = wall.mul_f64(busy);
    Sample { slice, server_cpu, server_waited: Duration::ZERO, server_idle_cpu_share: 0.0 }
}

/// Rounds in which the baseline makes 100,000 messages a second, within 1 %, and each challenger
/// that many times as much.
fn rounds_of(number: u32, challengers: &[(f64, f64)], steal: f64) -> Vec<Round> {
    let round = |number: u32| {
        let noise = 1.0 + 0.01 * (f64::from(number % 5) - 2.0) / 2.0;
        let baseline = Turn { entrant: 0, sample: sample(100_000.0, 1.0) };
        let mut turns = vec![baseline];
        for (at, &(ratio, busy)) in challengers.iter().enumerate() {
            turns.push(Turn { entrant: at + 1, sample: sample(100_000.0 * ratio * noise, busy) });
            turns.push(baseline);
        }
        Round { steal: Some(steal), turns }
    };
    (0..number).map(round).collect()
}

fn outcome(calls: u64) -> Outcome {
    let counters = Counters { calls, ..Counters::default() };
    let stats = ServerStats {
        schema: STATS_SCHEMA.to_owned(),
        model: String::new(),
        detail: "as it said itself".to_owned(),
        counters,
    };
    Outcome { stats: Some(stats), messages: 100_000, ..Outcome::default() }
}

fn plan(models: &[&str]) -> Plan {
    Plan {
        baseline: plan::BASELINE.into(),
        models: models.iter().map(|&model| model.into()).collect(),
        loads: vec![SHAPE],
        budget: Budget::Rounds(6),
        idle: 0,
        seed: 7419,
        engine: EngineChoice::Auto,
        server_cpu: 0,
        client_cpu: 1,
    }
}

fn made_up() -> Heat {
    let entrants = plan(&["uring", "epoll-et", "select"]).entrants();
    let rounds = rounds_of(20, &[(1.0, 1.0), (1.15, 1.0), (1.001, 1.0)], 0.0);
    let refused = "select cannot watch descriptors from 1024 on".to_owned();
    let refused = Outcome { reason: Some(refused), ..Outcome::default() };
    let servers =
        vec![outcome(301_000), outcome(300_000), outcome(7_000), outcome(204_000), refused];
    summary::heat(SHAPE, entrants, rounds, servers)
}

fn made_up_idle() -> Idle {
    let row = |model: &str, cost: Result<idle::Cost, &str>| idle::Row {
        model: model.to_owned(),
        reason: cost.err().map(str::to_owned),
        cost: cost.ok(),
    };
    let cost = |memory, page_tables, descriptors, threads, processes| {
        Ok(idle::Cost { memory, page_tables, descriptors, threads, processes })
    };
    let rows = vec![
        row("epoll", cost(310.4, 8.2, 1.0, 0.0, 0.0)),
        row("process", cost(127_000.0, 61_440.0, 5.0, 1.0, 1.0)),
        row("blocking", Err("one connection at a time")),
    ];
    Idle { connections: 1000, rows }
}

#[test]
fn a_comparison_reads_like_this() {
    let comparison = Comparison {
        schema: SCHEMA,
        environment: Environment {
            version: "0.1.0",
            kernel: Some("6.18.44".to_owned()),
            cpu: Some("AMD EPYC".to_owned()),
            cpus: 2,
            virtual_machine: Some(true),
            mitigations: vec!["spectre_v2: Mitigation: Retpolines".to_owned()],
            clocksource: Some("tsc".to_owned()),
            congestion_control: Some("bbr".to_owned()),
            ..Environment::default()
        },
        plan: plan(&["uring", "epoll-et", "select"]),
        wire: "uring",
        tables: vec![made_up()],
        idle: Some(made_up_idle()),
        warnings: vec!["there are two CPUs.".to_owned()],
    };
    let expected = "\
proactor 0.1.0 compare   seed 7419   servers on CPU 0, client on CPU 1 (wire uring)

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
epoll: as it said itself
uring: as it said itself
epoll-et: as it said itself
select: not measured: select cannot watch descriptors from 1024 on
[..] encloses the median ratio with 95 % or more; wrong replies 0 of 400,000

In words:
  uring serves 14 to 16 % more messages than epoll, and takes 13 % less server CPU for each.
  epoll-et serves as many messages as epoll (within ±2.0 %), and takes the same server CPU for each (within ±2.0 %).
  select was not measured.

What an idle connection costs the server: 1,000 of them, each of which has exchanged one message, divided by their number
model     memory  page tables  descriptors  threads  processes
epoll      310 B          8 B         1.00     0.00       0.00
process   127 kB      61.4 kB         5.00     1.00       1.00
blocking       –            –            –        –          –
blocking: not measured: one connection at a time
memory is the proportional set size of the server and its children: what they share counts once. Of the kernel's memory only page
tables are in the table; sockets, and the stack and the tables of each thread and process, come on top. io_uring's direct
descriptors are slots of its ring, and no descriptors of the process.

Warning: there are two CPUs.
";
    assert_eq!(render::text(&comparison), expected);
}

#[test]
fn a_server_that_was_not_busy_is_client_bound() {
    let entrants = plan(&["uring"]).entrants();
    let rounds = rounds_of(20, &[(1.0, 1.0), (1.15, 0.8)], 0.0);
    let heat = summary::heat(SHAPE, entrants, rounds, vec![outcome(1); 3]);
    let uring = heat.rows[2].measured.as_ref().expect("it was measured");
    assert!(uring.is_client_bound);
    assert_eq!(uring.rate_finding, Some(Finding::Invalid));
    assert_eq!(uring.cpu_finding, Some(Finding::Lower));
    assert!(render::table(&heat, &mut Default::default()).contains("≥ 115k"));
    let advice = |wire| {
        let mut warnings = heat.warnings(wire).into_iter();
        warnings.find(|text| text.contains("did not keep every server busy (uring)")).unwrap()
    };
    assert!(advice("epoll").ends_with("More --connections, or --engine uring, would."));
    assert!(advice("uring").ends_with("More --connections would."), "it is in use already");
}

#[test]
fn a_server_that_waited_for_its_cpu_is_not_the_clients_fault() {
    let entrants = plan(&["uring"]).entrants();
    let mut rounds = rounds_of(20, &[(1.0, 1.0), (1.15, 0.8)], 0.0);
    for turn in rounds.iter_mut().flat_map(|round| &mut round.turns) {
        turn.sample.server_waited = turn.sample.slice.wall / 5;
    }
    let heat = summary::heat(SHAPE, entrants, rounds, vec![outcome(1); 3]);
    let uring = heat.rows[2].measured.as_ref().expect("it was measured");
    assert!(!uring.is_client_bound);
    assert_eq!(uring.rate_finding, Some(Finding::Higher));
    let warned = heat
        .warnings("epoll")
        .iter()
        .any(|text| text.contains("something else ran on the servers' CPU"));
    assert!(warned, "{:?}", heat.warnings("epoll"));
}

#[test]
fn a_host_that_takes_the_cpus_makes_everything_invalid() {
    let entrants = plan(&["uring"]).entrants();
    let rounds = rounds_of(20, &[(1.0, 1.0), (1.15, 1.0)], 0.03);
    let heat = summary::heat(SHAPE, entrants, rounds, vec![outcome(1); 3]);
    let uring = heat.rows[2].measured.as_ref().expect("it was measured");
    assert_eq!(
        (uring.rate_finding, uring.cpu_finding),
        (Some(Finding::Invalid), Some(Finding::Invalid))
    );
    assert!(heat.warnings("epoll").iter().any(|text| text.contains("no verdict is valid")));
}

#[test]
fn five_rounds_have_numbers_and_no_verdict() {
    let entrants = plan(&["uring"]).entrants();
    let rounds = rounds_of(5, &[(1.0, 1.0), (1.5, 1.0)], 0.0);
    let heat = summary::heat(SHAPE, entrants, rounds, vec![outcome(1); 3]);
    let uring = heat.rows[2].measured.as_ref().expect("it was measured");
    assert_eq!(uring.rate_finding, Some(Finding::NotShown));
    assert!(heat.warnings("epoll")[0].contains("there are 5 rounds; a verdict needs 6"));
}

/// Started again as a child, this very test is a server: it echoes on a thread per connection. The
/// model `liar` swaps a byte in the end, `mute` says nothing, and `absent` is no model.
#[test]
fn a_stand_in_server() {
    let Ok(model) = std::env::var("PROACTOR_STAND_IN") else { return };
    if model == "absent" {
        eprintln!("no such model: absent");
        std::process::exit(2);
    }
    // Its own end ends it too, below; the limit, if this process is killed.
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
                let (mut room, mut echoed) = ([0; 4096], 0);
                while let Ok(len @ 1..) = stream.read(&mut room) {
                    echoed += len;
                    if model == "liar" && echoed > 20_000 {
                        room[0] ^= 1;
                    }
                    let told = || {
                        std::env::var_os("PROACTOR_DIE")
                            .is_some_and(|file| std::path::Path::new(&file).exists())
                    };
                    if model == "mortal" && echoed > 20_000 || model == "doomed" && told() {
                        eprintln!("error: a fatal accident");
                        std::process::exit(7);
                    }
                    if model == "hanging" && echoed > 20_000 {
                        eprintln!("2026-11-21T00:00:00Z  WARN nobody is served any more");
                        thread::park();
                    }
                    if model != "mute" && stream.write_all(&room[..len]).is_err() {
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

fn stand_in(Variant { model, .. }: &Variant) -> Result<Command, Refusal> {
    let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
    command
        .args(["--exact", "tests::a_stand_in_server", "--nocapture"])
        .env("PROACTOR_STAND_IN", model);
    Ok(command)
}

/// On the CPUs that there are.
fn compared(models: &[&str], budget: Budget) -> anyhow::Result<Comparison> {
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let plan = Plan { loads: vec![load], budget, client_cpu: 0, ..plan(models) };
    run(&plan, &stand_in, &mut |_| true)
}

/// Why this model has no numbers; that the others have theirs is made sure of.
fn reason(model: &str, budget: Budget) -> String {
    let comparison = compared(&[model, "other"], budget).expect("one model's trouble ends nothing");
    let rows = &comparison.tables[0].rows;
    for other in [0, 1, 3] {
        assert!(rows[other].measured.is_some(), "{:?}", rows[other]);
    }
    assert!(render::text(&comparison).contains(&format!("{model}: not measured: ")));
    rows[2].reason.clone().expect("it has no numbers")
}

#[test]
fn a_server_that_dies_is_a_row_with_its_last_words() {
    let reason = reason("mortal", Budget::Rounds(3));
    assert!(
        reason.starts_with("the server ended (exit status: 7): a fatal accident; "),
        "{reason}"
    );
}

#[test]
fn a_server_that_dies_in_mid_run_is_a_row_with_its_last_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("die");
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let budget = Budget::Rounds(3);
    let plan = Plan { loads: vec![load], budget, client_cpu: 0, ..plan(&["doomed", "other"]) };
    let recipe = |model: &Variant| {
        let mut command = stand_in(model)?;
        command.env("PROACTOR_DIE", &file);
        Ok(command)
    };
    let mut watch = |progress: &Progress<'_>| {
        if matches!(progress.doing, Doing::Slice(Step { round: 1, .. }, _)) {
            std::fs::write(&file, "").expect("room for a file");
        }
        true
    };
    let comparison = run(&plan, &recipe, &mut watch).expect("one model's trouble ends nothing");
    let rows = &comparison.tables[0].rows;
    assert_eq!(rows[3].measured.as_ref().expect("it is honest").slices, 3);
    let reason = rows[2].reason.as_deref().expect("it died in the second round");
    assert!(
        reason.starts_with("the server ended (exit status: 7): a fatal accident; "),
        "{reason}"
    );
}

#[test]
fn a_server_that_hangs_is_a_row_with_its_last_words() {
    let reason = reason("hanging", Budget::Rounds(2));
    assert!(reason.contains("has stalled"), "{reason}");
    assert!(reason.ends_with("; the server said: nobody is served any more"), "{reason}");
}

#[test]
fn what_is_known_beforehand_is_a_row_and_not_tried() {
    assert_eq!(
        reason("blocking", Budget::Rounds(1)),
        "does not serve several connections at once: the next is accepted when the current one is \
         closed"
    );
}

#[test]
fn who_cannot_be_started_for_want_of_something_is_a_row_that_says_so() {
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let budget = Budget::Rounds(1);
    let models = ["other+trace", "another"];
    let plan = Plan { loads: vec![load], budget, client_cpu: 0, ..plan(&models) };
    let recipe = |variant: &Variant| match variant.recorded {
        true => Err(Refusal("no room".to_owned())),
        false => stand_in(variant),
    };
    let comparison = run(&plan, &recipe, &mut |_| true).expect("the others can");
    let reasons = |heat: &Heat| heat.rows.iter().map(|row| row.reason.clone()).collect::<Vec<_>>();
    let expected = [None, None, Some("no room".to_owned()), None];
    assert_eq!(reasons(&comparison.tables[0]), expected);
}

#[test]
fn a_baseline_that_fails_is_told_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("die");
    let load = LoadShape { connections: 2, size: 64, depth: 1 };
    let plan = Plan { loads: vec![load], client_cpu: 0, ..plan(&["other"]) };
    let recipe = |_: &Variant| {
        let mut command = stand_in(&"doomed".into())?;
        command.env("PROACTOR_DIE", &file);
        Ok(command)
    };
    let fails = |when: fn(&Doing) -> bool| {
        let _ = std::fs::remove_file(&file);
        let mut watch = |progress: &Progress<'_>| {
            if when(&progress.doing) {
                std::fs::write(&file, "").expect("room for a file");
            }
            true
        };
        let error = run(&plan, &recipe, &mut watch);
        format!("{:#}", error.expect_err("without it there is nothing to compare with"))
    };
    let at_once = fails(|_| true);
    assert!(at_once.starts_with("the baseline, epoll, cannot run: the server ended"), "{at_once}");
    let later = fails(|doing| matches!(doing, Doing::Slice(..)));
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
    let plan = Plan { loads: vec![load], budget, client_cpu: 0, ..plan(&["parent", "other"]) };
    let mut seen = 0;
    let mut watch = |progress: &Progress<'_>| {
        if matches!(progress.doing, Doing::Slice(..))
            && progress.entrant.model != Variant::from("parent")
        {
            let (all, stopped) = stand_ins("parent");
            assert_eq!((all, stopped), (2, 2), "it and its child are stopped in others' slices");
            seen += 1;
        }
        true
    };
    let comparison = run(&plan, &stand_in, &mut watch).expect("honest servers");
    assert_eq!(seen, 3 * 6, "of seven slices in a round one is its own");
    let heat = &comparison.tables[0];
    let row = |at: usize| heat.rows[at].measured.as_ref().expect("it was measured");
    let (parent, other) = (row(2), row(3));
    assert!(parent.is_spinning, "its child burns a CPU: {parent:?}");
    assert!(!other.is_spinning && !row(0).is_spinning, "{other:?}");
    assert!(
        heat.warnings("epoll").iter().any(|text| text.contains("parent used the CPU while nobody"))
    );
    let of =
        |at| heat.rounds.iter().flat_map(|round| &round.turns).filter(move |t| t.entrant == at);
    assert!(of(2).all(|turn| turn.sample.server_idle_cpu_share > heat::SPINNING));
    assert!(of(0).chain(of(3)).all(|turn| !turn.sample.server_cpu.is_zero()));
}

/// How many processes of stand-ins for this model we have, and how many of them are stopped.
fn stand_ins(model: &str) -> (usize, usize) {
    let environment = format!("PROACTOR_STAND_IN={model}\0");
    let read = |pid: u32, file: &str| {
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default())
            .into_owned()
    };
    let all = family::Family::of(std::process::id()).expect("we run");
    let ours = all.pids().iter().filter(|&&pid| read(pid, "environ").contains(&environment));
    let stopped = |&&pid: &&u32| read(pid, "status").contains("State:\tT");
    (ours.clone().count(), ours.filter(stopped).count())
}

#[test]
fn what_idle_connections_cost_is_measured_of_each_model() {
    let load = LoadShape { connections: 1, size: 64, depth: 1 };
    let plan = Plan {
        loads: vec![load],
        budget: Budget::Rounds(1),
        idle: 20,
        client_cpu: 0,
        ..plan(&["blocking", "absent"])
    };
    let comparison = run(&plan, &stand_in, &mut |_| true).expect("an honest baseline");
    let idle = comparison.idle.as_ref().expect("it was asked for");
    let names: Vec<&str> = idle.rows.iter().map(|row| row.model.as_str()).collect();
    assert_eq!(names, ["epoll", "blocking", "absent"], "the baseline once");
    let cost = idle.rows[0].cost.expect("it was measured");
    assert_eq!((cost.descriptors, cost.threads, cost.processes), (1.0, 1.0, 0.0));
    assert!(cost.memory > 0.0, "a thread has a stack");
    let reason = |at: usize| idle.rows[at].reason.as_deref().unwrap_or("none");
    assert!(reason(1).starts_with("does not serve several at a time"), "{}", reason(1));
    assert_eq!(reason(2), "no such model: absent");
    let text = render::text(&comparison);
    assert!(text.contains("absent: not measured: no such model: absent"), "{text}");
    let json = serde_json::to_value(&comparison).expect("it is plain data");
    assert_eq!(json["idle"]["rows"][0]["cost"]["threads"], 1.0);
}

#[test]
fn servers_are_started_measured_and_asked_for_their_counters() {
    let comparison = compared(&["other", "absent"], Budget::Rounds(2)).expect("honest servers");
    let heat = &comparison.tables[0];
    let roles: Vec<Role> = heat.entrants.iter().map(|entrant| entrant.role).collect();
    assert_eq!(roles, [Role::Baseline, Role::Again, Role::Model, Role::Model]);
    assert_eq!(heat.rounds.len(), 2);
    for at in 0..3 {
        let stats = heat.servers[at].stats.as_ref().expect("it told its counters");
        assert_eq!(stats.counters.calls, 123);
        assert!(heat.servers[at].messages > 0);
        assert_eq!(heat.servers[at].about, "stand-in, echo");
        assert!(heat.rows[at].measured.as_ref().expect("it was measured").cpu_us > 0.0);
    }
    assert_eq!(heat.rows[3].reason.as_deref(), Some("no such model: absent"));
    let json = serde_json::to_value(&comparison).expect("it is plain data");
    assert_eq!(json["schema"], "proactor.compare/2");
    assert_eq!(json["tables"][0]["rounds"].as_array().map(Vec::len), Some(2));
    assert!(json["tables"][0]["rounds"][0]["turns"][0]["server_cpu_ns"].is_u64());
}

#[test]
fn a_wrong_byte_voids_the_whole_run() {
    let error = compared(&["liar"], Budget::Rounds(1000)).expect_err("a byte was swapped");
    let text = format!("{error:#}");
    assert!(text.starts_with("liar"), "{text}");
    assert!(text.contains("wrong reply on connection"), "{text}");
}

#[test]
fn whoever_watches_can_end_it_and_is_told_what_there_is() {
    let load = LoadShape { connections: 1, size: 64, depth: 1 };
    let plan = Plan { loads: vec![load; 2], client_cpu: 0, ..plan(&[]) };
    let mut slices = 0;
    let comparison = run(&plan, &stand_in, &mut |progress| {
        slices += u32::from(matches!(progress.doing, Doing::Slice(..)));
        slices < 4
    });
    let comparison = comparison.expect("honest servers");
    assert_eq!(comparison.tables.len(), 1);
    assert_eq!(
        comparison.tables[0].rounds.len(),
        1,
        "three slices, and a fourth that cut the next"
    );
    assert!(comparison.warnings.iter().any(|text| text.starts_with("it was interrupted")));
}

#[test]
fn it_can_be_ended_before_anything_was_measured() {
    for end in 1..=4 {
        let load = LoadShape { connections: 1, size: 64, depth: 1 };
        let plan = Plan { loads: vec![load], client_cpu: 0, idle: 5, ..plan(&["other"]) };
        let mut told = 0;
        let comparison = run(&plan, &stand_in, &mut |_| {
            told += 1;
            told < end
        });
        match comparison {
            Ok(comparison) => assert!(comparison.idle.is_none()),
            Err(error) => assert!(error.to_string().contains("interrupted"), "{error:#}"),
        }
    }
}
