//! Short end-to-end runs: an echo over loopback on io_uring, and on epoll beside it.
//!
//! Server and client are threads of one process and the kernel does most of the work, so these
//! figures say how long a round trip takes here, not which model is better: `proactor compare` is
//! built to find that out. One iteration is one message, there and back.

use std::hint::black_box;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use proactor::Model;
use proactor::address::{Address, BoundSocket};
use proactor::buffer::BufferClass;
use proactor::model::{EngineOptions, set_up};
use proactor::os::ShutdownSignal;
use proactor_load::{EngineChoice, Load, LoadOptions};
use proactor_models::Service;
use proactor_models::registry::Registry;

const MODELS: [Model; 4] = [Model::URING, Model::EPOLL, Model::EPOLL_ET, Model::POLL];

fn echoes(c: &mut Criterion) {
    for connections in [1, 64] {
        let mut group = c.benchmark_group(format!("echo of 64 B on {connections} connections"));
        group.sample_size(10).measurement_time(Duration::from_secs(3));
        group.throughput(Throughput::Elements(1));
        for model in MODELS {
            let buffers = vec![BufferClass { bytes: 2048, count: 1024 }];
            let options = EngineOptions { buffers, ..EngineOptions::default() };
            if let Err(error) = set_up(Some(model), &options) {
                println!("skipped: {error}");
                continue;
            }
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = Address::Tcp(listener.local_addr().expect("bound"));
            let stop = ShutdownSignal::new().expect("a descriptor");
            let stopper = stop.clone();
            let socket = BoundSocket {
                fd: listener.into(),
                address: address.clone(),
                file: None,
                follows: false,
            };
            let echo = Registry::builtin().find("echo").expect("a protocol");
            let listeners = vec![(socket, echo.factory.clone())];
            let service = Service { listeners, stop, console: None, monitor: None, trace: None };
            // A ring is set up on the thread that serves.
            let server = thread::spawn(move || {
                proactor_models::serve(set_up(Some(model), &options)?, service, || Ok(()))
            });
            let options = LoadOptions {
                workload: proactor_load::LoadShape { connections, size: 64, depth: 1 }.into(),
                protocol: proactor_load::LoadProtocol::echo(),
                seed: 1,
                engine: EngineChoice::Auto,
                timeout: Duration::from_secs(10),
            };
            let mut load = Load::connect(&address, &options).expect("the server listens");
            group.bench_function(BenchmarkId::from_parameter(model), |b| {
                b.iter_custom(|messages| {
                    // Slices until so many messages have passed; the time of one, times as many.
                    let (mut passed, mut wall) = (0, Duration::ZERO);
                    while passed < messages {
                        let slice =
                            load.run_for(Duration::from_millis(20)).expect("no byte is wrong");
                        passed += slice.messages;
                        wall += slice.wall;
                    }
                    wall.mul_f64(messages as f64 / black_box(passed) as f64)
                })
            });
            drop(load);
            stopper.request();
            server.join().expect("no panic").expect("it served");
        }
        group.finish();
    }
}

criterion_group!(benches, echoes);
criterion_main!(benches);
