//! The cost of a record. One sample is a busy loop iteration, so divide by 66.
//!
//! What recording costs that is *off* is in no bench of this file, for there is nothing to run: a
//! `Proactor<Uring, P>` is another type than a `Proactor<Traced<Uring>, P>`, and no function of
//! `proactor_trace` is called from it. The bench `iteration` is of the first. To see it: in
//! `objdump -dC target/release/proactor`, the loops whose type has no `Traced` in it call no
//! `Recorder` and read no counter (`rdtsc`); those that have it do both a dozen times. The same
//! holds of what is made `PlainCalls`, beside `TracedCalls`.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use proactor::keys::ConnId;
use proactor::ring::{Kind, Token};
use proactor_record::{About, Level, Log, Record, Recorder, Settings, WaitMode, Writer, Writers};

/// Records between two looks at the clock.
const BATCH: u32 = 64;

/// Bytes that push the recorder's code and data out of the caches of a core: twice a large L2.
const COLD: usize = 4 << 20;

fn settings(level: Level, sample: u32) -> Settings {
    Settings { bytes: 4 << 20, level, sample, ..Settings::default() }
}

// Both of a file, as a server's are: pages of its own, mapped and present.

fn recorder(level: Level, sample: u32) -> Recorder {
    let file = tempfile::tempfile().expect("a file");
    Recorder::new(Some(&file), &settings(level, sample), &About::default())
        .expect("space on the disk")
}

fn writer() -> Writer {
    let file = tempfile::tempfile().expect("a file");
    let (settings, about) = (settings(Level::Record, 1), About::default());
    Writer::new(Some(&file), &settings, &about, Writers::Threads).expect("space on the disk")
}

fn monotonic() -> u64 {
    proactor::os::now().0
}

/// One iteration: an enter, and what is reaped and submitted after it.
fn iteration(log: &mut impl Log) {
    log.begin_iteration(monotonic, Record::enter_begin(0, 0, WaitMode::None));
    log.end_iteration(monotonic, Record::enter_end(0, 0, 0, false));
    for n in 0..BATCH {
        let token = Token::of(Kind::Recv, ConnId::new(n, 1)).0;
        log.note(monotonic, Record::completed(token, 64, black_box(2), 0));
    }
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("64 records and an enter");
    group.throughput(Throughput::Elements(u64::from(BATCH) + 2));
    for (name, level, sample) in [
        ("clock per batch", Level::Batch, 1),
        ("clock per record", Level::Record, 1),
        ("one connection of 1000", Level::Batch, 1000),
    ] {
        let mut log = recorder(level, sample);
        group.bench_function(name, |b| b.iter(|| iteration(&mut log)));
    }
    let mut log = writer();
    group.bench_function("many writers, of which one writes", |b| b.iter(|| iteration(&mut log)));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = log.lane(1);
            while !over.load(Ordering::Relaxed) {
                iteration(&mut other);
            }
        });
        let mut log = log.clone();
        group.bench_function("many writers, of which two write all the time", |b| {
            b.iter(|| iteration(&mut log));
        });
        over.store(true, Ordering::Relaxed);
    });
    group.finish();
}

/// As a server pays for it that does much else between two enters: a file as large as the default,
/// whose next pages are in no cache, and a recorder that has left the caches too. What walks over
/// other memory is not timed.
fn cold_records(c: &mut Criterion) {
    let mut group = c.benchmark_group("64 records and an enter, cold");
    group.throughput(Throughput::Elements(u64::from(BATCH) + 2));
    let mut others = vec![1u8; COLD];
    for (name, level) in [("clock per batch", Level::Batch), ("clock per record", Level::Record)] {
        let file = tempfile::tempfile().expect("a file");
        let settings = Settings { level, ..Settings::default() };
        let mut log = Recorder::new(Some(&file), &settings, &About::default()).expect("space");
        let mut walk = || others.iter_mut().step_by(64).for_each(|byte| *byte ^= 1);
        group.bench_function(name, |b| {
            b.iter_batched(&mut walk, |()| iteration(&mut log), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, records, cold_records);
criterion_main!(benches);
