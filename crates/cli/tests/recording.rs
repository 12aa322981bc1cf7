//! Servers that record, seen from outside: into a file or as lines, followed, stopped by a signal
//! or a trigger, killed.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use proactor::keys::{Key, KeyOwner};
use proactor_trace::{Content, Event, Frozen, OpKind, Trace, Writers, events};
use serde_json::Value;

use support::server::{Exit, PROACTOR, Server};
use support::{Client, Launch, eventually, io_uring_refused, kernel, skip};

/// Models whose traces have many writers, and no iterations.
const MANY: [&str; 4] = ["thread", "process", "coroutine", "blocking"];

/// All that can be recorded here.
fn models() -> Vec<&'static str> {
    loops().into_iter().chain(MANY).collect()
}

/// Those of them that have a loop.
fn loops() -> Vec<&'static str> {
    let mut models =
        vec!["epoll", "epoll-et", "epoll-oneshot", "poll", "select", "sigio", "nonblocking"];
    match io_uring_refused() {
        Some(why) => skip(&why),
        None => models.push("uring"),
    }
    models
}

/// A server, and the file that it records into.
fn recording(model: &str, more: &[&str]) -> (tempfile::TempDir, PathBuf, Server) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.trace");
    let option = format!("--trace={}", path.display());
    let idle: &[&str] = if model == "nonblocking" { &["--idle-sleep", "1ms"] } else { &[] };
    let args = ["serve", "--model", model, "--listen", "127.0.0.1:0", "--stats", &option];
    let server = Launch::new(PROACTOR, &args).args(idle).args(more).start();
    (folder, path, server)
}

fn tool(args: &[&str], path: &Path) -> Output {
    Command::new(PROACTOR).arg("trace").args(args).arg(path).output().unwrap()
}

fn stopped(path: &Path) -> Option<Frozen> {
    Trace::open(path).unwrap().header.frozen
}

fn count(trace: &Trace, which: impl Fn(&Event) -> Option<u64>) -> u64 {
    events(trace).filter_map(|event| which(&event)).sum()
}

#[test]
fn the_calls_of_a_readiness_loop_are_all_in_its_trace() {
    for model in loops().into_iter().filter(|&model| model != "uring") {
        let (_folder, path, server) = recording(model, &[]);
        for n in 1..4 {
            let client = Client::connect(server.address());
            client.say(&[7; 3000][..n * 1000]);
            client.hear(&[7; 3000][..n * 1000]);
        }
        let exit = server.drain();
        let trace = Trace::open(&path).unwrap();
        assert!(trace.header.ended && trace.lost() == 0 && trace.remarks.is_empty());
        assert_eq!(trace.header.model(), model);
        let calls = |name: &'static str, bytes: bool| {
            count(&trace, |event| match event.what {
                Content::CallEnd { result: Ok(n), .. }
                    if event.op.map(OpKind::name) == Some(name) =>
                {
                    Some(if bytes { u64::from(n) } else { 1 })
                }
                _ => None,
            })
        };
        assert_eq!(calls("accept", false), 3, "{model}");
        assert_eq!(calls("close", false), 3, "{model}");
        assert_eq!(calls("recv", true), exit.counter("received_bytes"), "{model}");
        let sent = calls("send", true) + calls("sendmsg", true);
        assert_eq!(sent, exit.counter("sent_bytes"), "{model}");
        let waits = count(&trace, |event| match event.what {
            Content::WaitEnd { .. } => Some(1),
            _ => None,
        });
        assert_eq!(waits, exit.counter("iterations"), "{model}");
        // Each begins, and ends as what it began as.
        let mut begun = None;
        for event in events(&trace) {
            match event.what {
                Content::CallBegin { file, .. } => {
                    assert_eq!(begun.replace((event.op, event.conn, file)), None, "{model}");
                }
                Content::CallEnd { file, .. } => {
                    assert_eq!(begun.take(), Some((event.op, event.conn, file)), "{model}");
                }
                _ => {}
            }
        }
    }
}

/// The calls of this name for a connection, or that bring one, that came to something: their
/// number, or what they came to.
fn called(trace: &Trace, name: &str, sum: bool) -> u64 {
    count(trace, |event| match event.what {
        Content::CallEnd { result: Ok(n), .. } if event.op.map(OpKind::name) == Some(name) => {
            let counts = name == "accept" || event.conn.is_some();
            counts.then_some(if sum { u64::from(n) } else { 1 })
        }
        _ => None,
    })
}

