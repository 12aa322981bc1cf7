//! Servers that record, as who runs them sees it: into a file and as lines, followed, stopped by a
//! signal or by what they are to stop at, killed.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use proactor::trace::{Event, Frozen, Happened, Op, Trace};
use serde_json::Value;

use support::server::{PROACTOR, Server};
use support::{Client, Launch, eventually, io_uring_refused, skip};

/// All that can be recorded here.
fn models() -> Vec<&'static str> {
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
    trace.events().filter_map(|event| which(&event)).sum()
}

#[test]
fn the_calls_of_a_readiness_loop_are_all_in_its_trace() {
    for model in models().into_iter().filter(|&model| model != "uring") {
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
                Happened::CallEnd { result: Ok(n), .. } if event.op.map(Op::name) == Some(name) => {
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
            Happened::WaitEnd { .. } => Some(1),
            _ => None,
        });
        assert_eq!(waits, exit.counter("turns"), "{model}");
        // Each begins, and ends as what it began as.
        let mut begun = None;
        for event in trace.events() {
            match event.what {
                Happened::CallBegin { file, .. } => {
                    assert_eq!(begun.replace((event.op, event.conn, file)), None, "{model}");
                }
                Happened::CallEnd { file, .. } => {
                    assert_eq!(begun.take(), Some((event.op, event.conn, file)), "{model}");
                }
                _ => {}
            }
        }
    }
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
        let file = proactor::trace::open_process(pid).unwrap();
        eventually("it has stopped", || {
            let mut bytes = [0; 4096];
            file.read_exact_at(&mut bytes, 0).unwrap();
            let frozen = proactor::trace::Header::parse(&bytes).unwrap().frozen;
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
        eventually(model, || (stopped(&path) == Some(Frozen::Error)).then_some(()));
        let trace = Trace::open(&path).unwrap();
        let last: Vec<_> = trace.events().collect();
        let [.., failed, frozen] = &last[..] else { panic!("{last:?}") };
        let result = failed.result().unwrap().unwrap_err();
        assert_eq!(result.to_string(), "ECONNRESET", "{model}: {failed:?}");
        assert_eq!(frozen.what, Happened::Frozen(Some(Frozen::Error)));
        // It serves on, and goes on recording when it is told to.
        Client::connect(server.address()).ping();
        server.process.signal(libc::SIGUSR2);
        eventually(model, || stopped(&path).is_none().then_some(()));
        let exit = server.drain();
        assert!(exit.stderr.contains("recording has stopped at an error"), "{exit:?}");
        let trace = Trace::open(&path).unwrap();
        let lost = count(&trace, |event| match event.what {
            Happened::Lost(n) => Some(n),
            _ => None,
        });
        assert!(lost > 0 && lost == trace.lost(), "{model}: {lost} of {}", trace.lost());
    }
}

#[test]
fn operations_that_are_older_than_they_may_be_stop_the_recording() {
    for model in models() {
        let clock = if model == "uring" { "batch" } else { "record" };
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
    assert!(wrong(&["--model", "blocking"]).contains("--trace records no blocking"));
    assert!(wrong(&["--trace-trigger", "p99"]).contains("write p99>1ms, error"));
    assert!(wrong(&["--trace-size", "1"]).contains("from 128K to 64G"));
    assert!(wrong(&["--trace-sample", "0"]).contains("0 is not in"));
}

#[test]
fn a_second_server_cannot_record_into_the_same_file() {
    let (_folder, path, server) = recording("epoll", &[]);
    let option = format!("--trace={}", path.display());
    let second = Launch::new(PROACTOR, &["serve", "--listen", "127.0.0.1:0", &option]).run();
    assert_eq!(second.code(), Some(1));
    let said = format!("{}: another server records into it", path.display());
    assert!(second.stderr.contains(&said), "{second:?}");
    Client::connect(server.address()).ping();
    server.drain();
    // Its turn has come.
    let third = ["serve", "--model", "epoll", "--listen", "127.0.0.1:0", &option];
    Launch::new(PROACTOR, &third).start().drain();
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

/// The objects of `--json`, without the header and without times: of ticks and nanoseconds, more is
/// known at the end.
fn objects(text: &[u8]) -> Vec<Value> {
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut all: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(all.remove(0)["schema"], "proactor.trace/1");
    for one in &mut all {
        one.as_object_mut().unwrap().retain(|name, _| !name.ends_with("_ns"));
    }
    all
}

#[test]
fn who_follows_a_file_or_a_process_is_told_what_is_shown_afterwards() {
    for model in models() {
        let (_folder, path, server) = recording(model, &[]);
        let pid = server.process.0.to_string();
        let follow = |whom: &str| {
            let mut command = Command::new(PROACTOR);
            command.args(["trace", "follow", "--json", whom]).stdout(Stdio::piped());
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
fn a_live_trace_that_goes_round_is_shown_from_its_oldest_record_on() {
    for model in models() {
        let (_folder, path, server) = recording(model, &["--trace-size", "128K"]);
        let client = Client::connect(server.address());
        for _ in 0..3 {
            (0..1000).for_each(|_| client.ping());
            let trace = Trace::open(&path).unwrap();
            assert!(trace.lost() > 0 && trace.records.len() > 3900, "{model}: {}", trace.lost());
            assert!(trace.events().all(|event| event.what != Happened::Unknown), "{model}");
            let turns: Vec<_> = trace.records.iter().map(|record| record.turn).collect();
            assert!(turns.is_sorted(), "{model}");
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
    let nobody = Command::new(PROACTOR).args(["trace", "follow", "4194999"]).output().unwrap();
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert_eq!((nobody.status.code(), said.lines().count()), (Some(1), 1), "{said}");
}
