//! What it costs to wake a ring's loop from another thread, in four ways, on both sides.
//!
//! The receiver has a ring with deferred task work on one CPU, the sender runs on another one.
//!
//! * *idle*: the receiver sleeps in its enter. The latency is from before the sender's call to the
//!   return of that enter; the receiver's cost is its CPU time for each wake-up, the way to sleep
//!   and back included.
//! * *busy*: the receiver does not sleep: it makes a few enters with a no-op each, and every second
//!   time one of them finds a wake-up that was sent before. The receiver's cost is the difference
//!   of the medians, with what arms the operation anew.
//!
//! ```sh
//! cargo bench -p proactor --bench wake
//! ```
#![allow(unsafe_code)]

use std::hint::spin_loop;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::thread;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use proactor::os;

/// Wake-ups of a round, and rounds.
const WAKES: u64 = 4000;
const ROUNDS: usize = 7;
/// Spins between two wake-ups: long enough for an idle receiver to be asleep.
const PAUSE: u32 = 20_000;

/// A wake-up is found in the first or the second of so many enters, and armed anew in the next.
const ENTERS: usize = 3;

const WAKE: u64 = 1;
const NOP: u64 = 2;

/// `FUTEX2_SIZE_U32`, `FUTEX2_PRIVATE` and a mask of all bits: futex2 flags of the uapi header.
const FUTEX2: u32 = 2 | 128;
const FUTEX_ANY: u64 = u32::MAX as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    EventFd,
    MsgRing,
    MsgRingOfThread,
    Futex,
}

impl Way {
    const ALL: [Way; 4] = [Way::EventFd, Way::MsgRing, Way::MsgRingOfThread, Way::Futex];

    fn name(self) -> &'static str {
        match self {
            Way::EventFd => "write to an eventfd that the ring reads",
            Way::MsgRing => "MSG_RING from a ring of the sender",
            Way::MsgRingOfThread => "MSG_RING from a plain thread (6.13)",
            Way::Futex => "FUTEX_WAKE of a futex operation (6.7)",
        }
    }
}

/// What both threads share.
struct Shared {
    eventfd: OwnedFd,
    futex: AtomicU32,
    ring: AtomicI32,
    /// Nanoseconds before the sender's call.
    sent_at: AtomicU64,
    /// Wake-ups that were asked for, sent and received.
    asked: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    failed: AtomicBool,
}

impl Shared {
    fn wait_for(&self, counter: &AtomicU64, value: u64) -> bool {
        while counter.load(Ordering::Acquire) < value {
            if self.failed.load(Ordering::Relaxed) {
                return false;
            }
            spin_loop();
        }
        true
    }
}

/// The costs of one round in nanoseconds: medians, but for the CPU time of the idle receiver, which
/// is a mean.
#[derive(Debug, Default)]
struct Costs {
    latency: u64,
    latency_p99: u64,
    sender: u64,
    receiver: u64,
}

struct Receiver<'a> {
    way: Way,
    shared: &'a Shared,
    ring: IoUring,
    /// Where the eventfd is read to.
    count: Box<u64>,
}

