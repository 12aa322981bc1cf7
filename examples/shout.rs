//! A server for a protocol of one's own: on io_uring where it is to be had, else on epoll.
//!
//! ```sh
//! cargo run --example shout        # and elsewhere: printf hello | nc -N 127.0.0.1 7001
//! ```

use proactor::address::Address;
use proactor::buffer::{BufferClass, Pool};
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::Limits;
use proactor::os::ShutdownSignal;
use proactor::peer::Factory;
use proactor::proactor::Proactor;
use proactor::protocol::{Input, Outbox, Protocol};
use proactor::reactor::Reactor;
use proactor::ring::kernel::Kernel;
use proactor::ring::{Config, Uring};
use proactor::selector::{Epoll, Trigger};

/// Says everything again, louder.
#[derive(Clone)]
struct Shout;

impl Protocol for Shout {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        let mut bytes = input.take_all();
        bytes.make_ascii_uppercase(); // in the buffer that the kernel filled …
        out.send(bytes); // … and it is sent from there
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7001".to_owned());
    let listener = address.parse::<Address>()?.listen()?;
    let stop = ShutdownSignal::new()?;
    stop.on_signals()?; // SIGINT and SIGTERM drain it
    let buffers =
        vec![BufferClass { bytes: 2048, count: 256 }, BufferClass { bytes: 65536, count: 32 }];
    let limits = Limits { connections: 1000, ..Limits::default() };

    println!("listening on {}", listener.address);
    match Kernel::detect() {
        Ok(kernel) => {
            let ring = Uring::new(Config {
                kernel,
                connections: limits.connections,
                buffers,
                addresses: true,
            })?;
            let mut server = Proactor::new(ring, limits, stop)?;
            server.listen(ListenerId(0), listener.fd, Factory::of(|_| Shout))?;
            server.run()?;
        }
        Err(refusal) => {
            eprintln!("{refusal}; epoll, then");
            let pool = Pool::new(&buffers)?;
            let mut server = Reactor::new(Epoll::new(Trigger::Level)?, pool, limits, stop)?;
            server.listen(ListenerId(0), listener.fd, Factory::of(|_| Shout))?;
            server.run()?;
        }
    }
    Ok(())
}
