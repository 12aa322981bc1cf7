//! The views of a trace, held against servers whose conversations are known: simulated for many
//! seeds, and real ones by the command line. And on records of any kind, which end no view.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use proactor_sim::Tier;
use proactor_trace::format::{HEADER, RECORD};
use proactor_trace::view::{
    ConnectionList, ConnectionTimeline, Cut, Diff, DiffSide, Doctor, Ending, Lanes, ListOrder,
    Summary, TraceStats,
};
use proactor_trace::{
    About, Clock, Content, Kind, Log, OpKind, Recorder, Settings, TraceFile, WaitMode, events,
};
use proptest::prelude::*;
use serde_json::Value;

use support::lanes::threads;
use support::server::{Launch, PROACTOR};
use support::simulated::{self, settings};
use support::{Client, eventually, io_uring_refused, skip};

/// What a simulated echo recorded, and how many bytes its clients said.
fn simulated(seed: u64, tier: Tier) -> (TraceFile, u64) {
    let (bytes, said) = simulated::echo(seed, tier, &settings());
    (TraceFile::from_bytes(&bytes).unwrap(), said)
}

#[test]
fn a_simulated_echo_is_counted_to_the_byte_and_each_connection_is_clean() {
    for seed in 0..60 {
        for tier in [Tier::Multishot, Tier::OneShot] {
            let (trace, said) = simulated(seed, tier);
            let stats = TraceStats::of(&trace, &Cut::default());
            let context = format!("seed {seed} {tier:?}\n{}", Summary { stats: stats.clone() });
            assert_eq!((stats.bytes_in, stats.bytes_out), (said, said), "{context}");
            assert_eq!((stats.connections, stats.conns.len()), (5, 5), "{context}");
            for conn in &stats.conns {
                assert!(conn.is_clean() && conn.ending == Ending::PeerFirst, "{conn:?}\n{context}");
                assert!(conn.closed_ns.is_some() && conn.accepted_ns.is_some(), "{conn:?}");
            }
            let ended = stats.ops.iter().filter(|row| row.op != OpKind::Ring(Kind::Wake));
            for row in ended {
                assert_eq!((row.in_flight, row.unseen), (0, 0), "{} {context}", row.op);
            }
            let doctor = Doctor::new(stats.clone());
            let names: Vec<_> = doctor.findings.iter().map(|one| one.name).collect();
            assert!(
                !names.contains(&"out-of-order") && !names.contains(&"never-closed"),
                "{doctor}"
            );
        }
    }
}

#[test]
fn what_each_thread_did_with_its_time_adds_up_to_how_long_it_was_there() {
    let trace = TraceFile::from_bytes(&threads()).unwrap();
    let lanes = TraceStats::of(&trace, &Cut::default()).lanes.unwrap();
    let calls: Vec<_> = lanes
        .spans
        .iter()
        .map(|one| {
            let micros = [
                one.spent.waiting_ns,
                one.spent.copying_ns,
                one.spent.other_ns,
                one.spent.between_ns,
            ];
            assert_eq!(micros.iter().sum::<u64>(), one.until_ns - one.from_ns, "{one:?}");
            (&*one.lane, one.thread.unwrap(), one.calls, micros.map(|nanos| nanos / 1000))
        })
        .collect();
    // A call that is not over lasts to the end; a thread outside of calls has ended.
    let expected = [
        ("main", 1000, 2, [199, 0, 0, 1]),
        ("t0", 1001, 4, [172, 12, 0, 16]),
        ("t1", 1002, 3, [127, 0, 4, 9]),
        ("t1", 1003, 1, [9, 0, 0, 1]),
    ];
    assert_eq!(calls, expected);
    let total = |lanes: &Lanes| lanes.spent.waiting_ns + lanes.spent.awake_ns();
    assert_eq!((lanes.count, lanes.most, total(&lanes)), (4, 3, 550_000));
    // Of a part, only what lies in it: the receives and the wait of which it begins in the middle.
    let since = lanes.spans[0].from_ns + 50_000;
    let cut = Cut { since: Some(Duration::from_nanos(since)), ..Cut::default() };
    let part = TraceStats::of(&trace, &cut).lanes.unwrap();
    assert_eq!((part.spent.waiting_ns, total(&part)), (379_000, 405_000), "{part:?}");
    let one = Cut { conn: Some((0, None)), ..Cut::default() };
    assert_eq!(TraceStats::of(&trace, &one).lanes, None);
}

