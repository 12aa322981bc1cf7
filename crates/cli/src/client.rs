//! The interactive client: sends its input to the servers, prints their replies.
//!
//! Blocking calls in threads: one reads the input, and two per connection receive and send. The
//! calling thread only waits for their ends. Memory is bounded: a connection has at most
//! `QUEUED` blocks to send, and received bytes are printed before the next receive.
//!
//! **One server** receives the bytes unchanged. **Several servers** receive lines: see `lines.rs`.
//!
//! **Ends.** The end of the input becomes a half-close; further replies are printed. A server that
//! closes its side may go on receiving: the rest of a file or of `--parts` is sent, and of a
//! terminal or a pipe what comes without a pause of `IDLE_END`. Then the connection ends, and the
//! writer sees a broken pipe. Input that the server no longer takes is an error.

mod lines;

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use lines::{Labelled, Router, To};

use crate::commands::output::print_error;
use crate::commands::stderr::note;
use crate::commands::stream::{Stream, await_ready};
use proactor::address::Address;
use proactor::os::ShutdownSignal;

/// The failures of the client itself.
const NO_INPUT: &str = "cannot read standard input";

/// Maximum bytes of one read, from the input or from a server.
const READ_MAX: usize = 64 << 10;
/// Maximum blocks that wait to be sent on a connection.
const QUEUED: usize = 4;
/// How long a terminal or a pipe may pause after the server has closed its side.
const IDLE_END: Duration = Duration::from_millis(500);
/// The timeout of a connect: over TCP, the kernel gives up just before.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(150);

/// The bytes to send.
pub(crate) enum Script {
    /// Everything read from this file, until its end.
    Input(File),
    /// Each part goes to every server, followed by a pause.
    Parts(Vec<Vec<u8>>, Duration),
}

/// What a thread sends to the calling thread: whether a connection that has ended, or was not
/// established, failed; or `None` for the signal to stop. An error is that of the client itself.
type Notice = anyhow::Result<Option<bool>>;

/// What a connection sends: bytes, or `None` for its half-close.
type Block = Option<Arc<[u8]>>;

/// Connects to all servers at once, and runs until every connection is closed or `stop` is set.
/// Connects and closes are reported on stderr if `verbose`. Returns false if a connection failed:
/// the failure is reported on stderr, and ends no other connection.
///
/// # Errors
/// The client itself fails.
pub(crate) fn run(
    addresses: &[Address],
    script: Script,
    output: Stream<io::Stdout>,
    stop: ShutdownSignal,
    verbose: bool,
) -> anyhow::Result<bool> {
    let (notices, received) = channel::<Notice>();
    let several = addresses.len() > 1;
    let labels = (1..=addresses.len()).filter(|_| several).map(Labelled::new).collect();
    let shows = io::stdout().is_terminal().then_some(0);
    let output = Arc::new(Mutex::new(ClientOutput { stream: output, labels, shows }));
    let to = notices.clone();
    spawn(move || {
        let stopped = await_ready(&stop, libc::POLLIN, None).map(|_| None);
        to.send(stopped.context("cannot wait for signals"))
    })?;
    let sends_all = match &script {
        // A regular file has no writer that could notice the end of a server.
        Script::Input(file) => file.metadata().context(NO_INPUT)?.is_file(),
        Script::Parts(..) => true,
    };
    // It ends when every connection has dropped its end.
    let (connecting, all_resolved) = channel();
    let mut queues = Vec::new();
    for (at, address) in addresses.iter().cloned().enumerate() {
        let (queue, blocks) = sync_channel(QUEUED);
        queues.push(queue.clone());
        let (connecting, notices, output) = (connecting.clone(), notices.clone(), output.clone());
        let connection = ServerConnection { at, address, sends_all, verbose, queue, output };
        spawn(move || notices.send(connection.run(blocks, connecting).map(Some)))?;
    }
    drop(connecting);
    spawn(move || {
        let queued = queue_script(script, &queues, &output, &all_resolved);
        queued.map_err(|error| notices.send(Err(error)))
    })?;

    let mut succeeded = true;
    for _ in addresses {
        match received.recv().expect("the thread that waits for the signal has not ended")? {
            Some(failed) => succeeded &= !failed,
            None => break,
        }
    }
    Ok(succeeded)
}

