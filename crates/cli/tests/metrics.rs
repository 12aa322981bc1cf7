//! The metrics of a real server, on every model: what they say, that they agree with one another
//! and with what clients did, and what no client of them can do.

#[allow(dead_code, reason = "each test crate uses its part")]
mod support;
#[macro_use]
#[path = "support/models.rs"]
mod models;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use models::Model;
use proactor_metrics::CLIENTS_MAX;
use support::server::{PROACTOR, Server};
use support::{Client, Launch, Options, TIMEOUT, eventually, skip};

on_every_model!({
    the_counters_agree_with_one_another_and_with_the_clients,
    readyz_is_503_while_the_server_drains_and_metrics_are_served_to_its_end,
    a_flood_of_requests_and_requests_without_end_keep_no_client_waiting,
} on
    uring: Model("uring", None),
    uring_as_on_5_6: Model("uring", Some("5.6")),
    epoll: Model("epoll", None),
    epoll_et: Model("epoll-et", None),
    poll: Model("poll", None),
    select: Model("select", None),
    epoll_oneshot: Model("epoll-oneshot", None),
    sigio: Model("sigio", None),
    nonblocking: Model("nonblocking", None),
    coroutine: Model("coroutine", None),
    thread: Model("thread", None),
    process: Model("process", None),
    blocking: Model("blocking", None),
);

#[test]
fn every_model_serves_metrics() {
    for model in proactor_models::ALL {
        assert!(MODELS.iter().any(|tested| tested.0 == model.name()), "{model} is not tested");
    }
}

/// A server, and where its metrics are.
struct Metered {
    server: Server,
    metrics: SocketAddr,
}

impl Metered {
    /// A server of this protocol, with its metrics at a free port.
    fn start(model: Model, protocol: &'static str, args: &[&str]) -> Metered {
        let server = model.serve(protocol).args(&["--metrics", "0"]).args(args).start();
        let line = server.line().expect("a line that says where the metrics are");
        let address = line.strip_prefix("metrics on http://").expect(&line);
        let metrics = address.strip_suffix("/metrics").expect(&line).parse().expect(&line);
        Metered { server, metrics }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.metrics).expect("the metrics are served");
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    /// Returns the status and the body of a page, over a connection of its own.
    fn get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let Reply { status, body, .. } = exchange(&mut self.connect(), &request);
        (status, body)
    }

    fn samples(&self) -> Samples {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200, "{text}");
        Samples(text)
    }
}

/// What a server answers to a request.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

/// Sends a request and reads the reply, and no more.
fn exchange(stream: &mut (impl Read + Write), request: &str) -> Reply {
    stream.write_all(request.as_bytes()).unwrap();
    read_reply(stream, request.starts_with("HEAD"))
}

fn read_reply(stream: &mut impl Read, head_only: bool) -> Reply {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a reply");
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.expect(&head).parse().unwrap();
    let mut body = vec![0; if head_only { 0 } else { length }];
    stream.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect(&head);
    Reply { status, head, body: String::from_utf8(body).unwrap() }
}

/// The text of the metrics.
struct Samples(String);

impl Samples {
    /// Returns the value of a sample, which is named with its labels.
    fn value(&self, sample: &str) -> u64 {
        let found = self.0.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {sample}: {}", self.0)).parse().expect(sample)
    }

    /// Returns the sum of the samples of a metric.
    fn sum(&self, metric: &str) -> u64 {
        let samples = self.0.lines().filter_map(|line| line.strip_prefix(metric));
        let values = samples.filter_map(|rest| rest.strip_prefix('{')?.split_once("} "));
        values.map(|(_, value)| value.parse::<u64>().expect(value)).sum()
    }

    /// Returns how many connections were accepted, are open and were closed.
    fn connections(&self) -> [u64; 3] {
        [
            self.value("proactor_connections_accepted_total"),
            self.value("proactor_connections_open"),
            self.sum("proactor_connections_closed_total"),
        ]
    }
}

// The scenarios.

