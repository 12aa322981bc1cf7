//! `proactor connect` through the binary, against servers of std: every byte, every end.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use socket2::{Domain, SockRef, Socket, Type};
use support::server::PROACTOR;
use support::{TIMEOUT, eventually};

/// A server for one client; the answer is its address and what `serve` made of the connection.
fn server<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a listener has an address").to_string();
    let served = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the client connects");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        stream.set_write_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        serve(stream)
    });
    (address, served)
}

fn echo(stream: TcpStream) {
    std::io::copy(&mut &stream, &mut &stream).expect("an echo comes back");
    stream.shutdown(Shutdown::Write).expect("the client is there");
}

/// An address without a listener, and a bound socket that keeps it so.
fn no_listener() -> (String, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a port is free");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("it is IPv4");
    (address.to_string(), socket)
}

fn client(args: &[&str], stdin: impl Into<Stdio>) -> Child {
    let mut command = Command::new(PROACTOR);
    command.arg("connect").args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    support::server::reset_signals(&mut command);
    command.spawn().expect("the program runs")
}

/// Everything it says until it ends; a test that has failed does not wait for it.
fn wait(mut child: Child) -> Output {
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let stdout = thread::spawn(move || {
        let mut all = Vec::new();
        out.read_to_end(&mut all).map(|_| all)
    });
    let stderr = thread::spawn(move || {
        let mut all = Vec::new();
        err.read_to_end(&mut all).map(|_| all)
    });
    let status = eventually("the client ends", || child.try_wait().expect("a child can be asked"));
    let stdout = stdout.join().unwrap().expect("stdout is readable");
    let stderr = stderr.join().unwrap().expect("stderr is readable");
    Output { status, stdout, stderr }
}

/// Runs it with this typed, or piped, and then the end.
fn run(args: &[&str], typed: &[u8]) -> Output {
    let mut child = client(args, Stdio::piped());
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let typed = typed.to_vec();
    // A program that ends before it has read all breaks the pipe; the test notices otherwise.
    let typist = thread::spawn(move || drop(stdin.write_all(&typed)));
    let output = wait(child);
    typist.join().unwrap();
    output
}

fn assert_ended(output: &Output, code: i32, stdout: &str, stderr: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{text}");
    assert_eq!(text.lines().count(), stderr.len(), "{text}");
    stderr.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in: {text}"));
}

/// 8 MiB that repeat with no period of a power of two, newlines and zeros among them.
fn megabytes() -> Vec<u8> {
    (0u32..8 << 20).map(|at| (at % 251) as u8 ^ (at >> 16) as u8).collect()
}

#[test]
fn megabytes_come_back_from_a_pipe_byte_for_byte() {
    let (address, served) = server(echo);
    let output = run(&[&address], &megabytes());
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    assert!(output.stdout == megabytes(), "{} bytes came", output.stdout.len());
    served.join().unwrap();
}

#[test]
fn megabytes_come_back_from_a_file_byte_for_byte() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&megabytes()).expect("it can be written");
    let (address, served) = server(echo);
    let output = wait(client(&[&address], File::open(file.path()).unwrap()));
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    assert!(output.stdout == megabytes(), "{} bytes came", output.stdout.len());
    served.join().unwrap();
}

#[test]
fn a_file_is_sent_whole_to_a_server_that_says_nothing() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&megabytes()).expect("it can be written");
    let (address, served) = server(|mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let output = wait(client(&[&address], File::open(file.path()).unwrap()));
    assert_ended(&output, 0, "", &[]);
    assert!(served.join().unwrap() == megabytes());
}

#[test]
fn the_end_of_the_input_is_passed_on_and_the_answer_to_it_is_printed() {
    let (address, served) = server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(b"you said: ").unwrap();
        stream.write_all(&all).unwrap();
    });
    assert_ended(&run(&[&address], b"hi"), 0, "you said: hi", &[]);
    served.join().unwrap();
}

#[test]
fn no_input_at_all_is_a_half_close_at_once() {
    let (address, served) = server(|mut stream| {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        stream.write_all(b"good day").unwrap();
    });
    let output = wait(client(&[&address, "--verbose"], Stdio::null()));
    let status = [&*format!("connected to {address} (1)"), "closed the connection"];
    assert_ended(&output, 0, "good day", &status);
    served.join().unwrap();
}

#[test]
fn a_unix_socket_is_a_server_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).expect("it is free");
    let served = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        std::io::copy(&mut &stream, &mut &stream).unwrap();
    });
    assert_ended(&run(&[&format!("unix:{}", path.display())], b"hi\n"), 0, "hi\n", &[]);
    served.join().unwrap();
}

#[test]
fn a_server_that_ends_first_ends_it() {
    let (address, served) = server(|mut stream| stream.write_all(b"bye").unwrap());
    let mut child = client(&[&address], Stdio::piped());
    let stdin = child.stdin.take();
    assert_ended(&wait(child), 0, "bye", &[]);
    drop(stdin);
    served.join().unwrap();
}

