//! What few connections are, as bits: one test finds that a connection is none of it.

/// A set of such states.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RareStates(u8);

impl RareStates {
    /// It is a [link](crate::peer::AcceptedPeer::link).
    pub(super) const LINK: RareStates = RareStates(1);
    /// It has broadcast something it received.
    pub(super) const TALKS: RareStates = RareStates(2);
    /// Its group counts it as congested.
    pub(super) const CONGESTED: RareStates = RareStates(4);
    /// It waits for a buffer.
    pub(super) const WAITS_FOR_BUFFER: RareStates = RareStates(8);
    /// From waiting for a buffer until bytes arrive: any size will do.
    pub(super) const ANY_SIZE: RareStates = RareStates(16);
    /// Its [last input](super::last_input) is awaited.
    pub(super) const LAST_INPUT: RareStates = RareStates(32);

    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has(self, states: RareStates) -> bool {
        self.0 & states.0 != 0
    }

    pub(super) fn set(&mut self, states: RareStates, on: bool) {
        self.0 = self.0 & !states.0 | if on { states.0 } else { 0 };
    }
}
