//! A child whose protocol does not broadcast: it sleeps in its calls.
//!
//! A message costs two calls: the receive, in which the child sleeps until it arrives, and the
//! send, which does not wait. Only a connection that is owed more than its socket takes, or that
//! discards input after its end, is waited for by poll(2), so that it is received from meanwhile.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use proactor::buffer::{Chunk, Pool};
use proactor::calls::{Calls, PlainCalls};
use proactor::connection::{Connection, Context};
use proactor::connection_log;
use proactor::counters::Counters;
use proactor::keys::Key;
use proactor::limits::CloseReason;
use proactor::os::{self, Clock};
use proactor::protocol::Protocol;

/// A connection for a child, which has not been opened.
#[derive(Debug)]
pub(super) struct NewConnection<P> {
    pub(super) socket: OwnedFd,
    pub(super) protocol: P,
    /// The limit of its input: [`Limits::max_input`](proactor::limits::Limits::max_input).
    pub(super) max_input: usize,
    /// Its number among all connections of the server.
    pub(super) number: u64,
}

/// The only connection of its process.
pub(super) struct SingleConnection<P, C = PlainCalls> {
    /// The calls, and the key that they are recorded with.
    calls: C,
    key: Key,
    socket: OwnedFd,
    connection: Connection<P>,
    number: u64,
    /// Why it is closed, once it is.
    reason: CloseReason,
    pool: Rc<Pool>,
    /// True until a send would block, or is short.
    writable: bool,
    /// True from a receive that found no buffer until something is sent.
    waits_for_buffer: bool,
    /// What its protocol sends to others is dropped: there are none.
    context: Context,
    counters: Counters,
    /// System calls that this process had made before its fork.
    calls_before: u64,
}

impl<P: Protocol, C: Calls> SingleConnection<P, C> {
    /// Serves `connection`, whose socket blocks. A trace records it with this key.
    pub(super) fn new(
        (calls, key): (C, Key),
        connection: NewConnection<P>,
        pool: Rc<Pool>,
    ) -> SingleConnection<P, C> {
        let NewConnection { socket, protocol, max_input, number } = connection;
        let mut context = Context::new(max_input, Clock::default());
        SingleConnection {
            calls,
            key,
            socket,
            connection: Connection::open(protocol, &mut context),
            number,
            reason: CloseReason::Finished,
            pool,
            writable: true,
            waits_for_buffer: false,
            context,
            counters: Counters::default(),
            calls_before: os::calls(),
        }
    }

    /// Serves it to its end. Drains once `asked` returns true: the signal that causes this makes
    /// the socket non-blocking as well. `publish` receives the counters before each call that may
    /// sleep.
    ///
    /// # Errors
    /// poll(2), for lack of memory.
    pub(super) fn serve(
        mut self,
        asked: impl Fn() -> bool,
        mut publish: impl FnMut(&Counters),
    ) -> io::Result<()> {
        loop {
            if asked() {
                self.connection.drain(&mut self.context);
            }
            self.send();
            if self.connection.wants_shutdown() {
                // It fails only if the peer has reset the connection, which a read will report.
                let _ = self.calls.shutdown_write(self.key, self.socket.as_fd());
                self.connection.shut_down(&mut self.context);
            }
            self.counters.iterations += 1;
            self.counters.calls = os::calls() - self.calls_before;
            publish(&self.counters);
            if self.connection.is_finished() {
                let Counters { received_bytes, sent_bytes, .. } = self.counters;
                let reason = self.context.failure.unwrap_or(self.reason);
                connection_log::closed(self.number, received_bytes, sent_bytes, reason);
                self.connection.close(reason, &mut self.context);
                self.counters.panicked = self.context.panicked;
                publish(&self.counters);
                self.calls.close(self.key, self.socket);
                return Ok(());
            }
            // A receive that sleeps has no time limit.
            let sleeps = self.connection.can_skip_completion()
                && self.connection.outgoing().is_empty()
                && self.connection.arm_timer(os::now).is_none();
            if sleeps {
                self.receive(C::recv);
            } else {
                self.wait()?;
            }
        }
    }

