//! The time limits of a connection, kept by counters that are compared, not by clocks.
//!
//! Nothing is done for a message. From time to time comes a *look*, which compares what was counted
//! of a connection with what was counted at the look before, and counts the looks in a row that
//! found nothing new. A limit is over after so many of these as take its time. So it is kept by up
//! to two periods late, and never early: while the server itself is stopped, or the machine is
//! suspended, no look comes.

use std::time::Duration;

use crate::limits::CloseReason;

/// The time limits of each connection; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// How long the peer may acknowledge nothing while the server has bytes for it.
    pub send: Option<Duration>,
    /// The same, while others wait for the connection: it throttles its group, or holds buffers.
    pub evict: Option<Duration>,
    /// How long nothing may be received and nothing sent.
    pub idle: Option<Duration>,
    /// How long it may take until the client sends its first byte, unless its protocol
    /// [allows silence](crate::Protocol::allow_silence).
    pub first_byte: Option<Duration>,
    /// How long a message may be incomplete: how long the first byte that its protocol has not
    /// taken may wait for those that follow.
    pub receive: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        Timeouts {
            send: seconds(60),
            evict: seconds(10),
            idle: None,
            first_byte: None,
            receive: None,
        }
    }
}

impl Timeouts {
    /// Returns the time between two looks: a quarter of the shortest limit.
    pub fn period(&self) -> Duration {
        let all = [self.send, self.evict, self.idle, self.first_byte, self.receive];
        let shortest = all.into_iter().flatten().min().unwrap_or(Duration::from_secs(60));
        (shortest / 4).max(Duration::from_millis(1))
    }

    /// Returns true if there is no limit at all.
    pub fn is_off(&self) -> bool {
        self.send.is_none() && self.evict.is_none() && !self.limit_input()
    }

    /// Returns true if every connection is looked at, also one that is owed nothing.
    pub fn limit_input(&self) -> bool {
        self.idle.is_some() || self.first_byte.is_some() || self.receive.is_some()
    }

    /// Returns the limit if so many looks in a row take at least its time.
    fn over(&self, limit: Option<Duration>, looks: u32) -> Option<Duration> {
        limit.filter(|&limit| self.period() * looks >= limit)
    }
}

/// What was counted of a connection when it was last looked at, and how many looks in a row found
/// nothing new.
#[derive(Debug, Clone, Copy)]
pub struct LookState {
    sent: u64,
    outq: Option<usize>,
    /// The number of bytes that were received or sent.
    moved: u64,
    taken: u64,
    stalled: u32,
    idle: u32,
    no_byte: u32,
    incomplete: u32,
}

impl Default for LookState {
    /// Nothing is known: the first look finds something new.
    fn default() -> LookState {
        let (sent, moved, taken) = (u64::MAX, u64::MAX, u64::MAX);
        LookState { sent, outq: None, moved, taken, stalled: 0, idle: 0, no_byte: 0, incomplete: 0 }
    }
}

/// What a connection has received, for [`LookState::look_at_input`].
#[derive(Debug, Clone, Copy)]
pub struct InputLook {
    /// The bytes that were received.
    pub received: u64,
    /// The bytes that were sent.
    pub sent: u64,
    /// True if its client has sent a byte, which those of a PROXY header are not, or may only
    /// listen.
    pub may_be_silent: bool,
    /// The bytes of these that wait for the rest of their message, if the server does receive: what
    /// the server does not take is not its peer's fault.
    pub incomplete: Option<usize>,
    /// True if bytes wait to be sent: [`LookState::look_at_output`] is called as well.
    pub owed: bool,
}

impl LookState {
    /// Forgets what is known of the sends: nothing is owed, or something is for the first time.
    pub fn owes_anew(&mut self) {
        (self.sent, self.outq, self.stalled) = (u64::MAX, None, 0);
    }

    /// So many bytes were received when the connection lingers: everything is sent, the end too.
    pub fn lingers(&mut self, received: u64) {
        (self.moved, self.stalled) = (received, 0);
    }

    /// Looks at a connection that lingers. Returns true if its peer has sent nothing since, and its
    /// socket was read after the first look: to close it resets no peer that still sends.
    pub fn look_at_lingering(&mut self, received: u64) -> bool {
        self.stalled += 1;
        self.stalled > 1 && received == self.moved
    }

    /// Looks at what was received. Returns the limit that is over, if one is.
    pub fn look_at_input(&mut self, limits: &Timeouts, now: InputLook) -> Option<CloseReason> {
        let InputLook { received, sent, may_be_silent, incomplete, owed } = now;
        let before = std::mem::replace(&mut self.moved, received + sent);
        let first = before == u64::MAX;
        self.idle = if before != self.moved { 0 } else { self.idle + u32::from(!owed) };
        self.no_byte = if may_be_silent || first { 0 } else { self.no_byte + 1 };
        // The same message, if nothing was taken since the last look.
        let taken = incomplete.map(|waits| received.saturating_sub(waits as u64));
        let same = taken.is_some_and(|taken| taken == self.taken);
        self.incomplete = if same { self.incomplete + 1 } else { 0 };
        self.taken = taken.unwrap_or(u64::MAX);
        if !owed {
            self.owes_anew();
        }
        None.or_else(|| {
            Some(CloseReason::NoFirstByte(limits.over(limits.first_byte, self.no_byte)?))
        })
        .or_else(|| Some(CloseReason::Incomplete(limits.over(limits.receive, self.incomplete)?)))
        .or_else(|| Some(CloseReason::Idle(limits.over(limits.idle, self.idle)?)))
    }

