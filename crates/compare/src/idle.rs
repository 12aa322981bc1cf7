//! What a connection costs that does nothing: memory, descriptors, threads, processes.
//!
//! A server with many connections spends most of them on waiting, and there the models differ by
//! orders of magnitude, whatever their rates. Each model holds the same number of connections,
//! each of which has exchanged one message, alone and one after the other: so no buffer is there
//! that only a burst needs. What the first connection costs (code that is read in, tables that are
//! made) is no part of it: one stands before it is begun to count.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::contender::{Refusal, Server};
use super::family::Footprint;
use proactor::address::Address;

/// What each connection has said, and heard again.
pub const MESSAGE: [u8; 64] = [b'.'; 64];

/// What connections that wait cost, model by model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Idle {
    /// How many connections each model held.
    pub connections: usize,
    /// One for each model.
    pub rows: Vec<Row>,
}

/// What one model's cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The model.
    pub model: String,
    /// Why it is not known; then `cost` is absent.
    pub reason: Option<String>,
    /// Of one connection.
    pub cost: Option<Cost>,
}

/// The cost of one connection: the server's and its children's, with all connections, less that
/// without, by their number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// Bytes of memory: proportional set size, so what n processes share counts once.
    pub memory: f64,
    /// Bytes of page tables, which are the kernel's.
    pub page_tables: f64,
    /// Descriptors.
    pub descriptors: f64,
    /// Threads.
    pub threads: f64,
    /// Processes.
    pub processes: f64,
}

impl Cost {
    /// What each of so many has of a footprint.
    fn each(all: Footprint, connections: usize) -> Cost {
        let each = |all: u64| all as f64 / connections as f64;
        Cost {
            memory: each(all.memory),
            page_tables: each(all.page_tables),
            descriptors: each(all.descriptors),
            threads: each(all.threads),
            processes: each(all.processes),
        }
    }
}

/// Has a server, which has no connection yet, hold so many, and looks what they cost.
///
/// # Errors
/// It does not serve them, each within `patience`, or cannot be looked at.
pub fn measure(server: Server, connections: usize, patience: Duration) -> Result<Cost, Refusal> {
    match held(&server, connections, patience) {
        Ok(all) => {
            // Its counters are about nothing here; how it ends is told where it is measured.
            let _ = server.stop();
            Ok(Cost::each(all, connections))
        }
        Err(refusal) => Err(server.failed(&refusal)),
    }
}

fn held(server: &Server, connections: usize, patience: Duration) -> Result<Footprint, Refusal> {
    let look = || {
        let footprint = server.family().and_then(|family| family.footprint());
        footprint.map_err(|error| Refusal(format!("its memory cannot be read in /proc: {error}")))
    };
    let mut talkers = Vec::with_capacity(connections + 1);
    let mut talk = |number: usize| -> Result<(), Refusal> {
        let talker = Talker::talk(server.address(), patience);
        let refused = |error| Refusal(format!("idle connection {number} is not served: {error}"));
        talkers.push(talker.map_err(refused)?);
        Ok(())
    };
    talk(0)?;
    let before = look()?;
    (1..=connections).try_for_each(&mut talk)?;
    Ok(look()? - before)
}

/// A connection that has exchanged one message.
#[derive(Debug)]
enum Talker {
    Tcp(#[expect(dead_code, reason = "held open")] TcpStream),
    Unix(#[expect(dead_code, reason = "held open")] UnixStream),
}

impl Talker {
    fn talk(address: &Address, patience: Duration) -> io::Result<Talker> {
        match address {
            Address::Tcp(address) => Talker::tcp(*address, patience),
            Address::Unix(path) => Talker::unix(path, patience),
        }
    }

    fn tcp(address: SocketAddr, patience: Duration) -> io::Result<Talker> {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        exchange(&mut stream)?;
        Ok(Talker::Tcp(stream))
    }

    fn unix(path: &Path, patience: Duration) -> io::Result<Talker> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(patience))?;
        exchange(&mut stream)?;
        Ok(Talker::Unix(stream))
    }
}

fn exchange(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(&MESSAGE)?;
    let mut reply = [0; MESSAGE.len()];
    stream.read_exact(&mut reply).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no reply came"),
        _ => error,
    })?;
    match reply == MESSAGE {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "its reply was wrong")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_cost_is_divided_by_their_number() {
        let all = Footprint {
            memory: 4_096_000,
            page_tables: 8_192_000,
            descriptors: 1000,
            threads: 2000,
            processes: 0,
        };
        let cost = Cost::each(all, 1000);
        assert_eq!((cost.memory, cost.page_tables), (4096.0, 8192.0));
        assert_eq!((cost.descriptors, cost.threads, cost.processes), (1.0, 2.0, 0.0));
    }
}
