//! Sends back each line in upper case, with its number; `quit` ends.

use proactor::{Builder, Input, Outbox, Protocol, Server};

#[derive(Default)]
pub(crate) struct Shout {
    lines: u64,
}

impl Protocol for Shout {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(mut line) = input.line(1024) {
            if line.trim_ascii_end() == b"quit" {
                return out.finish();
            }
            self.lines += 1;
            write!(out, "{}: ", self.lines);
            line.make_ascii_uppercase();
            out.send(line);
        }
    }
}

pub(crate) fn server(address: &str) -> Builder {
    Server::builder().listen(address, |_peer| Shout::default())
}

fn main() -> Result<(), proactor::Error> {
    server("127.0.0.1:7001").run()?;
    Ok(())
}
