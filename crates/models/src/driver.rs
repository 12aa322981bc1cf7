//! One connection that is driven by calls which may sleep: what a thread and a child process do
//! alike.

use std::io;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use proactor::buffer::{Chunk, Pool, Size};
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::connection::{Connection, Context};
use proactor::connection_log;
use proactor::counters::Counters;
use proactor::keys::Key;
use proactor::limits::{CloseReason, Limits, Timeouts};
use proactor::memory::{Charge, Memory};
use proactor::os::{self, Clock};
use proactor::peer::{AcceptedPeer, Made};
use proactor::peers::{LAST_INPUT, next_linger_period};
use proactor::protocol::Protocol;
use proactor::timeouts::{InputLook, LookState};

/// A connection, its socket, and what is counted of it.
pub(crate) struct ConnectionDriver<'a, C> {
    pub(crate) calls: &'a C,
    pub(crate) key: Key,
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) connection: Connection<Box<dyn Protocol>>,
    /// The messages of its protocol, until they are delivered or dropped.
    pub(crate) context: Context,
    pub(crate) counters: &'a mut Counters,
    /// Its number among all connections of the server.
    number: u64,
    /// What is known of its peer.
    pub(crate) accepted: AcceptedPeer,
    /// Why it is closed, once it is.
    reason: CloseReason,
    timeouts: Timeouts,
    progress: LookState,
    /// When it is looked at next for its time limits.
    look_at: Nanos,
    /// False from a send that does not sleep and would block, or is short, until the socket takes
    /// bytes again.
    pub(crate) writable: bool,
    /// The time between two looks at it while it lingers and the server drains.
    linger_period: Duration,
    /// The timeout of a receive on its socket.
    receive_timeout: Option<Duration>,
    /// How many bytes of its last input it may still receive, while it takes that.
    last_input: Option<u64>,
    pool: Rc<Pool>,
    /// The largest size of buffers that it may receive into, and what is charged for them.
    granted: Size,
    charge: Charge,
}

impl<'a, C: Calls> ConnectionDriver<'a, C> {
    /// Opens a connection, whose buffers are those of `pool`, with the limit of untaken input and
    /// the account of its memory.
    pub(crate) fn open(
        calls: &'a C,
        (key, socket, number): (Key, BorrowedFd<'a>, u64),
        (protocol, accepted): Made<Box<dyn Protocol>>,
        (limits, memory): (&Limits, Memory),
        pool: Rc<Pool>,
        counters: &'a mut Counters,
    ) -> ConnectionDriver<'a, C> {
        let mut context = Context::new(limits.max_input, Clock::default(), memory);
        let connection = Connection::open(protocol, &mut context);
        ConnectionDriver {
            calls,
            key,
            socket,
            connection,
            context,
            counters,
            number,
            accepted,
            reason: CloseReason::Finished,
            timeouts: limits.timeouts,
            progress: LookState::default(),
            look_at: Nanos(0),
            writable: true,
            linger_period: Duration::ZERO,
            receive_timeout: None,
            last_input: None,
            pool,
            granted: Size::SMALLEST,
            charge: Charge::default(),
        }
    }

    /// Breaks the connection, if it is not broken.
    pub(crate) fn break_off(&mut self, reason: CloseReason) {
        if !self.connection.is_broken() {
            self.connection.broken();
            self.broken(reason);
        }
    }

    /// Notes why it is broken.
    fn broken(&mut self, reason: CloseReason) {
        if self.reason.ends_in_order() {
            return; // What happens until it has ended is of no interest.
        }
        self.reason = reason;
        connection_log::warn(self.number, self.accepted.addr(), reason);
        self.counters.evicted += u64::from(reason.is_eviction());
    }

