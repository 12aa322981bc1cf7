//! The trial of io_uring: as a server makes it, with as many descriptors, and under a filter, which
//! may kill what tries, in a child process first.

use std::os::unix::process::ExitStatusExt;

use serde_json::{Value, json};

use super::super::serve::spare_descriptors;
use proactor::Model;
use proactor::model::{self, EngineOptions};
use proactor::os::process::{self, Alone};
use proactor::refusal::{Cause, Evidence, Refusal};
use proactor::ring::kernel::{Kernel, SINCE};

/// What each environment does about a cause: `CAUSE|TEXT` in each line.
const REMEDIES: &str = include_str!("remedies.txt");

/// Returns what the trial has found, as in JSON.
pub(super) fn run() -> Value {
    try_under_a_filter(|| drop(try_all()));
    try_all()
}

/// Remembers the refusal if a trial of a ring is killed.
pub(in super::super) fn outlive() {
    try_under_a_filter(|| drop(Kernel::detect()));
}

/// Makes a trial in a child process if a filter is installed: nothing else kills what tries. If it
/// is killed, that is remembered as the refusal of every later trial.
fn try_under_a_filter(trial: impl FnOnce()) {
    if Evidence::read().has_filter()
        && let Some(signal) = signal_that_ends(trial)
    {
        Refusal::killed(signal).remember();
    }
}

/// Returns the signal that kills a child process in which this is called; `None` if none does, or
/// there can be no child.
fn signal_that_ends(trial: impl FnOnce()) -> Option<i32> {
    let alone = Alone::check().ok()?;
    let child = process::fork(&alone, &[], |_| {
        trial();
        0
    });
    process::wait(child.ok()?).ok()?.signal()
}

/// Looks for the features, and sets up the ring of a server of the default size.
fn try_all() -> Value {
    let ring = Some(Model::URING);
    let found = Kernel::detect().and_then(|kernel| {
        let spare = spare_descriptors(1).map_err(|error| Refusal::of_set_up(&error))?;
        let prepared = model::set_up(ring, &EngineOptions::default());
        drop(spare);
        let prepared = prepared.map_err(|error| Refusal::of_set_up(&error))?;
        Ok((kernel, prepared.detail))
    });
    found.map_or_else(|refusal| refused(&refusal), |(kernel, detail)| usable(kernel, &detail))
}

fn usable(kernel: Kernel, detail: &str) -> Value {
    let all = SINCE.iter().flat_map(|(since, brought)| brought.iter().map(move |it| (since, *it)));
    let capabilities = all.map(|(since, capability)| {
        let has = kernel.has(capability);
        let unused = kernel.unused(capability).filter(|_| has);
        json!({
            "name": capability.name(),
            "since_linux": since.to_string(),
            "present": has,
            "used": has && unused.is_none(),
            "unused_because": unused,
        })
    });
    let tier = kernel.tier().to_string();
    json!({
        "usable": true,
        "verdict": format!("io_uring: used, tier {tier}: {detail}"),
        "tier": tier,
        "detail": detail,
        "capabilities": capabilities.collect::<Vec<_>>(),
        "refusal": null,
    })
}

fn refused(refusal: &Refusal) -> Value {
    let of = |cause: Cause| {
        let lines = REMEDIES.lines().filter_map(|line| line.split_once('|'));
        lines.filter(move |(of, _)| *of == cause.name()).map(|(_, text)| text)
    };
    let [why, fix] = refusal.words();
    let remedies: Vec<&str> = refusal.causes().into_iter().flat_map(of).collect();
    json!({
        "usable": false,
        "verdict": refusal.to_string(),
        "tier": null,
        "detail": null,
        "capabilities": [],
        "refusal": {
            "call": refusal.call,
            "error": refusal.error,
            "cause": refusal.cause.name(),
            "why": why,
            "evidence": refusal.evidence.to_string(),
            "fix": fix,
            "remedies": remedies,
        },
    })
}
