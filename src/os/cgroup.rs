//! Control groups (cgroups(7)): what limits this process from outside.
//!
//! A limit of a group holds for the groups below it too, so the narrowest of its own group and of
//! all above it counts. In a container, the groups above its own are not visible.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the values of a file of the group of this process and of those above it, the nearest
/// first, each with its folder. The file has one name in version 2, and another in the hierarchy of
/// this controller of version 1.
pub fn values(controller: &str, v2: &str, v1: &str) -> Vec<(PathBuf, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let folders = folders(controller, &read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    let value = |(folder, is_v2): (PathBuf, bool)| {
        let text = fs::read_to_string(folder.join(if is_v2 { v2 } else { v1 })).ok()?;
        Some((folder, text.trim().to_owned()))
    };
    folders.into_iter().filter_map(value).collect()
}

/// Returns how much memory the groups of this process may use, and which of them limits it most.
pub fn memory_limit() -> Option<(u64, PathBuf)> {
    /// More than any machine has: version 1 writes a number for no limit.
    const UNLIMITED: u64 = 1 << 60;
    let values = values("memory", "memory.max", "memory.limit_in_bytes").into_iter();
    let limits = values.filter_map(|(folder, text)| Some((text.parse().ok()?, folder)));
    limits.filter(|(limit, _)| *limit < UNLIMITED).min()
}

/// Returns how many CPUs the groups of this process may use, and which of them limits it most.
pub fn cpu_quota() -> Option<(f64, PathBuf)> {
    let periods = values("cpu", "cpu.max", "cpu.cfs_period_us").into_iter();
    let quotas = values("cpu", "cpu.max", "cpu.cfs_quota_us").into_iter().zip(periods);
    let shares = quotas.filter_map(|((folder, quota), (_, period))| {
        let number = |text: &str, at| text.split(' ').nth(at)?.parse::<f64>().ok();
        // Version 2 has both in one file.
        let period = number(&period, 1).or_else(|| number(&period, 0))?;
        Some((number(&quota, 0)? / period, folder)).filter(|(share, _)| *share > 0.0)
    });
    shares.min_by(|one, other| one.0.total_cmp(&other.0))
}

/// Returns the folders of the group and of those above it, and whether they are of version 2.
fn folders(controller: &str, own: &str, mounts: &str) -> Vec<(PathBuf, bool)> {
    let mut folders = Vec::new();
    for line in own.lines() {
        let [_, names, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { continue };
        let is_v2 = names.is_empty();
        if !is_v2 && !names.split(',').any(|name| name == controller) {
            continue;
        }
        let mount = mounts
            .lines()
            .find_map(|line| mount(line, if is_v2 { None } else { Some(controller) }));
        let Some((root, point)) = mount else { continue };
        // What is mounted may be a group below the root, as in a container.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        folders.extend(below.ancestors().map(|group| (Path::new(point).join(group), is_v2)));
    }
    folders
}

/// Returns the root and the mount point of a line of mountinfo, if it is of this controller of
/// version 1, or else of version 2.
fn mount<'a>(line: &'a str, controller: Option<&str>) -> Option<(&'a str, &'a str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let fits = match controller {
        None => kind == "cgroup2",
        Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
    };
    let mut left = left.split(' ').skip(3);
    fits.then_some((left.next()?, left.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_are_those_of_the_group_and_of_all_above_it() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      31 23 0:27 /docker/7 /sys/fs/cgroup/memory rw shared:2 - cgroup none rw,memory\n\
                      32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup none rw,cpu,cpuacct\n";
        let own = "4:cpu,cpuacct:/a\n3:memory:/docker/7/b\n0::/c/d\n";
        let found = |controller| {
            let folders = folders(controller, own, mounts).into_iter();
            folders.map(|(path, v2)| (path.display().to_string(), v2)).collect::<Vec<_>>()
        };
        let v2 = ["unified/c/d", "unified/c", "unified/"];
        let v2 = v2.map(|path| (format!("/sys/fs/cgroup/{path}"), true));
        let with = |v1: [&str; 2]| {
            let v1 = v1.map(|path| (format!("/sys/fs/cgroup/{path}"), false));
            v1.into_iter().chain(v2.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found("memory"), with(["memory/b", "memory/"]));
        assert_eq!(found("cpu"), with(["cpu,cpuacct/a", "cpu,cpuacct/"]));
        assert_eq!(found("pids"), v2);
    }

    #[test]
    fn a_limit_of_this_process_is_below_what_no_machine_has() {
        assert!(memory_limit().is_none_or(|(bytes, _)| bytes > 0 && bytes < 1 << 60));
        assert!(cpu_quota().is_none_or(|(cpus, _)| cpus > 0.0));
    }
}
