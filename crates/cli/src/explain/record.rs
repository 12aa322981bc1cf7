//! Records one model: a server in its own process, and a client that sends it messages.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::thread::sleep;
use std::time::Duration;

use super::serves_several;
use super::timeline::{self, CallTimeline, EnterOps, MessageRun, RecorderCost};
use proactor::Model;
use proactor::address::{Address, BoundSocket};
use proactor::buffer::BufferClass;
use proactor::limits::Limits;
use proactor::model::{self, EngineOptions};
use proactor::os::probe::{Call, Probe};
use proactor::os::process::{self, Alone, Signals, Wake};
use proactor::os::{self, ShutdownSignal};
use proactor_models::Service;
use proactor_record::{Level, Payload, Recording, Settings, Trace};
use proactor_trace::{Event, events};

/// The pause before and after a message, in which the server goes to sleep.
const PAUSE: Duration = Duration::from_millis(2);
/// Nanoseconds before a message that its timeline shows of a server that does not sleep: less than
/// the pause.
const BEFORE: u64 = 30_000;
/// Messages that are not recorded, in which the server does what it does only once.
const WARM_UP: usize = 5;
/// The longest wait for a reply.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Calls made in threes before anything else, to measure the cost of the recorder.
const CALIBRATION: usize = 3 * 16;

/// The options of a recording.
#[derive(Debug, Clone, Copy)]
pub struct ExplainOptions {
    /// The size of a message in bytes.
    pub size: usize,
    /// Connections of the first timeline, each with one message.
    pub connections: usize,
    /// Recorded runs per timeline.
    pub runs: usize,
    /// The CPU of the server and the CPU of the client, if there are two.
    pub cpus: Option<(usize, usize)>,
}

/// Serves by `model` in a child process, sends it messages, and returns the timelines: of several
/// connections, if the model serves several, and of one.
///
/// # Errors
/// The child cannot be made, the model cannot be set up, its calls cannot be recorded, or it does
/// not reply. The last error of the child is returned, if it reported one.
pub(super) fn record(
    alone: &Alone,
    model: Model,
    options: ExplainOptions,
) -> io::Result<(Option<CallTimeline>, CallTimeline)> {
    let listener = Address::Tcp(([127, 0, 0, 1], 0).into()).listen()?;
    let Address::Tcp(address) = listener.address else {
        return Err(io::Error::other("a TCP listener has another address"));
    };
    let (ring_log, probe) = (os::memory_file(c"proactor.explain")?, Probe::new()?);
    let (errors, error_end) = io::pipe()?;
    let keep = [listener.fd.as_raw_fd(), ring_log.as_raw_fd(), error_end.as_raw_fd()];
    let child = process::fork(alone, &keep, |signals| {
        // Every other descriptor is closed here.
        let listener = listener.fd.as_fd().try_clone_to_owned();
        let served = listener.and_then(|fd| {
            let socket = BoundSocket { fd, address: Address::Tcp(address), file: None };
            serve(model, socket, &ring_log, &probe, options, signals)
        });
        match served {
            Ok(()) => 0,
            Err(error) => {
                let _ = (&error_end).write_all(error.to_string().as_bytes());
                1
            }
        }
    })?;
    drop(error_end);
    let BoundSocket { fd, .. } = listener;
    drop(fd);
    let most = if serves_several(model) { options.connections } else { 1 };
    let recorded = send_messages(address, most, options, &probe);
    // Both end the child: by a drain, or at once.
    let _ = if recorded.is_ok() { process::terminate(child) } else { process::kill(child) };
    process::wait(child)?;
    let recorded = recorded.map_err(|error| {
        let mut reason = String::new();
        let _ = (&errors).take(4096).read_to_string(&mut reason);
        if reason.is_empty() { error } else { io::Error::other(reason) }
    })?;
    let enters = if model == Model::URING { enter_ops(&ring_log)? } else { Vec::new() };
    let timeline = |runs: &[MessageRun]| timeline::median(runs, &enters, recorded.cost);
    let several = (most > 1).then(|| timeline(&recorded.several)).transpose()?;
    Ok((several, timeline(&recorded.single)?))
}

