//! What a trace says, held against what was done: on the simulated kernel for many seeds, and on
//! the real one by its own counts.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proactor::keys::ConnId;
use proactor::ring::{Kind, Token};
use proactor_sim::Tier;
use proactor_trace::format::{HEADER, MARGIN};
use proactor_trace::{
    About, Content, Event, Follow, Frozen, Log, MergedEvent, OpKind, Record, RecordKind, Recorder,
    Settings, StopTrigger, Trace, Unreadable, events, json, json_header,
};
use serde_json::Value;

use support::server::{Launch, PROACTOR};
use support::simulated::{recorded, settings, simulated};
use support::{eventually, io_uring_refused, kernel, skip};

/// Fails unless every submission ends exactly once, and the enters took what was queued.
fn assert_whole(trace: &Trace) {
    assert_eq!((trace.lost(), &*trace.remarks), (0, &[][..]));
    let mut in_flight = HashSet::new();
    let (mut queued, mut taken, mut reaped) = (0u64, 0u64, 0u64);
    let (mut iteration, mut at, mut expected) = (0, 0, 0..0);
    for event in events(trace) {
        assert!(event.at >= at, "time goes on: {event:?}");
        at = event.at;
        iteration += u32::from(matches!(event.what, Content::EnterBegin { .. }));
        assert_eq!(event.iteration, iteration);
        match event.what {
            Content::Submitted { .. } => {
                assert_eq!(event.begun.unwrap().number, Some(queued), "{event:?}");
                queued += 1;
                assert!(in_flight.insert(event.raw.id), "one of a kind is in flight: {event:?}");
            }
            Content::Completed { more, position, .. } => {
                reaped += 1;
                assert_eq!(expected.next(), Some(u32::from(position)), "{event:?}");
                assert!(event.begun.is_some() && in_flight.contains(&event.raw.id), "{event:?}");
                assert!(more || in_flight.remove(&event.raw.id));
            }
            Content::Implied { .. } => {
                assert!(event.begun.is_some() && in_flight.remove(&event.raw.id), "{event:?}");
            }
            Content::EnterBegin { queued: said, pending, .. } => {
                assert_eq!((said, u64::from(pending)), (queued, queued - taken));
                assert!(expected.is_empty(), "an enter counts what is reaped after it");
            }
            Content::EnterEnd { result, reaped: said, .. } => {
                taken += u64::from(result.unwrap());
                assert_eq!((said, event.in_flight.total), (reaped, in_flight.len()));
                expected = 0..event.completions;
            }
            _ => {}
        }
    }
    assert!(queued > 10 && taken <= queued && reaped > 10);
    let wake = Token::at(Kind::Wake, 0).0;
    in_flight.remove(&wake);
    assert!(in_flight.is_empty(), "they never ended: {in_flight:x?}");
}

#[test]
fn every_submission_of_a_simulated_run_ends_exactly_once_in_its_trace() {
    for seed in 0..60 {
        for tier in [Tier::Multishot, Tier::OneShot] {
            assert_whole(&Trace::from_bytes(&simulated(seed, tier)).unwrap());
        }
    }
}

#[test]
fn the_same_seed_is_the_same_trace() {
    let records = |bytes: &[u8]| Trace::from_bytes(bytes).unwrap().records;
    let both = [(); 2].map(|()| records(&simulated(3, Tier::Multishot)));
    assert_eq!(both[0], both[1]);
}

fn sqe(conn: u32) -> Record {
    Record::submitted(Token::of(Kind::Send, ConnId::new(conn, 0)).0, 0, 0, 0, 0)
}

#[test]
fn what_is_overwritten_is_counted_to_the_record() {
    let least = Settings { bytes: 0, ..settings() };
    let mut log = Recorder::new(None, &least, &About::default()).unwrap();
    for n in 0..10_000 {
        log.note(|| u64::from(n), sqe(n));
    }
    let trace = Trace::from_bytes(log.bytes()).unwrap();
    assert_eq!(trace.lost(), 10_000 - (4096 - MARGIN));
    assert_eq!(trace.lost() + trace.records.len() as u64, log.written());
    assert_eq!(trace.records[0].id as u32, trace.first as u32);
}

fn of_kind(kind: RecordKind) -> Record {
    Record { kind: kind as u8, ..Record::default() }
}

/// A record that says which it is.
fn numbered(n: u64) -> Record {
    Record::mark(n)
}

/// Into a file, of as few records as may be: 4096.
fn smallest() -> (tempfile::NamedTempFile, Recorder) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let least = Settings { bytes: 0, ..settings() };
    let log = Recorder::new(Some(file.as_file()), &least, &About::default()).unwrap();
    (file, log)
}

