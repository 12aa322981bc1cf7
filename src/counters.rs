//! What every server counts, always: one addition each, no clock.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::CloseReason;

/// Defines the counters by their names, so that no list of them can miss one.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the start. The names are the same in every I/O model; a counter that a
        /// model does not use stays zero.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// The number of counters.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            fn each(&mut self) -> [(&'static str, &mut u64); Counters::COUNT] {
                [$((stringify!($name), &mut self.$name)),*]
            }
        }
    };
}

counters! {
    /// Iterations of the loop: each waits at most once.
    iterations,
    /// System calls of the thread.
    calls,
    /// Operations submitted to a ring.
    submitted,
    /// Completions reaped from a ring, or reports of readiness.
    completed,
    /// Enters after which completions waited outside a full completion queue.
    overflows,
    /// Connections that were accepted.
    accepted,
    /// Connections that were closed.
    closed,
    /// Accepts that failed because descriptors or memory ran out; then the accepts paused.
    refused,
    /// Accepts that failed because the connection was lost before.
    accepts_lost,
    /// Accepts that failed for good; then the listener ended.
    accepts_ended,
    /// Receives that returned bytes.
    receives,
    /// Bytes that were received.
    received_bytes,
    /// Sends that took at least one byte.
    sends,
    /// Bytes that were sent.
    sent_bytes,
    /// Sends of which the socket took a part, or nothing for now; a send that sleeps until all is
    /// taken is none.
    short_sends,
    /// Receives that found no buffer.
    out_of_buffers,
    /// Multishot receives that ended because the kernel had no buffer left.
    multishot_no_buffer,
    /// Multishot receives that were cancelled, to be armed in another way or not at all.
    multishot_cancelled,
    /// Multishot receives that ended with the peer's end.
    multishot_end,
    /// Multishot receives that failed.
    multishot_failed,
    /// Multishot receives that ended though they brought bytes: the completion queue was full, for
    /// the most part.
    multishot_with_bytes,
    /// Connections evicted because other connections waited for them.
    evicted,
    /// Connections still open at the drain's deadline.
    cut,
    /// Calls of a protocol that panicked; each costs its connection.
    panicked,
    /// Connections that ended in order.
    finished,
    /// Connections of which a call on the socket failed: a reset, for the most part.
    failed,
    /// Connections whose peer did not close in time.
    lingered,
    /// Connections that the operator or a handle closed.
    kicked,
    /// Connections that their protocol aborted, or that left too much input untaken.
    aborted,
    /// Connections that reached the limit of connections: while it holds, further ones wait.
    full,
    /// How often the accepts paused because the memory was full.
    memory_full,
    /// Connections that had never sent a byte, closed at the limit of connections.
    silent,
    /// Connections closed at once because their address had too many.
    address_limit,
    /// Connections closed at once because their address connected too often.
    address_rate,
    /// How often the accepts paused because of the accept rate.
    accept_rate,
    /// Connections of which the peer acknowledged nothing of what it was owed, in time.
    send_timeouts,
    /// Connections that were idle for too long.
    idle_timeouts,
    /// Connections of which the first byte did not come in time.
    first_byte_timeouts,
    /// Connections of which a message was not complete in time.
    receive_timeouts,
    /// Connections closed because they did not begin with a valid PROXY header.
    proxy_header,
    /// Connections that were evicted and are closed.
    closed_evicted,
    /// Connections that the end of the drain has closed.
    closed_cut,
    /// Connections whose protocol panicked and that are closed.
    closed_panicked,
    /// Connections closed because no descriptor, memory or thread was left for them.
    closed_refused,
}