    fn break_connection(&mut self, reason: CloseReason) {
        if !self.connection.is_broken() {
            self.reason = reason;
            self.connection.broken();
        }
    }

    /// Sends what is queued now, as long as the socket takes it. What the protocol adds meanwhile
    /// is sent next time: an endless stream does not keep it from receiving.
    fn send(&mut self) {
        let mut owed = self.connection.outgoing().bytes();
        while owed > 0 && self.writable && !self.connection.is_broken() {
            let queue = self.connection.outgoing();
            let (key, socket) = (self.key, self.socket.as_fd());
            let (sent, offered) =
                queue.offer(owed, |parts| self.calls.send_now(key, socket, parts));
            match sent {
                Ok(n) => {
                    (self.writable, self.waits_for_buffer) = (n == offered, false);
                    owed -= n;
                    self.counters.sends += 1;
                    self.counters.sent_bytes += n as u64;
                    self.connection.sent(n, &mut self.context);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.break_connection(CloseReason::failed(&error)),
            }
        }
        self.context.messages.clear();
    }

    /// Receives once, into a buffer of the pool.
    fn receive(&mut self, recv: fn(&C, Key, BorrowedFd<'_>, &mut [u8]) -> io::Result<usize>) {
        let Some(mut lease) = self.pool.lease(self.connection.recv_size()) else {
            return self.wait_for_buffer();
        };
        let buffer = lease.bytes_mut().expect("a new lease is the only one");
        match recv(&self.calls, self.key, self.socket.as_fd(), buffer) {
            Ok(0) => self.connection.ended(&mut self.context),
            Ok(n) => {
                self.counters.receives += 1;
                self.counters.received_bytes += n as u64;
                self.connection.received(Chunk::received(lease, n), &mut self.context);
            }
            // The signal to drain came, or the process was stopped and continued.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.break_connection(CloseReason::failed(&error)),
        }
        self.context.messages.clear();
    }

    /// There is no buffer until something is sent.
    fn wait_for_buffer(&mut self) {
        self.counters.out_of_buffers += 1;
        self.connection.no_buffer();
        self.waits_for_buffer = true;
        if self.connection.outgoing().is_empty() {
            tracing::warn!("a connection is lost: its protocol keeps every buffer");
            self.break_connection(CloseReason::Refused);
        }
    }

    /// Waits until an operation that it wants is possible.
    ///
    /// A signal that comes just before the wait is noticed only after it. That is early enough:
    /// while the peer neither reads nor writes, a drain can do nothing for it, and the deadline
    /// cuts it in any case.
    fn wait(&mut self) -> io::Result<()> {
        let left = self.connection.arm_timer(os::now).map(|due| due.since(os::now()));
        if left.is_some_and(|left| left.is_zero()) {
            self.connection.run_timer(os::now(), &mut self.context);
            return Ok(());
        }
        let reads = self.connection.wants_recv() && !self.waits_for_buffer;
        let writes = !self.connection.outgoing().is_empty();
        let events = if reads { libc::POLLIN } else { 0 } | if writes { libc::POLLOUT } else { 0 };
        let mut asked = [libc::pollfd { fd: self.socket.as_raw_fd(), events, revents: 0 }];
        if self.calls.wait(&mut asked, left)? == 0 {
            return Ok(());
        }
        let [libc::pollfd { revents, .. }] = asked;
        self.writable |= revents & libc::POLLOUT != 0;
        if revents & libc::POLLIN != 0 {
            self.receive(C::recv_now);
        } else if revents & libc::POLLOUT == 0 {
            // An error or a hang-up: what it wants will never be possible.
            self.break_connection(CloseReason::Failed(libc::ECONNRESET));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use proactor::buffer::BufferClass;
    use proactor::protocol::{Chargen, Echo, Input, Outbox};

    /// What `peer` does to a child served `protocol`; and what the child counted.
    fn with_child<P: Protocol + Send + 'static>(
        protocol: P,
        asked: impl Fn() -> bool + Send + 'static,
        peer: impl FnOnce(UnixStream),
    ) -> Counters {
        let (ours, its) = UnixStream::pair().unwrap();
        let child = thread::spawn(move || {
            let pool = Pool::new(&[BufferClass { bytes: 1024, count: 8 }]).unwrap();
            let counted = Cell::new(Counters::default());
            let calls = (PlainCalls, Key(0));
            let connection =
                NewConnection { socket: its.into(), protocol, max_input: 1 << 20, number: 1 };
            let single = SingleConnection::new(calls, connection, Rc::clone(&pool));
            single.serve(asked, |counters| counted.set(*counters)).unwrap();
            assert!(pool.is_whole(), "a buffer is missing");
            counted.get()
        });
        peer(ours);
        child.join().unwrap()
    }

    #[test]
    fn a_message_costs_two_calls() {
        const MESSAGES: u64 = 100;
        let counted = with_child(
            Echo,
            || false,
            |mut peer| {
                for _ in 0..MESSAGES {
                    peer.write_all(b"PING").unwrap();
                    peer.read_exact(&mut [0; 4]).unwrap();
                }
            },
        );
        assert_eq!((counted.receives, counted.sends), (MESSAGES, MESSAGES));
        assert_eq!(counted.sent_bytes, 4 * MESSAGES);
        // The last receive found the end.
        assert_eq!(counted.calls, 2 * MESSAGES + 1);
    }

    #[test]
    fn a_client_is_received_from_while_its_socket_takes_no_more() {
        with_child(
            Echo,
            || false,
            |mut peer| {
                let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
                let mut says = peer.try_clone().unwrap();
                let said = bytes.clone();
                let says = thread::spawn(move || {
                    says.write_all(&said).unwrap();
                    says.shutdown(Shutdown::Write).unwrap();
                });
                let mut heard = Vec::new();
                peer.read_to_end(&mut heard).unwrap();
                says.join().unwrap();
                assert!(heard == bytes);
            },
        );
    }

    #[test]
    fn the_end_of_an_endless_sender_is_noticed() {
        with_child(
            Chargen,
            || false,
            |mut peer| {
                let mut some = vec![0; 1 << 20];
                peer.read_exact(&mut some).unwrap();
                peer.shutdown(Shutdown::Write).unwrap();
                peer.read_to_end(&mut some).unwrap();
            },
        );
    }

    #[test]
    fn a_drained_child_sends_what_it_owes_and_no_more() {
        // Asked after the first receive.
        let times = Cell::new(0);
        let asked = move || {
            times.set(times.get() + 1);
            times.get() > 1
        };
        let echo: fn() -> Box<dyn Protocol> = || Box::new(Echo);
        let counted = with_child(Late(echo), asked, |mut peer| {
            peer.write_all(b"PING").unwrap();
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, b"PING");
            // It lingers: what comes late is taken, and causes no reset.
            peer.write_all(b"late").unwrap();
        });
        assert_eq!(counted.sent_bytes, 4);
    }

    /// Says that its peer is idle, and then ends.
    struct Idle;

    impl Protocol for Idle {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            out.send(input.take_all());
            out.set_timer(Duration::from_millis(50));
        }

        fn timer(&mut self, out: &mut Outbox<'_>) {
            out.send("idle");
            out.finish();
        }
    }

    #[test]
    fn the_timer_of_a_child_expires() {
        with_child(
            Idle,
            || false,
            |mut peer| {
                peer.write_all(b"PING").unwrap();
                let mut heard = Vec::new();
                peer.read_to_end(&mut heard).unwrap();
                assert_eq!(heard, b"PINGidle");
            },
        );
    }

    /// Made where it is used: a protocol is not sent to another thread.
    struct Late(fn() -> Box<dyn Protocol>);

    impl Protocol for Late {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            (self.0)().data(input, out);
        }
    }
}
