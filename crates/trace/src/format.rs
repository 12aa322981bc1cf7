//! What a trace is made of: one header, and records of 32 bytes. `docs/trace-format.md` is the same
//! in a table.
//!
//! ```text
//!   0        header: who, when, on which kernel, by which clock          HEADER bytes
//!   256        head: records ever written                                (a cache line of its own)
//!   320        whether it has stopped                                    (another)
//!   512        text: `key=value` lines
//!   4096     slot 0, slot 1, … slot capacity - 1                         RECORD bytes each
//! ```
//!
//! Record number `n` stands in slot `n % capacity`. The file always holds the last of them; what
//! was overwritten is counted by its number. Numbers are in the byte order of the machine that
//! wrote them, which the header's mark tells.
//!
//! A file may have [many writers](Writers). Then each of its records says by its `turn` which
//! number it has, and so whether it is there at all, and by its `aux` in which [lane](Record::lane)
//! it was.

use std::fmt;
use std::io::IoSlice;
use std::time::Duration;

use proactor::os;
use proactor::ring::Kind;

/// The first eight bytes of a trace.
pub const MAGIC: [u8; 8] = *b"proactrc";
/// Reads differently on a machine of the other byte order.
pub const BYTE_ORDER: u32 = 0x0102_0304;
/// A reader refuses every other major version.
pub const MAJOR: u16 = 1;
/// Grows with what an old reader may overlook: kinds of record, lines of text.
pub const MINOR: u16 = 0;
/// Bytes before the first record.
pub const HEADER: usize = 4096;
/// Bytes in a record.
pub const RECORD: usize = 32;
/// Where in the header the text begins.
pub const TEXT: usize = 512;
/// How many of the oldest records of a full trace may have been overwritten already, by records
/// that no head tells of: a writer publishes its head before it is half as many ahead of it.
pub const MARGIN: u64 = 128;

/// Where the header's numbers stand.
pub(super) mod at {
    pub(crate) const BYTE_ORDER: usize = 8;
    pub(crate) const MAJOR: usize = 12;
    pub(crate) const MINOR: usize = 14;
    pub(crate) const RECORD: usize = 16;
    pub(crate) const HEADER: usize = 20;
    pub(crate) const CAPACITY: usize = 24;
    pub(crate) const CLOCK: usize = 32;
    pub(crate) const LEVEL: usize = 36;
    pub(crate) const HERTZ: usize = 40;
    pub(crate) const FIRST_TICK: usize = 48;
    pub(crate) const FIRST_NANOS: usize = 56;
    pub(crate) const LAST_TICK: usize = 64;
    pub(crate) const LAST_NANOS: usize = 72;
    pub(crate) const WALL_NANOS: usize = 80;
    pub(crate) const PID: usize = 88;
    pub(crate) const RING_FD: usize = 92;
    pub(crate) const LANE: usize = 96;
    pub(crate) const SAMPLE: usize = 100;
    pub(crate) const TEXT_LEN: usize = 104;
    pub(crate) const WRITERS: usize = 108;
    // A cache line of its own, written to while it runs.
    pub(crate) const HEAD: usize = 256;
    pub(crate) const MISSED: usize = 264;
    pub(crate) const SKIPPED: usize = 272;
    /// Of many writers: of those that were missed, how many a LOST record tells of.
    pub(crate) const TOLD: usize = 280;
    // Another one: looked at for each record, and hardly ever written to.
    pub(crate) const FROZEN: usize = 320;
    pub(crate) const ENDED: usize = 324;
}

/// One thing that happened. What its fields mean is its [`What`]'s to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// When, in ticks of the trace's clock.
    pub time: u64,
    /// Whose: a [`Token`](proactor::ring::Token)'s 64 bits, a [`Key`](proactor::selector::Key)'s, or a
    /// number.
    pub id: u64,
    /// A result, a count or a length.
    pub res: i32,
    /// Flags as they came, or a number.
    pub flags: u32,
    /// The how-manieth enter or wait this was in or after, modulo 2³²; with many writers, the
    /// record's number modulo 2³².
    pub turn: u32,
    /// A [`What`].
    pub what: u8,
    /// An `IORING_OP_*`, a [`Call`] or a [`Patience`].
    pub op: u8,
    /// Something small; of what a thread or process did, with many writers, its lane.
    pub aux: u16,
}

