//! Groups, iterations, and which peers wait for others.

use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::buffer::{BufferClass, Pool, Size};
use crate::console::{Inspect, SocketInfo};
use crate::lifecycle::Lifecycle;
use crate::limits::{Limits, Timeouts};
use crate::mailbox::PostedRequest;
use crate::memory::SHARE_MAX as HIGH;
use crate::os::ShutdownSignal;
use crate::protocol::testing::Broadcast;
use crate::protocol::{Chat, Echo, Input, Outbox};

const GROUP: ListenerId = ListenerId(0);
const LOW: usize = HIGH / 4;
/// What may be queued for one connection, in memory that is not charged.
const MOST: usize = 48 << 20;

/// Returns so many bytes that nothing is charged for.
fn constant(len: usize) -> Chunk {
    static BYTES: [u8; MOST + 1] = [b'x'; MOST + 1];
    Chunk::from_static(&BYTES[..len])
}

/// Queues a chunk. Returns true if that breaks the connection.
fn deliver<P: Protocol>(peers: &mut Peers<P, ()>, id: ConnId, chunk: Chunk) -> bool {
    let Peers { slab, context, .. } = peers;
    slab.get_mut(id).unwrap().connection.deliver(chunk, &context.memory)
}

fn limits() -> Limits {
    Limits { queues: MOST / 3 * 4, ..Limits::default() }
}

impl<P: Protocol, D> Default for Peers<P, D> {
    fn default() -> Peers<P, D> {
        Peers::new(&limits(), Clock::default())
    }
}

/// Runs the timers; returns when the next one expires.
fn timers<P: Protocol>(peers: &mut Peers<P, ()>, clock: impl FnOnce() -> Nanos) -> Option<Nanos> {
    peers.run_timers(clock);
    peers.next_timer()
}

/// Looks at the connections that are watched, `seconds` long and four times in the time of an
/// eviction. The peer of none acknowledges anything, but of those in `acknowledge`.
fn look<P: Protocol>(
    peers: &mut Peers<P, ()>,
    seconds: std::ops::Range<u64>,
    acknowledge: &[ConnId],
) {
    let period = Timeouts::default().period();
    let (start, end) = (Nanos(seconds.start * 1_000_000_000), Nanos(seconds.end * 1_000_000_000));
    let looks = (0..).map(|n| start + period * n).take_while(|now| *now <= end);
    for now in looks {
        peers.run_timers(|| now);
        while let Some(id) = peers.next_asked() {
            let left = 1 << 40;
            let outq = left - if acknowledge.contains(&id) { now.0 as usize } else { 0 };
            peers.acknowledged(id, Some(outq));
        }
    }
}

/// A protocol, whose peer has no handle.
fn made<P>(protocol: P) -> Made<P> {
    (protocol, AcceptedPeer::default())
}

/// The protocol of a link.
fn link<P>(protocol: P) -> Made<P> {
    (protocol, AcceptedPeer::of_link())
}

/// Peers that broadcast, whose drivers have no state.
fn chat<const N: usize>() -> (Peers<Broadcast, ()>, [ConnId; N]) {
    let mut peers = Peers::default();
    let ids = [(); N].map(|()| peers.open(made(Broadcast), GROUP, ()));
    iterate(&mut peers);
    (peers, ids)
}

/// Runs one iteration, without a bound for heavy connections. Returns the marked connections, and
/// whether each would receive.
fn iterate(peers: &mut Peers<Broadcast, ()>) -> Vec<(ConnId, bool)> {
    peers.begin_iteration(true, false);
    peers.begin();
    std::iter::from_fn(|| peers.next_ready().map(|visit| (visit.id, visit.wants_recv()))).collect()
}

/// Runs so many iterations without a light connection that none is expected.
fn forget_light(peers: &mut Peers<Broadcast, ()>) {
    (0..100).for_each(|_| peers.begin_iteration(false, false));
}

