//! Many writers at once: no record is lost or torn, and a killed writer holds up no other.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::format::{Call, HEADER, MARGIN, RECORD, RecordKind};
use crate::reader::{Reader, Trace};
use crate::record::Content;
use crate::shm_log::Claim;
use crate::sys::monotonic;
use crate::trigger::StopTrigger;

/// The capacity of the smallest trace.
const LEAST: u64 = 4096;

fn settings() -> Settings {
    Settings { bytes: 0, ..Settings::default() }
}

fn in_memory() -> Writer {
    Writer::new(None, &settings(), &About::default(), Writers::Threads).expect("memory")
}

fn read(writer: &Writer) -> Trace {
    Trace::from_bytes(&writer.bytes()).expect("it is a trace")
}

/// A record all of whose fields follow from its lane and its number within the lane.
fn telling(lane: u16, nth: u32) -> Record {
    let id = u64::from(lane) << 32 | u64::from(nth);
    Record { res: !nth as i32, flags: nth ^ 0xa5a5, ..Record::mark(id) }
}

/// Lets so many threads write so many records each.
fn write_all(writer: &Writer, threads: u32, each: u32) {
    thread::scope(|scope| {
        for slot in 0..threads {
            scope.spawn(move || {
                let writer = writer.lane(slot);
                for nth in 0..each {
                    writer.write(monotonic, telling(writer.lane, nth));
                }
            });
        }
    });
}

/// For each lane the numbers of its records that are there. Each is as it was written, and a lane's
/// records are in order.
fn marks_of(trace: &Trace) -> HashMap<u16, Vec<u32>> {
    let mut marks: HashMap<u16, Vec<u32>> = HashMap::new();
    for record in trace.records.iter().filter(|one| one.is(RecordKind::Mark)) {
        let nth = record.id as u32;
        let right = Record {
            time: record.time,
            iteration: record.iteration,
            aux: record.aux,
            ..telling(record.aux, nth)
        };
        assert_eq!(*record, right, "a record is torn");
        marks.entry(record.aux).or_default().push(nth);
    }
    for nths in marks.values() {
        assert!(nths.is_sorted(), "a lane's records are out of order");
    }
    marks
}

/// A file, which is locked as long as it is open, a writer into it, and a reader of what follows.
fn followed() -> (tempfile::NamedTempFile, Writer, Reader) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let about = About::default();
    let writer = Writer::new(Some(file.as_file()), &settings(), &about, Writers::Threads).unwrap();
    // Opened anew, so that it sees the writer's lock.
    let reader = Reader::new(file.reopen().unwrap(), true).unwrap();
    (file, writer, reader)
}

/// What was written since the last call.
fn poll(reader: &mut Reader) -> Vec<Content> {
    reader.poll().expect("it is a trace").iter().map(Record::payload).collect()
}

fn losses(trace: &Trace) -> Vec<u64> {
    trace.records.iter().filter(|one| one.is(RecordKind::Lost)).map(|one| one.id).collect()
}

/// Each record with its number.
fn numbered(trace: &Trace) -> Vec<(u64, Record)> {
    let mut next = trace.first;
    let number = |record: &Record| {
        let number = trace.header.number(next, record);
        next = record.next_number(number);
        (number, *record)
    };
    trace.records.iter().map(number).collect()
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
    let marks = marks_of(&trace);
    assert_eq!(marks.len(), threads as usize);
    for nths in marks.values() {
        assert!(nths.iter().copied().eq(0..each));
    }
    let mut numbers: Vec<u64> = numbered(&trace).into_iter().map(|(number, _)| number).collect();
    assert!(trace.records.is_sorted_by_key(|one| one.time), "records are in order of time");
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..trace.header.head), "each number once");
}

