//! The watch of the parent over children that do not run: a child that is stopped (SIGSTOP) or
//! blocked takes nothing from its link, and the others of its group would wait without end.
//!
//! A child that runs need not take from its link: its own client may read slowly. But then it looks
//! at its client four times in the shortest time limit, and counts an iteration each time, so a
//! child whose link is congested and whose iterations stay the same does not run. While no link is
//! congested, there is no timer, and no clock is read.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use proactor::clock::Nanos;
use proactor::limits::Timeouts;
use proactor::timeouts::LookState;

/// What is known of the children whose links are congested. `K` names a child.
#[derive(Debug)]
pub(super) struct StallWatch<K> {
    /// When they are looked at next; `None` while no link is congested.
    look_at: Option<Nanos>,
    seen: HashMap<K, LookState>,
}

impl<K: Hash + Eq + Copy> StallWatch<K> {
    /// A watch over no child.
    pub(super) fn new() -> StallWatch<K> {
        StallWatch { look_at: None, seen: HashMap::new() }
    }

    /// Returns when the next look is due.
    pub(super) fn next_look(&self) -> Option<Nanos> {
        self.look_at
    }

    /// No link is congested.
    pub(super) fn rest(&mut self) {
        *self = StallWatch::new();
    }

    /// Returns true if a look is due.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        self.look_at.is_none_or(|at| at <= now)
    }

    /// Looks at the children whose links are congested, each with a number that grows while it runs
    /// or takes from its link. Returns those that have done neither for `limit`: four looks in a
    /// row. While the parent is stopped as well, no look comes.
    pub(super) fn look(
        &mut self,
        limit: Duration,
        now: Nanos,
        congested: impl Iterator<Item = (K, u64)>,
    ) -> Vec<K> {
        let mut limits = Timeouts::default();
        (limits.evict, limits.send) = (Some(limit), None);
        self.look_at = Some(now + limits.period());
        let (mut before, mut stalled) = (std::mem::take(&mut self.seen), Vec::new());
        for (child, progress) in congested {
            let mut state = before.remove(&child).unwrap_or_default();
            let over = state.look_at_output(&limits, progress, None, true);
            stalled.extend(over.map(|_| child));
            self.seen.insert(child, state);
        }
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_does_not_run_is_stalled_after_four_looks_without_a_change() {
        let (limit, mut watch) = (Duration::from_secs(4), StallWatch::new());
        let mut now = Nanos(0);
        let mut look = |congested: &[(&'static str, u64)]| {
            now = watch.next_look().unwrap_or(now);
            assert!(watch.is_due(now));
            watch.look(limit, now, congested.iter().copied())
        };
        for n in 0..4 {
            assert!(look(&[("runs", n), ("stopped", 7)]).is_empty(), "look {n}");
        }
        assert_eq!(look(&[("runs", 4), ("stopped", 7)]), ["stopped"]);
        // Not congested at one look: it begins anew.
        assert!(look(&[("runs", 5)]).is_empty());
        assert!(look(&[("runs", 6), ("stopped", 7)]).is_empty());
        assert_eq!(now, Nanos(6_000_000_000));
        watch.rest();
        assert_eq!(watch.next_look(), None);
    }
}
