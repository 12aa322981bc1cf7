//! Each example, run: its server is started on a free port and does what its first line says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use proactor::testing::every_split;
use proactor::{Address, Builder, Running};

#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/chat.rs"]
mod chat;
#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/echo.rs"]
mod echo;
#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/embedded.rs"]
mod embedded;
#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/frames.rs"]
mod frames;
#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/idle.rs"]
mod idle;
#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/limits.rs"]
mod limits;
#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/lines.rs"]
mod lines;
#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/store.rs"]
mod store;
#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/tested.rs"]
mod tested;
#[allow(dead_code, reason = "an example has a main")]
#[path = "../examples/worker.rs"]
mod worker;

const ADDRESS: &str = "127.0.0.1:0";

/// A started example and clients of it, the first of which was accepted first.
fn start<const N: usize>(server: Builder) -> (Running, [TcpStream; N]) {
    let running = server.start().unwrap();
    let clients = [(); N].map(|()| connect(&running));
    (running, clients)
}

fn connect(running: &Running) -> TcpStream {
    let Address::Tcp(address) = running.addrs()[0] else { panic!("TCP stays TCP") };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn send(mut stream: &TcpStream, bytes: &str) {
    stream.write_all(bytes.as_bytes()).unwrap();
}

fn expect(mut stream: &TcpStream, bytes: &str) {
    let mut received = vec![0; bytes.len()];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(String::from_utf8_lossy(&received), bytes);
}

#[test]
fn echo_sends_back_every_byte() {
    let (_running, [client]) = start(echo::server(ADDRESS));
    send(&client, "hello");
    expect(&client, "hello");
}

#[test]
fn lines_are_numbered_and_in_upper_case_however_they_are_cut() {
    let (_running, [mut client]) = start(lines::server(ADDRESS));
    send(&client, "one\ntwo\nquit\n");
    expect(&client, "1: ONE\n2: TWO\n");
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "it quits");
    let done = every_split(|_| lines::Shout::default(), b"ab\nquit\ncd\n");
    assert_eq!((&done.sent[..], done.finished), (&b"1: AB\n"[..], true));
}

#[test]
fn frames_are_sent_back_however_they_are_cut_and_a_long_one_aborts() {
    let (_running, [mut client]) = start(frames::server(ADDRESS));
    send(&client, "\0\0\0\x03abc\0\0\0\0");
    expect(&client, "\0\0\0\x03abc\0\0\0\0");
    send(&client, "\x7f\0\0\0");
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "it aborts");
    let done = every_split(|_| frames::Frames, b"\0\0\0\x03abc\0\0\0\x01d\0\0");
    assert_eq!(done.sent, b"\0\0\0\x03abc\0\0\0\x01d");
    assert!(every_split(|_| frames::Frames, b"\x7f\0\0\0").broken);
}

#[test]
fn chat_sends_each_line_to_the_others() {
    let (running, [first]) = start(chat::server(ADDRESS));
    let second = connect(&running);
    expect(&first, "* 2 joined\n");
    send(&second, "hello\n");
    expect(&first, "[2] hello\n");
    send(&first, "hello\n");
    expect(&second, "[1] hello\n");
    drop(second);
    expect(&first, "* 2 left\n");
}

#[test]
fn a_store_is_one_for_all_connections() {
    let (_running, [first, second]) = start(store::server(ADDRESS));
    send(&first, "set color blue\n");
    expect(&first, "ok\n");
    send(&second, "get color\nget\n");
    expect(&second, "blue\nwrite `set KEY VALUE` or `get KEY`\n");
}

#[test]
fn an_embedded_server_ends_when_its_program_says_so() {
    let report = embedded::serve(ADDRESS, |running| {
        let client = connect(running);
        send(&client, "hello");
        expect(&client, "hello");
        true
    });
    let report = report.unwrap();
    assert!(report.drained && report.stats.sent_bytes == 5, "{report:?}");
}

#[test]
fn a_limit_of_one_connection_lets_the_next_wait() {
    let (_running, [first, second]) = start(limits::server(ADDRESS));
    send(&first, "one\n");
    expect(&first, "> one ===\n");
    send(&second, "two\n");
    drop(first);
    expect(&second, "> two ===\n");
}

#[test]
fn an_idle_peer_gets_a_goodbye_and_a_busy_one_is_not() {
    let limit = Duration::from_millis(300);
    let (_running, [mut client]) = start(idle::server(ADDRESS, limit));
    for _ in 0..4 {
        std::thread::sleep(limit / 3);
        send(&client, "x");
        expect(&client, "x");
    }
    expect(&client, "127.0.0.1 was idle: goodbye\n");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn another_thread_answers_each_line_in_order() {
    let (_running, [first, second]) = start(worker::server(ADDRESS));
    send(&first, "one two\nthree\n");
    send(&second, "a b c\n");
    expect(&first, "2 words\n1 words\n");
    expect(&second, "3 words\n");
}

#[test]
fn a_protocol_is_tested_without_a_socket() {
    tested::check();
}
