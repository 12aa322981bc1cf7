//! The size of the buffers that a connection receives into.

use crate::buffer::{Fit, Size};

/// Which size of buffer suits the peer, learned from how its chunks fit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RecvSize {
    pub(super) size: Size,
    /// How many chunks in a row have asked for another size; [`NEW`](RecvSize::NEW) before the
    /// first one of this size.
    run: u8,
}

impl RecvSize {
    /// So many tight chunks in a row ask for more …
    const GROW: u8 = 2;
    /// … and so many loose ones for less.
    pub(super) const SHRINK: u8 = 16;
    const NEW: u8 = u8::MAX;

    /// Returns true if the last chunk fitted its buffer.
    pub(super) fn fits(self) -> bool {
        self.run == 0
    }

    /// Learns from how a chunk fitted its buffer.
    #[inline(always)] // Most fit, which is one store.
    pub(super) fn learn(&mut self, fit: Fit) {
        match fit {
            Fit::Tight(size) if size >= self.size => self.change(Size(size.0 + 1), Self::GROW),
            Fit::Loose(size) if size == self.size => self.change(Size(size.0 - 1), Self::SHRINK),
            _ => self.run = 0,
        }
    }

    fn change(&mut self, size: Size, after: u8) {
        self.run = self.run.wrapping_add(1).max(1);
        if self.run >= after {
            *self = RecvSize { size, run: RecvSize::NEW };
        }
    }

    /// Asks for the next smaller size: there was no buffer.
    pub(super) fn lower(&mut self) {
        *self = RecvSize { size: Size(self.size.0.saturating_sub(1)), run: RecvSize::NEW };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{BufferClass, Pool};

    #[test]
    fn recv_size_beyond_the_largest_buffer_is_clamped_by_the_pool() {
        let pool = Pool::new(&[BufferClass { bytes: 64, count: 2 }]).unwrap();
        let mut recv_size = RecvSize::default();
        (0..20).for_each(|_| recv_size.learn(Fit::Tight(pool.clamp(recv_size.size))));
        assert_eq!(recv_size.size, Size(1));
        recv_size.lower();
        assert_eq!(recv_size.size, Size(0));
    }
}
