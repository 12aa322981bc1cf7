//! What a connection is, as bits.

/// A set of bits, so that one test finds that a connection is
/// [ordinary](super::Connection::is_ordinary).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ConnectionFlags(u16);

impl ConnectionFlags {
    /// From `pause` to `resume`.
    pub(super) const PAUSED: u16 = 1;
    /// Input is held for the protocol.
    pub(super) const HELD: u16 = 2;
    /// The peer's end has come: the inbound direction is closed.
    pub(super) const ENDED: u16 = 4;
    /// From holding its share until it holds little of it: the peer reads too slowly.
    pub(super) const CONGESTED: u16 = 8;
    /// From the protocol's request, or an announcement that it missed, until it is called for it.
    pub(super) const AWAITS_REFILL: u16 = 16;
    /// The call of `end` is due.
    pub(super) const END: u16 = 32;
    /// The call of `drain` is due.
    pub(super) const DRAIN: u16 = 64;
    /// The server drains this connection.
    pub(super) const DRAINING: u16 = 128;
    /// The timer was set and is not armed yet: `timer` is a duration.
    pub(super) const TIMER_SET: u16 = 256;
    /// The protocol asked for a refill.
    pub(super) const REFILL: u16 = 512;
    /// The protocol has sent more than it received: large inputs are cut for it.
    pub(super) const GROWS: u16 = 1024;
    /// The protocol's `close` was called, or the protocol panicked.
    pub(super) const CLOSED: u16 = 2048;
    /// The outbound direction is not `Outbound::Open`.
    pub(super) const NOT_OPEN: u16 = 4096;
    /// Neither input, nor the end, nor a drain reaches the protocol.
    pub(super) const WAITS: u16 = Self::PAUSED | Self::HELD;
    /// What a connection is not that does nothing but receive and send.
    pub(super) const RARE: u16 =
        Self::WAITS | Self::ENDED | Self::CONGESTED | Self::AWAITS_REFILL | Self::NOT_OPEN;

    pub(super) fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    pub(super) fn set(&mut self, bits: u16) {
        self.0 |= bits;
    }

    /// Sets or clears `bits`.
    pub(super) fn set_to(&mut self, bits: u16, on: bool) {
        self.0 = self.0 & !bits | if on { bits } else { 0 };
    }

    /// Clears `bits`. Returns whether any was set.
    pub(super) fn take(&mut self, bits: u16) -> bool {
        let had = self.has(bits);
        self.0 &= !bits;
        had
    }
}
