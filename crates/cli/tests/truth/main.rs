//! Compares traces with the kernel's own tracepoints: every submission and every completion of one
//! must be in the other, in the same order, with the same bits.
//!
//! This needs root and tracefs. Without them, the counts in `fdinfo`, which every user may read,
//! must still match.

mod bundles;
mod oracle;
#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
#[path = "../support/mod.rs"]
mod support;
mod workload;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use proactor::buffer::BufferClass;
use proactor::ring::Kind;
use proactor::ring::kernel::{Capability, Kernel};
use proactor_trace::kernel::Tracepoint;

use oracle::{Evidence, Mutation};
use support::{Random, has_tracepoints, io_uring_refused, skip};
use workload::TruthLoad;

/// What is asked of the kernel.
const POINTS: [Tracepoint; 5] = [
    Tracepoint::Create,
    Tracepoint::SubmitReq,
    Tracepoint::ReqFailed,
    Tracepoint::Complete,
    Tracepoint::CqeOverflow,
];

/// As many completions at least prove something.
const ENOUGH: usize = 64_000;

/// One workload at a time: each uses the whole machine.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this kernel can do; none, and a skip, if it has no ring for us.
fn kernel() -> Option<Kernel> {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    if let Some(why) = io_uring_refused() {
        skip(&why);
        return None;
    }
    // In a thread of its own: the end of a ring interrupts system calls of the thread that had it.
    let detect = || std::thread::spawn(Kernel::detect).join().unwrap().unwrap();
    Some(*KERNEL.get_or_init(detect))
}

/// A workload with plenty of everything.
fn plenty(kernel: Kernel) -> TruthLoad {
    let buffers =
        vec![BufferClass { bytes: 2048, count: 1024 }, BufferClass { bytes: 32 << 10, count: 128 }];
    TruthLoad {
        kernel,
        buffers,
        completions: None,
        rounds: ENOUGH / 64 + 50,
        short_connections: 150,
    }
}

/// Plays it beside the kernel's tracepoints, and holds the two against each other.
fn proven(workload: &TruthLoad, least: usize) -> Evidence {
    let _alone = alone();
    let evidence = workload.play(&POINTS);
    evidence.verdict().unwrap_or_else(|why| panic!("{why}\n{workload:?}"));
    let count = evidence.reaped().count();
    assert!(count >= least, "too few completions: {count}");
    evidence
}

/// How many of the reaped completions are of this kind and result.
fn count(evidence: &Evidence, kind: Kind, errno: i32) -> usize {
    let these = evidence.reaped().filter(|cqe| cqe.token.kind() == Some(kind));
    these.filter(|cqe| cqe.res == -errno).count()
}

/// I8: every mutation of a trace is noticed.
fn all_mutations_are_seen(evidence: &Evidence, mutations: usize) {
    let mut random = Random::of_test();
    for n in 0..mutations {
        let mutation = Mutation::some(&evidence.records, |n| random.next() as usize % n);
        let mut mutant = evidence.clone();
        mutation.apply(&mut mutant.records);
        assert!(mutant.verdict().is_err(), "mutation {n} was not seen: {mutation:?}");
    }
}

#[test]
fn with_deferred_work_the_trace_is_what_the_kernel_says() {
    let Some(kernel) = kernel().filter(|kernel| kernel.has(Capability::DeferTaskrun)) else {
        return skip("this kernel has no DEFER_TASKRUN");
    };
    if has_tracepoints() {
        let evidence = proven(&plenty(kernel), ENOUGH);
        assert!(count(&evidence, Kind::Recv, libc::ECANCELED) > 0, "no receive was cancelled");
        assert!(count(&evidence, Kind::Recv, libc::ECONNRESET) > 0, "no client left with a reset");
        let ended = evidence.reaped().filter(|cqe| cqe.token.kind() == Some(Kind::Recv));
        assert!(ended.filter(|cqe| !cqe.more()).count() > 150, "multishot receives end");
    }
}

#[test]
fn with_cooperative_work_the_trace_is_what_the_kernel_says() {
    let Some(kernel) = kernel().filter(|kernel| kernel.has(Capability::CoopTaskrun)) else {
        return skip("this kernel has no COOP_TASKRUN");
    };
    if has_tracepoints() {
        proven(&plenty(kernel.without(Capability::DeferTaskrun)), ENOUGH);
    }
}