/// In each lane, the thread that begins it is recorded first, and a call that begins is the next
/// to end, as the same call, with a time. All records are in the order of time.
fn lanes_are_in_order(trace: &Trace) {
    let mut begun: HashMap<u16, Option<(Option<OpKind>, u64, i32)>> = HashMap::new();
    for event in events(trace) {
        let Some(lane) = event.lane else { continue };
        match event.what {
            Content::Lane { .. } => assert!(begun.insert(lane, None).flatten().is_none()),
            Content::CallBegin { file, .. } => {
                let call = (event.op, event.raw.id, file);
                let before = begun.get_mut(&lane).expect("a lane is introduced").replace(call);
                assert_eq!(before, None, "{event:?}");
            }
            Content::CallEnd { file, .. } => {
                let call = (event.op, event.raw.id, file);
                assert_eq!(begun.get_mut(&lane).unwrap().take(), Some(call), "{event:?}");
                assert!(event.lasted.is_some(), "{event:?}");
            }
            _ => {}
        }
    }
    assert!(begun.into_values().all(|call| call.is_none()), "a call is not over");
    assert!(events(trace).map(|event| event.at).is_sorted());
}

#[test]
fn the_calls_of_all_threads_and_children_are_in_one_trace() {
    for model in MANY {
        let (_folder, path, server) = recording(model, &[]);
        // One at a time is all that one of them can have.
        let crowds = if model == "blocking" { [1, 1] } else { [8, 8] };
        for crowd in crowds {
            let clients: Vec<_> = (0..crowd).map(|_| Client::connect(server.address())).collect();
            for n in 1..20 {
                clients.iter().for_each(|client| client.say(&[7; 3000][..n * 100]));
                clients.iter().for_each(|client| client.hear(&[7; 3000][..n * 100]));
            }
        }
        let exit = server.drain();
        let trace = Trace::open(&path).unwrap();
        assert!(trace.header.ended && trace.lost() == 0 && trace.remarks.is_empty());
        let writers = if model == "process" { Writers::Processes } else { Writers::Threads };
        assert_eq!((trace.header.model(), trace.header.writers), (model, writers));
        lanes_are_in_order(&trace);
        let all: u64 = crowds.iter().sum();
        assert_eq!(called(&trace, "accept", false), all, "{model}");
        assert_eq!(called(&trace, "close", false), all, "{model}");
        assert_eq!(called(&trace, "recv", true), exit.counter("received_bytes"), "{model}");
        let sent = called(&trace, "send", true) + called(&trace, "sendmsg", true);
        assert_eq!(sent, exit.counter("sent_bytes"), "{model}");
        assert!(sent >= all * 19 * 950, "{model}: {sent}");
    }
}

#[test]
fn chat_writes_are_recorded_with_the_receiving_connections() {
    let (_folder, path, server) = recording("thread", &["--protocol", "chat"]);
    let clients = [(); 4].map(|()| Client::connect(server.address()));
    for (at, client) in clients.iter().enumerate() {
        eventually("all have come", || {
            client.say(b"hello\n");
            let trace = Trace::open(&path).unwrap();
            // Its own thread serves the connection of its slot.
            let by = events(&trace).filter(|event| {
                let others = event
                    .conn
                    .is_some_and(|conn| event.lane == Some(at as u16) && conn.slot() != at as u32);
                others && event.op.is_some_and(|op| op.name().starts_with("send"))
            });
            let receivers: HashSet<u32> = by.filter_map(|event| Some(event.conn?.slot())).collect();
            (receivers.len() == 3).then_some(())
        });
    }
    drop(clients);
    let exit = server.drain();
    let trace = Trace::open(&path).unwrap();
    lanes_are_in_order(&trace);
    assert_eq!(called(&trace, "close", false), 4, "each by the last thread that held it");
    let sent = called(&trace, "send", true) + called(&trace, "sendmsg", true);
    assert_eq!(sent, exit.counter("sent_bytes"));
    let mut timeline = Command::new(PROACTOR);
    let timeline = timeline.args(["trace", "conn", "--all"]).arg(&path).arg("c0").output().unwrap();
    let said = String::from_utf8(timeline.stdout).unwrap();
    assert!(said.contains("by t1") && said.contains("with its sleep"), "{said}");
}

