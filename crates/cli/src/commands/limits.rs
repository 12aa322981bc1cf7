//! `proactor serve --limits`: every limit of a server, with its value and its reason.
//!
//! To add a limit, add a [`LimitRow`] to [`rows`].

use std::time::Duration;

use minijinja::{Value, context};
use serde::Serialize;
use serde_json::json;

use super::{output, terminal_width};
use proactor::Rate;
use proactor::buffer::SEND_MAX;
use proactor::limits::{Limits, Timeouts, UNSENT_MAX};
use proactor::memory_plan::MemoryPlan;
use proactor::model::{EngineOptions, PreparedModel};
use proactor::peers::{HEAVY_BYTES, HEAVY_BYTES_WITH_LIGHT};
use proactor::proxy::HEADER_TIMEOUT;
use proactor::reactor::ACCEPTS;
use proactor_report::template;

/// One limit.
#[derive(Debug, Serialize)]
struct LimitRow {
    /// What it limits.
    section: &'static str,
    /// The name: an option, or what it is.
    name: &'static str,
    /// Its value; `None` if there is no limit.
    value: Option<u64>,
    unit: Counted,
    /// Why it has this value, or what happens there.
    why: String,
}

/// What a value counts.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Counted {
    Bytes,
    Nanoseconds,
    /// Things: connections, iterations.
    Count,
    /// Connections in a minute.
    PerMinute,
}

/// Prints the limits of a server, which gives up further rings, and files.
pub(super) fn print(
    prepared: &PreparedModel,
    options: &EngineOptions,
    gives_up: [bool; 2],
    as_json: bool,
) -> anyhow::Result<()> {
    let model = prepared.model;
    let mut rows = rows(&options.limits, &options.memory_plan(model));
    rows.extend(iteration(options));
    rows.extend(lock_down(prepared.restricted, gives_up));
    let limits = json!({ "schema": "proactor.limits/1", "model": model.name(), "limits": rows });
    if as_json {
        return output::print_json(&limits);
    }
    let values = context! { width => terminal_width(), ..Value::from_serialize(limits) };
    Ok(output::print(&template::fill(include_str!("limits.txt"), values))?)
}

/// Returns the limits, by section.
fn rows(limits: &Limits, plan: &MemoryPlan) -> Vec<LimitRow> {
    let mut rows = vec![
        count(
            "connections",
            "--max-connections",
            limits.connections,
            "others wait for one to close",
        ),
        time("shutdown", "--drain-timeout", Some(limits.drain), "the connections left are closed"),
    ];
    rows.extend(admission(limits));
    rows.extend(time_limits(limits));
    rows.extend(user_memory(plan));
    rows.extend(socket_memory(limits.connections));
    rows
}

/// What one iteration of a loop does at most. Threads and processes share no loop.
fn iteration(options: &EngineOptions) -> [LimitRow; 6] {
    let name = "received by a heavy connection";
    let largest = options.buffers.last().map_or(0, |buffers| buffers.bytes);
    [
        count("an iteration", "accepts of a listener", ACCEPTS, "8 on io_uring"),
        bytes("an iteration", name, largest, "the largest buffer, 128 times --buffer-size"),
        bytes("an iteration", "sent to a connection", SEND_MAX, "the rest in the next iterations"),
        bytes(
            "an iteration",
            "moved by all heavy ones",
            HEAVY_BYTES,
            "the rest come first in the next",
        ),
        bytes(
            "an iteration",
            "the same with light ones",
            HEAVY_BYTES_WITH_LIGHT,
            "if one of the last 64 resumed any",
        ),
        count("an iteration", "wait of a ready light one", 1, "iterations until it is resumed"),
    ]
}

/// What the server gives up before it serves.
fn lock_down(operations: Option<usize>, gives_up: [bool; 2]) -> [LimitRow; 3] {
    let row = |name, value: Option<usize>, why| {
        row("lock-down", name, value.map(|value| value as u64), Counted::Count, why)
    };
    let [rings, files] = gives_up.map(|gives_up| gives_up.then_some(0));
    let by = "--lock-down: by restrictions of the task (Linux 7.0) or a seccomp filter";
    [
        row("operations of the ring", operations, "others are refused (Linux 5.10); only uring"),
        row("further rings", rings, by),
        row("files and connects", files, "--lock-down=auto: by Landlock; what is open stays"),
    ]
}

