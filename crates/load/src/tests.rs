//! The client against small servers on std, some of them faulty on purpose.

#[path = "../../../tests/skip/mod.rs"]
mod skip;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

const SLICE: Duration = Duration::from_millis(20);

/// A server with a thread per connection. Calls `serve` with the connection and its number.
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

/// Echoes. `change` receives the bytes and their offset first.
fn echo(mut stream: impl Read + Write, mut change: impl FnMut(u64, &mut Vec<u8>)) {
    let mut offset = 0;
    let mut buffer = [0; 8192];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        let mut bytes = buffer[..len].to_vec();
        change(offset, &mut bytes);
        offset += len as u64;
        if stream.write_all(&bytes).is_err() {
            break;
        }
    }
}

fn options(engine: EngineChoice, connections: usize, size: usize, depth: usize) -> LoadOptions {
    let shape = LoadShape { connections, size, depth };
    LoadOptions {
        workload: shape.into(),
        protocol: LoadProtocol::echo(),
        seed: 7,
        engine,
        timeout: Duration::from_secs(10),
    }
}

/// The engines to test: both, or epoll alone where io_uring is not available.
fn engines() -> Vec<EngineChoice> {
    match UringEngine::open(1, 1) {
        Ok(_) => vec![EngineChoice::Epoll, EngineChoice::Uring],
        Err(error) => {
            skip::skip(&format!("no io_uring for the client: {error}"));
            vec![EngineChoice::Epoll]
        }
    }
}

/// Runs slices until one fails.
fn error(address: &Address, options: &LoadOptions) -> LoadError {
    let mut load = Load::connect(address, options).expect("the server accepts");
    for _ in 0..100 {
        if let Err(error) = load.run_for(SLICE) {
            return error;
        }
    }
    panic!("no error in a hundred slices");
}

#[test]
fn every_load_is_echoed_and_verified_slice_by_slice() {
    for engine in engines() {
        for (connections, size, depth) in [(1, 1, 1), (3, 64, 4), (8, 1000, 7), (2, 300_000, 2)] {
            let address = server(|stream, _| echo(stream, |_, _| {}));
            let mut load = Load::connect(&address, &options(engine, connections, size, depth))
                .expect("the server accepts");
            let slices = [0, 1].map(|_| load.run_for(SLICE).expect("a correct server"));
            for slice in &slices {
                assert!(slice.messages >= connections as u64, "{engine:?} {connections} {slice:?}");
                assert_eq!(slice.bytes, slice.messages * size as u64);
                assert!(slice.wall >= SLICE && slice.idle <= slice.wall, "{slice:?}");
            }
            let messages = slices[0].messages + slices[1].messages;
            assert_eq!(load.messages(), messages);
            assert_eq!(load.latencies().len(), messages);
            load.close().expect("it sends nothing more");
        }
    }
}

/// A chat: the bytes of each connection go to all others, with the label of line starts.
/// `change` may change what one of the others receives of each line.
fn chat(change: impl Fn(&mut Vec<u8>) + Clone + Send + 'static) -> Address {
    use std::io::{BufRead, BufReader};
    use std::sync::{Arc, Mutex};
    let members: Arc<Mutex<Vec<Option<TcpStream>>>> = Arc::default();
    server(move |stream, _| {
        let send = |members: &[Option<TcpStream>], but: usize, line: &[u8]| {
            let others = members.iter().enumerate().filter(|(at, _)| *at != but);
            for (at, mut member) in others.filter_map(|(at, it)| Some((at, it.as_ref()?))) {
                let mut line = line.to_vec();
                if at == usize::from(but == 0) {
                    change(&mut line);
                }
                let _ = member.write_all(&line);
            }
        };
        let me = {
            let mut members = members.lock().expect("no thread panics");
            let me = members.len();
            members.push(Some(stream.try_clone().expect("a descriptor is left")));
            send(&members, me, format!("* {me} joined\n").as_bytes());
            me
        };
        for line in BufReader::new(&stream).split(b'\n').map_while(Result::ok) {
            let line = [format!("[{me}] ").as_bytes(), &line, b"\n"].concat();
            send(&members.lock().expect("no thread panics"), me, &line);
        }
        let left = members.lock().expect("no thread panics")[me].take();
        let _ = left.expect("it left once").shutdown(Shutdown::Both);
    })
}

fn with(pattern: Pattern, options: LoadOptions) -> LoadOptions {
    LoadOptions { workload: Workload { pattern, ..options.workload }, ..options }
}

