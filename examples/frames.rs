//! Sends back frames: four bytes of length, most significant first, and then the content.

use proactor::{Builder, Input, Outbox, Protocol, Server};

/// The longest content of a frame.
const MAX: usize = 64 << 10;

pub(crate) struct Frames;

impl Protocol for Frames {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(header) = input.peek_array() {
            let len = u32::from_be_bytes(header) as usize;
            if len > MAX {
                return out.abort(format!("a frame of {len} bytes, {MAX} at most"));
            }
            let Some(frame) = input.take(4 + len) else { return };
            out.send(frame);
        }
    }
}

pub(crate) fn server(address: &str) -> Builder {
    Server::builder().listen(address, |_peer| Frames)
}

fn main() -> Result<(), proactor::Error> {
    server("127.0.0.1:7002").run()?;
    Ok(())
}
