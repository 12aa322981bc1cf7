//! One model, seen at work: a server in a process of its own, one client, one message at a time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use super::scene::{self, Carried, Run, Scene};
use proactor::address::{Address, Listener};
use proactor::buffer::BufferClass;
use proactor::limits::Limits;
use proactor::os::probe::{Call, Probe};
use proactor::os::process::{self, Alone, Signals, Wake};
use proactor::os::{self, ShutdownSignal};
use proactor::protocol::Any;
use proactor_models::model::{self, Choice, Model, PreparedModel, RingOptions, Service};
use proactor_trace::{Event, Happened, Level, Op, Recording, Settings, Trace};

/// How long before a message the server is left in peace, so that it waits.
const PEACE: Duration = Duration::from_millis(2);
/// How much of what came before a message belongs to its picture, if the server does not sleep:
/// nanoseconds, less than its peace.
const BEFORE: u64 = 30_000;
/// Messages that are not shown: what happens only once is over then.
const WARM_UP: usize = 5;
/// How long a reply may take before the server is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the recording is done.
#[derive(Debug, Clone, Copy)]
pub struct Terrain {
    /// Bytes of the message.
    pub size: usize,
    /// How many are sent, one after the other; the median is shown.
    pub runs: usize,
    /// The server's CPU and the client's, if there are two.
    pub cpus: Option<(usize, usize)>,
}

/// Serves by `model` in a child, and sends it messages.
///
/// # Errors
/// The child cannot be made, the model cannot be set up, its calls cannot be recorded, or it does
/// not answer: in words, with the model's own last word.
pub(super) fn record(alone: &Alone, model: Model, terrain: Terrain) -> io::Result<Scene> {
    let listener = Address::Tcp(([127, 0, 0, 1], 0).into()).listen()?;
    let Address::Tcp(address) = listener.address else {
        return Err(io::Error::other("a TCP listener has another address"));
    };
    let (ring_log, probe) = (os::memory_file(c"proactor.explain")?, Probe::new()?);
    let (words, last_words) = io::pipe()?;
    let keep = [listener.fd.as_raw_fd(), ring_log.as_raw_fd(), last_words.as_raw_fd()];
    let child = process::fork(alone, &keep, |signals| {
        // All other descriptors are closed by now: these three were kept.
        let listener = listener.fd.as_fd().try_clone_to_owned();
        let served = listener.and_then(|fd| serve(model, fd, &ring_log, &probe, terrain, signals));
        match served {
            Ok(()) => 0,
            Err(error) => {
                let _ = (&last_words).write_all(error.to_string().as_bytes());
                1
            }
        }
    })?;
    drop(last_words);
    let Listener { fd, .. } = listener;
    drop(fd);
    let runs = converse(address, terrain, &probe);
    // Whether it drains or has died: it is gone then.
    let _ = if runs.is_ok() { process::tell(child) } else { process::kill(child) };
    process::wait(child)?;
    let runs = runs.map_err(|error| {
        let mut why = String::new();
        let _ = (&words).take(4096).read_to_string(&mut why);
        if why.is_empty() { error } else { io::Error::other(why) }
    })?;
    let carried = if model == Model::Uring { carried(&ring_log)? } else { Vec::new() };
    scene::median(runs, &carried)
}

/// What the child does.
fn serve(
    model: Model,
    listener: OwnedFd,
    ring_log: &File,
    probe: &Probe,
    terrain: Terrain,
    signals: Signals,
) -> io::Result<()> {
    let stop = ShutdownSignal::new()?;
    signals.tell(Wake::Ask(&stop))?;
    if let Some((server, _)) = terrain.cpus {
        os::pin_to_cpu(server)?;
    }
    let drain = Duration::from_secs(1);
    let limits = Limits { connections: 16, drain, ..Limits::default() };
    let buffers =
        vec![BufferClass { bytes: 2048, count: 64 }, BufferClass { bytes: 64 << 10, count: 8 }];
    let engine =
        PreparedModel::set_up(Choice::Model(model), RingOptions::default(), &limits, &buffers)?;
    let trace =
        (model == Model::Uring).then(|| ring_log.try_clone()).transpose()?.map(|file| Recording {
            file,
            settings: Settings { bytes: 1 << 20, level: Level::Record, ..Settings::default() },
        });
    let echo: Any = "echo".parse().map_err(io::Error::other)?;
    probe.begin(&scene::CALLS)?;
    let service = Service {
        listeners: vec![(listener, echo)],
        buffers,
        limits,
        stop,
        idle_sleep: None,
        console: None,
        trace,
    };
    model::serve(engine, service, || ()).map(drop)
}

/// The client's side: what it saw of each message, and the calls that were noted meanwhile.
fn converse(
    address: std::net::SocketAddr,
    terrain: Terrain,
    probe: &Probe,
) -> io::Result<Vec<Run>> {
    if let Some((_, client)) = terrain.cpus {
        os::pin_to_cpu(client)?;
    }
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let message = vec![b'm'; terrain.size];
    let mut reply = vec![0; terrain.size];
    let mut runs = Vec::with_capacity(terrain.runs);
    for number in 0..WARM_UP + terrain.runs {
        sleep(PEACE);
        let begin = os::now().0;
        socket.write_all(&message)?;
        let sent = os::now().0;
        socket.read_exact(&mut reply)?;
        let received = os::now().0;
        if reply != message {
            return Err(io::Error::other("the reply is not what was sent"));
        }
        // Until it has come to rest: what it does after the reply belongs to the picture.
        sleep(PEACE);
        if number >= WARM_UP {
            let calls: Vec<Call> = probe.calls();
            let until = os::now().0;
            let overlapping =
                |call: &Call| call.begin < until && call.end.is_none_or(|end| end > begin - BEFORE);
            let calls = calls.into_iter().filter(overlapping).collect();
            runs.push(Run { begin, sent, received, calls });
        }
    }
    Ok(runs)
}

/// What each enter of a ring carried, as the ring's own recording has it.
fn carried(file: &File) -> io::Result<Vec<Carried>> {
    let trace = Trace::from_file(file).map_err(|error| io::Error::other(error.to_string()))?;
    let origin = trace.header.pairs[0].1;
    let (mut enters, mut queued) = (Vec::<Carried>::new(), Vec::new());
    for event in trace.events() {
        match event.what {
            Happened::Submitted { .. } => queued.extend(name(&event)),
            Happened::EnterBegin { .. } => {
                let submitted = std::mem::take(&mut queued);
                enters.push(Carried { begin: origin + event.at, submitted, completed: Vec::new() });
            }
            Happened::Completed { .. } => {
                if let Some(last) = enters.last_mut() {
                    last.completed.extend(name(&event));
                }
            }
            _ => {}
        }
    }
    Ok(enters)
}

fn name(event: &Event) -> Option<String> {
    match event.op? {
        Op::Ring(kind) => Some(Op::Ring(kind).name().to_owned()),
        Op::Call(_) => None,
    }
}
