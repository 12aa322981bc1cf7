//! Many who write at once: nothing is lost, nothing is torn, and nobody is held up by the dead.

use std::collections::HashMap;
use std::thread;

use proptest::prelude::*;

use super::super::event::{ABSENT, Event, Happened};
use super::super::follow::Follow;
use super::super::format::{Call, MARGIN};
use super::super::format::{HEADER, RECORD};
use super::super::map::{Claim, Common, Map};
use super::super::reader::Trace;
use super::super::trigger::Trigger;
use super::super::view::{Cut, Digest};
use super::*;

/// The least that a trace has room for.
const LEAST: u64 = 4096;

fn settings() -> Settings {
    Settings { bytes: 0, ..Settings::default() }
}

fn in_memory() -> Writer {
    Writer::in_memory(&settings(), &About::default(), Writers::Threads).expect("memory")
}

fn read(writer: &Writer) -> Trace {
    Trace::from_bytes(&writer.bytes()).expect("it is a trace")
}

/// A record all of whose fields follow from who wrote it and which of its own it is.
fn telling(lane: u16, nth: u32) -> Record {
    let id = u64::from(lane) << 32 | u64::from(nth);
    Record {
        what: What::Mark as u8,
        id,
        res: !nth as i32,
        flags: nth ^ 0xa5a5,
        ..Record::default()
    }
}

/// Lets so many threads write so many records each.
fn write_all(writer: &Writer, threads: u32, each: u32) {
    thread::scope(|scope| {
        for slot in 0..threads {
            scope.spawn(move || {
                let writer = writer.lane(slot);
                for nth in 0..each {
                    writer.write(None, now, telling(writer.number(), nth));
                }
            });
        }
    });
}

/// Of each lane, which of its own records are there. Each is as it was written, and a lane's are in
/// their order.
fn told(trace: &Trace) -> HashMap<u16, Vec<u32>> {
    let mut told: HashMap<u16, Vec<u32>> = HashMap::new();
    let marks = trace.records.iter().filter(|one| one.what == What::Mark as u8);
    for record in marks {
        let nth = record.id as u32;
        let right = Record {
            time: record.time,
            turn: record.turn,
            aux: record.aux,
            ..telling(record.aux, nth)
        };
        assert_eq!(*record, right, "a record is torn");
        told.entry(record.aux).or_default().push(nth);
    }
    for nths in told.values() {
        assert!(nths.is_sorted(), "a lane's records are out of order");
    }
    told
}

/// A file, which is locked as long as it is open, one who writes into it, and one who follows from
/// now on.
fn followed() -> (tempfile::NamedTempFile, Writer, Follow) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let about = About::default();
    let writer = Writer::create(file.as_file(), &settings(), &about, Writers::Threads).unwrap();
    // Opened anew, so that it sees the writer's lock.
    let follow = Follow::new(file.reopen().unwrap(), true).unwrap();
    (file, writer, follow)
}

/// What has happened since this was last asked.
fn happened(follow: &mut Follow) -> Vec<Happened> {
    follow.poll().expect("it is a trace").into_iter().map(|event| event.what).collect()
}

fn losses(trace: &Trace) -> Vec<u64> {
    let lost = |event: Event| match event.what {
        Happened::Lost(n) => Some(n),
        _ => None,
    };
    trace.events().filter_map(lost).collect()
}

#[test]
fn what_many_threads_write_at_once_is_all_there_and_whole() {
    let writer = in_memory();
    let (threads, each) = (8, 500);
    write_all(&writer, threads, each);
    let trace = read(&writer);
    assert_eq!(trace.header.writers, Writers::Threads);
    assert_eq!(u64::from(threads * (each + 1) + 1), trace.header.head);
    assert_eq!((trace.lost(), losses(&trace)), (0, Vec::new()));
    let told = told(&trace);
    assert_eq!(told.len(), threads as usize);
    for nths in told.values() {
        assert!(nths.iter().copied().eq(0..each));
    }
    let mut numbers: Vec<u64> = trace.events().map(|event| event.number).collect();
    assert!(trace.events().map(|event| event.at).is_sorted(), "events are in order of time");
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..trace.header.head), "each number once");
}

#[test]
fn a_trace_that_goes_round_under_many_keeps_the_last_and_says_what_is_gone() {
    let writer = in_memory();
    write_all(&writer, 8, 3 * LEAST as u32);
    let trace = read(&writer);
    told(&trace);
    assert_eq!(trace.first, trace.header.head - LEAST);
    let there = trace.records.iter().filter(|one| one.what != What::Lost as u8).count() as u64;
    assert_eq!(there + losses(&trace).iter().sum::<u64>(), LEAST, "there, or said to be lost");
}

