//! Sends each line to every other connection of the listener.

use proactor::{Builder, CloseReason, Input, Needs, Outbox, Protocol, Server};

struct Chat {
    id: u64,
}

impl Protocol for Chat {
    /// A member may only listen.
    fn allow_silence() -> bool {
        true
    }

    fn needs() -> Needs {
        Needs::BROADCAST
    }

    fn open(&mut self, out: &mut Outbox<'_>) {
        out.broadcast(format!("* {} joined\n", self.id));
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(line) = input.line(1024) {
            out.broadcast(format!("[{}] {}", self.id, String::from_utf8_lossy(&line)));
        }
    }

    fn close(&mut self, _: CloseReason, out: &mut Outbox<'_>) {
        out.broadcast(format!("* {} left\n", self.id));
    }
}

pub(crate) fn server(address: &str) -> Builder {
    Server::builder().listen(address, |peer| Chat { id: peer.id() })
}

fn main() -> Result<(), proactor::Error> {
    server("127.0.0.1:7003").run()?;
    Ok(())
}