#[test]
fn every_wait_of_an_executor_is_in_its_trace_and_what_it_found_ready() {
    let (_folder, path, server) = recording("coroutine", &[]);
    let client = Client::connect(server.address());
    (0..50).for_each(|_| client.ping());
    drop(client);
    let exit = server.drain();
    let trace = Trace::open(&path).unwrap();
    let waits = |begins: bool| {
        count(&trace, |event| match event.what {
            Content::WaitBegin { .. } if begins => Some(1),
            Content::WaitEnd { .. } if !begins => Some(1),
            _ => None,
        })
    };
    assert_eq!(
        (waits(true), waits(false)),
        (exit.counter("iterations"), exit.counter("iterations"))
    );
    // A message is awaited, so it is found before it is received; and so is the end.
    let ready = events(&trace).filter(|event| matches!(event.what, Content::Ready { .. }));
    assert_eq!(ready.filter(|event| event.conn.is_some()).count(), 51);
    let sleeps = events(&trace).any(|event| match event.what {
        Content::CallBegin { may_sleep, .. } => may_sleep,
        _ => false,
    });
    assert!(!sleeps, "its sockets do not block");
    assert!(called(&trace, "watch", false) == 1 && called(&trace, "unwatch", false) == 1);
}

#[test]
fn what_children_say_to_one_another_passes_by_lines_and_is_no_connections() {
    let (_folder, path, server) = recording("process", &["--protocol", "chat"]);
    let clients = [(); 3].map(|()| Client::connect(server.address()));
    for client in &clients {
        eventually("all have come", || {
            client.say(b"hello\n");
            let trace = Trace::open(&path).unwrap();
            let polled = events(&trace).filter(|event| {
                event.name() == "<call" && event.op.is_some_and(|op| op.name().starts_with("send"))
            });
            let polled: HashSet<_> = polled.filter_map(|event| event.conn).collect();
            (polled.len() == 3).then_some(())
        });
    }
    drop(clients);
    let exit = server.drain();
    let trace = Trace::open(&path).unwrap();
    assert!(trace.header.ended && trace.lost() == 0 && trace.remarks.is_empty());
    lanes_are_in_order(&trace);
    for name in ["fork", "close"] {
        assert_eq!(called(&trace, name, false), 3, "{name}");
    }
    assert_eq!(called(&trace, "recv", true), exit.counter("received_bytes"));
    let sent = called(&trace, "send", true) + called(&trace, "sendmsg", true);
    assert_eq!(sent, exit.counter("sent_bytes"));
    // What goes up a line comes out of it, at either end.
    let line = |event: &Event| matches!(KeyOwner::from(Key(event.raw.id)), KeyOwner::Link(_));
    let passed = |op: &str| {
        count(&trace, |event| match event.what {
            Content::CallEnd { result: Ok(n), .. } if line(event) => {
                let is = event.op.is_some_and(|it| it.name().starts_with(op));
                is.then_some(u64::from(n))
            }
            _ => None,
        })
    };
    assert!(
        passed("recv") > 0 && passed("recv") <= passed("send"),
        "a client that has left receives nothing"
    );
    let lanes = |of_line: bool| -> HashSet<_> {
        let all = events(&trace).filter(|event| event.name() == "<call");
        let all = all.filter(|event| if of_line { line(event) } else { event.conn.is_some() });
        all.map(|event| trace.header.lane_name(event.lane)).collect()
    };
    for name in ["main", "p0", "p1", "p2"] {
        assert!(lanes(true).contains(name) && lanes(false).contains(name), "{name}");
    }
    let shown = String::from_utf8(tool(&["show"], &path).stdout).unwrap();
    assert!(shown.contains("  to c0.0 "), "{shown}");
}

/// Of the pages that parent and child share, a child has none when it begins.
#[test]
fn a_child_fetches_the_pages_that_it_will_write_to_and_not_one_by_one() {
    if kernel() < [5, 14] {
        return skip("pages are populated for writing from Linux 5.14 on");
    }
    let (_folder, path, server) = recording("process", &[]);
    let client = Client::connect(server.address());
    client.ping();
    let [child] = server.process.children()[..] else { panic!("there is one child") };
    let mappings = fs::read_to_string(format!("/proc/{}/smaps", child.0)).unwrap();
    let (_, of_trace) = mappings.split_once(path.to_str().unwrap()).expect("it is mapped");
    let resident = of_trace.lines().find_map(|line| line.strip_prefix("Rss:")).expect("proc(5)");
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!((256..1024).contains(&resident), "{resident} kB of the trace");
    server.drain();
}

