//! Whether a model, and this machine, can serve a load at all. The check saves the time of trying,
//! and its reason is clearer than a connection that is never served.

use std::path::Path;

use crate::plan::TASKS_MAX;
use proactor::model::Ability;
use proactor::os::procfs;
use proactor::{Model, os};
use proactor_models::{PROCESS, THREAD};

/// Descriptors of the client, or of a server, that are not connections.
const OTHER_DESCRIPTORS: u64 = 64;
/// Threads and processes that are reserved for other programs.
const RESERVED_TASKS: u64 = 64;

/// Returns why `model` cannot serve this many connections here, or `None` if no reason is known.
/// The client already has `open` connections to other servers.
pub(crate) fn shortage(model: &str, connections: usize, open: usize) -> Option<String> {
    let model = proactor_models::find(model);
    let of_model = model.and_then(|model| model_limit(model, connections));
    let of_model = of_model.or_else(|| {
        let is_of_tasks = model.is_some_and(|model| [THREAD, PROCESS].contains(&model));
        (is_of_tasks && connections > TASKS_MAX).then(|| {
            format!("not measured above {TASKS_MAX} connections, each with a task of the kernel")
        })
    });
    of_model.or_else(|| too_few_descriptors(connections, open)).or_else(|| {
        let kinds = [(THREAD, "threads"), (PROCESS, "processes")];
        let (_, kind) = kinds.into_iter().find(|(kind, _)| Some(*kind) == model)?;
        too_few_tasks(kind, connections as u64, tasks_left()?)
    })
}

fn model_limit(model: Model, connections: usize) -> Option<String> {
    if connections > 1
        && let Some(why) = model.info().missing(Ability::Crowd)
    {
        return Some(format!("{}: {why}", Ability::Crowd.denied()));
    }
    let limit = os::SELECT_LIMIT as usize;
    (model == Model::SELECT && connections >= limit).then(|| {
        format!("select(2) can name {limit} descriptors (FD_SETSIZE), and {connections} are more")
    })
}

fn too_few_descriptors(connections: usize, open: usize) -> Option<String> {
    let limit = os::raise_descriptor_limit();
    let needed = (connections + open) as u64 + OTHER_DESCRIPTORS;
    (needed > limit).then(|| {
        format!(
            "the client needs about {needed} descriptors, and `ulimit -n` is {limit}: raise the hard \
             limit (`ulimit -Hn`)"
        )
    })
}

fn too_few_tasks(kind: &str, needed: u64, (left, limit): (u64, String)) -> Option<String> {
    (needed + RESERVED_TASKS > left)
        .then(|| format!("{needed} {kind} exceed {limit}, which allows {left} more"))
}

/// Returns how many more threads and processes can be created, and the name of the limit: the
/// narrowest one that can be read.
pub fn tasks_left() -> Option<(u64, String)> {
    let number = |path: &Path| procfs::read(path)?.parse::<u64>().ok();
    let all = parse_all_tasks(&procfs::read("/proc/loadavg")?)?;
    let mut limits = Vec::new();
    for name in ["pid_max", "threads-max"] {
        let max = number(&Path::new("/proc/sys/kernel").join(name));
        limits.extend(max.map(|max| (max.saturating_sub(all), format!("kernel.{name}"))));
    }
    for (dir, max) in os::cgroup::values("pids", "pids.max", "pids.max") {
        let left = max.parse::<u64>().ok().zip(number(&dir.join("pids.current")));
        let name = || format!("pids.max of the cgroup {}", dir.display());
        limits.extend(left.map(|(max, now)| (max.saturating_sub(now), name())));
    }
    // Counting the user's own tasks would need a look at every process, so all tasks are taken for
    // the user's. The error is on the safe side. Root has no such limit.
    let own = |file, key| procfs::number(&procfs::read(file)?, key);
    let is_root = own("/proc/self/status", "Uid:") == Some(0);
    let max = own("/proc/self/limits", "Max processes").filter(|_| !is_root);
    limits.extend(max.map(|max| (max.saturating_sub(all), "`ulimit -u`".to_owned())));
    limits.into_iter().min()
}

/// Parses the number of threads in `0.20 0.18 0.12 1/80 11206`: 80.
fn parse_all_tasks(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_model_are_known_before_the_start() {
        let why = shortage("blocking", 2, 0).expect("it serves one");
        assert!(why.starts_with("does not serve several connections at once"), "{why}");
        assert_eq!(shortage("blocking", 1, 0), None);
        let why = shortage("select", 4000, 0).expect("it has 1024 bits");
        assert!(why.contains("FD_SETSIZE") && why.contains("4000"), "{why}");
        assert_eq!(shortage("select", 10, 0), None);
        assert_eq!(shortage("no such model", 10, 0), None, "its server reports that");
    }

    #[test]
    fn too_few_descriptors_are_known_too() {
        let why = shortage("epoll", 10, 100_000_000).expect("no process has so many");
        assert!(why.contains("ulimit -Hn") && !why.contains('\n'), "{why}");
    }

    #[test]
    fn the_narrowest_limit_of_threads_and_processes_is_named() {
        assert_eq!(too_few_tasks("threads", 100, (1000, "`ulimit -u`".to_owned())), None);
        let why = too_few_tasks("processes", 4000, (1000, "`ulimit -u`".to_owned()));
        assert_eq!(
            why.expect("too many"),
            "4000 processes exceed `ulimit -u`, which allows 1000 more"
        );
        assert!(tasks_left().expect("procfs").0 > 0);
    }

    #[test]
    fn the_limits_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_all_tasks("0.20 0.18 0.12 1/80 11206\n"), Some(80));
    }
}
