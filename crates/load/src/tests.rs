//! The client against small servers of std's own making, some of them at fault on purpose.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

const SLICE: Duration = Duration::from_millis(20);

/// A server with a thread per connection, which `serve` is called with, and the connection's
/// number.
fn server(serve: impl Fn(TcpStream, usize) + Clone + Send + 'static) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.expect("a connection"), number));
        }
    });
    Address::Tcp(address)
}

/// Echoes, after `spoil` has seen the bytes and their offset.
fn echo(mut stream: impl Read + Write, mut spoil: impl FnMut(u64, &mut Vec<u8>)) {
    let mut offset = 0;
    let mut room = [0; 8192];
    while let Ok(len @ 1..) = stream.read(&mut room) {
        let mut bytes = room[..len].to_vec();
        spoil(offset, &mut bytes);
        offset += len as u64;
        if stream.write_all(&bytes).is_err() {
            break;
        }
    }
}

fn options(wire: WireChoice, connections: usize, size: usize, depth: usize) -> Options {
    let shape = Shape { connections, size, depth };
    Options { shape, seed: 7, wire, patience: Duration::from_secs(10) }
}

/// Each test runs on both wires; where io_uring is refused, on the one that is left, and says so.
fn wires() -> Vec<WireChoice> {
    let shape = Shape { connections: 1, size: 1, depth: 1 };
    match wire_uring::open(shape) {
        Ok(_) => vec![WireChoice::Epoll, WireChoice::Uring],
        Err(error) => {
            eprintln!("the io_uring wire is not tested: {error}");
            vec![WireChoice::Epoll]
        }
    }
}

/// The failure that this server makes of a run.
fn failure(address: &Address, options: &Options) -> Failure {
    let mut load = Load::connect(address, options).expect("the server accepts");
    for _ in 0..100 {
        if let Err(failure) = load.run_for(SLICE) {
            return failure;
        }
    }
    panic!("a hundred slices, and nothing was found");
}

#[test]
fn every_shape_is_echoed_and_verified_slice_by_slice() {
    for wire in wires() {
        for (connections, size, depth) in [(1, 1, 1), (3, 64, 4), (8, 1000, 7), (2, 300_000, 2)] {
            let address = server(|stream, _| echo(stream, |_, _| {}));
            let mut load = Load::connect(&address, &options(wire, connections, size, depth))
                .expect("the server accepts");
            let slices = [0, 1].map(|_| load.run_for(SLICE).expect("an honest server"));
            for slice in &slices {
                assert!(slice.messages >= connections as u64, "{wire} {connections} {slice:?}");
                assert_eq!(slice.bytes, slice.messages * size as u64);
                assert!(slice.wall >= SLICE && slice.idle <= slice.wall, "{slice:?}");
            }
            let messages = slices[0].messages + slices[1].messages;
            assert_eq!(load.messages(), messages);
            assert_eq!(load.latencies().len(), messages);
            load.part().expect("it says nothing more");
        }
    }
}

#[test]
fn a_unix_socket_is_an_address_like_any_other() {
    for wire in wires() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("echo.sock");
        let listener = UnixListener::bind(&path).expect("a path of its own");
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || echo(stream.expect("a connection"), |_, _| {}));
            }
        });
        let address = Address::Unix(path);
        let mut load = Load::connect(&address, &options(wire, 2, 64, 2)).expect("it listens");
        load.run_for(SLICE).expect("an honest server");
        load.part().expect("it says nothing more");
    }
}

#[test]
fn a_swapped_byte_is_found_with_its_connection_and_offset() {
    for wire in wires() {
        let address = server(|stream, number| {
            echo(stream, |offset, bytes| {
                let at = 1000u64.wrapping_sub(offset) as usize;
                if number == 2 && at < bytes.len() {
                    bytes[at] ^= 0xff;
                }
            });
        });
        match failure(&address, &options(wire, 4, 64, 2)) {
            Failure::Wrong { connection: 2, at: Mismatch { offset: 1000, expected, found } } => {
                assert_eq!(expected, !found);
            }
            other => panic!("{wire}: {other}"),
        }
    }
}

#[test]
fn a_doubled_message_is_found() {
    for wire in wires() {
        let address = server(|stream, _| {
            echo(stream, |offset, bytes| {
                if offset > 0 {
                    bytes.extend_from_within(..);
                }
            });
        });
        let failure = failure(&address, &options(wire, 1, 64, 1));
        assert!(
            matches!(failure, Failure::Wrong { .. } | Failure::Surplus { connection: 0, .. }),
            "{wire}: {failure}"
        );
    }
}

