//! What a loaded machine meets once in a long while: entries that are refused, full queues, errors
//! of enter.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::tests::{fail_enter, queue_refused};
use super::*;
use crate::buffer::SendQueue;
use crate::ring::{Completion, Recv, RecvMode, Sent};
use crate::skip;

/// A ring for this many connections, without what is in `missing`; `None` where there is none.
fn ring_for(connections: usize, missing: &[Capability]) -> Option<Uring> {
    let kernel = match Kernel::detect() {
        Ok(kernel) => kernel.without(Capability::Direct),
        Err(refusal) => {
            skip::skip(&refusal.to_string());
            return None;
        }
    };
    let kernel = missing.iter().fold(kernel, |kernel, &one| kernel.without(one));
    let buffers = vec![BufferClass { bytes: 64, count: connections.next_power_of_two() }];
    let config =
        Config { kernel, connections, buffers, addresses: false, polling: Polling::default() };
    Some(Uring::with_completions(config, 64).unwrap())
}

/// A connection of a ring and its peer.
struct PeerPair {
    conn: ConnId,
    ours: UnixStream,
    theirs: UnixStream,
}

impl PeerPair {
    fn new(slot: u32) -> PeerPair {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        PeerPair { conn: ConnId::new(slot, 0), ours, theirs }
    }

    fn socket(&self) -> Socket {
        Socket(self.ours.as_raw_fd() as u32)
    }

    fn send(&self, ring: &mut Uring, skip_success: bool) {
        let mut queue = SendQueue::default();
        queue.push(Chunk::from("x"));
        let (conn, socket) = (self.conn, self.socket());
        ring.push(Op::Send { conn, socket, queue: &mut queue, skip_success });
    }

    fn recv(&self, ring: &mut Uring) {
        let (conn, socket) = (self.conn, self.socket());
        ring.submit(Op::Recv { conn, socket, size: Size(0), mode: RecvMode::Many }).unwrap();
    }
}

/// How many bytes a send completed with; `None` if it failed.
fn sent(completion: Completion) -> Option<(ConnId, Option<usize>)> {
    match completion {
        Completion::Send { conn, outcome: Sent::Bytes(bytes) } => Some((conn, Some(bytes))),
        Completion::Send { conn, .. } => Some((conn, None)),
        _ => None,
    }
}

#[test]
fn an_entry_that_is_refused_does_not_stop_those_behind_it() {
    let Some(mut ring) = ring_for(2, &[]) else { return };
    if !ring.has(Capability::SubmitAll) {
        return skip::skip("no SUBMIT_ALL before Linux 5.18");
    }
    let pairs = [0, 1].map(PeerPair::new);
    pairs[0].send(&mut ring, false);
    queue_refused(&mut ring);
    pairs[1].send(&mut ring, false);
    let Entered { submitted, .. } = ring.enter(Wait::Completion).unwrap();
    assert_eq!(submitted, 3);
    let completed: Vec<_> = std::iter::from_fn(|| ring.next()).filter_map(sent).collect();
    assert_eq!(completed, pairs.map(|pair| (pair.conn, Some(1))));
}