fn the_counters_agree_with_one_another_and_with_the_clients(model: Model) {
    let metered = Metered::start(model, "echo", &[]);
    let address = metered.server.address().clone();
    let start = metered.samples();
    assert_eq!(start.connections(), [0, 0, 0]);
    assert!(start.value("proactor_connections_limit") > 0);
    // One after another: `blocking` serves one at a time.
    for _ in 0..3 {
        let client = Client::connect(&address);
        client.say(b"PING");
        client.hear(b"PING");
        client.finish();
        client.hear_end();
    }
    let client = Client::connect(&address);
    client.say(b"PING");
    client.hear(b"PING");
    client.reset();
    let stays = Client::connect(&address);
    stays.say(b"PINGPING");
    stays.hear(b"PINGPING");
    // A close is counted after its peer has seen it.
    let samples = eventually("four are closed, and one is open", || {
        let samples = metered.samples();
        (samples.connections() == [5, 1, 4]).then_some(samples)
    });
    assert_eq!(samples.value("proactor_connections_closed_total{reason=\"finished\"}"), 3);
    assert_eq!(samples.value("proactor_connections_closed_total{reason=\"failed\"}"), 1);
    let bytes = ["proactor_received_bytes_total", "proactor_sent_bytes_total"];
    eventually("every byte is counted", || {
        let samples = metered.samples();
        (bytes.map(|name| samples.value(name)) == [24, 24]).then_some(())
    });
    let [receives, sends] = ["proactor_receives_total", "proactor_sends_total"]
        .map(|name| metered.samples().value(name));
    assert!((5..=24).contains(&receives) && (5..=24).contains(&sends), "{receives} {sends}");
    let memory = samples.value("proactor_memory_charged_bytes");
    assert!(memory <= samples.value("proactor_memory_limit_bytes"), "{memory}");
    drop(stays);
    eventually("all are closed", || (metered.samples().connections() == [5, 0, 5]).then_some(()));
    let exit = metered.server.drain();
    assert!(exit.stderr.is_empty(), "{exit:?}");
}

fn readyz_is_503_while_the_server_drains_and_metrics_are_served_to_its_end(model: Model) {
    let metered = Metered::start(model, "chargen", &["--drain-timeout", "60s"]);
    let client = Client::connect_with(metered.server.address(), Options::default());
    client.hear_some(&mut [0; 1]).unwrap();
    assert_eq!(metered.get("/readyz"), (200, "ready\n".to_owned()));
    let samples = metered.samples();
    assert_eq!(samples.value("proactor_draining"), 0);
    assert_eq!(samples.value("proactor_connections_open"), 1);
    let mut kept = metered.connect();
    metered.server.process.signal(libc::SIGTERM);
    eventually("it says that it drains", || {
        (metered.get("/readyz") == (503, "draining\n".to_owned())).then_some(())
    });
    assert_eq!(metered.get("/healthz").0, 200);
    assert_eq!(metered.samples().value("proactor_draining"), 1);
    // The clients of the metrics hold up no drain.
    let reply = exchange(&mut kept, "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(reply.status, 503);
    client.reset();
    metered.server.wait().assert_drained();
    assert_eq!(kept.read(&mut [0]).unwrap_or(0), 0, "it is closed");
}

fn a_flood_of_requests_and_requests_without_end_keep_no_client_waiting(model: Model) {
    let metered = Metered::start(model, "echo", &[]);
    let client = Client::connect(metered.server.address());
    let without_end: Vec<TcpStream> = (0..2 * CLIENTS_MAX)
        .map(|_| {
            let mut stream = metered.connect();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
            stream
        })
        .collect();
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut stream in [metered.connect(), metered.connect()] {
            let enough = &enough;
            scope.spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    let reply = exchange(&mut stream, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
                    assert_eq!(reply.status, 200, "{}", reply.head);
                }
            });
        }
        for _ in 0..100 {
            client.say(b"PING");
            client.hear(b"PING");
        }
        assert_eq!(metered.get("/healthz").0, 200);
        enough.store(true, Ordering::Relaxed);
    });
    assert_eq!(metered.samples().connections(), [1, 1, 0], "they are no clients of the server");
    drop(without_end);
}

