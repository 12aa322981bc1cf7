//! The operator's desk at the ring loop: what is typed is read through the ring.

use std::io;
use std::rc::Rc;

use super::{Flight, InFlight, Proactor};
use crate::address;
use crate::buffer::{BufferClass, Pool, Size};
use crate::console::{Console, Moment, Order, SocketInfo};
use crate::limits::Stage;
use crate::protocol::Protocol;
use crate::ring::{Op, Recv, Ring};

/// A console, and the buffer that its input is read into: one that no connection can hold.
#[derive(Debug)]
pub(super) struct ConsoleInput {
    pub(super) console: Console,
    pool: Rc<Pool>,
}

/// The most that is read at a time of what is typed.
const INPUT_SIZE: usize = 4096;

impl<R: Ring, P: Protocol + Clone> Proactor<R, P> {
    /// Has an operator see and do at `console` what there is to be seen and done. What is typed is
    /// read through the ring. The listeners of the console are the listeners, in their order.
    ///
    /// # Errors
    /// There is no memory for a buffer, or the ring as a whole fails.
    pub fn attend_to(&mut self, console: Console) -> io::Result<()> {
        let pool = Pool::new(&[BufferClass { bytes: INPUT_SIZE, count: 1 }])?;
        self.desk = Some(Box::new(ConsoleInput { console, pool }));
        self.peers.expect_operator();
        self.read_typed()
    }

    /// Something was typed; answers whether the server was asked to end at once.
    pub(super) fn typed(&mut self, outcome: Recv) -> io::Result<bool> {
        let Some(desk) = &mut self.desk else { return Ok(false) };
        match outcome {
            Recv::Data(typed) => desk.console.input_read(typed),
            Recv::End => desk.console.input_ended(),
            Recv::Failed(error) => desk.console.input_failed(&error),
            Recv::NoBuffer | Recv::Cancelled => {}
        }
        let quits = self.attend();
        self.read_typed()?;
        Ok(quits)
    }

    /// Issues the next read of what is typed. None is in flight.
    fn read_typed(&mut self) -> io::Result<()> {
        match &self.desk {
            Some(desk) if !desk.console.has_ended() => {
                let lease = desk.pool.lease(Size(0)).expect("what was read has been heard");
                self.ring.submit(Op::Read { fd: desk.console.input(), lease })
            }
            _ => Ok(()),
        }
    }

    /// Lets the operator see and do; answers whether the server was asked to end at once.
    pub(super) fn attend(&mut self) -> bool {
        let Some(mut desk) = self.desk.take() else { return false };
        let quits = loop {
            let ending = self.stage != Stage::Serving;
            let moment = Moment { counters: self.counters(), now: self.ring.now(), ending };
            let ring = &self.ring;
            match self.peers.attend(&mut desk.console, moment, |flight| flight.socket_info(ring)) {
                None => break false,
                Some(Order::Quit) => break true,
                Some(Order::Drain) => self.drain(),
            }
        };
        self.desk = Some(desk);
        quits
    }
}

impl Flight {
    /// As an operator sees it.
    fn socket_info(&self, ring: &impl Ring) -> SocketInfo {
        let kinds = [
            (self.receiving != InFlight::No, "recv"),
            (self.sending != InFlight::No, "send"),
            (self.shutting, "shutdown"),
            (self.cancels > 0, "cancel"),
            (self.closing, "close"),
        ];
        let doing = kinds.into_iter().filter(|(is, _)| *is).map(|(_, kind)| kind.to_owned());
        let address = ring.descriptor(self.socket).and_then(address::of_peer);
        SocketInfo { address, doing: doing.collect() }
    }
}