#[test]
fn without_a_flag_the_trace_is_what_the_kernel_says() {
    let Some(kernel) = kernel() else { return };
    if has_tracepoints() {
        let kernel = kernel.without(Capability::DeferTaskrun).without(Capability::CoopTaskrun);
        proven(&plenty(kernel), ENOUGH);
    }
}

#[test]
fn with_one_shot_operations_the_trace_is_what_the_kernel_says() {
    let Some(kernel) = kernel() else { return };
    if has_tracepoints() {
        for version in ["5.6", "5.18"] {
            let lowered = kernel.lowered_to(version.parse().unwrap()).unwrap();
            proven(&TruthLoad { rounds: 200, ..plenty(lowered) }, 12_000);
        }
    }
}

#[test]
fn when_the_queue_overflows_the_trace_is_what_the_kernel_says() {
    let Some(kernel) = kernel() else { return };
    if has_tracepoints() {
        let flagless = kernel.without(Capability::DeferTaskrun).without(Capability::CoopTaskrun);
        for kernel in [kernel, flagless] {
            let evidence = proven(&TruthLoad { completions: Some(16), ..plenty(kernel) }, ENOUGH);
            let outside = evidence.overflows();
            assert!(outside > 100, "completions waited outside the queue after {outside} enters");
        }
    }
}

#[test]
fn without_a_buffer_left_the_trace_is_what_the_kernel_says_and_every_mutation_is_seen() {
    let Some(kernel) = kernel() else { return };
    let tiny = TruthLoad {
        buffers: vec![BufferClass { bytes: 2048, count: 4 }],
        rounds: 60,
        short_connections: 40,
        ..plenty(kernel)
    };
    if !has_tracepoints() {
        return;
    }
    let evidence = proven(&tiny, 4000);
    if kernel.has(Capability::MultishotRecv) {
        // Now and then one is missing from plenty, too: where the window of what is lent runs out.
        let missing = count(&evidence, Kind::Recv, libc::ENOBUFS);
        assert!(missing > 1000, "a buffer was missing {missing} times only");
    }
    all_mutations_are_seen(&evidence, 1500);
}

#[test]
fn of_bundles_the_trace_is_what_the_kernel_says_and_every_byte_is_in_its_buffer() {
    if kernel().is_none() {
        return;
    }
    if !bundles::are_known() {
        return skip("this kernel has no bundles (6.10)");
    }
    if !has_tracepoints() {
        return;
    }
    let _alone = alone();
    for completions in [4096, bundles::CROWD as u32] {
        let bundled = bundles::play(&POINTS, completions);
        let evidence = bundled.evidence;
        evidence.verdict().unwrap_or_else(|why| panic!("{completions} entries: {why}"));
        let (reaped, several, sent) = (evidence.reaped().count(), bundled.several, bundled.sent);
        assert!(reaped >= bundles::LEAST && several - sent > 1000, "{several} bundles of {reaped}");
        assert!(sent > 100, "{sent} bundles were sent");
        assert!(count(&evidence, Kind::Recv, libc::ENOBUFS) > 0, "no buffer was ever missing");
        assert_eq!(count(&evidence, Kind::Recv, libc::ECANCELED), bundles::CROWD, "a storm");
        assert_eq!(evidence.overflows() > 0, completions == bundles::CROWD as u32);
        all_mutations_are_seen(&evidence, 20);
    }
}

#[test]
fn fdinfo_counts_match_the_trace_in_every_tier() {
    let Some(kernel) = kernel() else { return };
    let _alone = alone();
    for ceiling in ["5.6", "5.18", "5.19", "6.0", "9.0"] {
        let lowered = kernel.lowered_to(ceiling.parse().unwrap()).unwrap();
        let workload = TruthLoad { rounds: 30, short_connections: 20, ..plenty(lowered) };
        let evidence = workload.play(&[]);
        evidence.verdict().unwrap_or_else(|why| panic!("up to {ceiling}: {why}"));
        assert!(evidence.reaped().count() > 1900);
    }
}