fn open_chat(peers: &mut Peers<Chat, ()>, listener: ListenerId) -> ConnId {
    let number = peers.next_number();
    peers.open(made(Chat::new(number)), listener, ())
}

fn receive(peers: &mut Peers<Broadcast, ()>, id: ConnId, lines: usize) {
    let text: Vec<u8> = b"0123456\n".repeat(lines / 8);
    peers.received(id, Chunk::from(text));
}

fn pooled(pool: &Rc<Pool>) -> Chunk {
    Chunk::received(pool.lease(Size(0)).unwrap(), 1000)
}

fn owed(peers: &mut Peers<Broadcast, ()>, id: ConnId) -> usize {
    peers.get_mut(id).unwrap().connection.outgoing().bytes()
}

fn at(seconds: u64) -> impl FnOnce() -> Nanos {
    move || Nanos(seconds * 1_000_000_000)
}

#[test]
fn a_broadcast_is_queued_for_the_others_of_the_group() {
    let (mut peers, [a, b]) = chat();
    let elsewhere = peers.open(made(Broadcast), ListenerId(1), ());
    receive(&mut peers, a, 8);
    assert_eq!([a, b, elsewhere].map(|id| owed(&mut peers, id)), [0, 8, 0]);
}

/// Returns what is queued for a peer, which is then sent.
fn take_queued(peers: &mut Peers<Chat, ()>, id: ConnId) -> String {
    let queue = peers.get_mut(id).unwrap().connection.outgoing();
    let bytes: Vec<u8> = queue.iter().flat_map(|chunk| chunk.to_vec()).collect();
    peers.sent(id, bytes.len());
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_number_is_given_once_in_order_of_arrival() {
    let mut peers = Peers::default();
    let [first, second] = [(); 2].map(|()| open_chat(&mut peers, GROUP));
    open_chat(&mut peers, ListenerId(1));
    peers.remove(second);
    open_chat(&mut peers, GROUP);
    assert_eq!(take_queued(&mut peers, first), "* 2 joined\n* 2 left\n* 4 joined\n");
}

#[test]
fn a_leave_is_announced_once_however_it_happens() {
    type Way = fn(&mut Peers<Chat, ()>, ConnId);
    let ways: [Way; 4] = [
        |_, _| {},
        |peers, id| peers.ended(id),
        |peers, id| peers.broken(id, CloseReason::Failed(libc::ECONNRESET)),
        |peers, id| {
            assert!(deliver(peers, id, constant(MOST + 1)));
        },
    ];
    for way in ways {
        let mut peers = Peers::default();
        let [stays, leaves] = [(); 2].map(|()| open_chat(&mut peers, GROUP));
        way(&mut peers, leaves);
        peers.remove(leaves);
        assert_eq!(take_queued(&mut peers, stays), "* 2 joined\n* 2 left\n");
    }
}

#[test]
fn an_evicted_client_leaves_at_once_and_those_that_are_behind_are_not_sent_it() {
    let mut peers = Peers::default();
    let [talker, slow, slower] = [(); 3].map(|()| open_chat(&mut peers, GROUP));
    for id in [talker, slow, slower] {
        take_queued(&mut peers, id);
    }
    assert!(!deliver(&mut peers, slow, constant(MOST / 2)));
    assert!(!deliver(&mut peers, slower, constant(MOST - 1000)));
    peers.received(talker, Chunk::from(format!("{}\n", "a".repeat(2000)).into_bytes()));
    let found = (take_queued(&mut peers, talker), peers.counters.evicted);
    assert_eq!(found, ("* 3 left\n".into(), 1));
    assert_eq!(peers.remove(slower), Some(()));
    assert!(!take_queued(&mut peers, slow).contains("left"));
    peers.received(talker, Chunk::from("b\n"));
    assert_eq!(take_queued(&mut peers, slow), "* 1 other joined or left\n[1] b\n");
}

#[test]
fn a_client_that_reads_nothing_is_sent_no_more_announcements_than_it_takes() {
    let mut peers = Peers::default();
    let idler = open_chat(&mut peers, GROUP);
    for _ in 0..10_000 {
        let id = open_chat(&mut peers, GROUP);
        peers.remove(id);
    }
    let owed = peers.get_mut(idler).unwrap().connection.outgoing().bytes();
    assert!((4 << 10..5 << 10).contains(&owed), "{owed} B are queued");
    let text = take_queued(&mut peers, idler);
    assert!(text.starts_with("* 2 joined\n* 2 left\n"));
    let sent = text.lines().filter(|line| !line.contains("others")).count();
    let missed = format!("* {} others joined or left\n", 20_000 - sent);
    assert!(text.ends_with(&missed) || take_queued(&mut peers, idler) == missed);
}

#[test]
fn join_and_leave_messages_are_not_throttled() {
    let mut peers = Peers::default();
    let [idle, slow] = [(); 2].map(|()| open_chat(&mut peers, GROUP));
    deliver(&mut peers, slow, Chunk::from(vec![b'x'; HIGH]));
    peers.sent(slow, 1);
    peers.begin_iteration(false, false);
    peers.begin();
    while let Some(visit) = peers.next_ready() {
        assert!(visit.wants_recv() == (visit.id == idle));
    }
    assert_eq!(timers(&mut peers, at(10)), None);
}

#[test]
fn a_peer_is_resumed_once_however_much_happened_to_it() {
    let (mut peers, [a, b]) = chat();
    (0..3).for_each(|_| receive(&mut peers, a, 8));
    assert_eq!(iterate(&mut peers), [(a, true), (b, true)]);
    assert_eq!(iterate(&mut peers), []);
}

#[test]
fn a_mark_during_an_iteration_waits_for_the_next() {
    let (mut peers, [a, b]) = chat();
    peers.mark(a);
    peers.begin_iteration(false, false);
    peers.begin();
    assert_eq!(peers.next_ready().map(|visit| visit.id), Some(a));
    peers.mark(a);
    peers.mark(b);
    assert!(peers.next_ready().is_none() && peers.has_marked());
    assert_eq!(iterate(&mut peers).len(), 2);
}

#[test]
fn late_events_of_closed_connections_are_ignored() {
    let (mut peers, [a, b]) = chat();
    peers.mark(a);
    assert_eq!(peers.remove(a), Some(()));
    assert_eq!(peers.remove(a), None);
    receive(&mut peers, a, 8);
    peers.ended(a);
    peers.sent(a, 1);
    peers.broken(a, CloseReason::Failed(libc::ECONNRESET));
    peers.wait_for_buffer(a);
    peers.mark(a);
    assert_eq!(owed(&mut peers, b), 0);
    assert_eq!(iterate(&mut peers), []);
}

#[test]
fn a_sender_is_throttled_while_a_member_is_congested_and_woken_after() {
    let (mut peers, [talker, slow, idle]) = chat();
    receive(&mut peers, talker, HIGH);
    assert_eq!(iterate(&mut peers), [(talker, false), (slow, false), (idle, false)]);
    peers.sent(idle, HIGH);
    assert_eq!(iterate(&mut peers), [(idle, true)], "a client that sends nothing need not wait");
    peers.sent(slow, HIGH - LOW);
    let woken = iterate(&mut peers);
    assert!(woken.contains(&(talker, true)), "{woken:?}");
}

#[test]
fn a_congestion_that_leaves_wakes_the_talkers() {
    let (mut peers, [talker, slow]) = chat();
    receive(&mut peers, talker, HIGH);
    iterate(&mut peers);
    peers.remove(slow);
    assert_eq!(iterate(&mut peers), [(talker, true)]);
}

#[test]
fn a_link_is_read_however_much_is_queued_for_it_unless_others_are_congested() {
    let mut peers = Peers::default();
    let link = peers.open(link(Broadcast), GROUP, ());
    let other = peers.open(made(Broadcast), GROUP, ());
    receive(&mut peers, link, 8);
    receive(&mut peers, other, HIGH);
    assert_eq!(iterate(&mut peers), [(other, false), (link, true)], "the other waits for the link");
    receive(&mut peers, link, HIGH);
    assert_eq!(iterate(&mut peers), [(link, false), (other, false)], "and the link for the other");
    peers.sent(other, HIGH);
    let woken = iterate(&mut peers);
    assert!(woken.contains(&(link, true)), "the link waits for nothing now: {woken:?}");
    peers.sent(link, HIGH);
    assert!(iterate(&mut peers).contains(&(other, true)));
}

#[test]
fn a_link_is_never_closed_for_being_slow() {
    let mut peers = Peers::default();
    let link = peers.open(link(Broadcast), GROUP, ());
    let [talker, slow] = [(); 2].map(|()| peers.open(made(Broadcast), GROUP, ()));
    receive(&mut peers, talker, HIGH);
    [link, slow].into_iter().for_each(|id| peers.fell_short(id));
    look(&mut peers, 0..15, &[]);
    assert!(peers.get_mut(slow).unwrap().connection.is_broken());
    assert!(!peers.get_mut(link).unwrap().connection.is_broken());
    assert_eq!(peers.counters.evicted, 1);
    peers.finish(link);
    peers.shut_down(link);
    peers.run_timers(at(100));
    peers.run_timers(at(200));
    assert!(!peers.get_mut(link).unwrap().connection.is_broken(), "nor for lingering");
    peers.remove(link);
    assert_eq!(peers.groups.at(ListenerId(0)).links, 0);
}

#[test]
fn a_client_that_is_owed_all_that_is_free_is_evicted_at_once_and_the_talkers_are_woken() {
    let (mut peers, [a, b, slow]) = chat();
    receive(&mut peers, a, 8);
    receive(&mut peers, b, 8);
    let mut posted = 0;
    while owed(&mut peers, slow) > 0 {
        peers.take_posted(vec![PostedRequest::Broadcast(GROUP, vec![b'x'; 1 << 20])]);
        posted += 1;
        for id in [a, b] {
            let all = owed(&mut peers, id);
            peers.sent(id, all);
        }
    }
    assert!(peers.get_mut(slow).unwrap().connection.is_broken());
    assert_eq!((peers.counters.evicted, posted), (1, 24), "what it holds is not free any more");
    let ready = iterate(&mut peers);
    assert!(ready.contains(&(a, true)) && ready.contains(&(b, true)), "{ready:?}");
}

#[test]
fn a_talker_of_a_group_that_waits_is_given_no_input_that_arrives_late() {
    let (mut peers, [talker, other, slow]) = chat();
    receive(&mut peers, talker, HIGH);
    receive(&mut peers, other, 8);
    peers.sent(other, HIGH);
    let before = owed(&mut peers, slow);
    for _ in 0..100 {
        receive(&mut peers, talker, 4096);
    }
    assert_eq!(owed(&mut peers, slow), before, "a ring may receive some more");
    assert!(!iterate(&mut peers).contains(&(talker, true)));
    peers.sent(slow, before);
    iterate(&mut peers);
    assert_eq!(owed(&mut peers, slow), 100 * 4096);
}

#[test]
fn a_client_that_takes_nothing_while_others_wait_is_evicted_and_a_slow_one_is_not() {
    let (mut peers, [talker, stalled, slow]) = chat();
    receive(&mut peers, talker, HIGH);
    [stalled, slow].into_iter().for_each(|id| peers.fell_short(id));
    let second = 1_000_000_000;
    assert_eq!(timers(&mut peers, at(10)), Some(Nanos(12 * second + second / 2)));
    look(&mut peers, 10..22, &[slow]);
    assert!(!peers.get_mut(stalled).unwrap().connection.is_broken());
    look(&mut peers, 23..23, &[slow]);
    assert!(peers.get_mut(stalled).unwrap().connection.is_broken());
    look(&mut peers, 25..200, &[slow]);
    assert!(!peers.get_mut(slow).unwrap().connection.is_broken(), "its peer acknowledges");
    assert_eq!(peers.counters.evicted, 1);
}

#[test]
fn a_client_with_a_new_queue_is_not_stalled() {
    let (mut peers, [talker, stalled, quick]) = chat();
    receive(&mut peers, talker, HIGH);
    [stalled, quick].into_iter().for_each(|id| peers.fell_short(id));
    look(&mut peers, 10..20, &[]);
    peers.sent(quick, HIGH);
    receive(&mut peers, talker, 8); // Just queued, and by the next look not yet sent.
    look(&mut peers, 23..23, &[]);
    assert!(peers.get_mut(stalled).unwrap().connection.is_broken());
    assert!(!peers.get_mut(quick).unwrap().connection.is_broken());
}

#[test]
fn a_client_that_acknowledges_nothing_is_closed_later_while_no_other_waits() {
    let (mut peers, [talker, alone]) = chat();
    receive(&mut peers, talker, LOW);
    peers.fell_short(alone);
    look(&mut peers, 0..60, &[]);
    assert!(!peers.get_mut(alone).unwrap().connection.is_broken());
    look(&mut peers, 63..66, &[]);
    assert!(peers.get_mut(alone).unwrap().connection.is_broken());
    peers.remove(alone);
    assert_eq!((peers.counters.evicted, peers.counters.send_timeouts), (0, 1));
}

#[test]
fn a_pause_of_the_server_is_not_charged_to_its_clients() {
    let (mut peers, [talker, stalled]) = chat();
    receive(&mut peers, talker, HIGH);
    peers.fell_short(stalled);
    look(&mut peers, 0..5, &[]);
    look(&mut peers, 1000..1000, &[]); // It was stopped meanwhile, or the machine suspended.
    assert!(!peers.get_mut(stalled).unwrap().connection.is_broken());
}

#[test]
fn no_client_is_evicted_while_it_blocks_only_itself() {
    let pool = Pool::new(&[BufferClass { bytes: 1024, count: 1 }]).unwrap();
    let (mut peers, [idler, waiting]) = chat();
    deliver(&mut peers, idler, pooled(&pool));
    peers.fell_short(idler);
    peers.wait_for_buffer(idler);
    look(&mut peers, 0..50, &[]);
    assert!(!peers.get_mut(idler).unwrap().connection.is_broken());
    peers.wait_for_buffer(waiting);
    look(&mut peers, 53..53, &[]);
    assert!(peers.get_mut(idler).unwrap().connection.is_broken());
}

#[test]
fn no_client_is_evicted_while_no_other_waits() {
    let (mut peers, [talker, slow]) = chat();
    receive(&mut peers, talker, LOW);
    for second in 0..10 {
        assert_eq!(timers(&mut peers, at(second)), None);
    }
    assert!(!peers.get_mut(slow).unwrap().connection.is_broken());
}

#[test]
fn buffer_waiters_wake_in_order_and_only_as_many_as_there_are_buffers() {
    let (mut peers, [a, b, c]) = chat();
    [a, b, c].into_iter().for_each(|id| peers.wait_for_buffer(id));
    peers.wait_for_buffer(b); // counted once
    assert!(iterate(&mut peers).iter().all(|&(_, wants_recv)| !wants_recv));
    peers.wake_buffer_waiters(0);
    assert_eq!(iterate(&mut peers), []);
    peers.remove(a);
    peers.wake_buffer_waiters(1);
    assert_eq!(iterate(&mut peers), [(b, true)]);
    peers.wake_buffer_waiters(5);
    assert_eq!(iterate(&mut peers), [(c, true)]);
}

#[test]
fn a_group_is_drained_when_all_its_members_that_can_receive_have_taken_their_last_input() {
    let (mut peers, [quick, late, blocked]) = chat();
    let is_open =
        |peers: &mut Peers<Broadcast, ()>, id| peers.get_mut(id).unwrap().connection.is_open();
    peers.wait_for_buffer(blocked);
    peers.take_last_input();
    assert_eq!(iterate(&mut peers).len(), 3);
    peers.last_input_taken(quick);
    peers.finish_taken();
    assert!(is_open(&mut peers, quick), "a line may still come for it");
    receive(&mut peers, late, 8);
    assert_eq!(owed(&mut peers, quick), 8);
    peers.last_input_taken(late);
    assert!(peers.has_taken(), "one that cannot receive delays no other one");
    peers.finish_taken();
    assert!(![quick, late].map(|id| is_open(&mut peers, id)).contains(&true));
    peers.wake_buffer_waiters(1);
    assert!(peers.get_mut(blocked).unwrap().takes_last_input());
    peers.last_input_taken(blocked);
    peers.finish_taken();
    assert!(!is_open(&mut peers, blocked));
}

#[test]
fn light_connections_are_resumed_first_and_heavy_ones_one_after_another() {
    let (mut peers, ids) = chat::<40>();
    let pool =
        Pool::new(&[BufferClass { bytes: 64, count: 4 }, BufferClass { bytes: 128, count: 4 }]);
    let pool = pool.unwrap();
    peers.receive_into(&pool);
    let (mut light, heavy) = ids.split_at(20);
    for &id in heavy {
        for _ in 0..2 {
            let tight = Chunk::received(pool.lease(Size(0)).unwrap(), 64);
            peers.get_mut(id).unwrap().connection.received(tight, &mut Context::default());
        }
        assert!(peers.send_to(id, Chunk::from(vec![b'x'; 200 << 10])));
    }
    let mut waits = std::collections::VecDeque::from(heavy.to_vec());
    let mut budget = HEAVY_BYTES_WITH_LIGHT; // As each was resumed when it was light.
    while !waits.is_empty() {
        light.iter().for_each(|&id| peers.mark(id));
        assert!(peers.has_marked());
        let mut resumed = Vec::new();
        peers.begin_iteration(false, false);
        peers.begin();
        while let Some(mut visit) = peers.next_ready() {
            visit.sent(visit.peer.connection.outgoing().bytes());
            resumed.push(visit.id);
        }
        let behind = resumed.split_off(light.len());
        assert_eq!(resumed, *light, "in each iteration, and before the heavy ones");
        let moved = behind.len() * (200 << 10);
        behind.iter().for_each(|&id| assert_eq!(waits.pop_front(), Some(id), "in order"));
        let all = moved > budget || waits.is_empty();
        assert!(all && moved < budget + (200 << 10), "{moved} of {budget}");
        if waits.len() < 8 {
            forget_light(&mut peers);
            (light, budget) = (&[], HEAVY_BYTES);
        }
    }
    assert!(!peers.has_marked());
}

#[test]
fn heavy_connections_of_a_ring_are_charged_for_what_they_may_move() {
    const OWED: usize = 400 << 10;
    let (mut peers, ids) = chat::<20>();
    peers.move_later();
    ids.iter().for_each(|&id| assert!(peers.send_to(id, Chunk::from(vec![b'x'; OWED]))));
    forget_light(&mut peers);
    let mut waiting = ids.len();
    while waiting > 0 {
        peers.begin_iteration(false, false);
        peers.begin();
        let resumed = std::iter::from_fn(|| peers.next_ready().map(|visit| visit.id)).count();
        assert_eq!(resumed, waiting.min(HEAVY_BYTES.div_ceil(OWED)));
        waiting -= resumed;
    }
}

#[test]
fn a_connection_that_lingers_too_long_is_broken() {
    let (mut peers, [a]) = chat();
    assert_eq!(timers(&mut peers, || unreachable!("no reason to look at the clock")), None);
    peers.finish(a);
    peers.shut_down(a);
    assert_eq!(timers(&mut peers, at(1)), Some(Nanos(3_000_000_000)));
    assert!(!peers.get_mut(a).unwrap().connection.is_broken());
    assert_eq!(timers(&mut peers, at(3)), None);
    assert!(peers.get_mut(a).unwrap().connection.is_broken());
}

/// Sets its timer to as many seconds as it receives, 0 clears it; sends a byte when it expires.
struct Timed;

impl Protocol for Timed {
    fn data(&mut self, input: &mut crate::Input<'_>, out: &mut crate::Outbox<'_>) {
        match u64::from(input.take_all()[0]) {
            0 => out.clear_timer(),
            seconds => out.set_timer(Duration::from_secs(seconds)),
        }
    }

    fn timer(&mut self, out: &mut crate::Outbox<'_>) {
        out.send("!");
    }
}

fn timed<const N: usize>() -> (Peers<Timed, ()>, [ConnId; N]) {
    let mut peers = Peers::default();
    let ids = [(); N].map(|()| peers.open(made(Timed), GROUP, ()));
    (peers, ids)
}

fn set(peers: &mut Peers<Timed, ()>, id: ConnId, seconds: u8) {
    peers.received(id, Chunk::from(vec![seconds]));
}

fn expired(peers: &mut Peers<Timed, ()>, id: ConnId) -> usize {
    peers.get_mut(id).unwrap().connection.outgoing().bytes()
}

#[test]
fn the_timers_of_protocols_expire_once_and_in_the_order_of_time() {
    let (mut peers, [a, b]) = timed();
    assert_eq!(timers(&mut peers, || unreachable!("no timer is set")), None);
    set(&mut peers, a, 5);
    set(&mut peers, b, 3);
    assert_eq!(timers(&mut peers, at(10)), Some(Nanos(13_000_000_000)));
    assert_eq!(timers(&mut peers, at(14)), Some(Nanos(15_000_000_000)));
    assert_eq!((expired(&mut peers, a), expired(&mut peers, b)), (0, 1));
    assert_eq!(timers(&mut peers, at(15)), None);
    assert_eq!(timers(&mut peers, at(99)), None);
    assert_eq!((expired(&mut peers, a), expired(&mut peers, b)), (1, 1));
}

#[test]
fn a_timer_that_is_set_anew_or_cleared_replaces_the_old_one() {
    let (mut peers, [later, sooner, never]) = timed();
    [later, sooner, never].into_iter().for_each(|id| set(&mut peers, id, 10));
    timers(&mut peers, at(0));
    set(&mut peers, later, 20);
    set(&mut peers, sooner, 2);
    set(&mut peers, never, 0);
    assert_eq!(timers(&mut peers, at(1)), Some(Nanos(3_000_000_000)));
    timers(&mut peers, at(3));
    assert_eq!([later, sooner, never].map(|id| expired(&mut peers, id)), [0, 1, 0]);
    assert_eq!(timers(&mut peers, at(20)), Some(Nanos(21_000_000_000)));
    assert_eq!(timers(&mut peers, at(21)), None);
    assert_eq!([later, sooner, never].map(|id| expired(&mut peers, id)), [1, 1, 0]);
}

/// Sets its timer anew whenever it expires, and does nothing else.
struct Tick;

impl Protocol for Tick {
    fn open(&mut self, out: &mut crate::Outbox<'_>) {
        out.set_timer(Duration::from_secs(1));
    }

    fn data(&mut self, _: &mut crate::Input<'_>, _: &mut crate::Outbox<'_>) {}

    fn timer(&mut self, out: &mut crate::Outbox<'_>) {
        out.set_timer(Duration::from_secs(1));
    }
}

#[test]
fn a_timer_that_is_set_as_it_expires_is_armed_before_the_driver_sleeps() {
    let mut peers = Peers::default();
    peers.open(made(Tick), GROUP, ());
    for second in 0..3 {
        assert_eq!(timers(&mut peers, at(second)), Some(Nanos((second + 1) * 1_000_000_000)));
    }
}

#[test]
fn a_timer_ends_with_its_connection_and_spares_the_next_in_its_slot() {
    let (mut peers, [armed, fresh]) = timed();
    set(&mut peers, armed, 5);
    timers(&mut peers, at(0));
    set(&mut peers, fresh, 5);
    for id in [armed, fresh] {
        peers.broken(id, CloseReason::Cut);
        peers.remove(id);
    }
    let next = [(); 2].map(|()| peers.open(made(Timed), GROUP, ()));
    assert_eq!(timers(&mut peers, at(1)), None);
    timers(&mut peers, at(99));
    assert_eq!(next.map(|id| expired(&mut peers, id)), [0, 0]);
}

/// Keeps the reason that its close is given.
struct Closes(Rc<std::cell::Cell<Option<CloseReason>>>);

impl Protocol for Closes {
    fn data(&mut self, input: &mut crate::Input<'_>, out: &mut crate::Outbox<'_>) {
        input.take_all();
        out.abort("as this test has it");
    }

    fn close(&mut self, reason: CloseReason, _: &mut crate::Outbox<'_>) {
        assert_eq!(self.0.replace(Some(reason)), None, "closed once");
    }
}

#[test]
fn a_protocol_is_given_the_reason_of_its_close() {
    type Way = fn(&mut Peers<Closes, ()>, ConnId);
    let ways: [(CloseReason, Way); 4] = [
        (CloseReason::Finished, |peers, id| peers.ended(id)),
        (CloseReason::Aborted, |peers, id| peers.received(id, Chunk::from("x"))),
        (CloseReason::Cut, |peers, id| {
            peers.broken(id, CloseReason::Cut);
            peers.broken(id, CloseReason::Failed(libc::EPIPE));
        }),
        (CloseReason::QueueFull, |peers, id| {
            peers.send_to(id, constant(MOST + 1));
        }),
    ];
    for (reason, way) in ways {
        let (mut peers, closed) = (Peers::default(), Rc::default());
        let id = peers.open(made(Closes(Rc::clone(&closed))), GROUP, ());
        way(&mut peers, id);
        peers.remove(id);
        assert_eq!(closed.get(), Some(reason));
    }
}

#[test]
fn an_age_is_that_of_the_slots_tenant() {
    let clock = Clock::simulated();
    let mut peers: Peers<Echo, ()> = Peers::new(&limits(), clock.clone());
    peers.expect_operator();
    let [old, new] = [1, 5].map(|second| {
        clock.set(Nanos(second * 1_000_000_000));
        peers.remove(ConnId::default());
        peers.open(made(Echo), GROUP, ())
    });
    assert_eq!((old.slot(), new.slot()), (0, 0));
    let mut lifecycle = Lifecycle::new(Limits::default(), ShutdownSignal::new().unwrap());
    let (counters, now) = (Counters::default(), Nanos(6_000_000_000));
    let rows = peers.inspect(&mut lifecycle, counters, now, |()| SocketInfo::default()).rows();
    let ages: Vec<_> = rows.into_iter().map(|row| (row.id, row.age)).collect();
    assert_eq!(ages, [(new, Some(Duration::from_secs(1)))]);
}

/// Passes all to the operator.
struct Reports;

impl Protocol for Reports {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.to_operator(input.take_all());
    }
}

#[test]
fn messages_to_the_operator_are_bounded_and_those_dropped_are_counted() {
    const MESSAGES: u64 = 2000;
    let mut peers: Peers<Reports, ()> = Peers::default();
    peers.expect_operator();
    let id = peers.open(made(Reports), GROUP, ());
    (0..MESSAGES).for_each(|_| peers.received(id, constant(1024)));
    let kept = (operator::OPERATOR_MAX / 1024) as u64;
    assert_eq!(peers.to_operator.counts(), (kept, MESSAGES - kept));
}
