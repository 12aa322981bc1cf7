//! What a thread does, in one word that other threads may read.

use std::fmt;

/// What a connection's thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ThreadState {
    /// It runs, or is about to run.
    Runs,
    /// It sleeps in a receive, if nothing has arrived.
    Receives,
    /// The same, after everything was sent: input is discarded.
    Lingers,
    /// It sleeps until its peer is gone, and others may send to it.
    Stays,
    /// It waits for its own write lock.
    LocksWriter,
    /// It sends, and sleeps while its peer takes nothing.
    Sends,
    /// It waits for the write lock of the connection of that number, to write a broadcast.
    LocksWriterOf(u64),
    /// It writes a broadcast to the connection of that number, and sleeps while that takes nothing.
    SendsTo(u64),
}

impl ThreadState {
    /// Returns true if it sleeps for its own peer: only then may it be interrupted for messages.
    pub(super) fn may_be_woken(self) -> bool {
        matches!(self, ThreadState::Receives | ThreadState::Stays)
    }

    /// Returns true if it waits for input of its peer.
    pub(super) fn receives(self) -> bool {
        matches!(self, ThreadState::Receives | ThreadState::Lingers)
    }
}

impl From<ThreadState> for u64 {
    fn from(state: ThreadState) -> u64 {
        match state {
            ThreadState::Runs => 0,
            ThreadState::Receives => 1,
            ThreadState::Lingers => 2,
            ThreadState::Stays => 3,
            ThreadState::LocksWriter => 4,
            ThreadState::Sends => 5,
            ThreadState::LocksWriterOf(number) => 6 | number << 3,
            ThreadState::SendsTo(number) => 7 | number << 3,
        }
    }
}

impl From<u64> for ThreadState {
    fn from(word: u64) -> ThreadState {
        match word & 7 {
            0 => ThreadState::Runs,
            1 => ThreadState::Receives,
            2 => ThreadState::Lingers,
            3 => ThreadState::Stays,
            4 => ThreadState::LocksWriter,
            5 => ThreadState::Sends,
            6 => ThreadState::LocksWriterOf(word >> 3),
            _ => ThreadState::SendsTo(word >> 3),
        }
    }
}

impl fmt::Display for ThreadState {
    /// As `list` shows it: the call that it sleeps in, or what it waits for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ThreadState::Runs => f.write_str("runs"),
            ThreadState::Receives => f.write_str("recv"),
            ThreadState::Lingers => f.write_str("recv, lingering"),
            ThreadState::Stays => f.write_str("poll"),
            ThreadState::LocksWriter => f.write_str("its write lock"),
            ThreadState::Sends => f.write_str("send"),
            ThreadState::LocksWriterOf(number) => write!(f, "write lock of {number}"),
            ThreadState::SendsTo(number) => write!(f, "send to {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_state_fits_a_word() {
        let all = [
            ThreadState::Runs,
            ThreadState::Receives,
            ThreadState::Lingers,
            ThreadState::Stays,
            ThreadState::LocksWriter,
            ThreadState::Sends,
            ThreadState::LocksWriterOf(1 << 60),
            ThreadState::SendsTo(3),
        ];
        assert!(all.iter().all(|&state| ThreadState::from(u64::from(state)) == state));
        assert_eq!(all[7].to_string(), "send to 3");
    }
}