#[test]
fn a_trace_that_goes_round_under_many_keeps_the_last_and_says_what_is_gone() {
    let writer = in_memory();
    write_all(&writer, 8, 3 * LEAST as u32);
    let trace = read(&writer);
    marks_of(&trace);
    assert_eq!(trace.first, trace.header.head - LEAST);
    let there = trace.records.iter().filter(|one| !one.is(RecordKind::Lost)).count() as u64;
    assert_eq!(there + losses(&trace).iter().sum::<u64>(), LEAST, "there, or said to be lost");
}

#[test]
fn a_reader_while_many_write_sees_nothing_torn() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let about = About::default();
    let writer = Writer::new(Some(file.as_file()), &settings(), &about, Writers::Threads).unwrap();
    let reads = thread::scope(|scope| {
        let writing = scope.spawn(|| write_all(&writer, 4, 20 * LEAST as u32));
        let mut reads = 0;
        while !writing.is_finished() || reads == 0 {
            marks_of(&Trace::open(file.path()).expect("it is a trace"));
            marks_of(&read(&writer));
            reads += 1;
        }
        reads
    });
    assert!(reads > 0);
}

/// Of two slots, so that a writer is at work on what is read.
#[test]
fn what_is_written_to_meanwhile_is_not_among_what_is_read() {
    let log = ShmLog::new(None, 2, Writers::Threads).unwrap();
    let whole = |slot: &[u8; RECORD]| {
        let record = Record::from_bytes(slot);
        let right = telling((record.id >> 32) as u16, record.id as u32);
        let is_right = record == Record { iteration: record.iteration, ..right };
        assert!(record.kind == 0 || is_right, "a record is torn: {record:?}");
        record.kind != 0
    };
    let mut seen = 0;
    thread::scope(|scope| {
        let write = |lane: u16| {
            (0..100_000).for_each(|nth| log.write(log.reserve(), telling(lane, nth).words()))
        };
        let writing = [1, 2].map(|lane| scope.spawn(move || write(lane)));
        while writing.iter().any(|one| !one.is_finished()) || seen == 0 {
            let bytes = log.bytes();
            seen +=
                bytes[HEADER..].as_chunks::<RECORD>().0.iter().filter(|slot| whole(slot)).count();
        }
    });
    assert!(seen > 0);
}

#[test]
fn a_writer_that_is_killed_in_the_middle_leaves_one_that_is_lost() {
    let writer = in_memory();
    let log = &writer.shared.log;
    writer.mark(1);
    let number = log.reserve();
    // It is begun, and never finished.
    assert!(log.claim(number).is_some(), "no other writer has it");
    // One more has got its number, and no further.
    log.reserve();
    writer.mark(2);
    let trace = read(&writer);
    assert_eq!((losses(&trace), trace.lost()), (vec![2], 2));
    let mark = |(number, one): (u64, Record)| one.is(RecordKind::Mark).then_some(number);
    assert_eq!(numbered(&trace).into_iter().filter_map(mark).collect::<Vec<_>>(), [1, 4]);
    // From then on their slots have no writer: of each lap two are lost.
    for lap in 1..=3 {
        (0..LEAST).for_each(|n| writer.mark(n));
        let trace = read(&writer);
        assert_eq!((losses(&trace), trace.lost()), (vec![2], (lap - 1) * LEAST + 7), "{lap}");
    }
}

#[test]
fn a_writer_that_comes_back_a_lap_later_spoils_nothing() {
    let writer = in_memory();
    let log = &writer.shared.log;
    let late = log.reserve();
    (0..LEAST).for_each(|n| writer.mark(n));
    assert_eq!(losses(&read(&writer)), [1], "a writer a lap later has left its slot alone");
    log.claim(late).expect("no other writer has it").finish(telling(MAIN, 0).words());
    assert_eq!(losses(&read(&writer)), [1], "it is a lap old");
    (0..LEAST).for_each(|n| writer.mark(n));
    assert!(losses(&read(&writer)).is_empty(), "as it has come, its slot is used again");
}

