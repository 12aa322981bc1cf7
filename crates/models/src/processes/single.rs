//! A child whose protocol does not broadcast: it sleeps in its calls.
//!
//! A message costs two calls: the receive, in which the child sleeps until it arrives, and the
//! send, which does not wait. Only a connection that is owed more than its socket takes, or that
//! discards input after its end, is waited for by poll(2), so that it is received from meanwhile.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use crate::driver::ConnectionDriver;
use proactor::buffer::{Chunk, Pool};
use proactor::calls::{AT_ONCE, Calls, SLEEPS};
use proactor::counters::Counters;
use proactor::keys::Key;
use proactor::limits::{CloseReason, Limits};
use proactor::memory::Memory;
use proactor::os;
use proactor::peer::AcceptedPeer;
use proactor::protocol::Protocol;

/// How long a connection that wants nothing waits until it looks whether it was asked to drain.
const LOOK_AGAIN: Option<Duration> = Some(Duration::from_millis(500));

/// A connection for a child, which has not been opened.
pub(super) struct NewConnection {
    pub(super) socket: OwnedFd,
    pub(super) protocol: Box<dyn Protocol>,
    /// The limits of the child.
    pub(super) limits: Limits,
    /// Its number among all connections of the server.
    pub(super) number: u64,
    /// What is known of its peer.
    pub(super) accepted: AcceptedPeer,
}

/// Serves `connection`, whose socket blocks, to its end; a trace records it with this key. Drains
/// once `asked` returns true: the signal that causes this makes the socket non-blocking as well.
/// `publish` receives the counters before each call that may sleep.
///
/// # Errors
/// poll(2), for lack of memory.
pub(super) fn serve<C: Calls>(
    (calls, key): (&C, Key),
    connection: NewConnection,
    (pool, memory): (Rc<Pool>, Memory),
    asked: impl Fn() -> bool,
    mut publish: impl FnMut(&Counters),
) -> io::Result<()> {
    let NewConnection { socket, protocol, limits, number, accepted } = connection;
    let (mut counters, calls_before) = (Counters::default(), os::calls());
    let whose = (key, socket.as_fd(), number);
    let account = (&limits, memory);
    let mut driver =
        ConnectionDriver::open(calls, whose, (protocol, accepted), account, pool, &mut counters);
    let mut drains = false;
    loop {
        driver.run_timer();
        if !drains && asked() {
            drains = true;
            driver.take_last_input();
        }
        driver.drain_if_taken();
        driver.send_now();
        while driver.connection.holds_input() && !driver.connection.is_congested() {
            driver.connection.resume_input(&mut driver.context);
            driver.context.messages.clear();
            driver.send_now();
        }
        if driver.connection.wants_shutdown() {
            driver.shut_down();
        }
        driver.counters.iterations += 1;
        driver.counters.calls = os::calls() - calls_before;
        publish(driver.counters);
        if driver.connection.is_finished() {
            break;
        }
        // Once the child drains, its socket does not block.
        let sleeps = !drains
            && driver.connection.is_ordinary()
            && driver.connection.outgoing().is_empty()
            && driver.limit_receive();
        if sleeps {
            let received = driver.recv(SLEEPS);
            driver.take(received);
        } else if driver.takes_last_input() && driver.connection.wants_recv() {
            let received = driver.recv(AT_ONCE);
            driver.take(received);
        } else {
            driver.wait()?;
        }
        // What its protocol sends to others is dropped: there are none.
        driver.context.messages.clear();
    }
    let bytes = [driver.counters.received_bytes, driver.counters.sent_bytes];
    driver.close(bytes);
    publish(driver.counters);
    calls.close(key, socket);
    Ok(())
}