const _: () = assert!(size_of::<Record>() == RECORD);

impl Record {
    /// The bytes of a slot, as four numbers: put together in registers. Stored field by field and
    /// copied as a whole, each record would wait for its own stores.
    #[inline]
    pub(super) fn words(self) -> [u64; 4] {
        let [low, high] = self.aux.to_ne_bytes();
        let small = u32::from_ne_bytes([self.what, self.op, low, high]);
        [self.time, self.id, pair(self.res as u32, self.flags), pair(self.turn, small)]
    }

    /// From the words of a slot.
    #[inline]
    pub(super) fn from_words(words: [u64; 4]) -> Record {
        let mut bytes = [0; RECORD];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        Record::from_bytes(&bytes)
    }

    /// In which lane it was, if the trace has many writers and this is something that one of them
    /// did.
    pub fn lane(&self) -> Option<u16> {
        let what = What::from_number(self.what)?;
        let has = match what {
            What::WaitBegin
            | What::WaitEnd
            | What::Ready
            | What::CallBegin
            | What::CallEnd
            | What::Mark
            | What::Lane => true,
            What::Sqe
            | What::Cqe
            | What::EnterBegin
            | What::EnterEnd
            | What::Silent
            | What::Lost
            | What::Clock
            | What::Freeze => false,
        };
        has.then_some(self.aux)
    }

    /// From the bytes of a slot.
    pub fn from_bytes(bytes: &[u8; RECORD]) -> Record {
        Record {
            time: u64::from_ne_bytes(part(bytes, 0)),
            id: u64::from_ne_bytes(part(bytes, 8)),
            res: i32::from_ne_bytes(part(bytes, 16)),
            flags: u32::from_ne_bytes(part(bytes, 20)),
            turn: u32::from_ne_bytes(part(bytes, 24)),
            what: bytes[28],
            op: bytes[29],
            aux: u16::from_ne_bytes(part(bytes, 30)),
        }
    }
}

/// Eight bytes of which the first four are `first`.
#[inline]
pub(super) fn pair(first: u32, second: u32) -> u64 {
    let (first, second) = (u64::from(first), u64::from(second));
    if cfg!(target_endian = "little") { first | second << 32 } else { first << 32 | second }
}

/// `N` bytes from `at` on, which must be there.
pub(super) fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("so many")
}

macro_rules! numbered {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $item:ident = $number:literal, $text:literal;)* }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $item = $number,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &[$name] = &[$($name::$item,)*];

            /// Which has this number.
            pub fn from_number(number: u8) -> Option<$name> {
                match number { $($number => Some($name::$item),)* _ => None }
            }

            /// What it is called in every view.
            pub const fn name(self) -> &'static str {
                match self { $($name::$item => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.name()) }
        }
    };
}

