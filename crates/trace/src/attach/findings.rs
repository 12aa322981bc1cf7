//! Findings of `trace attach`: what stands out in the counts, the evidence, and a remedy.

use super::rings::{OpCounts, RingState};
use crate::kernel::operation;
use proactor_report::units;

/// The number of events below which ratios are not judged.
const ENOUGH: u64 = 100;

/// Returns a sentence for each finding.
pub(super) fn findings(ring: &RingState) -> Vec<String> {
    let mut found = Vec::new();
    let (_, completions) = ring.totals();
    if ring.overflows > 0 {
        found.push(format!(
            "the completion queue overflowed: {} of {} had no space in it. Make the queue \
             longer (IORING_SETUP_CQSIZE), or reap all completions before submitting more.",
            units::count(ring.overflows),
            units::plural(completions, "completion"),
        ));
    }
    for (opcode, op) in &ring.ops {
        let name = opcode.map_or("unknown".to_owned(), operation);
        found.extend(operation_findings(&name, op));
    }
    if ring.sleeps >= ENOUGH && completions < 3 * ring.sleeps / 2 {
        found.push(format!(
            "one completion at a time: {} sleeps for {} completions. Waiting for more than one \
             (min_complete with a timeout) or more connections per ring would share the cost of an \
             enter.",
            units::count(ring.sleeps),
            units::count(completions),
        ));
    }
    found
}

fn operation_findings(name: &str, op: &OpCounts) -> Vec<String> {
    let mut found = Vec::new();
    let no_buffer = op.errors.get("ENOBUFS").copied().unwrap_or(0);
    if op.punts >= ENOUGH && op.punts * 20 > op.submitted {
        found.push(format!(
            "{} of {} {name} were handed to a worker thread (io-wq), each at the cost of a thread \
             switch: the file cannot be polled, or IOSQE_ASYNC is set.",
            units::count(op.punts),
            units::count(op.submitted),
        ));
    }
    if no_buffer > 0 {
        found.push(format!(
            "{name} found no buffer {} (ENOBUFS): provide more buffers, or return them \
             sooner.",
            units::times(no_buffer),
        ));
    }
    let (ended, shots) = (op.multishot_ended, op.multishot_completions);
    if ended >= ENOUGH && shots < 4 * ended {
        found.push(format!(
            "multishot {name} ends after {:.1} completions on average, {} times: each end (an error, \
             no buffer, an overflow, a cancel) costs a new submission.",
            shots as f64 / ended as f64,
            units::count(ended),
        ));
    }
    if op.rejected > 0 {
        found.push(format!(
            "{} {name} {} before the start: this kernel does not support it, or not with these \
             flags.",
            units::count(op.rejected),
            units::agree(op.rejected, "was rejected", "were rejected"),
        ));
    }
    let receives = ["recv", "recvmsg", "read"].contains(&name);
    if receives && op.submitted >= ENOUGH && op.polls * 10 > op.submitted * 9 && ended == 0 {
        found.push(format!(
            "each of {} {name} is submitted again and then waits by polling: a multishot recv with \
             a ring of buffers (6.0) is submitted once.",
            units::count(op.submitted),
        ));
    }
    found
}