#[test]
fn a_concurrent_reader_never_mistakes_one_record_for_another() {
    let (file, mut log) = smallest();
    for n in 0..9000 {
        log.note(|| n, numbered(n));
        // Around each time that it goes round, and now and then.
        if n % 4096 > 3950 || n % 4096 < 200 || n % 500 == 0 {
            let trace = Trace::open(file.path()).unwrap();
            let right = (trace.first..).zip(&trace.records).all(|(n, record)| record.id == n);
            assert!(right, "after {n} records: {:?}", &trace.records[..3]);
            let counted = trace.first + trace.records.len() as u64;
            assert!((n.saturating_sub(64)..=n + 1).contains(&counted), "{counted} of {n}");
        }
    }
}

/// Page faults of this thread until now.
fn faults() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').expect("the name is in brackets");
    fields.split_whitespace().nth(7).and_then(|minor| minor.parse().ok()).expect("proc(5)")
}

#[test]
fn no_page_of_the_file_is_waited_for_while_it_records() {
    if kernel() < [5, 14] {
        return skip("pages are populated for writing from Linux 5.14 on");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let large = Settings { bytes: 4 << 20, ..settings() };
    let mut log = Recorder::new(Some(file.as_file()), &large, &About::default()).unwrap();
    let before = faults();
    (0..200_000).for_each(|n| log.note(|| n, numbered(n)));
    let faults = faults() - before;
    assert!(faults < 30, "{faults} page faults for 1024 pages");
}

#[test]
fn what_stands_before_an_enter_is_in_the_file_while_it_sleeps() {
    let (file, mut log) = smallest();
    log.note(|| 1, numbered(0));
    log.begin_iteration(|| 2, of_kind(RecordKind::EnterBegin));
    let seen = Trace::open(file.path()).unwrap().records;
    assert_eq!(seen.iter().map(|record| record.kind).collect::<Vec<_>>(), [8, 3]);
    log.end_iteration(|| 3, of_kind(RecordKind::EnterEnd));
    assert_eq!(Trace::open(file.path()).unwrap().records.len(), 3);
}

/// The events of a trace without those of the kernel, of which there are none.
fn own(events: Vec<MergedEvent>) -> Vec<Event> {
    let own = |event| match event {
        MergedEvent::Own(event) => *event,
        MergedEvent::Kernel(_) => panic!("no kernel events are recorded"),
    };
    events.into_iter().map(own).collect()
}

#[test]
fn a_slow_follower_counts_every_lost_record() {
    let (file, mut log) = smallest();
    let mut follow = Follow::new(file.reopen().unwrap(), false).unwrap();
    let (mut written, mut counted) = (0, 0);
    for many in [10, 4000, 100, 10_000, 1, 4096, 3968, 3969, 64, 20_000] {
        log.begin_iteration(|| 0, numbered(written));
        for n in 1..many {
            log.note(|| 0, numbered(written + n));
        }
        written += many;
        log.begin_iteration(|| 0, Record { id: written, ..of_kind(RecordKind::EnterBegin) });
        written += 1;
        for event in own(follow.poll().unwrap()) {
            assert_eq!(event.number, counted, "every record once");
            match event.what {
                Content::Lost(n) => counted += n,
                _ => {
                    assert_eq!(event.raw.id, counted);
                    counted += 1;
                }
            }
        }
        assert_eq!(counted, written);
    }
    assert!(follow.lost() > 20_000 && !follow.is_over());
    drop(log);
    assert!(follow.poll().unwrap().is_empty() && follow.is_over() && follow.is_read());
}

#[test]
fn a_reader_never_sees_a_partly_written_record() {
    let (file, mut log) = smallest();
    let mut follow = Follow::new(file.reopen().unwrap(), false).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writer = std::thread::spawn(move || {
        let mut n = 0;
        while n % 1000 != 0 || !stopped.load(Ordering::Relaxed) {
            let res = n as i32;
            log.note(|| n, Record { res, flags: !res as u32, ..numbered(n) });
            n += 1;
        }
        n
    });
    let check = |n: u64, record: &Record| {
        let Record { time, id, res, flags, .. } = *record;
        assert_eq!((time, id, res as u32, !flags), (n, n, n as u32, n as u32));
    };
    let (mut counted, mut times) = (0, 0);
    loop {
        let over = follow.is_over();
        let events = own(follow.poll().unwrap());
        times += u32::from(!events.is_empty());
        for event in events {
            assert_eq!(event.number, counted);
            if let Content::Lost(n) = event.what {
                counted += n;
                continue;
            }
            check(counted, &event.raw);
            counted += 1;
        }
        if times % 10 == 1 {
            let trace = Trace::open(file.path()).unwrap();
            (trace.first..).zip(&trace.records).for_each(|(n, record)| check(n, record));
        }
        if times == 60 {
            stop.store(true, Ordering::Relaxed);
        }
        if over && follow.is_read() {
            break;
        }
    }
    assert_eq!(counted, writer.join().unwrap());
    assert!(follow.lost() > 0);
}

#[test]
fn a_file_has_one_recorder_and_a_follower_notices_the_next() {
    let (file, mut log) = smallest();
    log.note(|| 0, numbered(0));
    let again = file.reopen().unwrap();
    let least = Settings { bytes: 0, ..settings() };
    let refused = Recorder::new(Some(&again), &least, &About::default()).unwrap_err();
    assert_eq!(refused.to_string(), "another server records into this file");
    assert_eq!(Trace::from_bytes(log.bytes()).unwrap().records.len(), 1, "and it is unharmed");
    let mut follow = Follow::new(file.reopen().unwrap(), false).unwrap();
    drop((log, file.as_file()));
    let (path, file) = (file.path().to_owned(), file);
    drop(file.into_temp_path().keep());
    let again = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let next = Recorder::new(Some(&again), &least, &About::default()).unwrap();
    assert!(matches!(follow.poll(), Err(Unreadable::Replaced)));
    drop(next);
    fs::remove_file(path).unwrap();
}

#[test]
fn what_is_missed_while_it_has_stopped_is_counted_where_it_goes_on() {
    let (file, mut log) = smallest();
    log.note(|| 0, numbered(0));
    log.freeze(Frozen::Signal);
    (0..5).for_each(|n| log.note(|| 0, numbered(n)));
    log.begin_iteration(|| 0, of_kind(RecordKind::EnterBegin));
    let trace = Trace::open(file.path()).unwrap();
    assert_eq!((trace.header.frozen, trace.lost()), (Some(Frozen::Signal), 6));
    assert_eq!(events(&trace).last().unwrap().what, Content::Frozen(Some(Frozen::Signal)));
    // Follow prints all of it although the iteration has not ended: no more records come.
    let mut follow = Follow::new(file.reopen().unwrap(), false).unwrap();
    assert_eq!(follow.poll().unwrap().len(), 2);
    log.thaw();
    log.note(|| 0, numbered(7));
    let trace = Trace::from_bytes(log.bytes()).unwrap();
    assert_eq!((trace.header.frozen, trace.lost()), (None, 6));
    let last: Vec<_> = events(&trace).skip(2).map(|event| event.what).collect();
    assert_eq!(last, [Content::Lost(6), Content::Mark(7)]);
    // The next time it counts from there.
    log.freeze(Frozen::Signal);
    (0..2).for_each(|n| log.note(|| 0, numbered(n)));
    log.thaw();
    let trace = Trace::from_bytes(log.bytes()).unwrap();
    assert_eq!(events(&trace).last().unwrap().what, Content::Lost(2));
    assert_eq!(trace.lost(), 8);
}

#[test]
fn numbers_in_json_are_exact_in_a_double_or_strings() {
    for id in [1 << 53, u64::MAX] {
        let (_file, mut log) = smallest();
        log.begin_iteration(|| 0, of_kind(RecordKind::WaitBegin));
        // As of a damaged file: no number of a record is believed.
        for kind in RecordKind::ALL {
            log.note(|| 0, Record { id, aux: u16::MAX, ..of_kind(*kind) });
        }
        let trace = Trace::from_bytes(log.bytes()).unwrap();
        let header = json_header(&trace.header, trace.lost(), &[]);
        let lines = events(&trace).map(|event| json(&trace.header, &event)).chain([header]);
        for line in lines {
            let fields = line.as_object().unwrap();
            let inexact =
                |value: &&Value| value.as_f64().is_some_and(|number| number >= 2f64.powi(53));
            assert_eq!(fields.values().find(inexact), None, "{line}");
        }
        let marks = events(&trace).find(|event| event.what == Content::Mark(id)).unwrap();
        assert_eq!(json(&trace.header, &marks)["mark"], id.to_string());
    }
}

#[test]
fn an_overflow_stops_a_recorder_at_once_and_what_came_before_is_kept() {
    let stop = Settings { triggers: vec![StopTrigger::Overflow], ..settings() };
    let mut seen = 0;
    for seed in 0..40 {
        let whole = Trace::from_bytes(&simulated(seed, Tier::Multishot)).unwrap();
        let overflow =
            |event: &Event| matches!(event.what, Content::EnterEnd { overflow: true, .. });
        let stopped = Trace::from_bytes(&recorded(seed, Tier::Multishot, &stop)).unwrap();
        let Some(at) = events(&whole).position(|event| overflow(&event)) else {
            assert_eq!((stopped.header.frozen, &stopped.records), (None, &whole.records));
            continue;
        };
        seen += 1;
        assert_eq!(stopped.header.frozen, Some(Frozen::Overflow));
        assert_eq!(stopped.records[..=at], whole.records[..=at]);
        assert_eq!(stopped.records.len(), at + 2);
        assert_eq!(stopped.header.missed as usize + at + 1, whole.records.len());
    }
    assert!(seen > 3, "{seen} overflows");
}

#[test]
fn a_sample_is_of_whole_connections_and_the_rest_is_counted() {
    let fourth = Settings { sample: 4, ..settings() };
    let mut log = Recorder::new(None, &fourth, &About::default()).unwrap();
    // What is no connection's is not sampled.
    log.begin_iteration(|| 0, of_kind(RecordKind::EnterBegin));
    log.end_iteration(|| 0, of_kind(RecordKind::EnterEnd));
    log.note(|| 0, of_kind(RecordKind::Sqe));
    let others = 3;
    for n in 0..8000 {
        log.note(|| 0, sqe(n % 1000));
    }
    let trace = Trace::from_bytes(log.bytes()).unwrap();
    let conns: HashSet<_> = events(&trace).filter_map(|event| event.conn).collect();
    assert!((100..400).contains(&conns.len()), "{}", conns.len());
    assert_eq!(trace.records.len(), others + 8 * conns.len());
    assert_eq!(trace.header.skipped + trace.records.len() as u64, 8000 + others as u64);
}

#[test]
fn what_is_no_trace_is_refused_by_a_sentence() {
    let whole = simulated(1, Tier::Multishot);
    assert!(matches!(Trace::from_bytes(b""), Err(Unreadable::Foreign)));
    assert!(matches!(Trace::from_bytes(b"\x7fELF and so on"), Err(Unreadable::Foreign)));
    assert!(matches!(Trace::from_bytes(&whole[..100]), Err(Unreadable::Short(100))));
    let mut other = whole.clone();
    other[12] ^= 8;
    assert!(matches!(Trace::from_bytes(&other), Err(Unreadable::Version(9))));
    other[8..12].reverse();
    assert!(matches!(Trace::from_bytes(&other), Err(Unreadable::ByteOrder)));
    let cut = Trace::from_bytes(&whole[..HEADER + 32 * 10 + 5]).unwrap();
    assert_eq!(cut.remarks.len(), 1, "{:?}", cut.remarks);
    let lost: Vec<_> =
        events(&cut).filter(|event| matches!(event.what, Content::Lost(_))).collect();
    assert_eq!((cut.records.len(), lost.len()), (11, 1));
}

#[test]
fn the_kernel_counts_what_the_trace_has_and_a_killed_servers_trace_is_whole() {
    if let Some(why) = io_uring_refused() {
        return skip(&why);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.trace");
    let option = format!("--trace={}", path.display());
    let args = ["serve", "--model", "uring", "--listen", "127.0.0.1:0", &option];
    let server = Launch::new(PROACTOR, &args).start();
    let mut client = TcpStream::connect(server.listening[0].address.tcp()).unwrap();
    let mut answer = [0; 64];
    for _ in 0..4000 {
        client.write_all(&[7; 64]).unwrap();
        client.read_exact(&mut answer).unwrap();
    }
    let pid = server.process.0;
    let fd = Trace::open(&path).unwrap().header.ring_fd.unwrap();
    let info = || fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap();
    if !info().contains("SqTail:") {
        return skip("this kernel does not count a ring's traffic in fdinfo");
    }
    let counts = || -> Vec<u64> {
        let info = info();
        let value = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
        };
        vec![value("SqTail:"), value("CqTail:")]
    };
    let traced = || {
        let trace = Trace::open(&path).unwrap();
        let count =
            |kind: RecordKind| trace.records.iter().filter(|record| record.is(kind)).count() as u64;
        vec![count(RecordKind::Sqe), count(RecordKind::Cqe)]
    };
    // Until it sleeps again: then all that the kernel posted has been reaped.
    let kernel = eventually("kernel and trace agree", || {
        let before = counts();
        (traced() == before && counts() == before).then_some(before)
    });
    assert!(kernel[1] > 4000, "{kernel:?}");
    // SIGKILL: nothing of the server's runs after it.
    drop(server);
    let trace = Trace::open(&path).unwrap();
    assert!(!trace.header.ended && trace.lost() == 0, "{:?}", trace.header);
    assert!(events(&trace).any(|event| event.op == Some(OpKind::Ring(Kind::Send))));
    let shown = Command::new(PROACTOR).args(["trace", "show", "--op", "recv"]).arg(&path).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(shown.lines().count() > 4000 && shown.contains("recv*"), "{shown:.300}");
}
