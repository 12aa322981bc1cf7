//! The conversations of a run, without their sockets: what each connection may send, what it is
//! owed, and how long that took. A wire moves their bytes and decides nothing.

use std::time::Duration;

use super::failure::Failure;
use super::pattern::Pattern;
use proactor::clock::Nanos;
use proactor_report::Latencies;

/// What every connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many connections there are.
    pub connections: usize,
    /// Bytes per message.
    pub size: usize,
    /// Messages that a connection may have sent without a reply.
    pub depth: usize,
}

impl Shape {
    /// The most that one connection ever has outstanding.
    pub fn window(&self) -> usize {
        self.size.saturating_mul(self.depth)
    }
}

/// All conversations.
///
/// The law of a conversation: neither what is sent nor what is received is ever beyond what is
/// promised, and what is received equals the connection's pattern from its beginning on. (A wire
/// may learn that bytes were received before it learns that they were sent.) A message is *begun*
/// when its bytes are promised; then its clock runs. It is *replied to* when its last byte has been
/// received.
#[derive(Debug)]
pub(super) struct Crowd {
    shape: Shape,
    talks: Vec<Talk>,
    /// When each message that waits for its reply was begun: `depth` places per connection.
    begun: Vec<Nanos>,
    /// While true, new messages are begun.
    open: bool,
    /// True from when the peers are expected to end.
    parting: bool,
    /// Connections that have ended, while parting.
    parted: usize,
    /// Bytes promised and not received, of all.
    owed: u64,
    messages: u64,
    latencies: Latencies,
}

/// One conversation.
#[derive(Debug)]
struct Talk {
    pattern: Pattern,
    promised: u64,
    sent: u64,
    received: u64,
    replies: u64,
    /// When it last received, or began to be owed something.
    moved: Nanos,
}

impl Crowd {
    /// Conversations that have not begun.
    pub(super) fn new(shape: Shape, seed: u64) -> Crowd {
        let talk = |connection| Talk {
            pattern: Pattern::new(seed, connection),
            promised: 0,
            sent: 0,
            received: 0,
            replies: 0,
            moved: Nanos(0),
        };
        Crowd {
            shape,
            talks: (0..shape.connections).map(talk).collect(),
            begun: vec![Nanos(0); shape.connections * shape.depth],
            open: false,
            parting: false,
            parted: 0,
            owed: 0,
            messages: 0,
            latencies: Latencies::new(),
        }
    }

    /// What every connection does.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// From now on, messages may be begun, or not.
    pub(super) fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// From now on, the peers are expected to end.
    pub(super) fn part(&mut self) {
        self.open = false;
        self.parting = true;
    }

    /// Whether all peers have ended.
    pub(super) fn is_parted(&self) -> bool {
        self.parted == self.talks.len()
    }

    /// Whether nobody is owed anything.
    pub(super) fn is_idle(&self) -> bool {
        self.owed == 0
    }

    /// How many messages have been replied to.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// How long they took, since the latencies were last cleared.
    pub(super) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Forgets the latencies so far.
    pub(super) fn clear_latencies(&mut self) {
        self.latencies.clear();
    }

    /// The least and the most replies that a connection has had.
    pub(super) fn fairness(&self) -> (u64, u64) {
        let replies = || self.talks.iter().map(|talk| talk.replies);
        (replies().min().unwrap_or(0), replies().max().unwrap_or(0))
    }

    /// How many bytes `conn` is to send: those it has promised, and those of the messages that it
    /// may begin `now`.
    pub(super) fn outgoing(&mut self, conn: usize, now: Nanos) -> usize {
        let Shape { size, depth, .. } = self.shape;
        let talk = &mut self.talks[conn];
        if self.open {
            if talk.promised == talk.received {
                talk.moved = now;
            }
            let mut begun = talk.promised / size as u64;
            while begun < talk.replies + depth as u64 {
                self.begun[conn * depth + (begun % depth as u64) as usize] = now;
                talk.promised += size as u64;
                self.owed += size as u64;
                begun += 1;
            }
        }
        (talk.promised - talk.sent) as usize
    }

    /// Writes what `conn` is to send next.
    pub(super) fn fill(&self, conn: usize, out: &mut [u8]) {
        let talk = &self.talks[conn];
        talk.pattern.fill(talk.sent, out);
    }

    /// So many bytes have been sent.
    pub(super) fn sent(&mut self, conn: usize, bytes: usize) {
        self.talks[conn].sent += bytes as u64;
    }

    /// These bytes have been received.
    ///
    /// # Errors
    /// One of them is not what was sent, or was not asked for.
    pub(super) fn received(
        &mut self,
        conn: usize,
        bytes: &[u8],
        now: Nanos,
    ) -> Result<(), Failure> {
        let Shape { size, depth, .. } = self.shape;
        let talk = &mut self.talks[conn];
        let wrong = |at| Failure::Wrong { connection: conn, at };
        let owed = (talk.promised - talk.received) as usize;
        if bytes.len() > owed {
            // The wrong byte, if there is one, tells more than that there are too many.
            talk.pattern.check(talk.received, &bytes[..owed]).map_err(wrong)?;
            let surplus = bytes.len() - owed;
            return Err(Failure::Surplus { connection: conn, offset: talk.promised, surplus });
        }
        talk.pattern.check(talk.received, bytes).map_err(wrong)?;
        talk.received += bytes.len() as u64;
        talk.moved = now;
        self.owed -= bytes.len() as u64;
        while talk.received >= (talk.replies + 1) * size as u64 {
            let place = (talk.replies % depth as u64) as usize;
            self.latencies.record(now.since(self.begun[conn * depth + place]));
            talk.replies += 1;
            self.messages += 1;
        }
        Ok(())
    }

