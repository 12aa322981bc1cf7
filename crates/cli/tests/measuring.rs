//! `proactor load` and `proactor compare` as their users meet them.

#[path = "../../../tests/skip/mod.rs"]
mod skip;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use proactor::Model;
use proactor_models::ALL;

const PROACTOR: &str = env!("CARGO_BIN_EXE_proactor");

fn proactor(arguments: &[&str]) -> Output {
    Command::new(PROACTOR).args(arguments).output().expect("it was built for this test")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it writes UTF-8")
}

/// A server that ends with the test.
struct Server(Child);

impl Server {
    /// Starts it; answers where it listens.
    fn start(arguments: &[&str]) -> (Server, String) {
        let mut child = Command::new(PROACTOR)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built for this test");
        let output = child.stdout.take().expect("it is piped");
        let server = Server(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        let address = line.split_whitespace().nth(2).expect("listening on ADDRESS").to_owned();
        (server, address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn load_prints_what_it_verified() {
    let (_server, address) = Server::start(&["--model", "epoll"]);
    let output = proactor(&["load", &address, "-t", "100ms", "-c", "3", "--size", "100"]);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(out.starts_with(&format!("3 connections to {address}, 100 B messages")), "{out}");
    assert!(out.contains("every byte verified"), "{out}");
    assert!(output.stderr.is_empty(), "nothing is drawn where there is no terminal");
}

#[test]
fn load_has_the_shape_of_rust_echo_bench_and_speaks_json() {
    let (_server, address) = Server::start(&["--model", "poll"]);
    let arguments = [
        "load",
        "--address",
        &address,
        "--number",
        "2",
        "--length",
        "32",
        "--duration",
        "0.1",
        "--json",
    ];
    let output = proactor(&arguments);
    let json: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("it was asked for JSON");
    assert_eq!(json["schema"], "proactor.load/3");
    assert_eq!((&json["connections"], &json["size"]), (&2.into(), &32.into()));
    assert_eq!(json["bytes"], json["messages"].as_u64().expect("a count") * 32);
}

/// Runs a load of three seconds, and stops the server for 200 ms. Returns the result.
fn load_with_a_stop(arguments: &[&str]) -> serde_json::Value {
    let (server, address) = Server::start(&["--model", "epoll"]);
    let pid = server.0.id().to_string();
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &pid]).status();
        assert!(status.expect("kill(1) is there").success());
    };
    let messages = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("it runs");
        status.split(' ').nth(2).and_then(|n| n.trim().parse::<u64>().ok()).expect("three numbers")
    };
    let before = messages();
    let load = Command::new(PROACTOR)
        .args(["load", &address, "-t", "3s", "--json", "--timeout", "60s"])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it was built for this test");
    // The server runs often only if it serves.
    while messages() < before + 200 {
        std::thread::yield_now();
    }
    signal("-STOP");
    std::thread::sleep(std::time::Duration::from_millis(200));
    signal("-CONT");
    let output = load.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("it was asked for JSON")
}

fn warns_of_the_stop(json: &serde_json::Value) -> bool {
    let warnings = json["warnings"].as_array().expect("a list").iter();
    assert!(json["longest_gap_ns"].as_u64() >= Some(100_000_000), "{json}");
    warnings.filter_map(|it| it.as_str()).any(|it| it.starts_with("no reply came for "))
}

#[test]
fn a_server_that_stops_shows_in_the_percentiles_of_an_open_loop() {
    let json = load_with_a_stop(&["--rate", "10k", "-c", "8"]);
    assert_eq!(json["offered"], 30_000, "each planned message counts");
    // A fifteenth of the messages was planned while the server stood still.
    let nanos = |times: &str, name: &str| json[times][name].as_u64().expect("many messages");
    assert!(nanos("latency", "p99_9_ns") > 150_000_000, "{json}");
    assert!(nanos("offer_lag", "p50_ns") < nanos("latency", "p99_9_ns"), "{json}");
    assert!(warns_of_the_stop(&json), "{json}");
}

#[test]
fn a_server_that_stops_is_hidden_by_the_percentiles_of_a_closed_loop_and_called_out() {
    let json = load_with_a_stop(&["-c", "8"]);
    assert!(json["service_time"]["p99_ns"].as_u64() < Some(100_000_000), "{json}");
    assert!(warns_of_the_stop(&json), "{json}");
}

