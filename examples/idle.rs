//! Says goodbye to a peer that sends nothing for a while, by its address.

use std::net::SocketAddr;
use std::time::Duration;

use proactor::{Builder, Input, Needs, Outbox, Protocol, Server};

struct Idle {
    addr: Option<SocketAddr>,
    limit: Duration,
}

impl Protocol for Idle {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn open(&mut self, out: &mut Outbox<'_>) {
        out.set_timer(self.limit);
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.send(input.take_all());
        out.set_timer(self.limit); // Set anew, it replaces the old one.
    }

    fn timer(&mut self, out: &mut Outbox<'_>) {
        match self.addr {
            Some(addr) => writeln!(out, "{} was idle: goodbye", addr.ip()),
            None => out.send("goodbye\n"), // A peer on a Unix socket has no address.
        }
        out.finish();
    }
}

pub(crate) fn server(address: &str, limit: Duration) -> Builder {
    Server::builder().listen(address, move |peer| Idle { addr: peer.addr(), limit })
}

fn main() -> Result<(), proactor::Error> {
    server("127.0.0.1:7005", Duration::from_secs(30)).run()?;
    Ok(())
}
