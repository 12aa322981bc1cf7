//! The watch of the parent over the links to its children: a child that is stopped (SIGSTOP), or
//! blocked, takes nothing of what it is owed, and the others of its group would wait without end.
//!
//! A child evicts a slow client itself, so its link is given longer than that. While nothing waits
//! for a link, there is no timer, and no clock is read.

use std::collections::HashMap;
use std::time::Duration;

use proactor::clock::Nanos;
use proactor::keys::ConnId;

/// What is known of the links that others may wait for.
#[derive(Debug, Default)]
pub(super) struct StallWatch {
    /// When they are looked at next; `None` while nothing waits.
    look_at: Option<Nanos>,
    /// How many bytes each had taken at the last look.
    taken: HashMap<ConnId, u64>,
}

impl StallWatch {
    /// Returns when the next look is due.
    pub(super) fn next_look(&self) -> Option<Nanos> {
        self.look_at
    }

    /// Returns the links that are stalled: they have taken nothing from one look to the next,
    /// `period` later. `owed` has each link that is owed bytes, with how many it has taken; `waits`
    /// says whether anything waits for them.
    pub(super) fn look(
        &mut self,
        waits: bool,
        period: Duration,
        now: impl FnOnce() -> Nanos,
        owed: impl Iterator<Item = (ConnId, u64)>,
    ) -> Vec<ConnId> {
        if !waits {
            self.look_at = None;
            return Vec::new();
        }
        let now = now();
        if self.look_at.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.taken, owed.collect());
        let is_second = self.look_at.replace(now + period).is_some();
        let stalled = self.taken.iter().filter(|(id, taken)| before.get(id) == Some(taken));
        stalled.filter(|_| is_second).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_takes_nothing_from_look_to_look_is_stalled() {
        let mut watch = StallWatch::default();
        let [slow, stuck] = [0, 1].map(|slot| ConnId::new(slot, 0));
        let mut look = |waits, looks: u64, took| {
            let now = || Nanos(looks * 1_000_000_000);
            let period = Duration::from_secs(1);
            let stalled = watch.look(waits, period, now, [(slow, took), (stuck, 7)].into_iter());
            (stalled, watch.next_look().is_some())
        };
        assert_eq!(look(true, 1, 0), (vec![], true), "the first look");
        assert_eq!(look(true, 2, 1), (vec![stuck], true));
        assert_eq!(look(false, 3, 1), (vec![], false), "nothing waits");
        assert_eq!(look(true, 9, 1), (vec![], true), "the first look again");
    }
}
