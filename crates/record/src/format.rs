//! The layout of a trace file: one header, and records of 32 bytes. `docs/trace-format.md` has the
//! same in tables.
//!
//! ```text
//!   0        header: process, start, kernel, clock                       HEADER bytes
//!   256        head: records ever written                                (a cache line of its own)
//!   320        whether recording has stopped                             (another)
//!   512        text: `key=value` lines
//!   4096     slot 0, slot 1, … slot capacity - 1                         RECORD bytes each
//! ```
//!
//! Record number `n` is in slot `n % capacity`, so the file holds the last `capacity` records, and
//! the numbers of the others say how many were overwritten. All numbers are in the byte order of
//! the machine that wrote the file; the mark at offset 8 says which that is.
//!
//! A file may have [many writers](Writers). Then a record's `iteration` is its number, which says
//! whether the record is there at all, and its `aux` is the [lane](crate::Record::lane) of its
//! writer.
//!
//! # Tokens and keys
//! The `id` of an operation's record is a *token*, that of a call's a *key*:
//!
//! ```text
//!          63       56 55              32 31                        0
//!   token  │ Kind 8   │  generation 24   │  slot 32 (or accept)      │
//!   key    │ 0        │  generation 24   │  slot 32                  │  of a connection
//! ```
//!
//! One operation of a kind is in flight per connection, so a token names the operation. A key with
//! a bit of 60 to 63 set names something else than a connection (see `docs/trace-format.md`).

use std::fmt;
use std::io::IoSlice;
use std::time::Duration;

use crate::sys;

/// The first eight bytes of a trace.
pub const MAGIC: [u8; 8] = *b"proactrc";
/// Reads differently on a machine of the other byte order.
pub const BYTE_ORDER: u32 = 0x0102_0304;
/// A reader refuses every other major version.
pub const MAJOR: u16 = 1;
/// Grows with what an old reader may ignore: kinds of record, lines of text. Since 1 the header has
/// the ring's setup flags; since 2 there are records of delays and of SIGCONT.
pub const MINOR: u16 = 2;
/// Bytes before the first record.
pub const HEADER: usize = 4096;
/// Bytes in a record.
pub const RECORD: usize = 32;
/// The offset of the header's text.
pub const TEXT: usize = 512;
/// The number of oldest records of a full trace that may already be overwritten by records beyond
/// the published head: a recorder publishes its head before it is half of this ahead.
pub const MARGIN: u64 = 128;
/// The bits of a token or of a connection's key that name the connection.
pub const CONN: u64 = (1 << 56) - 1;
/// Bits 56 to 63 of the token of an operation of another program's ring. Bits 0 to 31 are the
/// descriptor, or [`NO_FILE`], and bits 32 to 55 say how often it was opened before.
pub const WATCHED: u8 = 255;
/// In place of a descriptor: it is not known, or there is none.
pub const NO_FILE: u32 = u32::MAX;
/// In a key: the link between a parent and the child process that serves the connection. A key
/// below it is a connection's.
pub const LINK: u64 = 1 << 60;
/// `IOSQE_CQE_SKIP_SUCCESS`: the operation has a completion only if it fails or is short.
pub const SKIP_SUCCESS: u8 = 1 << 6;
/// `IORING_CQE_F_BUFFER`: the kernel picked a buffer, whose number is in bits 16 to 31.
pub const CQE_BUFFER: u32 = 1 << 0;
/// `IORING_CQE_F_MORE`: the operation stays in flight.
pub const CQE_MORE: u32 = 1 << 1;
/// The flag of a completion that is no result, but says that a buffer is not in use any more
/// (`IORING_CQE_F_NOTIF`).
pub const CQE_NOTIFICATION: u32 = 1 << 3;
/// `IORING_SETUP_DEFER_TASKRUN`: the kernel posts completions only within an enter.
pub const DEFER_TASKRUN: u32 = 1 << 13;

/// The offsets of the header's numbers that change while the recorder runs.
pub(crate) mod at {
    pub(crate) const LAST_TICK: usize = 64;
    pub(crate) const LAST_NANOS: usize = 72;
    // A cache line of its own, written while the recorder runs.
    pub(crate) const HEAD: usize = 256;
    pub(crate) const MISSED: usize = 264;
    pub(crate) const SKIPPED: usize = 272;
    /// The part of MISSED that LOST records report.
    pub(crate) const REPORTED: usize = 280;
    // Another one: read for each record, and hardly ever written.
    pub(crate) const FROZEN: usize = 320;
    pub(crate) const ENDED: usize = 324;
}

