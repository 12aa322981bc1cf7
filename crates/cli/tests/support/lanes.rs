//! A trace of threads, made by hand: every call and its time are known.

use proactor::keys::{ConnId, Key, KeyOwner};
use proactor_trace::format::{HEADER, RECORD};
use proactor_trace::{About, Call, Clock, Record, RecordKind, Settings, WaitMode, Writer, Writers};

/// A lane, a moment in microseconds, and what happens then.
type Step = (usize, u64, Did);

/// What a thread does.
#[derive(Debug, Clone, Copy)]
enum Did {
    /// A call on this connection, with this many bytes.
    Begin(Call, u32, i32),
    /// It is over, with this result.
    End(Call, u32, i32),
    /// A thread begins here.
    Lane,
    /// Asleep until a connection comes, and awake.
    Wait,
    Wake,
}

/// By lane: the main one is 0, and `t0` and `t1` are 1 and 2. `t0` echoes 64 bytes and says them to
/// the other's connection, too; `t1` hears its own peer's end, and closes. Its lane is used again.
const STEPS: [Step; 22] = {
    use Call::{Close, Recv, Send};
    use Did::{Begin, End, Lane, Wait, Wake};
    [
        (0, 0, Wait),
        (1, 0, Lane),
        (2, 5, Lane),
        (1, 10, Begin(Recv, 0, 2048)),
        (2, 12, Begin(Recv, 1, 2048)),
        (1, 110, End(Recv, 0, 64)),
        (1, 113, Begin(Send, 0, 64)),
        (1, 118, End(Send, 0, 64)),
        (1, 120, Begin(Send, 1, 64)),
        (1, 127, End(Send, 1, 64)),
        (1, 128, Begin(Recv, 0, 2048)),
        (2, 130, End(Recv, 1, 32)),
        (2, 131, Begin(Recv, 1, 2048)),
        (2, 140, End(Recv, 1, 0)),
        (2, 141, Begin(Close, 1, 0)),
        (2, 145, End(Close, 1, 0)),
        (0, 150, Wake),
        (0, 151, Wait),
        (2, 160, Lane),
        (2, 161, Begin(Recv, 1, 2048)),
        (2, 170, End(Recv, 1, -libc::ECONNRESET)),
        (0, 200, Wake),
    ]
};

/// When the first of them is, in nanoseconds.
const BEGUN: u64 = 1_000_000;

/// The trace's bytes. Each thread's number is 1000 and its place among the lanes; the second in
/// `t1` has 1003.
pub(crate) fn threads() -> Vec<u8> {
    let settings = Settings { bytes: 1 << 20, clock: Some(Clock::Nanos), ..Settings::default() };
    let about = About { model: "thread".to_owned(), ..About::default() };
    let main = Writer::new(None, &settings, &about, Writers::Threads).unwrap();
    let mut lanes = vec![main.clone(); 3];
    for (lane, at, did) in STEPS {
        let time = BEGUN + at * 1000;
        if matches!(did, Did::Lane) {
            lanes[lane] = main.lane(lane as u32 - 1);
        } else {
            lanes[lane].write(|| time, record(did));
        }
    }
    // The lanes have begun when they did by the clock, and by a thread that is this one.
    let mut bytes = main.bytes();
    let begins = STEPS.iter().filter(|(.., did)| matches!(did, Did::Lane)).map(|(_, at, _)| *at);
    let slots = bytes[HEADER..].chunks_exact_mut(RECORD);
    let slots = slots.filter(|slot| slot[28] == RecordKind::Lane as u8);
    for ((thread, at), slot) in (1000_u64..).zip([0].into_iter().chain(begins)).zip(slots) {
        slot[..8].copy_from_slice(&(BEGUN + at * 1000).to_ne_bytes());
        slot[8..16].copy_from_slice(&thread.to_ne_bytes());
    }
    bytes
}

fn record(did: Did) -> Record {
    let sleeps = |call| matches!(call, Call::Recv | Call::Send);
    let key = |conn| Key::from(KeyOwner::Conn(ConnId::new(conn, 0))).0;
    let file = |conn: u32| 10 + conn as i32;
    match did {
        Did::Begin(call, conn, len) => {
            Record::call_begin(call, sleeps(call), key(conn), file(conn), len as u32)
        }
        Did::End(call, conn, res) => {
            Record::call_end(call, sleeps(call), key(conn), file(conn), res)
        }
        Did::Wait => Record::wait_begin(WaitMode::Endless, 0),
        Did::Wake => Record::wait_end(Some(1)),
        Did::Lane => unreachable!("a lane says itself that it begins"),
    }
}