#[test]
fn every_workload_runs_over_tcp_and_unix_sockets() {
    let folder = tempfile::tempdir().expect("a directory");
    for (workload, protocol, model, words) in [
        ("echo", "echo", "epoll", " msg/s, "),
        ("churn", "echo", "poll", " connections/s, "),
        ("upload", "discard", "epoll", "all read by the server"),
        ("download", "chargen", "epoll", " in, for "),
        ("fanout", "chat", "epoll", " deliveries/s, "),
        ("fanout", "chat", "thread", " deliveries/s, "),
    ] {
        let path = folder.path().join(format!("{workload}-{model}"));
        let unix = format!("unix:{}", path.display());
        let (_server, tcp) =
            Server::start(&["--listen", &unix, "--model", model, "--protocol", protocol]);
        for address in [&tcp, &unix] {
            for engine in ["epoll", "auto"] {
                let load = ["load", address, "-t", "50ms", "-c", "3", "--engine", engine];
                let output = proactor(&[&load[..], &["-w", workload]].concat());
                let out = text(&output.stdout);
                assert!(output.status.success(), "{workload}: {}", text(&output.stderr));
                assert!(out.contains(words) && out.contains(address.as_str()), "{out}");
                assert!(!out.contains("  0, every byte") && !out.contains(" 0, all"), "{out}");
            }
        }
    }
}

