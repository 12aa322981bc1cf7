//! What a protocol needs of the I/O model that drives it.

use std::ops::BitOr;

/// What a protocol needs of the I/O model that drives it, so that a model that cannot provide it
/// refuses instead of losing something silently. Combine needs with `|`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs(u8);

impl Needs {
    /// Everything: right for every protocol.
    pub const ALL: Needs = Needs(3);
    /// Connections that neither broadcast nor share memory.
    pub const NOTHING: Needs = Needs(0);
    /// Broadcasts reach the other connections of the listener.
    pub const BROADCAST: Needs = Needs(1);
    /// What the factory captured is one object for all connections. A model that forks a process
    /// for each connection would copy it.
    pub const SHARED_MEMORY: Needs = Needs(2);

    /// Returns whether all of `other` is needed.
    pub const fn contains(self, other: Needs) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Needs {
    type Output = Needs;

    fn bitor(self, other: Needs) -> Needs {
        Needs(self.0 | other.0)
    }
}