#[test]
fn who_reads_while_many_write_sees_nothing_torn() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let about = About::default();
    let writer = Writer::create(file.as_file(), &settings(), &about, Writers::Threads).unwrap();
    let reads = thread::scope(|scope| {
        let writing = scope.spawn(|| write_all(&writer, 4, 20 * LEAST as u32));
        let mut reads = 0;
        while !writing.is_finished() || reads == 0 {
            told(&Trace::open(file.path()).expect("it is a trace"));
            told(&read(&writer));
            reads += 1;
        }
        reads
    });
    assert!(reads > 0);
}

/// Of two slots, so that somebody is writing to what is read.
#[test]
fn what_is_written_to_meanwhile_is_not_among_what_is_read() {
    let map = Common::new(Map::new(None, 2, Writers::Threads).unwrap()).unwrap();
    let whole = |slot: &[u8; RECORD]| {
        let record = Record::from_bytes(slot);
        let right = telling((record.id >> 32) as u16, record.id as u32);
        let is_right = record == Record { turn: record.turn, ..right };
        assert!(record.what == 0 || is_right, "a record is torn: {record:?}");
        record.what != 0
    };
    let mut seen = 0;
    thread::scope(|scope| {
        let write = |lane: u16| {
            (0..100_000).for_each(|nth| map.write(map.reserve(), telling(lane, nth).words()))
        };
        let writing = [1, 2].map(|lane| scope.spawn(move || write(lane)));
        while writing.iter().any(|one| !one.is_finished()) || seen == 0 {
            let bytes = map.bytes();
            seen +=
                bytes[HEADER..].as_chunks::<RECORD>().0.iter().filter(|slot| whole(slot)).count();
        }
    });
    assert!(seen > 0);
}

#[test]
fn a_writer_who_is_killed_in_the_middle_leaves_one_that_is_lost() {
    let writer = in_memory();
    let map = &writer.shared.map;
    writer.mark(1);
    let number = map.reserve();
    // It is begun, and never finished.
    assert!(map.claim(number).is_some(), "nobody else has it");
    // One more has got its number, and no further.
    map.reserve();
    writer.mark(2);
    let trace = read(&writer);
    assert_eq!((losses(&trace), trace.lost()), (vec![2], 2));
    let marks = |event: Event| matches!(event.what, Happened::Mark(_)).then_some(event.number);
    assert_eq!(trace.events().filter_map(marks).collect::<Vec<_>>(), [1, 4]);
    // From then on their slots are nobody's: of each lap two are lost.
    for lap in 1..=3 {
        (0..LEAST).for_each(|n| writer.mark(n));
        let trace = read(&writer);
        assert_eq!((losses(&trace), trace.lost()), (vec![2], (lap - 1) * LEAST + 7), "{lap}");
    }
}

#[test]
fn who_comes_back_a_lap_later_spoils_nothing() {
    let writer = in_memory();
    let map = &writer.shared.map;
    let late = map.reserve();
    (0..LEAST).for_each(|n| writer.mark(n));
    assert_eq!(losses(&read(&writer)), [1], "who came a lap later has left its slot alone");
    map.claim(late).expect("nobody else has it").finish(telling(MAIN, 0).words());
    assert_eq!(losses(&read(&writer)), [1], "it is a lap old");
    (0..LEAST).for_each(|n| writer.mark(n));
    assert!(losses(&read(&writer)).is_empty(), "as it has come, its slot is used again");
}

/// Numbers of one slot, whose writers come in any order and take any time over it.
#[test]
fn a_slot_has_one_writer_at_a_time_and_is_used_again_when_the_late_have_come() {
    proptest!(|(order in order(), kill in 0..60u64)| {
        let writer = in_memory();
        let map = &writer.shared.map;
        let mut writing: Option<Claim<'_>> = None;
        let (mut killed, mut written) = (false, 0);
        for (lap, finish) in order {
            if finish && let Some(claim) = writing.take() {
                claim.finish(telling(MAIN, 0).words());
                written += 1;
            }
            if let Some(claim) = map.claim(lap * LEAST + 7) {
                prop_assert!(writing.is_none() && !killed, "lap {} has it and another too", lap);
                if lap == kill { killed = true } else { writing = Some(claim) }
            }
        }
        prop_assert!(written > 0 || killed);
        if let Some(claim) = writing {
            claim.finish(telling(MAIN, 0).words());
        }
        prop_assert_eq!(map.claim(50 * LEAST + 7).is_some(), !killed);
    });
}

