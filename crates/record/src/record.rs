//! A record: 32 bytes in the file, made by one constructor for each kind and read as a [`Content`].
//!
//! The constructors and [`Record::payload`] stand in the same order: what one packs, the other
//! unpacks. The time, and where it applies the iteration or the lane, are set by the writer.

use crate::errno::Errno;
use crate::format::{
    ABSENT, CONN, CQE_BUFFER, CQE_MORE, CQE_NOTIFICATION, Call, Frozen, Kind, LINK, MAY_SLEEP,
    NO_FILE, OpKind, RECORD, RecordKind, SKIP_SUCCESS, UNKNOWN_COUNT, WATCHED, WaitMode, halves,
    pair, part,
};

/// One record. What the fields mean depends on the [kind](RecordKind).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// The time, in ticks of the trace's clock.
    pub time: u64,
    /// A token, a key or a number.
    pub id: u64,
    /// A result, a count or a length.
    pub res: i32,
    /// Flags as the kernel has them, or a number.
    pub flags: u32,
    /// The number of the enter or wait in or after which this was, modulo 2³²; with many writers,
    /// the record's number modulo 2³².
    pub iteration: u32,
    /// The number of a [`RecordKind`].
    pub kind: u8,
    /// An `IORING_OP_*`, a [`Call`] or a [`WaitMode`].
    pub op: u8,
    /// A small number; with many writers, of what a thread or process did, its lane.
    pub aux: u16,
}

const _: () = assert!(size_of::<Record>() == RECORD);

/// What a begin and its end have in common: the token of an operation; the key, the call and the
/// lane of a call; the lane of an enter or a wait.
pub type Pairing = (u64, u8, u16);

/// What a record says, by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An operation was queued.
    Submitted {
        /// Its number, one of `IORING_OP_*`.
        opcode: u8,
        /// The file, or the slot of a direct descriptor.
        file: i32,
        /// Bytes to send, or the size of the buffer to receive into.
        len: u32,
        /// Whether it has no completion if it succeeds in full (`IOSQE_CQE_SKIP_SUCCESS`).
        skip_success: bool,
    },
    /// A completion was reaped.
    Completed {
        /// A count, a descriptor, or an error.
        result: Result<u32, Errno>,
        /// Whether the operation stays in flight.
        more: bool,
        /// The provided buffer that the kernel picked.
        buffer: Option<u16>,
        /// The position since the enter, from 0.
        position: u16,
    },
    /// Of another program: the buffer of a zero-copy send is not in use any more. The result came
    /// before.
    Notified,
    /// A send with `IOSQE_CQE_SKIP_SUCCESS` succeeded in full.
    Implied {
        /// How many bytes were sent.
        bytes: u32,
    },
    /// The loop enters the kernel.
    EnterBegin {
        /// How many submissions were ever queued.
        queued: u64,
        /// Those of them that the kernel has not taken.
        pending: u32,
        /// How long it may sleep.
        mode: Option<WaitMode>,
    },
    /// The loop is back.
    EnterEnd {
        /// How many submissions the kernel took.
        result: Result<u32, Errno>,
        /// Completions ever reaped before.
        reaped: u64,
        /// Buffers provided just before.
        provided: u32,
        /// Whether completions waited outside a full queue.
        overflow: bool,
    },
    /// A selector waits for descriptors.
    WaitBegin {
        /// How long it may sleep.
        mode: Option<WaitMode>,
        /// Nanoseconds at most, if there is a timeout.
        at_most: Option<u64>,
    },
    /// The wait is over.
    WaitEnd {
        /// How many descriptors are ready; zero if that is not known.
        result: Result<u32, Errno>,
        /// Whether the number is known.
        is_counted: bool,
    },
    /// A descriptor is ready.
    Ready {
        /// It has something to read.
        readable: bool,
        /// It has space to write.
        writable: bool,
        /// The peer has ended.
        hung_up: bool,
    },
    /// A system call begins.
    CallBegin {
        /// The descriptor, or -1.
        file: i32,
        /// Bytes to send, or the size of the buffer to receive into.
        len: u32,
        /// Whether it may sleep until the peer acts.
        may_sleep: bool,
    },
    /// A system call is over.
    CallEnd {
        /// The descriptor, or -1.
        file: i32,
        /// The result of the call.
        result: Result<u32, Errno>,
        /// Whether it could sleep until the peer acted.
        may_sleep: bool,
    },
    /// Records are missing here: how many.
    Lost(u64),
    /// The clock was compared: nanoseconds of the monotonic clock.
    Clock(u64),
    /// A mark of the program.
    Mark(u64),
    /// One of many writers began.
    Lane {
        /// The number of its thread.
        thread: u32,
        /// The number of its process.
        process: u32,
    },
    /// Recording stopped, for this reason.
    Frozen(Option<Frozen>),
    /// The owner, or the main thread, was ready to run and had no CPU.
    Delayed {
        /// For so many nanoseconds.
        nanos: u64,
        /// Of the last so many nanoseconds, up to this record.
        window: u64,
    },
    /// The process was continued, after a stop if there was one: so often.
    Continued(u64),
    /// A kind of record that this version does not know.
    Unknown,
}

