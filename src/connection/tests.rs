//! The states of a connection, and the calls of its protocol.

use super::*;
use crate::buffer::{BufferClass, Pool};
use crate::memory::SHARE_MAX as HIGH;
use crate::protocol::Message;
use crate::protocol::testing::{Broadcast, to_others};
use crate::protocol::{Chargen, Chat, Echo, Prefix, Reply};

const LOW: usize = HIGH / super::LOW;

fn echo() -> Connection<Echo> {
    Connection::open(Echo, &mut Context::default())
}

fn receive<P: Protocol>(connection: &mut Connection<P>, bytes: &[u8]) -> Vec<Message> {
    let mut context = Context::default();
    connection.received(Chunk::from(bytes.to_vec()), &mut context);
    context.messages
}

#[test]
fn half_close_sends_what_is_owed_and_then_finishes() {
    let mut connection = echo();
    receive(&mut connection, b"hello");
    connection.ended(&mut Context::default());
    assert!(!connection.is_finished(), "five bytes are owed");
    assert!(!connection.wants_recv() && !connection.wants_shutdown());
    connection.sent(2, &mut Context::default());
    assert_eq!(connection.outgoing().bytes(), 3);
    connection.sent(3, &mut Context::default());
    assert!(connection.is_finished());
}

#[test]
fn finishing_first_shuts_down_and_discards_until_the_peer_ends() {
    let mut connection = echo();
    receive(&mut connection, b"hello");
    connection.drain(&mut Context::default());
    assert!(!connection.wants_shutdown(), "not before all is sent");
    connection.sent(5, &mut Context::default());
    assert!(connection.wants_shutdown() && connection.wants_recv());
    connection.shut_down(&mut Context::default());
    assert!(!connection.wants_shutdown(), "once");
    receive(&mut connection, b"late");
    assert!(connection.outgoing().is_empty() && !connection.is_finished());
    connection.ended(&mut Context::default());
    assert!(connection.is_finished());
}

#[test]
fn a_broken_connection_owes_nothing_and_wants_to_be_closed() {
    let mut connection = echo();
    receive(&mut connection, b"hello");
    connection.broken();
    assert!(connection.is_finished() && connection.is_broken());
    assert!(connection.outgoing().is_empty() && !connection.wants_recv());
    // The send that was in flight; its bytes are no longer counted.
    connection.sent(5, &mut Context::default());
    connection.ended(&mut Context::default());
    assert!(connection.is_finished());
}

#[test]
fn owing_much_pauses_until_little_is_owed() {
    let mut connection = echo();
    receive(&mut connection, &vec![0; HIGH - 1]);
    assert!(connection.wants_recv());
    receive(&mut connection, b"x");
    assert!(!connection.wants_recv() && connection.is_congested());
    assert!(!connection.is_ordinary(), "once all is sent it will want to receive");
    connection.sent(HIGH - LOW - 1, &mut Context::default());
    assert!(!connection.wants_recv(), "hysteresis");
    connection.sent(1, &mut Context::default());
    assert!(connection.wants_recv());
}

#[test]
fn holding_many_buffers_pauses_too() {
    let pool = Pool::new(&[BufferClass { bytes: 1024, count: 64 }]).unwrap();
    let mut connection = echo();
    for _ in 0..LEASES_HIGH {
        assert!(connection.wants_recv());
        let chunk = Chunk::received(pool.lease(Size(0)).unwrap(), 600);
        connection.received(chunk, &mut Context::default());
    }
    assert!(!connection.wants_recv());
    connection.sent(600 * (LEASES_HIGH - LEASES_LOW), &mut Context::default());
    assert!(connection.wants_recv());
}

#[test]
fn messages_beyond_what_is_free_evict() {
    let mut connection = Connection::open(Broadcast, &mut Context::default());
    let memory = Memory::new(64 << 20);
    let deliver = |connection: &mut Connection<_>| {
        connection.deliver(Chunk::from(vec![b'x'; 1 << 20]), &memory)
    };
    (0..23).for_each(|_| assert!(!deliver(&mut connection)));
    assert!((0..2).any(|_| deliver(&mut connection)) && connection.is_broken());
    assert!(memory.used() < 1 << 20);
}

/// Sends 40 bytes for each byte, and does not look how much it may send.
#[derive(Debug)]
struct Forty;

impl Protocol for Forty {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        let bytes = input.take_all();
        out.send(bytes.repeat(40));
    }
}

/// Receives newlines in bulk. With the first of them, the protocol sends `first` bytes more than it
/// may.
fn receives_newlines<P: Protocol>(protocol: P, expected: usize, first: usize) {
    let context = &mut Context { memory: Memory::new(64 << 20), ..Context::default() };
    let mut connection = Connection::open(protocol, context);
    let newlines = vec![b'\n'; 256 << 10];
    for _ in 0..32 {
        connection.received(Chunk::from(newlines.clone()), context);
    }
    connection.ended(context);
    let mut most = context.memory.used();
    let mut sent = 0;
    while !connection.is_finished() {
        let owed = connection.outgoing().bytes();
        assert!(owed > 0, "it waits for nothing");
        assert!(owed < first + 2 * HIGH, "{owed} are owed");
        sent += owed.min(10_007);
        connection.sent(owed.min(10_007), context);
        if connection.holds_input() {
            connection.resume_input(context);
        }
        most = most.max(context.memory.used());
    }
    assert_eq!(sent, expected);
    // The input, in a vector that grows, and what is sent of it.
    let (input, output) = (2 * 32 * newlines.len(), (256 << 10) * 40 + 2 * HIGH);
    assert!(most < input + output, "{most}");
}

