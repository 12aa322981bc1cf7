//! The public API: `Builder`, `Server` and `Running`, over real sockets, on every model.

mod skip;

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use proactor::{
    Address, Builder, Error, Input, Model, Needs, Outbox, PeerHandle, Protocol, Running, SendError,
    Server,
};

/// Sends each line back with its number.
struct Count {
    lines: u64,
    /// Not Send: a protocol stays in the thread that serves it.
    _local: Rc<Cell<u64>>,
}

impl Protocol for Count {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(line) = input.line(1024) {
            self.lines += 1;
            write!(out, "{} ", self.lines);
            out.send(line);
        }
    }

    fn drain(&mut self, out: &mut Outbox<'_>) {
        out.send("bye\n");
        out.finish();
    }
}

fn count() -> Builder {
    Server::builder()
        .listen("127.0.0.1:0", |_peer| Count { lines: 0, _local: Rc::default() })
        .drain_timeout(Duration::from_secs(10))
}

fn connect(address: &Address) -> TcpStream {
    let Address::Tcp(address) = address else { panic!("{address} is not TCP") };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn exchange(mut stream: &TcpStream, request: &str, reply: &str) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut received = vec![0; reply.len()];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(String::from_utf8_lossy(&received), reply);
}

fn read_to_end(mut stream: &TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Whether this machine refuses the model.
fn refused(error: &Error) -> bool {
    let refused = matches!(error, Error::Refused { .. });
    if refused {
        skip::skip(&error.to_string());
    }
    refused
}

#[test]
fn a_started_server_serves_and_drains_on_every_model() {
    for model in proactor_models::ALL.into_iter().filter(|model| *model != proactor_models::PROCESS)
    {
        let running = match count().model(model).start() {
            Err(error) if refused(&error) => continue,
            started => started.unwrap(),
        };
        assert_eq!(running.model(), model);
        let stream = connect(&running.addrs()[0]);
        exchange(&stream, "a\nb\n", "1 a\n2 b\n");
        running.drain();
        assert_eq!(read_to_end(&stream), "bye\n", "{model}");
        drop(stream);
        let report = running.join().unwrap();
        assert!(report.drained, "{model}");
        assert_eq!((report.stats.accepted, report.stats.received_bytes), (1, 4), "{model}");
    }
}

#[test]
fn without_a_model_the_best_that_works_serves() {
    let running = count().start().unwrap();
    assert!(Model::AUTO.contains(&running.model()));
    exchange(&connect(&running.addrs()[0]), "a\n", "1 a\n");
    let deadline = Instant::now() + Duration::from_secs(20);
    while running.stats().received_bytes != 2 {
        assert!(Instant::now() < deadline, "{:?}", running.stats());
    }
}

#[test]
fn a_dropped_server_leaves_no_thread_and_no_port() {
    let running = count().start().unwrap();
    let address = running.addrs()[0].clone();
    let stream = connect(&address);
    exchange(&stream, "a\n", "1 a\n");
    drop(running);
    let again =
        Server::builder().listen(address, |_peer| Count { lines: 0, _local: Rc::default() });
    assert_eq!(again.bind().unwrap().addrs().len(), 1);
}

#[test]
fn a_handle_from_before_the_server_stops_it_in_another_thread() {
    let builder = count();
    let handle = builder.handle();
    let server = builder.signals(false).bind().unwrap();
    let address = server.addrs()[0].clone();
    let client = std::thread::spawn(move || {
        let stream = connect(&address);
        exchange(&stream, "a\n", "1 a\n");
        handle.drain();
        handle.drain(); // A drain that is asked for twice is one.
        read_to_end(&stream)
    });
    let report = server.run().unwrap();
    assert!(report.drained);
    assert_eq!(client.join().unwrap(), "bye\n");
}

#[test]
fn a_server_that_was_stopped_before_it_ran_does_not_run() {
    let builder = count();
    builder.handle().stop();
    let report = builder.signals(false).run().unwrap();
    assert!(!report.drained);
}

#[test]
fn a_factory_shares_what_it_captures_and_a_worker_has_its_own() {
    let shared = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&shared);
    let running = Server::builder()
        .listen("127.0.0.1:0", move |peer| {
            counted.fetch_add(peer.id(), Ordering::Relaxed);
            assert!(peer.addr().is_none_or(|addr| addr.ip().is_loopback()));
            Count { lines: 0, _local: Rc::default() }
        })
        .listen_per_worker("127.0.0.1:0", |_worker| {
            let local = Rc::new(Cell::new(0));
            move |_peer: &_| Count { lines: 10, _local: Rc::clone(&local) }
        })
        .start()
        .unwrap();
    for _ in 0..2 {
        exchange(&connect(&running.addrs()[0]), "a\n", "1 a\n");
    }
    exchange(&connect(&running.addrs()[1]), "a\n", "11 a\n");
    assert_eq!(shared.load(Ordering::Relaxed), 3, "connections 1 and 2");
}