#[test]
fn a_ring_and_threads_are_laid_side_by_side_and_what_one_has_not_is_a_dash() {
    let ring = DiffSide::of(&simulated(1, Tier::Multishot).0, &Cut::default());
    let threads = DiffSide::of(&TraceFile::from_bytes(&threads()).unwrap(), &Cut::default());
    let diff = Diff::new(ring, threads, None).unwrap();
    let line = |name: &str| {
        let line = diff.lines.iter().find(|line| line.name == name);
        let line = line.unwrap_or_else(|| panic!("{name}\n{diff}"));
        (line.a.value.is_some(), line.b.value)
    };
    assert_eq!(line("threads or processes, max"), (true, Some(3.0)));
    assert_eq!(line("system calls / message"), (true, Some(5.0)));
    assert_eq!(line("  enters or waits"), (true, Some(1.0)));
    assert_eq!(line("  recv calls"), (false, Some(2.5)));
    assert_eq!(line("bytes / system call"), (true, Some(22.4)));
    assert_eq!(line("time waiting / message"), (false, Some(253_500.0)));
    assert_eq!(line("time not waiting / message"), (false, Some(21_500.0)));
    assert_eq!(line("  copying"), (false, Some(6_000.0)));
    assert_eq!(line("  other calls"), (false, Some(2_000.0)));
    assert_eq!(line("  between calls"), (true, Some(13_500.0)));
    assert_eq!(line("send age, max").1, None);
    assert_eq!(line("completions / message"), (true, None));
    let text = diff.to_string();
    assert!(text.contains("A: the kernel copies within the enters"), "{text}");
    assert!(text.contains("B: times are those of all threads added up"), "{text}");
}

