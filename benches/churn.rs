//! Short connections: connect, send 64 bytes, receive them, close. Compares three ways to accept on
//! a ring: `multishot` knows no addresses, `accept` brings the address with each accept, and
//! `getpeername` asks for it, which needs file descriptors instead of direct ones.
//!
//! Run it on an idle machine, with a CPU for each of the two threads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proactor::buffer::BufferClass;
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::Limits;
use proactor::os::ShutdownSignal;
use proactor::peer::Factory;
use proactor::polling::Polling;
use proactor::proactor::Proactor;
use proactor::protocol::Echo;
use proactor::ring::kernel::{Capability, Kernel};
use proactor::ring::{Config, Uring};

fn exchange(address: SocketAddr) {
    let mut client = TcpStream::connect(address).expect("the server listens");
    client.write_all(&[b'x'; 64]).expect("a fresh socket takes 64 bytes");
    client.read_exact(&mut [0; 64]).expect("an echo");
}

fn churn(criterion: &mut Criterion) {
    let kernel = match Kernel::detect() {
        Ok(kernel) => kernel,
        Err(refusal) => return println!("skipped: 1 ({refusal})"),
    };
    let mut group = criterion.benchmark_group("churn");
    group.throughput(Throughput::Elements(1));
    let descriptors = kernel.without(Capability::Direct);
    for (name, kernel, addresses) in [
        ("multishot", kernel, false),
        ("accept", kernel, true),
        ("getpeername", descriptors, false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = ShutdownSignal::new().expect("a descriptor");
        let stopper = stop.clone();
        let server = thread::spawn(move || {
            let buffers = vec![BufferClass { bytes: 2048, count: 256 }];
            let polling = Polling::default();
            let config = Config { kernel, connections: 256, buffers, addresses, polling };
            let ring = Uring::new(config).expect("a ring");
            let mut server = Proactor::new(ring, Limits::default(), stop).expect("space");
            let listening = server.listen(ListenerId(0), listener.into(), Factory::of(|_| Echo));
            listening.expect("a listening socket");
            server.run(None).expect("it serves");
        });
        group.bench_function(name, |bencher| bencher.iter(|| exchange(address)));
        stopper.request();
        server.join().expect("it drains");
    }
}

criterion_group!(benches, churn);
criterion_main!(benches);
