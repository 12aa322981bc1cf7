//! What stands out in what was counted, each with its evidence and a way out.

use super::rings::{Operation, Ring};
use crate::kernel::operation;
use proactor_report::units;

/// Below so many of a thing nothing is said of it.
const ENOUGH: u64 = 100;

/// A sentence for each finding, none if nothing stands out.
pub(super) fn findings(ring: &Ring) -> Vec<String> {
    let mut found = Vec::new();
    let (_, completions) = ring.totals();
    if ring.overflows > 0 {
        found.push(format!(
            "the completion queue overflowed: {} of {} had to wait outside it. Make it \
             longer (IORING_SETUP_CQSIZE), or reap all of it before submitting more.",
            units::count(ring.overflows),
            units::plural(completions, "completion"),
        ));
    }
    for (opcode, op) in &ring.ops {
        let name = opcode.map_or("unknown".to_owned(), operation);
        found.extend(of_operation(&name, op));
    }
    // A ring that defers its work wakes up for each of its waits.
    if ring.waits >= ENOUGH && completions < 3 * ring.waits / 2 {
        found.push(format!(
            "one completion at a time: {} sleeps for {} completions. Waiting for more than one \
             (min_complete with a timeout) or more connections per ring would share the cost of an \
             enter.",
            units::count(ring.waits),
            units::count(completions),
        ));
    }
    found
}

fn of_operation(name: &str, op: &Operation) -> Vec<String> {
    let mut found = Vec::new();
    let count = |errno: i32| op.errors.get(&errno).copied().unwrap_or(0);
    if op.punts >= ENOUGH && op.punts * 20 > op.submitted {
        found.push(format!(
            "{} of {} {name} were handed to a thread of the kernel (io-wq), which costs a switch of \
             threads each: files that cannot be polled, or IOSQE_ASYNC.",
            units::count(op.punts),
            units::count(op.submitted),
        ));
    }
    if count(libc::ENOBUFS) > 0 {
        found.push(format!(
            "{name} found no buffer {} (ENOBUFS): provide more of them, or give them back \
             sooner.",
            units::times(count(libc::ENOBUFS)),
        ));
    }
    let (ended, shots) = op.ended;
    if ended >= ENOUGH && shots < 4 * ended {
        found.push(format!(
            "multishot {name} ends after {:.1} completions on average, {} times: what ends it (an \
             error, no buffer, an overflow, a cancel) costs a submission each.",
            shots as f64 / ended as f64,
            units::count(ended),
        ));
    }
    if op.refused > 0 {
        found.push(format!(
            "{} {name} {} before beginning: this kernel does not know it, or not in that form.",
            units::count(op.refused),
            units::agree(op.refused, "was refused", "were refused"),
        ));
    }
    let receives = ["recv", "recvmsg", "read"].contains(&name);
    if receives && op.submitted >= ENOUGH && op.polls * 10 > op.submitted * 9 && ended == 0 {
        found.push(format!(
            "each of {} {name} is submitted anew and then waits by polling: a multishot recv with a \
             ring of buffers (6.0) is submitted once.",
            units::count(op.submitted),
        ));
    }
    found
}
