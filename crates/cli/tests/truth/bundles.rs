//! Bundles: one completion for many buffers (`IORING_RECVSEND_BUNDLE`, 6.10).
//!
//! Our server asks for none. So this is a ring of the test's own, with one ring of small buffers
//! for all of its sockets, recorded by the crate's recorder and held to the same oracle. And what a
//! bundle means is held too: its result is spread over buffers in the order in which they were
//! lent, of which it names the first; so every byte of every stream must be in its place.
//!
//! One more socket is sent to in bundles: the content of the buffers of a completion must be what
//! its peer received.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use io_uring::types::{self, BufRingEntry};
use io_uring::{IoUring, opcode, squeue};
use proactor::keys::ConnId;
use proactor::os;
use proactor::ring::{Cqe, Kind, Token};
use proactor_trace::kernel::{Instance, Tracepoint};
use proactor_trace::{About, Clock, Log, Record, Recorder, Settings, Trace, WaitMode};

use crate::oracle::Evidence;
use crate::workload::{of_ring, tails};

/// Sockets, and entries of the submission queue: each has one operation to submit at a time.
pub(crate) const CROWD: usize = 16;
/// Bytes of a buffer, and how many there are: a power of two.
const SIZE: usize = 64;
const BUFFERS: usize = 64;
/// Completions at the least: no bundle is more than all buffers.
pub(crate) const LEAST: usize = 10_000;
/// What each peer says.
const SAID: usize = LEAST.div_ceil(CROWD) * SIZE * BUFFERS;
/// What is said in bundles, at the least, and the group of its buffers.
const SPOKEN: usize = 1000 * SIZE * BUFFERS;
const SPEECH: u16 = 1;

/// What came of it.
pub(crate) struct Bundled {
    pub(crate) evidence: Evidence,
    /// Completions of several buffers.
    pub(crate) several: usize,
    /// Those of them that were sends.
    pub(crate) sent: usize,
}

/// Whether this kernel has bundles.
pub(crate) fn are_known() -> bool {
    let ring = IoUring::new(2);
    ring.is_ok_and(|ring| ring.params().is_feature_recvsend_bundle())
}

/// Receives what all peers say and speaks to one more, then cancels all receives at once.
/// `completions` are what the queue holds.
pub(crate) fn play(points: &[Tracepoint], completions: u32) -> Bundled {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let meet = |_| {
        let peer = TcpStream::connect(address).expect("it listens");
        (peer, listener.accept().expect("a connection is pending").0)
    };
    let (mut peers, sockets): (Vec<_>, Vec<_>) = (0..CROWD).map(meet).unzip();
    let (mut hearer, speaker) = meet(CROWD);
    thread::scope(|scope| {
        // It has the speaker, so that the hearer ends with it however it ends.
        let sockets = &sockets;
        let listening =
            scope.spawn(move || Table::new(points, completions, sockets, speaker).serve());
        let hearing = scope.spawn(move || {
            let mut heard = Vec::new();
            hearer.read_to_end(&mut heard).map(|_| heard)
        });
        for (at, peers) in peers.chunks_mut(CROWD / 4).enumerate() {
            scope.spawn(move || speak(peers, at * CROWD / 4));
        }
        let (bundled, spoken) = listening.join().expect("it does not panic");
        let heard = hearing.join().expect("it does not panic").expect("no reset");
        assert!(heard.len() >= SPOKEN && heard == spoken, "{} of {}", heard.len(), spoken.len());
        bundled
    })
}

/// Peers that speak in turn, in pieces of many lengths.
fn speak(peers: &mut [TcpStream], first: usize) {
    let (mut at, mut len) = (0, 1);
    while at < SAID {
        let end = SAID.min(at + len);
        for (n, peer) in peers.iter_mut().enumerate() {
            let piece: Vec<u8> = (at..end).map(|at| byte(first + n, at)).collect();
            peer.write_all(&piece).expect("it is read");
        }
        (at, len) = (end, len * 7 % 1999 + 1);
    }
}

/// The byte of a stream at that place: words are numbered.
fn byte(stream: usize, at: usize) -> u8 {
    (at as u64 / 8 + stream as u64 * 0x0100_0001).to_le_bytes()[at % 8]
}

/// Buffers in one ring. Never freed: the kernel may write to them for as long as there is a
/// receive.
struct Lent {
    entries: *mut BufRingEntry,
    memory: &'static [UnsafeCell<[u8; SIZE]>],
    tail: u16,
    /// In the order of the ring.
    out: VecDeque<u16>,
}

#[repr(align(4096))]
struct Page([u8; 4096]);

