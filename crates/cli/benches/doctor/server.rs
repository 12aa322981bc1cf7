//! The other programs that this program is: the server, and a client.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use proactor::buffer::BufferClass;
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::Limits;
use proactor::os::{self, ShutdownSignal};
use proactor::peer::Factory;
use proactor::polling::Polling;
use proactor::proactor::Proactor;
use proactor::protocol::Echo;
use proactor::ring::kernel::Kernel;
use proactor::ring::{Config, Uring};
use proactor::traced::Traced;
use proactor_trace::{About, Recorder, Settings};

use crate::cases::{Case, Injected};
use crate::faults::{Bye, Refusing, Slow};

/// Set for a server or a client: what it is.
pub(crate) const ROLE: &str = "PROACTOR_DOCTOR_BENCH";
/// The role of the commands; another is that of a server whose ring has a fault.
const COMMANDS: &str = "proactor";

/// Is what this role says.
pub(crate) fn play(role: &str) -> ExitCode {
    match role {
        COMMANDS => proactor_cli::main_with(|registry| {
            _ = registry.add("slow", |_peer| Slow { seen: 0, every: 200, span: 20 });
            _ = registry.add("slower", |_peer| Slow { seen: 0, every: 50, span: 8 });
            _ = registry.add("bye", |_peer| Bye);
        }),
        _ => {
            let mut numbers = role.split(' ').map(|number| number.parse().expect("a number"));
            let mut next = || numbers.next().expect("there are two");
            serve(next(), next())
        }
    }
}

/// The commands, which end with this program.
pub(crate) fn commands() -> Command {
    this_program(COMMANDS)
}

fn this_program(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, role).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    os::die_with_parent(&mut command);
    command
}

/// A server under test.
pub(crate) struct Server(pub(crate) Child);

impl Server {
    /// Starts the server of a case, which records into a file; `None` if it cannot.
    pub(crate) fn start(case: &Case, file: &Path) -> Option<(Server, SocketAddr)> {
        let mut command = match case.injected {
            Injected::Queue(queue) => this_program(&format!("{queue} 0")),
            Injected::Refused(every) => this_program(&format!("8192 {every}")),
            _ => {
                let mut command = commands();
                command.args(["serve", "--model", case.model, "--listen", "127.0.0.1:0"]);
                command.args(["--log", "off"]).args(&case.serve).arg("--trace");
                command
            }
        };
        let server = command.arg(file).stdout(Stdio::piped()).spawn().ok()?;
        let mut server = Server(server);
        let mut lines = BufReader::new(server.0.stdout.take().expect("a pipe")).lines();
        let address = lines.find_map(|line| {
            line.ok()?.strip_prefix("listening on ")?.split(' ').next()?.parse().ok()
        })?;
        Some((server, address))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves until the parent ends, with a completion queue of this size; one send of so many is
/// refused.
fn serve(queue: u32, every: u32) -> ExitCode {
    let file = std::env::args_os().nth(1).expect("a file");
    let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(file);
    let file = file.expect("a file that can be written");
    let (kernel, connections) = (Kernel::detect().expect("io_uring"), 256);
    let buffers = vec![BufferClass { count: 1024, bytes: 2048 }];
    let config =
        Config { kernel, connections, buffers, addresses: true, polling: Polling::default() };
    let ring = Uring::with_completions(config, queue).expect("a ring");
    let ring = Refusing { ring, every, sends: 0 };
    let about = About { model: "uring".to_owned(), one_thread: true, ..About::default() };
    let log = Recorder::new(Some(&file), &Settings::default(), &about).expect("a recorder");
    let stop = ShutdownSignal::new().expect("a descriptor");
    stop.on_signals().expect("the signals of a process");
    let mut limits = Limits::default();
    (limits.connections, limits.drain) = (connections, Duration::from_secs(1));
    let mut server = Proactor::new(Traced::new(ring, log), limits, stop).expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("listening on {} ", listener.local_addr().expect("it is bound"));
    server.listen(ListenerId(0), listener.into(), Factory::of(|_| Echo)).expect("a socket");
    server.run(None).map_or(ExitCode::FAILURE, |_| ExitCode::SUCCESS)
}