#[test]
fn a_socket_that_listens_already_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let running =
        Server::builder().listen_on(listener, |_peer| Count { lines: 0, _local: Rc::default() });
    let running = running.start().unwrap();
    assert_eq!(running.addrs(), [Address::Tcp(address)]);
    let stream = connect(&running.addrs()[0]);
    exchange(&stream, "a\n", "1 a\n");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&stream), "");
}

#[test]
fn what_is_wrong_is_said_by_its_type() {
    let factory = |_peer: &_| Count { lines: 0, _local: Rc::default() };
    let error = Server::builder().listen("no address", factory).bind().unwrap_err();
    assert!(matches!(&error, Error::Address { text, .. } if text == "no address"), "{error:?}");
    let running = count().start().unwrap();
    let error = Server::builder().listen(running.addrs()[0].clone(), factory).bind().unwrap_err();
    assert!(matches!(&error, Error::Listen { .. }), "{error:?}");
    assert!(error.to_string().starts_with("cannot listen on 127.0.0.1:"), "{error}");
    let error = count().model(proactor_models::PROCESS).start().unwrap_err();
    assert!(matches!(error, Error::Unsupported { model: "process", .. }), "{error:?}");
}

/// Says each time that its peer was idle; once that has sent a line, twice, and then it ends.
struct Idle {
    since: Instant,
    times: u32,
    has_received: bool,
}

const IDLE: Duration = Duration::from_millis(100);

impl Protocol for Idle {
    fn open(&mut self, out: &mut Outbox<'_>) {
        out.set_timer(IDLE);
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(line) = input.line(100) {
            match &line[..] {
                b"wait\n" => out.clear_timer(),
                _ => out.set_timer(IDLE),
            }
            (self.since, self.times, self.has_received) = (out.now(), 0, true);
            out.send(line);
        }
    }

    fn timer(&mut self, out: &mut Outbox<'_>) {
        assert!(out.now() - self.since >= IDLE, "too early");
        self.times += 1;
        writeln!(out, "idle {}", self.times);
        match self.times {
            1 if self.has_received => out.set_timer(IDLE),
            1 => {} // However late the line comes, it is not too late.
            _ => out.finish(),
        }
    }
}