/// Starts a thread, or says what forbids it.
fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot start a thread: {error} (see `ulimit -u`)"))
    };
    thread::Builder::new().spawn(run).map_err(failed)
}

/// Queues the whole script for the connections, and the half-closes. `all_resolved` ends when no
/// connection is connecting.
fn queue_script(
    script: Script,
    queues: &[SyncSender<Block>],
    output: &Mutex<ClientOutput>,
    all_resolved: &Receiver<()>,
) -> anyhow::Result<()> {
    match script {
        Script::Input(file) => {
            let (mut router, mut buffer) = (Router::new(queues.len() > 1), vec![0; READ_MAX]);
            let mut length = READ_MAX;
            // This process ends before the input does if no connection takes it any more.
            while length > 0 {
                let read = || (&file).read(&mut buffer);
                length = retry(&file, libc::POLLIN, read).context(NO_INPUT)?;
                let routed = router.route(&buffer[..length]);
                routed.into_iter().for_each(|(to, bytes)| queue(queues, to, &bytes));
            }
        }
        Script::Parts(parts, pause) => {
            let _ = all_resolved.recv();
            for part in parts {
                queue(queues, To::All, &part);
                // Nothing is waited for: the pause is what the user asked for.
                thread::sleep(pause);
                // The bytes received in the pause are the reply, even without a newline.
                (0..queues.len()).try_for_each(|at| lock(output).finish(at))?;
            }
        }
    }
    queues.iter().for_each(|queue| drop(queue.send(None)));
    Ok(())
}

/// Queues bytes for their servers. Waits while a queue is full.
fn queue(queues: &[SyncSender<Block>], to: To, bytes: &[u8]) {
    let block: Arc<[u8]> = bytes.into();
    let send = |queue: &SyncSender<Block>| queue.send(Some(block.clone())).is_ok();
    match to {
        To::All => queues.iter().map(send).for_each(|_sent| {}),
        To::One(at) if queues.get(at).is_some_and(send) => {}
        To::One(at) => note!("no server @{}: line not sent", at.wrapping_add(1)),
    }
}

/// A connection to a server, before it is established.
struct ServerConnection {
    at: usize,
    address: Address,
    /// Whether everything queued is sent even after the server has closed its side.
    sends_all: bool,
    verbose: bool,
    /// Wakes the sender when the server has closed its side.
    queue: SyncSender<Block>,
    output: Arc<Mutex<ClientOutput>>,
}

impl ServerConnection {
    /// Connects, sends and receives until the end, and reports it. Returns true if that failed. The
    /// error is that of the output.
    fn run(self, blocks: Receiver<Block>, connecting: Sender<()>) -> anyhow::Result<bool> {
        let (number, address) = (self.at + 1, &self.address);
        let ends = proactor_load::connect(address, CONNECT_TIMEOUT)
            .and_then(|end| Ok([end.try_clone()?, end]));
        let ends = match ends {
            Ok(ends) => ends,
            Err(error) => {
                print_error(&format!("cannot connect to {address}: {error}"));
                return Ok(true);
            }
        };
        if self.verbose {
            note!("connected to {address} ({number})");
        }
        drop(connecting);
        let ended = self.exchange(ends, blocks)?;
        match &ended {
            Err(error) => print_error(&format!("the connection to {address} broke: {error}")),
            Ok(()) if self.verbose => note!("{address} ({number}) closed the connection"),
            Ok(()) => {}
        }
        Ok(ended.is_err())
    }

