//! The machine of a measurement, as far as it can be read without root.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use minijinja::Value;
use serde::Serialize;

use proactor::os;
use proactor::os::procfs::{field, read};
use proactor_report::template;

/// The properties of the machine. A property that cannot be read is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Environment {
    /// The version of this program.
    pub version: &'static str,
    /// The arguments of this program.
    pub arguments: Vec<String>,
    /// The seconds since 1970 at the start of the comparison.
    pub began: u64,
    /// The limits of this process (setrlimit(2)), as `/proc` writes them.
    pub limits: Option<String>,
    /// The release of the kernel.
    pub kernel: Option<String>,
    /// The name of the CPU.
    pub cpu: Option<String>,
    /// The number of CPUs that this process may use.
    pub cpus: usize,
    /// How many CPUs' time the control groups of this process permit, if they limit it.
    pub cpu_quota: Option<f64>,
    /// True in a virtual machine, as far as the CPU reports it.
    pub virtual_machine: Option<bool>,
    /// The kernel's mitigations of CPU vulnerabilities that are active.
    pub mitigations: Vec<String>,
    /// The governor of the CPU frequency. Absent in most virtual machines.
    pub governor: Option<String>,
    /// The clock source of the kernel.
    pub clocksource: Option<String>,
    /// The default congestion control of TCP.
    pub congestion_control: Option<String>,
    /// The sysctl `kernel.io_uring_disabled`: 0 allows io_uring, 1 restricts it, 2 disables it.
    pub io_uring_disabled: Option<String>,
    /// The share of the last ten seconds in which a task waited for a CPU.
    pub cpu_pressure: Option<f64>,
}

impl Environment {
    /// Reads the properties of this machine.
    pub fn read() -> Environment {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        Environment {
            version: env!("CARGO_PKG_VERSION"),
            arguments: std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect(),
            began: UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            limits: read("/proc/self/limits"),
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: cpu_name(&cpuinfo),
            cpus: os::usable_cpus().len().max(1),
            cpu_quota: os::cgroup::cpu_quota().map(|(cpus, _)| cpus),
            virtual_machine: flags(&cpuinfo).map(|flags| flags.contains(&"hypervisor")),
            mitigations: mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities")),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled"),
            cpu_pressure: read("/proc/pressure/cpu").as_deref().and_then(pressure),
        }
    }

    /// Returns what makes a measurement on this machine doubtful, with advice.
    pub fn warnings(&self) -> Vec<String> {
        let text = template::fill(include_str!("environment.txt"), Value::from_serialize(self));
        text.lines().map(str::to_owned).collect()
    }
}

fn cpu_name(cpuinfo: &str) -> Option<String> {
    // x86 has `model name`; some other architectures have `Processor`, most have neither.
    field(cpuinfo, "model name").or_else(|| field(cpuinfo, "Processor")).map(str::to_owned)
}

fn flags(cpuinfo: &str) -> Option<Vec<&str>> {
    field(cpuinfo, "flags").map(|flags| flags.split_whitespace().collect())
}

/// Parses `some avg10=1.50 avg60=…` as a share.
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent = some.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    Some(percent.parse::<f64>().ok()? / 100.0)
}

/// Returns the active mitigations by name.
fn mitigations(dir: &Path) -> Vec<String> {
    let state = |entry: fs::DirEntry| {
        let state = fs::read_to_string(entry.path()).ok()?;
        let (name, state) = (entry.file_name(), state.trim());
        // A part of an active mitigation may be `Not affected` as well.
        (state != "Not affected").then(|| format!("{}: {state}", name.display()))
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries.filter_map(state).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_and_its_hypervisor_are_in_cpuinfo() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor tsc\n";
        assert_eq!(cpu_name(cpuinfo).as_deref(), Some("AMD EPYC"));
        assert!(flags(cpuinfo).expect("a line of flags").contains(&"hypervisor"));
        assert_eq!(flags("processor : 0"), None);
    }

    #[test]
    fn pressure_is_a_share() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.10 total=9\nfull avg10=0.00";
        assert_eq!(pressure(text), Some(0.125));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn a_mitigation_is_active_though_a_part_of_it_is_not_needed() {
        let dir = tempfile::tempdir().expect("a directory");
        let active = "Mitigation: Retpolines; PBRSB-eIBRS: Not affected; BHI: Not affected\n";
        for (name, state) in [("spectre_v2", active), ("meltdown", "Not affected\n")] {
            fs::write(dir.path().join(name), state).expect("space");
        }
        assert_eq!(mitigations(dir.path()), [format!("spectre_v2: {}", active.trim())]);
    }

    #[test]
    fn doubtful_properties_are_warnings() {
        let good = Environment { cpus: 8, ..Environment::default() };
        assert!(good.warnings().is_empty());
        let bad = Environment {
            cpus: 2,
            governor: Some("powersave".to_owned()),
            cpu_pressure: Some(0.125),
            cpu_quota: Some(0.5),
            ..Environment::default()
        };
        let texts = bad.warnings();
        assert_eq!(texts.len(), 4);
        assert!(texts[1].contains("0.5 CPUs") && texts[2].contains("`powersave`"), "{texts:?}");
        assert!(texts[3].contains("12 %"), "{texts:?}");
    }

    #[test]
    fn this_machine_can_be_read() {
        let environment = Environment::read();
        assert!(environment.cpus >= 1);
        assert!(environment.kernel.is_some(), "{environment:?}");
        assert!(environment.began > 1_700_000_000 && !environment.arguments.is_empty());
    }
}
