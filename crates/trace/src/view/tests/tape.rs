//! Traces made by hand: as a loop would write them.

use super::super::{Cut, Doctor, TraceStats};
use crate::trace_file::TraceFile;
use proactor::keys::ConnId;
use proactor::ring::{Cqe, Kind, Token};
use proactor::selector::{Key, KeyOwner};
use proactor_record::{
    About, Call, Clock, Log, OpKind, Record, Recorder, Settings, Trace, WaitMode, Writer, Writers,
};

pub(super) const SEND: OpKind = OpKind::Ring(Kind::Send);

/// Writes a trace as a loop would.
pub(super) struct Tape {
    pub(super) log: Recorder,
    pub(super) now: u64,
    queued: u64,
    pending: u32,
    reaped: u64,
}

impl Tape {
    pub(super) fn new(model: &str) -> Tape {
        Tape::with(model, Settings::default())
    }

    pub(super) fn with(model: &str, settings: Settings) -> Tape {
        let settings = Settings { bytes: 1 << 20, clock: Some(Clock::Nanos), ..settings };
        // As a server whose delays are recorded.
        let more = [("completions", "64"), ("delays", "2000")];
        let more = more.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let detail = "DEFER_TASKRUN".to_owned();
        let about = About { model: model.to_owned(), detail, more, ..About::default() };
        let log = Recorder::new(None, &settings, &about).unwrap();
        Tape { log, now: 0, queued: 0, pending: 0, reaped: 0 }
    }

    /// Time passes: so many microseconds.
    pub(super) fn pass(&mut self, micros: u64) -> &mut Tape {
        self.now += micros * 1000;
        self
    }

    pub(super) fn note(&mut self, record: Record) -> &mut Tape {
        let now = self.now;
        self.log.note(|| now, record);
        self
    }

    pub(super) fn sqe(&mut self, kind: Kind, conn: u32, len: u32) -> &mut Tape {
        self.sqe_with(kind, conn, len, 0)
    }

    pub(super) fn sqe_with(&mut self, kind: Kind, conn: u32, len: u32, flags: u8) -> &mut Tape {
        (self.queued, self.pending) = (self.queued + 1, self.pending + 1);
        self.note(Record::submitted(token(kind, conn), 0, conn as i32, len, flags))
    }

    /// In the kernel for so many microseconds.
    pub(super) fn enter(
        &mut self,
        micros: u64,
        mode: WaitMode,
        provided: u32,
        overflow: bool,
    ) -> &mut Tape {
        let now = self.now;
        self.log.begin_iteration(|| now, Record::enter_begin(self.queued, self.pending, mode));
        self.pass(micros);
        let (now, pending) = (self.now, self.pending as i32);
        let end = Record::enter_end(pending, self.reaped, provided, overflow);
        self.log.end_iteration(|| now, end);
        self.pending = 0;
        self
    }

    pub(super) fn entered(&mut self, micros: u64) -> &mut Tape {
        self.enter(micros, WaitMode::Endless, 0, false)
    }

    pub(super) fn cqe(&mut self, kind: Kind, conn: u32, res: i32, flags: u32) -> &mut Tape {
        self.reaped += 1;
        self.note(Record::completed(token(kind, conn), res, flags, 0))
    }

    /// A connection is accepted and its receive armed.
    pub(super) fn open(&mut self, conn: u32) -> &mut Tape {
        self.entered(10).cqe(Kind::Accept, 0, conn as i32, Cqe::MORE).sqe(Kind::Recv, conn, 2048)
    }

    /// A message of 64 bytes comes and goes back, `micros` after it came.
    pub(super) fn echo(&mut self, conn: u32, micros: u64) -> &mut Tape {
        self.entered(20).cqe(Kind::Recv, conn, 64, Cqe::MORE | Cqe::BUFFER);
        self.sqe(Kind::Send, conn, 64).entered(micros).cqe(Kind::Send, conn, 64, 0)
    }

    /// The peer ends, and the connection is closed.
    pub(super) fn shut(&mut self, conn: u32) -> &mut Tape {
        self.entered(10).cqe(Kind::Recv, conn, 0, 0).sqe(Kind::Close, conn, 0);
        self.entered(10).cqe(Kind::Close, conn, 0, 0)
    }

