//! What a thread does, in one word that other threads may read.

use std::fmt;

/// What a connection's thread does; the low three bits say which, the others of which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ThreadState(pub(super) u64);

/// What `list` shows: the call that it sleeps in, or what it waits for.
const TEXTS: [&str; 8] = [
    "runs",
    "recv",
    "recv, lingering",
    "poll",
    "its write lock",
    "send",
    "write lock of",
    "send to",
];

impl ThreadState {
    /// It runs, or is about to run.
    pub(super) const RUNS: ThreadState = ThreadState(0);
    /// It sleeps in a receive, if nothing has arrived.
    pub(super) const RECEIVES: ThreadState = ThreadState(1);
    /// The same, after everything was sent: input is discarded.
    pub(super) const LINGERS: ThreadState = ThreadState(2);
    /// It sleeps until its peer is gone, and others may send to it.
    pub(super) const STAYS: ThreadState = ThreadState(3);
    /// It waits for its own write lock.
    pub(super) const LOCKS_WRITER: ThreadState = ThreadState(4);
    /// It sends, and sleeps while its peer takes nothing.
    pub(super) const SENDS: ThreadState = ThreadState(5);

    /// It waits for the write lock of the connection of that number, to write a broadcast.
    pub(super) const fn locks_writer_of(number: u64) -> ThreadState {
        ThreadState(6 | number << 3)
    }

    /// It writes a broadcast to the connection of that number, and sleeps while that takes nothing.
    pub(super) const fn sends_to(number: u64) -> ThreadState {
        ThreadState(7 | number << 3)
    }

    /// Returns true if it sleeps for its own peer: only then may it be interrupted for messages.
    pub(super) fn may_be_woken(self) -> bool {
        matches!(self, ThreadState::RECEIVES | ThreadState::STAYS)
    }

    /// Returns true if it waits for input of its peer.
    pub(super) fn receives(self) -> bool {
        matches!(self, ThreadState::RECEIVES | ThreadState::LINGERS)
    }

    /// Returns true if it writes to another connection.
    pub(super) fn sends_to_another(self) -> bool {
        self.0 & 7 == 7
    }
}

impl fmt::Display for ThreadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, number) = ((self.0 & 7) as usize, self.0 >> 3);
        if kind < 6 { f.write_str(TEXTS[kind]) } else { write!(f, "{} {number}", TEXTS[kind]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_state_fits_a_word() {
        let sends = ThreadState::sends_to(3);
        assert_eq!((sends.to_string(), sends.sends_to_another()), ("send to 3".to_owned(), true));
        let locks = ThreadState::locks_writer_of(1 << 60);
        assert_eq!(locks.to_string(), format!("write lock of {}", 1u64 << 60));
        assert!(!locks.sends_to_another() && !ThreadState::STAYS.sends_to_another());
        let others = [ThreadState::RUNS, ThreadState::LINGERS, ThreadState::LOCKS_WRITER];
        assert_eq!(others.map(|it| it.to_string()), ["runs", "recv, lingering", "its write lock"]);
    }
}