/// Every view of a trace, as text and as JSON.
fn all_views(trace: &TraceFile) {
    let cuts = [
        Cut::default(),
        Cut { since: Some(Duration::from_micros(5)), ..Cut::default() },
        Cut { conn: Some((0, None)), ..Cut::default() },
    ];
    for cut in cuts {
        let stats = TraceStats::of(trace, &cut);
        drop((
            Summary { stats: stats.clone() }.to_string(),
            Doctor::new(stats.clone()).health.to_string(),
        ));
        drop((
            Doctor::new(stats.clone()).to_string(),
            ConnectionList::new(stats.clone(), 5, ListOrder::Worst).to_string(),
        ));
        drop(serde_json::to_string(&Summary { stats: stats.clone() }).unwrap());
        let side = || DiffSide::of(trace, &cut);
        if let Ok(diff) = Diff::new(side(), side(), Some(side())) {
            drop(diff.to_string());
        }
        let conn = events(trace).find_map(|event| event.conn).map(|conn| (conn.slot(), None));
        if let Some(timeline) =
            conn.and_then(|conn| ConnectionTimeline::of(trace, &cut, conn, 3, false))
        {
            drop((timeline.to_string(), serde_json::to_string(&timeline).unwrap()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_records_end_a_view(
        flips in prop::collection::vec((HEADER..HEADER + RECORD * 300, any::<u8>()), 0..80),
        whole in prop::collection::vec(any::<[u8; RECORD]>(), 0..20),
    ) {
        thread_local!(static TRACE: Vec<u8> = recorded());
        let mut bytes = TRACE.with(|bytes| bytes[..HEADER + RECORD * 300].to_vec());
        flips.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        for (at, record) in whole.iter().enumerate() {
            let at = HEADER + RECORD * (at * 7 % 300);
            bytes[at..at + RECORD].copy_from_slice(record);
        }
        if let Ok(trace) = TraceFile::from_bytes(&bytes) {
            all_views(&trace);
        }
    }
}

/// Bytes of a trace with some of everything.
fn recorded() -> Vec<u8> {
    let (trace, _) = simulated(2, Tier::Multishot);
    let mut log = Recorder::new(
        None,
        &Settings { bytes: 8 << 20, clock: Some(Clock::Nanos), ..Settings::default() },
        &About::default(),
    )
    .unwrap();
    for record in &trace.records {
        log.note(|| record.time, *record);
    }
    let bytes = log.bytes().to_vec();
    assert!(bytes.len() > HEADER + RECORD * 300);
    bytes
}

/// Runs `proactor trace …` and answers its exit status, what it said, and its complaint.
fn trace(args: &[&str], files: &[&Path]) -> (i32, String, String) {
    let mut command = Command::new(PROACTOR);
    let output = command.arg("trace").arg(args[0]).args(files).args(&args[1..]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn view(args: &[&str], files: &[&Path]) -> String {
    let (code, said, complaint) = trace(args, files);
    assert_eq!((code, &*complaint), (0, ""), "{args:?}: {said}");
    said
}

fn json(args: &[&str], files: &[&Path]) -> Value {
    serde_json::from_str(&view(&[args, &["--json"]].concat(), files)).unwrap()
}

/// Serves, and says 300 messages on three connections, one after the other in turn; each of them
/// ends before the server does, unless that is killed.
fn serve(model: &str, file: &Path, kill: bool) {
    serve_with(&["--model", model], file, kill);
}

/// The same, by a server with these options.
fn serve_with(options: &[&str], file: &Path, kill: bool) {
    let option = format!("--trace={}", file.display());
    let args = [&["serve", "--listen", "127.0.0.1:0", &option], options].concat();
    let server = Launch::new(PROACTOR, &args).start();
    let clients: Vec<_> = (0..3).map(|_| Client::connect(server.address())).collect();
    for _ in 0..100 {
        for client in &clients {
            client.say(b"sixteen bytes ..");
            client.hear(b"sixteen bytes ..");
        }
    }
    if kill {
        // What is not published yet goes with the process: until it sleeps again.
        eventually("the last message is in the trace", || {
            let stats = TraceStats::of(&TraceFile::open(file).unwrap(), &Cut::default());
            (stats.bytes_out == 4800).then_some(())
        });
        return server.kill();
    }
    for client in &clients {
        client.finish();
        client.hear_end();
    }
    server.drain();
}

#[test]
fn every_view_of_a_real_servers_trace_says_what_was_said_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |model: &str| folder.path().join(model);
    let models = match io_uring_refused() {
        Some(why) => {
            skip(&why);
            vec!["epoll"]
        }
        None => vec!["uring", "epoll"],
    };
    for &model in &models {
        let file = &*path(model);
        serve(model, file, false);
        let summary = json(&["summary"], &[file]);
        let numbers = ["messages", "bytes_in", "bytes_out", "connections", "connections_max"];
        let numbers = numbers.map(|name| summary[name].as_u64().unwrap());
        assert_eq!(numbers, [300, 4800, 4800, 3, 3], "{model}");
        assert_eq!(summary["source"]["model"], model);
        let text = view(&["summary"], &[file]);
        assert!(text.contains("300 messages") && text.contains("send"), "{text}");

        let list = json(&["conn"], &[file]);
        let all = list["connections"].as_array().unwrap();
        assert_eq!((all.len(), &list["unclean"]), (3, &Value::from(0)), "{list}");
        for conn in all {
            assert_eq!((&conn["messages"], &conn["ending"]), (&100.into(), &"peer_first".into()));
            let name = conn["conn"].as_str().unwrap();
            let timeline = view(&["conn", name], &[file]);
            let ends = "verdict: clean, peer first   every operation ended once ✓\n";
            assert!(timeline.ends_with(ends) && timeline.contains("folded"), "{timeline}");
        }
        let health = view(&["health"], &[file]);
        assert!(health.contains("system calls per message (300 messages)"), "{health}");
        let doctor = json(&["doctor"], &[file]);
        let wrong = |one: &&Value| one["severity"] == "wrong";
        let wrong = doctor["findings"].as_array().unwrap().iter().find(wrong).cloned();
        assert_eq!(wrong, None, "a server that serves three in turn has nothing wrong");
    }
    let (a, b) = (path(models[0]), path(models[models.len() - 1]));
    let diff = json(&["diff"], &[&a, &b]);
    let messages = ["a", "b"].map(|side| diff["lines"][0][side]["value"].as_f64());
    assert_eq!(messages, [Some(300.0); 2]);
    assert!(view(&["diff"], &[&a, &b]).contains("B / A"));
}

#[test]
fn a_heading_stands_once_over_the_columns_of_the_events_and_not_among_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    serve("epoll", file, false);
    for shown in ["show", "follow"] {
        let text = view(&[shown], &[file]);
        let lines: Vec<&str> = text.lines().collect();
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["time", "lane", "what", "op", "conn", "res", "details"]);
        assert_eq!(lines.iter().filter(|&&line| line == lines[1]).count(), 1, "{shown}");
        let find = |line: &&&str| line.contains("<call   recv") && line.contains("  16  fd ");
        let line = lines.iter().find(find).expect("a message of sixteen bytes");
        let ends =
            lines.iter().filter(|line| line.contains("<call   recv") && line.contains("EOF"));
        assert_eq!(ends.count(), 3, "each of the clients ended: {text}");
        // Names stand over what they name: flush left, or, of numbers, flush right.
        for (name, what) in [
            ("lane", "r0 "),
            ("what", "<call"),
            ("op", "recv"),
            ("conn", "c0.0"),
            ("details", "fd "),
        ] {
            assert_eq!(lines[1].find(name), line.find(what), "{name} of {line}");
        }
        let end = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        assert_eq!(end(lines[1], "res"), end(line, "  16"), "{line}");
        let time = line.split_whitespace().next().expect("a time");
        assert_eq!(end(lines[1], "time"), end(line, time), "{line}");

        let json = view(&[shown, "--json"], &[file]);
        let objects: Result<Vec<Value>, _> = json.lines().map(serde_json::from_str).collect();
        assert_eq!(objects.map(|all| all.len()).ok(), Some(lines.len() - 1), "{shown}");
    }
}

/// Runs an idle server until `seen` is in its recording. Returns what `trace show` prints.
fn shown_of(options: &[&str], file: &Path, seen: impl Fn(&Content) -> bool) -> String {
    let option = format!("--trace={}", file.display());
    let args = [&["serve", "--listen", "127.0.0.1:0", &option], options].concat();
    let server = Launch::new(PROACTOR, &args).start();
    eventually("it is in the trace", || {
        let trace = TraceFile::open(file).unwrap();
        events(&trace).any(|event| seen(&event.what)).then_some(())
    });
    server.drain();
    view(&["show"], &[file])
}

#[test]
fn listeners_and_what_stops_a_loop_are_named_where_no_connection_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    serve_with(&["--model", "epoll", "--listen", "127.0.0.1:0"], file, false);
    let text = view(&["show"], &[file]);
    for (what, op, whose) in [
        ("<call", "watch", "listen 0"),
        ("<call", "watch", "listen 1"),
        ("ready", "", "listen 0"),
        ("<call", "accept", "listen 0"),
        ("<call", "watch", "shutdown"),
        ("ready", "", "shutdown"),
    ] {
        let words = format!("{what:<7} {op:<13} {whose:<9}");
        assert!(text.contains(&words), "{words} is missing in\n{text}");
    }
    let unnamed = |line: &&str| line.contains("  ready  ") && line.get(43..52) == Some("         ");
    assert_eq!(text.lines().find(unnamed), None);
    let json = view(&["show", "--json"], &[file]);
    let of = |whose: &str| json.matches(&format!("\"owner\":\"{whose}\"")).count();
    assert!(of("listen 0") > 2 && of("shutdown") > 1 && of("listen 1") > 1);
}

#[test]
fn nonblocking_is_not_reported_as_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--model", "nonblocking", "--trace-size", "128K"];
    let begun = |what: &Content| matches!(what, Content::WaitBegin { .. });
    let tireless = shown_of(&options, &folder.path().join("a"), begun);
    let slept =
        |what: &Content| matches!(what, Content::WaitBegin { mode: Some(WaitMode::Until), .. });
    let options = [&options[..], &["--idle-sleep", "1ms"]].concat();
    let restful = shown_of(&options, &folder.path().join("b"), slept);
    for (text, sleeps) in [(tireless, false), (restful, true)] {
        assert!(sleeps || text.contains("  no wait\n"), "{text}");
        assert!(text.contains("wait>") && !text.contains("wait>=1"), "{text}");
        assert_eq!(text.contains("  sleep 1.00 ms\n"), sleeps, "{text}");
    }
}

#[test]
fn a_recording_of_processes_names_their_parent() {
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    let text = shown_of(&["--model", "process"], file, |_| true);
    assert!(text.starts_with("model process, parent "), "{text}");
    let text = view(&["summary"], &[file]);
    assert!(text.starts_with("model process, parent "), "{text}");
}

#[test]
fn a_call_that_was_not_timed_took_null_and_one_that_was_took_some_time() {
    let folder = tempfile::tempdir().unwrap();
    for (clock, timed) in [("batch", false), ("record", true)] {
        let file = &*folder.path().join(clock);
        serve_with(&["--model", "epoll", "--trace-clock", clock], file, false);
        let text = view(&["show", "--json", "--op", "send"], &[file]);
        let ends = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let ends: Vec<Value> = ends.filter(|one| one["kind"] == "call_end").collect();
        assert_eq!(ends.len(), 300);
        for end in &ends {
            assert_eq!(end["lasted_ns"].is_u64(), timed, "{end}");
            assert_eq!(end["lasted_ns"].is_null(), !timed, "{end}");
        }
        let summary = json(&["summary"], &[file]);
        let ops = summary["ops"].as_array().unwrap();
        let send = ops.iter().find(|one| one["op"] == "send").expect("it sent");
        assert_eq!((send["ages"].is_null(), send["together_ns"].is_null()), (!timed, !timed));
        let text = view(&["summary"], &[file]);
        assert_eq!(text.contains("how long calls took is not here"), !timed, "{text}");
    }
}

#[test]
fn what_has_many_completions_shows_since_when_it_is_armed_and_no_age() {
    if let Some(why) = io_uring_refused() {
        return skip(&why);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    serve("uring", file, false);
    let text = view(&["show", "--conn", "c0", "--op", "recv"], &[file]);
    let shots: Vec<&str> = text.lines().filter(|line| line.contains("recv*")).collect();
    if shots.is_empty() {
        return skip("no multishot receive here");
    }
    for line in &shots {
        assert!(line.contains("armed ") || line.contains("last shot ("), "{line}");
        assert!(!line.contains("age"), "{line}");
    }
    assert!(shots.iter().any(|line| line.contains("more (shot 100, armed ")), "{text}");
}

#[test]
fn a_killed_servers_trace_has_its_views_and_they_say_that_it_was_not_closed() {
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    serve("epoll", file, true);
    let summary = view(&["summary"], &[file]);
    assert!(summary.contains("300 messages"), "{summary}");
    assert!(summary.contains("note: the recorder was not closed"), "{summary}");
    assert!(view(&["conn", "c0.0"], &[file]).contains("verdict: open"));
    // What is left of it after a crash of the machine, too.
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..HEADER + 1000 * RECORD]).unwrap();
    let part = view(&["summary"], &[file]);
    assert!(part.contains("note: the file is cut short"), "{part}");
    assert!(!part.contains(" 0 lost"), "{part}");
}

