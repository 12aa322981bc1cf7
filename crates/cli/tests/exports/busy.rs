//! A recording of a busy ring, made by hand: too many messages to draw each.

use proactor::keys::ConnId;
use proactor::ring::{Cqe, Token};
use proactor_trace::{About, Clock, Kind, Level, Log, Record, Recorder, Settings, WaitMode};

/// How many connections there are.
pub(crate) const CONNS: u32 = 60;
/// Messages while there is one every [`PAUSE`], the iterations of [`TOGETHER`] messages at the
/// usual pace, and those of a burst behind them.
pub(crate) const SLOW: u32 = 200;
pub(crate) const USUAL: u32 = 1900;
pub(crate) const BURST: u32 = 100;
pub(crate) const TOGETHER: u32 = 20;
/// The number of all messages.
pub(crate) const MESSAGES: u32 = SLOW + (USUAL + BURST) * TOGETHER;
const PAUSE: u64 = 5_000_000;
/// From an iteration to the next.
const PACE: u64 = 200_000;
/// When the usual pace begins and ends.
pub(crate) const BUSY: (u64, u64) =
    (SLOW as u64 * PAUSE, SLOW as u64 * PAUSE + USUAL as u64 * PACE);
/// So many sends take so much longer than the others.
pub(crate) const LATE: usize = 5;
const LATE_BY: u64 = 20_000_000;

/// Its bytes, in no more than so many.
pub(crate) fn recording(bytes: u64) -> Vec<u8> {
    let level = Level::Record;
    let settings = Settings { bytes, level, clock: Some(Clock::Nanos), ..Settings::default() };
    let about = About { model: "uring".to_owned(), ..About::default() };
    let mut loop_ = Loop {
        log: Recorder::new(None, &settings, &about).unwrap(),
        late: Vec::new(),
        due: Vec::new(),
    };
    for number in 0..SLOW {
        loop_.iterate(u64::from(number) * PAUSE, &[number % 3], number == 7);
    }
    for number in 0..USUAL + BURST {
        let burst = u64::from(number.saturating_sub(USUAL));
        let at = BUSY.0 + u64::from(number.min(USUAL)) * PACE + burst * PACE / 10;
        let conns: Vec<u32> = (0..TOGETHER).map(|one| (number * TOGETHER + one) % CONNS).collect();
        loop_.iterate(at, &conns, false);
    }
    loop_.iterate(BUSY.1 + 2 * LATE_BY, &[], false);
    loop_.log.bytes().to_vec()
}

struct Loop {
    log: Recorder,
    /// Sends that are late, and since when.
    late: Vec<(u64, u32)>,
    /// Sends that end with the next iteration.
    due: Vec<u32>,
}

impl Loop {
    /// An enter ends the sends that are due, and brings a message of each connection, which is
    /// answered; before the first of them it may find no buffer.
    fn iterate(&mut self, at: u64, conns: &[u32], finds_none: bool) {
        let token = |kind, conn| Token::of(kind, ConnId::new(conn, 0)).0;
        let sends = self.due.len() as u32;
        self.log.begin_iteration(|| at, Record::enter_begin(0, sends, WaitMode::Endless));
        let at = at + 10_000;
        self.log.end_iteration(|| at, Record::enter_end(sends as i32, 0, 0, false));
        let mut note = |after, record| self.log.note(|| at + after, record);
        let (over, late) = self.late.drain(..).partition(|(since, _)| at - since > LATE_BY);
        self.late = late;
        let over: Vec<(u64, u32)> = over;
        for conn in self.due.drain(..).chain(over.into_iter().map(|(_, conn)| conn)) {
            note(0, Record::completed(token(Kind::Send, conn), 64, 0, 0));
        }
        if finds_none {
            note(0, Record::completed(token(Kind::Recv, conns[0]), -libc::ENOBUFS, 0, 0));
        }
        for &conn in conns {
            note(0, Record::completed(token(Kind::Recv, conn), 64, Cqe::MORE | Cqe::BUFFER, 0));
            // Before the late ones nothing else is sent to these.
            if self.late.iter().any(|&(_, other)| other == conn) {
                continue;
            }
            note(1000, Record::submitted(token(Kind::Send, conn), 26, conn as i32, 64, 0));
            let is_late =
                at > BUSY.0 + 100 * PACE && self.late.len() < LATE && at < BUSY.0 + 110 * PACE;
            match is_late {
                true => self.late.push((at, conn)),
                false => self.due.push(conn),
            }
        }
    }
}