/// Numbers of one slot, whose writers come in any order and take any time over it.
#[test]
fn a_slot_has_one_writer_at_a_time_and_is_used_again_when_the_late_have_come() {
    proptest!(|(order in order(), kill in 0..60u64)| {
        let writer = in_memory();
        let log = &writer.shared.log;
        let mut writing: Option<Claim<'_>> = None;
        let (mut killed, mut written) = (false, 0);
        for (lap, finish) in order {
            if finish && let Some(claim) = writing.take() {
                claim.finish(telling(MAIN, 0).words());
                written += 1;
            }
            if let Some(claim) = log.claim(lap * LEAST + 7) {
                prop_assert!(writing.is_none() && !killed, "lap {} has it and another too", lap);
                if lap == kill { killed = true } else { writing = Some(claim) }
            }
        }
        prop_assert!(written > 0 || killed);
        if let Some(claim) = writing {
            claim.finish(telling(MAIN, 0).words());
        }
        prop_assert_eq!(log.claim(50 * LEAST + 7).is_some(), !killed);
    });
}

/// The laps from 0 to 49, each a few places from where it should be; and before which of them
/// each writer comes to an end.
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
    writer.shared.log.reserve();
    let trace = read(&writer);
    assert_eq!((losses(&trace), trace.records.len() as u64), (vec![1], LEAST));
}

#[test]
fn a_follower_waits_for_what_is_being_written_and_gives_up_when_all_is_over() {
    let (_file, writer, mut reader) = followed();
    let mut poll = || poll(&mut reader);
    let reserve = || writer.shared.log.reserve();
    writer.mark(1);
    let (slow, _dead) = (reserve(), reserve());
    writer.mark(2);
    assert_eq!(poll(), [Content::Mark(1)]);
    let late = telling(3, 0); // Its time is before all others.
    writer.shared.log.claim(slow).expect("it is its own").finish(late.words());
    assert_eq!(poll(), [Content::Mark(3 << 32)]);
    assert_eq!(poll(), []);
    drop(writer);
    assert_eq!(poll(), [], "it sees that all is over, and then looks a last time");
    assert_eq!(poll(), [Content::Lost(1), Content::Mark(2)]);
}

#[test]
fn a_follower_waits_for_the_dead_once_and_not_in_every_lap() {
    let (_file, writer, mut reader) = followed();
    let _dead = writer.shared.log.reserve();
    writer.mark(0);
    while reader.lost() == 0 {
        reader.poll().expect("it is a trace");
        thread::yield_now();
    }
    for lap in 1..=3 {
        let mut seen = Vec::new();
        for n in 0..LEAST {
            writer.mark(n);
            if n % 1000 == 0 || n == LEAST - 1 {
                seen.extend(poll(&mut reader));
            }
        }
        let marks = seen.iter().filter(|one| matches!(one, Content::Mark(_))).count() as u64;
        assert_eq!((marks, reader.lost()), (LEAST - 1, 1 + lap));
    }
}

#[test]
fn a_record_of_four_billion_ago_is_not_taken_for_a_new_one() {
    let writer = in_memory();
    let log = &writer.shared.log;
    let killed = log.reserve() + LEAST;
    writer.mark(0);
    // A writer after the killed one leaves the slot alone, also when the numbers are the same
    // again; the reader has no record there.
    for lap in [2, (1 << 32) / LEAST - 1, (1 << 32) / LEAST, (1 << 32) / LEAST + 1] {
        assert!(log.claim(killed + lap * LEAST).is_none(), "{lap}");
    }
    let there = |bytes: &[u8]| bytes[HEADER + killed as usize % LEAST as usize * RECORD + 28];
    assert_eq!(there(&writer.bytes()), 0);
}

