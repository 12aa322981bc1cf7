//! A server on ringline: multishot receives, and sends out of the buffers received into.

use std::future::Future;

use common::{BACKLOG, Options};
use ringline::{AsyncEventHandler, ConfigBuilder, ConnCtx, ParseResult, RinglineBuilder};

struct Echo;

impl AsyncEventHandler for Echo {
    #[expect(clippy::manual_async_fn)]
    fn on_accept(&self, connection: ConnCtx) -> impl Future<Output = ()> + 'static {
        async move {
            let echo = |data: &[u8]| match connection.forward_recv_buf(data) {
                Ok(()) => ParseResult::Consumed(data.len()),
                Err(_) => ParseResult::Consumed(0),
            };
            while connection.with_data(echo).await > 0 {}
        }
    }

    fn create_for_worker(_: usize) -> Echo {
        Echo
    }
}

fn main() {
    let options = Options::from_args();
    let buffers = if options.buffer > 4096 { 128 } else { 1024 };
    let config = ConfigBuilder::new()
        .workers(1)
        .pin_to_core(false)
        .sq_entries(4096)
        .recv_buffer(buffers, options.buffer as u32)
        .max_connections(16_384)
        .backlog(BACKLOG)
        .tcp_nodelay(true)
        .no_fs()
        .build()
        .expect("a valid configuration");
    let address = ([127, 0, 0, 1], options.port).into();
    let (shutdown, workers) =
        RinglineBuilder::new(config).bind(address).launch::<Echo>().expect("a free port");
    println!("listening on {}", shutdown.bound_addr().expect("it listens"));
    for worker in workers {
        worker.join().expect("no panic").expect("the worker runs");
    }
}
