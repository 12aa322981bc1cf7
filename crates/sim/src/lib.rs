//! A simulated kernel with clients: the seed decides the interleaving.
//!
//! [`Sim`] implements [`Ring`], so the loop, the connections and the decoder run as in production,
//! on raw [`Cqe`]s with real flags, buffer ids and errnos. Operations in flight are in a bag.
//! [`enter`](Ring::enter) repeatedly picks an operation or a [`Client`] that can make progress,
//! runs it, and injects [`Faults`]. There are no sockets and no clock: time is a number. When
//! nothing can make progress, time jumps to the next timer.
//!
//! The simulator checks rules that a kernel does not check, and panics with its state:
//!
//! * one operation of a kind is in flight per connection, cancels included;
//! * a cancel has a target in flight, and each target has at most one cancel;
//! * a socket is closed once, when nothing else of its connection is in flight, and not used after;
//! * every filled buffer is claimed once, and every lent one comes back;
//! * the loop neither spins (enters for nothing) nor sleeps with work to do, or when nothing can
//!   ever wake it.
//!
//! Closed sockets are reused at once, before the loop has reaped the close, so that code that
//! confuses two connections fails.
#![allow(unsafe_code)] // One call: a buffer comes back from the kernel, here from `Sim`.

mod client;
mod faults;
mod work;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::{self, Display};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

pub use client::{Client, ClientId, Reads, Reset};
pub use faults::{Dice, Fault, FaultCounts, Faults};

use proactor::buffer::{BufferId, Chunk, Lease, Pool, Size};
use proactor::clock::Nanos;
use proactor::keys::{ConnId, ListenerId};
use proactor::os::Clock;
use proactor::ring::VECTOR;
use proactor::ring::{
    AcceptId, CancelTarget, Cqe, Entered, Kind, Op, Pushed, RecvMode, Ring, Socket, Sqe, Token,
    Wait,
};

/// Which kernel is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Multishot accepts and receives; the kernel picks from buffers that it was lent, a group of
    /// them for each size.
    Multishot,
    /// One answer per operation; each receive holds a leased buffer of its own.
    OneShot,
    /// One answer per operation; the kernel picks from buffers that it was lent.
    OneShotLent,
}

/// What a [`Sim`] is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The seed, which decides everything else.
    pub seed: u64,
    /// The kernel to simulate.
    pub tier: Tier,
    /// How many sockets there can be at a time.
    pub sockets: usize,
    /// How many operations the submission queue holds.
    pub entries: usize,
    /// How many bytes a socket buffer of the server holds; there is one for each direction.
    pub socket_buffer: usize,
    /// By how many bytes a client's kernel opens its window, when all that it had is read.
    pub window: usize,
    /// Whether it is known what the peers have not acknowledged: as with TCP.
    pub outq: bool,
    /// The faults to inject.
    pub faults: Faults,
}

/// After so many enters in a row for nothing, the loop spins.
const IDLE_ENTERS: u32 = 100;
/// The most that happens at one go.
const STEPS: usize = 24;

/// A simulated kernel and the clients beyond it.
pub struct Sim {
    setup: Setup,
    dice: Dice,
    fault_counts: FaultCounts,
    pool: Rc<Pool>,
    now: Nanos,
    /// The clock that shows `now`.
    clock: Clock,
    clients: Vec<Client>,
    /// Connected, not accepted, by listener.
    backlogs: Vec<VecDeque<ClientId>>,
    /// The listeners that do not listen any more.
    shut_down: HashSet<u16>,
    sockets: Vec<Option<Open>>,
    /// Closed last on top.
    unused: Vec<u32>,
    /// By socket, the close of its last owner.
    closes: Vec<Option<Token>>,
    /// The operations that are queued and not submitted.
    queue: VecDeque<Doing>,
    /// True once the queue was said to be full, until the next enter.
    full: bool,
    /// The operations that are submitted and not completed.
    bag: Vec<Doing>,
    completions: VecDeque<Cqe>,
    /// The completions that did not fit into `completions`.
    overflow: VecDeque<Cqe>,
    /// The buffers that are filled and not claimed.
    filled: Vec<(Cqe, Lease)>,
    /// By size, in the order in which they were lent.
    lent: Vec<VecDeque<BufferId>>,
    /// In flight as the loop must see it: from being pushed until the last answer is reaped.
    live: HashSet<Token>,
    /// True while the descriptor of [`Op::Wake`] is readable.
    readable: bool,
    /// What the descriptor of [`Op::Read`] still has.
    input: VecDeque<u8>,
    /// True once that has ended behind it.
    input_ended: bool,
    idle_enters: u32,
    /// True from a sleep that nothing could end until anything happens.
    idle: bool,
    queue_most: usize,
    /// The chunks that sends in flight have taken from their queues.
    taken: HashMap<ConnId, Chunk>,
    /// Implied successes that the loop has not asked for yet.
    implied: VecDeque<(Token, usize)>,
    /// True until the next enter, if the result of a send with `skip_success` is not known.
    unconfirmed_sends: bool,
}