    /// Looks at a connection that is owed bytes: `sent` were taken by its socket, of which the peer
    /// has not acknowledged `outq`, if that can be known. Returns the limit that is over, if any.
    ///
    /// A send that completes is progress, since the socket had space again: at first its buffer
    /// fills, and from then on only what the peer acknowledges makes space.
    pub fn look_at_output(
        &mut self,
        limits: &Timeouts,
        sent: u64,
        outq: Option<usize>,
        is_waited_for: bool,
    ) -> Option<CloseReason> {
        let falls = outq.zip(self.outq).is_some_and(|(now, before)| now < before);
        let moved = falls || sent != self.sent;
        self.stalled = if moved { 0 } else { self.stalled + 1 };
        self.idle = if moved { 0 } else { self.idle + 1 };
        (self.sent, self.outq) = (sent, outq);
        let evict = limits.evict.filter(|_| is_waited_for);
        None.or_else(|| Some(CloseReason::Stalled(limits.over(evict, self.stalled)?)))
            .or_else(|| Some(CloseReason::SendTimeout(limits.over(limits.send, self.stalled)?)))
            .or_else(|| Some(CloseReason::Idle(limits.over(limits.idle, self.idle)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Timeouts = Timeouts {
        send: Some(Duration::from_secs(60)),
        evict: Some(Duration::from_secs(10)),
        idle: Some(Duration::from_secs(100)),
        first_byte: Some(Duration::from_secs(20)),
        receive: Some(Duration::from_secs(30)),
    };

    /// After how many looks, 2.5 s apart, what limit is over.
    fn after(mut look: impl FnMut(u64) -> Option<CloseReason>) -> Option<(u64, CloseReason)> {
        (0..1000).find_map(|n| look(n).map(|reason| (n, reason)))
    }

    #[test]
    fn a_limit_is_over_after_the_looks_that_take_its_time() {
        let mut progress = LookState::default();
        let waited = after(|_| progress.look_at_output(&LIMITS, 7, Some(9), true));
        assert_eq!(waited, Some((4, CloseReason::Stalled(Duration::from_secs(10)))));
        let mut progress = LookState::default();
        let alone = after(|_| progress.look_at_output(&LIMITS, 7, None, false));
        assert_eq!(alone, Some((24, CloseReason::SendTimeout(Duration::from_secs(60)))));
        let (mut progress, mut nothing) = (LookState::default(), input(0, None));
        let no_byte = after(|_| progress.look_at_input(&LIMITS, nothing));
        assert_eq!(no_byte, Some((8, CloseReason::NoFirstByte(Duration::from_secs(20)))));
        (nothing, progress) = (input(1, None), LookState::default());
        let idle = after(|_| progress.look_at_input(&LIMITS, nothing));
        assert_eq!(idle, Some((40, CloseReason::Idle(Duration::from_secs(100)))));
        let off = Timeouts { send: None, evict: None, idle: None, ..Timeouts::default() };
        let mut progress = LookState::default();
        assert_eq!(after(|_| progress.look_at_output(&off, 7, None, true)), None);
    }

    fn input(received: u64, incomplete: Option<usize>) -> InputLook {
        let may_be_silent = received > 0;
        InputLook { received, sent: 0, may_be_silent, incomplete, owed: false }
    }

    #[test]
    fn a_peer_that_sends_after_the_end_is_waited_for() {
        let mut progress = LookState::default();
        progress.lingers(7);
        assert_eq!(
            [7, 7, 8, 8].map(|n| progress.look_at_lingering(n)),
            [false, true, false, false]
        );
    }

    #[test]
    fn what_the_peer_acknowledges_or_the_socket_takes_is_progress() {
        let mut progress = LookState::default();
        // As TCP has it: the window opens, while no send completes.
        let acknowledges = |n| progress.look_at_output(&LIMITS, 7, Some(5000 - n as usize), true);
        assert_eq!(after(acknowledges), None);
        let mut progress = LookState::default();
        assert_eq!(after(|n| progress.look_at_output(&LIMITS, n, None, true)), None);
        // A fuller socket is none, unless a send has completed.
        let mut progress = LookState::default();
        assert!(after(|n| progress.look_at_output(&LIMITS, 7, Some(n as usize), true)).is_some());
    }

    #[test]
    fn a_client_that_drips_is_given_up_and_one_that_sends_messages_is_not() {
        // A byte a look, and no end of the message.
        let mut progress = LookState::default();
        let drips = after(|n| progress.look_at_input(&LIMITS, input(n, Some(n as usize))));
        assert_eq!(drips, Some((12, CloseReason::Incomplete(Duration::from_secs(30)))));
        // At each look a message is incomplete, but another one.
        let mut progress = LookState::default();
        assert_eq!(after(|n| progress.look_at_input(&LIMITS, input(100 * n + 7, Some(7)))), None);
        // The server does not receive.
        let mut progress = LookState::default();
        assert_eq!(after(|n| progress.look_at_input(&LIMITS, input(n + 1, None))), None);
    }
}