impl Lent {
    fn register(ring: &IoUring, group: u16) -> Lent {
        let page = Box::leak(Box::new(Page([0; 4096])));
        let entries = page.0.as_mut_ptr().cast::<BufRingEntry>();
        assert!(BUFFERS * size_of::<BufRingEntry>() <= 4096);
        // SAFETY: the page has space for so many entries, and is never freed.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS as u16, group, 0)
        }
        .expect("a kernel with bundles has rings of buffers");
        let memory = (0..BUFFERS).map(|_| UnsafeCell::new([0; SIZE])).collect::<Vec<_>>();
        Lent { entries, memory: memory.leak(), tail: 0, out: VecDeque::new() }
    }

    /// Puts bytes into a buffer that is not lent.
    fn fill(&mut self, id: u16, bytes: [u8; SIZE]) {
        assert!(!self.out.contains(&id), "the kernel may be reading it");
        // SAFETY: the buffer is not lent to the kernel, so this is the only reference to it.
        unsafe { *self.memory[usize::from(id)].get() = bytes };
    }

    /// Lends these, in this order.
    fn lend(&mut self, buffers: impl Iterator<Item = u16>) {
        for id in buffers {
            let at = usize::from(self.tail) % BUFFERS;
            // SAFETY: `at` is within the page. The kernel reads entries between its head and the
            // published tail only, and never are more buffers lent than there are entries.
            let entry = unsafe { &mut *self.entries.add(at) };
            entry.set_addr(self.memory[usize::from(id)].get() as u64);
            entry.set_len(SIZE as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            self.out.push_back(id);
        }
        // SAFETY: the tail is two bytes, aligned, within the page; the kernel only reads it.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// The buffers of a completion, each with its bytes: the oldest that are lent.
    fn take(&mut self, cqe: Cqe, mut each: impl FnMut(u16, [u8; SIZE], usize)) -> usize {
        assert!(cqe.flags & Cqe::BUFFER != 0, "bytes have a buffer: {cqe:?}");
        assert_eq!(self.out.front(), Some(&((cqe.flags >> 16) as u16)), "in the ring's order");
        let mut left = cqe.res as usize;
        let count = left.div_ceil(SIZE);
        for _ in 0..count {
            let id = self.out.pop_front().expect("no more is taken than was lent");
            // SAFETY: the kernel has given it back by this completion, and writes to it no more.
            let bytes = unsafe { *self.memory[usize::from(id)].get() };
            each(id, bytes, left.min(SIZE));
            left -= left.min(SIZE);
        }
        count
    }
}

/// A ring, recorded as a loop's is.
struct Table<'a> {
    ring: IoUring,
    lent: Lent,
    log: Recorder,
    instance: Instance,
    sockets: &'a [TcpStream],
    /// Submissions queued and taken, completions reaped.
    counts: (u64, u64, u64),
    /// Whether a receive is in flight, and how much was heard, of each socket.
    armed: [bool; CROWD],
    heard: [usize; CROWD],
    /// The operations in flight.
    flying: usize,
    several: usize,
    speech: Speech,
}

/// What is said in bundles.
struct Speech {
    socket: TcpStream,
    lent: Lent,
    /// Buffers that are not lent.
    idle: Vec<u16>,
    /// Whether a send is in flight.
    flying: bool,
    /// Bytes that were put into buffers.
    written: usize,
    /// The buffers of completions so far.
    spoken: Vec<u8>,
    several: usize,
}

impl Speech {
    /// Lends all its buffers anew, full.
    fn lend(&mut self) {
        for &id in &self.idle {
            let at = self.written;
            self.lent.fill(id, std::array::from_fn(|n| byte(CROWD, at + n)));
            self.written += SIZE;
        }
        self.lent.lend(self.idle.drain(..));
        self.flying = true;
    }

    fn completed(&mut self, cqe: Cqe) {
        self.flying = cqe.more();
        // Having said all, it may find no more.
        if cqe.res == -libc::ENOBUFS {
            return;
        }
        assert!(cqe.res > 0, "{cqe:?}");
        let (spoken, idle) = (&mut self.spoken, &mut self.idle);
        let count = self.lent.take(cqe, |id, bytes, len| {
            spoken.extend_from_slice(&bytes[..len]);
            idle.push(id);
        });
        self.several += usize::from(count > 1);
    }
}