/// A socket of the server.
#[derive(Debug)]
struct Open {
    client: ClientId,
    /// Known from its first operation on.
    owner: Option<ConnId>,
    /// True from pushing the close.
    closing: bool,
}

/// An operation in flight.
#[derive(Debug)]
struct Doing {
    token: Token,
    work: Work,
    cancelled: Cancelled,
    /// The earliest time of its completion.
    at: Nanos,
}

#[derive(Debug)]
enum Work {
    Accept(ListenerId),
    /// The lease is the receive's own: none if the kernel picks.
    Recv {
        socket: Socket,
        size: Size,
        lease: Option<Lease>,
        mode: RecvMode,
    },
    Send {
        socket: Socket,
        chunks: VecDeque<Chunk>,
        skip_success: bool,
        /// True once it waits for space.
        waits: bool,
    },
    Shutdown(Socket),
    Close(Socket),
    Cancel(CancelTarget),
    Read(Lease),
    Wake,
    Outq(Socket),
    /// Done when it was submitted, with this result.
    Done(i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancelled {
    No,
    Yes,
    /// It is to end, but may have something to report.
    TooLate,
}

impl Sim {
    /// A kernel without clients.
    pub fn new(setup: Setup, pool: Rc<Pool>) -> Sim {
        Sim {
            dice: Dice::new(setup.seed),
            fault_counts: FaultCounts::default(),
            clock: Clock::simulated(),
            now: Nanos(0),
            clients: Vec::new(),
            backlogs: Vec::new(),
            shut_down: HashSet::new(),
            sockets: (0..setup.sockets).map(|_| None).collect(),
            unused: (0..setup.sockets as u32).rev().collect(),
            closes: vec![None; setup.sockets],
            queue: VecDeque::new(),
            full: false,
            bag: Vec::new(),
            completions: VecDeque::new(),
            overflow: VecDeque::new(),
            filled: Vec::new(),
            lent: (0..pool.sizes()).map(|_| VecDeque::new()).collect(),
            live: HashSet::new(),
            readable: false,
            input: VecDeque::new(),
            input_ended: false,
            idle_enters: 0,
            idle: false,
            queue_most: 0,
            taken: HashMap::new(),
            implied: VecDeque::new(),
            unconfirmed_sends: false,
            setup,
            pool,
        }
    }

    /// A client connects: it stands in the listener's backlog.
    pub fn connect(&mut self, listener: ListenerId, reads: Reads) -> ClientId {
        self.idle = false;
        let id = ClientId(self.clients.len());
        self.clients.push(Client::new(reads, self.setup.socket_buffer, self.setup.window));
        let at = listener.0 as usize;
        self.backlogs.resize_with(self.backlogs.len().max(at + 1), VecDeque::new);
        self.backlogs[at].push_back(id);
        id
    }

    /// Returns a client, to inspect it.
    pub fn client(&self, id: ClientId) -> &Client {
        &self.clients[id.0]
    }

    /// Returns a client, to control it.
    pub fn client_mut(&mut self, id: ClientId) -> &mut Client {
        self.idle = false;
        &mut self.clients[id.0]
    }

    /// Makes the descriptor of [`Op::Wake`] readable. A test that asks a server to stop must call
    /// this, because the simulated kernel does not read real descriptors.
    pub fn wake(&mut self) {
        self.readable = true;
        self.idle = false;
    }

    /// Puts bytes where [`Op::Read`] reads.
    pub fn type_in(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
        self.idle = false;
    }

    /// Has that end behind them.
    pub fn end_input(&mut self) {
        self.input_ended = true;
        self.idle = false;
    }

    /// How many bytes of it have not been read.
    pub fn unread_input(&self) -> usize {
        self.input.len()
    }

    /// Has other things go wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.setup.faults = faults;
    }

    /// What went wrong, and how often.
    pub fn fault_counts(&self) -> &FaultCounts {
        &self.fault_counts
    }

    /// Returns whether nothing can happen until the test acts on a client.
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// Has the clients read what has arrived, though the server has ended.
    pub fn finish_clients(&mut self) {
        let mut now = self.now;
        loop {
            for client in &mut self.clients {
                while client.can_step(now) {
                    client.step(now, &mut self.dice);
                }
            }
            let Some(next) = self.clients.iter().filter_map(Client::steps_at).min() else { return };
            now = now.max(next);
        }
    }

    /// Shuts a listener down from outside: every accept fails from now on.
    pub fn shut_down(&mut self, listener: ListenerId) {
        self.shut_down.insert(listener.0);
        self.idle = false;
    }

    /// How many clients have not been accepted.
    pub fn waiting(&self) -> usize {
        self.backlogs.iter().map(VecDeque::len).sum()
    }

    /// How many of the server's sockets are open.
    pub fn open_sockets(&self) -> usize {
        self.sockets.iter().flatten().count()
    }

    /// The longest send queue in bytes that was ever sent from.
    pub fn queue_most(&self) -> usize {
        self.queue_most
    }

    /// Ends all that is in flight without an answer and gives back what it was lent, as closing a
    /// ring does. Dropping it does so too.
    pub fn close(&mut self) {
        self.queue.clear();
        self.bag.clear();
        self.filled.clear();
        for id in self.lent.iter_mut().flat_map(|group| group.drain(..)) {
            drop(reclaim(&self.pool, id));
        }
    }

    // What the loop asks.

    fn doing(&mut self, op: Op<'_>) -> Doing {
        let bogus = match op {
            Op::Recv { socket, .. } | Op::Send { socket, .. } | Op::Shutdown { socket, .. } => {
                self.is_bogus(socket)
            }
            Op::Close { socket, .. } | Op::Outq { socket, .. } => self.is_bogus(socket),
            _ => false,
        };
        let (token, work) = match op {
            Op::Accept { accept, .. } => {
                let at = accept.listener.0 as usize;
                self.backlogs.resize_with(self.backlogs.len().max(at + 1), VecDeque::new);
                (Token::of_accept(Kind::Accept, accept), Work::Accept(accept.listener))
            }
            Op::Recv { conn, socket, size, mode } => {
                self.check_owner(conn, socket);
                let own = self.setup.tier == Tier::OneShot;
                let lease = if own { self.pool.lease(size) } else { None };
                self.check(lease.is_some() == own, "a receive without a buffer to receive into");
                (Token::of(Kind::Recv, conn), Work::Recv { socket, size, lease, mode })
            }
            Op::Send { conn, socket, queue, skip_success } => {
                self.check_owner(conn, socket);
                self.check(!queue.is_empty(), "a send has something to send");
                self.queue_most = self.queue_most.max(queue.bytes());
                let skip_success =
                    skip_success && self.setup.tier == Tier::Multishot && queue.chunks() <= VECTOR;
                let only = queue.take_only();
                self.taken.extend(only.clone().map(|chunk| (conn, chunk)));
                let chunks = match only {
                    Some(chunk) => [chunk].into(),
                    None => queue.iter().take(VECTOR).cloned().collect(),
                };
                (
                    Token::of(Kind::Send, conn),
                    Work::Send { socket, chunks, skip_success, waits: false },
                )
            }
            Op::Shutdown { conn, socket } => {
                self.check_owner(conn, socket);
                (Token::of(Kind::Shutdown, conn), Work::Shutdown(socket))
            }
            Op::Close { conn, socket } => {
                self.check_owner(conn, socket);
                let rest = self.live.iter().find(|token| is_of(**token, conn));
                self.check(rest.is_none(), format_args!("closed with {rest:?} in flight"));
                if !bogus {
                    self.open(socket).closing = true;
                }
                (Token::of(Kind::Close, conn), Work::Close(socket))
            }
            Op::Cancel { target } => {
                let token = cancel_token(target);
                let aims = self.live.contains(&Token::from(target));
                self.check(aims, format_args!("{token:?} aims at nothing"));
                (token, Work::Cancel(target))
            }
            Op::Read { lease, .. } => (Token::at(Kind::Read, 0), Work::Read(lease)),
            Op::Outq { conn, socket } => {
                self.check_owner(conn, socket);
                (Token::of(Kind::Outq, conn), Work::Outq(socket))
            }
            Op::Wake { source, .. } => (Token::of_wake(source), Work::Wake),
        };
        let work = if bogus { Work::Done(-libc::ENOTSOCK) } else { work };
        Doing { token, work, cancelled: Cancelled::No, at: Nanos(0) }
    }

    /// Whether an accept brought it that brought no socket.
    fn is_bogus(&self, socket: Socket) -> bool {
        socket.0 as usize >= self.sockets.len()
    }

    fn check_owner(&mut self, conn: ConnId, socket: Socket) {
        if self.is_bogus(socket) {
            return;
        }
        let open = self.sockets.get_mut(socket.0 as usize).and_then(Option::as_mut);
        let owner = open.map(|open| (*open.owner.get_or_insert(conn), open.closing));
        let holds = owner == Some((conn, false));
        self.check(holds, format_args!("{conn} uses {socket:?}, which is not its own: {owner:?}"));
    }

    fn open(&mut self, socket: Socket) -> &mut Open {
        self.sockets[socket.0 as usize].as_mut().expect("checked when it was pushed")
    }

    fn far(&mut self, socket: Socket) -> &mut Client {
        let ClientId(at) = self.open(socket).client;
        &mut self.clients[at]
    }

    // Within.

    /// Whether each accept completes once and brings an address: in every other run.
    fn accepts_once(&self) -> bool {
        self.setup.seed % 2 == 1
    }

    /// Rolls for a fault, and counts it.
    fn befalls(&mut self, fault: Fault) -> bool {
        let falls = self.dice.chance(self.setup.faults.rate(fault));
        if falls {
            self.fault_counts.count(fault);
        }
        falls
    }

    #[track_caller]
    fn check(&self, holds: bool, law: impl Display) {
        assert!(holds, "seed {}: {law}\n{self:?}", self.setup.seed);
    }
}

impl Ring for Sim {
    fn is_full(&self) -> bool {
        self.full || self.queue.len() >= self.setup.entries
    }