impl Record {
    const fn of(kind: RecordKind, id: u64, res: i32, flags: u32) -> Record {
        Record { time: 0, id, res, flags, iteration: 0, kind: kind as u8, op: 0, aux: 0 }
    }

    /// A submission was queued, with these `IOSQE_*`.
    #[inline]
    pub const fn submitted(token: u64, opcode: u8, file: i32, len: u32, flags: u8) -> Record {
        let record = Record::of(RecordKind::Sqe, token, len as i32, file as u32);
        Record { op: opcode, aux: flags as u16, ..record }
    }

    /// A completion was reaped, with the result and the `IORING_CQE_F_*` of the kernel.
    #[inline]
    pub const fn completed(token: u64, res: i32, flags: u32, position: u16) -> Record {
        Record { aux: position, ..Record::of(RecordKind::Cqe, token, res, flags) }
    }

    /// Another program submitted an operation with this [token](WATCHED). The number distinguishes
    /// operations of one opcode.
    pub const fn watched_submission(token: u64, opcode: u8, number: u16) -> Record {
        Record::submitted(token, opcode, token as i32, 0, 0).numbered(opcode, number)
    }

    /// An operation of another program completed.
    pub const fn watched_completion(
        token: u64,
        opcode: u8,
        number: u16,
        res: i32,
        flags: u32,
    ) -> Record {
        Record::completed(token, res, flags, 0).numbered(opcode, number)
    }

    const fn numbered(self, op: u8, number: u16) -> Record {
        Record { op, aux: number, ..self }
    }

    /// Whether it is about an operation of another program.
    pub fn is_watched(&self) -> bool {
        let is_operation = self.is(RecordKind::Sqe) || self.is(RecordKind::Cqe);
        is_operation && (self.id >> 56) as u8 == WATCHED
    }

    /// A send with `IOSQE_CQE_SKIP_SUCCESS` succeeded in full.
    #[inline]
    pub const fn implied(token: u64, bytes: u32) -> Record {
        Record::of(RecordKind::Implied, token, bytes as i32, 0)
    }

    /// The loop enters the kernel: submissions ever queued, and those not yet taken.
    #[inline]
    pub const fn enter_begin(queued: u64, pending: u32, mode: WaitMode) -> Record {
        let record = Record::of(RecordKind::EnterBegin, queued, pending as i32, 0);
        Record { aux: mode as u16, ..record }
    }

    /// The loop is back: submissions taken or minus an errno, and completions ever reaped.
    #[inline]
    pub const fn enter_end(res: i32, reaped: u64, provided: u32, overflow: bool) -> Record {
        let provided = if provided > 0xff_ffff { 0xff_ffff } else { provided };
        Record::of(RecordKind::EnterEnd, reaped, res, overflow as u32 | provided << 8)
    }

    /// A selector waits, for so many nanoseconds at most.
    #[inline]
    pub const fn wait_begin(mode: WaitMode, at_most: u64) -> Record {
        Record { op: mode as u8, ..Record::of(RecordKind::WaitBegin, at_most, 0, 0) }
    }

    /// The wait is over: the number of ready descriptors or minus an errno; `None` if the number is
    /// not known.
    #[inline]
    pub const fn wait_end(res: Option<i32>) -> Record {
        match res {
            Some(res) => Record::of(RecordKind::WaitEnd, 0, res, 0),
            None => Record::of(RecordKind::WaitEnd, 0, 0, UNKNOWN_COUNT),
        }
    }