#[test]
fn doctor_fails_only_if_it_is_asked_to_and_something_is_as_bad_and_not_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    serve("epoll", file, false);
    let mut bytes = fs::read(file).unwrap();
    assert_eq!(trace(&["doctor"], &[file]).0, 0);
    // Receives that came to something, as if they had failed.
    let mut fail = |times: usize, errno: i32| {
        let (slots, _) = bytes[HEADER..].as_chunks_mut::<RECORD>();
        let recv = |slot: &&mut [u8; RECORD]| slot[28..30] == [13, 2] && slot[16] == 16;
        let failed = (-errno).to_ne_bytes();
        slots.iter_mut().filter(recv).take(times).for_each(|slot| {
            slot[16..20].copy_from_slice(&failed);
        });
        fs::write(file, &bytes).unwrap();
    };
    fail(60, libc::EAGAIN);
    for (fail_on, status) in [("wrong", 0), ("costly", 3)] {
        let (code, said, _) = trace(&["doctor", "--fail-on", fail_on], &[file]);
        assert!(code == status && said.contains(" ! would-block"), "{fail_on}: {said}");
    }
    fail(1, libc::EIO);
    assert_eq!(trace(&["doctor"], &[file]).0, 0);
    for fail_on in ["wrong", "costly"] {
        let (code, said, complaint) = trace(&["doctor", "--fail-on", fail_on], &[file]);
        assert_eq!((code, &*complaint), (3, ""), "the result says it all");
        assert!(said.contains("unhealthy: errors") && said.contains("EIO"), "{said}");
    }
    let ignored = ["doctor", "--fail-on", "wrong", "--ignore", "errors"];
    let (code, said, _) = trace(&ignored, &[file]);
    assert!(code == 0 && !said.contains("EIO"), "{said}");
    let (code, _, complaint) = trace(&["doctor", "--ignore", "error"], &[file]);
    assert!(code == 2 && complaint.contains("no-buffers"), "{complaint}");
    // Of no iteration nothing can be said.
    let nothing = ["doctor", "--fail-on", "wrong", "--until", "1ns"];
    assert_eq!(trace(&nothing, &[file]).0, 4);
    // Nor does the end of the output's reader change what was found.
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let mut check = Command::new(PROACTOR);
    let checked = check.args(["trace", "doctor", "--fail-on", "wrong"]).arg(file).stdout(closed);
    assert_eq!(checked.output().unwrap().status.code(), Some(3));
}

