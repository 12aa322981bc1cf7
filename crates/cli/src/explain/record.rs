//! Records a model: its servers in processes of their own, and a client that sends them messages.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::Duration;

use super::timeline::{self, CallTimeline, Enter, MessageRun, RingOps};
use proactor::Model;
use proactor::address::{Address, BoundSocket};
use proactor::limits::Limits;
use proactor::model::{self, EngineOptions};
use proactor::os::probe::Probe;
use proactor::os::process::{self, Alone, Pid, Signals, Wake};
use proactor::os::{self, Order, ShutdownSignal};
use proactor_models::{BLOCKING, NONBLOCKING, PROCESS, Service, THREAD};
use proactor_record::{Content, Level, Recording, Settings, Trace};
use proactor_trace::events;

/// The pause before and after a message, in which the server goes to sleep.
const PAUSE: Duration = Duration::from_millis(2);
/// Nanoseconds before a message that its timeline shows of a server that does not sleep: less than
/// the pause.
const BEFORE: u64 = 30_000;
/// The longest wait for a reply.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a picture shows: messages of this size, one on each of so many connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageSet {
    pub(super) connections: usize,
    pub(super) size: usize,
}

/// What records a server: its calls, and the operations of its ring.
struct CallRecorder {
    probe: Probe,
    ring: File,
}

/// The servers of a model: one without a recorder, and one whose calls are recorded.
pub(super) struct RecordedModel {
    model: Model,
    recorder: CallRecorder,
    servers: [ChildServer; 2],
    /// The runs of each server with the current picture.
    runs: [Vec<MessageRun>; 2],
    /// The runs of the pictures before.
    recorded: Vec<(MessageSet, [Vec<MessageRun>; 2])>,
}

impl RecordedModel {
    /// Starts the servers, on the first of these CPUs, if this process may use two.
    ///
    /// # Errors
    /// The children cannot be made, or there is no memory for the recorder.
    pub(super) fn start(
        model: Model,
        alone: &Alone,
        cpus: Option<[usize; 2]>,
    ) -> io::Result<RecordedModel> {
        let ring = os::memory_file(c"proactor.explain")?;
        let recorder = CallRecorder { probe: Probe::new()?, ring };
        let start = |recorder| ChildServer::start(alone, (model, cpus), recorder);
        let servers = [start(None)?, start(Some(&recorder))?];
        Ok(RecordedModel { model, recorder, servers, runs: [vec![], vec![]], recorded: vec![] })
    }

    /// Sends the messages to both servers, and keeps the runs.
    ///
    /// # Errors
    /// A server does not reply; or its own error, if it has reported one.
    pub(super) fn run(&mut self, messages: MessageSet) -> io::Result<()> {
        let probes = [None, Some(&self.recorder.probe)];
        for ((server, runs), probe) in self.servers.iter_mut().zip(&mut self.runs).zip(probes) {
            runs.push(server.exchange(messages, probe)?);
        }
        Ok(())
    }

    /// Forgets the runs of a picture, in which a server does what it does only once.
    pub(super) fn warmed_up(&mut self) {
        self.runs.iter_mut().for_each(Vec::clear);
    }

    /// The picture has all its runs.
    pub(super) fn end_picture(&mut self, messages: MessageSet) {
        self.recorded.push((messages, std::mem::take(&mut self.runs)));
    }

    /// Ends the servers. Returns the timeline of each picture, in the order in which they ended.
    ///
    /// # Errors
    /// A recording cannot be read, or shows no call.
    pub(super) fn timelines(self) -> io::Result<Vec<CallTimeline>> {
        let RecordedModel { model, recorder, servers, recorded, .. } = self;
        servers.into_iter().try_for_each(ChildServer::end)?;
        let enters = if model == Model::URING { enter_ops(&recorder.ring)? } else { vec![] };
        let receives = (&*enters, [BLOCKING, THREAD, PROCESS].contains(&model));
        let timelines = recorded.into_iter().map(|(messages, [mut unrecorded, runs])| {
            unrecorded.sort_unstable_by_key(MessageRun::reply);
            let reply = unrecorded.get(unrecorded.len() / 2).map_or(0, MessageRun::reply);
            timeline::median(&runs, receives, reply, messages.connections > 1)
        });
        timelines.collect()
    }
}

/// A server in a child process, and its clients.
struct ChildServer {
    child: Pid,
    /// False once it was waited for.
    runs: bool,
    /// Reads the error that ends it.
    errors: PipeReader,
    address: Address,
    sockets: Vec<TcpStream>,
    /// Whether it sleeps while it has nothing to do: else it is stopped while others are recorded.
    sleeps: bool,
}

impl ChildServer {
    fn start(
        alone: &Alone,
        (model, cpus): (Model, Option<[usize; 2]>),
        recorder: Option<&CallRecorder>,
    ) -> io::Result<ChildServer> {
        let listener = Address::Tcp(([127, 0, 0, 1], 0).into()).listen()?;
        let address = listener.address.clone();
        let (errors, mut error_end) = io::pipe()?;
        let mut keep = vec![listener.fd.as_raw_fd(), error_end.as_raw_fd()];
        keep.extend(recorder.map(|recorder| recorder.ring.as_raw_fd()));
        // What moves into the child is closed here.
        let child = process::fork(alone, &keep, move |signals| {
            let served = serve((model, cpus), listener, signals, recorder);
            let reported = served.map_err(|error| write!(error_end, "{error}"));
            u8::from(reported.is_err())
        })?;
        let sleeps = model != NONBLOCKING;
        let server = ChildServer { child, runs: true, errors, address, sockets: vec![], sleeps };
        server.stop()?;
        Ok(server)
    }