#[test]
fn short_connections_are_counted_when_the_server_has_closed_them() {
    for engine in engines() {
        let address = server(|stream, _| echo(stream, |_, _| {}));
        let options = with(Pattern::Churn, options(engine, 3, 64, 1));
        let mut load = Load::connect(&address, &options).expect("valid options");
        let slices = [0, 1].map(|_| load.run_for(SLICE).expect("a correct server"));
        assert!(slices.iter().all(|slice| slice.messages >= 3), "{slices:?}");
        assert_eq!(slices[1].bytes, slices[1].messages * 64);
        assert_eq!(load.latencies().len(), load.messages());
        load.close().expect("all are closed already");
    }
}

#[test]
fn a_server_that_keeps_short_connections_open_has_stalled() {
    for engine in engines() {
        let address = server(|mut stream, _| {
            let mut message = [0; 64];
            stream.read_exact(&mut message).expect("a message");
            stream.write_all(&message).expect("the client receives");
            thread::park();
        });
        let timeout = Duration::from_millis(200);
        let options = LoadOptions { timeout, ..with(Pattern::Churn, options(engine, 2, 64, 1)) };
        match error(&address, &options) {
            LoadError::NotMoving { bytes: 128, .. } => {}
            other => panic!("{engine:?}: {other}"),
        }
    }
}

#[test]
fn an_upload_ends_when_the_server_has_read_everything() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    for engine in engines() {
        let read = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&read);
        let address = server(move |mut stream, _| {
            let mut buffer = [0; 8192];
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                counted.fetch_add(len as u64, Ordering::SeqCst);
            }
        });
        let options = with(Pattern::Upload, options(engine, 2, 10_000, 1));
        let mut load = Load::connect(&address, &options).expect("valid options");
        let slices = [0, 1].map(|_| load.run_for(SLICE).expect("it reads all"));
        assert!(slices[1].bytes > 0 && slices[1].messages == slices[1].bytes / 10_000);
        assert_eq!(read.load(Ordering::SeqCst), slices[0].bytes + slices[1].bytes);
        assert!(load.latencies().is_empty() && slices[0].longest_gap.is_zero());
    }
}

#[test]
fn a_download_is_verified_and_a_changed_byte_is_found() {
    for engine in engines() {
        let generate = |changed: Option<usize>| {
            server(move |mut stream, _| {
                let mut pattern = byte_stream::chargen().to_vec();
                stream.set_nonblocking(true).expect("a socket");
                for n in 0.. {
                    if let Some(at) = changed.filter(|_| n == 3) {
                        pattern[at] ^= 1;
                    }
                    let mut rest = &pattern[..];
                    while !rest.is_empty() {
                        match stream.write(rest) {
                            Ok(len) => rest = &rest[len..],
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            Err(_) => return,
                        }
                    }
                    if matches!(stream.read(&mut [0]), Ok(0)) {
                        return;
                    }
                }
            })
        };
        let options = with(Pattern::Download, options(engine, 2, 1000, 1));
        let mut load = Load::connect(&generate(None), &options).expect("valid options");
        for _ in 0..2 {
            let slice = load.run_for(SLICE).expect("a correct server");
            assert!(slice.bytes > 0 && slice.messages == slice.bytes / 1000, "{slice:?}");
        }
        match error(&generate(Some(17)), &options) {
            LoadError::Wrong { at: Mismatch { offset, .. }, .. } => assert_eq!(offset, 21_107),
            other => panic!("{engine:?}: {other}"),
        }
    }
}

#[test]
fn every_line_is_verified_at_every_member_of_a_chat() {
    for engine in engines() {
        for (size, depth) in [(2, 1), (64, 4)] {
            let options = with(Pattern::Fanout, options(engine, 4, size, depth));
            let mut load = Load::connect(&chat(|_| {}), &options).expect("they join");
            let slices = [0, 1].map(|_| load.run_for(SLICE).expect("a correct server"));
            assert!(slices.iter().all(|slice| slice.messages >= 3 && slice.messages % 3 == 0));
            assert_eq!(load.latencies().len(), load.messages());
            load.close().expect("they leave");
        }
    }
}

#[test]
fn a_line_that_a_member_receives_twice_or_not_is_found() {
    for engine in engines() {
        let options = with(Pattern::Fanout, options(engine, 4, 64, 2));
        let options = LoadOptions { timeout: Duration::from_millis(300), ..options };
        let is_spoken =
            |line: &[u8]| line.starts_with(b"[") && !line.windows(6).any(|it| it == b"hello ");
        let twice = chat(move |line| {
            if is_spoken(line) {
                line.extend_from_within(..);
            }
        });
        match error(&twice, &options) {
            LoadError::Wrong { connection, .. } | LoadError::Surplus { connection, .. } => {
                assert!((1..4).contains(&connection), "a member that listens");
            }
            other => panic!("{engine:?}: {other}"),
        }
        let never = chat(move |line| {
            if is_spoken(line) {
                line.clear();
            }
        });
        let error = error(&never, &options);
        assert!(matches!(error, LoadError::Stalled { .. }), "{engine:?}: {error}");
    }
}

