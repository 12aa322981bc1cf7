//! A loop that is no part of Proactor records itself, and the views read it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use proactor_record::{About, Recorder, Settings};

#[allow(dead_code, reason = "an example's `main` is not called")]
#[path = "../../record/examples/ring.rs"]
mod ring;

const CLIENTS: u32 = 3;
const MESSAGES: usize = 5;

#[test]
fn the_views_read_what_a_ring_of_another_program_recorded() {
    if io_uring::IoUring::new(1).is_err() {
        return println!("skipped: no io_uring here");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let about = About { model: "a ring of its own".to_owned(), ..About::default() };
    let log = Recorder::new(Some(file.as_file()), &Settings::default(), &about).expect("space");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    thread::scope(|scope| {
        scope.spawn(|| (0..CLIENTS).for_each(|_| exchange(TcpStream::connect(address))));
        ring::serve(&listener, log, CLIENTS).expect("it serves");
    });
    let view = |view: &str| {
        let path = file.path().to_str().expect("a path of text");
        let mut command = Command::new(env!("CARGO_BIN_EXE_proactor"));
        let output = command.args(["trace", view, path]).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let summary = view("summary");
    let row = |name: &str| {
        let mut lines = summary.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = lines.find(|words| words.first() == Some(&name)).expect("a row");
        (row[1].to_owned(), row[2].to_owned())
    };
    let both = |number: usize| (number.to_string(), number.to_string());
    let clients = CLIENTS as usize;
    assert_eq!(row("accept"), both(clients), "{summary}");
    assert_eq!(row("recv"), both(clients * (MESSAGES + 1)), "{summary}");
    assert_eq!(row("send"), both(clients * MESSAGES), "{summary}");
    assert_eq!(row("close"), both(clients), "{summary}");
    let connections = view("conn");
    for number in 0..CLIENTS {
        assert!(connections.contains(&format!("\nc{number}.0 ")), "{connections}");
    }
}

/// Sends messages one after the other, and reads each back.
fn exchange(stream: std::io::Result<TcpStream>) {
    let mut stream = stream.expect("it listens");
    for number in 0..MESSAGES {
        let message = [number as u8; 100];
        stream.write_all(&message).expect("it is open");
        let mut reply = [0; 100];
        stream.read_exact(&mut reply).expect("it echoes");
        assert_eq!(reply, message);
    }
    stream.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(stream.read(&mut [0]).expect("it ends"), 0);
}