#[test]
fn a_stop_is_found_in_every_model_and_the_delays_of_a_loop_are_recorded() {
    const SPAN: Duration = Duration::from_millis(20);
    let folder = tempfile::tempdir().unwrap();
    for model in ["uring", "epoll", "coroutine", "thread"] {
        if let Some(why) = io_uring_refused().filter(|_| model == "uring") {
            skip(&why);
            continue;
        }
        let file = &*folder.path().join(model);
        let option = format!("--trace={}", file.display());
        let args = ["serve", "--model", model, "--listen", "127.0.0.1:0", &option];
        let server = Launch::new(PROACTOR, &args).start();
        let client = Client::connect(server.address());
        for is_stopped in [false, true] {
            client.say(b"sixteen bytes ..");
            client.hear(b"sixteen bytes ..");
            if is_stopped {
                server.process.signal(libc::SIGSTOP);
                eventually("it is stopped", || server.process.is_stopped().then_some(()));
                std::thread::sleep(SPAN);
                server.process.signal(libc::SIGCONT);
            }
        }
        client.finish();
        client.hear_end();
        server.drain();
        let doctor = json(&["doctor"], &[file]);
        let mut findings = doctor["findings"].as_array().unwrap().iter();
        assert!(findings.any(|one| one["name"] == "stopped"), "{model}: {doctor}");
        let stopped = doctor["pauses"]["stopped"]["longest_ns"].as_u64().unwrap();
        assert!(u128::from(stopped) >= SPAN.as_nanos(), "{model}: {stopped} ns");
        let is_counted = Path::new("/proc/thread-self/schedstat").exists();
        assert_eq!(doctor["pauses"]["sees_delays"], is_counted && model != "thread", "{model}");
        assert!(view(&["show"], &[file]).contains("SIGCONT"), "{model}");
    }
}