#[test]
fn a_protocol_that_multiplies_its_input_is_given_as_much_as_may_be_sent() {
    let newlines = 32 * (256 << 10);
    receives_newlines(Prefix::new(Prefix::DEFAULT), 16 * newlines, 0);
    receives_newlines(Reply::new("fifteen letters"), 16 * newlines, 0);
    receives_newlines(Forty, 40 * newlines, 40 * (256 << 10));
}

#[test]
fn messages_come_out_as_data() {
    let mut context = Context::default();
    let mut connection = Connection::open(Chat::new(7), &mut context);
    context.messages.extend(receive(&mut connection, b"one\ntw"));
    connection.broken();
    connection.close(CloseReason::Finished, &mut context);
    connection.close(CloseReason::Finished, &mut context);
    assert_eq!(to_others(&context.messages), [&b"* 7 joined\n"[..], b"[7] one\n", b"* 7 left\n"]);
}

#[test]
fn a_refill_is_asked_for_while_little_is_queued() {
    let mut connection = Connection::open(Chargen, &mut Context::default());
    for _ in 0..1000 {
        let owed = connection.outgoing().bytes();
        assert!(owed > 0 && owed < HIGH && !connection.is_ordinary() && connection.wants_recv());
        connection.sent(owed.min(10_007), &mut Context::default());
    }
    connection.drain(&mut Context::default());
    let owed = connection.outgoing().bytes();
    connection.sent(owed, &mut Context::default());
    assert!(connection.wants_shutdown(), "a draining connection is not refilled");
}

/// A ring goes on receiving for a while. What many connections hold then is bounded as well.
#[test]
fn input_that_is_held_is_bounded_by_the_memory_of_all() {
    let context = &mut Context { memory: Memory::new(64 << 20), ..Context::default() };
    let mut connections: Vec<_> =
        (0..100).map(|_| Connection::open(Prefix::new("> "), context)).collect();
    let newlines = Chunk::from(vec![b'\n'; 256 << 10]);
    for _ in 0..16 {
        for connection in &mut connections {
            connection.received(newlines.clone(), context);
            assert!(context.memory.used() < 66 << 20, "{}", context.memory.used());
        }
    }
    let broken = connections.iter().filter(|connection| connection.is_broken()).count();
    assert!((50..100).contains(&broken), "{broken} were aborted");
    let light = &mut connections[0];
    *light = Connection::open(Prefix::new("> "), context);
    light.received(Chunk::from("a\n"), context);
    assert_eq!(light.outgoing().bytes(), "> a ===\n".len());
}

/// Replies to a line when it is asked to; in between it is paused.
#[derive(Debug, Default)]
struct Deferred(Vec<u8>);

impl Protocol for Deferred {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        if let Some(line) = input.line(100) {
            self.0 = line.to_vec();
            out.pause();
        }
    }

    fn end(&mut self, _: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.send("end");
        out.finish();
    }

    fn drain(&mut self, out: &mut Outbox<'_>) {
        out.send("drained");
        out.finish();
    }
}

/// The answer to the line that a [`Deferred`] waits with.
fn answer(connection: &mut Connection<Deferred>) {
    connection.call(&mut Context::default(), |worker, out| {
        out.send(std::mem::take(&mut worker.0));
        out.resume();
    });
}

fn owed<P: Protocol>(connection: &Connection<P>) -> String {
    let owed = connection.outgoing().iter().flat_map(|chunk| chunk.to_vec()).collect();
    String::from_utf8(owed).unwrap()
}

#[test]
fn a_paused_protocol_is_called_for_neither_input_nor_the_end_until_it_resumes() {
    let context = &mut Context::default();
    let mut connection = Connection::open(Deferred::default(), context);
    receive(&mut connection, b"one\ntwo\nth");
    assert!(!connection.wants_recv() && owed(&connection).is_empty());
    receive(&mut connection, b"ree\n"); // It was in flight.
    connection.ended(context);
    assert!(!connection.is_finished());
    answer(&mut connection);
    answer(&mut connection);
    assert_eq!(owed(&connection), "one\ntwo\n");
    answer(&mut connection);
    assert_eq!(owed(&connection), "one\ntwo\nthree\nend");
    connection.sent(17, context);
    assert!(connection.is_finished());
}

