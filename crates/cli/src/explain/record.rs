//! Records one model: a server in its own process, and a client that sends it messages.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::Duration;

use super::ExplainOptions;
use super::timeline::{self, CallTimeline, Enter, MessageRun, RingOps};
use proactor::Model;
use proactor::address::{Address, BoundSocket};
use proactor::limits::Limits;
use proactor::model::{self, Ability, EngineOptions};
use proactor::os::probe::Probe;
use proactor::os::process::{self, Alone, Signals, Wake};
use proactor::os::{self, ShutdownSignal};
use proactor_models::{BLOCKING, PROCESS, Service, THREAD};
use proactor_record::{Content, Level, Recording, Settings, Trace};
use proactor_trace::events;

/// The pause before and after a message, in which the server goes to sleep.
const PAUSE: Duration = Duration::from_millis(2);
/// Nanoseconds before a message that its timeline shows of a server that does not sleep: less than
/// the pause.
const BEFORE: u64 = 30_000;
/// Messages that are not recorded, in which the server does what it does only once.
const WARM_UP: usize = 5;
/// The longest wait for a reply.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What records a server: its calls, and the operations of its ring.
pub(super) struct CallRecorder {
    probe: Probe,
    ring: File,
}

/// The runs with one connection, and then those with several.
type AllRuns = Vec<Vec<MessageRun>>;

/// A server in a child process, and its client.
#[derive(Clone, Copy)]
pub(super) struct RecordedServer<'a> {
    pub(super) model: Model,
    pub(super) options: ExplainOptions,
    /// The CPU of the server and the CPU of the client, if this process may use two.
    pub(super) cpus: Option<[usize; 2]>,
    pub(super) recorder: Option<&'a CallRecorder>,
}

impl RecordedServer<'_> {
    /// Serves in a child process, sends it messages, and returns the timelines: of one connection,
    /// and then of several, if the model serves several.
    ///
    /// # Errors
    /// The child cannot be made, the model cannot be set up, its calls cannot be recorded, or it
    /// does not reply. The last error of the child is returned, if it reported one.
    pub(super) fn record(self, alone: &Alone) -> io::Result<Vec<CallTimeline>> {
        let ring = os::memory_file(c"proactor.explain")?;
        let recorder = CallRecorder { probe: Probe::new()?, ring };
        let unrecorded = self.send_messages(alone)?;
        let recorded = RecordedServer { recorder: Some(&recorder), ..self }.send_messages(alone)?;
        let enters = if self.model == Model::URING { enter_ops(&recorder.ring)? } else { vec![] };
        let receives = (&*enters, [BLOCKING, THREAD, PROCESS].contains(&self.model));
        let both = recorded.iter().zip(unrecorded);
        both.map(|(runs, mut unrecorded)| {
            unrecorded.sort_unstable_by_key(MessageRun::reply);
            timeline::median(runs, receives, unrecorded[unrecorded.len() / 2].reply())
        })
        .collect()
    }

    /// Serves in a child process, and sends it messages. Returns the runs with one connection, and
    /// those with several.
    fn send_messages(&self, alone: &Alone) -> io::Result<AllRuns> {
        let listener = Address::Tcp(([127, 0, 0, 1], 0).into()).listen()?;
        let address = listener.address.clone();
        let (errors, mut error_end) = io::pipe()?;
        let mut keep = vec![listener.fd.as_raw_fd(), error_end.as_raw_fd()];
        keep.extend(self.recorder.map(|recorder| recorder.ring.as_raw_fd()));
        // What moves into the child is closed here.
        let child = process::fork(alone, &keep, move |signals| {
            let served = self.serve(listener, signals);
            let reported = served.map_err(|error| write!(error_end, "{error}"));
            u8::from(reported.is_err())
        })?;
        let runs = self.exchange_all(&address);
        // Both end the child: by a drain, or at once.
        let _ = if runs.is_ok() { process::terminate(child) } else { process::kill(child) };
        process::wait(child)?;
        runs.map_err(|error| {
            let mut reason = String::new();
            let _ = errors.take(4096).read_to_string(&mut reason);
            if reason.is_empty() { error } else { io::Error::other(reason) }
        })
    }

    /// Runs the server, in the child.
    fn serve(&self, socket: BoundSocket, signals: Signals) -> io::Result<()> {
        let stop = ShutdownSignal::new()?;
        signals.deliver(Wake::Ask(&stop))?;
        self.cpus.map_or(Ok(()), |[server, _]| os::pin_to_cpu(server))?;
        let mut limits = Limits::default();
        (limits.connections, limits.drain) = (16, Duration::from_secs(1));
        let options = EngineOptions { limits, idle_sleep: None, ..Default::default() };
        let prepared = model::set_up(Some(self.model), &options)?;
        let echo = crate::parse_protocol("echo").map_err(io::Error::other)?;
        let listeners = vec![(socket, echo.factory.clone())];
        let mut trace = None;
        if let Some(recorder) = self.recorder {
            let settings = Settings { bytes: 1 << 20, level: Level::Batch, ..Default::default() };
            let file = recorder.ring.try_clone()?;
            trace = (self.model == Model::URING).then(|| Recording { file, settings });
            let calls: Vec<i64> = timeline::NAMES.iter().map(|(number, ..)| *number).collect();
            recorder.probe.begin(&calls)?;
        }
        let service = Service { listeners, stop, console: None, monitor: None, trace };
        proactor_models::serve(prepared, service, || Ok(())).map(drop)
    }

    /// Sends the messages: on one connection, then on several at once if the model serves several.
    fn exchange_all(&self, address: &Address) -> io::Result<AllRuns> {
        self.cpus.map_or(Ok(()), |[_, client]| os::pin_to_cpu(client))?;
        let crowd = self.model.info().missing(Ability::Crowd).is_none();
        let most = if crowd { self.options.connections } else { 1 };
        let (mut sockets, mut all) = (Vec::new(), Vec::new());
        for connections in BTreeSet::from([1, most]) {
            while sockets.len() < connections {
                let socket = proactor_load::connect(address, TIMEOUT)?;
                socket.set_read_timeout(Some(TIMEOUT))?;
                sockets.push(socket);
            }
            let probe = self.recorder.map(|recorder| &recorder.probe);
            let runs = (0..WARM_UP + self.options.runs)
                .map(|_| exchange(&sockets, self.options.size, probe));
            let mut runs: Vec<MessageRun> = runs.collect::<io::Result<_>>()?;
            runs.drain(..WARM_UP);
            all.push(runs);
        }
        Ok(all)
    }
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
