//! The operator console at the ring loop: its input is read through the ring.

use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;

use super::{Flight, Proactor, RecvState, SendState};
use crate::address;
use crate::buffer::{BufferClass, Pool, Size};
use crate::console::{Console, SocketInfo};
use crate::engine::Engine;
use crate::limits::Ended;
use crate::protocol::Protocol;
use crate::ring::{Op, Recv, Ring};

/// A console, and the buffer that its input is read into: no connection can hold it.
#[derive(Debug)]
pub(super) struct RingConsole {
    pub(super) console: Console,
    pool: Rc<Pool>,
}

/// How many bytes are read at a time.
const INPUT_SIZE: usize = 4096;

impl RingConsole {
    /// # Errors
    /// There is no memory for the buffer.
    pub(super) fn new(console: Console) -> io::Result<RingConsole> {
        Ok(RingConsole {
            console,
            pool: Pool::new(&[BufferClass { bytes: INPUT_SIZE, count: 1 }])?,
        })
    }
}

impl<R: Ring, P: Protocol> Proactor<R, P> {
    /// A read of the console's input completed.
    pub(super) fn console_input(&mut self, outcome: Recv) -> io::Result<ControlFlow<Ended>> {
        let Some(input) = &mut self.console else { return Ok(ControlFlow::Continue(())) };
        match outcome {
            Recv::Data(bytes) => input.console.input_read(bytes),
            Recv::End => input.console.input_ended(),
            Recv::Failed(error) => input.console.input_failed(&error),
            Recv::NoBuffer | Recv::Cancelled => {}
        }
        let flow = self.serve_console();
        self.read_console()?;
        Ok(flow)
    }

    /// Submits the next read of the console's input. None is in flight.
    pub(super) fn read_console(&mut self) -> io::Result<()> {
        match &self.console {
            Some(input) if !input.console.has_ended() => {
                let lease = input.pool.lease(Size(0)).expect("the last read has given it back");
                self.ring.submit(Op::Read { fd: input.console.input(), lease })
            }
            _ => Ok(()),
        }
    }

    /// Prints the messages to the operator, and runs the commands that were read.
    pub(super) fn serve_console(&mut self) -> ControlFlow<Ended> {
        let (counters, now) = (self.counters(), self.ring.now());
        let Proactor { ring, peers, lifecycle, console: Some(input), .. } = self else {
            return ControlFlow::Continue(());
        };
        let look = |flight: &Flight| flight.socket_info(ring);
        let flow = input.console.serve(&mut peers.inspect(lifecycle, counters, now, look));
        self.open_backlog(); // A command may have begun the drain.
        flow
    }
}

impl Flight {
    /// Returns what the console shows of it.
    fn socket_info(&self, ring: &impl Ring) -> SocketInfo {
        let kinds = [
            (self.recv != RecvState::Idle, "recv"),
            (self.send != SendState::Idle, "send"),
            (self.shutting_down, "shutdown"),
            (self.cancels > 0, "cancel"),
            (self.closing, "close"),
        ];
        let doing = kinds.into_iter().filter(|(is, _)| *is).map(|(_, kind)| kind.to_owned());
        let unix = || ring.descriptor(self.socket).and_then(address::of_peer);
        let address = self.address.map(|address| address.to_string()).or_else(unix);
        SocketInfo { address, doing: doing.collect() }
    }
}
