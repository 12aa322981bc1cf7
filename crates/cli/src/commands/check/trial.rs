//! The trial of io_uring, in a child process: a filter may kill what tries.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;

use serde_json::{Value, json};

use super::super::serve::spare_descriptors;
use proactor::Model;
use proactor::model::{self, EngineOptions};
use proactor::os::process::{self, Alone};
use proactor::refusal::{Evidence, Refusal};
use proactor::ring::kernel::{Kernel, SINCE};

/// What each environment does about a cause: `CAUSE|TEXT` in each line.
const REMEDIES: &str = include_str!("remedies.txt");

/// Returns what the trial has found, as in JSON.
pub(super) fn run() -> Value {
    let tried = in_child(try_all).unwrap_or_else(|| Ok(try_all().into_bytes()));
    let found = tried.map(|text| serde_json::from_slice(&text).unwrap_or_default());
    found.unwrap_or_else(|killed| refused(&killed))
}

/// Remembers the refusal if a trial of a ring is killed. It is made in a child process, and only
/// under a filter: nothing else kills it.
pub(in super::super) fn outlive() {
    let is_filtered = Evidence::read().seccomp == Some(2);
    let tried = is_filtered.then(|| in_child(|| Kernel::detect().map(|_| ()).is_ok().to_string()));
    if let Some(Some(Err(killed))) = tried {
        killed.remember();
    }
}

/// Makes a trial in a child process, and returns what it says; an error if it is killed. `None` if
/// there can be no child.
fn in_child(tries: impl FnOnce() -> String) -> Option<Result<Vec<u8>, Refusal>> {
    let alone = Alone::check().ok()?;
    let (mut said, mut says) = io::pipe().ok()?;
    let child = process::fork(&alone, &[says.as_raw_fd()], |_| {
        u8::from(says.write_all(tries().as_bytes()).is_err())
    });
    let child = child.ok()?;
    drop(says);
    let mut text = Vec::new();
    let _ = said.read_to_end(&mut text);
    let signal = process::wait(child).ok().and_then(|status| status.signal());
    Some(signal.map_or(Ok(text), |signal| Err(Refusal::killed(signal))))
}

/// Looks for the features, and sets up the ring of a server of the default size.
fn try_all() -> String {
    let ring = Some(Model::URING);
    let found = Kernel::detect().and_then(|kernel| {
        let spare = spare_descriptors(1).map_err(|error| Refusal::of_set_up(&error))?;
        let prepared = model::set_up(ring, &EngineOptions::default());
        drop(spare);
        let prepared = prepared.map_err(|error| Refusal::of_set_up(&error))?;
        Ok((kernel, prepared.detail))
    });
    let found =
        found.map_or_else(|refusal| refused(&refusal), |(kernel, detail)| usable(kernel, &detail));
    found.to_string()
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
    let cause = refusal.cause.name();
    let lines = REMEDIES.lines().filter_map(|line| line.split_once('|'));
    let remedies: Vec<&str> = lines.filter(|(of, _)| *of == cause).map(|(_, text)| text).collect();
    json!({
        "usable": false,
        "verdict": refusal.to_string(),
        "tier": null,
        "detail": null,
        "capabilities": [],
        "refusal": {
            "call": refusal.call,
            "error": refusal.error,
            "cause": cause,
            "why": refusal.why(),
            "evidence": refusal.evidence.to_string(),
            "fix": refusal.fix(),
            "remedies": remedies,
        },
    })
}