fn admission(limits: &Limits) -> [LimitRow; 5] {
    let of = "connections";
    let rate = |name, rate: Option<Rate>, why| {
        row(of, name, rate.map(Rate::per_minute), Counted::PerMinute, why)
    };
    let of_address = limits.connections_per_address.map(|most| most as u64);
    let header = limits.proxy_protocol.is_some().then_some(HEADER_TIMEOUT);
    let silent = "at --max-connections: closed, oldest first";
    [
        time(of, "--silent-timeout", limits.silent_timeout, silent),
        row(of, "--max-connections-per-address", of_address, Counted::Count, "others are closed"),
        rate("--accept-rate", limits.accept_rate, "others wait"),
        rate("--accept-rate-per-address", limits.accept_rate_per_address, "others are closed"),
        time(of, "PROXY header", header, "--proxy-protocol: a connection without one is closed"),
    ]
}

/// The time limits of each connection.
fn time_limits(limits: &Limits) -> [LimitRow; 6] {
    let row = |name, value, why| time("time", name, value, why);
    let Timeouts { send, evict, idle, first_byte, receive, .. } = limits.timeouts;
    [
        row("--send-timeout", send, "owed bytes, of which the peer acknowledged none: closed"),
        row("--evict-timeout", evict, "the same, while others wait for the connection"),
        row("--idle-timeout", idle, "nothing received and nothing sent: ends in order"),
        row(
            "--first-byte-timeout",
            first_byte,
            "the client sent nothing since the accept: the same",
        ),
        row("--receive-timeout", receive, "a message of the client is incomplete: the same"),
        row("--keepalive", limits.keepalive, "the kernel asks; closed after twice this time"),
    ]
}

fn user_memory(plan: &MemoryPlan) -> [LimitRow; 5] {
    let row = |name, value, why| bytes("user memory", name, value, why);
    let MemoryPlan { fixed, pool, connection, connections, queues } = *plan;
    let each = format!("{connection} B each: its state, and its thread or process if it has one");
    [
        row("program", fixed, "code, tables and rings, without a connection"),
        row("buffers", pool, "--buffers and --buffer-size; mapped when they are first used"),
        row("connections", connection * connections, &each),
        row("queues", queues, "what peers are owed, and input that protocols have not taken"),
        row("in all", plan.total(), "--max-memory"),
    ]
}

/// The kernel's memory for the sockets, as the settings of this machine bound it.
fn socket_memory(connections: usize) -> [LimitRow; 4] {
    let row = |name, value, why| bytes("socket memory", name, value, why);
    let setting = |name: &str| -> Option<usize> {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.split_whitespace().nth(2)?.parse().ok()
    };
    const PAGE: usize = 4096;
    // The defaults of Linux, where /proc does not say.
    let all = setting("tcp_mem").unwrap_or(usize::MAX >> 12).saturating_mul(PAGE);
    let each = setting("tcp_rmem").unwrap_or(6 << 20) + setting("tcp_wmem").unwrap_or(4 << 20);
    let sum = all.min(each.saturating_mul(connections));
    [
        row("TCP", all, "net.ipv4.tcp_mem: all sockets of the machine, outside of this server too"),
        row("not sent", UNSENT_MAX as usize, "of each connection: TCP_NOTSENT_LOWAT"),
        row("each socket", each, "net.ipv4.tcp_rmem and tcp_wmem, which grow as far as it is used"),
        row("in all", sum, "the lesser of both, with all connections; not part of --max-memory"),
    ]
}

// The kinds of rows.

fn count(section: &'static str, name: &'static str, value: usize, why: &str) -> LimitRow {
    row(section, name, Some(value as u64), Counted::Count, why)
}

fn bytes(section: &'static str, name: &'static str, value: usize, why: &str) -> LimitRow {
    row(section, name, Some(value as u64), Counted::Bytes, why)
}

/// A time; `None` if there is no limit.
fn time(section: &'static str, name: &'static str, value: Option<Duration>, why: &str) -> LimitRow {
    row(section, name, value.map(|value| value.as_nanos() as u64), Counted::Nanoseconds, why)
}

fn row(
    section: &'static str,
    name: &'static str,
    value: Option<u64>,
    unit: Counted,
    why: &str,
) -> LimitRow {
    LimitRow { section, name, value, unit, why: why.to_owned() }
}
