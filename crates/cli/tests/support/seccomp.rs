//! Filters of system calls (seccomp(2)), as containers and service managers install them.

use std::collections::HashMap;

use seccompiler::{BpfProgram, TargetArch};
use serde_json::{Value, json};

/// A filter for a program that will be started. It needs no privilege.
#[derive(Debug, Clone)]
pub(crate) struct Filter(BpfProgram);

impl Filter {
    /// A filter that permits every call but these, which fail with this error.
    pub(crate) fn denying(calls: &[&str], errno: i32) -> Filter {
        Filter::compile("allow".into(), json!({ "errno": errno }), calls)
    }

    /// A filter that permits every call but these, which kill the process.
    pub(crate) fn killing(calls: &[&str]) -> Filter {
        Filter::compile("allow".into(), "kill_process".into(), calls)
    }

    /// A filter that permits these calls alone. Others fail with `otherwise`, or kill the process.
    pub(crate) fn permitting(calls: &[&str], otherwise: Option<i32>) -> Filter {
        let otherwise = otherwise.map_or("kill_process".into(), |errno| json!({ "errno": errno }));
        Filter::compile(otherwise, "allow".into(), calls)
    }

    fn compile(others: Value, named: Value, calls: &[&str]) -> Filter {
        let rules: Vec<Value> = calls.iter().map(|call| json!({ "syscall": call })).collect();
        let rules = json!({ "mismatch_action": others, "match_action": named, "filter": rules });
        let text = json!({ "all": rules }).to_string();
        let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a known processor");
        let compiled = seccompiler::compile_from_json(text.as_bytes(), arch);
        let mut compiled: HashMap<String, BpfProgram> = compiled.expect("calls that exist");
        Filter(compiled.remove("all").expect("it was compiled"))
    }

    /// Installs the filter in this process, for good. Async-signal-safe. Returns -1 if it fails.
    pub(super) fn install(&self) -> i32 {
        match seccompiler::apply_filter(&self.0) {
            Ok(()) => 0,
            Err(_) => -1,
        }
    }
}
