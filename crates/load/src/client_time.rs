//! Where the time of a slice went, as the client's polls show it. No sockets, no clock.
//!
//! ```text
//!   poll that found    nothing                    replies
//!                      │ short: idle, the         │ the poll before it found nothing: in time
//!                      │   client waited          │ found some too: behind, they waited for the
//!                      └ long: paused, it was     └   client
//!                          off its CPU
//! ```
//!
//! A server that sends nothing shows as a gap. A pause of the client belongs to it only if the poll
//! after the pause found nothing: else a reply may have come at its beginning.

use std::time::Duration;

use super::Polled;
use super::slice::{GAP_MIN, LoadSlice};

/// A poll that finds nothing takes about a microsecond. If it takes longer than this, the client
/// was off its CPU.
const POLL_MAX: Duration = Duration::from_micros(200);

/// The polls of a slice so far.
#[derive(Debug, Default)]
pub(super) struct ClientTime {
    idle: Duration,
    behind: Duration,
    paused: Duration,
    longest_gap: Duration,
    in_gaps: Duration,
    /// The time since the last reply, without the pause that follows it.
    gap: Duration,
    /// The length of the last poll, if the client paused in it.
    pause: Duration,
    /// Whether the last poll found replies.
    found: bool,
    receives: usize,
    receiving_polls: usize,
}

impl ClientTime {
    /// Adds a poll, and what was done with its events. `owed`: replies are outstanding.
    pub(super) fn add(&mut self, polled: Polled, span: Duration, owed: bool) {
        let found = polled.receives > 0;
        match polled {
            Polled { any_event: false, .. } if span > POLL_MAX => self.paused += span,
            Polled { any_event: false, .. } => self.idle += span,
            _ if found && self.found => self.behind += span,
            _ => {}
        }
        self.receives += polled.receives;
        self.receiving_polls += usize::from(found);
        // The poll after a pause shows whether a reply came in it.
        let pause = std::mem::take(&mut self.pause);
        match polled {
            _ if found || !owed => self.end_gap(),
            Polled { any_event: false, .. } if span > POLL_MAX => {
                self.gap += pause;
                self.pause = span;
            }
            _ => self.gap += pause + span,
        }
        self.found = found;
    }

    fn end_gap(&mut self) {
        let gap = std::mem::take(&mut self.gap);
        self.longest_gap = self.longest_gap.max(gap);
        if gap >= GAP_MIN {
            self.in_gaps += gap;
        }
    }

    /// Writes the times into the result of a slice. A gap that has not ended counts.
    pub(super) fn write(&self, slice: &mut LoadSlice, connections: usize) {
        let &ClientTime { idle, behind, paused, gap, .. } = self;
        let unended = if gap >= GAP_MIN { gap } else { Duration::ZERO };
        // A connection may be received from twice in a poll.
        let unread_share =
            self.receives as f64 / (self.receiving_polls.max(1) * connections) as f64;
        *slice = LoadSlice {
            idle,
            behind,
            paused,
            longest_gap: self.longest_gap.max(gap),
            in_gaps: self.in_gaps + unended,
            unread_share: unread_share.min(1.0),
            ..*slice
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Polled = Polled { any_event: false, receives: 0 };
    const SENT: Polled = Polled { any_event: true, receives: 0 };
    const REPLY: Polled = Polled { any_event: true, receives: 1 };

    /// Adds polls with their microseconds, all with replies owed.
    fn slice(polls: impl IntoIterator<Item = (Polled, u64)>) -> LoadSlice {
        let mut time = ClientTime::default();
        for (polled, micros) in polls {
            time.add(polled, Duration::from_micros(micros), true);
        }
        let mut slice = LoadSlice::default();
        time.write(&mut slice, 2);
        slice
    }

    fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn a_client_that_waits_for_each_reply_is_never_behind() {
        let slice = slice([(SENT, 3), (NOTHING, 1), (NOTHING, 1), (REPLY, 4), (NOTHING, 1)]);
        assert_eq!((slice.idle, slice.behind, slice.paused), (micros(3), micros(0), micros(0)));
        assert_eq!(slice.unread_share, 0.5);
    }

    #[test]
    fn replies_that_were_there_when_the_client_looked_waited_for_it() {
        let slice = slice([(NOTHING, 1), (REPLY, 4), (REPLY, 5), (REPLY, 6), (NOTHING, 1)]);
        assert_eq!((slice.idle, slice.behind), (micros(2), micros(11)));
    }

    #[test]
    fn a_server_that_sends_nothing_is_a_gap() {
        let silent = std::iter::repeat_n((NOTHING, 1), 8_000);
        let slice = slice([(REPLY, 2)].into_iter().chain(silent).chain([(REPLY, 2)]));
        assert_eq!((slice.longest_gap, slice.in_gaps), (micros(8000), micros(8000)));
        let unended = self::slice(std::iter::repeat_n((NOTHING, 1), 2000));
        assert_eq!((unended.longest_gap, unended.in_gaps), (micros(2000), micros(2000)));
    }

    #[test]
    fn a_pause_of_the_client_is_no_gap_of_the_server() {
        let slice = slice([(REPLY, 2), (NOTHING, 1), (NOTHING, 2_500_000), (REPLY, 2)]);
        assert_eq!((slice.longest_gap, slice.in_gaps), (micros(1), micros(0)));
        assert_eq!((slice.paused, slice.idle), (micros(2_500_000), micros(1)));
        let slice = self::slice([(NOTHING, 3000), (NOTHING, 2000), (NOTHING, 1), (REPLY, 2)]);
        assert_eq!(slice.longest_gap, micros(5001), "nothing had come when it looked again");
    }

    #[test]
    fn without_an_owed_reply_there_is_no_gap() {
        let mut time = ClientTime::default();
        for _ in 0..5000 {
            time.add(NOTHING, micros(1), false);
        }
        let mut slice = LoadSlice::default();
        time.write(&mut slice, 1);
        assert_eq!((slice.longest_gap, slice.idle), (micros(0), micros(5000)));
    }
}
