//! What goes wrong, how often, and how often it did.

use std::fmt;
use std::ops::{AddAssign, Index};

/// A kind of thing that a kernel may do and that is easily forgotten.
///
/// Most are rolled for, at the rate that [`Faults`] gives; the last few are brought about by the
/// chance in which order things happen, and have no rate. All are counted where they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A receive returns less than was there and than fits.
    ShortRecv,
    /// A send takes less than it was given.
    ShortSend,
    /// A multishot operation ends with a success that lacks F_MORE.
    MultishotEnded,
    /// A receive finds no buffer (`ENOBUFS`) although some were lent.
    NoBuffers,
    /// The peer resets the connection; a receive says so.
    RecvReset,
    /// The peer resets the connection; a send says so.
    SendReset,
    /// A receive is interrupted (`EINTR`).
    RecvInterrupted,
    /// A receive, or a send before its first byte, is refused for want of memory (`ENOMEM`).
    NoMemory,
    /// An accept finds no descriptor (`EMFILE`, `ENFILE`).
    AcceptExhausted,
    /// A connection is lost before it is accepted (`ECONNABORTED`).
    AcceptAborted,
    /// An answer comes late: what was submitted after it is answered before it.
    Late,
    /// A cancel finds its target too far gone (`EALREADY`); it ends by itself, perhaps with bytes.
    CancelTooLate,
    /// Bytes arrive after the cancel was submitted and before `ECANCELED`.
    DataAfterCancel,
    /// The completion queue is full: completions wait outside, multishots end.
    Overflow,
    /// The submission queue is full before its time.
    QueueFull,
    /// The kernel takes a part of what is queued, and does not sleep.
    PartialSubmit,
    /// A signal ends the sleep; nothing has completed.
    EnterInterrupted,
    /// The descriptor of the shutdown signal is reported readable without a request.
    SpuriousWake,
    /// A send with a skipped completion fails or is short although there is space.
    SkippedSendFails,
    /// A read of what is typed brings less than there was.
    ShortRead,
    /// A read of what is typed is interrupted (`EINTR`).
    ReadInterrupted,
    /// What is typed cannot be read (`EIO`).
    ReadFailed,
    /// An accept brings a descriptor that is no socket.
    AcceptBogus,
    /// A cancel is answered before its target. By chance.
    CancelFirst,
    /// A cancel is answered after its target. By chance.
    TargetFirst,
    /// A cancel finds nothing (`ENOENT`): its target has completed. By chance.
    CancelFoundNothing,
    /// A socket's number is used again before the loop knows that the socket is closed. By chance.
    SocketReused,
}

impl Fault {
    /// All of them, in the order of their numbers.
    pub const ALL: [Fault; 27] = [
        Fault::ShortRecv,
        Fault::ShortSend,
        Fault::MultishotEnded,
        Fault::NoBuffers,
        Fault::RecvReset,
        Fault::SendReset,
        Fault::RecvInterrupted,
        Fault::NoMemory,
        Fault::AcceptExhausted,
        Fault::AcceptAborted,
        Fault::Late,
        Fault::CancelTooLate,
        Fault::DataAfterCancel,
        Fault::Overflow,
        Fault::QueueFull,
        Fault::PartialSubmit,
        Fault::EnterInterrupted,
        Fault::SpuriousWake,
        Fault::SkippedSendFails,
        Fault::ShortRead,
        Fault::ReadInterrupted,
        Fault::ReadFailed,
        Fault::AcceptBogus,
        Fault::CancelFirst,
        Fault::TargetFirst,
        Fault::CancelFoundNothing,
        Fault::SocketReused,
    ];

    /// Whether only some scenarios have it: it is about what is typed at a console, or a connection
    /// comes of it that no client has made.
    pub fn is_special(self) -> bool {
        let of_console =
            matches!(self, Fault::ShortRead | Fault::ReadInterrupted | Fault::ReadFailed);
        of_console || self == Fault::AcceptBogus
    }

    /// Whether it costs a connection.
    pub fn is_reset(self) -> bool {
        matches!(self, Fault::RecvReset | Fault::SendReset)
    }
}

/// How likely each fault is: per mille of the occasions for it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    rates: [u16; Fault::ALL.len()],
}

impl Faults {
    /// No faults at all.
    pub const NONE: Faults = Faults { rates: [0; Fault::ALL.len()] };

    /// Makes each fault off, rare or frequent, by chance. Some must be off: with all faults at
    /// once, a long run without a reset, for example, would never happen. Special faults are off.
    pub fn some(dice: &mut Dice) -> Faults {
        let mut faults = Faults::NONE;
        for fault in Fault::ALL.into_iter().filter(|fault| !fault.is_special()) {
            let rate = [0, 0, 20, 100, 300][dice.below(5)];
            faults = faults.with(fault, if fault.is_reset() { rate / 20 } else { rate });
        }
        faults
    }

    /// The same, but for the rate of one.
    pub fn with(mut self, fault: Fault, per_mille: u16) -> Faults {
        self.rates[fault as usize] = per_mille;
        self
    }

    /// The same, without those that cost a connection.
    pub fn without_resets(self) -> Faults {
        self.with(Fault::RecvReset, 0).with(Fault::SendReset, 0)
    }

    /// The rate of one.
    pub fn rate(&self, fault: Fault) -> u16 {
        self.rates[fault as usize]
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = Fault::ALL.into_iter().filter(|&fault| self.rate(fault) > 0);
        f.debug_map().entries(on.map(|fault| (fault, self.rate(fault)))).finish()
    }
}

/// How often each fault happened.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    counts: [u64; Fault::ALL.len()],
}

impl FaultCounts {
    pub(super) fn count(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }
}

impl Index<Fault> for FaultCounts {
    type Output = u64;

    fn index(&self, fault: Fault) -> &u64 {
        &self.counts[fault as usize]
    }
}

impl AddAssign<&FaultCounts> for FaultCounts {
    fn add_assign(&mut self, other: &FaultCounts) {
        for fault in Fault::ALL {
            self.counts[fault as usize] += other[fault];
        }
    }
}

impl fmt::Debug for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fired = Fault::ALL.into_iter().filter(|&fault| self[fault] > 0);
        f.debug_map().entries(fired.map(|fault| (fault, self[fault]))).finish()
    }
}

/// Chance that a seed decides: splitmix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same rolls.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Returns any 64-bit number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// Whether something happens that happens so often.
    pub fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.below(1000) < usize::from(per_mille)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_stands_at_its_number() {
        assert!(Fault::ALL.iter().enumerate().all(|(at, &fault)| fault as usize == at));
    }

    #[test]
    fn chance_keeps_its_rate() {
        let mut dice = Dice::new(1);
        let often = (0..10_000).filter(|_| dice.chance(100)).count();
        assert!((800..1200).contains(&often), "{often}");
        assert!((0..1000).all(|_| !dice.chance(0) && dice.chance(1000)));
    }
}