numbered! {
    /// What a record tells of.
    What {
        /// A submission was queued. `id` its token, `op` its opcode, `res` its length, `flags` its
        /// file, `aux` its `IOSQE_*`.
        Sqe = 1, "sqe";
        /// A completion was reaped. `id`, `res` and `flags` as the kernel gave them; `aux` which
        /// since the enter, from 0.
        Cqe = 2, "cqe";
        /// Into the kernel. `id` submissions ever queued, `res` those that it has not taken,
        /// `aux` a [`Patience`].
        EnterBegin = 3, "enter>";
        /// Back. `id` completions ever reaped, `res` how many submissions it took or minus an
        /// errno, `flags` bit 0: completions waited outside a full queue; bits 8 to 31: buffers
        /// lent just before.
        EnterEnd = 4, "<enter";
        /// A quiet send went out whole: it has no completion. `id` its token, `res` its bytes.
        Silent = 5, "silent";
        /// Records were not written: `id` how many.
        Lost = 6, "LOST";
        /// The clock: `time` in ticks is `id` in nanoseconds of the monotonic clock.
        Clock = 7, "clock";
        /// A remark: `id` a number that means something to who made it.
        Mark = 8, "mark";
        /// Asleep until something is ready. `id` nanoseconds at most, `op` a [`Patience`].
        WaitBegin = 9, "wait>";
        /// Awake. `res` how many are ready, or minus an errno; `flags` [`UNTOLD`] if that is not
        /// known.
        WaitEnd = 10, "<wait";
        /// Something is ready. `id` its key, `flags` 1 to read, 2 to write, 4 hung up.
        Ready = 11, "ready";
        /// A system call begins. `op` a [`Call`], and [`MAY_SLEEP`] if it may; `id` whose key,
        /// `flags` the file, `res` the length.
        CallBegin = 12, "call>";
        /// It is over. `op`, `id` as at its begin, `res` its result or minus an errno, `flags`
        /// the file.
        CallEnd = 13, "<call";
        /// The recorder stopped writing. `aux` a [`Frozen`].
        Freeze = 14, "FROZEN";
        /// A writer begins, one of many. `aux` its lane, `id` its thread's number, `flags` its
        /// process's.
        Lane = 15, "lane";
    }
}

/// In the `op` of a call: it may sleep until its peer does something.
pub const MAY_SLEEP: u8 = 0x80;
/// In the `flags` of the end of a wait: who slept did not say how many are ready.
pub const UNTOLD: u32 = 1;
/// The lane of who began the recording.
pub const MAIN: u16 = u16::MAX;

numbered! {
    /// Who writes into a trace.
    Writers {
        /// One owner, who publishes the head when records are whole.
        One = 0, "one";
        /// Threads of one process: the head counts what was begun.
        Threads = 1, "threads";
        /// A process and its children: the head counts what was begun.
        Processes = 2, "processes";
    }
}

numbered! {
    /// A system call of a loop or of a thread.
    Call {
        /// accept4(2)
        Accept = 1, "accept";
        /// recv(2)
        Recv = 2, "recv";
        /// send(2)
        Send = 3, "send";
        /// sendmsg(2)
        SendVectored = 4, "sendmsg";
        /// shutdown(2)
        Shutdown = 5, "shutdown";
        /// close(2)
        Close = 6, "close";
        /// The selector begins to watch: a call only in some.
        Watch = 7, "watch";
        /// The selector watches for something else.
        Rewatch = 8, "rewatch";
        /// The selector ceases to watch.
        Unwatch = 9, "unwatch";
        /// poll(2) for one socket
        Poll = 10, "poll";
        /// No call: another thread has the right to write to the socket.
        Lock = 11, "lock";
        /// fork(2)
        Fork = 12, "fork";
        /// waitid(2) or waitpid(2): whether a child has ended
        Reap = 13, "waitid";
        /// kill(2)
        Kill = 14, "kill";
    }
}

