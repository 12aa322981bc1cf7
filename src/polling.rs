//! Polling before sleeping: a loop that expects work soon does not sleep at once.
//!
//! A sleep and a wake-up cost some microseconds, and on an idle CPU more. A loop that polls for a
//! while instead answers sooner, and uses the CPU meanwhile. How long it polls adapts to what came
//! of it, as `halt_poll_ns` of KVM does: a server whose clients pause for long does not poll.

use std::io;
use std::time::Duration;

use crate::clock::{Nanos, earlier};
use crate::version::Version;

/// How a loop polls, or has the kernel poll for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Polling {
    /// A loop polls for at most so long before it sleeps.
    pub spin: Option<Duration>,
    /// A kernel thread takes what a ring submits, and sleeps when nothing came for so long.
    pub sqpoll: Option<Duration>,
    /// A ring that waits polls the network devices for so long.
    pub napi: Option<Duration>,
}

/// The first version of Linux in which a ring polls network devices.
const NAPI: Version = Version { major: 6, minor: 9 };

impl Polling {
    /// Returns what a ring that polls says of itself, behind all else.
    pub fn describe(self) -> String {
        let parts = [(self.sqpoll, ", SQPOLL"), (self.napi, ", NAPI busy polling")];
        parts.into_iter().filter_map(|(asked, text)| asked.map(|_| text)).collect()
    }

    /// Checks that this kernel can poll devices, if that is asked.
    ///
    /// # Errors
    /// It is too old.
    pub fn check(self) -> io::Result<()> {
        if self.napi.is_some() && Version::running().is_some_and(|running| running < NAPI) {
            return Err(io::Error::other(format!("NAPI busy polling needs Linux {NAPI}")));
        }
        Ok(())
    }
}

/// Polls, and then sleeps.
#[derive(Debug, Clone, Copy)]
pub struct BusyPoll {
    longest: Duration,
    /// How long it polls now.
    limit: Duration,
}

/// The part of the longest time with which polling begins again.
const FIRST: u32 = 8;

impl BusyPoll {
    /// Polls for at most `longest`.
    pub fn new(longest: Duration) -> BusyPoll {
        BusyPoll { longest, limit: longest }
    }

    /// Waits by `wait`, which sleeps only if its argument is true, and returns true if something
    /// has come; until then it is called again. It sleeps once, unless `until` comes before.
    ///
    /// # Errors
    /// Those of `wait`.
    pub fn wait(
        &mut self,
        now: impl Fn() -> Nanos,
        until: Option<Nanos>,
        mut wait: impl FnMut(bool) -> io::Result<bool>,
    ) -> io::Result<()> {
        let begin = now();
        let polls_until = earlier(until, Some(begin + self.limit));
        while Some(now()) < polls_until {
            if wait(false)? {
                return Ok(());
            }
        }
        wait(true)?;
        self.slept(now().since(begin));
        Ok(())
    }

    /// Adapts to a wait that was longer than the limit.
    fn slept(&mut self, waited: Duration) {
        self.limit = match waited <= self.longest {
            true => (2 * self.limit).clamp(self.longest / FIRST, self.longest),
            false if self.limit > self.longest / FIRST => self.limit / 2,
            false => Duration::ZERO,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LONGEST: Duration = Duration::from_micros(80);

    /// Waits for what comes after `comes`; a poll takes a microsecond. Returns how often it polled,
    /// and whether it slept.
    fn wait(busy_poll: &mut BusyPoll, comes: Duration, until: Option<Nanos>) -> (u32, bool) {
        let (clock, mut polls, mut slept) = (Cell::new(Nanos(0)), 0, false);
        let comes = Nanos(0) + comes;
        let poll = |sleeps: bool| {
            slept |= sleeps;
            polls += u32::from(!sleeps);
            let next = if sleeps { comes } else { clock.get() + Duration::from_micros(1) };
            clock.set(next.max(clock.get()));
            Ok(clock.get() >= comes)
        };
        busy_poll.wait(|| clock.get(), until, poll).unwrap();
        (polls, slept)
    }

    #[test]
    fn what_comes_soon_is_met_without_a_sleep() {
        let mut busy_poll = BusyPoll::new(LONGEST);
        assert_eq!(wait(&mut busy_poll, Duration::from_micros(30), None), (30, false));
        assert_eq!(wait(&mut busy_poll, Duration::from_micros(80), None), (80, false));
    }

    #[test]
    fn a_server_whose_clients_pause_for_long_ceases_to_poll_and_begins_again() {
        let mut busy_poll = BusyPoll::new(LONGEST);
        let long = Duration::from_millis(1);
        let polls: Vec<u32> = (0..6).map(|_| wait(&mut busy_poll, long, None).0).collect();
        assert_eq!(polls, [80, 40, 20, 10, 0, 0]);
        let soon = Duration::from_micros(50);
        let again: Vec<_> = (0..4).map(|_| wait(&mut busy_poll, soon, None)).collect();
        assert_eq!(again, [(0, true), (10, true), (20, true), (40, true)]);
        assert_eq!(wait(&mut busy_poll, soon, None), (50, false));
    }

    #[test]
    fn a_timer_is_not_late() {
        let mut busy_poll = BusyPoll::new(LONGEST);
        let due = Nanos(0) + Duration::from_micros(20);
        assert_eq!(wait(&mut busy_poll, Duration::from_micros(20), Some(due)), (20, false));
        assert_eq!(wait(&mut busy_poll, Duration::from_micros(25), Some(due)), (20, true));
    }
}
