//! The limits of this machine and this process that bound a server or a load.

use std::path::Path;

use serde::Serialize;

use proactor::os::procfs::{self, read};
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
    problem: Option<&'static str>,
    fix: Option<&'static str>,
}

/// The names of limits, with the least value that is enough, the problem of a smaller one, and the
/// way out. The 10,016 descriptors are the default of `--max-connections`, and what a server needs
/// beside.
const NEEDED: &str = include_str!("bounds.txt");

/// Returns all limits that can be read.
pub(super) fn rows() -> Vec<Bound> {
    let mut rows = of_process(&read("/proc/self/limits").unwrap_or_default());
    let tasks = |(left, source)| bound("threads to make", Some(left as f64), count, source);
    rows.extend(tasks_left().map(tasks));
    rows.extend(of_network());
    rows.extend(memory());
    rows.extend(cpus());
    rows.push(landlock());
    rows
}

fn of_process(limits: &str) -> Vec<Bound> {
    let limit = |name, hard: bool| {
        let both = procfs::field(limits, name)?;
        both.split_whitespace().nth(usize::from(hard)).map(str::to_owned)
    };
    let number = |text: &str| text.parse::<f64>().ok();
    let mut rows = Vec::new();
    if let Some((soft, hard)) = limit("Max open files", false).zip(limit("Max open files", true)) {
        let source = format!("`ulimit -Hn`; the soft limit of {soft} is raised to it");
        rows.push(bound("descriptors", number(&hard), count, source));
    }
    if let Some(soft) = limit("Max locked memory", false) {
        let bound =
            |source: &str| bound("locked memory", number(&soft), units::bytes, source.into());
        rows.push(match Evidence::read().memlock {
            Some(_) => bound("`ulimit -l`; the rings of this kernel count"),
            None => {
                Bound { problem: None, fix: None, ..bound("`ulimit -l`; rings do not count here") }
            }
        });
    }
    if let Some(soft) = limit("Max pending signals", false) {
        let source = "`ulimit -i`, of all processes of the user; only for sigio".into();
        rows.push(bound("queued signals", number(&soft), count, source));
    }
    if let Some(soft) = limit("Max address space", false).and_then(|text| number(&text)) {
        rows.push(bound("address space", Some(soft), units::bytes, "`ulimit -v`".into()));
    }
    rows
}

fn of_network() -> Vec<Bound> {
    let sysctl = |name: &'static str, path: &str, more: &str| {
        let text = read(format!("/proc/sys/net/{path}"))?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        // A range of ports, or one number.
        let value = match numbers[..] {
            [first, last] => Some(last - first + 1.0),
            [number] => Some(number),
            _ => None,
        };
        Some(bound(name, value, count, path.replace('/', ".") + more))
    };
    let rows = [
        sysctl("backlog", "core/somaxconn", ""),
        sysctl("half-open", "ipv4/tcp_max_syn_backlog", ""),
        sysctl("local ports", "ipv4/ip_local_port_range", ", for each address of a client"),
    ];
    rows.into_iter().flatten().collect()
}

fn memory() -> Vec<Bound> {
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let total = procfs::number(&meminfo, "MemTotal:");
    let bound = |bytes, source| bound("memory", Some(bytes), units::bytes, source);
    let machine = total.map(|kib| bound(kib as f64 * 1024.0, "of the machine".into()));
    let group = cgroup::memory_limit();
    let group = group.map(|(bytes, folder)| bound(bytes as f64, of_group(&folder)));
    machine.into_iter().chain(group).collect()
}

fn cpus() -> Vec<Bound> {
    let usable = os::usable_cpus().len();
    let online = read("/sys/devices/system/cpu/online");
    let source = online.map_or_else(String::new, |online| format!(", of {online}"));
    let source = format!("affinity and cpuset{source}");
    let machine = bound("CPUs", Some(usable as f64), count, source);
    let group = cgroup::cpu_quota().map(|(cpus, folder)| {
        bound("CPU quota", Some(cpus), |cpus| format!("{cpus:.2}"), of_group(&folder))
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
    let (problem, fix) = value.and_then(|value| lacking(name, value)).unzip();
    Bound { name, value, text, source, problem, fix }
}

/// Returns the problem of a limit with this value, if it is too small, and the way out.
fn lacking(name: &str, value: f64) -> Option<(&'static str, &'static str)> {
    let mut rows = NEEDED.lines().map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let row = rows.find(|row| row[0] == name)?;
    let [_, least, problem, fix] = row[..] else { panic!("not a row: {row:?}") };
    (value < least.parse().expect("a number")).then_some((problem, fix))
}

fn count(value: f64) -> String {
    units::count(value as u64)
}

fn of_group(folder: &Path) -> String {
    format!("of the cgroup {}", folder.display())
}