/// They talk without end, so that some are killed while they write a record.
#[test]
fn a_killed_child_costs_at_most_one_record_and_no_other_child_any() {
    let (_folder, path, server) = recording("process", &["--protocol", "chargen"]);
    for _ in 0..20 {
        let client = Client::connect(server.address());
        client.hear_some(&mut [0; 1000]).unwrap();
        let [child] = server.process.children()[..] else { panic!("there is one child") };
        child.signal(libc::SIGKILL);
        server.process.eventually_children(0);
    }
    let exit = server.drain();
    assert_eq!(exit.counter("closed"), 20);
    let trace = Trace::open(&path).unwrap();
    assert!(trace.header.ended, "{:?}", trace.remarks);
    assert!(trace.lost() <= 20, "{}", trace.lost());
    let of_main = |name: &str| {
        let main = |event: &Event| trace.header.lane_name(event.lane) == "main";
        events(&trace).filter(|event| main(event) && event.name() == name).count()
    };
    assert!(of_main("call>") > 100 && of_main("call>") == of_main("<call"));
    for view in ["summary", "health", "doctor", "conn"] {
        assert!(tool(&[view], &path).status.success(), "{view}");
    }
}

#[test]
fn what_is_left_of_a_server_that_was_killed_can_be_read() {
    for model in MANY {
        let (_folder, path, server) = recording(model, &[]);
        let client = Client::connect(server.address());
        (0..50).for_each(|_| client.ping());
        drop(server); // SIGKILL
        let trace = Trace::open(&path).unwrap();
        assert!(!trace.header.ended && trace.lost() <= 2, "{model}: {}", trace.lost());
        assert!(called(&trace, "recv", false) >= 50, "{model}");
        for view in [&["summary"][..], &["health"], &["doctor"], &["conn"], &["show"]] {
            let shown = tool(view, &path);
            assert!(
                shown.status.success() && shown.stdout.len() > 200,
                "{model} {view:?}: {shown:?}"
            );
        }
        let followed = tool(&["follow"], &path);
        assert!(followed.status.success(), "{followed:?}");
    }
}

#[test]
fn a_sample_has_whole_connections() {
    for model in ["thread", "process", "coroutine"] {
        let (_folder, path, server) = recording(model, &["--trace-sample", "3"]);
        let clients: Vec<_> = (0..30).map(|_| Client::connect(server.address())).collect();
        clients.iter().for_each(Client::ping);
        drop(clients);
        server.drain();
        let trace = Trace::open(&path).unwrap();
        lanes_are_in_order(&trace);
        let conns: HashSet<_> = events(&trace).filter_map(|event| event.conn).collect();
        assert!(!conns.is_empty() && conns.len() < 30 && trace.header.skipped > 0, "{conns:?}");
        assert_eq!(called(&trace, "close", false), conns.len() as u64);
        // The accepting thread serves no connection.
        assert_eq!(called(&trace, "accept", false), 30);
    }
}