    fn out_of_buffers(&self, _: Size) -> bool {
        self.setup.tier == Tier::OneShot && self.pool.unfilled_in_all() == 0
    }

    fn push(&mut self, op: Op<'_>) -> Pushed {
        self.check(!self.is_full(), "pushed into a full queue");
        self.check(!self.idle, "the loop slept without a timeout, with work to do");
        let doing = self.doing(op);
        let sqe = sqe(&doing);
        let new = self.live.insert(doing.token);
        self.check(new, format_args!("two of {:?} in flight", doing.token));
        self.queue.push_back(doing);
        self.full = self.befalls(Fault::QueueFull);
        Pushed { preceding: None, op: sqe }
    }

    fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        let wait = if self.unconfirmed_sends { Wait::No } else { wait };
        self.now = self.now + Duration::from_nanos(self.dice.between(1, 20_000) as u64);
        self.clock.set(self.now);
        self.completions.append(&mut self.overflow);
        self.readable |= self.befalls(Fault::SpuriousWake);
        self.full = false;
        let lent = self.lend();
        self.play_some(); // What happened since it was last entered.
        let (submitted, all) = self.take();
        self.play_some();
        let interrupted = wait != Wait::No && self.befalls(Fault::EnterInterrupted);
        let slept = all && !interrupted && self.sleep(wait);
        let overflow = !self.overflow.is_empty();

