//! The operator console at the ring loop: its input is read through the ring.

use std::io;
use std::ops::ControlFlow;

use super::{Flight, Proactor, RecvState, SendState};
use crate::address;
use crate::buffer::Size;
use crate::console::SocketInfo;
use crate::limits::Ended;
use crate::protocol::Protocol;
use crate::ring::{Op, Recv, Ring};

/// How many bytes are read at a time.
pub(super) const INPUT_SIZE: usize = 4096;

impl<R: Ring, P: Protocol> Proactor<R, P> {
    /// A read of the console's input completed.
    pub(super) fn console_input(&mut self, outcome: Recv) -> io::Result<ControlFlow<Ended>> {
        if let Some(console) = &mut self.state.console {
            match outcome {
                Recv::Data(bytes) => console.input_read(bytes),
                Recv::End => console.input_ended(),
                Recv::Failed(error) => console.input_failed(&error),
                Recv::NoBuffer | Recv::Nothing | Recv::Cancelled => {}
            }
        }
        let flow = self.serve_console();
        self.read_console()?;
        Ok(flow)
    }

    /// Submits the next read of the console's input. None is in flight.
    pub(super) fn read_console(&mut self) -> io::Result<()> {
        let console = self.state.console.as_ref().filter(|console| !console.has_ended());
        let Some((console, pool)) = console.zip(self.console_buffer.as_ref()) else {
            return Ok(());
        };
        let lease = pool.lease(Size(0)).expect("the last read has given it back");
        self.ring.submit(Op::Read { fd: console.input(), lease }).map(drop)
    }

    /// Prints the messages to the operator, and runs the commands that were read.
    pub(super) fn serve_console(&mut self) -> ControlFlow<Ended> {
        let flow = self.state.serve_console(|flight| flight.socket_info(&self.ring));
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
        // Each accept brings the address of a TCP peer: one without is on a Unix socket.
        let address = ring.descriptor(self.socket).and_then(address::of_peer);
        let address = address.or_else(|| Some("unix".to_owned()));
        SocketInfo { address, doing: doing.collect() }
    }
}