#[test]
fn views_of_threads_report_sleeps_and_no_iterations() {
    let (_folder, path, server) = recording("thread", &[]);
    let client = Client::connect(server.address());
    (0..200).for_each(|_| client.ping());
    drop(client);
    server.drain();
    let said = |view: &[&str]| {
        let output = tool(view, &path);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let summary = said(&["summary"]);
    let row = |name: &str| summary.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    assert!(row("recv").is_some_and(|row| row.contains("asleep and awake")), "{summary}");
    assert!(row("wait").is_some_and(|row| row.contains("asleep and awake")), "{summary}");
    assert!(!summary.contains("reports"), "{summary}");
    let health = said(&["health"]);
    assert!(health.contains("system calls per message (200 messages)"), "{health}");
    assert!(health.contains("nothing found; not visible from here: threads"), "{health}");
    let doctor = said(&["doctor"]);
    for word in ["reports", "outside", "enter", "rewatch", "a loop"] {
        assert!(!health.contains(word) && !doctor.contains(word), "{word} in {health}{doctor}");
    }
    assert!(doctor.contains("nothing found"), "{doctor}");
    let shown = said(&["show"]);
    assert!(shown.contains("  main ") && shown.contains("  t0 "), "{shown}");
}

#[test]
fn an_idle_server_heeds_sigusr2() {
    for model in models() {
        let (_folder, path, server) = recording(model, &[]);
        for expected in [Some(Frozen::Signal), None, Some(Frozen::Signal)] {
            server.process.signal(libc::SIGUSR2);
            eventually(model, || (stopped(&path) == expected).then_some(()));
        }
        let exit = server.drain();
        assert!(exit.stderr.contains("recording has stopped by SIGUSR2"), "{exit:?}");
        assert!(exit.stderr.contains("recording goes on"), "{exit:?}");
    }
}

#[test]
fn a_server_that_was_stopped_and_continued_records_that_and_goes_on() {
    for model in models() {
        let (_folder, path, server) = recording(model, &[]);
        let client = Client::connect(server.address());
        client.ping();
        server.process.signal(libc::SIGSTOP);
        eventually("it is stopped", || server.process.is_stopped().then_some(()));
        server.process.signal(libc::SIGCONT);
        client.ping();
        assert_eq!(stopped(&path), None, "{model}");
        drop(client);
        server.drain();
        let times = count(&Trace::open(&path).unwrap(), |event| match event.what {
            Content::Continued(times) => Some(times),
            _ => None,
        });
        assert_eq!(times, 1, "{model}");
    }
}

#[test]
fn sigusr2_is_heeded_whichever_thread_it_comes_to() {
    for model in
        ["epoll", "sigio"].into_iter().chain(io_uring_refused().is_none().then_some("uring"))
    {
        let args = ["serve", "--model", model, "--listen", "127.0.0.1:0", "--trace"];
        let server = Launch::new(PROACTOR, &args).start();
        let pid = server.process.0;
        let printer = eventually("a printer", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let ids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
            let name = |id: &String| fs::read_to_string(format!("/proc/{pid}/task/{id}/comm"));
            ids.filter(|id| name(id).is_ok_and(|name| name.trim() == "trace"))
                .find_map(|id| id.parse().ok())
        });
        server.process.signal_thread(printer, libc::SIGUSR2);
        let (file, _) = proactor_trace::open_process(pid).unwrap();
        eventually("it has stopped", || {
            let mut bytes = [0; 4096];
            file.read_exact_at(&mut bytes, 0).unwrap();
            let frozen = proactor_trace::Header::parse(&bytes).unwrap().frozen;
            (frozen == Some(Frozen::Signal)).then_some(())
        });
        server.drain();
    }
}

#[test]
fn a_connection_that_fails_stops_the_recording_right_behind_it() {
    for model in models() {
        let (_folder, path, server) = recording(model, &["--trace-trigger", "error"]);
        let client = Client::connect(server.address());
        client.ping();
        assert_eq!(stopped(&path), None);
        client.reset();
        // With many writers the header says it first, and the record follows.
        let is_frozen = |last: &Event| last.what == Content::Frozen(Some(Frozen::Error));
        let last = eventually(model, || {
            let trace = Trace::open(&path).unwrap();
            let all: Vec<_> = events(&trace).collect();
            all.last().is_some_and(is_frozen).then_some(all)
        });
        assert_eq!(stopped(&path), Some(Frozen::Error));
        let [.., failed, frozen] = &last[..] else { panic!("{last:?}") };
        let result = failed.result().unwrap().unwrap_err();
        assert_eq!(result.to_string(), "ECONNRESET", "{model}: {failed:?}");
        assert!(is_frozen(frozen));
        // It serves on, and goes on recording at the next signal.
        Client::connect(server.address()).ping();
        server.process.signal(libc::SIGUSR2);
        eventually(model, || stopped(&path).is_none().then_some(()));
        let exit = server.drain();
        assert!(exit.stderr.contains("recording has stopped at an error"), "{exit:?}");
        let trace = Trace::open(&path).unwrap();
        let lost = count(&trace, |event| match event.what {
            Content::Lost(n) => Some(n),
            _ => None,
        });
        assert!(lost > 0 && lost == trace.lost(), "{model}: {lost} of {}", trace.lost());
    }
}

#[test]
fn operations_that_are_older_than_they_may_be_stop_the_recording() {
    for model in models() {
        let batch = model == "uring" || MANY.contains(&model);
        let clock = if batch { "batch" } else { "record" };
        let args = ["--trace-clock", clock, "--trace-trigger", "p50>0.01us"];
        let (_folder, path, server) = recording(model, &args);
        let client = Client::connect(server.address());
        (0..1100).for_each(|_| client.ping());
        assert_eq!(stopped(&path), Some(Frozen::Age), "{model}");
        drop(client);
        server.drain();
    }
}