/// Starts a server on each model that can be started here.
/// In a process of its own, whose limit of descriptors it may lower.
#[test]
fn however_few_descriptors_there_are_a_server_that_listens_serves() {
    const IN_CHILD: &str = "PROACTOR_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(IN_CHILD).is_some() {
        match count().start() {
            Ok(server) => {
                println!("\nlistening on {}", server.addrs()[0]);
                let _ = std::io::stdin().read_line(&mut String::new());
            }
            Err(error) => println!("\nrefused: {error}"),
        }
        return;
    }
    let (mut served, mut refused) = (0, 0);
    for most in 6..40 {
        let mut child = Command::new("sh");
        child.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")]);
        child.arg(std::env::current_exe().unwrap()).args(["--exact", "--nocapture"]);
        child.arg("however_few_descriptors_there_are_a_server_that_listens_serves");
        child.env(IN_CHILD, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = lines.find_map(|line| match line.strip_prefix("listening on ") {
            Some(address) => Some(Some(address.parse().unwrap())),
            None => line.starts_with("refused: ").then_some(None),
        });
        if let Some(address) = said.expect("it listens, or is refused") {
            exchange(&connect(&address), "a line\n", "1 a line\n");
            served += 1;
        } else {
            refused += 1;
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
}

fn on_every_model(mut test: impl FnMut(Model, &dyn Fn(Builder) -> Option<Running>)) {
    for model in proactor_models::ALL.into_iter().filter(|model| *model != proactor_models::PROCESS)
    {
        test(model, &|server| match server.model(model).start() {
            Err(error) if refused(&error) => None,
            started => Some(started.unwrap()),
        });
    }
}

#[test]
fn a_timer_expires_on_every_model() {
    on_every_model(|model, start| {
        let idle = |_peer: &_| Idle { since: Instant::now(), times: 0, has_received: false };
        let Some(running) = start(Server::builder().listen("127.0.0.1:0", idle)) else { return };
        let stream = connect(&running.addrs()[0]);
        let begin = Instant::now();
        exchange(&stream, "", "idle 1\n");
        exchange(&stream, "a\nwait\n", "a\nwait\n");
        std::thread::sleep(3 * IDLE);
        exchange(&stream, "b\n", "b\n"); // It was not idle: its timer was cleared.
        assert_eq!(read_to_end(&stream), "idle 1\nidle 2\n", "{model}");
        assert!(begin.elapsed() >= 6 * IDLE, "{model}");
    });
}

type Handles = Arc<Mutex<Vec<PeerHandle>>>;

/// A line, where its answer goes, and the connection to wake then.
type Job = (String, mpsc::Sender<String>, PeerHandle);

/// Has another thread answer each line; meanwhile it is paused.
struct Ask {
    jobs: mpsc::Sender<Job>,
    answers: (mpsc::Sender<String>, mpsc::Receiver<String>),
    me: PeerHandle,
    waits: bool,
}

impl Protocol for Ask {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        assert!(!self.waits, "a paused protocol receives nothing");
        if let Some(line) = input.line(100) {
            let line = String::from_utf8_lossy(&line).into_owned();
            self.jobs.send((line, self.answers.0.clone(), self.me.clone())).unwrap();
            self.waits = true;
            out.pause();
        }
    }

    fn wake(&mut self, out: &mut Outbox<'_>) {
        for answer in self.answers.1.try_iter() {
            out.send(answer);
            self.waits = false;
            out.resume();
        }
    }
}

fn answer((line, answers, peer): Job) {
    answers.send(line.to_uppercase()).unwrap_or(()); // It may be gone.
    peer.wake();
}

/// A server whose lines other threads answer, and the handles of its connections.
fn ask() -> (Builder, Handles) {
    let (server, handles, taken) = ask_by();
    let taken = Arc::new(Mutex::new(taken));
    for _ in 0..4 {
        let taken = Arc::clone(&taken);
        std::thread::spawn(move || {
            let next = || taken.lock().unwrap().recv();
            while let Ok(job) = next() {
                answer(job);
            }
        });
    }
    (server, handles)
}

/// A server, the handles of its connections, and its lines, which the caller answers.
fn ask_by() -> (Builder, Handles, mpsc::Receiver<Job>) {
    let (jobs, taken) = mpsc::channel();
    let handles = Handles::default();
    let kept = Arc::clone(&handles);
    let server = Server::builder().listen("127.0.0.1:0", move |peer| {
        kept.lock().unwrap().push(peer.handle());
        let (jobs, answers, me) = (jobs.clone(), mpsc::channel(), peer.handle());
        Ask { jobs, answers, me, waits: false }
    });
    (server, handles, taken)
}

#[test]
fn another_thread_wakes_a_paused_protocol_on_every_model() {
    on_every_model(|_, start| {
        let (server, _) = ask();
        let Some(running) = start(server) else { return };
        let stream = connect(&running.addrs()[0]);
        exchange(&stream, "a\nb\nc\n", "A\nB\nC\n");
        for _ in 0..500 {
            exchange(&stream, "x\n", "X\n"); // A wake that is lost would let this wait.
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&stream), "");
    });
}

/// One wake that is lost would be the last: the mailbox is never found empty again.
#[test]
fn no_wake_is_lost_while_the_loop_is_busy_on_every_model() {
    on_every_model(|model, start| {
        let (server, _) = ask();
        let Some(running) = start(server) else { return };
        let clients = if model == proactor_models::BLOCKING { 1 } else { 8 };
        let clients = (0..clients).map(|_| connect(&running.addrs()[0]));
        std::thread::scope(|scope| {
            for stream in clients {
                scope.spawn(move || exchange(&stream, &"x\n".repeat(300), &"X\n".repeat(300)));
            }
        });
    });
}

#[test]
fn a_drain_waits_for_the_answer_to_a_paused_protocol_on_every_model() {
    on_every_model(|model, start| {
        let (server, _, jobs) = ask_by();
        let Some(running) = start(server.drain_timeout(Duration::from_secs(20))) else { return };
        let mut stream = connect(&running.addrs()[0]);
        stream.write_all(b"slow\n").unwrap();
        let job = jobs.recv().unwrap();
        running.drain(); // The loop learns of it before the wake, or at once with it.
        answer(job);
        assert_eq!(read_to_end(&stream), "SLOW\n", "{model}");
        drop(stream);
        assert!(running.join().unwrap().drained);
    });
}

