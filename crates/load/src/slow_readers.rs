//! Connections that read slowly beside the measured ones. Each sends as much as its server takes,
//! and reads a kilobyte every ten milliseconds, so that the server has replies that it cannot send.
//! Every byte is verified.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::LoadOptions;
use super::byte_stream::{ByteStream, UNUSED};
use super::error::{LoadError, Result};
use super::opening;
use proactor::address::Address;
use proactor::clock::Nanos;

/// The time between two looks at the connections.
const INTERVAL: Duration = Duration::from_millis(10);
/// The maximum number of bytes that a connection reads at a look.
const READ: usize = 1 << 10;
/// The maximum number of bytes that a connection sends at a look.
const WRITE: usize = 64 << 10;

/// The connections that read slowly.
#[derive(Debug)]
pub(super) struct SlowReaders {
    readers: Vec<SlowReader>,
    /// When they are looked at next.
    next: Nanos,
}

#[derive(Debug)]
struct SlowReader {
    connection: usize,
    socket: TcpStream,
    stream: ByteStream,
    sent: u64,
    received: u64,
}

impl SlowReaders {
    /// Opens these connections, without waiting for the server.
    ///
    /// # Errors
    /// A connection is refused.
    pub(super) fn open(address: &Address, options: &LoadOptions) -> Result<SlowReaders> {
        let LoadOptions { workload, seed, timeout, .. } = *options;
        let first = workload.shape.connections + workload.idle_connections;
        let open = |connection| {
            let socket = opening::open(address, connection, timeout)?;
            let stream = ByteStream::random(seed, connection);
            let blocking = socket.set_nonblocking(true);
            blocking.map_err(LoadError::client("use its sockets"))?;
            Ok(SlowReader { connection, socket, stream, sent: 0, received: 0 })
        };
        let readers = (first..first + workload.slow_readers).map(open);
        Ok(SlowReaders { readers: readers.collect::<Result<_>>()?, next: Nanos(0) })
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &TcpStream> {
        self.readers.iter().map(|reader| &reader.socket)
    }

    /// Looks at the connections if it is time, and returns whether it did.
    ///
    /// # Errors
    /// A received byte is wrong, or a connection failed.
    pub(super) fn look(&mut self, now: Nanos) -> Result<bool> {
        if self.readers.is_empty() || now < self.next {
            return Ok(false);
        }
        self.next = now + INTERVAL;
        let mut buffer = [0; WRITE];
        for reader in &mut self.readers {
            reader.stream.fill(&mut { UNUSED }, reader.sent, &mut buffer);
            let written = reader.socket.write(&buffer);
            reader.sent += reader.result(written)? as u64;
            reader.receive(&mut buffer[..READ])?;
        }
        Ok(true)
    }

    /// Ends the connections, and verifies the rest of their replies.
    ///
    /// # Errors
    /// A byte is wrong or missing, or comes too late.
    pub(super) fn close(&mut self, timeout: Duration) -> Result {
        let mut buffer = vec![0; WRITE];
        for mut reader in self.readers.drain(..) {
            let socket = &reader.socket;
            let prepared = socket.set_nonblocking(false).and_then(|()| {
                socket.set_read_timeout(Some(timeout))?;
                socket.shutdown(Shutdown::Write)
            });
            prepared.map_err(LoadError::client("close its connections"))?;
            while reader.receive(&mut buffer)? > 0 {}
            let SlowReader { connection, sent, received: offset, .. } = reader;
            match sent - offset {
                0 => {}
                outstanding => return Err(LoadError::Ended { connection, offset, outstanding }),
            }
        }
        Ok(())
    }
}

impl SlowReader {
    /// Receives and verifies bytes; returns how many.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.socket.read(buffer);
        let len = self.result(read)?;
        let (connection, bytes) = (self.connection, &buffer[..len]);
        let checked = self.stream.check(&mut { UNUSED }, self.received, bytes);
        checked.map_err(|at| LoadError::Wrong { connection, at })?;
        self.received += len as u64;
        match self.received.checked_sub(self.sent) {
            None | Some(0) => Ok(len),
            Some(surplus) => {
                let (offset, surplus) = (self.sent, surplus as usize);
                Err(LoadError::Surplus { connection, offset, surplus })
            }
        }
    }

    /// Returns the bytes of a call, none if it would have waited.
    fn result(&self, called: io::Result<usize>) -> Result<usize> {
        match called {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => {
                let (connection, offset) = (self.connection, self.received);
                Err(LoadError::Broken { connection, offset, error })
            }
            Ok(len) => Ok(len),
        }
    }
}