#[test]
fn a_drain_waits_for_a_paused_protocol_and_takes_no_further_input() {
    let context = &mut Context::default();
    let mut connection = Connection::open(Deferred::default(), context);
    receive(&mut connection, b"one\n");
    connection.drain(context);
    assert!(connection.is_open(), "an answer is awaited");
    answer(&mut connection);
    assert_eq!((owed(&connection), connection.is_open()), ("one\ndrained".to_owned(), false));
    connection.drain(context);
    assert_eq!(owed(&connection), "one\ndrained", "once");
}

#[test]
fn input_that_is_not_taken_is_limited_and_an_abort_owes_nothing() {
    #[derive(Debug)]
    struct Lazy;
    impl Protocol for Lazy {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            out.send("x");
            if input.peek() == b"abort" {
                out.abort("as the line asks");
            }
        }
    }
    let context = &mut Context { max_input: 10, ..Context::default() };
    let mut connection = Connection::open(Lazy, context);
    connection.received(Chunk::from(vec![b'x'; 10]), context);
    assert!(!connection.is_broken() && owed(&connection) == "x", "called once");
    connection.received(Chunk::from("x"), context);
    assert!(connection.is_broken());
    let mut connection = Connection::open(Lazy, context);
    connection.received(Chunk::from("abort"), context);
    assert!(connection.is_broken() && owed(&connection).is_empty());
}

#[test]
fn a_protocol_that_panics_is_called_no_more_and_breaks_its_connection() {
    #[derive(Debug)]
    struct Wrong(&'static str);
    impl Wrong {
        fn call(&self, name: &str) {
            assert_ne!(self.0, name, "as this test has it");
        }
    }
    impl Protocol for Wrong {
        fn open(&mut self, out: &mut Outbox<'_>) {
            out.send("x");
            out.request_refill();
            self.call("open");
        }
        fn data(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {
            self.call("data");
        }
        fn end(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {
            self.call("end");
        }
        fn refill(&mut self, _: &mut Outbox<'_>) {
            self.call("refill");
        }
        fn drain(&mut self, _: &mut Outbox<'_>) {
            self.call("drain");
        }
        fn close(&mut self, _: CloseReason, _: &mut Outbox<'_>) {
            self.call("close");
            assert_eq!(self.0, "close", "it is called no more");
        }
    }
    for name in ["open", "data", "end", "refill", "drain", "close"] {
        let context = &mut Context::default();
        let mut connection = Connection::open(Wrong(name), context);
        connection.received(Chunk::from("abc"), context);
        connection.drain(context);
        connection.ended(context);
        if name == "close" {
            connection.broken();
        }
        assert!(connection.is_broken() && owed(&connection).is_empty(), "{name}");
        connection.close(CloseReason::Failed(libc::EPIPE), context);
        assert_eq!(context.panicked, 1, "{name}");
        let reason = (name != "close").then_some(CloseReason::Panicked);
        assert_eq!(context.failure, reason, "{name}");
    }
}

#[test]
fn data_is_called_until_the_input_is_taken() {
    #[derive(Debug)]
    struct One;
    impl Protocol for One {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            if let Some(line) = input.line(100) {
                out.send(line);
            }
        }
    }
    let mut connection = Connection::open(One, &mut Context::default());
    receive(&mut connection, b"one\ntwo\nthr");
    assert_eq!(owed(&connection), "one\ntwo\n");
    receive(&mut connection, b"ee\n");
    assert_eq!(owed(&connection), "one\ntwo\nthree\n");
}

#[test]
fn nothing_is_queued_for_a_broken_connection() {
    #[derive(Debug)]
    struct Polite;
    impl Protocol for Polite {
        fn data(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {}
        fn close(&mut self, _: CloseReason, out: &mut Outbox<'_>) {
            out.send("farewell");
        }
    }
    let mut connection = Connection::open(Polite, &mut Context::default());
    connection.broken();
    connection.close(CloseReason::Cut, &mut Context::default());
    assert!(connection.outgoing().is_empty());
}

#[test]
fn recv_size_grows_by_tight_chunks_and_shrinks_by_loose_ones() {
    let shapes = [64, 256, 1024].map(|bytes| BufferClass { bytes, count: 40 });
    let pool = Pool::new(&shapes).unwrap();
    let mut connection = echo();
    let mut receive = |len: usize| {
        let lease = pool.lease(connection.recv_size()).unwrap();
        let len = len.min(lease.location().1);
        connection.received(Chunk::received(lease, len), &mut Context::default());
        connection.sent(len, &mut Context::default());
        connection.recv_size()
    };
    assert_eq!((receive(5000), receive(10), receive(5000)), (Size(0), Size(0), Size(0)));
    assert_eq!(receive(5000), Size(1), "two in a row");
    assert_eq!((receive(5000), receive(5000)), (Size(1), Size(2)));
    assert!((1..RecvSize::SHRINK).all(|_| receive(100) == Size(2)), "not at once");
    assert_eq!(receive(100), Size(1));
    assert!((0..100).all(|_| receive(100) == Size(1)), "this fits");
}

#[test]
fn an_idle_connection_is_small() {
    // Of these, 8 for its timer.
    assert!(size_of::<Connection<Echo>>() <= 104, "{}", size_of::<Connection<Echo>>());
}