        let idle = submitted == 0 && self.completions.is_empty() && !overflow;
        self.idle_enters = if idle && !slept && !interrupted { self.idle_enters + 1 } else { 0 };
        self.check(self.idle_enters < IDLE_ENTERS, "the loop spins");
        Ok(Entered { submitted, lent, overflow, own: None })
    }

    fn reap(&mut self) -> Option<Cqe> {
        let cqe = self.completions.pop_front()?;
        if !stays(cqe) {
            let lived = self.live.remove(&cqe.token);
            self.check(lived, format_args!("{cqe:?} answers nothing"));
        }
        Some(cqe)
    }

    fn next_implied(&mut self) -> Option<(ConnId, usize)> {
        self.check(self.completions.is_empty(), "silence is asked about when all is reaped");
        let queued = |doing: &Doing| matches!(doing.work, Work::Send { skip_success: true, .. });
        if !self.overflow.is_empty() || self.implied.is_empty() {
            // A failure may be among those that wait outside the queue.
            self.unconfirmed_sends = !self.implied.is_empty() || self.queue.iter().any(queued);
            return None;
        }
        let (token, len) = self.implied.pop_front()?;
        let lived = self.live.remove(&token);
        self.check(lived, format_args!("{token:?} has been answered"));
        self.taken.remove(&token.conn());
        Some((token.conn(), len))
    }

    fn take_buffer(&mut self, cqe: Cqe) -> Option<Lease> {
        let at = self.filled.iter().position(|(filled, _)| *filled == cqe);
        self.check(at.is_some() == (cqe.res > 0), format_args!("{cqe:?} is claimed once"));
        at.map(|at| self.filled.swap_remove(at).1)
    }

    fn take_back(&mut self, conn: ConnId) -> Option<Chunk> {
        self.taken.remove(&conn)
    }