impl<'a> Table<'a> {
    fn new(
        points: &[Tracepoint],
        completions: u32,
        sockets: &'a [TcpStream],
        speaker: TcpStream,
    ) -> Table<'a> {
        let clock = Clock::best();
        let instance = Instance::new(points, clock, 192 << 20).expect("tracing was tried before");
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(completions)
            .build(CROWD as u32)
            .expect("a kernel with bundles has these");
        let settings = Settings { bytes: 64 << 20, clock: Some(clock), ..Settings::default() };
        let log = Recorder::new(None, &settings, &About::default()).expect("memory");
        let mut lent = Lent::register(&ring, 0);
        lent.lend((0..BUFFERS as u16).rev());
        let speech = Speech {
            socket: speaker,
            lent: Lent::register(&ring, SPEECH),
            idle: (0..BUFFERS as u16).collect(),
            flying: false,
            written: 0,
            spoken: Vec::new(),
            several: 0,
        };
        Table {
            lent,
            ring,
            log,
            instance,
            sockets,
            counts: (0, 0, 0),
            armed: [false; CROWD],
            heard: [0; CROWD],
            flying: 0,
            several: 0,
            speech,
        }
    }

    /// Answers, beside what came of it, what was said.
    fn serve(mut self) -> (Bundled, Vec<u8>) {
        while self.heard != [SAID; CROWD] || self.speech.spoken.len() < SPOKEN {
            self.arm();
            self.speak();
            self.enter(1);
            self.reap();
        }
        // All receives are in flight, and end at once.
        self.arm();
        self.enter(0);
        for at in 0..CROWD {
            let target = Token::of(Kind::Recv, conn(at));
            let cancel = opcode::AsyncCancel::new(target.0).build();
            self.push(cancel, Token::of(Kind::CancelRecv, conn(at)), opcode::AsyncCancel::CODE);
        }
        while self.flying > 0 {
            self.enter(1);
            self.reap();
        }
        let events = self.instance.finish().expect("the buffers are readable");
        let trace = Trace::from_bytes(self.log.bytes()).expect("a trace");
        let fd = self.ring.as_raw_fd();
        let evidence = Evidence {
            lost: trace.lost(),
            records: trace.records,
            tails: tails(fd),
            kernel: Some(of_ring(events, fd)),
            kernel_lost: self.instance.lost().expect("the kernel counts"),
            deferred: true,
            ordered: true,
        };
        self.speech.socket.shutdown(Shutdown::Write).expect("it is connected");
        let (several, sent) = (self.several + self.speech.several, self.speech.several);
        (Bundled { evidence, several, sent }, self.speech.spoken)
    }

    /// A bundle for the one that listens, if none is under way.
    fn speak(&mut self) {
        if self.speech.flying || self.speech.spoken.len() >= SPOKEN {
            return;
        }
        if self.ring.submission().is_full() {
            self.enter(0);
        }
        self.speech.lend();
        let socket = types::Fd(self.speech.socket.as_raw_fd());
        let send = opcode::SendBundle::new(socket, SPEECH).build();
        self.push(send, Token::of(Kind::Send, conn(CROWD)), opcode::SendBundle::CODE);
    }

    /// A receive for each socket that has none.
    fn arm(&mut self) {
        for at in 0..CROWD {
            if !std::mem::replace(&mut self.armed[at], true) {
                let socket = types::Fd(self.sockets[at].as_raw_fd());
                let recv = opcode::RecvMultiBundle::new(socket, 0).build();
                self.push(recv, Token::of(Kind::Recv, conn(at)), opcode::RecvMultiBundle::CODE);
            }
        }
    }

    fn push(&mut self, entry: squeue::Entry, token: Token, op: u8) {
        let entry = entry.user_data(token.0);
        // SAFETY: what is received goes into buffers that are never freed; else no memory is
        // involved, and the sockets are open until all has ended.
        unsafe { self.ring.submission().push(&entry) }.expect("there is an entry for each socket");
        let record = Record::submitted(token.0, op, 0, 0, 0);
        self.log.note(|| os::now().0, record);
        self.counts.0 += 1;
        self.flying += 1;
    }

    fn enter(&mut self, least: usize) {
        let (queued, taken, reaped) = self.counts;
        let begin = Record::enter_begin(queued, (queued - taken) as u32, WaitMode::None);
        self.log.begin_iteration(|| os::now().0, begin);
        let submitted = self.ring.submit_and_wait(least).expect("the ring serves");
        self.counts.1 += submitted as u64;
        let overflow = self.ring.submission().cq_overflow();
        let end = Record::enter_end(submitted as i32, reaped, 0, overflow);
        self.log.end_iteration(|| os::now().0, end);
    }

    /// Takes in what has completed. Buffers are lent again only then, the last first: so their ids
    /// are in no order, and now and then there is none.
    fn reap(&mut self) {
        let mut taken = Vec::new();
        loop {
            let Some(cqe) = self.ring.completion().next() else { break };
            let (token, res, flags) = (Token(cqe.user_data()), cqe.result(), cqe.flags());
            let record = Record::completed(token.0, res, flags, 0);
            self.log.note(|| os::now().0, record);
            self.counts.2 += 1;
            self.completed(Cqe { token, res, flags }, &mut taken);
        }
        self.lent.lend(taken.into_iter().rev());
    }

    fn completed(&mut self, cqe: Cqe, taken: &mut Vec<u16>) {
        self.flying -= usize::from(!cqe.more());
        match cqe.token.kind() {
            Some(Kind::Recv) => {}
            Some(Kind::Send) => return self.speech.completed(cqe),
            _ => return,
        }
        let at = cqe.token.conn().slot() as usize;
        self.armed[at] = cqe.more();
        if cqe.res < 0 {
            let errno = cqe.res.wrapping_neg();
            assert!([libc::ENOBUFS, libc::ECANCELED].contains(&errno), "{cqe:?}");
            return;
        }
        let heard = &mut self.heard[at];
        let count = self.lent.take(cqe, |id, bytes, len| {
            let right = (*heard..*heard + len).map(|place| byte(at, place));
            assert!(bytes[..len].iter().copied().eq(right), "stream {at} at {heard}: {cqe:?}");
            *heard += len;
            taken.push(id);
        });
        self.several += usize::from(count > 1);
    }
}

fn conn(at: usize) -> ConnId {
    ConnId::new(at as u32, 0)
}
