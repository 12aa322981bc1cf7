//! The limits of this machine and this process that bound a server or a load.

use std::fs;
use std::path::Path;

use serde::Serialize;

use proactor::os::{self, cgroup};
use proactor::refusal::Evidence;
use proactor_compare::tasks_left;
use proactor_report::units;

/// A limit that was read, and what is wrong with it.
#[derive(Debug, Serialize)]
pub(super) struct Bound {
    name: &'static str,
    /// `None` if there is no limit.
    value: Option<f64>,
    /// The value as text.
    text: String,
    /// Which setting it is.
    source: String,
    problem: Option<String>,
    fix: Option<&'static str>,
}

/// The default of `--max-connections`, and what a server needs beside.
const DESCRIPTORS: u64 = 10_016;
/// The backlog of a listener.
const BACKLOG: f64 = 4096.0;

/// Returns all limits that can be read.
pub(super) fn rows() -> Vec<Bound> {
    let mut rows = of_process(&read("/proc/self/limits").unwrap_or_default());
    rows.extend(tasks());
    rows.extend(of_network());
    rows.extend(memory());
    rows.extend(cpus());
    rows.push(landlock());
    rows
}

fn of_process(limits: &str) -> Vec<Bound> {
    let limit = |name: &str, hard: bool| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(usize::from(hard)).map(str::to_owned)
    };
    let number = |text: &str| text.parse::<f64>().ok();
    let mut rows = Vec::new();
    if let Some((soft, hard)) = limit("Max open files", false).zip(limit("Max open files", true)) {
        let source = format!("`ulimit -Hn`; the soft limit of {soft} is raised to it");
        let row = bound("descriptors", number(&hard), count, source);
        let few = hard.parse::<u64>().is_ok_and(|hard| hard < DESCRIPTORS);
        rows.push(row.problem_if(
            few,
            "fewer than 10,000 connections",
            "`ulimit -Hn 10240`, \
            LimitNOFILE=10240 of the unit, `docker run --ulimit nofile=10240`",
        ));
    }
    if let Some(soft) = limit("Max locked memory", false) {
        let counts = Evidence::read().memlock;
        let source = match counts {
            Some(_) => "`ulimit -l`; the rings of this kernel count",
            None => "`ulimit -l`; rings do not count here",
        };
        let row = bound("locked memory", number(&soft), units::bytes, source.into());
        let few = counts.is_some_and(|bytes| bytes < 1 << 20);
        rows.push(row.problem_if(
            few,
            "less than the ring of a server needs",
            "`ulimit -l 8192`, \
            LimitMEMLOCK=8M of the unit, `docker run --ulimit memlock=8388608`",
        ));
    }
    if let Some(soft) = limit("Max pending signals", false) {
        let source = "`ulimit -i`, of all processes of the user; only for sigio".into();
        rows.push(bound("queued signals", number(&soft), count, source));
    }
    if let Some(soft) = limit("Max address space", false).and_then(|text| number(&text)) {
        let row = bound("address space", Some(soft), units::bytes, "`ulimit -v`".into());
        let few = soft < f64::from(512 << 20);
        rows.push(row.problem_if(few, "a server may not map its buffers", "`ulimit -v unlimited`"));
    }
    rows
}

fn tasks() -> Option<Bound> {
    let (left, source) = tasks_left()?;
    let row = bound("threads to make", Some(left as f64), count, source);
    Some(row.problem_if(
        left < 1000,
        "few connections for the models thread and process",
        "raise it: `ulimit -u`, TasksMax= of the unit, `docker run --pids-limit`, \
         `sysctl kernel.threads-max`",
    ))
}

fn of_network() -> Vec<Bound> {
    let sysctl = |name: &'static str, path: &str| {
        let text = read(&format!("/proc/sys/net/{path}"))?;
        Some((bound(name, text.parse().ok(), count, path.replace('/', ".")), text))
    };
    let mut rows = Vec::new();
    if let Some((row, _)) = sysctl("backlog", "core/somaxconn") {
        let few = row.value.is_some_and(|value| value < BACKLOG);
        rows.push(row.problem_if(
            few,
            "less than the 4096 of a listener",
            "`sysctl net.core.somaxconn=4096`",
        ));
    }
    if let Some((row, _)) = sysctl("half-open", "ipv4/tcp_max_syn_backlog") {
        let few = row.value.is_some_and(|value| value < 512.0);
        rows.push(row.problem_if(
            few,
            "a burst of connects may be dropped",
            "`sysctl net.ipv4.tcp_max_syn_backlog=4096`",
        ));
    }
    if let Some((row, text)) = sysctl("local ports", "ipv4/ip_local_port_range") {
        let ends: Vec<f64> = text.split_whitespace().filter_map(|end| end.parse().ok()).collect();
        let ports = ends.last().zip(ends.first()).map(|(last, first)| last - first + 1.0);
        let row = bound(row.name, ports, count, row.source + ", for each address of a client");
        let few = ports.is_some_and(|ports| ports < 10_000.0);
        rows.push(row.problem_if(
            few,
            "fewer than 10,000 connections of one client",
            "`sysctl net.ipv4.ip_local_port_range=\"10240 65535\"`",
        ));
    }
    rows
}

fn memory() -> Vec<Bound> {
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let machine =
        total.map(|kib| bound("memory", Some(kib * 1024.0), units::bytes, "of the machine".into()));
    let group = cgroup::memory_limit().map(|(bytes, folder)| {
        let row = bound("memory", Some(bytes as f64), units::bytes, of_group(&folder));
        row.problem_if(
            bytes < 64 << 20,
            "less than a server with many connections needs",
            "MemoryMax= of the unit, `docker run --memory`",
        )
    });
    machine.into_iter().chain(group).collect()
}

fn cpus() -> Vec<Bound> {
    let usable = os::usable_cpus().len();
    let online = read("/sys/devices/system/cpu/online");
    let source = online.map_or_else(String::new, |online| format!(", of {online}"));
    let source = format!("affinity and cpuset{source}");
    let machine = bound("CPUs", Some(usable as f64), count, source);
    let group = cgroup::cpu_quota().map(|(cpus, folder)| {
        let row = bound("CPU quota", Some(cpus), |cpus| format!("{cpus:.2}"), of_group(&folder));
        row.problem_if(
            cpus < 1.0,
            "the server is stopped for a part of each period, so latencies \
            reach the length of a period",
            "CPUQuota= of the unit, `docker run --cpus`",
        )
    });
    [machine].into_iter().chain(group).collect()
}

fn landlock() -> Bound {
    let version = os::landlock_version();
    let source = version.as_ref().err().map_or_else(
        || "locks a server away from files".to_owned(),
        |error| format!("a server cannot be locked away from files: {error}"),
    );
    let version = version.unwrap_or(0);
    bound("Landlock", Some(f64::from(version)), |version| format!("version {version}"), source)
}

fn bound(
    name: &'static str,
    value: Option<f64>,
    text: impl Fn(f64) -> String,
    source: String,
) -> Bound {
    let text = value.map_or_else(|| "unlimited".to_owned(), text);
    Bound { name, value, text, source, problem: None, fix: None }
}

impl Bound {
    fn problem_if(self, wrong: bool, problem: &str, fix: &'static str) -> Bound {
        if !wrong {
            return self;
        }
        Bound { problem: Some(problem.to_owned()), fix: Some(fix), ..self }
    }
}

fn count(value: f64) -> String {
    units::count(value as u64)
}

fn of_group(folder: &Path) -> String {
    format!("of the cgroup {}", folder.display())
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