    fn has_outq(&self) -> bool {
        true
    }

    fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    fn accepts(&self) -> u16 {
        // As many as find a free slot: without one, the connection is lost.
        if self.accepts_once() && self.unused.len() > 4 { 4 } else { 1 }
    }

    fn waiting(&self, listener: ListenerId, _: BorrowedFd<'_>) -> usize {
        self.backlogs.get(listener.index()).map_or(0, VecDeque::len)
    }

    fn peer_address(&self, accept: AcceptId, socket: Socket) -> Option<SocketAddr> {
        let in_flight = self.live.contains(&Token::of_accept(Kind::Accept, accept));
        self.check(!self.accepts_once() || !in_flight, "an address is read after its accept");
        let open = self.sockets.get(socket.0 as usize)?.as_ref()?;
        self.accepts_once().then(|| address_of(open.client))
    }

    fn now(&self) -> Nanos {
        self.now
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sim { setup, fault_counts, now, pool, backlogs, queue, .. } = self;
        writeln!(f, "{setup:?}\nwent wrong: {fault_counts:?}\n{now:?}, {pool:?}")?;
        writeln!(f, "backlogs: {backlogs:?}\nqueued: {queue:?}")?;
        self.bag.iter().try_for_each(|doing| writeln!(f, "in flight: {doing:?}"))?;
        let answers = self.completions.iter().chain(&self.overflow);
        answers.into_iter().try_for_each(|cqe| writeln!(f, "answered: {cqe:?}"))?;
        let clients = self.clients.iter().enumerate();
        clients.into_iter().try_for_each(|(at, client)| writeln!(f, "client {at}: {client:?}"))
    }
}

/// Returns whether an operation stays in flight after this completion. This is not [`Cqe::more`],
/// so that a mistake there is noticed.
fn stays(cqe: Cqe) -> bool {
    cqe.flags & 2 != 0
}

/// Takes a buffer back from the kernel that this file plays.
fn reclaim(pool: &Rc<Pool>, id: BufferId) -> Lease {
    // SAFETY: no kernel has this buffer: `Sim` was lent it, writes only through the lease that it
    // gets here, and only before that lease is claimed.
    let lease = unsafe { pool.reclaim(id) };
    lease.expect("a lent buffer comes back once")
}

fn sqe(doing: &Doing) -> Sqe {
    // IORING_OP_*, IOSQE_BUFFER_SELECT for a receive without a buffer of its own, and
    // IOSQE_CQE_SKIP_SUCCESS.
    const BUFFER_SELECT: u8 = 1 << 5;
    let (opcode, flags, fd, len) = match &doing.work {
        Work::Accept(listener) => (13, 0, i32::from(listener.0), 0),
        Work::Recv { socket, lease: Some(lease), .. } => {
            (27, 0, socket.0 as i32, lease.bytes().len())
        }
        Work::Recv { socket, lease: None, .. } => (27, BUFFER_SELECT, socket.0 as i32, 0),
        Work::Send { socket, chunks, skip_success, .. } => (
            9,
            u8::from(*skip_success) << 6,
            socket.0 as i32,
            chunks.iter().map(|chunk| chunk.len()).sum(),
        ),
        Work::Shutdown(socket) => (34, 0, socket.0 as i32, 0),
        Work::Close(socket) => (19, 0, socket.0 as i32, 0),
        Work::Cancel(_) | Work::Done(_) => (14, 0, -1, 0),
        Work::Read(lease) => (22, 0, -1, lease.bytes().len()),
        Work::Wake => (6, 0, -1, 0),
        Work::Outq(socket) => (46, 0, socket.0 as i32, 0),
    };
    Sqe { token: doing.token, opcode, flags, fd, len: len as u32 }
}

fn cancel_token(target: CancelTarget) -> Token {
    match target {
        CancelTarget::Accept(accept) => Token::of_accept(Kind::CancelAccept, accept),
        CancelTarget::Recv(conn) => Token::of(Kind::CancelRecv, conn),
        CancelTarget::Send(conn) => Token::of(Kind::CancelSend, conn),
    }
}

/// Returns the address that a client connects from.
pub fn address_of(client: ClientId) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1024 + client.0 as u16))
}

/// Whether `token` is that of an operation on this connection.
fn is_of(token: Token, conn: ConnId) -> bool {
    let at_large = [Kind::Accept, Kind::CancelAccept, Kind::Read, Kind::Wake, Kind::Internal];
    token.conn() == conn && token.kind().is_some_and(|kind| !at_large.contains(&kind))
}

#[cfg(test)]
mod tests;