#[test]
fn a_gap_that_the_file_reports_may_be_as_long_as_it_says() {
    let (_file, writer, mut reader) = followed();
    let reserve = || writer.shared.log.reserve();
    // Before it and behind it is one that is never written: it grows by the second.
    reserve();
    writer.put_outside(Record { iteration: 0, ..Record::absent(u64::MAX, 0, 0) });
    reserve();
    drop(writer);
    let mut poll = || poll(&mut reader);
    assert_eq!(poll(), [], "it sees that all is over, and then looks a last time");
    assert_eq!(poll(), [Content::Lost(1), Content::Lost(u64::MAX)]);
    assert!(reader.is_read());
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
    let payloads: Vec<_> = read(&writer).records.iter().map(Record::payload).collect();
    let [.., stopped, lost, mark] = &payloads[..] else { panic!("{payloads:?}") };
    assert_eq!(*stopped, Content::Frozen(Some(Frozen::Signal)));
    assert_eq!((lost, mark), (&Content::Lost(6), &Content::Mark(10)));
}

#[test]
fn a_failure_in_one_lane_stops_all_and_each_lane_has_its_own_calls() {
    let settings = Settings { triggers: vec![StopTrigger::Error], ..settings() };
    let writer = Writer::new(None, &settings, &About::default(), Writers::Threads).unwrap();
    let (one, other) = (writer.lane(0), writer.lane(1));
    let begin = Record::call_begin(Call::Send, false, 7, 0, 0);
    let end = |res| Record::call_end(Call::Send, false, 7, 0, res);
    // The same call for the same connection, by two at once.
    one.write(monotonic, begin);
    other.write(monotonic, begin);
    one.write(monotonic, end(1));
    other.write(monotonic, end(-libc::EPIPE));
    assert!(one.is_frozen());
    let trace = read(&writer);
    let ends = trace.records.iter().filter(|one| one.is(RecordKind::CallEnd));
    assert_eq!(ends.map(|one| one.lane()).collect::<Vec<_>>(), [Some(0), Some(1)]);
    assert_eq!(trace.header.frozen, Some(Frozen::Error));
}

#[test]
fn a_sample_leaves_out_whole_connections_and_counts_what_it_left_out() {
    let settings = Settings { sample: 4, ..settings() };
    let writer = Writer::new(None, &settings, &About::default(), Writers::Threads).unwrap();
    for slot in 0..100 {
        let ready = Record::ready(slot, true, false, false);
        (0..3).for_each(|_| writer.write(monotonic, ready));
    }
    let trace = read(&writer);
    let there = trace.records.iter().filter(|one| one.is(RecordKind::Ready)).count() as u64;
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
        assert_eq!(writer.lane(slot).lane, lane);
    }
    let header = read(&writer).header;
    let names = [Some(MAIN), Some(3), None].map(|lane| header.lane_name(lane));
    assert_eq!(names, ["main", "t3", "-"]);
}

#[test]
fn the_delay_of_the_only_thread_is_recorded_behind_its_records() {
    let file = sys::memory_file(c"schedstat").expect("memory");
    let kernel = file.try_clone().expect("a descriptor");
    let settings = Settings { clock: Some(Clock::Nanos), ..settings() };
    let mut writer =
        Writer::new(None, &settings, &About::default(), Writers::Threads).expect("memory");
    let shared = Arc::get_mut(&mut writer.shared).expect("there is one writer");
    (shared.delay, shared.check_at) = (Some(Mutex::new(RunDelay::of(file))), AtomicU64::new(0));
    let begin = monotonic();
    for (delay, at) in [(1, 0), (4, 5), (9, 6), (9, 10)] {
        let [delay, at] = [delay, at].map(|millis: u64| millis * 1_000_000);
        kernel.write_all_at(format!("9 {delay} 9\n").as_bytes(), 0).expect("space");
        writer.write(|| begin + at, telling(MAIN, 0));
    }
    let trace = read(&writer);
    let delays = trace.records.iter().filter_map(|one| match one.payload() {
        Content::Delayed { nanos, .. } => Some(nanos / 1_000_000),
        _ => None,
    });
    // The third came too early to read it.
    assert_eq!(delays.collect::<Vec<_>>(), [3, 5]);
}