/// The laps from 0 to 49, each a few places from where it should be; and before which of them
/// whoever writes comes to an end.
fn order() -> impl Strategy<Value = Vec<(u64, bool)>> {
    let late = prop_oneof![3 => Just(0), 1 => 0..6u64];
    prop::collection::vec((late, any::<bool>()), 50).prop_map(|laps| {
        let mut laps: Vec<_> = laps.into_iter().zip(0..).collect();
        laps.sort_by_key(|&((late, _), lap)| lap + late);
        laps.into_iter().map(|((_, finish), lap)| (lap, finish)).collect()
    })
}

#[test]
fn a_slot_of_an_old_lap_is_not_taken_for_a_new_record() {
    let writer = in_memory();
    (0..LEAST).for_each(|n| writer.mark(n));
    // Got a number, and no further: in its slot stands what was there a lap ago.
    writer.shared.map.reserve();
    let trace = read(&writer);
    assert_eq!((losses(&trace), trace.records.len() as u64), (vec![1], LEAST));
}

#[test]
fn a_follower_waits_for_what_is_being_written_and_gives_up_when_all_is_over() {
    let (_file, writer, mut follow) = followed();
    let mut poll = || happened(&mut follow);
    let reserve = || writer.shared.map.reserve();
    writer.mark(1);
    let (slow, _dead) = (reserve(), reserve());
    writer.mark(2);
    assert_eq!(poll(), [Happened::Mark(1)]);
    let late = telling(3, 0); // Its time is before all others.
    writer.shared.map.claim(slow).expect("it is its own").finish(late.words());
    assert_eq!(poll(), [Happened::Mark(3 << 32)]);
    assert_eq!(poll(), []);
    drop(writer);
    assert_eq!(poll(), [], "it sees that all is over, and then looks a last time");
    assert_eq!(poll(), [Happened::Lost(1), Happened::Mark(2)]);
}

#[test]
fn a_follower_waits_for_the_dead_once_and_not_in_every_lap() {
    let (_file, writer, mut follow) = followed();
    let _dead = writer.shared.map.reserve();
    writer.mark(0);
    while follow.lost() == 0 {
        follow.poll().expect("it is a trace");
        thread::yield_now();
    }
    for lap in 1..=3 {
        let mut told = Vec::new();
        for n in 0..LEAST {
            writer.mark(n);
            if n % 1000 == 0 || n == LEAST - 1 {
                told.extend(happened(&mut follow));
            }
        }
        let marks = told.iter().filter(|one| matches!(one, Happened::Mark(_))).count() as u64;
        assert_eq!((marks, follow.lost()), (LEAST - 1, 1 + lap));
    }
}

#[test]
fn a_record_of_four_billion_ago_is_not_taken_for_a_new_one() {
    let writer = in_memory();
    let map = &writer.shared.map;
    let killed = map.reserve() + LEAST;
    writer.mark(0);
    // Whoever comes after the killed one leaves the slot alone, also when the numbers are the same
    // again; the reader has no record there.
    for lap in [2, (1 << 32) / LEAST - 1, (1 << 32) / LEAST, (1 << 32) / LEAST + 1] {
        assert!(map.claim(killed + lap * LEAST).is_none(), "{lap}");
    }
    let there = |bytes: &[u8]| bytes[HEADER + killed as usize % LEAST as usize * RECORD + 28];
    assert_eq!(there(&writer.bytes()), 0);
}

#[test]
fn a_gap_that_the_file_tells_of_may_be_as_long_as_it_says() {
    let (_file, writer, mut follow) = followed();
    let reserve = || writer.shared.map.reserve();
    // Before it and behind it is one that is never written: it grows by the second.
    reserve();
    let what = What::Lost as u8;
    writer.say(Record { what, id: u64::MAX, aux: ABSENT, ..Record::default() });
    reserve();
    drop(writer);
    let mut poll = || happened(&mut follow);
    assert_eq!(poll(), [], "it sees that all is over, and then looks a last time");
    assert_eq!(poll(), [Happened::Lost(1), Happened::Lost(u64::MAX)]);
    assert!(follow.is_read());
}

