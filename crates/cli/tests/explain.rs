//! `proactor explain` on real servers: the calls that each model makes for a message, in their
//! order, and a page that a browser takes. No time is asserted.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::fs;
use std::process::Command;

use serde_json::Value;
use support::server::PROACTOR;
use support::{io_uring_refused, skip};

/// What it says of a model; `None` if its ring is refused here.
fn explained(model: &str) -> Option<Value> {
    if let Some(reason) = io_uring_refused().filter(|_| model == "uring") {
        skip(&reason);
        return None;
    }
    let args = ["explain", "--json", "--runs", "9", "--connections", "1", "--large", "0"];
    let args = [&args[..], &["--models", model]].concat();
    let done = Command::new(PROACTOR).args(args).output().expect("the binary is there");
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{model}: {complaint}");
    let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(report["schema"], "proactor.explain/3");
    Some(report["models"][0].clone())
}

/// A call in a few words: its name, and what its phases are.
fn calls(row: &Value) -> Vec<String> {
    let calls = row["single"]["calls"].as_array().unwrap_or_else(|| panic!("no calls: {row}"));
    let words = |call: &Value| {
        let phases = call["phases"].as_array().expect("phases").iter();
        let kinds: Vec<&str> = phases.map(|phase| phase["kind"].as_str().expect("text")).collect();
        format!("{} {}", call["name"].as_str().expect("text"), kinds.join("+"))
    };
    calls.iter().map(words).collect()
}

/// Fails unless a model that is everywhere makes these calls, in this order.
fn assert_calls(model: &str, expected: &[&str]) {
    let row = explained(model).expect("it is everywhere");
    assert_eq!(calls(&row), expected, "{model}");
}

#[test]
fn models_are_named_as_for_compare_and_each_is_shown_once() {
    let models = "all,-uring,-coroutine,-thread,-process,-blocking,-nonblocking,poll";
    let args = ["explain", "--json", "--runs", "1", "--models", models];
    let done = Command::new(PROACTOR).args(args).output().expect("the binary is there");
    let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let rows = report["models"].as_array().expect("rows").iter();
    let names: Vec<&str> = rows.map(|row| row["model"].as_str().expect("a name")).collect();
    assert_eq!(names, ["select", "poll", "sigio", "epoll", "epoll-et", "epoll-oneshot"]);
}

#[test]
fn readiness_waits_then_receives_then_sends() {
    for (model, wait) in [
        ("epoll", "epoll_wait"),
        ("epoll-et", "epoll_wait"),
        ("coroutine", "epoll_wait"),
        ("poll", "poll"),
        ("select", "select"),
    ] {
        let (woken, again) = (format!("{wait} waiting+waking"), format!("{wait} waiting"));
        assert_calls(model, &[&woken, "recv receiving", "send sending", &again]);
    }
}

#[test]
fn oneshot_rearms_and_sigio_takes_the_signal_and_polls() {
    assert_calls(
        "epoll-oneshot",
        &[
            "epoll_wait waiting+waking",
            "recv receiving",
            "send sending",
            "epoll_ctl without-data",
            "epoll_wait waiting",
        ],
    );
    assert_calls(
        "sigio",
        &[
            "poll waiting+waking",
            "read without-data",
            "poll without-data",
            "recv receiving",
            "send sending",
            "poll waiting",
        ],
    );
}

#[test]
fn a_blocking_receive_waits_and_copies_in_one_call() {
    for model in ["blocking", "thread", "process"] {
        let woken = "recv waiting+waking-and-receiving";
        assert_calls(model, &[woken, "send sending", "recv waiting"]);
    }
}

#[test]
fn one_enter_carries_the_send_and_the_wait_and_the_thread_copies_inside_it() {
    let Some(row) = explained("uring") else { return };
    let expected = ["enter waiting+receiving-in-enter", "enter sending-in-enter+waiting"];
    assert_eq!(calls(&row), expected);
    let calls = &row["single"]["calls"];
    assert_eq!(calls[0]["completed"], serde_json::json!(["recv"]));
    assert_eq!(calls[1]["submitted"], serde_json::json!(["send"]));
}

#[test]
fn nonblocking_never_waits_and_retries_until_data_comes() {
    let row = explained("nonblocking").expect("it is everywhere");
    let calls = calls(&row);
    assert!(calls.iter().all(|call| !call.contains("waiting")), "{calls:?}");
    let copying = calls.iter().filter(|call| call.ends_with("ing"));
    assert_eq!(copying.collect::<Vec<_>>(), ["recv receiving", "send sending"], "{calls:?}");
}