impl<C: Calls> ConnectionDriver<'_, C> {
    /// Sends what is queued now, as long as the socket takes it. What the protocol adds meanwhile
    /// is sent next time: an endless stream does not keep it from receiving.
    fn send_now(&mut self) {
        let (calls, key, socket) = (self.calls, self.key, self.socket);
        let mut owed = self.connection.outgoing().bytes();
        while owed > 0 && self.writable && !self.connection.is_broken() {
            let queue = self.connection.outgoing();
            let (sent, offered) =
                queue.offer(owed, |parts| calls.send(key, socket, parts, AT_ONCE));
            match sent {
                Ok(n) => {
                    self.writable = n == offered;
                    self.counters.short_sends += u64::from(!self.writable);
                    owed -= n;
                    self.sent(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    self.counters.short_sends += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.break_off(CloseReason::failed(&error)),
            }
        }
    }

    /// Passes on what a receive has returned, and looks at the time limits.
    fn take(&mut self, received: io::Result<Chunk>) {
        let timed_out = received.as_ref().is_err_and(|it| it.kind() == io::ErrorKind::WouldBlock);
        self.received(received);
        self.look_at(timed_out);
    }

    fn look_at(&mut self, timed_out: bool) {
        let bytes = [self.counters.received_bytes, self.counters.sent_bytes];
        self.look(!self.writable && !self.connection.outgoing().is_empty(), timed_out, || bytes);
    }

    /// Waits until an operation that it wants is possible.
    ///
    /// A signal that comes just before the wait is noticed only after it. While the connection is
    /// owed bytes, discards input or is paused, that is early enough: a drain can do nothing for it
    /// yet. If it wants nothing, since its peer has ended and its protocol has not, the wait ends
    /// after [`LOOK_AGAIN`].
    fn wait(&mut self) -> io::Result<()> {
        let left = self.time_left();
        if left == Some(Duration::ZERO) {
            return Ok(()); // Its timer expires.
        }
        let reads = self.connection.wants_recv();
        let writes = !self.connection.outgoing().is_empty();
        let again = if reads || writes { None } else { LOOK_AGAIN };
        let left = [left, again, self.look_period()].into_iter().flatten().min();
        let events = if reads { libc::POLLIN } else { 0 } | if writes { libc::POLLOUT } else { 0 };
        let mut asked = [libc::pollfd { fd: self.socket.as_raw_fd(), events, revents: 0 }];
        let ready = self.calls.wait(&mut asked, left)?;
        self.look_at(ready == 0);
        if ready == 0 {
            return Ok(());
        }
        let [libc::pollfd { revents, .. }] = asked;
        self.writable |= revents & libc::POLLOUT != 0;
        if revents & libc::POLLIN != 0 {
            let received = self.recv(AT_ONCE);
            self.take(received);
        } else if revents & libc::POLLOUT == 0 {
            // An error or a hang-up: what it wants will never be possible.
            self.break_off(CloseReason::Failed(libc::ECONNRESET));
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

    use super::*;
    use proactor::buffer::BufferClass;
    use proactor::calls::PlainCalls;
    use proactor::protocol::{Chargen, Echo, Input, Outbox};

    /// Runs a child that serves `protocol`, and `peer` with the other end of its socket. `asked` is
    /// given the child's end. Returns what the child counted.
    fn with_child<P: Protocol + Send + 'static>(
        protocol: P,
        asked: impl Fn(&UnixStream) -> bool + Send + 'static,
        peer: impl FnOnce(UnixStream),
    ) -> Counters {
        let (ours, its) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let same = its.try_clone().unwrap();
        let child = thread::spawn(move || {
            let asked = || asked(&same);
            let pool = Pool::new(&[BufferClass { bytes: 1024, count: 8 }]).unwrap();
            let counted = Cell::new(Counters::default());
            let calls = (&PlainCalls, Key(0));
            let (socket, protocol) = (its.into(), Box::new(protocol));
            let connection = NewConnection {
                socket,
                protocol,
                limits: Limits::default(),
                number: 1,
                accepted: AcceptedPeer::default(),
            };
            let own = (Rc::clone(&pool), Memory::new(64 << 20));
            serve(calls, connection, own, asked, |now| counted.set(*now)).unwrap();
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
            |_| false,
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
            |_| false,
            |mut peer| {
                let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
                let mut writer = peer.try_clone().unwrap();
                let sent = bytes.clone();
                let writer = thread::spawn(move || {
                    writer.write_all(&sent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut received = Vec::new();
                peer.read_to_end(&mut received).unwrap();
                writer.join().unwrap();
                assert!(received == bytes);
            },
        );
    }

    #[test]
    fn the_end_of_an_endless_sender_is_noticed() {
        with_child(
            Chargen,
            |_| false,
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
        let asked = move |_: &UnixStream| {
            times.set(times.get() + 1);
            times.get() > 1
        };
        let echo: fn() -> Box<dyn Protocol> = || Box::new(Echo);
        let counted = with_child(Late(echo), asked, |mut peer| {
            peer.write_all(b"PING").unwrap();
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            assert_eq!(received, b"PING");
            // It lingers: what comes late is taken, and causes no reset.
            peer.write_all(b"late").unwrap();
        });
        assert_eq!(counted.sent_bytes, 4);
    }

    /// Reports that its peer was idle for so long, and then ends.
    struct Idle(Duration);

    impl Protocol for Idle {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            out.send(input.take_all());
            out.set_timer(self.0);
        }

        fn timer(&mut self, out: &mut Outbox<'_>) {
            out.send("idle");
            out.finish();
        }
    }

    #[test]
    fn the_timer_of_a_child_expires() {
        with_child(
            Idle(Duration::from_millis(50)),
            |_| false,
            |mut peer| {
                peer.write_all(b"PING").unwrap();
                let mut received = Vec::new();
                peer.read_to_end(&mut received).unwrap();
                assert_eq!(received, b"PINGidle");
            },
        );
    }

    /// The signal of a drain, which comes just after the child has looked for one.
    fn signal_in_between() -> impl Fn(&UnixStream) -> bool + Send {
        let times = Cell::new(0);
        move |socket| {
            times.set(times.get() + 1);
            if times.get() == 2 {
                socket.set_nonblocking(true).unwrap();
            }
            times.get() > 2
        }
    }

    #[test]
    fn a_drain_just_before_a_receive_with_a_timeout_is_noticed() {
        with_child(Idle(Duration::from_secs(600)), signal_in_between(), |mut peer| {
            peer.write_all(b"PING").unwrap();
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            assert_eq!(received, b"PING");
        });
    }

    /// Echoes, and does not finish when it is drained.
    struct Stay;

    impl Protocol for Stay {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            out.send(input.take_all());
        }

        fn drain(&mut self, _: &mut Outbox<'_>) {}
    }

    #[test]
    fn a_child_that_does_not_finish_when_drained_sleeps() {
        let counted = with_child(Stay, signal_in_between(), |mut peer| {
            peer.write_all(b"PING").unwrap();
            peer.read_exact(&mut [0; 4]).unwrap();
            peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            assert!(peer.read(&mut [0]).is_err(), "nothing comes");
        });
        assert!(counted.iterations < 10, "it spins: {counted:?}");
    }

    /// Echoes, and stays when its peer has ended.
    struct Faithful;

    impl Protocol for Faithful {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            out.send(input.take_all());
        }

        fn end(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {}
    }

    #[test]
    fn a_drain_just_before_a_wait_for_nothing_is_noticed() {
        // Asked after the end was received, and without a signal that would interrupt the wait.
        let times = Cell::new(0);
        let asked = move |_: &UnixStream| {
            times.set(times.get() + 1);
            times.get() > 3
        };
        with_child(Faithful, asked, |mut peer| {
            peer.write_all(b"PING").unwrap();
            peer.read_exact(&mut [0; 4]).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the end");
        });
    }

    /// Made where it is used: a protocol is not sent to another thread.
    struct Late(fn() -> Box<dyn Protocol>);

    impl Protocol for Late {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            (self.0)().data(input, out);
        }
    }
}