#[test]
fn another_connections_bytes_are_found() {
    use std::sync::{Arc, Mutex};
    for wire in wires() {
        let shelf: Arc<Mutex<Vec<u8>>> = Arc::default();
        let address = server(move |stream, number| {
            let shelf = Arc::clone(&shelf);
            echo(stream, |_, bytes| {
                let mut shelf = shelf.lock().expect("nobody panics");
                match number {
                    0 => shelf.clone_from(bytes),
                    _ if shelf.len() == bytes.len() => bytes.copy_from_slice(&shelf),
                    _ => {}
                }
            });
        });
        let failure = failure(&address, &options(wire, 2, 64, 1));
        assert!(matches!(failure, Failure::Wrong { connection: 1, .. }), "{wire}: {failure}");
    }
}

#[test]
fn a_server_that_is_silent_is_a_stalled_connection() {
    for wire in wires() {
        let address = server(|stream, number| {
            if number == 1 {
                let mut void = Vec::new();
                let _ = (&stream).read_to_end(&mut void);
            } else {
                echo(stream, |_, _| {});
            }
        });
        let patience = Duration::from_millis(200);
        let options = Options { patience, ..options(wire, 3, 64, 1) };
        match failure(&address, &options) {
            Failure::Stalled { connection: 1, offset: 0, owed: 64, .. } => {}
            other => panic!("{wire}: {other}"),
        }
    }
}

#[test]
fn an_early_end_is_told_as_one() {
    for wire in wires() {
        let address = server(|mut stream, _| {
            let mut message = [0; 64];
            if stream.read_exact(&mut message).is_ok() {
                let _ = stream.write_all(&message[..10]);
            }
        });
        match failure(&address, &options(wire, 1, 64, 1)) {
            Failure::Ended { connection: 0, offset: 10, owed: 54 } => {}
            other => panic!("{wire}: {other}"),
        }
    }
}

#[test]
fn a_reset_is_told_as_one() {
    for wire in wires() {
        let address = server(|mut stream, _| {
            // Closed with bytes unread, a socket is reset.
            let _ = stream.read_exact(&mut [0]);
        });
        let failure = failure(&address, &options(wire, 1, 64, 1));
        assert!(matches!(failure, Failure::Broken { connection: 0, .. }), "{wire}: {failure}");
    }
}

#[test]
fn a_refused_connection_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let address = Address::Tcp(listener.local_addr().expect("it is bound"));
    drop(listener);
    for wire in wires() {
        let failure =
            Load::connect(&address, &options(wire, 2, 64, 1)).expect_err("nobody listens");
        let text = failure.to_string();
        assert!(
            text.starts_with(&format!("cannot connect to {address} (connection 0): ")),
            "{text}"
        );
    }
}

#[test]
fn a_byte_after_the_last_reply_is_found_at_parting() {
    for wire in wires() {
        let address = server(|stream, _| {
            echo(&stream, |_, _| {});
            let _ = (&stream).write_all(b"!");
        });
        let mut load = Load::connect(&address, &options(wire, 2, 64, 1)).expect("it listens");
        load.run_for(SLICE).expect("honest until the end");
        let failure = load.part().expect_err("it said something more");
        assert!(matches!(failure, Failure::Surplus { surplus: 1, .. }), "{wire}: {failure}");
    }
}

#[test]
fn a_run_is_ended_by_who_watches_it() {
    for wire in wires() {
        let address = server(|stream, _| echo(stream, |_, _| {}));
        let mut load = Load::connect(&address, &options(wire, 1, 64, 1)).expect("it listens");
        let mut watched = 0;
        let slice = load.run(Duration::from_secs(3600), &mut |_| {
            watched += 1;
            false
        });
        assert!(slice.expect("an honest server").messages > 0);
        assert!(watched >= 1);
    }
}

#[test]
fn numbers_beyond_reason_are_refused_before_anything_is_opened() {
    let nowhere: Address = "127.0.0.1:1".parse().expect("an address");
    for (connections, size, depth) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, SIZE_MAX + 1, 1)] {
        let options = options(WireChoice::Auto, connections, size, depth);
        let failure = Load::connect(&nowhere, &options).expect_err("absurd numbers");
        assert!(failure.to_string().contains("between 1 and"), "{failure}");
    }
}