    /// A descriptor is ready.
    #[inline]
    pub const fn ready(key: u64, readable: bool, writable: bool, hung_up: bool) -> Record {
        let flags = readable as u32 | (writable as u32) << 1 | (hung_up as u32) << 2;
        Record::of(RecordKind::Ready, key, 0, flags)
    }

    /// A system call begins; `len` is what it is given.
    #[inline]
    pub const fn call_begin(call: Call, may_sleep: bool, key: u64, file: i32, len: u32) -> Record {
        let op = call as u8 | if may_sleep { MAY_SLEEP } else { 0 };
        Record { op, ..Record::of(RecordKind::CallBegin, key, len as i32, file as u32) }
    }

    /// A system call is over, with its result or minus an errno.
    #[inline]
    pub const fn call_end(call: Call, may_sleep: bool, key: u64, file: i32, res: i32) -> Record {
        let begin = Record::call_begin(call, may_sleep, key, file, res as u32);
        Record { kind: RecordKind::CallEnd as u8, ..begin }
    }

    /// So many records are missing.
    pub const fn lost(records: u64) -> Record {
        Record::of(RecordKind::Lost, records, 0, 0)
    }

    /// A reader's record in place of `records` that are not in the file, the first of them number
    /// `first`.
    pub const fn absent(records: u64, first: u64, time: u64) -> Record {
        Record { time, iteration: first as u32, aux: ABSENT, ..Record::lost(records) }
    }

    /// A mark of the program.
    pub const fn mark(number: u64) -> Record {
        Record::of(RecordKind::Mark, number, 0, 0)
    }

    /// One of many writers begins.
    pub const fn lane_begin(thread: u32, process: u32) -> Record {
        Record::of(RecordKind::Lane, thread as u64, 0, process)
    }

    /// Recording stops, for this reason.
    pub const fn frozen(why: Frozen) -> Record {
        Record { aux: why as u16, ..Record::of(RecordKind::Freeze, 0, 0, 0) }
    }

    /// The thread was ready to run and had no CPU for so many nanoseconds of the last `micros`.
    pub const fn delayed(nanos: u64, micros: u32) -> Record {
        Record::of(RecordKind::Delayed, nanos, 0, micros)
    }

    /// SIGCONT came so often.
    pub const fn continued(times: u64) -> Record {
        Record::of(RecordKind::Continued, times, 0, 0)
    }

    /// What the record says.
    pub fn payload(&self) -> Content {
        use RecordKind::*;
        let result = match self.res {
            0.. => Ok(self.res as u32),
            _ => Err(Errno(self.res.wrapping_neg())),
        };
        let (id, file, len) = (self.id, self.flags as i32, self.res as u32);
        let has = |flag: u32| self.flags & flag != 0;
        let may_sleep = self.op & MAY_SLEEP != 0;
        let Some(kind) = self.kind() else { return Content::Unknown };
        match kind {
            Sqe => {
                let skip_success = !self.is_watched() && self.aux & u16::from(SKIP_SUCCESS) != 0;
                Content::Submitted { opcode: self.op, file, len, skip_success }
            }
            Cqe if self.is_watched() && has(CQE_NOTIFICATION) => Content::Notified,
            Cqe => {
                let buffer = has(CQE_BUFFER).then_some((self.flags >> 16) as u16);
                let position = if self.is_watched() { 0 } else { self.aux };
                Content::Completed { result, more: has(CQE_MORE), buffer, position }
            }
            Implied => Content::Implied { bytes: len },
            EnterBegin => {
                let mode = WaitMode::from_number(self.aux);
                Content::EnterBegin { queued: id, pending: len, mode }
            }
            EnterEnd => {
                let (provided, overflow) = (self.flags >> 8, has(1));
                Content::EnterEnd { result, reaped: id, provided, overflow }
            }
            WaitBegin => {
                let mode = WaitMode::from_number(self.op);
                let at_most = (mode == Some(WaitMode::Until)).then_some(id);
                Content::WaitBegin { mode, at_most }
            }
            WaitEnd => Content::WaitEnd { result, is_counted: !has(UNKNOWN_COUNT) },
            Ready => Content::Ready { readable: has(1), writable: has(2), hung_up: has(4) },
            CallBegin => Content::CallBegin { file, len, may_sleep },
            CallEnd => Content::CallEnd { file, result, may_sleep },
            Lost => Content::Lost(id),
            Clock => Content::Clock(id),
            Mark => Content::Mark(id),
            Lane => Content::Lane { thread: id as u32, process: self.flags },
            Freeze => Content::Frozen(Frozen::from_number(self.aux)),
            Delayed => Content::Delayed { nanos: id, window: u64::from(self.flags) * 1000 },
            Continued => Content::Continued(id),
        }
    }