#[test]
fn an_entry_that_ends_its_batch_leaves_the_rest_for_the_next_enter() {
    let Some(mut ring) = ring_for(1, &[Capability::SubmitAll]) else { return };
    let pair = PeerPair::new(0);
    queue_refused(&mut ring);
    let skips = ring.has(Capability::CqeSkip);
    pair.send(&mut ring, skips);
    assert_eq!(ring.enter(Wait::Completion).unwrap().submitted, 1);
    assert_eq!(ring.next().and_then(sent), None);
    assert_eq!(ring.next_implied(), None, "the kernel has not taken the send");
    assert_eq!(ring.enter(Wait::No).unwrap().submitted, 1);
    let result =
        ring.next().and_then(sent).or(ring.next_implied().map(|(conn, n)| (conn, Some(n))));
    assert_eq!(result, Some((pair.conn, Some(1))));
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn what_an_enter_that_fails_for_now_was_given_is_submitted_by_the_next() {
    for errno in [libc::EBUSY, libc::EAGAIN, libc::EINTR] {
        // In a thread of its own, which takes its filter with it.
        let run = move || {
            let Some(mut ring) = ring_for(4, &[]) else { return };
            let pairs = [0, 1, 2, 3].map(PeerPair::new);
            fail_enter(3, errno);
            pairs[..3].iter().for_each(|pair| pair.send(&mut ring, false));
            assert_eq!(ring.enter(Wait::Completion).unwrap().submitted, 0);
            assert!(ring.next().is_none());
            pairs[3].send(&mut ring, false);
            assert_eq!(ring.enter(Wait::Completion).unwrap().submitted, 4);
            let completed: Vec<_> = std::iter::from_fn(|| ring.next()).filter_map(sent).collect();
            assert_eq!(completed, pairs.map(|pair| (pair.conn, Some(1))));
        };
        std::thread::spawn(run).join().unwrap();
    }
}

#[test]
fn the_failure_of_a_send_that_skips_its_success_may_wait_outside_the_queue() {
    const MANY: u32 = 600;
    let Some(mut ring) = ring_for(MANY as usize + 1, &[]) else { return };
    if !ring.has(Capability::CqeSkip) {
        return skip::skip("every send posts its completion");
    }
    os::raise_descriptor_limit();
    let pairs: Vec<PeerPair> = (0..MANY).map(PeerPair::new).collect();
    for pair in &pairs {
        while ring.is_full() {
            ring.enter(Wait::No).unwrap();
        }
        pair.send(&mut ring, false);
    }
    ring.enter(Wait::No).unwrap();
    let PeerPair { conn, ours, theirs } = PeerPair::new(MANY);
    drop(theirs);
    let failing = PeerPair { conn, ours, theirs: UnixStream::pair().unwrap().0 };
    failing.send(&mut ring, true);
    assert!(ring.enter(Wait::No).unwrap().overflow, "{} entries", ring.completions());
    let mut completed = Vec::new();
    while completed.len() <= MANY as usize {
        completed.extend(std::iter::from_fn(|| ring.next()).filter_map(sent));
        assert_eq!(ring.next_implied(), None, "the send has failed");
        ring.enter(Wait::No).unwrap();
    }
    assert_eq!(completed.last(), Some(&(conn, None)));
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn a_thousand_completions_that_are_ready_are_all_seen_without_a_wait() {
    let many = (os::raise_descriptor_limit() as u32).saturating_sub(200).min(2000) / 2;
    let Some(mut ring) = ring_for(many as usize, &[]) else { return };
    let mut pairs: Vec<PeerPair> = (0..many).map(PeerPair::new).collect();
    pairs.iter().for_each(|pair| pair.recv(&mut ring));
    ring.enter(Wait::No).unwrap();
    assert!(ring.next().is_none());
    pairs.iter_mut().for_each(|pair| pair.theirs.write_all(b"hello").unwrap());
    let mut seen = BTreeSet::new();
    // The kernel may make a few of them at a time.
    for _ in 0..=many {
        ring.enter(Wait::No).unwrap();
        while let Some(completion) = ring.next() {
            let Completion::Recv { conn, outcome: Recv::Data(_), .. } = completion else {
                panic!("{completion:?}");
            };
            seen.insert(conn.slot());
        }
    }
    assert_eq!(seen.len(), many as usize);
}

#[test]
fn a_ring_that_is_dropped_has_nothing_in_flight() {
    let one_shot = [Capability::BufferRing, Capability::MultishotRecv];
    for missing in [&[][..], &one_shot].repeat(20) {
        let Some(mut ring) = ring_for(1, missing) else { return };
        let PeerPair { conn, ours, mut theirs } = PeerPair::new(0);
        let socket = Socket(ours.as_raw_fd() as u32);
        ring.push(Op::Recv { conn, socket, size: Size(0), mode: RecvMode::Many });
        ring.enter(Wait::No).unwrap();
        let pool = Rc::clone(ring.pool());
        drop((ring, ours));
        // An operation in flight would keep the socket open, and its buffer.
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        assert!(missing.is_empty() || pool.is_whole());
    }
}
