//! The hot path of an echo with an idle timer on io_uring: no allocation, and no copy of the
//! payload in user space.
//!
//! Both are checked on the real loop over the real ring. An allocator counts what the server's
//! thread allocates while messages pass; a ring around the ring looks at every send and finds the
//! bytes to lie in the very buffers that the kernel received into.

mod skip;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Barrier;
use std::time::Duration;

use proactor::buffer::{BufferClass, Chunk, Lease, Pool, Size};
use proactor::clock::Nanos;
use proactor::engine::Engine;
use proactor::keys::{ConnId, ListenerId};
use proactor::limits::Limits;
use proactor::os::ShutdownSignal;
use proactor::peer::Factory;
use proactor::polling::Polling;
use proactor::proactor::Proactor;
use proactor::ring::kernel::Kernel;
use proactor::ring::{Completion, Config, Cqe, Entered, Op, Pushed, Ring, Uring, Wait};
use proactor::{Input, Outbox, Protocol};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A ring that looks at what is sent.
struct Watched {
    ring: Uring,
    sends: u64,
    /// Sends whose bytes lie in a buffer that was received into.
    in_place: u64,
}

impl Ring for Watched {
    fn is_full(&self) -> bool {
        self.ring.is_full()
    }

    fn out_of_buffers(&self, size: Size) -> bool {
        self.ring.out_of_buffers(size)
    }

    fn push(&mut self, op: Op<'_>) -> Pushed {
        if let Op::Send { queue, .. } = &op {
            self.sends += 1;
            self.in_place += u64::from(queue.iter().all(|chunk| chunk.is_pooled()));
        }
        self.ring.push(op)
    }

    fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        self.ring.enter(wait)
    }

    fn reap(&mut self) -> Option<Cqe> {
        self.ring.reap()
    }

    fn next_implied(&mut self) -> Option<(ConnId, usize)> {
        self.ring.next_implied()
    }

    fn decode(&mut self, cqe: Cqe) -> Completion {
        self.ring.decode(cqe)
    }

    fn take_back(&mut self, conn: ConnId) -> Option<Chunk> {
        self.ring.take_back(conn)
    }

    fn take_buffer(&mut self, cqe: Cqe) -> Option<Lease> {
        self.ring.take_buffer(cqe)
    }

    fn pool(&self) -> &Rc<Pool> {
        self.ring.pool()
    }

    fn now(&self) -> Nanos {
        self.ring.now()
    }
}

/// Sends back what it receives, and sets its timer anew with each message.
struct IdleEcho;

impl Protocol for IdleEcho {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.send(input.take_all());
        out.set_timer(Duration::from_secs(3600));
    }
}

const MESSAGE: [u8; 64] = [7; 64];

fn read_answer(client: &mut TcpStream) {
    let mut answer = [0; MESSAGE.len()];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, MESSAGE);
}

/// Sends a message on each connection and reads it back, `rounds` times.
fn pass_messages(clients: &mut [TcpStream], rounds: usize) {
    for _ in 0..rounds {
        clients.iter_mut().for_each(|client| client.write_all(&MESSAGE).unwrap());
        clients.iter_mut().for_each(read_answer);
    }
}

#[test]
fn an_echo_on_io_uring_neither_allocates_nor_copies() {
    let kernel = match Kernel::detect() {
        Ok(kernel) => kernel,
        Err(refusal) => return skip::skip(&refusal.to_string()),
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = ShutdownSignal::new().unwrap();
    let stopper = stop.clone();

    // All that can be marked at once is marked before anything is counted, and again for the
    // second of the two lists that are swapped: from then on none has to grow. So the server rests
    // while these messages are written.
    let step = Barrier::new(2);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let buffers = vec![BufferClass { bytes: 2048, count: 256 }];
            let (connections, addresses, polling) = (64, true, Polling::default());
            let config = Config { kernel, connections, buffers, addresses, polling };
            let ring = Uring::new(config).unwrap();
            let ring = Watched { ring, sends: 0, in_place: 0 };
            let mut server = Proactor::new(ring, Limits::default(), stop).unwrap();
            server.listen(ListenerId(0), listener.into(), Factory::of(|_| IdleEcho)).unwrap();
            while server.counters().accepted < 16 {
                assert!(server.run_once().unwrap().is_continue());
            }
            for written in [16, 32] {
                step.wait();
                step.wait();
                while server.counters().receives < written {
                    assert!(server.run_once().unwrap().is_continue());
                }
            }
            while server.counters().receives < 16 * 100 {
                assert!(server.run_once().unwrap().is_continue());
            }
            let before = ALLOCATIONS.get();
            while server.counters().receives < 16 * 1100 {
                assert!(server.run_once().unwrap().is_continue());
            }
            let allocated = ALLOCATIONS.get() - before;
            server.run(None).unwrap();
            let counters = server.counters();
            (allocated, counters, server.ring().sends, server.ring().in_place)
        });
        let connect = |_| TcpStream::connect(address).unwrap();
        let mut clients: Vec<TcpStream> = (0..16).map(connect).collect();
        for _ in 0..2 {
            step.wait();
            clients.iter_mut().for_each(|client| client.write_all(&MESSAGE).unwrap());
            step.wait();
        }
        (0..2).for_each(|_| clients.iter_mut().for_each(read_answer));
        pass_messages(&mut clients, 1200);
        drop(clients);
        stopper.request();
        let (allocated, counters, sends, in_place) = server.join().unwrap();
        println!(
            "{allocated} allocations in 16,000 messages; {in_place} of {sends} sends in place"
        );
        assert_eq!(allocated, 0, "the hot path allocates");
        assert_eq!(in_place, sends, "a payload was copied");
        assert!(sends > 1000, "too little happened: {counters:?}");
    });
}