    /// The kind, if this version knows it.
    pub fn kind(&self) -> Option<RecordKind> {
        RecordKind::from_number(self.kind)
    }

    /// Whether it is of this kind.
    #[inline]
    pub fn is(&self, kind: RecordKind) -> bool {
        self.kind == kind as u8
    }

    /// The operation, call or wait that the record is about.
    pub fn op(&self) -> Option<OpKind> {
        use RecordKind::*;
        match self.kind()? {
            Sqe | Cqe if self.is_watched() => Some(OpKind::Opcode(self.op)),
            Sqe | Cqe | Implied => Kind::from_number((self.id >> 56) as u8).map(OpKind::Ring),
            CallBegin | CallEnd => Call::from_number(self.op & !MAY_SLEEP).map(OpKind::Call),
            _ => None,
        }
    }

    /// The connection that the record is about: bits 0 to 55 of its token or key.
    #[inline]
    pub fn conn(&self) -> Option<u64> {
        self.conn_below(LINK)
    }

    /// The connection by which the record is in a sample: as [`conn`](Record::conn), and that
    /// of a [link](LINK) to the child that serves it.
    pub(crate) fn sampled_conn(&self) -> Option<u64> {
        self.conn_below(2 * LINK)
    }

    #[inline]
    fn conn_below(&self, limit: u64) -> Option<u64> {
        use RecordKind::*;
        let is_one = match self.kind()? {
            Sqe | Cqe if self.is_watched() => self.id as u32 != NO_FILE,
            Sqe | Cqe | Implied => Kind::from_number((self.id >> 56) as u8)?.is_of_connection(),
            CallBegin | CallEnd | Ready => self.id < limit,
            _ => false,
        };
        is_one.then_some(self.id & CONN)
    }

    /// Which begin and end belong together.
    pub fn pairing(&self) -> Pairing {
        use RecordKind::*;
        match self.kind() {
            Some(CallBegin | CallEnd) => (self.id, self.op, self.aux),
            Some(WaitBegin | WaitEnd) => (0, 0, self.aux),
            Some(EnterBegin | EnterEnd) => (0, 0, 0),
            Some(Sqe | Cqe) if self.is_watched() => (self.id & !CONN, self.op, self.aux),
            _ => (self.id, 0, 0),
        }
    }

    /// The lane, if this is something that one of many writers did.
    pub fn lane(&self) -> Option<u16> {
        use RecordKind::*;
        let has_lane = match self.kind()? {
            WaitBegin | WaitEnd | Ready | CallBegin | CallEnd | Mark | Lane => true,
            Delayed | Continued => true,
            Sqe | Cqe | Implied | EnterBegin | EnterEnd | Lost | Clock | Freeze => false,
        };
        has_lane.then_some(self.aux)
    }

    /// Whether an operation or a call ended with a failure: with an error that a loop in good order
    /// does not meet. That a shutdown comes too late for its peer is no failure of a call.
    pub fn is_failure(&self) -> bool {
        let (op, errno) = (self.op(), Errno(self.res.wrapping_neg()));
        // What a program asks for may not exist, unless it is an operation to remove.
        let is_missing = errno == Errno(libc::ENOENT)
            && matches!(op, Some(OpKind::Opcode(op)) if ![7, 12, 14].contains(&op));
        let is_shutdown = op == Some(OpKind::Call(Call::Shutdown));
        self.res < 0 && !is_shutdown && (is_missing || !errno.is_expected())
    }

    /// The words of a slot, put together in registers. Stored field by field and copied as a whole,
    /// each record would wait for its own stores.
    #[inline]
    pub(crate) fn words(self) -> [u64; 4] {
        let [low, high] = self.aux.to_ne_bytes();
        let small = u32::from_ne_bytes([self.kind, self.op, low, high]);
        [self.time, self.id, pair(self.res as u32, self.flags), pair(self.iteration, small)]
    }