    /// Looks at the time limits, if it is time to: at what the peer has acknowledged if it `owes`
    /// bytes that its socket does not take, and at what was received, after a receive that has
    /// `timed_out` or brought a part of a message. `bytes` are those that were received and sent.
    pub(crate) fn look(&mut self, owes: bool, timed_out: bool, bytes: impl FnOnce() -> [u64; 2]) {
        if self.connection.lingers_in_drain() {
            return self.look_at_lingering();
        }
        let limits_input = self.timeouts.limit_input() && self.connection.is_open();
        let incomplete = self.connection.incomplete().filter(|_| limits_input);
        let input = limits_input && (timed_out || incomplete.is_some());
        if !owes {
            self.progress.owes_anew();
        }
        if !(owes || input) || !self.is_time_to_look() {
            return;
        }
        let [received, sent] = bytes();
        if limits_input {
            let owed = !self.connection.outgoing().is_empty();
            let incomplete = incomplete.filter(|_| self.connection.wants_recv());
            let may_be_silent = self.accepted.allow_silence || self.accepted.has_sent(received);
            let now = InputLook { received, sent, may_be_silent, incomplete, owed };
            if let Some(reason) = self.progress.look_at_input(&self.timeouts, now) {
                self.broken(reason);
                self.connection.finish(&mut self.context);
            }
        }
        if owes {
            let outq = os::unsent(self.socket).ok();
            let over = self.progress.look_at_output(&self.timeouts, sent, outq, false);
            over.into_iter().for_each(|reason| self.break_off(reason));
        }
    }

    /// Closes the connection if its peer has acknowledged everything and sends nothing more.
    fn look_at_lingering(&mut self) {
        self.linger_period = next_linger_period(self.linger_period);
        let is_still = self.progress.look_at_lingering(self.counters.received_bytes);
        let all_acknowledged = || os::unsent(self.socket).is_ok_and(|outq| outq == 0);
        if is_still && (self.accepted.unix || all_acknowledged()) {
            self.break_off(CloseReason::Finished);
        }
    }

    fn is_time_to_look(&mut self) -> bool {
        let now = os::now();
        let is_time = now >= self.look_at;
        if is_time {
            self.look_at = now + self.timeouts.period();
        }
        is_time
    }

    /// Returns how long it may wait until it is looked at, if it has limits meanwhile.
    pub(crate) fn look_period(&self) -> Option<Duration> {
        if self.connection.lingers_in_drain() {
            return Some(next_linger_period(self.linger_period));
        }
        let owed = !self.connection.outgoing().is_empty();
        (owed || self.timeouts.limit_input()).then(|| self.timeouts.period())
    }

    /// Queues a message of the operator.
    pub(crate) fn deliver(&mut self, message: Chunk) {
        if self.connection.deliver(message, &self.context.memory) {
            self.broken(CloseReason::QueueFull);
        }
    }

    /// Receives once, and perhaps sleeps until there are bytes. Returns them: none at the peer's
    /// end.
    ///
    /// # Errors
    /// recv(2).
    pub(crate) fn recv(&mut self, sleeps: bool) -> io::Result<Chunk> {
        let (calls, key, socket) = (self.calls, self.key, self.socket);
        let size = self.connection.recv_size();
        if size > self.granted {
            self.grant(size);
        }
        if let Some(mut lease) = self.pool.lease(size.min(self.granted)) {
            let buffer = lease.bytes_mut();
            let n = calls.recv(key, socket, buffer, sleeps)?;
            return Ok(if n > 0 { Chunk::received(lease, n) } else { Chunk::EMPTY });
        }
        // The protocol or the queue has them all, and only this thread could free one.
        self.counters.out_of_buffers += 1;
        let mut buffer = vec![0; self.pool.shape(Size(0)).bytes];
        let n = calls.recv(key, socket, &mut buffer, sleeps)?;
        buffer.truncate(n);
        Ok(Chunk::from(buffer))
    }

    /// Lets it receive into buffers of this size, if the memory of all permits it.
    #[cold]
    fn grant(&mut self, size: Size) {
        let size = self.pool.clamp(size);
        let bytes = self.pool.shape(size).bytes;
        if size > self.granted && self.context.memory.permits(bytes) {
            // Less than twice the largest for those of all sizes.
            self.charge.set(2 * bytes);
            self.granted = size;
        }
    }