macro_rules! header_numbers {
    ($($name:ident: $type:ty = $at:expr;)*) => {
        /// The numbers of a header as they are in the file.
        #[derive(Debug, Clone, Copy, Default)]
        pub(crate) struct Numbers { $(pub(crate) $name: $type,)* }

        impl Numbers {
            /// Reads the numbers of a whole header.
            pub(crate) fn read(header: &[u8]) -> Numbers {
                Numbers { $($name: <$type>::from_ne_bytes(part(header, $at)),)* }
            }

            /// Passes the offset and the bytes of each number to `put`.
            pub(crate) fn write(&self, mut put: impl FnMut(usize, &[u8])) {
                $(put($at, &self.$name.to_ne_bytes());)*
            }
        }
    };
}

header_numbers! {
    byte_order: u32 = 8;
    major: u16 = 12;
    minor: u16 = 14;
    record: u32 = 16;
    header: u32 = 20;
    capacity: u64 = 24;
    clock: u32 = 32;
    level: u32 = 36;
    hertz: u64 = 40;
    first_tick: u64 = 48;
    first_nanos: u64 = 56;
    last_tick: u64 = at::LAST_TICK;
    last_nanos: u64 = at::LAST_NANOS;
    wall_nanos: u64 = 80;
    pid: u32 = 88;
    ring_fd: i32 = 92;
    lane: u32 = 96;
    sample: u32 = 100;
    text_len: u32 = 104;
    writers: u32 = 108;
    setup: u32 = 112;
    head: u64 = at::HEAD;
    missed: u64 = at::MISSED;
    skipped: u64 = at::SKIPPED;
    frozen: u32 = at::FROZEN;
    ended: u32 = at::ENDED;
}

/// Eight bytes, the first four of which are `first`.
#[inline]
pub(crate) fn pair(first: u32, second: u32) -> u64 {
    let (first, second) = (u64::from(first), u64::from(second));
    if cfg!(target_endian = "little") { first | second << 32 } else { first << 32 | second }
}

/// The halves of eight bytes: what [`pair`] was given.
#[inline]
pub(crate) fn halves(both: u64) -> (u32, u32) {
    let (low, high) = (both as u32, (both >> 32) as u32);
    if cfg!(target_endian = "little") { (low, high) } else { (high, low) }
}

/// The `N` bytes from `at` on.
///
/// # Panics
/// If there are fewer.
pub(crate) fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes")
}