    /// From the words of a slot.
    #[inline]
    pub(crate) fn from_words([time, id, middle, last]: [u64; 4]) -> Record {
        let ((res, flags), (iteration, small)) = (halves(middle), halves(last));
        let [kind, op, low, high] = small.to_ne_bytes();
        let (res, aux) = (res as i32, u16::from_ne_bytes([low, high]));
        Record { time, id, res, flags, iteration, kind, op, aux }
    }

    /// From the bytes of a slot.
    pub fn from_bytes(bytes: &[u8; RECORD]) -> Record {
        Record::from_words([0, 8, 16, 24].map(|at| u64::from_ne_bytes(part(bytes, at))))
    }
}

impl Content {
    /// The result, if it is the end of an operation, an enter, a wait or a call.
    pub fn result(&self) -> Option<Result<u32, Errno>> {
        use Content::*;
        match *self {
            Completed { result, .. } | EnterEnd { result, .. } => Some(result),
            WaitEnd { result, .. } | CallEnd { result, .. } => Some(result),
            Implied { bytes } => Some(Ok(bytes)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_is_written() {
        let record = Record {
            time: 0x0102_0304_0506_0708,
            id: !7,
            res: -104,
            flags: 0xa0b0_c0d0,
            iteration: 0x1020_3040,
            kind: 2,
            op: 27,
            aux: 0xbeef,
        };
        let mut bytes = [0; RECORD];
        for (slot, word) in bytes.chunks_mut(8).zip(record.words()) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        assert_eq!(Record::from_bytes(&bytes), record);
    }

    #[test]
    fn each_payload_is_what_its_constructor_was_given() {
        let send = (Kind::Send as u64) << 56 | 7;
        let err = |errno| Err(Errno(errno));
        let until = WaitMode::Until;
        for (record, payload) in [
            (
                Record::submitted(send, 26, -1, 64, SKIP_SUCCESS),
                Content::Submitted { opcode: 26, file: -1, len: 64, skip_success: true },
            ),
            (
                Record::completed(send, -4, 9 << 16 | 3, 5),
                Content::Completed { result: err(4), more: true, buffer: Some(9), position: 5 },
            ),
            (Record::implied(send, 64), Content::Implied { bytes: 64 }),
            (
                Record::enter_begin(8, 3, until),
                Content::EnterBegin { queued: 8, pending: 3, mode: Some(until) },
            ),
            (
                Record::enter_end(3, 9, u32::MAX, true),
                Content::EnterEnd { result: Ok(3), reaped: 9, provided: 0xff_ffff, overflow: true },
            ),
            (
                Record::wait_begin(until, 50),
                Content::WaitBegin { mode: Some(until), at_most: Some(50) },
            ),
            (Record::wait_end(Some(2)), Content::WaitEnd { result: Ok(2), is_counted: true }),
            (Record::wait_end(None), Content::WaitEnd { result: Ok(0), is_counted: false }),
            (
                Record::ready(7, true, false, true),
                Content::Ready { readable: true, writable: false, hung_up: true },
            ),
            (
                Record::call_begin(Call::Recv, true, 7, 3, 2048),
                Content::CallBegin { file: 3, len: 2048, may_sleep: true },
            ),
            (
                Record::call_end(Call::Recv, false, 7, -1, -11),
                Content::CallEnd { file: -1, result: err(11), may_sleep: false },
            ),
            (Record::lost(3), Content::Lost(3)),
            (Record::mark(4), Content::Mark(4)),
            (Record::lane_begin(5, 6), Content::Lane { thread: 5, process: 6 }),
            (Record::frozen(Frozen::Age), Content::Frozen(Some(Frozen::Age))),
            (Record::delayed(5, 7), Content::Delayed { nanos: 5, window: 7000 }),
            (Record::continued(2), Content::Continued(2)),
            (Record::default(), Content::Unknown),
        ] {
            assert_eq!(record.payload(), payload);
        }
        let call = Record::call_end(Call::Send, true, 7, 3, 64);
        assert_eq!((call.op(), call.conn()), (Some(OpKind::Call(Call::Send)), Some(7)));
        let sqe = Record::submitted(send, 26, 3, 64, 0);
        assert_eq!((sqe.op(), sqe.conn()), (Some(OpKind::Ring(Kind::Send)), Some(7)));
        assert_eq!(Record::ready(1 << 62, true, false, false).conn(), None);
    }
}
