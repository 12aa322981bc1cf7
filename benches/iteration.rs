//! What the ring loop itself costs: iterations on a ring that completes everything at once.
//!
//! No kernel, no sockets: `Instant` answers each receive with a full small buffer and each send
//! with all its bytes. One sample is one iteration of 64 connections, each with one receive and one
//! send, so 128 completions; divide by that for the cost of one.

use std::io;
use std::rc::Rc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proactor::buffer::{BufferClass, Lease, Pool, Size};
use proactor::clock::Nanos;
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::Limits;
use proactor::os::ShutdownSignal;
use proactor::peer::Factory;
use proactor::proactor::Proactor;
use proactor::protocol::{Echo, Protocol, Upper};
use proactor::ring::{Cqe, Entered, Kind, Op, Pushed, Ring, Sqe, Token, Wait};

const CONNECTIONS: u32 = 64;
const MESSAGE: usize = 64;

/// A ring whose kernel has always just finished.
struct Instant {
    pool: Rc<Pool>,
    /// Receives that stay armed.
    armed: Vec<Token>,
    /// Answers not yet reaped.
    answers: Vec<Cqe>,
    /// Answers to what was pushed since the last enter.
    next: Vec<Cqe>,
}

impl Ring for Instant {
    fn is_full(&self) -> bool {
        false
    }

    fn push(&mut self, op: Op<'_>) -> Pushed {
        let (token, res, flags, len) = match op {
            Op::Accept { accept, .. } => {
                let token = Token::of_accept(Kind::Accept, accept);
                (0..CONNECTIONS as i32 - 1)
                    .for_each(|res| self.next.push(Cqe { token, res, flags: Cqe::MORE }));
                (token, CONNECTIONS as i32 - 1, Cqe::MORE, 0)
            }
            Op::Recv { conn, .. } => {
                let token = Token::of(Kind::Recv, conn);
                self.armed.push(token);
                (token, MESSAGE as i32, Cqe::MORE, 0)
            }
            Op::Send { conn, queue, .. } => {
                (Token::of(Kind::Send, conn), queue.bytes() as i32, 0, queue.bytes() as u32)
            }
            _ => return pushed(Token::at(Kind::Wake, 0), 0),
        };
        if token.kind() != Some(Kind::Recv) {
            self.next.push(Cqe { token, res, flags });
        }
        pushed(token, len)
    }

    fn enter(&mut self, _: Wait) -> io::Result<Entered> {
        std::mem::swap(&mut self.answers, &mut self.next);
        let data =
            self.armed.iter().map(|&token| Cqe { token, res: MESSAGE as i32, flags: Cqe::MORE });
        self.answers.extend(data);
        Ok(Entered::default())
    }

    fn reap(&mut self) -> Option<Cqe> {
        self.answers.pop()
    }

    fn take_buffer(&mut self, _: Cqe) -> Option<Lease> {
        self.pool.lease(Size::SMALLEST)
    }

    fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    fn now(&self) -> Nanos {
        Nanos(0)
    }
}

fn pushed(token: Token, len: u32) -> Pushed {
    Pushed { preceding: None, op: Sqe { token, opcode: 0, flags: 0, fd: 0, len } }
}

fn iterating<P: Protocol>(factory: Factory<P>) -> Proactor<Instant, P> {
    let pool = Pool::new(&[BufferClass { bytes: 2048, count: 1024 }]).expect("memory");
    let ring = Instant { pool, armed: Vec::new(), answers: Vec::new(), next: Vec::new() };
    let stop = ShutdownSignal::new().expect("a descriptor");
    let mut proactor = Proactor::new(ring, Limits::default(), stop).expect("nothing to fail");
    let listener = std::fs::File::open("/dev/null").expect("/dev/null");
    proactor.listen(ListenerId(0), listener.into(), factory).expect("a listener");
    (0..8).for_each(|_| assert!(proactor.run_once().is_ok()));
    assert_eq!(proactor.connections(), CONNECTIONS as usize);
    proactor
}

fn iterations(c: &mut Criterion) {
    let mut group = c.benchmark_group("iteration with 64 connections");
    group.throughput(Throughput::Elements(2 * u64::from(CONNECTIONS)));
    let mut echo = iterating(Factory::of(|_| Echo));
    group.bench_function("echo", |b| b.iter(|| echo.run_once()));
    let mut upper = iterating(Factory::of(|_| Upper));
    group.bench_function("upper", |b| b.iter(|| upper.run_once()));
    group.finish();
}

criterion_group!(benches, iterations);
criterion_main!(benches);