    /// Sends the messages, receives the replies, and returns the calls of the server meanwhile.
    fn exchange(&mut self, messages: MessageSet, probe: Option<&Probe>) -> io::Result<MessageRun> {
        if !self.sleeps {
            process::order(self.child, Order::Resume)?;
        }
        let run = self
            .connect(messages.connections)
            .and_then(|()| exchange(&self.sockets[..messages.connections], messages.size, probe));
        self.stop()?;
        run.map_err(|error| self.reason(error))
    }

    fn connect(&mut self, connections: usize) -> io::Result<()> {
        while self.sockets.len() < connections {
            let socket = proactor_load::connect(&self.address, TIMEOUT)?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            self.sockets.push(socket);
        }
        Ok(())
    }

    fn stop(&self) -> io::Result<()> {
        if self.sleeps { Ok(()) } else { process::order(self.child, Order::Pause) }
    }

    /// Ends the child, and returns the error that it has reported, or else `error`.
    fn reason(&mut self, error: io::Error) -> io::Error {
        let ended = self.wait_after(Order::Kill);
        let mut reason = String::new();
        let _ = (&mut self.errors).take(4096).read_to_string(&mut reason);
        if reason.is_empty() { ended.err().unwrap_or(error) } else { io::Error::other(reason) }
    }

    /// Has the server drain, and waits for its end.
    fn end(mut self) -> io::Result<()> {
        self.sockets.clear();
        self.wait_after(Order::Terminate)
    }

    fn wait_after(&mut self, order: Order) -> io::Result<()> {
        if std::mem::take(&mut self.runs) {
            process::order(self.child, order)?;
            process::order(self.child, Order::Resume)?;
            process::wait(self.child)?;
        }
        Ok(())
    }
}

impl Drop for ChildServer {
    /// No child outlives it.
    fn drop(&mut self) {
        let _ = self.wait_after(Order::Kill);
    }
}

/// Runs the server, in the child.
fn serve(
    (model, cpus): (Model, Option<[usize; 2]>),
    socket: BoundSocket,
    signals: Signals,
    recorder: Option<&CallRecorder>,
) -> io::Result<()> {
    let stop = ShutdownSignal::new()?;
    signals.deliver(Wake::Ask(&stop))?;
    cpus.map_or(Ok(()), |[server, _]| os::pin_to_cpu(server))?;
    let mut limits = Limits::default();
    (limits.connections, limits.drain) = (16, Duration::from_secs(1));
    let options = EngineOptions { limits, idle_sleep: None, ..Default::default() };
    let prepared = model::set_up(Some(model), &options)?;
    let echo = crate::parse_protocol("echo").map_err(io::Error::other)?;
    let listeners = vec![(socket, echo.factory.clone())];
    let mut trace = None;
    if let Some(recorder) = recorder {
        let settings = Settings { bytes: 4 << 20, level: Level::Batch, ..Default::default() };
        let file = recorder.ring.try_clone()?;
        trace = (model == Model::URING).then(|| Recording { file, settings });
        let calls: Vec<i64> = timeline::NAMES.iter().map(|(number, ..)| *number).collect();
        recorder.probe.begin(&calls)?;
    }
    let service = Service { listeners, stop, console: None, monitor: None, trace };
    proactor_models::serve(prepared, service, || Ok(())).map(drop)
}

/// Sends a message on every connection, receives the replies, and returns the calls of the server
/// meanwhile.
fn exchange(sockets: &[TcpStream], size: usize, probe: Option<&Probe>) -> io::Result<MessageRun> {
    let (message, mut reply) = (vec![b'm'; size], vec![0; size]);
    sleep(PAUSE);
    let begin = os::now().0;
    for mut socket in sockets {
        socket.write_all(&message)?;
    }
    let sent = os::now().0;
    for mut socket in sockets {
        socket.read_exact(&mut reply)?;
        if reply != message {
            return Err(io::Error::other("the reply differs from the message"));
        }
    }
    let received = os::now().0;
    // The calls after the reply, until the server sleeps, are part of the timeline.
    sleep(PAUSE);
    let mut calls = probe.map(Probe::calls).unwrap_or_default();
    let until = os::now().0;
    calls.retain(|call| call.begin < until && call.end.is_none_or(|end| end > begin - BEFORE));
    Ok(MessageRun { begin, sent, received, calls })
}

/// Returns the begin and the operations of each io_uring_enter, from the recording of the ring.
fn enter_ops(file: &File) -> io::Result<Vec<Enter>> {
    let trace = Trace::from_file(file).map_err(io::Error::other)?;
    let origin = trace.header.pairs[0].1;
    let (mut enters, mut queued) = (Vec::<Enter>::new(), Vec::new());
    for event in events(&trace) {
        let name = event.op.filter(|op| op.is_on_ring()).map(|op| op.name().to_owned());
        match event.what {
            Content::Submitted { .. } => queued.extend(name),
            Content::EnterBegin { .. } => {
                let submitted = std::mem::take(&mut queued);
                enters.push((origin + event.at, RingOps { submitted, completed: Vec::new() }));
            }
            Content::Completed { .. } => {
                if let Some((_, ops)) = enters.last_mut() {
                    ops.completed.extend(name);
                }
            }
            _ => {}
        }
    }
    Ok(enters)
}