#[test]
fn several_ready_sockets_cost_a_readiness_model_calls_each_and_a_ring_one() {
    let args = ["explain", "--json", "--runs", "9", "--models", "all"];
    let done = Command::new(PROACTOR).args(args).output().expect("the binary is there");
    let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(report["connections"], 8);
    for model in report["models"].as_array().expect("a list") {
        let (name, several) = (&model["model"], &model["several"]);
        let refused = name == "uring" && io_uring_refused().is_some();
        assert_eq!(several.is_null(), name == "blocking" || refused, "{model}");
        let calls = several["calls"].as_array().into_iter().flatten();
        let copies = calls.filter(|call| {
            let own = |phase: &Value| {
                let kinds = ["waking-and-receiving", "receiving", "sending"];
                kinds.iter().any(|kind| phase["kind"] == *kind)
            };
            call["phases"].as_array().expect("a list").iter().any(own)
        });
        let expected = if name == "uring" || several.is_null() { 0 } else { 16 };
        assert_eq!(copies.count(), expected, "a recv and a send each: {model}");
        assert_eq!(model["large"].is_null(), refused, "{model}");
        for picture in ["several", "single", "large"].map(|it| &model[it]) {
            if !picture.is_null() {
                let [low, high] = [0, 1].map(|at| picture["quartiles"][at].as_i64());
                let reply = picture["received"].as_i64();
                assert!(low <= reply && reply <= high, "{name}: {picture}");
            }
        }
    }
}

#[test]
fn a_recording_of_no_model_fails_also_if_the_reader_of_its_output_has_ended() {
    for read in [true, false] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let reader = Some(reader).filter(|_| read);
        // Too few descriptors for any model.
        let script = format!("ulimit -n 6; exec {PROACTOR} explain --runs 1 --models epoll");
        let done = Command::new("sh").args(["-c", &script]).stdout(writer).output();
        let done = done.expect("the binary is there");
        assert_eq!(done.status.code(), Some(1), "read: {read}");
        let message = String::from_utf8_lossy(&done.stderr);
        assert_eq!(message, "error: no model could be recorded\n", "read: {read}");
        drop(reader);
    }
}

#[test]
fn two_results_go_to_two_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let shared = folder.path().join("a");
    let command = |options: [&str; 2]| {
        let args = ["explain", "--runs", "1", "--connections", "1", "--models", "poll"];
        let done = Command::new(PROACTOR).args(args).args(options).current_dir(&folder).output();
        let done = done.expect("the binary is there");
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let expected = format!("error: --svg and --html cannot both write to {}\n", shared.display());
    let (code, message) = command(["--svg=a", &format!("--html={}", shared.display())]);
    assert_eq!((code, message), (Some(2), expected));
    assert!(!shared.exists());
    let (code, message) = command(["--svg=-", "--json"]);
    assert_eq!(code, Some(2));
    assert_eq!(message, "error: --svg and --json cannot both write to standard output\n");
    assert_eq!(command(["--svg=/dev/null", "--html=/dev/null"]), (Some(0), String::new()));
}

#[test]
fn a_browser_takes_the_page_without_a_complaint() {
    let folder = tempfile::tempdir().expect("a folder");
    let (page, picture) = (folder.path().join("page.html"), folder.path().join("picture.svg"));
    let mut command = Command::new(PROACTOR);
    command.args(["explain", "--runs", "3", "--models", "blocking,epoll"]);
    let done = command.arg("--html").arg(&page).arg("--svg").arg(&picture).output();
    assert!(done.expect("the binary is there").status.success());
    let picture = fs::read_to_string(picture).expect("a picture");
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    let Some((document, complaints)) = browsed(&format!("file://{}", page.display())) else {
        return skip("no Chromium or Chrome to open a page in");
    };
    assert!(!complaints.contains("CONSOLE"), "{complaints}");
    // The script has run to its end: every title of a part has become a tip.
    let (_, drawn) = document.split_once("class=\"picture\"").expect("the picture");
    assert!(drawn.contains("aria-label=\"recv: ") && !drawn.contains("<title>"), "{drawn:.3000}");
}

/// What a browser makes of a page, and what it complains of.
fn browsed(address: &str) -> Option<(String, String)> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let profile = tempfile::tempdir().expect("a folder");
    let done = names.iter().find_map(|browser| {
        let mut command = Command::new("timeout");
        command.args(["120", browser, "--headless", "--no-sandbox", "--disable-gpu"]);
        command.args(["--disable-quic", "--no-first-run", "--disable-background-networking"]);
        command.args(["--disable-component-update", "--disable-sync", "--enable-logging=stderr"]);
        command.args(["--virtual-time-budget=5000", "--dump-dom"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(address);
        // timeout(1) says with 127 that there is no such program.
        command.output().ok().filter(|done| done.status.code() != Some(127))
    })?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Some((text(&done.stdout), text(&done.stderr)))
}