#[test]
fn what_cannot_be_recorded_is_wrong_usage() {
    let wrong = |args: &[&str]| {
        let args = [&["serve", "--listen", "127.0.0.1:0", "--trace"], args].concat();
        let exit = Launch::new(PROACTOR, &args).run();
        assert_eq!(exit.code(), Some(2), "{exit:?}");
        exit.stderr
    };
    let said = wrong(&["--model", "epoll", "--trace-trigger", "p99>1ms"]);
    assert!(said.contains("'p99>1ms'") && said.contains("add --trace-clock record"), "{said}");
    assert!(wrong(&["--trace-trigger", "p99"]).contains("write p99>1ms, error"));
    assert!(wrong(&["--trace-size", "1"]).contains("from 128K to 64G"));
    assert!(wrong(&["--trace-sample", "0"]).contains("a number from 1 to"));
}

/// Also what is found only when `auto` has chosen a model, after the addresses of `--user` are
/// bound.
#[test]
fn wrong_usage_leaves_no_file_of_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("it is ours");
    let path = folder.path().join("s");
    let (unix, trace) = (format!("unix:{}", path.display()), "--trace=/dev/null");
    let cases: [&[&str]; 5] = [
        &["--model", "epoll", trace, "--kernel-events"],
        &["--model", "epoll", trace, "--trace-trigger", "p99>1ms"],
        &["--model", "auto", "--idle-sleep", "1ms"],
        &["--user", "65534:65534", "--model", "auto", "--idle-sleep", "1ms"],
        &["--user", "65534:65534", "--max-memory", "16M"],
    ];
    let is_root = std::fs::metadata("/proc/self").expect("procfs").uid() == 0;
    for args in cases.into_iter().filter(|args| is_root || args[0] != "--user") {
        let exit = Launch::new(PROACTOR, &["serve", "--listen", &unix]).args(args).run();
        assert_eq!(exit.code(), Some(2), "{args:?}: {exit:?}");
        assert!(exit.stderr.starts_with("error: "), "{args:?}: {exit:?}");
        assert!(!path.exists(), "{args:?}: {exit:?}");
    }
}

#[test]
fn the_counters_are_not_written_over_the_recording() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a").display().to_string();
    let (stats, trace) = (format!("--stats={path}"), format!("--trace={path}"));
    let serve = ["serve", "--listen", "127.0.0.1:0", &stats, &trace];
    let exit = Launch::new(PROACTOR, &serve).run();
    let expected = format!("error: --stats and --trace cannot both write to {path}\n");
    assert_eq!((exit.code(), exit.stderr), (Some(2), expected));
    assert!(!folder.path().join("a").exists());
}

#[test]
fn a_second_server_cannot_record_into_the_same_file() {
    let (_folder, path, server) = recording("epoll", &[]);
    let option = format!("--trace={}", path.display());
    let second = Launch::new(PROACTOR, &["serve", "--listen", "127.0.0.1:0", &option]).run();
    assert_eq!(second.code(), Some(1));
    let said = format!("{}: another server is recording into it", path.display());
    assert!(second.stderr.contains(&said), "{second:?}");
    Client::connect(server.address()).ping();
    server.drain();
    // It is served now.
    let third = ["serve", "--model", "epoll", "--listen", "127.0.0.1:0", &option];
    Launch::new(PROACTOR, &third).start().drain();
}

#[test]
fn a_server_outlives_the_truncation_of_its_recording() {
    for len in [0, 8192] {
        for model in models() {
            let (_folder, path, server) = recording(model, &[]);
            let client = Client::connect(server.address());
            client.ping();
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
            // So many records that each slot below the cut and many above it are written.
            (0..100).for_each(|_| client.ping());
            // It cannot start again.
            server.process.signal(libc::SIGUSR2);
            (0..100).for_each(|_| client.ping());
            drop(client);
            if model != "blocking" {
                Client::connect(server.address()).ping();
            }
            // A child has closed the file, and does not know its length.
            let why = match model {
                "process" => "it was cut short",
                _ => &format!("it was cut short to {len} bytes"),
            };
            assert_loss(&server.drain(), &path, why);
            assert_eq!(path.metadata().unwrap().len(), len, "{model}");
            if len > 0 {
                assert_eq!(stopped(&path), Some(Frozen::LostFile), "{model}");
            }
        }
    }
}

/// Fails unless one line says that recording has stopped, and why.
fn assert_loss(exit: &Exit, path: &Path, why: &str) {
    assert_eq!(exit.stderr.matches("has stopped").count(), 1, "{exit:?}");
    let line = format!("recording into {} has stopped: {why}", path.display());
    assert!(exit.stderr.contains(&line), "{exit:?}");
}