#[test]
fn a_handle_sends_and_closes_and_then_reaches_nothing_on_every_model() {
    on_every_model(|model, start| {
        let (server, handles) = ask();
        let Some(running) = start(server) else { return };
        let stream = connect(&running.addrs()[0]);
        exchange(&stream, "a\n", "A\n");
        let first = handles.lock().unwrap()[0].clone();
        first.send("one ").unwrap();
        first.send("two").unwrap();
        exchange(&stream, "", "one two");
        assert_eq!(running.handle().broadcast(0, " and all"), Ok(()), "{model}");
        assert_eq!(running.handle().broadcast(1, "no such listener"), Ok(()));
        exchange(&stream, "", " and all");
        first.close();
        assert!(matches!((&stream).read(&mut [0]), Ok(0) | Err(_)), "{model}: it is closed");
        let next = connect(&running.addrs()[0]);
        exchange(&next, "b\n", "B\n");
        assert_eq!(first.send("late"), Err(SendError::Closed(b"late".to_vec())), "{model}");
        first.wake();
        first.close();
        exchange(&next, "c\n", "C\n");
        let (last, handle) = (handles.lock().unwrap()[1].clone(), running.handle());
        drop(running);
        assert_eq!(last.send("late"), Err(SendError::Closed(b"late".to_vec())), "{model}");
        assert!(handle.broadcast(0, "late").is_err(), "{model}");
    });
}

#[test]
fn a_handle_of_a_peer_that_reads_nothing_returns_the_bytes_on_every_model() {
    on_every_model(|model, start| {
        let (server, handles) = ask();
        let Some(running) = start(server) else { return };
        let stream = connect(&running.addrs()[0]);
        exchange(&stream, "a\n", "A\n");
        let handle = handles.lock().unwrap()[0].clone();
        let (mut sent, begin) = (0, Instant::now());
        let refused = loop {
            match handle.send(vec![b'x'; 64 << 10]) {
                Ok(()) => sent += 64 << 10,
                Err(refused) => break refused,
            }
            std::thread::yield_now();
            assert!(begin.elapsed() < Duration::from_secs(20), "{model}: {sent} bytes");
        };
        assert!(matches!(&refused, SendError::Full(bytes) if bytes.len() == 64 << 10), "{model}");
        let mut received = vec![0; sent];
        (&stream).read_exact(&mut received).unwrap();
        assert!(received.iter().all(|&byte| byte == b'x'), "{model}");
    });
}

/// A protocol that says nothing of its needs, and so needs everything.
struct Store;

impl Protocol for Store {
    fn data(&mut self, input: &mut Input<'_>, _: &mut Outbox<'_>) {
        input.take_all();
    }
}

#[test]
fn a_model_that_would_copy_shared_memory_refuses_it() {
    let server = Server::builder().listen("127.0.0.1:0", |_peer| Store).signals(false);
    // In a thread of the test harness the model is refused before; either way it does not serve.
    let error = server.model(proactor_models::PROCESS).run().unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. } | Error::Refused { .. }), "{error:?}");
}

/// Panics when a line asks for it.
struct Fragile;

impl Protocol for Fragile {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(line) = input.line(100) {
            assert_ne!(&line[..], b"panic\n", "as this test has it");
            out.send(line);
        }
    }
}

#[test]
fn a_panic_costs_its_connection_and_no_other_on_every_model() {
    for model in proactor_models::ALL.into_iter().filter(|model| *model != proactor_models::PROCESS)
    {
        let running = Server::builder()
            .listen("127.0.0.1:0", |_peer| Fragile)
            .listen("127.0.0.1:0", |_peer| -> Fragile { panic!("as this test has it") })
            .model(model)
            .start();
        let running = match running {
            Err(error) if refused(&error) => continue,
            started => started.unwrap(),
        };
        for (listener, request) in [(0, "panic\n"), (1, "x\n")] {
            let mut wrong = connect(&running.addrs()[listener]);
            wrong.write_all(request.as_bytes()).unwrap();
            assert!(matches!(wrong.read(&mut [0]), Ok(0) | Err(_)), "{model}: it is closed");
        }
        let other = connect(&running.addrs()[0]);
        exchange(&other, "a\n", "a\n");
        drop(other);
        running.drain();
        let report = running.join().unwrap();
        assert_eq!((report.stats.accepted, report.stats.panicked), (3, 2), "{model}");
    }
}