#[test]
fn events_can_have_the_time_of_day_instead_of_that_since_recording_began() {
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    serve("epoll", file, false);
    let events = view(&["show", "--json", "--op", "accept"], &[file]);
    let [header, event] = [0, 1].map(|nth| events.lines().nth(nth).unwrap());
    let [header, event]: [Value; 2] =
        [header, event].map(|line| serde_json::from_str(line).unwrap());
    let began: u64 = header["wall_ns"].as_str().unwrap().parse().unwrap();
    let at = began + event["t_ns"].as_u64().unwrap();
    let seconds = format!("@{}", at / 1_000_000_000);
    let date = Command::new("date").args(["-u", "+%T", "-d", &seconds]).output();
    let time = String::from_utf8(date.unwrap().stdout).unwrap();
    let expected = format!("{}.{:09}  r0    call>   accept", time.trim(), at % 1_000_000_000);
    let text = view(&["show", "--wall", "--op", "accept"], &[file]);
    let mut lines = text.lines().skip(1);
    assert!(lines.next().unwrap().contains("time (UTC)  lane  what"), "{text}");
    assert!(lines.next().unwrap().starts_with(&expected), "{expected} in {text}");
    assert_eq!(trace(&["show", "--wall", "--json"], &[file]).0, 2);
}

