//! The cost of an idle connection: memory, descriptors, threads and processes.
//!
//! Most connections of a server with many of them wait, and there the models differ by orders of
//! magnitude. Each connection exchanges one message, one connection after the other, so that the
//! server allocates no buffers for a burst. The cost is the difference between two numbers of
//! connections, divided by the difference of the numbers: a fixed part, such as code that is loaded
//! and tables that are allocated for the first connections, cancels out.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde::Serialize;

use crate::capacity;
use crate::plan::{ComparisonPlan, ModelSpec, Role, TIMEOUT};
pub use crate::process_tree::Footprint;
use crate::progress::{Activity, Monitor};
use crate::server_process::{ServerError, ServerProcess, StartCommand};
use proactor::address::Address;
use proactor_load::{Example, LoadShape};

/// Estimates: the time to start a server, and to open a connection that exchanges a message.
const PER_SERVER: Duration = Duration::from_millis(80);
const PER_CONNECTION: Duration = Duration::from_micros(150);

/// The message of each connection to an echo server.
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
    /// The cost of one connection, including that of the server's children; absent if there is a
    /// reason.
    pub cost: Option<Footprint>,
}

/// Estimates the time that this takes.
pub(crate) fn cost(plan: &ComparisonPlan) -> Duration {
    let rows = plan.participants().len() - 1;
    (PER_SERVER + PER_CONNECTION * plan.idle as u32) * if plan.idle > 0 { rows as u32 } else { 0 }
}

/// Measures the cost of an idle connection for each model of a plan, until `monitor` is
/// interrupted.
pub(crate) fn measure(
    plan: &ComparisonPlan,
    command: StartCommand<'_>,
    monitor: &mut Monitor<'_>,
) -> IdleCosts {
    let (from_connections, connections) = counts(plan.idle);
    let echo = || (MESSAGE.into(), MESSAGE.into());
    let example = plan.protocol.example.clone().unwrap_or_else(echo);
    let load = LoadShape { connections, size: example.0.len(), depth: 1 }.into();
    let mut rows = Vec::new();
    for spec in plan.participants().iter().filter(|spec| spec.role != Role::Control) {
        if !monitor.report(load, spec, Activity::MeasuringIdle(connections)) {
            break;
        }
        let cost = model_cost(&spec.model, command, (from_connections, connections), &example);
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
    connections: (usize, usize),
    example: &Example,
) -> Result<Footprint, ServerError> {
    if let Some(reason) = capacity::shortage(&model.model, connections.1, 0) {
        return Err(ServerError(reason));
    }
    let server = ServerProcess::start(command(model)?)?;
    let cost = growth(&server, connections, example);
    match &cost {
        Err(error) => return Err(server.failed(error)),
        // Its counters are not needed, and its end is tested where it is measured.
        Ok(_) => drop(server.stop()),
    }
    cost
}

/// Returns by how much the server grows per connection between the two numbers of connections.
fn growth(
    server: &ServerProcess,
    (from, to): (usize, usize),
    example: &Example,
) -> Result<Footprint, ServerError> {
    let mut open = Vec::with_capacity(to);
    let mut footprint_with = |connections: usize| {
        for number in open.len()..connections {
            let connection = open_connection(&server.address, example);
            open.push(connection.map_err(|error| {
                ServerError(format!("idle connection {number} is not served: {error}"))
            })?);
        }
        let footprint = server.process_tree().and_then(|tree| tree.footprint());
        footprint.map_err(ServerError::cannot("read its memory in /proc"))
    };
    let before = footprint_with(from)?;
    Ok(before.growth(footprint_with(to)?, to - from))
}

/// Opens a connection that has exchanged one message.
fn open_connection(address: &Address, (request, expected): &Example) -> io::Result<TcpStream> {
    let mut stream = proactor_load::connect(address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request)?;
    let mut reply = vec![0; expected.len()];
    stream.read_exact(&mut reply).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no reply arrived"),
        _ => error,
    })?;
    let is_right = *reply == **expected;
    is_right.then_some(stream).ok_or_else(|| io::Error::other("the reply was wrong"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_divided_by_the_number_of_connections() {
        let total = Footprint {
            memory: 4_096_000.0,
            page_tables: 8_192_000.0,
            kernel_memory: 9_216_000.0,
            descriptors: 1000.0,
            threads: 2000.0,
            processes: 0.0,
        };
        let cost = Footprint::default().growth(total, 1000);
        assert_eq!((cost.memory, cost.page_tables), (4096.0, 8192.0));
        assert_eq!(cost.kernel_memory, 9216.0);
        assert_eq!((cost.descriptors, cost.threads, cost.processes), (1.0, 2.0, 0.0));
    }

    #[test]
    fn the_first_measurement_has_half_of_the_connections() {
        assert_eq!([1, 2, 3, 100].map(counts), [(1, 2), (1, 2), (1, 3), (50, 100)]);
    }
}
