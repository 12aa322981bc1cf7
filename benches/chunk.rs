//! What buffers cost: lease, split, queue.

use criterion::{Criterion, criterion_group, criterion_main};
use proactor::buffer::{BufferClass, Chunk, Pool, SendQueue, Size};

fn chunks(c: &mut Criterion) {
    let pool = Pool::new(&[BufferClass { bytes: 2048, count: 64 }]).expect("memory");
    let chunk = || Chunk::received(pool.lease(Size::SMALLEST).expect("idle buffers"), 2000);

    let mut group = c.benchmark_group("chunk");
    group.bench_function("lease and drop", |b| b.iter(|| drop(chunk())));
    let shared = chunk();
    group.bench_function("clone and drop", |b| b.iter(|| drop(shared.clone())));
    group.bench_function("split a line off", |b| {
        b.iter(|| {
            let mut rest = shared.clone();
            rest.split_to(72)
        })
    });
    let mut queue = SendQueue::default();
    group.bench_function("queue one and send it", |b| {
        b.iter(|| {
            queue.push(chunk());
            queue.advance(2000);
        })
    });
    group.bench_function("queue eight and send them", |b| {
        b.iter(|| {
            (0..8).for_each(|_| queue.push(chunk()));
            queue.advance(16_000);
        })
    });
    group.finish();
}

criterion_group!(benches, chunks);
criterion_main!(benches);