#[test]
fn a_recorder_leaves_a_file_that_another_program_has_overwritten() {
    let leaves = |model: &str| {
        let (_folder, path, server) = recording(model, &[]);
        let client = Client::connect(server.address());
        client.ping();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[b'x'; 4096], 0).unwrap();
        eventually(model, || {
            client.ping();
            let maps = fs::read_to_string(format!("/proc/{}/maps", server.process.0)).unwrap();
            (!maps.contains("a.trace")).then_some(())
        });
        drop(client);
        assert_loss(&server.drain(), &path, "another program has overwritten it");
    };
    // The file is looked at once in a second. Each child of `process` has a mapping of its own, and
    // ends with its connection.
    std::thread::scope(|scope| {
        models().into_iter().filter(|&model| model != "process").for_each(|model| {
            scope.spawn(move || leaves(model));
        });
    });
}

#[test]
fn a_recording_that_does_not_fit_is_named_with_its_size_and_leaves_no_file() {
    for model in models() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.trace");
        let option = format!("--trace={}", path.display());
        let idle: &[&str] = if model == "nonblocking" { &["--idle-sleep", "1ms"] } else { &[] };
        let args = ["serve", "--model", model, "--listen", "127.0.0.1:0", &option];
        let exit = Launch::new(PROACTOR, &args).args(idle).file_size(100 << 10).run();
        assert_eq!(exit.code(), Some(1), "{model}: {exit:?}");
        let said = format!("cannot record 67108864 bytes into {}: File too large", path.display());
        assert!(exit.stderr.contains(&said), "{model}: {exit:?}");
        assert!(!path.exists(), "{model}");
    }
}

#[test]
fn a_view_reads_what_was_written_and_not_the_size_of_the_recording() {
    let (_folder, path, server) = recording("epoll", &["--trace-size", "1500M"]);
    Client::connect(server.address()).ping();
    let exit = server.drain();
    let rounded = "--trace-size 1572864000 is rounded down to a power of two: 1073741824 bytes";
    assert!(exit.stderr.contains(rounded), "{exit:?}");
    assert_eq!(path.metadata().unwrap().len(), (1 << 30) + 4096);
    let path = path.display();
    for view in ["summary", "show", "conn", "doctor", "follow", "export --format jsonl"] {
        for run in [format!("{view} {path}"), format!("{view} /dev/stdin < {path}")] {
            assert_small(&format!("{PROACTOR} trace {run}"));
        }
    }
    assert_small(&format!("cat {path} | {PROACTOR} trace summary /dev/stdin"));
}

/// Runs a command with memory for the program, but not for a large recording.
fn assert_small(command: &str) {
    let exit = Launch::new("sh", &["-c", &format!("ulimit -v 600000; {command}")]).run();
    assert_eq!(exit.code(), Some(0), "{command}: {exit:?}");
    assert!(!exit.stdout.iter().any(|line| line.contains("cut short")), "{command}: {exit:?}");
}

#[test]
fn without_a_file_all_that_happens_is_said_on_stderr() {
    for model in models() {
        let args = ["serve", "--model", model, "--listen", "127.0.0.1:0", "--trace"];
        let idle: &[&str] = if model == "nonblocking" { &["--idle-sleep", "1ms"] } else { &[] };
        let server = Launch::new(PROACTOR, &args).args(idle).start();
        Client::connect(server.address()).ping();
        let exit = server.drain();
        let lines: Vec<_> = exit.stderr.lines().collect();
        let has = |what: &str, op: &str| {
            let wanted = |line: &&&str| {
                let mut words = line.split_whitespace().skip(2);
                words.next() == Some(what) && words.next().is_some_and(|op_| op_.starts_with(op))
            };
            assert!(lines.iter().any(|line| wanted(&line)), "{model}: no {what} {op} in {exit:?}");
        };
        let ends = if model == "uring" { "cqe" } else { "<call" };
        ["accept", "recv", "close"].into_iter().for_each(|op| has(ends, op));
        assert!(!exit.stderr.contains("LOST"), "{exit:?}");
    }
}