    pub(super) fn wait(&mut self, micros: u64, ready: &[u32]) -> &mut Tape {
        self.wait_in(WaitMode::Endless, micros, ready)
    }

    /// Asks without a wait, and nothing is ready.
    pub(super) fn look(&mut self) -> &mut Tape {
        self.wait_in(WaitMode::None, 1, &[])
    }

    fn wait_in(&mut self, mode: WaitMode, micros: u64, ready: &[u32]) -> &mut Tape {
        let now = self.now;
        self.log.begin_iteration(|| now, Record::wait_begin(mode, 0));
        self.pass(micros);
        let (now, count) = (self.now, ready.len() as i32);
        self.log.end_iteration(|| now, Record::wait_end(Some(count)));
        for &conn in ready {
            self.note(Record::ready(key(conn), true, false, false));
        }
        self
    }

    pub(super) fn call(&mut self, call: Call, conn: u32, len: u32, res: i32) -> &mut Tape {
        self.note(Record::call_begin(call, false, key(conn), conn as i32, len));
        self.pass(2);
        self.note(Record::call_end(call, false, key(conn), conn as i32, res))
    }

    pub(super) fn trace(&mut self) -> TraceFile {
        Trace::from_bytes(self.log.bytes()).unwrap().into()
    }

    pub(super) fn stats(&mut self) -> TraceStats {
        TraceStats::of(&self.trace(), &Cut::default())
    }

    /// Of the last `window` microseconds, the thread had no CPU in so many.
    pub(super) fn delayed(&mut self, micros: u64, window: u32) -> &mut Tape {
        self.note(Record::delayed(micros * 1000, window))
    }

    /// The statistics, as if delays were recorded or not.
    pub(super) fn with_delays(&mut self, are_recorded: bool) -> TraceStats {
        let mut trace = Trace::from_bytes(self.log.bytes()).unwrap();
        trace.header.text.retain(|(name, _)| are_recorded || name != "delays");
        TraceStats::of(&trace.into(), &Cut::default())
    }

    pub(super) fn findings(&mut self) -> Vec<&'static str> {
        let doctor = Doctor::new(self.stats());
        assert!(doctor.looked_for.len() > 10);
        doctor.findings.iter().map(|one| one.name).collect()
    }
}

pub(super) fn token(kind: Kind, conn: u32) -> u64 {
    match kind {
        Kind::Accept | Kind::Wake => Token::at(kind, conn).0,
        _ => Token::of(kind, ConnId::new(conn, 0)).0,
    }
}

pub(super) fn key(conn: u32) -> u64 {
    Key::from(KeyOwner::Conn(ConnId::new(conn, 0))).0
}

/// A ring that serves two connections, 100 messages each.
pub(super) fn ring() -> Tape {
    let mut tape = Tape::new("uring");
    tape.sqe(Kind::Accept, 0, 0).open(0).open(1);
    // 64 buffers are lent.
    tape.enter(1, WaitMode::None, 64, false).cqe(Kind::Wake, 0, 1, 0);
    for _ in 0..100 {
        tape.echo(0, 30).pass(1).echo(1, 40).pass(1);
    }
    tape
}

/// A ring without multishot: each receive is submitted anew.
pub(super) fn one_shot() -> Tape {
    let mut tape = Tape::new("uring");
    for conn in 0..120 {
        tape.sqe(Kind::Recv, conn % 2, 64).entered(9).cqe(Kind::Recv, conn % 2, 64, 0);
    }
    tape
}

/// An epoll server that serves two connections, 100 messages each.
pub(super) fn selector(model: &str) -> Tape {
    let mut tape = Tape::new(model);
    tape.wait(5, &[]).call(Call::Watch, 0, 1, 0).call(Call::Watch, 1, 1, 0);
    for _ in 0..100 {
        tape.wait(30, &[0, 1]);
        for conn in [0, 1] {
            tape.call(Call::Recv, conn, 2048, 64).call(Call::Send, conn, 64, 64);
        }
    }
    tape
}

pub(super) fn threads() -> Writer {
    let settings = Settings { bytes: 0, ..Settings::default() };
    Writer::new(None, &settings, &About::default(), Writers::Threads).expect("memory")
}