#[test]
fn a_summary_can_have_a_row_for_each_interval_of_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    serve("epoll", file, false);
    let series = json(&["summary", "--every", "1ms"], &[file]);
    assert_eq!(series["schema"], "proactor.trace.series/1");
    let rows = series["rows"].as_array().unwrap();
    let messages = |row: &serde_json::Value| row["messages"].as_u64().unwrap();
    assert_eq!(rows.iter().map(messages).sum::<u64>(), 300);
    let text = view(&["summary", "--every", "1h"], &[file]);
    assert!(text.contains("messages/s") && text.contains("each row is of 3600 s"), "{text}");
    let (status, _, complaint) = trace(&["summary", "--every", "1ns"], &[file]);
    assert!(status == 1 && complaint.contains("--every 1ns makes"), "{complaint}");
}

#[test]
fn the_last_part_of_a_recording_can_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    serve("epoll", file, false);
    let messages = |last: &str| json(&["summary", "--last", last], &[file])["messages"].clone();
    assert_eq!((messages("1h"), messages("1ns")), (300.into(), 0.into()));
    let lines = |args: &[&str]| view(args, &[file]).lines().count();
    for args in [&["show"][..], &["export", "--format", "jsonl"]] {
        let [all, last] = ["1h", "1ns"].map(|last| lines(&[args, &["--last", last]].concat()));
        assert!(all > 600 && last < 9, "{args:?}: {all} lines, of which {last} are the last");
    }
    assert_eq!(trace(&["summary", "--last", "1s", "--since", "1ms"], &[file]).0, 2);
}

#[test]
fn what_cannot_be_shown_is_refused_by_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let (file, foreign) = (&*folder.path().join("a"), &*folder.path().join("b"));
    serve("epoll", file, false);
    fs::write(foreign, "no trace").unwrap();
    let gone = &*folder.path().join("c");
    let cases: [(&[&str], &[&Path], &str); 6] = [
        (&["summary"], &[foreign], "this is not a trace"),
        (&["health"], &[gone], "No such file"),
        (&["conn", "c99"], &[file], "c99 is not in"),
        (&["summary", "--conn", "c99"], &[file], "c99 is not in"),
        (&["diff"], &[file, foreign], "this is not a trace"),
        (&["diff", "--until", "1ms"], &[file, file], "has no message"),
    ];
    for (args, files, why) in cases {
        let (code, said, complaint) = trace(args, files);
        assert_eq!((code, &*said, complaint.lines().count()), (1, "", 1), "{args:?} {complaint}");
        assert!(complaint.starts_with("error: "), "{complaint}");
        assert_eq!(complaint.matches(why).count(), 1, "{complaint}");
    }
    assert_eq!(trace(&["conn", "seven"], &[file]).0, 2);
}

#[test]
fn a_selection_without_events_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let file = &*folder.path().join("a");
    serve("epoll", file, false);
    let refused: [(&[&str], i32, &str); 8] = [
        (&["heatmap", "--op", "rcv"], 2, "'rcv' for '--op <NAME>': it is one of accept, "),
        (&["heatmap", "--op", "fork"], 1, "has no durations of `fork`: it has those of "),
        (&["show", "--op", "rcv"], 2, "'rcv' for '--op <NAME>': it is one of accept, "),
        (&["show", "--op", "fork"], 1, "has no `fork`: it has accept, "),
        (&["show", "--conn", "c99"], 1, "c99 is not in"),
        (&["show", "--result", "EOF"], 2, "write ok, error, a number"),
        (&["show", "--since", "5", "--until", "1"], 2, "--since 5s is not before --until 1s"),
        (&["summary", "--since", "5", "--until", "1"], 2, "--since 5s is not before"),
    ];
    for (args, status, why) in refused {
        let (code, _, complaint) = trace(args, &[file]);
        assert_eq!(code, status, "{args:?}: {complaint}");
        assert!(complaint.starts_with("error: ") && complaint.contains(why), "{complaint}");
    }
    let (code, _, complaint) = trace(&["show", "--result", "ECONNRESET"], &[file]);
    assert_eq!((code, &*complaint), (0, "note: no event matches\n"));
}