// What does not depend on the model.

fn epoll(args: &[&str]) -> Metered {
    Metered::start(Model("epoll", None), "echo", args)
}

#[test]
fn a_request_that_cannot_be_answered_gets_its_status_and_its_connection_ends() {
    let metered = epoll(&[]);
    let long = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(100_000));
    for (request, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET /metrics HTTP/1.1\r\n\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 405),
        ("DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (&long, 431),
    ] {
        let mut stream = metered.connect();
        let sent = stream.write_all(request.as_bytes());
        assert!(sent.is_ok() || status == 431, "the rest of a long head may not be taken");
        let head_only = request.starts_with("HEAD");
        let reply = read_reply(&mut stream, head_only);
        assert_eq!(reply.status, status, "{request}");
        assert!(reply.head.contains("Connection: close"), "{}", reply.head);
        assert_eq!(reply.body.ends_with('\n'), !head_only, "{}", reply.body);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the end, not a reset");
    }
}

#[test]
fn a_connection_is_kept_for_further_requests_and_head_has_no_body() {
    let metered = epoll(&[]);
    let mut stream = metered.connect();
    for _ in 0..3 {
        let head = exchange(&mut stream, "HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(head.head.contains("Content-Type: text/plain; version=0.0.4"), "{}", head.head);
        let reply = exchange(&mut stream, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(reply.body.starts_with("# HELP ") && reply.body.ends_with('\n'), "{}", reply.body);
    }
    let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let open = format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{accept}\r\n");
    let reply = exchange(&mut stream, &open);
    assert!(reply.head.contains("application/openmetrics-text; version=1.0.0"), "{}", reply.head);
    assert!(reply.body.ends_with("# EOF\n"), "{}", reply.body);
    // Two at once: the first is answered, and the connection ends.
    let two = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2);
    let reply = exchange(&mut stream, &two);
    assert!(reply.head.contains("Connection: close"), "{}", reply.head);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_full_server_without_descriptors_shows_its_metrics() {
    let metered = epoll(&["--max-connections", "1"]);
    let client = Client::connect(metered.server.address());
    client.ping();
    let samples = metered.samples();
    assert_eq!(samples.connections(), [1, 1, 0]);
    assert_eq!(samples.value("proactor_connections_limit"), 1);
    assert_eq!(samples.value("proactor_limits_reached_total{limit=\"connections\"}"), 1);
}

#[test]
fn metrics_on_a_unix_socket_are_for_its_owner_and_its_file_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics");
    let address = format!("unix:{}", path.display());
    let args = ["serve", "--model", "epoll", "--listen", "127.0.0.1:0", "--unix-mode", "0600"];
    let server = Launch::new(PROACTOR, &args).args(&["--metrics", &address]).start();
    server.assert_says(&[&format!("metrics on {address}")]);
    let mut stream = UnixStream::connect(&path).unwrap();
    let reply = exchange(&mut stream, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((reply.status, &*reply.body), (200, "healthy\n"));
    server.drain();
    assert!(!path.exists(), "it is removed");
}

#[test]
fn metrics_that_others_can_reach_are_named_and_a_taken_address_is_refused() {
    let args = ["serve", "--model", "epoll", "--listen", "127.0.0.1:0", "--metrics"];
    let server = Launch::new(PROACTOR, &args).args(&["0.0.0.0:0"]).start();
    server.line().expect("where the metrics are");
    let exit = server.drain();
    assert!(exit.stderr.contains("can be reached from other machines"), "{}", exit.stderr);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let exit = Launch::new(PROACTOR, &args).args(&[&address]).run();
    assert_eq!(exit.code(), Some(1), "{exit:?}");
    let expected = format!("cannot serve metrics on {address}");
    assert!(exit.stderr.contains(&expected) && exit.stdout.is_empty(), "{exit:?}");
}

#[test]
fn a_ring_shows_why_its_multishot_receives_ended_and_its_features() {
    let Some(model) = Model("uring", None).available() else { return };
    let metered = Metered::start(model, "echo", &["--buffers", "8", "--buffer-size", "64"]);
    let samples = metered.samples();
    if !samples.0.contains("proactor_ring_feature_info{feature=\"RECV_MULTISHOT\"} 1") {
        return skip("this kernel has no multishot receive");
    }
    let clients: Vec<Client> = (0..16).map(|_| Client::connect(metered.server.address())).collect();
    for client in &clients {
        client.say(&[b'x'; 4096]);
    }
    for client in &clients {
        client.hear(&[b'x'; 4096]);
    }
    clients.iter().for_each(Client::finish);
    clients.iter().for_each(Client::hear_end);
    drop(clients);
    let samples = eventually("all are closed", || {
        let samples = metered.samples();
        (samples.connections() == [16, 0, 16]).then_some(samples)
    });
    let ends = |reason: &str| {
        samples.value(&format!("proactor_ring_multishot_ends_total{{reason=\"{reason}\"}}"))
    };
    assert!(ends("no_buffer") > 0 && ends("peer_end") > 0, "{}", samples.0);
    assert_eq!(ends("failed"), 0, "{}", samples.0);
    assert!(samples.value("proactor_out_of_buffers_total") > 0 || ends("no_buffer") > 0);
}

#[test]
fn short_sends_are_counted_where_a_reader_stalls() {
    for model in ["uring", "epoll", "epoll-et", "coroutine", "process"] {
        let Some(model) = Model(model, None).available() else { continue };
        let metered = Metered::start(model, "echo", &[]);
        let client = Client::connect(metered.server.address());
        client.ping();
        assert_eq!(metered.samples().value("proactor_short_sends_total"), 0, "{model:?}");
        client.say_until_stuck(&vec![b'x'; 32 << 20]);
        eventually(&format!("{model:?} counts a short send"), || {
            (metered.samples().value("proactor_short_sends_total") > 0).then_some(())
        });
    }
}

/// Returns the metrics of a server that has served, as text and as OpenMetrics.
fn texts(model: Model) -> [String; 2] {
    let metered = Metered::start(model, "echo", &[]);
    Client::connect(metered.server.address()).ping();
    let mut stream = metered.connect();
    ["text/plain", "application/openmetrics-text"].map(|accept| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        exchange(&mut stream, &request).body
    })
}

/// Returns the output of a program that reads this; `None` if there is no such program.
fn piped(command: &mut Command, input: &str) -> Option<(bool, String)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn promtool_finds_no_fault_in_the_metrics() {
    for model in [Model("uring", None), Model("epoll", None), Model("thread", None)] {
        let Some(model) = model.available() else { continue };
        let [text, _] = texts(model);
        let mut promtool = Command::new("promtool");
        match piped(promtool.args(["check", "metrics"]), &text) {
            None => return skip("no promtool to check the metrics with"),
            Some((passed, said)) => assert!(passed && said.is_empty(), "{said}"),
        }
    }
}

#[test]
fn the_parsers_of_python_read_both_formats() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics/samples.py");
    let python = std::env::var("PROACTOR_PYTHON").unwrap_or("python3".into());
    for model in [Model("uring", None), Model("epoll", None)] {
        let Some(model) = model.available() else { continue };
        for (format, text) in ["text", "open"].iter().zip(texts(model)) {
            let samples = text.lines().filter(|line| !line.starts_with('#')).count();
            match piped(Command::new(&python).arg(&script).arg(format), &text) {
                Some((true, said)) => assert_eq!(said.trim(), samples.to_string(), "{format}"),
                Some((false, said)) if said.is_empty() => {
                    return skip("no Python package `prometheus_client`");
                }
                Some((false, said)) => panic!("{format}: {said}"),
                None => return skip(&format!("no {python} to read the metrics with")),
            }
        }
    }
}