    /// Passes on what a receive has returned. Returns how many bytes that are.
    pub(crate) fn received(&mut self, received: io::Result<Chunk>) -> usize {
        match received {
            Ok(chunk) if chunk.is_empty() => self.connection.ended(&mut self.context),
            Ok(chunk) => {
                let len = chunk.len();
                self.last_input = self.last_input.map(|left| left.saturating_sub(len as u64));
                self.counters.receives += 1;
                self.counters.received_bytes += len as u64;
                self.connection.received(chunk, &mut self.context);
                return len;
            }
            // A signal came; or nothing is there, and the receive did not sleep or had a timeout.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.last_input = self.last_input.and(Some(0));
            }
            Err(error) => self.break_off(CloseReason::failed(&error)),
        }
        0
    }

    /// The server drains: the connection takes its last input, and then drains.
    pub(crate) fn take_last_input(&mut self) {
        self.last_input = Some(LAST_INPUT);
    }

    /// Returns true if it receives its last input: what is there, without waiting.
    pub(crate) fn takes_last_input(&self) -> bool {
        self.last_input.is_some()
    }

    /// Drains the connection, if it has taken its last input.
    pub(crate) fn drain_if_taken(&mut self) {
        if self.last_input == Some(0) || (self.takes_last_input() && !self.connection.could_recv())
        {
            self.last_input = None;
            self.connection.drain(&mut self.context);
        }
    }

    /// `n` of the queued bytes were sent.
    pub(crate) fn sent(&mut self, n: usize) {
        self.counters.sends += 1;
        self.counters.sent_bytes += n as u64;
        self.connection.sent(n, &mut self.context);
    }

    /// Shuts the outbound direction down: everything is sent, and further input is discarded.
    pub(crate) fn shut_down(&mut self) {
        // It fails only if the peer has reset the connection, which a read will report.
        let _ = self.calls.shutdown(self.key, self.socket, Shutdown::Write);
        self.progress.lingers(self.counters.received_bytes);
        self.connection.shut_down(&mut self.context);
    }

    /// Returns how long it may sleep: until its timer expires.
    pub(crate) fn time_left(&mut self) -> Option<Duration> {
        self.connection.arm_timer(os::now).map(|due| due.since(os::now()))
    }

    /// Lets a receive sleep until the timer expires or the next look is due, or without a limit if
    /// there is neither. Returns false if the timer expires now.
    pub(crate) fn limit_receive(&mut self) -> bool {
        let left = self.time_left();
        if left == Some(Duration::ZERO) {
            return false;
        }
        let span = [left, self.look_period()].into_iter().flatten().min();
        if left.is_some() || span != self.receive_timeout {
            // If this fails, the receive fails with the same error.
            let _ = os::set_receive_timeout(self.socket, span);
        }
        self.receive_timeout = span;
        true
    }

    /// Runs the timer if it expires.
    pub(crate) fn run_timer(&mut self) {
        if self.time_left() == Some(Duration::ZERO) {
            self.connection.run_timer(os::now(), &mut self.context);
        }
    }

    /// Counts and logs the end of the connection, which has received and was sent so many bytes,
    /// and calls its protocol for the last time.
    pub(crate) fn close(&mut self, bytes: [u64; 2]) {
        let failure = self.context.failure.filter(|_| !self.reason.ends_in_order());
        let (reason, addr) = (failure.unwrap_or(self.reason), self.accepted.addr());
        failure.into_iter().for_each(|reason| connection_log::warn(self.number, addr, reason));
        connection_log::closed(self.counters, self.number, addr, bytes, reason);
        self.connection.close(reason, &mut self.context);
        self.counters.panicked += self.context.panicked;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use proactor::buffer::BufferClass;
    use proactor::calls::{AT_ONCE, PlainCalls};
    use proactor::memory::held;
    use proactor::protocol::Discard;

    /// Returns the size of a receive after several large ones, and what is charged for it.
    fn learned(memory: usize) -> (usize, usize) {
        let classes = [BufferClass { bytes: 64, count: 4 }, BufferClass { bytes: 4096, count: 4 }];
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let (mut counters, before) = (Counters::default(), held());
        let whose = (Key(0), socket.as_fd(), 1);
        let limits = Limits::default();
        let account = (&limits, Memory::new(memory));
        let pool = Pool::new(&classes).unwrap();
        let made: Made<Box<dyn Protocol>> = (Box::new(Discard), AcceptedPeer::default());
        let mut driver =
            ConnectionDriver::open(&PlainCalls, whose, made, account, pool, &mut counters);
        peer.write_all(&[b'x'; 20_000]).unwrap();
        let mut size = 0;
        for _ in 0..5 {
            let received = driver.recv(AT_ONCE);
            size = driver.received(received);
        }
        (size, held() - before)
    }

    #[test]
    fn a_connection_has_large_buffers_of_its_own_only_while_the_memory_of_all_permits_it() {
        let (size, charged) = learned(1 << 30);
        assert!(size == 4096 && charged >= 2 * 4096, "{charged}");
        assert_eq!(learned(64 << 10), (64, 0));
    }
}