#[test]
fn a_server_that_has_ended_its_side_is_sent_all_of_a_pipe() {
    let (address, served) = server(|mut stream| {
        stream.write_all(b"well").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // The client has noticed the end: it has nothing else to wait for.
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    assert_ended(&run(&[&address], &megabytes()), 0, "well", &[]);
    assert!(served.join().unwrap() == megabytes());
    let parts = ["--parts", "one,two,three", "--pause", "1ms"];
    let (address, served) = server(|mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        all
    });
    assert_ended(&wait(client(&[&[&*address], &parts[..]].concat(), Stdio::null())), 0, "", &[]);
    assert_eq!(served.join().unwrap(), "onetwothree");
}

#[test]
fn input_that_the_server_no_longer_takes_is_a_failure() {
    let (address, served) = server(|mut stream| {
        stream.write_all(b"well").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_exact(&mut [0; 100_000]).unwrap();
    });
    let output = run(&[&address], &megabytes());
    served.join().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b"well"[..]), "{text}");
    // The reset may come within a send, or before it.
    let is_named = |why| text == format!("error: the connection to {address} broke: {why}\n");
    let whys = [
        "the server has closed it, and takes no more of the input",
        "Connection reset by peer (os error 104)",
    ];
    assert!(whys.into_iter().any(is_named), "{text}");
}

#[test]
fn what_is_typed_goes_to_all_or_to_one_and_what_comes_is_labelled() {
    let hears = |mut stream: TcpStream| {
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        stream.write_all(all.as_bytes()).unwrap();
        all
    };
    let ((one, first), (two, second)) = (server(hears), server(hears));
    let output = run(&[&one, &two], b"all\n@2 two\n@@at\n@3 none\n@1 one");
    assert_eq!(first.join().unwrap(), "all\n@at\none");
    assert_eq!(second.join().unwrap(), "all\ntwo\n@at\n");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "no server @3: line not sent\n");
    let text = String::from_utf8(output.stdout).unwrap();
    let of = |label: &str| -> Vec<&str> { text.lines().filter(|l| l.starts_with(label)).collect() };
    assert_eq!(of("[1] "), ["[1] all", "[1] @at", "[1] one"]);
    assert_eq!(of("[2] "), ["[2] all", "[2] two", "[2] @at"]);
    assert_eq!(text.lines().count(), 6, "{text}");
}

#[test]
fn parts_arrive_one_after_the_other() {
    // Each receive that waits answers one part: the next is sent a pause later.
    let hears = |mut stream: TcpStream| {
        let (mut heard, mut buffer) = (Vec::new(), [0; 256]);
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return heard,
                n => heard.push(String::from_utf8(buffer[..n].to_vec()).unwrap()),
            }
            stream.write_all(heard.last().unwrap().as_bytes()).unwrap();
        }
    };
    let ((one, first), (two, second)) = (server(hears), server(hears));
    let parts = ["This is the message. ", "It will be sent ", "in parts."];
    let args = [&*one, &two, "--parts", &parts.join(","), "--pause", "300ms"];
    let output = wait(client(&args, Stdio::null()));
    assert_eq!(output.status.code(), Some(0));
    let said = parts.map(str::to_owned).to_vec();
    assert_eq!((first.join().unwrap(), second.join().unwrap()), (said.clone(), said));
    let mut lines: Vec<_> = BufRead::lines(&*output.stdout).map(Result::unwrap).collect();
    lines.sort_by_key(|line| line.as_bytes()[1]); // stable: each server's in order
    let expected = ["[1] ", "[2] "].map(|label| parts.map(|part| format!("{label}{part}")));
    assert_eq!(lines, expected.concat());
}

#[test]
fn a_server_that_refuses_is_named_and_the_others_go_on() {
    let (refused, _bound) = no_listener();
    let complaint = format!("error: cannot connect to {refused}: Connection refused");
    assert_ended(&run(&[&refused], b"hi\n"), 1, "", &[&complaint]);
    let (address, served) = server(echo);
    assert_ended(&run(&[&refused, &address], b"hi\n"), 1, "[2] hi\n", &[&complaint]);
    served.join().unwrap();
}

#[test]
fn a_reset_is_named_behind_what_came_before_it() {
    let (address, served) = server(|mut stream| {
        stream.read_exact(&mut [0; 3]).unwrap();
        stream.write_all(b"well\n").unwrap();
        // Heard: the client has answered it.
        stream.read_exact(&mut [0; 3]).unwrap();
        SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let mut child = client(&[&address], Stdio::piped());
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    stdin.write_all(b"hi\n").unwrap();
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "well\n");
    stdin.write_all(b"go\n").unwrap();
    child.stdout = Some(stdout.into_inner());
    let complaint = format!("error: the connection to {address} broke: Connection reset");
    assert_ended(&wait(child), 1, "", &[&complaint]);
    served.join().unwrap();
}

#[test]
fn unread_standard_output_is_a_success() {
    let (address, served) = server(|mut stream| {
        // The client asks when its reader has gone.
        stream.read_exact(&mut [0; 1]).unwrap();
        stream.write_all(b"hello").unwrap();
        drop(stream.read(&mut [0; 1]));
    });
    let mut child = client(&[&address], Stdio::piped());
    let mut stdin = child.stdin.take().unwrap();
    drop(child.stdout.take());
    stdin.write_all(b"?").unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    let status = eventually("the client ends", || child.try_wait().expect("a child can be asked"));
    assert_eq!((status.code(), &*text), (Some(0), ""));
    drop(stdin);
    served.join().unwrap();
}

#[test]
fn an_interrupt_ends_it() {
    let (address, served) = server(|mut stream| stream.read(&mut [0; 1]).map_or(0, |n| n));
    let mut child = client(&[&address, "--verbose"], Stdio::piped());
    let stdin = child.stdin.take();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, format!("connected to {address} (1)\n"));
    child.stderr = Some(stderr.into_inner());
    support::Process(child.id()).signal(libc::SIGINT);
    assert_ended(&wait(child), 0, "", &[]);
    assert_eq!(served.join().unwrap(), 0);
    drop(stdin);
}