#[test]
fn what_a_lane_did_over_a_gap_is_not_counted_and_another_lanes_calls_are_forgotten_too() {
    let writer = in_memory();
    let (one, other) = (writer.lane(0), writer.lane(1));
    let begin =
        Record { what: What::CallBegin as u8, op: Call::Lock as u8, id: 7, ..Record::default() };
    let end = Record { what: What::CallEnd as u8, ..begin };
    for lane in [&one, &other] {
        lane.write(None, now, begin);
    }
    writer.freeze(Frozen::Signal);
    writer.thaw();
    for lane in [&one, &other] {
        lane.write(None, now, end);
    }
    let lanes = Digest::of(&read(&writer), &Cut::default()).lanes.expect("many wrote");
    let in_calls = |number| {
        let mut stints = lanes.stints.iter().filter(|stint| stint.number() == number);
        stints.next().map(|stint| (stint.calls, stint.waiting_ns + stint.other_ns))
    };
    assert_eq!((in_calls(0), in_calls(1)), (Some((1, 0)), Some((1, 0))));
}

#[test]
fn what_stops_it_stops_all_of_them_and_what_was_missed_is_said() {
    let writer = in_memory();
    let other = writer.lane(3);
    other.mark(1);
    writer.freeze(Frozen::Signal);
    other.freeze(Frozen::Error); // Too late.
    (0..5).for_each(|n| other.mark(n));
    writer.mark(9);
    assert!(other.is_frozen());
    let trace = read(&writer);
    assert_eq!((trace.header.frozen, trace.header.missed), (Some(Frozen::Signal), 6));
    other.thaw();
    writer.thaw(); // Too late.
    other.mark(10);
    let happened: Vec<_> = read(&writer).events().map(|event| event.what).collect();
    let [.., stopped, lost, mark] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!(*stopped, Happened::Frozen(Some(Frozen::Signal)));
    assert_eq!((lost, mark), (&Happened::Lost(6), &Happened::Mark(10)));
}

#[test]
fn a_failure_in_one_lane_stops_all_and_each_lane_has_its_own_calls() {
    let settings = Settings { triggers: vec![Trigger::Error], ..settings() };
    let writer = Writer::in_memory(&settings, &About::default(), Writers::Threads).unwrap();
    let (one, other) = (writer.lane(0), writer.lane(1));
    let begin =
        Record { what: What::CallBegin as u8, op: Call::Send as u8, id: 7, ..Record::default() };
    let end = |res| Record { what: What::CallEnd as u8, res, ..begin };
    // The same call for the same connection, by two at once.
    one.write(None, now, begin);
    other.write(None, now, begin);
    one.write(None, now, end(1));
    other.write(None, now, end(-libc::EPIPE));
    assert!(one.is_frozen());
    let trace = read(&writer);
    let lasted = |event: Event| match event.what {
        Happened::CallEnd { lasted, .. } => Some((event.lane, lasted.is_some())),
        _ => None,
    };
    let calls: Vec<_> = trace.events().filter_map(lasted).collect();
    assert_eq!(calls, [(Some(0), true), (Some(1), true)]);
    assert_eq!(trace.header.frozen, Some(Frozen::Error));
}

#[test]
fn a_sample_leaves_out_whole_connections_and_counts_what_it_left_out() {
    let settings = Settings { sample: 4, ..settings() };
    let writer = Writer::in_memory(&settings, &About::default(), Writers::Threads).unwrap();
    for slot in 0..100 {
        let conn = ConnId::new(slot, 0);
        (0..3).for_each(|nth| writer.write(Some(conn), now, telling(slot as u16, nth)));
    }
    let trace = read(&writer);
    let there = trace.records.iter().filter(|one| one.what == What::Mark as u8).count() as u64;
    assert!(there > 0 && there.is_multiple_of(3), "{there}");
    assert_eq!(there + trace.header.skipped, 300);
}

#[test]
fn the_first_of_a_full_trace_is_not_given_up_as_that_of_one_owner_is() {
    let writer = in_memory();
    (0..LEAST + 10).for_each(|n| writer.mark(n));
    let trace = read(&writer);
    assert_eq!(trace.records.len() as u64, LEAST);
    assert!(MARGIN > 0 && trace.header.oldest(trace.header.head) == trace.first);
}

#[test]
fn lanes_have_names() {
    let writer = in_memory();
    for (slot, lane) in [(0, 0), (7, 7), (65_534, 65_534), (65_535, 65_534), (1 << 20, 65_534)] {
        assert_eq!(writer.lane(slot).number(), lane);
    }
    let header = read(&writer).header;
    let names = [Some(MAIN), Some(3), None].map(|lane| header.lane_name(lane));
    assert_eq!(names, ["main", "t3", "-"]);
}
