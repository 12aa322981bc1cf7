//! Sends back every byte: `cargo run --example echo`, and elsewhere `nc 127.0.0.1 7000`.

use proactor::{Builder, Input, Outbox, Protocol, Server};

struct Echo;

impl Protocol for Echo {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.send(input.take_all()); // the receive buffer itself is sent
    }
}

pub(crate) fn server(address: &str) -> Builder {
    Server::builder().listen(address, |_peer| Echo)
}

fn main() -> Result<(), proactor::Error> {
    server("127.0.0.1:7000").run()?;
    Ok(())
}
