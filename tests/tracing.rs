//! What a trace says, held against what was done: on the simulated kernel for many seeds, on the real
//! one by its own counts, and on whatever bytes claim to be a trace.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use proactor::buffer::{Pool, Shape};
use proactor::keys::ConnId;
use proactor::limits::{Ended, Limits};
use proactor::os::Stop;
use proactor::proactor::Proactor;
use proactor::protocol::Echo;
use proactor::ring::sim::{Dice, Faults, Reads, Setup, Sim, Tier};
use proactor::ring::{Kind, ListenerId, Token};
use proactor::trace::format::{HEADER, MARGIN};
use proactor::trace::{
    About, Clock, Happened, Op, Record, Recorder, Settings, Trace, Traced, Unreadable, What,
};
use proptest::prelude::*;

use support::server::{Launch, PROACTOR};
use support::{eventually, io_uring_refused, skip};

fn settings() -> Settings {
    Settings { bytes: 8 << 20, clock: Some(Clock::Nanos), ..Settings::default() }
}

/// A simulated server that served a few clients, drained, and was recorded.
fn simulated(seed: u64, tier: Tier) -> Vec<u8> {
    let mut dice = Dice::new(!seed);
    let setup = Setup {
        seed,
        tier,
        sockets: 64,
        entries: [2, 8, 256][dice.below(3)],
        socket_buffer: [200, 4096][dice.below(2)],
        faults: Faults::some(&mut dice).without_resets(),
    };
    let pool = Pool::new(&[Shape { bytes: 256, count: 48 }]).unwrap();
    let log = Recorder::in_memory(&settings(), &About::default()).unwrap();
    let ring = Traced::new(Sim::new(setup, Rc::clone(&pool)), log);
    let stop = Stop::new().unwrap();
    let limits = Limits { connections: 8, drain: Duration::from_secs(5) };
    let mut server = Proactor::new(ring, limits, stop.handle().unwrap()).unwrap();
    server.listen(fs::File::open("/dev/null").unwrap().into(), Echo);
    let sim = server.ring_mut().inner_mut();
    let clients: Vec<_> = (0..5).map(|_| sim.connect(ListenerId(0), Reads::AtOnce)).collect();
    for &id in &clients {
        sim.client_mut(id).say(&vec![7; dice.between(1, 4000)]);
        sim.client_mut(id).finish();
    }
    while !clients.iter().all(|&id| server.ring().inner().client(id).is_done()) {
        assert_eq!(server.turn().unwrap(), None);
    }
    stop.ask();
    server.ring_mut().inner_mut().wake();
    while server.turn().unwrap() != Some(Ended::Drained) {}
    server.ring_mut().recorder().bytes().to_vec()
}

/// Fails unless every submission ends exactly once, and the enters took what was queued.
fn assert_whole(trace: &Trace) {
    assert_eq!((trace.lost(), &*trace.remarks), (0, &[][..]));
    let mut in_flight = HashSet::new();
    let (mut queued, mut taken, mut reaped) = (0u64, 0u64, 0u64);
    for event in trace.events() {
        match event.what {
            Happened::Submitted { number, .. } => {
                assert_eq!(number, Some(queued), "{event:?}");
                queued += 1;
                assert!(in_flight.insert(event.raw.id), "one of a kind is in flight: {event:?}");
            }
            Happened::Completed { more, submission, .. } => {
                reaped += 1;
                assert!(submission.is_some() && in_flight.contains(&event.raw.id), "{event:?}");
                assert!(more || in_flight.remove(&event.raw.id));
            }
            Happened::Silent { submission, .. } => {
                assert!(submission.is_some() && in_flight.remove(&event.raw.id), "{event:?}");
            }
            Happened::EnterBegin { queued: said, pending, .. } => {
                assert_eq!((said, u64::from(pending)), (queued, queued - taken));
            }
            Happened::EnterEnd { result, reaped: said, .. } => {
                taken += u64::from(result.unwrap());
                assert_eq!(said, reaped);
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

fn sqe(conn: u32) -> (Option<ConnId>, Record) {
    let conn = ConnId::new(conn, 0);
    let id = Token::of(Kind::Send, conn).0;
    (Some(conn), Record { what: What::Sqe as u8, id, ..Record::default() })
}

#[test]
fn what_is_overwritten_is_counted_to_the_record() {
    let least = Settings { bytes: 0, ..settings() };
    let mut log = Recorder::in_memory(&least, &About::default()).unwrap();
    for n in 0..10_000 {
        let (conn, record) = sqe(n);
        log.note(conn, || u64::from(n), record);
    }
    let trace = Trace::from_bytes(log.bytes()).unwrap();
    assert_eq!(trace.lost(), 10_000 - (4096 - MARGIN));
    assert_eq!(trace.lost() + trace.records.len() as u64, log.written());
    assert_eq!(trace.records[0].id as u32, trace.first as u32);
}

#[test]
fn a_sample_is_of_whole_connections_and_the_rest_is_counted() {
    let fourth = Settings { sample: 4, ..settings() };
    let mut log = Recorder::in_memory(&fourth, &About::default()).unwrap();
    for n in 0..8000 {
        let (conn, record) = sqe(n % 1000);
        log.note(conn, || 0, record);
    }
    let trace = Trace::from_bytes(log.bytes()).unwrap();
    let conns: HashSet<_> = trace.events().filter_map(|event| event.conn).collect();
    assert!((100..400).contains(&conns.len()), "{}", conns.len());
    assert_eq!(trace.records.len(), 8 * conns.len());
    assert_eq!(trace.header.skipped + trace.records.len() as u64, 8000);
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
        cut.events().filter(|event| matches!(event.what, Happened::Lost(_))).collect();
    assert_eq!((cut.records.len(), lost.len()), (11, 1));
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(
        flips in prop::collection::vec((0usize..HEADER + 32 * 600, any::<u8>()), 0..40),
        len in 0usize..HEADER + 32 * 600,
        cut in any::<bool>(),
    ) {
        thread_local!(static WHOLE: Vec<u8> = simulated(2, Tier::Multishot));
        let mut bytes = WHOLE.with(|whole| whole[..HEADER + 32 * 600].to_vec());
        flips.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        if cut {
            bytes.truncate(len);
        }
        if let Ok(trace) = Trace::from_bytes(&bytes) {
            for event in trace.events() {
                drop(proactor::trace::line(&trace.header, &event));
                drop(proactor::trace::json(&trace.header, &event));
            }
            drop(proactor::trace::title(&trace.header, trace.lost()));
        }
    }
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
    let counts = || -> Vec<u64> {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap();
        let value = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
        };
        vec![value("SqTail:"), value("CqTail:")]
    };
    let traced = || {
        let trace = Trace::open(&path).unwrap();
        let count = |what: What| {
            trace.records.iter().filter(|record| record.what == what as u8).count() as u64
        };
        vec![count(What::Sqe), count(What::Cqe)]
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
    assert!(trace.events().any(|event| event.op == Some(Op::Ring(Kind::Send))));
    let shown = Command::new(PROACTOR).args(["trace", "show", "--op", "recv"]).arg(&path).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(shown.lines().count() > 4000 && shown.contains("recv*"), "{shown:.300}");
}
