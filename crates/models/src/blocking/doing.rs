//! What a thread does, in a word that others may read.

use std::fmt;

/// What a connection's thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It runs, or is about to.
    Runs,
    /// It sleeps in a receive, if nothing has come.
    Receives,
    /// The same, with all said: what comes is discarded.
    Lingers,
    /// It sleeps until its peer is gone, and is there for what others say.
    Stays,
    /// Another writes to its socket: it waits for the pen.
    WaitsForPen,
    /// It sends, and sleeps while its peer takes nothing.
    Sends,
    /// It waits for the pen of the one of that number, to write what it says.
    WaitsForPenOf(u64),
    /// It writes to the one of that number what it says, and sleeps while that one takes nothing.
    SendsTo(u64),
}

impl Doing {
    /// Whether it sleeps until its own peer moves: only then may it be woken for its mail.
    pub(super) fn may_be_woken(self) -> bool {
        matches!(self, Doing::Receives | Doing::Stays)
    }

    /// Whether it waits for what its peer says.
    pub(super) fn receives(self) -> bool {
        matches!(self, Doing::Receives | Doing::Lingers)
    }
}

impl From<Doing> for u64 {
    fn from(doing: Doing) -> u64 {
        match doing {
            Doing::Runs => 0,
            Doing::Receives => 1,
            Doing::Lingers => 2,
            Doing::Stays => 3,
            Doing::WaitsForPen => 4,
            Doing::Sends => 5,
            Doing::WaitsForPenOf(number) => 6 | number << 3,
            Doing::SendsTo(number) => 7 | number << 3,
        }
    }
}

impl From<u64> for Doing {
    fn from(word: u64) -> Doing {
        match word & 7 {
            0 => Doing::Runs,
            1 => Doing::Receives,
            2 => Doing::Lingers,
            3 => Doing::Stays,
            4 => Doing::WaitsForPen,
            5 => Doing::Sends,
            6 => Doing::WaitsForPenOf(word >> 3),
            _ => Doing::SendsTo(word >> 3),
        }
    }
}

impl fmt::Display for Doing {
    /// As `list` has it: the call that it sleeps in, or what it waits for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doing::Runs => f.write_str("runs"),
            Doing::Receives => f.write_str("recv"),
            Doing::Lingers => f.write_str("recv, lingering"),
            Doing::Stays => f.write_str("poll"),
            Doing::WaitsForPen => f.write_str("its pen"),
            Doing::Sends => f.write_str("send"),
            Doing::WaitsForPenOf(number) => write!(f, "pen of {number}"),
            Doing::SendsTo(number) => write!(f, "send to {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_does_fits_a_word() {
        let all = [
            Doing::Runs,
            Doing::Receives,
            Doing::Lingers,
            Doing::Stays,
            Doing::WaitsForPen,
            Doing::Sends,
            Doing::WaitsForPenOf(1 << 60),
            Doing::SendsTo(3),
        ];
        assert!(all.iter().all(|&doing| Doing::from(u64::from(doing)) == doing));
        assert_eq!(all[7].to_string(), "send to 3");
    }
}