    /// The peer has ended.
    ///
    /// # Errors
    /// It was not expected to.
    pub(super) fn ended(&mut self, conn: usize) -> Result<(), Failure> {
        let talk = &self.talks[conn];
        let owed = talk.promised - talk.received;
        if self.parting && owed == 0 {
            self.parted += 1;
            return Ok(());
        }
        Err(Failure::Ended { connection: conn, offset: talk.received, owed })
    }

    /// The failure that an error of this connection's socket is.
    #[cold]
    pub(super) fn broken(&self, conn: usize, error: std::io::Error) -> Failure {
        Failure::Broken { connection: conn, offset: self.talks[conn].received, error }
    }

    /// Looks for a conversation that has not moved for `patience`.
    ///
    /// # Errors
    /// There is one: the first of them.
    pub(super) fn check_progress(&self, now: Nanos, patience: Duration) -> Result<(), Failure> {
        for (connection, talk) in self.talks.iter().enumerate() {
            let owed = talk.promised - talk.received;
            if owed > 0 && now.since(talk.moved) >= patience {
                return Err(Failure::Stalled { connection, offset: talk.received, owed, patience });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { connections: 2, size: 10, depth: 3 };

    fn at(micros: u64) -> Nanos {
        Nanos(micros * 1000)
    }

    /// Plays the server: what `conn` is to send, in full.
    fn say(crowd: &mut Crowd, conn: usize, now: Nanos) -> Vec<u8> {
        let mut bytes = vec![0; crowd.outgoing(conn, now)];
        crowd.fill(conn, &mut bytes);
        crowd.sent(conn, bytes.len());
        bytes
    }

    fn open() -> Crowd {
        let mut crowd = Crowd::new(SHAPE, 7);
        crowd.set_open(true);
        crowd
    }

    #[test]
    fn no_more_than_depth_messages_wait_for_their_replies() {
        let mut crowd = open();
        let said = say(&mut crowd, 0, at(1));
        assert_eq!(said.len(), 30);
        assert_eq!(crowd.outgoing(0, at(1)), 0);
        crowd.received(0, &said[..9], at(2)).expect("its bytes");
        assert_eq!(crowd.outgoing(0, at(2)), 0, "nine bytes are no reply");
        crowd.received(0, &said[9..20], at(3)).expect("its bytes");
        assert_eq!(crowd.outgoing(0, at(3)), 20);
        assert_eq!(crowd.messages(), 2);
    }

    #[test]
    fn a_latency_runs_from_when_the_message_was_begun() {
        let mut crowd = open();
        let first = say(&mut crowd, 0, at(1));
        crowd.received(0, &first, at(5)).expect("its bytes");
        let second = say(&mut crowd, 0, at(7));
        crowd.received(0, &second, at(9)).expect("its bytes");
        assert_eq!(crowd.latencies().len(), 6);
        let max = crowd.latencies().max().expect("six were recorded").as_nanos();
        assert!((4000..4010).contains(&max), "{max}");
    }

    #[test]
    fn a_closed_crowd_finishes_what_it_has_begun_and_begins_no_more() {
        let mut crowd = open();
        crowd.outgoing(0, at(1));
        let mut part = [0; 4];
        crowd.fill(0, &mut part);
        crowd.sent(0, 4);
        crowd.set_open(false);
        let rest = say(&mut crowd, 0, at(2));
        assert_eq!(rest.len(), 26, "what was promised is sent to its end");
        assert_eq!(crowd.outgoing(1, at(2)), 0);
        assert!(!crowd.is_idle());
        crowd.received(0, &part, at(3)).expect("its bytes");
        crowd.received(0, &rest, at(3)).expect("its bytes");
        assert!(crowd.is_idle());
    }

    #[test]
    fn what_was_not_asked_for_is_surplus() {
        let mut crowd = open();
        let mut said = say(&mut crowd, 1, at(1));
        said.push(0);
        let failure = crowd.received(1, &said, at(2)).expect_err("a byte too many");
        assert!(
            matches!(failure, Failure::Surplus { connection: 1, offset: 30, surplus: 1 }),
            "{failure}"
        );
    }

    #[test]
    fn an_end_is_welcome_only_at_parting() {
        let mut crowd = open();
        let said = say(&mut crowd, 0, at(1));
        let failure = crowd.ended(0).expect_err("it owes thirty bytes");
        assert!(matches!(failure, Failure::Ended { owed: 30, .. }), "{failure}");
        crowd.received(0, &said, at(2)).expect("its bytes");
        assert!(crowd.ended(0).is_err(), "nobody has parted");
        crowd.part();
        crowd.ended(0).expect("it was parted from");
        crowd.ended(1).expect("it was parted from");
        assert!(crowd.is_parted());
    }

    #[test]
    fn who_is_owed_and_does_not_move_has_stalled() {
        let second = Duration::from_secs(1);
        let mut crowd = open();
        let said = say(&mut crowd, 0, at(0));
        crowd.received(0, &said, at(900_000)).expect("its bytes");
        crowd.check_progress(at(5_000_000), second).expect("nobody is owed anything");
        say(&mut crowd, 1, at(5_000_000));
        crowd.check_progress(at(5_900_000), second).expect("not yet");
        let failure = crowd.check_progress(at(6_000_000), second).expect_err("a second has passed");
        assert!(matches!(failure, Failure::Stalled { connection: 1, .. }), "{failure}");
    }
}
