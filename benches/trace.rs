//! What a record costs; an iteration is a busy turn's, so divide by 66.
//!
//! What recording costs that is *off* is in no bench of this file, for there is nothing to run: a
//! `Proactor<Uring, P>` is another type than a `Proactor<Traced<Uring>, P>`, and no function of
//! `proactor::trace` is called from it. The bench `turn` is of the first. To see it: in
//! `objdump -dC target/release/proactor`, the loops whose type has no `Traced` in it call no
//! `Recorder` and read no counter (`rdtsc`); those that have it do both a dozen times.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proactor::keys::ConnId;
use proactor::ring::{Kind, Token};
use proactor::trace::{About, Level, Record, Recorder, Settings, What};

/// Records between two looks at the clock.
const TURN: u32 = 64;

fn recorder(level: Level, sample: u32) -> Recorder {
    // Of a file, as a server's is: pages of its own, mapped and present.
    let file = tempfile::tempfile().expect("a file");
    let settings = Settings { bytes: 4 << 20, level, sample, ..Settings::default() };
    Recorder::create(&file, &settings, &About::default()).expect("room for it")
}

fn monotonic() -> u64 {
    proactor::os::now().0
}

/// One turn: into the kernel and back, and what is reaped and submitted after it.
fn turn(log: &mut Recorder) {
    let begin = Record { what: What::EnterBegin as u8, ..Record::default() };
    log.begin_turn(monotonic, begin);
    log.end_turn(monotonic, Record { what: What::EnterEnd as u8, ..begin });
    for n in 0..TURN {
        let conn = ConnId::new(n, 1);
        let (what, id) = (What::Cqe as u8, Token::of(Kind::Recv, conn).0);
        let record = Record { what, id, res: 64, flags: black_box(2), ..Record::default() };
        log.note(Some(conn), monotonic, record);
    }
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("64 records and an enter");
    group.throughput(Throughput::Elements(u64::from(TURN) + 2));
    for (name, level, sample) in [
        ("clock per batch", Level::Batch, 1),
        ("clock per record", Level::Record, 1),
        ("one connection of 1000", Level::Batch, 1000),
    ] {
        let mut log = recorder(level, sample);
        group.bench_function(name, |b| b.iter(|| turn(&mut log)));
    }
    group.finish();
}

criterion_group!(benches, records);
criterion_main!(benches);
