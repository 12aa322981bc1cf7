//! A server with its limits set.

use std::time::Duration;

use proactor::protocols::Prefix;
use proactor::{Builder, Rate, Server};

pub(crate) fn server(address: &str) -> Builder {
    Server::builder()
        .listen(address, |_peer| Prefix::new("> "))
        .max_connections(1)
        .drain_timeout(Duration::from_secs(2))
        .limits(|limits| {
            limits.max_input = 32 << 10;
            limits.connections_per_address = Some(100);
            limits.accept_rate = Some(Rate::per_second(500));
        })
}

fn main() -> Result<(), proactor::Error> {
    server("127.0.0.1:7007").run()?;
    Ok(())
}