#[test]
fn a_server_that_is_no_chat_is_named() {
    let address = server(|stream, _| echo(stream, |_, _| {}));
    let options = with(Pattern::Fanout, options(EngineChoice::Epoll, 2, 64, 1));
    let options = LoadOptions { timeout: Duration::from_millis(200), ..options };
    let error = Load::connect(&address, &options).expect_err("no line comes").to_string();
    assert!(error.starts_with("the load generator cannot join the chat: "), "{error}");
}

#[test]
fn sizes_are_mixed_and_idle_connections_stay_open() {
    for engine in engines() {
        let address = server(|stream, _| echo(stream, |_, _| {}));
        let options = options(engine, 2, 10, 3);
        let workload = Workload { size_max: Some(5000), idle_connections: 5, ..options.workload };
        let mut load = Load::connect(&address, &LoadOptions { workload, ..options })
            .expect("the idle ones are answered");
        let slice = load.run_for(SLICE).expect("a correct server");
        let mean = slice.bytes as f64 / slice.messages as f64;
        assert!((10.0..5000.0).contains(&mean), "{mean}");
        assert_ne!(slice.bytes % slice.messages, 0, "sizes differ");
        load.close().expect("the idle ones are still open");
    }
}

#[test]
fn slow_readers_are_verified_to_their_last_byte() {
    for engine in engines() {
        // The server changes a byte that the client reads only after it has closed its side.
        for changed in [None, Some(60_000)] {
            let address = server(move |stream, number| {
                echo(stream, |offset, bytes| {
                    let at = changed.unwrap_or(u64::MAX).wrapping_sub(offset) as usize;
                    if number == 2 && at < bytes.len() {
                        bytes[at] ^= 1;
                    }
                });
            });
            let options = options(engine, 1, 64, 1);
            let workload = Workload { slow_readers: 2, ..options.workload };
            let options = LoadOptions { workload, ..options };
            let mut load = Load::connect(&address, &options).expect("it accepts");
            let slice = load.run_for(3 * SLICE).expect("the measured connection is right");
            assert!(slice.messages > 0);
            match (load.close(), changed) {
                (Ok(()), None) => {}
                (Err(LoadError::Wrong { connection: 2, at }), Some(changed)) => {
                    assert_eq!(at.offset, changed);
                }
                (closed, _) => panic!("{engine:?}: {closed:?}"),
            }
        }
    }
}

#[test]
fn an_idle_connection_that_the_server_closed_is_an_error() {
    let address = server(|stream, number| {
        if number == 2 {
            let mut message = [0; 64];
            (&stream).read_exact(&mut message).expect("a message");
            // Another byte than the client expects, and the end.
            (&stream).write_all(&[&message[..], b"!"].concat()).expect("the client receives");
        } else {
            echo(stream, |_, _| {});
        }
    });
    let options = options(EngineChoice::Epoll, 2, 64, 1);
    let workload = Workload { idle_connections: 1, ..options.workload };
    let load = Load::connect(&address, &LoadOptions { workload, ..options }).expect("answered");
    let error = load.close().expect_err("it is not idle").to_string();
    assert!(error.contains("sent bytes to an idle connection"), "{error}");
}

#[test]
fn a_unix_socket_is_an_address_too() {
    for engine in engines() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("echo.sock");
        let listener = UnixListener::bind(&path).expect("a path of its own");
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || echo(stream.expect("a connection"), |_, _| {}));
            }
        });
        let address = Address::Unix(path);
        let mut load = Load::connect(&address, &options(engine, 2, 64, 2)).expect("it listens");
        load.run_for(SLICE).expect("a correct server");
        load.close().expect("it sends nothing more");
    }
}

#[test]
fn a_changed_byte_is_found_with_its_connection_and_offset() {
    for engine in engines() {
        let address = server(|stream, number| {
            echo(stream, |offset, bytes| {
                let at = 1000u64.wrapping_sub(offset) as usize;
                if number == 2 && at < bytes.len() {
                    bytes[at] ^= 0xff;
                }
            });
        });
        match error(&address, &options(engine, 4, 64, 2)) {
            LoadError::Wrong { connection: 2, at: Mismatch { offset: 1000, expected, found } } => {
                assert_eq!(expected, !found);
            }
            other => panic!("{engine:?}: {other}"),
        }
    }
}

