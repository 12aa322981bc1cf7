//! Tracepoints, and fields of tracepoints, that the running kernel does not have.
//!
//! Each is one line that says what is unknown, so that an unknown count is never shown as zero.

use std::fmt;

use serde::{Serialize, Serializer};

use super::Tracepoint;

/// Something that this kernel does not trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// The tracepoint does not exist, or its events do not name the ring or the operation.
    Tracepoint(Tracepoint),
    /// Completion events have no flags.
    Flags,
    /// Completion events do not name the request.
    Request,
}

impl Missing {
    /// The fields that may be missing.
    pub(super) const FIELDS: [Missing; 2] = [Missing::Flags, Missing::Request];

    /// The entry for a tracepoint; `None` if nothing is unknown without it.
    pub(super) fn of(tracepoint: Tracepoint) -> Option<Missing> {
        // It is as old as the only rings that have such work (`DEFER_TASKRUN`, 6.1).
        (tracepoint != Tracepoint::LocalWorkRun).then_some(Missing::Tracepoint(tracepoint))
    }

    /// The kernel's name for what is missing.
    pub fn name(self) -> &'static str {
        match self {
            Missing::Tracepoint(tracepoint) => tracepoint.name(),
            Missing::Flags => "io_uring_complete.cflags",
            Missing::Request => "io_uring_complete.req",
        }
    }

    /// The entry with this [name](Missing::name).
    pub fn from_name(name: &str) -> Option<Missing> {
        let all = Tracepoint::ALL.iter().copied().map(Missing::Tracepoint);
        all.chain(Missing::FIELDS).find(|missing| missing.name() == name)
    }
}

impl Serialize for Missing {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.name().serialize(to)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = match self {
            Missing::Tracepoint(tracepoint) => tracepoint.unknown(),
            Missing::Flags => "which completions are multishot or have a buffer is unknown",
            Missing::Request => {
                "completions are matched by their user data, and messages of other rings are not \
                 known as such"
            }
        };
        write!(f, "no {} on this kernel: {unknown}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_its_name_and_is_one_line() {
        for missing in
            Tracepoint::ALL.iter().copied().map(Missing::Tracepoint).chain(Missing::FIELDS)
        {
            assert_eq!(Missing::from_name(missing.name()), Some(missing));
            let line = missing.to_string();
            assert!(line.contains(missing.name()) && !line.contains('\n'), "{line}");
        }
        assert_eq!(Missing::from_name("io_uring_submit_sqe"), None);
        assert_eq!(Missing::of(Tracepoint::LocalWorkRun), None);
    }
}