    /// Sends and receives until the end. The outer error is that of the output.
    fn exchange(
        &self,
        ends: [TcpStream; 2],
        blocks: Receiver<Block>,
    ) -> io::Result<io::Result<()>> {
        let ([receiver, sender], sends_all) = (ends, self.sends_all);
        let received_all = Arc::new(AtomicBool::new(false));
        let is_idle_end = Arc::clone(&received_all);
        let send = move || send(sender, &blocks, &is_idle_end);
        let sender = match spawn(send) {
            Err(error) => return Ok(Err(error)),
            Ok(sender) => sender,
        };
        let mut buffer = vec![0; READ_MAX];
        let received = loop {
            match retry(&receiver, libc::POLLIN, || (&receiver).read(&mut buffer)) {
                Ok(0) => break Ok(()),
                Ok(length) => lock(&self.output).print(self.at, &buffer[..length])?,
                Err(error) => break Err(error),
            }
        };
        if received.is_ok() && !sends_all {
            received_all.store(true, Ordering::Release);
            let _ = self.queue.send(Some(Arc::default()));
        }
        // The error of the sender is known only if it has ended.
        let ended = received.and_then(|()| sender.join().expect("the sender does not panic"));
        lock(&self.output).finish(self.at)?;
        Ok(ended)
    }
}

/// Sends what is queued, then shuts the sending side down. Once `received_all` is set, which an
/// empty block follows, a pause is the end.
fn send(
    mut socket: TcpStream,
    blocks: &Receiver<Block>,
    received_all: &AtomicBool,
) -> io::Result<()> {
    let next = || match received_all.load(Ordering::Acquire) {
        true => blocks.recv_timeout(IDLE_END).ok().flatten(),
        false => blocks.recv().ok().flatten(),
    };
    while let Some(bytes) = next() {
        socket.write_all(&bytes).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => {
                let text = "the server has closed it, and takes no more of the input";
                io::Error::new(error.kind(), text)
            }
            _ => error,
        })?;
    }
    // It fails after a reset, which the receiver reports.
    let _ = socket.shutdown(Shutdown::Write);
    Ok(())
}

/// The output, shared by all connections. Locked during a write, so that lines stay whole.
struct ClientOutput {
    stream: Stream<io::Stdout>,
    /// Adds the number of the server to its lines; empty with one server.
    labels: Vec<Labelled>,
    /// The last byte on a terminal, where control characters are shown as `\x1b`; `None` if the
    /// output is no terminal, and gets every byte unchanged.
    shows: Option<u8>,
}

fn lock(output: &Mutex<ClientOutput>) -> MutexGuard<'_, ClientOutput> {
    output.lock().expect("no thread panics")
}

impl ClientOutput {
    /// Prints received bytes: the lines that they complete, if there are several servers.
    fn print(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        match self.labels.get_mut(at).map(|labelled| labelled.push(bytes)) {
            Some(lines) => self.write(&lines),
            None => self.write(bytes),
        }
    }

    /// Prints the last line of a server, which has no end.
    fn finish(&mut self, at: usize) -> io::Result<()> {
        let last = self.labels.get_mut(at).map(Labelled::finish);
        last.map_or(Ok(()), |line| self.write(&line))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(last) = &mut self.shows else { return self.stream.write_all(bytes) };
        let mut text = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (std::mem::replace(last, byte), byte) {
                (_, b'\r') => {} // Of a line's end, or back to its begin.
                (_, b'\t' | b'\n') => text.push(byte),
                // UTF-8 has the control characters from U+0080 in two bytes.
                (_, 0..b' ' | 0x7f) | (0xc2, 0x80..=0x9f) => {
                    text.extend(format!("\\x{byte:02x}").bytes());
                }
                _ => text.push(byte),
            }
        }
        self.stream.write_all(&text)
    }
}

/// Makes a call until it does something. It waits: another process may have made the file
/// non-blocking.
fn retry<T>(fd: &impl AsFd, events: i16, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                await_ready(fd, events, None)?;
            }
            result => return result,
        }
    }
}
