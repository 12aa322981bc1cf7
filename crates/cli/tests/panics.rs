//! A protocol that panics: its message delays no other connection, though stderr is not read.
//!
//! This program is the test, and, if the environment says so, the server with that protocol.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};

use proactor::{Input, Needs, Outbox, Protocol};
use support::{Address, Client, Options, Process, eventually, full_pipe, io_uring_refused};

/// Set for the server.
const SERVES: &str = "PROACTOR_TEST_PANICS";

/// An echo that panics for what begins with `p`.
struct Panics;

impl Protocol for Panics {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        let bytes = input.take_all();
        assert!(!bytes.starts_with(b"p"), "as this test has it");
        out.send(bytes);
    }
}

fn main() -> ExitCode {
    if std::env::var_os(SERVES).is_some() {
        return proactor_cli::main_with(|registry| _ = registry.add("panics", |_peer| Panics));
    }
    for model in proactor_models::ALL.map(|model| model.name()) {
        if model != "uring" || io_uring_refused().is_none() {
            panics_delay_no_other_connection(model);
            println!("panics_delay_no_other_connection: {model} ok");
        }
    }
    ExitCode::SUCCESS
}

fn panics_delay_no_other_connection(model: &str) {
    const PANICS: usize = 40;
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("socket").display());
    for is_read in [true, false] {
        let (mut reader, stderr) = match is_read {
            true => {
                std::io::pipe().map(|(reader, writer)| (reader, writer.into())).expect("a pipe")
            }
            false => full_pipe(false),
        };
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(SERVES, "1").env_remove("RUST_BACKTRACE").stdin(Stdio::null());
        command.args(["serve", "--model", model, "--protocol", "panics", "--listen", &address]);
        command.args(["--log-format", "json"]);
        let mut server = command.stdout(Stdio::null()).stderr(stderr).spawn().expect("it runs");
        drop(command);
        let connect = || Client::try_connect(&Address::parse(&address), Options::default()).ok();
        for _ in 0..PANICS {
            let client = eventually("it serves", connect);
            client.say(b"panic");
            let _ = client.hear_all();
        }
        let client = eventually("it serves", connect);
        (0..10).for_each(|_| client.ping());
        drop(client);
        Process(server.id()).signal(libc::SIGTERM);
        let status = eventually("it ends", || server.try_wait().expect("a child can be asked"));
        assert_eq!(status.code(), Some(0), "{model}");
        if is_read {
            let mut text = String::new();
            reader.read_to_string(&mut text).expect("UTF-8");
            // The first at once, and the last with the number of all others at the end.
            assert_eq!(text.matches("panicked at").count(), 2, "{model}: {text}");
            assert!(text.contains(&format!("\"repeated\":{}", PANICS - 1)), "{model}: {text}");
            let is_json = |line| serde_json::from_str::<serde_json::Value>(line).is_ok();
            assert!(text.lines().all(is_json), "{model}: {text}");
        }
    }
}