impl Counters {
    /// Returns each counter with its name, in the order of declaration.
    pub fn named(mut self) -> [(&'static str, u64); Counters::COUNT] {
        self.each().map(|(name, counter)| (name, *counter))
    }

    /// Returns the counters with these names. Unknown names are ignored, and missing ones are zero.
    pub fn from_named<'n>(named: impl IntoIterator<Item = (&'n str, u64)>) -> Counters {
        let mut counters = Counters::default();
        for (name, value) in named {
            let found = counters.each().into_iter().find(|(known, _)| *known == name);
            found.into_iter().for_each(|(_, counter)| *counter = value);
        }
        counters
    }

    /// Counts a connection that was closed, and why: each by exactly one reason. `evicted`, `cut`
    /// and `panicked` were counted when that happened.
    pub fn close(&mut self, reason: CloseReason) {
        self.closed += 1;
        let by_reason = match reason {
            CloseReason::Finished => &mut self.finished,
            CloseReason::Failed(_) => &mut self.failed,
            CloseReason::LingerTimeout => &mut self.lingered,
            CloseReason::Kicked | CloseReason::Handle => &mut self.kicked,
            CloseReason::Aborted => &mut self.aborted,
            CloseReason::Silent => &mut self.silent,
            CloseReason::AddressLimit => &mut self.address_limit,
            CloseReason::AddressRate => &mut self.address_rate,
            CloseReason::SendTimeout(_) => &mut self.send_timeouts,
            CloseReason::Idle(_) => &mut self.idle_timeouts,
            CloseReason::NoFirstByte(_) => &mut self.first_byte_timeouts,
            CloseReason::Incomplete(_) => &mut self.receive_timeouts,
            CloseReason::ProxyHeader => &mut self.proxy_header,
            CloseReason::Stalled(_) | CloseReason::QueueFull => &mut self.closed_evicted,
            CloseReason::Cut => &mut self.closed_cut,
            CloseReason::Panicked => &mut self.closed_panicked,
            CloseReason::Refused => &mut self.closed_refused,
        };
        *by_reason += 1;
    }

    /// Publishes the counters to `live`.
    pub fn store(mut self, live: &LiveCounters) {
        for (live, (_, value)) in live.iter().zip(self.each()) {
            live.store(*value, Ordering::Relaxed);
        }
    }

    /// Returns what was published. The values are not of one instant.
    pub fn load(live: &LiveCounters) -> Counters {
        let mut counters = Counters::default();
        for (live, (_, value)) in live.iter().zip(counters.each()) {
            *value = live.load(Ordering::Relaxed);
        }
        counters
    }
}

/// Counters that one thread or process writes and any may read: on x86-64, plain stores and loads.
pub type LiveCounters = [AtomicU64; Counters::COUNT];

/// Returns counters that have counted nothing.
pub fn live() -> LiveCounters {
    [const { AtomicU64::new(0) }; Counters::COUNT]
}

impl AddAssign for Counters {
    /// Adds each counter: the sum over the threads of one server.
    fn add_assign(&mut self, mut other: Counters) {
        for ((_, sum), (_, counter)) in self.each().into_iter().zip(other.each()) {
            *sum += *counter;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let mut counters = Counters::default();
        (1..).zip(counters.each()).for_each(|(n, (_, counter))| *counter = n);
        assert_eq!(Counters::from_named(counters.named()), counters);
        let some = Counters::from_named([("cut", 2), ("no such counter", 3)]);
        assert_eq!(some, Counters { cut: 2, ..Counters::default() });
    }

    #[test]
    fn a_close_is_counted_by_one_reason() {
        let reasons = [
            (CloseReason::Finished, "finished"),
            (CloseReason::Failed(libc::EPIPE), "failed"),
            (CloseReason::LingerTimeout, "lingered"),
            (CloseReason::Kicked, "kicked"),
            (CloseReason::Handle, "kicked"),
            (CloseReason::Aborted, "aborted"),
            (CloseReason::Silent, "silent"),
            (CloseReason::AddressLimit, "address_limit"),
            (CloseReason::AddressRate, "address_rate"),
            (CloseReason::SendTimeout(Duration::MAX), "send_timeouts"),
            (CloseReason::Idle(Duration::MAX), "idle_timeouts"),
            (CloseReason::NoFirstByte(Duration::MAX), "first_byte_timeouts"),
            (CloseReason::Incomplete(Duration::MAX), "receive_timeouts"),
            (CloseReason::ProxyHeader, "proxy_header"),
            (CloseReason::Stalled(Duration::MAX), "closed_evicted"),
            (CloseReason::QueueFull, "closed_evicted"),
            (CloseReason::Cut, "closed_cut"),
            (CloseReason::Panicked, "closed_panicked"),
            (CloseReason::Refused, "closed_refused"),
        ];
        for (reason, name) in reasons {
            let mut counters = Counters::default();
            counters.close(reason);
            let expected = Counters::from_named([("closed", 1), (name, 1)]);
            assert_eq!(counters, expected, "{reason:?}");
        }
    }

    #[test]
    fn a_sum_adds_every_counter() {
        let (mut sum, mut one) = (Counters::default(), Counters::default());
        (1..).zip(one.each()).for_each(|(n, (_, counter))| *counter = n);
        sum += one;
        sum += one;
        assert!((1..).zip(sum.named()).all(|(n, (_, counter))| counter == 2 * n));
    }
}