impl<'a> Receiver<'a> {
    fn new(way: Way, shared: &'a Shared) -> io::Result<Receiver<'a>> {
        let mut builder = IoUring::builder();
        let ring = builder.setup_single_issuer().setup_defer_taskrun().build(64)?;
        let mut receiver = Receiver { way, shared, ring, count: Box::new(0) };
        receiver.arm();
        receiver.ring.submit()?;
        shared.ring.store(receiver.ring.as_raw_fd(), Ordering::Release);
        Ok(receiver)
    }

    fn push(&mut self, entry: Entry, token: u64) {
        // SAFETY: the pointers of the two operations that have any are to the futex, which outlasts
        // both threads, and to `count`, which is boxed and dropped after the ring.
        unsafe { self.ring.submission().push(&entry.user_data(token)) }.expect("two fit");
    }

    /// Queues what completes at the next wake-up, where a wake-up is not a completion by itself.
    fn arm(&mut self) {
        match self.way {
            Way::EventFd => {
                let fd = Fd(self.shared.eventfd.as_raw_fd());
                let to = (&raw mut *self.count).cast();
                self.push(opcode::Read::new(fd, to, 8).build(), WAKE);
            }
            Way::Futex => {
                let value = self.shared.futex.load(Ordering::Acquire);
                let word = self.shared.futex.as_ptr().cast_const();
                let wait = opcode::FutexWait::new(word, value.into(), FUTEX_ANY, FUTEX2);
                self.push(wait.build(), WAKE);
            }
            Way::MsgRing | Way::MsgRingOfThread => {}
        }
    }

    /// Enters and waits for a completion. Returns true if a wake-up was among those that came.
    fn enter(&mut self) -> io::Result<bool> {
        self.ring.submit_and_wait(1)?;
        let mut woken = false;
        for cqe in self.ring.completion() {
            let failed = cqe.result() < 0 && cqe.result() != -libc::EAGAIN;
            if failed {
                return Err(io::Error::from_raw_os_error(-cqe.result()));
            }
            woken |= cqe.user_data() == WAKE;
        }
        if woken {
            self.arm();
        }
        Ok(woken)
    }

    fn idle(&mut self) -> io::Result<Costs> {
        let mut latencies = Vec::new();
        let before = cpu_time();
        for number in 1..=WAKES {
            self.shared.asked.store(number, Ordering::Release);
            while !self.enter()? {}
            latencies.push(os::now().0 - self.shared.sent_at.load(Ordering::Acquire));
            self.shared.received.store(number, Ordering::Release);
        }
        let receiver = (cpu_time() - before) / WAKES;
        latencies.sort_unstable();
        let at = |share: u64| latencies[(WAKES * share / 100) as usize];
        Ok(Costs { latency: at(50), latency_p99: at(99), sender: 0, receiver })
    }

    fn busy(&mut self) -> io::Result<Costs> {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for number in 1..=WAKES {
            for wakes in [false, true] {
                if wakes {
                    self.shared.asked.store(number, Ordering::Release);
                    self.shared.wait_for(&self.shared.sent, number);
                }
                let begun = os::now().0;
                let mut woken = false;
                for _ in 0..ENTERS {
                    self.push(opcode::Nop::new().build(), NOP);
                    woken |= self.enter()?;
                }
                let taken = os::now().0 - begun;
                if woken != wakes {
                    return Err(io::Error::other("a wake-up took more enters than were timed"));
                }
                if wakes { with.push(taken) } else { without.push(taken) }
            }
            self.shared.received.store(number, Ordering::Release);
        }
        Ok(Costs { receiver: median(with).saturating_sub(median(without)), ..Costs::default() })
    }
}

/// Wakes the receiver as often as it asks for it. Returns the median time of a call.
fn send(way: Way, shared: &Shared, pause: u32) -> io::Result<u64> {
    while shared.ring.load(Ordering::Acquire) < 0 {
        if shared.failed.load(Ordering::Relaxed) {
            return Ok(0);
        }
        spin_loop();
    }
    let target = shared.ring.load(Ordering::Acquire);
    let mut own = IoUring::new(8)?;
    let mut calls = Vec::new();
    for number in 1..=WAKES {
        if !shared.wait_for(&shared.asked, number) {
            break;
        }
        (0..pause).for_each(|_| spin_loop());
        let begun = os::now().0;
        shared.sent_at.store(begun, Ordering::Release);
        wake(way, shared, target, &mut own)?;
        calls.push(os::now().0 - begun);
        shared.sent.store(number, Ordering::Release);
        shared.wait_for(&shared.received, number);
    }
    Ok(median(calls))
}

fn wake(way: Way, shared: &Shared, target: RawFd, own: &mut IoUring) -> io::Result<()> {
    let message = || opcode::MsgRingData::new(Fd(target), 0, WAKE, None).build();
    match way {
        Way::EventFd => {
            let (fd, one) = (shared.eventfd.as_raw_fd(), 1u64);
            // SAFETY: write(2) reads eight bytes, which live through the call.
            unsafe { libc::write(fd, (&raw const one).cast(), 8) };
        }
        Way::MsgRing => {
            let entry = message().flags(Flags::SKIP_SUCCESS);
            // SAFETY: the operation has no pointer.
            unsafe { own.submission().push(&entry) }.expect("it is empty");
            own.submit()?;
        }
        Way::MsgRingOfThread => {
            const SEND_MSG_RING: libc::c_uint = 31;
            let entry = message();
            // SAFETY: io_uring_register(2) reads one entry, which stays through the call.
            let answer = unsafe {
                let call = libc::SYS_io_uring_register;
                libc::syscall(call, -1, SEND_MSG_RING, &raw const entry, 1)
            };
            if answer < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Way::Futex => {
            shared.futex.fetch_add(1, Ordering::AcqRel);
            let how = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: futex(2) with FUTEX_WAKE takes the address and does not write to it.
            unsafe { libc::syscall(libc::SYS_futex, shared.futex.as_ptr(), how, 1) };
        }
    }
    Ok(())
}

/// Returns an eventfd that blocks: a ring does not wait for one that does not.
fn event() -> io::Result<OwnedFd> {
    // SAFETY: eventfd(2) takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    // SAFETY: the kernel has just given us this descriptor.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

fn cpu_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time`, which is there until it returns.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// Measures one way in one round: with an idle receiver, or with a busy one.
fn round(way: Way, busy: bool, [receivers, senders]: [usize; 2]) -> io::Result<Costs> {
    let shared = Shared {
        eventfd: event()?,
        futex: AtomicU32::new(0),
        ring: AtomicI32::new(-1),
        sent_at: AtomicU64::new(0),
        asked: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    };
    let noted = |result: io::Result<Costs>| {
        shared.failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    };
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            os::pin_to_cpu(receivers)?;
            let receiver = Receiver::new(way, &shared);
            noted(receiver.and_then(|mut it| if busy { it.busy() } else { it.idle() }))
        });
        let sender = scope.spawn(|| {
            os::pin_to_cpu(senders)?;
            let sender = send(way, &shared, if busy { 0 } else { PAUSE });
            noted(sender.map(|sender| Costs { sender, ..Costs::default() }))
        });
        let sender = sender.join().expect("no panic");
        let receiver = receiver.join().expect("no panic")?;
        Ok(Costs { sender: sender?.sender, ..receiver })
    })
}

/// Returns the median of a cost over the rounds, and its range.
fn said(rounds: &[Costs], of: fn(&Costs) -> u64) -> String {
    let all: Vec<u64> = rounds.iter().map(of).collect();
    let us = |nanos: u64| nanos as f64 / 1000.0;
    let (least, most) = (all.iter().min().copied(), all.iter().max().copied());
    let (least, most) = (us(least.unwrap_or(0)), us(most.unwrap_or(0)));
    format!("{:.2} [{least:.2}..{most:.2}]", us(median(all)))
}

fn main() {
    let &[receivers, senders, ..] = &*os::usable_cpus() else {
        return println!("skipped: a sender and a receiver need two CPUs");
    };
    println!("µs: medians of {ROUNDS} rounds of {WAKES} wake-ups, and the range of the rounds");
    for busy in [false, true] {
        println!("{}", if busy { "busy receiver" } else { "idle receiver" });
        let mut all: [Vec<Costs>; 4] = Default::default();
        for at in 0..ROUNDS * Way::ALL.len() {
            // Each round begins with another way.
            let which = (at + at / Way::ALL.len()) % Way::ALL.len();
            match round(Way::ALL[which], busy, [receivers, senders]) {
                Ok(costs) => all[which].push(costs),
                Err(error) if at < Way::ALL.len() => {
                    println!("  {}: not possible here: {error}", Way::ALL[which].name());
                }
                Err(_) => {}
            }
        }
        for (way, rounds) in Way::ALL.iter().zip(&all).filter(|(_, rounds)| !rounds.is_empty()) {
            let (sender, receiver) = (said(rounds, |it| it.sender), said(rounds, |it| it.receiver));
            print!("  {:41} sender {sender}  receiver {receiver}", way.name());
            let (p50, p99) = (said(rounds, |it| it.latency), said(rounds, |it| it.latency_p99));
            println!(
                "{}",
                if busy { String::new() } else { format!("  latency {p50}, p99 {p99}") }
            );
        }
    }
}
