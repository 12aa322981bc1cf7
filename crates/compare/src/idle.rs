//! The cost of an idle connection: memory, descriptors, threads and processes.
//!
//! Most connections of a server with many of them wait, and there the models differ by orders of
//! magnitude. Each connection exchanges one message, one connection after the other, so that the
//! server allocates no buffers for a burst. The cost is the difference between two numbers of
//! connections, divided by the difference of the numbers: a fixed part, such as code that is loaded
//! and tables that are allocated for the first connections, cancels out.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde::Serialize;

use crate::capacity;
use crate::plan::{ModelSpec, Plan, Role, TIMEOUT};
use crate::process_tree::Footprint;
use crate::progress::{Activity, Monitor};
use crate::server_process::{ServerError, ServerProcess, StartCommand};
use proactor::address::Address;
use proactor_load::LoadShape;

/// The message of each connection.
const MESSAGE: [u8; 64] = [b'.'; 64];

/// The cost of an idle connection for each model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IdleCosts {
    /// The number of connections of the first measurement.
    pub from_connections: usize,
    /// The number of connections of the second measurement.
    pub connections: usize,
    /// One row for each model.
    pub rows: Vec<IdleRow>,
}

/// The cost of one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IdleRow {
    /// The name of the model.
    pub model: String,
    /// Why the cost is not known.
    pub reason: Option<String>,
    /// The cost; absent if there is a reason.
    pub cost: Option<ConnectionCost>,
}

/// The cost of one connection, including that of the server's children.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ConnectionCost {
    /// Bytes of memory (proportional set size, so that shared memory counts once).
    pub memory: f64,
    /// Bytes of page tables, which belong to the kernel.
    pub page_tables: f64,
    /// The open file descriptors.
    pub descriptors: f64,
    /// The number of threads.
    pub threads: f64,
    /// The number of processes.
    pub processes: f64,
}

impl ConnectionCost {
    fn new(total: Footprint, connections: usize) -> ConnectionCost {
        let each = |total: u64| total as f64 / connections as f64;
        ConnectionCost {
            memory: each(total.memory),
            page_tables: each(total.page_tables),
            descriptors: each(total.descriptors),
            threads: each(total.threads),
            processes: each(total.processes),
        }
    }
}

/// Measures the cost of an idle connection for each model of a plan, until `monitor` is
/// interrupted.
pub(crate) fn measure(
    plan: &Plan,
    command: StartCommand<'_>,
    monitor: &mut Monitor<'_>,
) -> IdleCosts {
    let (from_connections, connections) = counts(plan.idle);
    let load = LoadShape { connections, size: MESSAGE.len(), depth: 1 };
    let mut rows = Vec::new();
    for spec in plan.participants().iter().filter(|spec| spec.role != Role::Control) {
        if !monitor.report(load, spec, Activity::MeasuringIdle(connections)) {
            break;
        }
        let cost = model_cost(&spec.model, command, from_connections, connections);
        let reason = cost.as_ref().err().map(ServerError::to_string);
        rows.push(IdleRow { model: spec.name.clone(), reason, cost: cost.ok() });
    }
    IdleCosts { from_connections, connections, rows }
}

/// Returns the two numbers of connections: half of the requested number, and that number.
fn counts(connections: usize) -> (usize, usize) {
    let from = (connections / 2).max(1);
    (from, connections.max(from + 1))
}

fn model_cost(
    model: &ModelSpec,
    command: StartCommand<'_>,
    from_connections: usize,
    connections: usize,
) -> Result<ConnectionCost, ServerError> {
    if let Some(reason) = capacity::shortage(&model.model, connections, 0) {
        return Err(ServerError(reason));
    }
    let server = ServerProcess::start(command(model)?)?;
    match difference(&server, from_connections, connections) {
        Ok(total) => {
            // Its counters are not needed, and its end is tested where it is measured.
            let _ = server.stop();
            Ok(ConnectionCost::new(total, connections - from_connections))
        }
        Err(error) => Err(server.failed(&error)),
    }
}

/// Returns by how much the server grows between the two numbers of connections.
fn difference(server: &ServerProcess, from: usize, to: usize) -> Result<Footprint, ServerError> {
    let mut open = Vec::with_capacity(to);
    let mut footprint_with = |connections: usize| {
        for number in open.len()..connections {
            let connection = IdleConnection::open(server.address()).map_err(|error| {
                ServerError(format!("idle connection {number} is not served: {error}"))
            })?;
            open.push(connection);
        }
        let footprint = server.process_tree().and_then(|tree| tree.footprint());
        footprint.map_err(|error| ServerError(format!("cannot read its memory in /proc: {error}")))
    };
    let before = footprint_with(from)?;
    Ok(footprint_with(to)? - before)
}

/// A connection that has exchanged one message.
enum IdleConnection {
    Tcp(#[expect(dead_code, reason = "held open")] TcpStream),
    Unix(#[expect(dead_code, reason = "held open")] UnixStream),
}

impl IdleConnection {
    fn open(address: &Address) -> io::Result<IdleConnection> {
        match address {
            Address::Tcp(address) => {
                let mut stream = TcpStream::connect_timeout(address, TIMEOUT)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                exchange(&mut stream)?;
                Ok(IdleConnection::Tcp(stream))
            }
            Address::Unix(path) => {
                let mut stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                exchange(&mut stream)?;
                Ok(IdleConnection::Unix(stream))
            }
        }
    }
}

fn exchange(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(&MESSAGE)?;
    let mut reply = [0; MESSAGE.len()];
    stream.read_exact(&mut reply).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no reply arrived"),
        _ => error,
    })?;
    match reply == MESSAGE {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "the reply was wrong")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_divided_by_the_number_of_connections() {
        let total = Footprint {
            memory: 4_096_000,
            page_tables: 8_192_000,
            descriptors: 1000,
            threads: 2000,
            processes: 0,
        };
        let cost = ConnectionCost::new(total, 1000);
        assert_eq!((cost.memory, cost.page_tables), (4096.0, 8192.0));
        assert_eq!((cost.descriptors, cost.threads, cost.processes), (1.0, 2.0, 0.0));
    }

    #[test]
    fn the_first_measurement_has_half_of_the_connections() {
        assert_eq!([1, 2, 3, 100].map(counts), [(1, 2), (1, 2), (1, 3), (50, 100)]);
    }
}
