//! Tracepoints, and fields of tracepoints, that the running kernel does not have.
//!
//! Each is one line that says what is unknown, so that an unknown count is never shown as zero.

use std::fmt;

use super::Tracepoint;

/// Something that this kernel does not trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// The tracepoint does not exist, or its events do not name the ring or the operation.
    Tracepoint(Tracepoint),
    /// Completion events have no flags.
    Flags,
}

impl Missing {
    /// The entry for a tracepoint; `None` if nothing is unknown without it.
    pub(super) fn of(tracepoint: Tracepoint) -> Option<Missing> {
        // It is as old as the only rings that have such work (`DEFER_TASKRUN`, 6.1).
        (tracepoint != Tracepoint::LocalWorkRun).then_some(Missing::Tracepoint(tracepoint))
    }

    /// The kernel's name for what is missing.
    pub fn name(self) -> &'static str {
        match self {
            Missing::Tracepoint(tracepoint) => tracepoint.names()[0],
            Missing::Flags => "io_uring_complete.cflags",
        }
    }

    /// The entry with this [name](Missing::name).
    pub fn from_name(name: &str) -> Option<Missing> {
        let all = Tracepoint::ALL.map(Missing::Tracepoint).into_iter().chain([Missing::Flags]);
        all.into_iter().find(|missing| missing.name() == name)
    }

    /// What is unknown without it.
    pub fn unknown(self) -> &'static str {
        let Missing::Tracepoint(tracepoint) = self else {
            return "which completions are multishot or have a buffer is unknown";
        };
        match tracepoint {
            Tracepoint::Create => "how rings were created is unknown",
            Tracepoint::SubmitReq => "submissions are unknown",
            Tracepoint::ReqFailed => "a rejected submission is seen only when it completes",
            Tracepoint::Complete => "completions are unknown",
            Tracepoint::CqeOverflow => "completions that overflowed the queue look like any other",
            Tracepoint::TaskAdd => "arrival times are unknown",
            Tracepoint::QueueAsyncWork => {
                "the work of the kernel's worker threads (io-wq) is unknown"
            }
            Tracepoint::PollArm => "which requests waited by polling is unknown",
            Tracepoint::LocalWorkRun => "runs of deferred work are unknown",
            Tracepoint::CqringWait => "sleeps are unknown",
            Tracepoint::FailLink => "broken links are seen only as cancelled requests",
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} on this kernel: {}", self.name(), self.unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_its_name_and_is_one_line() {
        for missing in Tracepoint::ALL.map(Missing::Tracepoint).into_iter().chain([Missing::Flags])
        {
            assert_eq!(Missing::from_name(missing.name()), Some(missing));
            let line = missing.to_string();
            assert!(line.contains(missing.name()) && !line.contains('\n'), "{line}");
        }
        assert_eq!(Missing::from_name("io_uring_submit_sqe"), None);
        assert_eq!(Missing::of(Tracepoint::LocalWorkRun), None);
    }
}