/// Runs the server, in the child.
fn serve(
    model: Model,
    socket: BoundSocket,
    ring_log: &File,
    probe: &Probe,
    options: ExplainOptions,
    signals: Signals,
) -> io::Result<()> {
    let stop = ShutdownSignal::new()?;
    signals.tell(Wake::Ask(&stop))?;
    if let Some((server, _)) = options.cpus {
        os::pin_to_cpu(server)?;
    }
    let drain = Duration::from_secs(1);
    let mut limits = Limits::default();
    (limits.connections, limits.drain) = (16, drain);
    let buffers =
        vec![BufferClass { bytes: 2048, count: 64 }, BufferClass { bytes: 64 << 10, count: 8 }];
    let options = EngineOptions { limits, buffers, idle_sleep: None, ..EngineOptions::default() };
    let prepared = model::set_up(Some(model), &options)?;
    let trace =
        (model == Model::URING).then(|| ring_log.try_clone()).transpose()?.map(|file| Recording {
            file,
            settings: Settings { bytes: 1 << 20, level: Level::Batch, ..Default::default() },
        });
    let echo = crate::parse_protocol("echo").map_err(io::Error::other)?;
    probe.begin(&timeline::CALLS)?;
    for _ in 0..CALIBRATION / 3 {
        // As long as before a message: what the recorder needs has left the caches.
        sleep(PAUSE);
        os::poll(&mut [], Some(Duration::ZERO))?;
        os::poll(&mut [], Some(Duration::ZERO))?;
    }
    let listeners = vec![(socket, echo.factory().clone())];
    let service = Service { listeners, stop, console: None, trace };
    proactor_models::serve(prepared, service, || ()).map(drop)
}

/// What the client recorded.
struct Recorded {
    cost: RecorderCost,
    single: Vec<MessageRun>,
    several: Vec<MessageRun>,
}

/// Sends the messages: on one connection, then on `most` of them at once.
fn send_messages(
    address: SocketAddr,
    most: usize,
    options: ExplainOptions,
    probe: &Probe,
) -> io::Result<Recorded> {
    if let Some((_, client)) = options.cpus {
        os::pin_to_cpu(client)?;
    }
    let mut client = MessageSender {
        sockets: Vec::new(),
        message: vec![b'm'; options.size],
        reply: vec![0; options.size],
    };
    client.connect(address)?;
    client.exchange(probe)?;
    let calls = probe.calls();
    let cost = timeline::recorder_cost(&calls[..calls.len().min(CALIBRATION)]);
    let record = |client: &mut MessageSender| -> io::Result<Vec<MessageRun>> {
        (0..WARM_UP).try_for_each(|_| client.exchange(probe).map(drop))?;
        (0..options.runs).map(|_| client.exchange(probe)).collect()
    };
    let single = record(&mut client)?;
    (1..most).try_for_each(|_| client.connect(address))?;
    let several = if most > 1 { record(&mut client)? } else { Vec::new() };
    Ok(Recorded { cost, single, several })
}

struct MessageSender {
    sockets: Vec<TcpStream>,
    message: Vec<u8>,
    reply: Vec<u8>,
}

impl MessageSender {
    fn connect(&mut self, address: SocketAddr) -> io::Result<()> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        self.sockets.push(socket);
        Ok(())
    }

    /// Sends a message on every connection, receives the replies, and returns the calls of the
    /// server meanwhile.
    fn exchange(&mut self, probe: &Probe) -> io::Result<MessageRun> {
        sleep(PAUSE);
        let begin = os::now().0;
        for mut socket in &self.sockets {
            socket.write_all(&self.message)?;
        }
        let sent = os::now().0;
        for mut socket in &self.sockets {
            socket.read_exact(&mut self.reply)?;
            if self.reply != self.message {
                return Err(io::Error::other("the reply differs from the message"));
            }
        }
        let received = os::now().0;
        // The calls after the reply, until the server sleeps, are part of the timeline.
        sleep(PAUSE);
        let calls: Vec<Call> = probe.calls();
        let until = os::now().0;
        let overlaps =
            |call: &Call| call.begin < until && call.end.is_none_or(|end| end > begin - BEFORE);
        let calls = calls.into_iter().filter(overlaps).collect();
        Ok(MessageRun { begin, sent, received, calls })
    }
}

/// Returns the operations of each io_uring_enter, from the recording of the ring.
fn enter_ops(file: &File) -> io::Result<Vec<EnterOps>> {
    let trace = Trace::from_file(file).map_err(|error| io::Error::other(error.to_string()))?;
    let origin = trace.header.pairs[0].1;
    let (mut enters, mut queued) = (Vec::<EnterOps>::new(), Vec::new());
    for event in events(&trace) {
        match event.what {
            Payload::Submitted { .. } => queued.extend(name(&event)),
            Payload::EnterBegin { .. } => {
                let submitted = std::mem::take(&mut queued);
                enters.push(EnterOps {
                    begin: origin + event.at,
                    submitted,
                    completed: Vec::new(),
                });
            }
            Payload::Completed { .. } => {
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
    event.op.filter(|op| op.is_on_ring()).map(|op| op.name().to_owned())
}