impl Call {
    /// The call that sends these, and how many bytes they are.
    pub(super) fn send_of(parts: &[IoSlice<'_>]) -> (Call, usize) {
        match parts {
            [part] => (Call::Send, part.len()),
            parts => (Call::SendVectored, parts.iter().map(|part| part.len()).sum()),
        }
    }
}

numbered! {
    /// For how long an enter or a wait may sleep.
    Patience {
        /// Not at all.
        None = 0, "no wait";
        /// Until something happens.
        Endless = 1, "wait>=1";
        /// Until something happens or a moment has come.
        Until = 2, "wait>=1 until";
    }
}

numbered! {
    /// Why a recorder stopped writing.
    Frozen {
        /// A signal asked for it.
        Signal = 1, "by SIGUSR2";
        /// A completion or a call failed.
        Error = 2, "at an error";
        /// The completion queue overflowed.
        Overflow = 3, "at an overflow";
        /// Operations were older than they may be.
        Age = 4, "at an age beyond the limit";
    }
}

numbered! {
    /// What ticks.
    Clock {
        /// The CPU's time stamp counter.
        Tsc = 1, "tsc";
        /// `CLOCK_MONOTONIC`, or the simulator's: nanoseconds.
        Nanos = 2, "monotonic";
    }
}

impl Patience {
    /// With at most so long to wait; `None` is for ever.
    pub(super) fn of(timeout: Option<Duration>) -> Patience {
        match timeout {
            None => Patience::Endless,
            Some(Duration::ZERO) => Patience::None,
            Some(_) => Patience::Until,
        }
    }
}

impl Clock {
    /// The best that there is on this machine.
    pub fn best() -> Clock {
        if os::cycles_are_even() { Clock::Tsc } else { Clock::Nanos }
    }
}

numbered! {
    /// How often the clock is read.
    Level {
        /// At the begin and the end of each enter or wait: the records between have the last.
        Batch = 1, "batch";
        /// For each record.
        Record = 2, "record";
    }
}

/// What an operation on a ring is called in every view.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Accept => "accept",
        Kind::Recv => "recv",
        Kind::Send => "send",
        Kind::Shutdown => "shutdown",
        Kind::Close => "close",
        Kind::CancelAccept => "cancel-accept",
        Kind::CancelRecv => "cancel-recv",
        Kind::CancelSend => "cancel-send",
        Kind::Wake => "wake",
        Kind::Internal => "aside",
        Kind::PollAccept => "poll-accept",
        Kind::PollRecv => "poll-recv",
        Kind::PollSend => "poll-send",
        Kind::Read => "read",
        Kind::PollRead => "poll-read",
    }
}

/// The header's tables of names: `1:accept,2:recv,…`, so that a trace explains itself.
pub(super) fn tables() -> String {
    fn table(names: impl Iterator<Item = (u8, &'static str)>) -> String {
        names.map(|(number, name)| format!("{number}:{name}")).collect::<Vec<_>>().join(",")
    }
    format!(
        "records={}\nkinds={}\ncalls={}\nuser_data=kind:56:8,generation:32:24,slot:0:32\n",
        table(What::ALL.iter().map(|what| (*what as u8, what.name()))),
        table(Kind::ALL.iter().map(|kind| (*kind as u8, kind_name(*kind)))),
        table(Call::ALL.iter().map(|call| (*call as u8, call.name()))),
    )
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
            turn: 0x1020_3040,
            what: 2,
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
    fn a_number_is_what_it_was_made_of_and_names_are_distinct() {
        for what in What::ALL {
            assert_eq!(What::from_number(*what as u8), Some(*what));
        }
        assert_eq!((What::from_number(0), What::from_number(200)), (None, None));
        let names: std::collections::HashSet<_> =
            What::ALL.iter().map(|what| what.name()).collect();
        assert_eq!(names.len(), What::ALL.len());
        assert!(tables().len() < HEADER - TEXT - 1024, "there is room for what else is to be said");
    }

    #[test]
    fn the_document_names_every_record_kind_and_call_by_its_number() {
        let document = include_str!("../../../docs/trace-format.md").replace('\n', " ");
        for what in What::ALL {
            let row = format!("| {} | {}", *what as u8, what.name());
            assert!(document.contains(&row), "{row}");
        }
        let kinds = Kind::ALL.iter().map(|kind| format!("{} {}", *kind as u8, kind_name(*kind)));
        let calls = Call::ALL.iter().map(|call| format!("{} {}", *call as u8, call.name()));
        for (words, names) in
            [("The **calls**", calls.collect::<Vec<_>>()), ("The **kinds**", kinds.collect())]
        {
            let (_, list) = document.split_once(words).expect("a list");
            let list = list.split_once(": ").expect("names").1.split_once('.').expect("its end").0;
            assert_eq!(list.split(", ").collect::<Vec<_>>(), names, "{words}");
        }
    }
}