#[test]
fn a_duplicated_message_is_found() {
    for engine in engines() {
        let address = server(|stream, _| {
            echo(stream, |offset, bytes| {
                if offset > 0 {
                    bytes.extend_from_within(..);
                }
            });
        });
        let error = error(&address, &options(engine, 1, 64, 1));
        assert!(
            matches!(error, LoadError::Wrong { .. } | LoadError::Surplus { connection: 0, .. }),
            "{engine:?}: {error}"
        );
    }
}

#[test]
fn bytes_of_another_connection_are_found() {
    use std::sync::{Arc, Mutex};
    for engine in engines() {
        let first: Arc<Mutex<Vec<u8>>> = Arc::default();
        let address = server(move |stream, number| {
            let first = Arc::clone(&first);
            echo(stream, |_, bytes| {
                let mut first = first.lock().expect("no thread panics");
                match number {
                    0 => first.clone_from(bytes),
                    _ if first.len() == bytes.len() => bytes.copy_from_slice(&first),
                    _ => {}
                }
            });
        });
        let error = error(&address, &options(engine, 2, 64, 1));
        assert!(matches!(error, LoadError::Wrong { connection: 1, .. }), "{engine:?}: {error}");
    }
}

#[test]
fn a_server_without_replies_is_a_stalled_connection() {
    for engine in engines() {
        let address = server(|stream, number| {
            if number == 1 {
                let mut rest = Vec::new();
                let _ = (&stream).read_to_end(&mut rest);
            } else {
                echo(stream, |_, _| {});
            }
        });
        let timeout = Duration::from_millis(200);
        let options = LoadOptions { timeout, ..options(engine, 3, 64, 1) };
        match error(&address, &options) {
            LoadError::Stalled { connection: 1, offset: 0, outstanding: 64, .. } => {}
            other => panic!("{engine:?}: {other}"),
        }
    }
}

#[test]
fn an_early_close_is_reported() {
    for engine in engines() {
        let address = server(|mut stream, _| {
            let mut message = [0; 64];
            if stream.read_exact(&mut message).is_ok() {
                let _ = stream.write_all(&message[..10]);
            }
        });
        match error(&address, &options(engine, 1, 64, 1)) {
            LoadError::Ended { connection: 0, offset: 10, outstanding: 54 } => {}
            other => panic!("{engine:?}: {other}"),
        }
    }
}

#[test]
fn a_reset_is_reported() {
    for engine in engines() {
        let address = server(|mut stream, _| {
            // Closing a socket with unread bytes resets the connection.
            let _ = stream.read_exact(&mut [0]);
        });
        let error = error(&address, &options(engine, 1, 64, 1));
        assert!(matches!(error, LoadError::Broken { connection: 0, .. }), "{engine:?}: {error}");
    }
}

#[test]
fn a_refused_connection_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let address = Address::Tcp(listener.local_addr().expect("it is bound"));
    drop(listener);
    for engine in engines() {
        let error =
            Load::connect(&address, &options(engine, 2, 64, 1)).expect_err("the port is closed");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("cannot connect to {address} (connection 0): ")),
            "{text}"
        );
    }
}

#[test]
fn a_byte_after_the_last_reply_is_found_on_close() {
    for engine in engines() {
        let address = server(|stream, _| {
            echo(&stream, |_, _| {});
            let _ = (&stream).write_all(b"!");
        });
        let mut load = Load::connect(&address, &options(engine, 2, 64, 1)).expect("it listens");
        load.run_for(SLICE).expect("correct until the end");
        let error = load.close().expect_err("it sent another byte");
        assert!(matches!(error, LoadError::Surplus { surplus: 1, .. }), "{engine:?}: {error}");
    }
}

#[test]
fn the_watcher_ends_a_run() {
    for engine in engines() {
        let address = server(|stream, _| echo(stream, |_, _| {}));
        let mut load = Load::connect(&address, &options(engine, 1, 64, 1)).expect("it listens");
        let mut watched = 0;
        let slice = load.run(Duration::from_secs(3600), &mut |_| {
            watched += 1;
            false
        });
        assert!(slice.expect("a correct server").messages > 0);
        assert!(watched >= 1);
    }
}

#[test]
fn invalid_numbers_are_refused_before_anything_is_opened() {
    let nowhere: Address = "127.0.0.1:1".parse().expect("an address");
    for (connections, size, depth) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, SIZE_MAX + 1, 1)] {
        let options = options(EngineChoice::Auto, connections, size, depth);
        let error = Load::connect(&nowhere, &options).expect_err("invalid numbers");
        assert!(error.to_string().contains("between 1 and"), "{error}");
    }
}