/// A thread would keep it from forking, so another process prints.
#[test]
fn the_printer_of_a_forking_server_ends_with_it() {
    for kills in [false, true] {
        let args = ["serve", "--model", "process", "--listen", "127.0.0.1:0", "--trace"];
        let server = Launch::new(PROACTOR, &args).start();
        let [printer] = server.process.children()[..] else { panic!("there is one to print") };
        Client::connect(server.address()).ping();
        if kills {
            server.kill();
        } else {
            server.drain();
        }
        eventually("it is gone", || printer.is_zombie().is_none_or(|dead| dead).then_some(()));
    }
}

/// The objects of `--json` by their numbers, without the header and without times: of ticks and
/// nanoseconds, more is known at the end. Concurrent calls are in the order of time in a finished
/// file, and in the order of arrival in a followed one.
fn objects(text: &[u8]) -> Vec<Value> {
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut all: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(all.remove(0)["schema"], "proactor.trace.events/3");
    all.sort_by_key(|one| one["n"].as_u64());
    for one in &mut all {
        one.as_object_mut().unwrap().retain(|name, _| !name.ends_with("_ns"));
    }
    all
}

#[test]
fn follow_prints_what_show_prints_afterwards() {
    // Three at a time are too many for one.
    for model in models().into_iter().filter(|&model| model != "blocking") {
        let (_folder, path, server) = recording(model, &[]);
        let pid = server.process.0.to_string();
        let follow = |target: &str| {
            let mut command = Command::new(PROACTOR);
            command.args(["trace", "follow", "--json", target]).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // It has the file once it says whose it is.
            let (mut out, mut header) =
                (BufReader::new(child.stdout.take().unwrap()), String::new());
            out.read_line(&mut header).unwrap();
            (child, out, header)
        };
        let followers = [follow(path.to_str().unwrap()), follow(&pid)];
        let clients = [(); 3].map(|()| Client::connect(server.address()));
        (0..20).for_each(|_| clients.iter().for_each(Client::ping));
        drop(clients);
        server.drain();
        let shown = objects(&tool(&["show", "--json"], &path).stdout);
        assert!(shown.len() > 100);
        for (mut child, mut out, header) in followers {
            let mut text = header.into_bytes();
            out.read_to_end(&mut text).unwrap();
            assert!(child.wait().unwrap().success());
            let followed = objects(&text);
            let differ = followed.iter().zip(&shown).find(|(one, other)| one != other);
            assert_eq!(differ, None, "{model}");
            assert_eq!(followed.len(), shown.len(), "{model}");
        }
    }
}

#[test]
fn follow_ends_with_the_reader_of_its_output() {
    let (_folder, path, server) = recording("epoll", &[]);
    let mut command = Command::new(PROACTOR);
    command.args(["trace", "follow", "--now"]).arg(&path).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Nothing else is printed: the server is idle.
    let mut out = BufReader::new(child.stdout.take().unwrap());
    (0..2).for_each(|_| assert!(out.read_line(&mut String::new()).unwrap() > 0));
    drop(out);
    let status = eventually("the follower ends", || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    server.terminate();
}

#[test]
fn a_live_trace_that_goes_round_is_shown_from_its_oldest_record_on() {
    for model in models() {
        let (_folder, path, server) = recording(model, &["--trace-size", "128K"]);
        let client = Client::connect(server.address());
        for _ in 0..3 {
            // Of a thread that makes two calls for each, four records.
            (0..1200).for_each(|_| client.ping());
            let trace = Trace::open(&path).unwrap();
            assert!(trace.lost() > 0 && trace.records.len() > 3900, "{model}: {}", trace.lost());
            assert!(events(&trace).all(|event| event.what != Content::Unknown), "{model}");
            if !MANY.contains(&model) {
                let iterations: Vec<_> =
                    trace.records.iter().map(|record| record.iteration).collect();
                assert!(iterations.is_sorted(), "{model}");
            }
            let shown = tool(&["show"], &path);
            assert!(shown.status.success() && shown.stdout.len() > 100_000, "{model}");
        }
        drop(client);
        server.drain();
    }
}

#[test]
fn what_is_no_trace_is_refused_by_one_line() {
    let shown = tool(&["show"], Path::new("/dev/null"));
    assert_eq!(shown.status.code(), Some(1));
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(said.lines().count() == 1 && said.contains("/dev/null"), "{said}");
    let no_process = Command::new(PROACTOR).args(["trace", "follow", "4194999"]).output().unwrap();
    let said = String::from_utf8(no_process.stderr).unwrap();
    assert_eq!((no_process.status.code(), said.lines().count()), (Some(1), 1), "{said}");
}