/// An enum whose variants have a number in a file and a name in every view.
#[doc(hidden)]
#[macro_export]
macro_rules! numbered {
    ($(#[$outer:meta])* $name:ident {
        $($(#[$doc:meta])* $item:ident = $number:literal, $text:literal;)*
    }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $item = $number,)* }

        impl $name {
            /// All variants, in the order of their numbers.
            pub const ALL: &[$name] = &[$($name::$item,)*];

            /// The variant with this number.
            pub fn from_number(number: impl TryInto<u8>) -> Option<$name> {
                match number.try_into().ok()? { $($number => Some($name::$item),)* _ => None }
            }

            /// The name, the same in every view.
            pub const fn name(self) -> &'static str {
                match self { $($name::$item => $text,)* }
            }

            /// The names by their numbers, `1:accept,2:recv,…`.
            pub fn table() -> String {
                [$(concat!($number, ":", $text)),*].join(",")
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

numbered! {
    /// The kind of a record. [`Record`](crate::Record) has a constructor for each, and
    /// [`Content`](crate::Content) a variant.
    RecordKind {
        /// A submission was queued. `id` its token, `op` its opcode, `res` its length, `flags` its
        /// file, `aux` its `IOSQE_*`.
        Sqe = 1, "sqe";
        /// A completion was reaped. `id`, `res` and `flags` as the kernel gave them; `aux` its
        /// position since the enter, from 0.
        Cqe = 2, "cqe";
        /// The loop enters the kernel. `id` submissions ever queued, `res` those that the kernel
        /// has not taken, `aux` a [`WaitMode`].
        EnterBegin = 3, "enter>";
        /// The loop is back. `id` completions ever reaped, `res` submissions taken or minus an
        /// errno, `flags` bit 0: completions waited outside a full queue; bits 8 to 31: buffers
        /// provided just before.
        EnterEnd = 4, "<enter";
        /// A send with `IOSQE_CQE_SKIP_SUCCESS` succeeded in full: it has no completion. `id` its
        /// token, `res` its bytes.
        Implied = 5, "implied";
        /// Records were not written: `id` how many.
        Lost = 6, "LOST";
        /// The clock: `time` in ticks is `id` in nanoseconds of the monotonic clock.
        Clock = 7, "clock";
        /// A mark of the program: `id` is chosen by the caller.
        Mark = 8, "mark";
        /// The selector waits. `id` nanoseconds at most, `op` a [`WaitMode`].
        WaitBegin = 9, "wait>";
        /// The wait is over. `res` the number of ready descriptors, or minus an errno; `flags`
        /// [`UNKNOWN_COUNT`] if the number is not known.
        WaitEnd = 10, "<wait";
        /// A descriptor is ready. `id` its key, `flags` 1 to read, 2 to write, 4 hung up.
        Ready = 11, "ready";
        /// A system call begins. `op` a [`Call`], with [`MAY_SLEEP`] if it may; `id` its key,
        /// `flags` the file, `res` the length.
        CallBegin = 12, "call>";
        /// The call is over. `op`, `id` and `flags` as at its begin, `res` its result or minus an
        /// errno.
        CallEnd = 13, "<call";
        /// The recorder stopped writing. `aux` a [`Frozen`].
        Freeze = 14, "FROZEN";
        /// One of many writers begins. `aux` its lane, `id` its thread's number, `flags` its
        /// process's.
        Lane = 15, "lane";
        /// The owner, or the main thread, was ready to run and had no CPU: `id` nanoseconds, of the
        /// last `flags` microseconds.
        Delayed = 16, "delayed";
        /// The process was continued, after a stop if there was one: `id` times SIGCONT.
        Continued = 17, "SIGCONT";
    }
}

/// In the `op` of a call: the call may sleep until its peer acts.
pub const MAY_SLEEP: u8 = 0x80;
/// In the `flags` of the end of a wait: the number of ready descriptors is not known.
pub const UNKNOWN_COUNT: u32 = 1;
/// In the `aux` of a LOST record: a reader put it in place of the records that it counts.
pub const ABSENT: u16 = 1;
/// The lane of the thread that started the recording.
pub const MAIN: u16 = u16::MAX;

numbered! {
    /// The writers of a trace.
    Writers {
        /// One owner, which publishes the head when records are complete.
        One = 0, "one";
        /// Threads of one process: the head counts the records begun.
        Threads = 1, "threads";
        /// A process and its children: the head counts the records begun.
        Processes = 2, "processes";
    }
}

numbered! {
    /// The kind of an operation on a ring: bits 56 to 63 of its token.
    Kind {
        /// Accepts connections of a listener.
        Accept = 1, "accept";
        /// Receives from a connection.
        Recv = 2, "recv";
        /// Sends on a connection.
        Send = 3, "send";
        /// Shuts a connection down.
        Shutdown = 4, "shutdown";
        /// Closes the socket of a connection.
        Close = 5, "close";
        /// Cancels an accept in flight.
        CancelAccept = 6, "cancel-accept";
        /// Cancels a receive in flight.
        CancelRecv = 7, "cancel-recv";
        /// Cancels a send in flight.
        CancelSend = 8, "cancel-send";
        /// Waits for a wake-up of the loop.
        Wake = 9, "wake";
        /// An operation that only the ring itself needs, as a timeout or a buffer group.
        Internal = 10, "internal";
        /// The poll linked before an accept.
        PollAccept = 11, "poll-accept";
        /// The poll linked before a receive.
        PollRecv = 12, "poll-recv";
        /// The poll linked before a send.
        PollSend = 13, "poll-send";
        /// Reads what is typed at the console.
        Read = 14, "read";
        /// The poll linked before a read.
        PollRead = 15, "poll-read";
        /// Asks how many bytes the peer of a connection has not acknowledged.
        Outq = 16, "outq";
    }
}

impl Kind {
    /// Returns the token of an operation of this kind, on what a slot and its generation name. Of
    /// the generation, 24 bits count.
    #[inline]
    pub const fn token(self, generation: u32, slot: u32) -> u64 {
        (self as u64) << 56 | (generation as u64) << 40 >> 8 | slot as u64
    }

    /// Returns the kind of a token's operation.
    pub fn of(token: u64) -> Option<Kind> {
        Kind::from_number((token >> 56) as u8)
    }

    /// Whether its token names a connection.
    pub const fn is_of_connection(self) -> bool {
        use Kind::*;
        let is_polled = matches!(self, PollRecv | PollSend);
        is_polled || matches!(self, Recv | Send | Shutdown | Close | CancelRecv | CancelSend | Outq)
    }

    /// Whether it cancels another operation. A connection may have two in flight: one of its
    /// receive and one of its send.
    pub const fn is_cancel(self) -> bool {
        matches!(self, Kind::CancelAccept | Kind::CancelRecv | Kind::CancelSend)
    }
}

numbered! {
    /// A system call of a loop or of a thread.
    Call {
        /// A connection is accepted: accept4(2).
        Accept = 1, "accept";
        /// Bytes are received: recv(2).
        Recv = 2, "recv";
        /// Bytes are sent: send(2).
        Send = 3, "send";
        /// Several parts are sent at once: sendmsg(2).
        SendVectored = 4, "sendmsg";
        /// One direction is shut down: shutdown(2).
        Shutdown = 5, "shutdown";
        /// The socket is closed: close(2).
        Close = 6, "close";
        /// The selector begins to watch a descriptor: a system call in some selectors.
        Watch = 7, "watch";
        /// The selector changes what it watches for.
        Rewatch = 8, "rewatch";
        /// The selector ceases to watch.
        Unwatch = 9, "unwatch";
        /// One socket is waited for: poll(2).
        Poll = 10, "poll";
        /// No system call: a thread waits for the right to write to a socket.
        Lock = 11, "lock";
        /// A child process is created: fork(2).
        Fork = 12, "fork";
        /// A child process is reaped: waitid(2) or waitpid(2).
        Reap = 13, "waitid";
        /// A child process is signalled: kill(2).
        Kill = 14, "kill";
    }
}

impl Call {
    /// The call that sends `parts`, and the number of bytes.
    pub fn send_of(parts: &[IoSlice<'_>]) -> (Call, usize) {
        match parts {
            [part] => (Call::Send, part.len()),
            parts => (Call::SendVectored, parts.iter().map(|part| part.len()).sum()),
        }
    }
}

/// An operation on a ring, a system call, or a wait of a selector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// An operation on a ring.
    Ring(Kind),
    /// An operation on a ring of another program: its `IORING_OP_*`. [`UNSEEN`] and [`MESSAGE`] are
    /// none.
    Opcode(u8),
    /// A call by a loop or a thread.
    Call(Call),
    /// A wait of a selector.
    #[default]
    Wait,
}

impl OpKind {
    /// The name, the same in every view.
    pub fn name(self) -> &'static str {
        match self {
            OpKind::Ring(kind) => kind.name(),
            OpKind::Opcode(UNSEEN) => "(unseen)",
            OpKind::Opcode(MESSAGE) => "(message)",
            OpKind::Opcode(opcode) => operation(opcode).unwrap_or("(unknown)"),
            OpKind::Call(call) => call.name(),
            OpKind::Wait => "wait",
        }
    }

    /// Whether this is an operation on a ring.
    pub const fn is_on_ring(self) -> bool {
        matches!(self, OpKind::Ring(_) | OpKind::Opcode(_))
    }

    /// Whether it accepts connections.
    pub const fn accepts(self) -> bool {
        matches!(self, OpKind::Ring(Kind::Accept) | OpKind::Call(Call::Accept) | OpKind::Opcode(13))
    }

    /// Whether it receives bytes from a connection.
    pub const fn receives(self) -> bool {
        // Also recvmsg and recv_zc.
        matches!(
            self,
            OpKind::Ring(Kind::Recv) | OpKind::Call(Call::Recv) | OpKind::Opcode(10 | 27 | 58)
        )
    }

    /// Whether it sends bytes on a connection.
    pub const fn sends(self) -> bool {
        // Also sendmsg, send_zc and sendmsg_zc.
        matches!(
            self,
            OpKind::Ring(Kind::Send)
                | OpKind::Call(Call::Send | Call::SendVectored)
                | OpKind::Opcode(9 | 26 | 47 | 48)
        )
    }

    /// Whether it closes a connection.
    pub const fn closes(self) -> bool {
        matches!(self, OpKind::Ring(Kind::Close) | OpKind::Call(Call::Close) | OpKind::Opcode(19))
    }

    /// Whether its duration says nothing of this program: it waits for a peer, a person at the
    /// console, a signal or another thread. A send is not among them: how long it sleeps says how
    /// full the socket is. `may_sleep` says whether a call blocks.
    pub const fn waits_for_others(self, may_sleep: bool) -> bool {
        use Kind::*;
        match self {
            OpKind::Ring(Accept | Recv | Wake | Internal | Read) => true,
            OpKind::Ring(PollAccept | PollRecv | PollSend | PollRead) => true,
            OpKind::Ring(Send | Shutdown | Close | CancelAccept | CancelRecv) => false,
            OpKind::Ring(CancelSend | Outq) => false,
            OpKind::Call(_) => may_sleep && !self.sends(),
            // poll_add, timeout, accept, link_timeout, read_multishot, waitid, futex_wait,
            // futex_waitv, epoll_wait.
            OpKind::Opcode(6 | 11 | 13 | 15 | 49..=51 | 53 | 59) => true,
            OpKind::Opcode(_) => self.receives(),
            OpKind::Wait => true,
        }
    }
}

/// In place of an opcode: the submission was not seen.
pub const UNSEEN: u8 = 255;
/// In place of an opcode: another ring posted the completion (`IORING_OP_MSG_RING`).
pub const MESSAGE: u8 = 254;

/// The names of `IORING_OP_*` in lower case, by number (`enum io_uring_op`), up to Linux 7.2.
const OPERATIONS: &str = include_str!("operations.txt");

/// The name of an `IORING_OP_*` in lower case, if its number has one here.
pub fn operation(opcode: u8) -> Option<&'static str> {
    OPERATIONS.split_whitespace().nth(opcode.into())
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

numbered! {
    /// How long an enter or a wait may sleep.
    WaitMode {
        /// It does not sleep.
        None = 0, "no wait";
        /// It sleeps until something happens.
        Endless = 1, "wait>=1";
        /// It sleeps until something happens or a timeout ends.
        Until = 2, "wait>=1 until";
    }
}

numbered! {
    /// The reason why a recorder stopped writing.
    Frozen {
        /// A signal asked for it.
        Signal = 1, "by SIGUSR2";
        /// A completion or a call failed.
        Error = 2, "at an error";
        /// The completion queue overflowed.
        Overflow = 3, "at an overflow";
        /// Operations were older than the trigger's limit.
        Age = 4, "at an age beyond the limit";
        /// The file was cut short, or its filesystem is full.
        LostFile = 5, "at the loss of its file";
    }
}

numbered! {
    /// The clock of a trace.
    Clock {
        /// The CPU's time stamp counter.
        Tsc = 1, "tsc";
        /// Nanoseconds of `CLOCK_MONOTONIC`, or of a simulator.
        Nanos = 2, "monotonic";
    }
}

impl WaitMode {
    /// The mode of a wait with this timeout; `None` is without an end.
    pub fn of(timeout: Option<Duration>) -> WaitMode {
        match timeout {
            None => WaitMode::Endless,
            Some(Duration::ZERO) => WaitMode::None,
            Some(_) => WaitMode::Until,
        }
    }
}

impl Clock {
    /// The best clock of this machine.
    pub fn best() -> Clock {
        if sys::cycles_are_even() { Clock::Tsc } else { Clock::Nanos }
    }

    /// Reads the clock; `nanos` returns nanoseconds, if the clock counts these.
    #[inline]
    pub fn now(self, nanos: impl FnOnce() -> u64) -> u64 {
        match self {
            Clock::Tsc => sys::cycles(),
            Clock::Nanos => nanos(),
        }
    }
}

numbered! {
    /// How often the clock is read.
    Level {
        /// At the begin and the end of each enter or wait: the records between have the last time.
        Batch = 1, "batch";
        /// It is read for each record.
        Record = 2, "record";
    }
}

/// The header's tables of names, so that a trace explains itself.
pub(crate) fn tables() -> String {
    let (records, kinds, calls) = (RecordKind::table(), Kind::table(), Call::table());
    let user_data = "kind:56:8,generation:32:24,slot:0:32";
    format!("records={records}\nkinds={kinds}\ncalls={calls}\nuser_data={user_data}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_what_it_was_made_of_and_names_are_distinct() {
        for kind in RecordKind::ALL {
            assert_eq!(RecordKind::from_number(*kind as u8), Some(*kind));
        }
        assert_eq!((RecordKind::from_number(0), RecordKind::from_number(200)), (None, None));
        let names: std::collections::HashSet<_> =
            RecordKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), RecordKind::ALL.len());
        assert!(tables().len() < HEADER - TEXT - 1024, "the header has space for the other lines");
    }

    #[test]
    fn the_document_names_every_record_kind_and_call_by_its_number() {
        let document = include_str!("../../../docs/trace-format.md").replace('\n', " ");
        for kind in RecordKind::ALL {
            let row = format!("| {} | {}", *kind as u8, kind.name());
            assert!(document.contains(&row), "{row}");
        }
        let kinds = Kind::ALL.iter().map(|kind| format!("{} {}", *kind as u8, kind.name()));
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
