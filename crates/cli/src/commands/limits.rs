//! `proactor serve --limits`: every limit of a server, with its value and its reason.
//!
//! To add a limit, add a row to `limit_rows.txt`, and its value to [`values`]. A row says what it
//! limits, its name (an option, or what it is), what it counts, its value, and why it has this
//! value or what happens there.

use std::time::Duration;

use minijinja::{Value, context};
use serde::Serialize;
use serde_json::json;

use super::{output, terminal_width};
use proactor::Rate;
use proactor::buffer::SEND_MAX;
use proactor::limits::{Timeouts, UNSENT_MAX};
use proactor::memory_plan::MemoryPlan;
use proactor::model::{EngineOptions, PreparedModel};
use proactor::peers::{HEAVY_BYTES, HEAVY_BYTES_WITH_LIGHT};
use proactor::proxy::HEADER_TIMEOUT;
use proactor::reactor::ACCEPTS;
use proactor_report::template;

/// A row of `limit_rows.txt`.
#[derive(Debug, Serialize)]
struct LimitRow<'t> {
    section: &'t str,
    name: &'t str,
    unit: &'t str,
    /// `None` if there is no limit.
    value: Option<u64>,
    why: &'t str,
}

/// Prints the limits of a server, which gives up further rings, and files.
pub(super) fn print(
    prepared: &PreparedModel,
    options: &EngineOptions,
    gives_up: [bool; 2],
    as_json: bool,
) -> anyhow::Result<()> {
    let values = values(prepared, options, gives_up);
    let text = template::fill(include_str!("limit_rows.txt"), values);
    let rows: Vec<LimitRow<'_>> = text.lines().map(row).collect();
    let model = prepared.model.name();
    let limits = json!({ "schema": "proactor.limits/1", "model": model, "limits": rows });
    if as_json {
        return output::print_json(&limits);
    }
    let values = context! { width => terminal_width(), ..Value::from_serialize(limits) };
    Ok(output::print(&template::fill(include_str!("limits.txt"), values))?)
}

fn row(line: &str) -> LimitRow<'_> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let [section, name, unit, value, why] = cells[..] else { panic!("not a row: {line}") };
    LimitRow { section, name, unit, value: value.parse().ok(), why }
}

/// Returns the values of the rows; that of a row without a limit is none.
fn values(prepared: &PreparedModel, options: &EngineOptions, gives_up: [bool; 2]) -> Value {
    let limits = &options.limits;
    let Timeouts { send, evict, idle, first_byte, receive, .. } = limits.timeouts;
    let plan = options.memory_plan(prepared.model);
    let MemoryPlan { fixed, pool, connection, connections, queues } = plan;
    let nanos = |time: Option<Duration>| time.map(|time| time.as_nanos() as u64);
    let [rings, files] = gives_up.map(|gives_up| gives_up.then_some(0));
    context! {
        most => limits.connections,
        drain => nanos(Some(limits.drain)),
        silent => nanos(limits.silent_timeout),
        most_of_address => limits.connections_per_address,
        accept_rate => limits.accept_rate.map(Rate::per_minute),
        rate_of_address => limits.accept_rate_per_address.map(Rate::per_minute),
        proxy_header => nanos(limits.proxy_protocol.is_some().then_some(HEADER_TIMEOUT)),
        send => nanos(send),
        evict => nanos(evict),
        idle => nanos(idle),
        first_byte => nanos(first_byte),
        receive => nanos(receive),
        keepalive => nanos(limits.keepalive),
        fixed, pool, connections, queues,
        each => connection,
        total => plan.total(),
        // What one iteration of a loop does at most. Threads and processes share no loop.
        accepts => ACCEPTS,
        largest_buffer => options.buffers.last().map_or(0, |buffers| buffers.bytes),
        send_max => SEND_MAX,
        heavy => HEAVY_BYTES,
        heavy_with_light => HEAVY_BYTES_WITH_LIGHT,
        metrics_clients => proactor_metrics::CLIENTS_MAX,
        metrics_head => proactor_metrics::HEAD_MAX,
        operations => prepared.restricted,
        rings, files,
        ..socket_memory(limits.connections)
    }
}

/// The kernel's memory for the sockets, as the settings of this machine bound it.
fn socket_memory(connections: usize) -> Value {
    let setting = |name: &str| -> Option<usize> {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.split_whitespace().nth(2)?.parse().ok()
    };
    const PAGE: usize = 4096;
    // The defaults of Linux, where /proc does not say.
    let tcp = setting("tcp_mem").unwrap_or(usize::MAX >> 12).saturating_mul(PAGE);
    let each_socket =
        setting("tcp_rmem").unwrap_or(6 << 20) + setting("tcp_wmem").unwrap_or(4 << 20);
    let all_sockets = tcp.min(each_socket.saturating_mul(connections));
    context! { tcp, each_socket, all_sockets, unsent => UNSENT_MAX }
}
