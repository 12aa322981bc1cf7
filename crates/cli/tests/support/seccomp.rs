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

    /// A filter under which a pipe keeps its size.
    pub(crate) fn keeping_pipes_small() -> Filter {
        let size = json!({ "index": 1, "type": "dword", "op": "eq", "val": libc::F_SETPIPE_SZ });
        let rule = json!({ "syscall": "fcntl", "args": [size] });
        Filter::of_rules("allow".into(), json!({ "errno": libc::EPERM }), vec![rule])
            .expect("a call that exists")
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

    /// The filter that a container engine makes of an OCI profile: calls that this architecture
    /// lacks are passed over. With `kills`, what is not permitted kills the process, so that none
    /// is missed.
    pub(crate) fn of_profile(profile: &str, kills: bool) -> Filter {
        let profile: Value = serde_json::from_str(profile).expect("JSON");
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let errno = profile["defaultErrnoRet"].as_i64().expect("a number") as i32;
        let [rule] = &profile["syscalls"].as_array().expect("rules")[..] else {
            panic!("one rule")
        };
        assert_eq!(rule["action"], "SCMP_ACT_ALLOW");
        let names = rule["names"].as_array().expect("names").iter();
        let names = names.map(|name| name.as_str().expect("a name"));
        let known: Vec<&str> = names.filter(|name| Filter::is_known(name)).collect();
        assert!(known.len() > 60, "{known:?}");
        Filter::permitting(&known, (!kills).then_some(errno))
    }

    fn is_known(call: &str) -> bool {
        let allow = json!("allow");
        Filter::try_compile(json!({ "errno": 1 }), allow, &[call]).is_some()
    }

    fn compile(others: Value, named: Value, calls: &[&str]) -> Filter {
        Filter::try_compile(others, named, calls).expect("calls that exist")
    }

    fn try_compile(others: Value, named: Value, calls: &[&str]) -> Option<Filter> {
        let rules = calls.iter().map(|call| json!({ "syscall": call })).collect();
        Filter::of_rules(others, named, rules)
    }

    fn of_rules(others: Value, named: Value, rules: Vec<Value>) -> Option<Filter> {
        let rules = json!({ "mismatch_action": others, "match_action": named, "filter": rules });
        let text = json!({ "all": rules }).to_string();
        let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a known processor");
        let compiled = seccompiler::compile_from_json(text.as_bytes(), arch);
        let mut compiled: HashMap<String, BpfProgram> = compiled.ok()?;
        compiled.remove("all").map(Filter)
    }

    /// Installs the filter in this process, for good. Async-signal-safe. Returns -1 if it fails.
    pub(super) fn install(&self) -> i32 {
        match seccompiler::apply_filter(&self.0) {
            Ok(()) => 0,
            Err(_) => -1,
        }
    }
}