#[test]
fn idle_connections_and_mixed_sizes_are_named() {
    let (_server, address) = Server::start(&["--model", "epoll"]);
    let load = ["load", &address, "-t", "50ms", "-c", "2", "--idle", "20", "--size", "10..500"];
    let load = [&load[..], &["--slow-readers", "1"]].concat();
    let output = proactor(&load);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let words = "10 to 500 B messages, depth 1, beside 20 idle connections, \
                 beside 1 slow reader, closed loop";
    assert!(out.contains(words), "{out}");
    let output = proactor(&[&load[..], &["-w", "churn", "--rate", "100", "--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json["workload"], &json["size_max"]), (&"churn".into(), &500.into()));
    assert_eq!((&json["offered"], &json["idle_connections"]), (&5.into(), &20.into()));
}

#[test]
fn latencies_are_kept_for_the_tools_of_hdrhistogram() {
    let (_server, address) = Server::start(&["--model", "epoll"]);
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("latencies.hlog");
    let path = file.to_str().expect("a path of text");
    let load = ["load", &address, "-t", "50ms", "--rate", "1k", "--hdr", path];
    let output = proactor(&load);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let log = std::fs::read_to_string(&file).expect("it was written");
    for tag in ["\nTag=latency,", "\nTag=offer_lag,", "\nTag=service_time,"] {
        assert_eq!(log.matches(tag).count(), 1, "{log}");
    }
}

#[test]
fn a_ramp_shows_each_rate_and_what_it_found() {
    let (_server, address) = Server::start(&["--model", "epoll"]);
    let ramp = ["load", &address, "-c", "2", "-t", "60ms", "--ramp", "500:1k"];
    let output = proactor(&ramp);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(out.starts_with(&format!("ramp to {address}: 500 to 1.00k msg/s")), "{out}");
    assert!(out.contains("   1            500 ") && out.contains("\nknee: "), "{out}");
    let output = proactor(&[&ramp[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["schema"], "proactor.load.ramp/1");
    assert_eq!((&json["steps"][0]["offered"], &json["steps"][0]["pass"]), (&30.into(), &1.into()));
}

#[test]
fn load_fails_in_one_line_when_a_reply_is_wrong() {
    // Of this server a third of all bytes come back changed: those that are small letters.
    let (_server, address) = Server::start(&["--model", "epoll", "--protocol", "upper"]);
    let output = proactor(&["load", &address, "-t", "10"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "a void run has no result");
    let error = text(&output.stderr);
    assert!(error.starts_with("error: wrong reply on connection "), "{error}");
    assert!(error.contains("does it serve another protocol?"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn load_verifies_the_example_of_a_protocol_and_names_a_wrong_byte() {
    let (_server, address) = Server::start(&["--model", "poll", "--protocol", "prefix"]);
    let load = |protocol| {
        proactor(&[
            "load",
            &address,
            "-t",
            "100ms",
            "-c",
            "2",
            "--depth",
            "3",
            "--protocol",
            protocol,
        ])
    };
    let (right, wrong) = (load("prefix"), load("upper"));
    assert!(right.status.success(), "{}", text(&right.stderr));
    let out = text(&right.stdout);
    assert!(out.contains(", 13 B requests and 28 B replies of prefix, depth 3, "), "{out}");
    assert!(out.contains("/s out, ") && out.contains("every byte verified"), "{out}");
    assert_eq!(wrong.status.code(), Some(1));
    let error = text(&wrong.stderr);
    assert!(error.contains("byte 0 of the replies is 0x79, but must be 0x48"), "{error}");
}

#[test]
fn compare_measures_the_servers_of_a_protocol_by_its_example() {
    let output = proactor(&[
        "compare",
        "--protocol",
        "upper",
        "--models",
        "poll,select",
        "-c",
        "2",
        "--blocks",
        "1",
        "--idle",
        "4",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    for line in ["2 connections, 13 B upper, depth 1", "wrong replies 0 of ", "select: "] {
        assert!(out.contains(line), "{line}\nis not in\n{out}");
    }
    assert!(!out.contains("is not served"), "{out}");
}

#[test]
fn compare_measures_every_workload() {
    let titles = [
        ("churn", "3 connections, 64 B echo, churn, closed loop"),
        ("upload", "3 connections, 65536 B discard, upload, closed loop"),
        ("download", "3 connections, 65536 B chargen, download, closed loop"),
        ("fanout", "3 connections, 64 B chat, fanout, closed loop"),
    ];
    for (workload, title) in titles {
        let args = ["compare", "--workload", workload, "--models", "poll", "--baseline", "poll"];
        let output = proactor(&[&args[..], &["-c", "3", "--blocks", "1", "--idle", "0"]].concat());
        let out = text(&output.stdout);
        // A block may be void on a busy machine: then there is no figure, and the status says so.
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output.stderr));
        assert!(out.contains(title), "{title}\nis not in\n{out}");
        assert!(!out.contains("not measured") && !out.contains("is not served"), "{out}");
    }
    let wrong = proactor(&["compare", "--workload", "churn", "--depth", "2"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("--depth is for echo and fanout"));
}

#[test]
fn compare_makes_a_table_of_each_rate_in_each_form() {
    let dir = tempfile::tempdir().expect("a directory");
    let [csv, json, hdr] =
        ["csv", "json", "hdr"].map(|name| dir.path().join(name).display().to_string());
    let fixed = ["compare", "--models", "poll", "--baseline", "poll", "-c", "2", "--blocks", "1"];
    let forms = ["--idle", "0", "--csv", &csv, "--json", &json, "--hdr", &hdr, "--markdown", "-"];
    let loops = ["--rate", "50%,4k", "--arrivals", "poisson", "--size", "64,128"];
    let output = proactor(&[&fixed[..], &forms, &loops].concat());
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    let titles = out.lines().filter(|line| line.starts_with("## 2 connections"));
    let titles: Vec<&str> = titles.collect();
    assert_eq!(titles.len(), 4, "{out}");
    assert!(titles[0].contains("64 B echo, up to depth 1024, open loop of "), "{out}");
    assert!(titles[0].contains("(poisson), 50 % of what "), "{out}");
    assert!(titles[3].contains("128 B echo, up to depth 1024, open loop of 4.00k msg/s"), "{out}");
    let lines = std::fs::read_to_string(csv).expect("it was written");
    assert_eq!(lines.lines().count(), 1 + 4 * 2, "{lines}");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(json).expect("it was written"))
            .expect("one JSON object");
    assert_eq!(json["plan"]["loads"][0]["open"]["of_slowest"], 0.5);
    assert_eq!(json["tables"][3]["offered_rate"], 4000.0);
    let log = std::fs::read_to_string(hdr).expect("it was written");
    assert_eq!(log.matches("\nTag=").count(), 4 * 2, "{log}");
    assert!(log.contains("\nTag=4.poll_again_(A/A),"), "{log}");
}

#[test]
fn compare_measures_idle_connections_connections_and_slow_readers() {
    let fixed = ["compare", "--models", "poll", "--baseline", "poll", "-c", "2", "--blocks", "1"];
    let others = ["--idle", "0", "--idle-connections", "20", "--slow-readers", "2"];
    let output = proactor(&[&fixed[..], &others].concat());
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output.stderr));
    let (out, title) = (text(&output.stdout), "beside 20 idle connections, beside 2 slow readers");
    assert!(out.contains(title) && !out.contains("not measured"), "{out}");
}

#[test]
fn load_fails_in_one_line_without_a_listener() {
    let output = proactor(&["load", "unix:/no/such/socket"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: cannot connect to unix:/no/such/socket"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// Asserts that each of these commands is refused as wrong usage.
fn refuses(commands: &[&[&str]]) {
    for arguments in commands {
        let output = proactor(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{arguments:?}");
    }
}

#[test]
fn wrong_usage_of_compare_exits_with_status_two() {
    refuses(&[
        &["compare", "--size", "128..64"],
        &["compare", "-w", "upload", "--size", "64..128"],
        &["compare", "-w", "fanout", "--idle", "5"],
        &["compare", "--protocol", "upper", "--size", "64"],
        &["compare", "--protocol", "discard"],
        &["compare", "--models", "kqueue"],
        &["compare", "--models", "all,kqueue"],
        &["compare", "--models", "auto"],
        &["compare", "--models", "all+trace"],
        &["compare", "--models", "epoll@5.6"],
        &["compare", "--ablate", "--models", "poll"],
        &["compare", "--ablate=sizes"],
        &["compare", "--models", "epoll-RECV_MULTISHOT"],
        &["compare", "--models", "uring-IOPOLL"],
        &["compare", "--rate", "0"],
        &["compare", "--rate", "201%"],
        &["compare", "--rate", "-1%"],
        &["compare", "--arrivals", "poisson"],
        &["compare", "--idle-connections", "1000"],
        &["compare", "-w", "fanout", "--idle-connections", "1"],
        &["compare", "--protocol", "upper", "--slow-readers", "1"],
        &["compare", "-w", "upload", "--rate", "50%"],
        &["compare", "--json", "-", "--csv", "-"],
        &["compare", "--baseline", "kqueue+trace"],
        &["compare", "--peer", "mine"],
        &["compare", "--peer", "epoll=./server"],
        &["compare", "--peer", "mine=./one", "--peer", "mine=./two"],
        &["compare", "--idle", "70000"],
        &["compare", "--blocks", "3", "--time", "3"],
        &["compare", "--server-cpu", "0", "--client-cpu", "0"],
        &["compare", "--cpu-margin", "5.1"],
        &["compare", "--rate-margin", "0"],
        &["compare", "--confidence", "90"],
        &["compare", "--connections", "64,1000"],
        &["compare", "--connections", "8,x"],
    ]);
}

#[test]
fn wrong_usage_exits_with_status_two() {
    refuses(&[
        &["load"],
        &["load", "nowhere"],
        &["load", "127.0.0.1:1", "--depth", "0"],
        &["load", "127.0.0.1:1", "--duration", "soon"],
        &["load", "127.0.0.1:1", "--rate", "0"],
        &["load", "127.0.0.1:1", "--size", "64..64"],
        &["load", "127.0.0.1:1", "-w", "gossip"],
        &["load", "127.0.0.1:1", "--hdr", "-"],
        &["load", "127.0.0.1:1", "--hdr", "x", "--ramp", "1k:2k"],
        &["load", "127.0.0.1:1", "--hdr", "x", "-w", "upload"],
        &["load", "127.0.0.1:1", "-w", "churn", "--depth", "2"],
        &["load", "127.0.0.1:1", "-w", "upload", "--rate", "1k"],
        &["load", "127.0.0.1:1", "-w", "download", "--size", "64"],
        &["load", "127.0.0.1:1", "-w", "fanout", "-c", "1"],
        &["load", "127.0.0.1:1", "-w", "fanout", "--ramp", "1k:2k"],
        &["load", "127.0.0.1:1", "-w", "fanout", "--protocol", "upper"],
        &["load", "127.0.0.1:1", "-w", "upload", "--idle", "5"],
        &["load", "127.0.0.1:1", "--protocol", "upper", "--slow-readers", "5"],
        &["load", "127.0.0.1:1", "--rate", "1000M"],
        &["load", "127.0.0.1:1", "--rate", "1k", "--ramp", "1k:2k"],
        &["load", "127.0.0.1:1", "--ramp", "2k:1k"],
        &["load", "127.0.0.1:1", "--arrivals", "poisson"],
        &["load", "127.0.0.1:1", "--rate", "1k", "--arrivals", "soon"],
        &["load", "127.0.0.1:1", "--protocol", "chat"],
        &["load", "127.0.0.1:1", "--protocol", "upper", "--size", "64"],
        &["load", "127.0.0.1:9", "--size", "64,128"],
        &["load", "127.0.0.1:9", "--depth", "1,2"],
        &["explain", "--models", "kqueue"],
        &["explain", "--models", "auto"],
        &["explain", "--models", "poll,-poll"],
        &["explain", "--size", "0"],
    ]);
}

#[test]
fn what_cannot_be_kept_is_refused_before_it_is_measured() {
    for arguments in [
        &["compare", "--json", "/no/such/folder/x"][..],
        &["explain", "--html", "/no/such/folder/x"],
        &["explain", "--svg", "/"],
    ] {
        let output = proactor(arguments);
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""), "{arguments:?}");
        assert!(
            error.starts_with("error: cannot write /") && error.lines().count() == 1,
            "{error}"
        );
    }
}

#[test]
fn what_help_says_of_the_default_models_can_be_typed() {
    for (command, models) in
        [("compare", "[default: uring,epoll,epoll-et,poll,select]"), ("explain", "[default: all]")]
    {
        let output = proactor(&[command, "--help"]);
        assert_eq!(text(&output.stdout).matches(models).count(), 1, "{}", text(&output.stdout));
    }
}

#[test]
fn compare_has_a_model_record_and_leaves_no_recording_behind() {
    let folder = tempfile::tempdir().expect("a directory");
    let output = Command::new(PROACTOR)
        .args(["compare", "--baseline", "poll", "--models", "poll+trace", "-c", "2"])
        .args(["--blocks", "1", "--idle", "5"])
        .env("TMPDIR", folder.path())
        .output()
        .expect("it is there");
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for words in ["vs poll", "poll again (A/A)", "; recorded into a file", "  poll+trace "] {
        assert!(out.contains(words), "{words}\nis not in\n{out}");
    }
    assert!(!out.contains("not measured") && !out.contains("epoll"), "{out}");
    assert_eq!(folder.path().read_dir().expect("it is there").count(), 0);
}

/// A variant of the ring is a row, and uses what its kernel had; or this machine refuses io_uring.
#[test]
fn compare_takes_the_ring_of_an_older_kernel() {
    let models = ["--models", "uring@5.6", "-c", "2", "--blocks", "1", "--idle", "0"];
    let output = proactor(&[&["compare"], &models[..]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    let row = out.lines().find(|line| line.starts_with("uring@5.6: ")).expect("it is described");
    assert!(!row.contains("DEFER_TASKRUN"), "{row}");
}

#[test]
fn compare_takes_servers_of_other_programs() {
    let own = format!("peer={PROACTOR} serve --model epoll --listen 127.0.0.1:{{port}}");
    let speaks = format!("speaks={PROACTOR} serve --model poll --listen 127.0.0.1:0");
    let args = ["compare", "--baseline", "peer", "--models", "poll", "-c", "2", "--blocks", "1"];
    let wrong = "wrong=".to_owned()
        + PROACTOR
        + " serve --model poll --protocol upper --listen 127.0.0.1:{port}";
    let more = ["--idle", "4", "--peer", &own, "--peer", &speaks, "--peer", "none=exit 3"];
    let output = proactor(&[&args[..], &more, &["--peer", &wrong]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for part in ["vs peer", "\npeer again (A/A) ", "\npoll ", "\nspeaks ", "speaks: poll, echo\n"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(
        text.contains("\nnone: not measured: ended without a message: exit status: 3"),
        "{text}"
    );
    assert!(text.contains("\nwrong: not measured: wrong reply on connection "), "{text}");
    assert!(text.contains("wrong replies 0 of "), "{text}");
    // Its counters are not asked for, so its calls are unknown.
    let row = text.lines().filter(|line| line.starts_with("peer  ")).nth(1).expect("a row");
    assert!(row.contains("  –  "), "{row}");
}

#[test]
fn compare_runs_servers_and_client_on_different_cpus() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip::skip("only one CPU is usable");
    }
    let output =
        proactor(&["compare", "--models", "poll", "-c", "2", "--blocks", "1", "--idle", "0"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert!(out.contains("servers on CPU 0, client on CPU 1"), "{out}");
    assert!(!out.contains("(1 usable"), "{out}");
}

/// Client and servers would measure each other.
#[test]
fn compare_refuses_a_machine_with_one_cpu() {
    // The last one, which is not CPU 0 if there are several.
    let cpu = proactor::os::usable_cpus().pop().expect("this runs on one").to_string();
    let output =
        Command::new("taskset").args(["-c", &cpu, PROACTOR, "compare", "--blocks", "1"]).output();
    let Ok(output) = output else { return skip::skip("there is no taskset") };
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(&format!("the client would share CPU {cpu}")), "{error}");
}

/// The servers of a run are of one program, whatever is built meanwhile.
#[test]
fn compare_runs_its_own_program_though_the_file_has_gone() {
    let folder = tempfile::tempdir().expect("a directory");
    let copy = folder.path().join("proactor");
    std::fs::copy(PROACTOR, &copy).expect("space");
    let mut command = Command::new(&copy);
    command.args(["compare", "--models", "poll", "-c", "2", "--blocks", "1", "--idle", "0"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    std::fs::remove_file(&copy).expect("it runs without a name");
    let output = child.wait_with_output().expect("it is ours");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!text(&output.stdout).contains("not measured"), "{}", text(&output.stdout));
}

#[test]
fn an_interrupted_comparison_exits_with_status_130_and_what_there_is() {
    let mut command = Command::new(PROACTOR);
    command.args(["compare", "--models", "poll", "-c", "2", "--idle", "0"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // A line of progress, or its servers, are signs that it listens for signals; a child is one.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    while std::fs::read_to_string(&children).is_ok_and(|children| children.is_empty()) {
        std::thread::yield_now();
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.expect("kill(1)").success());
    let output = child.wait_with_output().expect("it is ours");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("\nINTERRUPTED: "), "{}", text(&output.stdout));
}

#[test]
fn a_condition_that_does_not_hold_or_is_undecided_is_the_status() {
    let compare = |conditions: &[&str]| {
        let args = ["compare", "--models", "poll", "-c", "2", "--blocks", "1", "--idle", "0"];
        let output = proactor(&[&args, conditions].concat());
        (output.status.code(), text(&output.stdout).to_owned())
    };
    // One block has no interval.
    let (status, out) = compare(&["--require", "poll cpu <= 9 epoll", "--slo", "p50 <= 1h"]);
    assert_eq!(status, Some(4), "{out}");
    assert!(out.contains("\nGates:\n  poll cpu <= 9 epoll, at 2 connections, poll: UNDECIDED ("));
    assert_eq!(compare(&["--require", "poll cpu <= 9 select"]).0, Some(2));
    assert_eq!(compare(&["--slo", "select p99 <= 2ms"]).0, Some(2));
    assert_eq!(compare(&["--slo", "p99 < 2ms"]).0, Some(2));
}

#[test]
fn a_comparison_that_measures_nothing_is_a_failure() {
    let none = ["--baseline", "none", "--peer", "none=exit 3"];
    let output = proactor(&[&["compare", "--models", "poll", "--blocks", "1"], &none[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
}

/// A quota stops a process for a part of each period, on however many CPUs it runs.
#[test]
fn compare_uses_two_cpus_under_a_quota_of_cpu_time_and_warns() {
    if proactor::os::usable_cpus().len() < 2 {
        return skip::skip("only one CPU is usable");
    }
    // What a limited group shows, mounted over the groups of the machine, of version 1 or 2.
    let dir = tempfile::tempdir().expect("a directory");
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("proc(5)");
    let paths = own.lines().filter_map(|line| line.rsplit_once(':')?.1.strip_prefix('/'));
    for path in paths.chain([""]) {
        for mount in ["", "cpu", "cpu,cpuacct", "unified"] {
            let group = dir.path().join(mount).join(path);
            std::fs::create_dir_all(&group).expect("space");
            let files = [
                ("cgroup.controllers", "cpu"),
                ("cpu.max", "50000 100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpu.cfs_period_us", "100000"),
            ];
            for (name, text) in files {
                std::fs::write(group.join(name), text).expect("space");
            }
        }
    }
    let compare = format!(
        "mount --bind {} /sys/fs/cgroup && exec {PROACTOR} compare --models poll -c 2 --blocks 1 \
         --idle 0",
        dir.path().display()
    );
    let Some(output) = unshared("-rm", &compare) else {
        return skip::skip("no mount namespace may be made");
    };
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert!(out.contains("servers on CPU 0, client on CPU 1"), "{out}");
    assert!(!out.contains("(1 usable"), "{out}");
    assert!(out.contains("the cgroup permits the time of 0.5 CPUs"), "{out}");
}

/// Runs a script in new namespaces; none if this host does not permit that.
fn unshared(flags: &str, script: &str) -> Option<std::process::Output> {
    let unshare = |script: &str| Command::new("unshare").args([flags, "sh", "-c", script]).output();
    let may = unshare("true").is_ok_and(|output| output.status.success());
    may.then(|| unshare(script).expect("it has just run"))
}

#[test]
fn compare_measures_its_own_servers_with_the_proc_of_an_outer_namespace() {
    let compare =
        format!("{PROACTOR} compare --models process,epoll+trace -c 2 --blocks 1 --idle 8");
    let Some(output) = unshared("-rpf", &compare) else {
        return skip::skip("no PID namespace may be made");
    };
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert!(out.contains("process") && out.contains("epoll+trace"), "{out}");
    assert!(!out.contains("not measured") && !out.contains(" 0.00 µs"), "{out}");
}

#[test]
fn a_client_without_a_free_port_says_so() {
    let load = format!(
        "{PROACTOR} serve --model epoll --listen 127.0.0.1:7000 > /dev/null 2>&1 & server=$!
         until {PROACTOR} load 127.0.0.1:7000 -c 1 --duration 10ms > /dev/null 2>&1; do :; done
         {PROACTOR} load 127.0.0.1:7000 -c 20 --duration 10ms; status=$?
         kill $server; exit $status"
    );
    let compare = format!("{PROACTOR} compare --models poll -c 20 --blocks 1 --idle 0");
    for script in [load, compare] {
        let ports = "echo 40000 40011 > /proc/sys/net/ipv4/ip_local_port_range";
        let script = format!("ip link set lo up && {ports} || exit 77\n{script}");
        let Some(output) = unshared("-rn", &script).filter(|it| it.status.code() != Some(77))
        else {
            return skip::skip("no network namespace may be made");
        };
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        let says = "the load generator cannot open all connections: ";
        assert!(error.contains(says) && error.contains("net.ipv4.ip_local_port_range"), "{error}");
    }
}

#[test]
fn a_command_that_cannot_start_a_thread_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let recorded = ["serve", "--model", "epoll", "--listen", "127.0.0.1:0", "--trace"];
    let attended = ["serve", "--model", "epoll", "--listen", "127.0.0.1:0", "--console"];
    let compared = ["compare", "--models", "poll", "-c", "2", "--blocks", "1"];
    let commands = [&["connect", &*address][..], &compared, &recorded, &attended];
    for args in commands {
        // Its stack is larger than the address space.
        let mut command = Command::new(PROACTOR);
        command.args(args).env("RUST_MIN_STACK", (1u64 << 60).to_string()).stdin(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut error = String::new();
        if args == recorded {
            // It serves nevertheless.
            let mut line = std::io::BufReader::new(child.stderr.take().unwrap());
            while !error.contains("cannot print the trace") {
                assert!(std::io::BufRead::read_line(&mut line, &mut error).unwrap() > 0, "{error}");
            }
            child.kill().unwrap();
            child.wait().unwrap();
            continue;
        }
        let output = child.wait_with_output().unwrap();
        error += text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(!error.contains("panicked") && error.lines().count() == 1, "{args:?}: {error}");
    }
}

#[test]
fn compare_empties_no_file_that_it_cannot_write_a_result_to() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "earlier results").expect("it can be written");
    let path = file.path().to_str().expect("plain text");
    for option in ["--server-cpu", "--client-cpu"] {
        let output = proactor(&["compare", option, "1000", "--json", path]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert_eq!(std::fs::read_to_string(path).expect("it is there"), "earlier results");
    }
}

#[test]
fn compare_measures_real_servers_and_writes_every_slice() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("compare.json");
    let path = file.to_str().expect("a plain path");
    let arguments =
        ["compare", "--models", "poll,select", "-c", "2,3", "--blocks", "2", "--json", path];
    let arguments = [&arguments[..], &["--seed", "7", "--idle", "10"]].concat();
    let output = proactor(&arguments);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for line in
        ["2 connections, 64 B echo", "3 connections, 64 B echo", "seed 7", "wrong replies 0 of "]
    {
        assert!(out.contains(line), "{line}\nis not in\n{out}");
    }
    assert!(out.contains("has no verdict"), "{out}");
    let bytes = std::fs::read(file).expect("it was written");
    assert!(bytes.ends_with(b"}\n"), "it is a text file");
    let json: serde_json::Value = serde_json::from_slice(&bytes).expect("it is JSON");
    assert_eq!(json["schema"], "proactor.compare/5");
    assert_eq!(json["idle"]["connections"], 10);
    assert_eq!(json["idle"]["rows"][1]["model"], "poll");
    assert_eq!(json["idle"]["rows"][1]["cost"]["descriptors"], 1.0);
    let table = &json["tables"][1];
    assert_eq!(table["participants"][3]["model"], "select");
    assert_eq!(table["blocks"][1]["rounds"][2].as_array().map(Vec::len), Some(4));
    assert_eq!(table["participants"][2]["stats"]["model"], "poll");
    assert!(table["participants"][2]["measured"]["counted"]["calls"].as_f64() > Some(1.0));
}

#[test]
fn of_all_models_each_has_a_row_with_its_numbers_or_its_reason() {
    let arguments = ["compare", "--models", "all", "-c", "2", "--blocks", "1", "--json", "-"];
    let arguments = [&arguments[..], &["--idle", "20"]].concat();
    let output = proactor(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let list = |of: &serde_json::Value| of.as_array().expect("a list").clone();
    let rows = list(&json["tables"][0]["participants"]);
    let idle = list(&json["idle"]["rows"]);
    for model in ALL.map(Model::name) {
        let of = |rows: &[serde_json::Value], name: &str| {
            let found = rows.iter().find(|row| row[name] == model).cloned();
            found.unwrap_or_else(|| panic!("{model} has no row"))
        };
        for (row, numbers) in [(of(&rows, "name"), "measured"), (of(&idle, "model"), "cost")] {
            assert_ne!(row["reason"].is_string(), row[numbers].is_object(), "{row}");
        }
    }
    let blocking = rows.iter().find(|row| row["name"] == "blocking").expect("it has a row");
    let reason = blocking["reason"].as_str().expect("two connections are too many");
    assert!(reason.starts_with("does not serve several connections at once"), "{reason}");
    let measured = ["epoll", "epoll-et", "poll", "select", "sigio", "nonblocking"];
    for row in rows.iter().filter(|row| measured.iter().any(|name| row["name"] == *name)) {
        assert!(row["reason"].is_null(), "{row}");
    }
}

#[test]
fn a_client_that_may_open_too_few_files_says_so_before_it_tries() {
    let script = "ulimit -n 200; exec \"$0\" compare --models poll -c 500 --time 1 --idle 0";
    let script = Command::new("/bin/sh").args(["-c", script, PROACTOR]).output();
    let output = script.expect("a shell");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("epoll, cannot run: ") && error.contains("`ulimit -n` is 200"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}
