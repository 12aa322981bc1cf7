//! CPU time of the whole machine: what a server costs beyond its own threads shows here.

use std::fs;
use std::time::Duration;

use crate::block::Sample;
use crate::process_stat::CpuTicks;

/// The ticks of `/proc` in a second, on every architecture of today.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

/// Returns how long all CPUs were not idle since the machine started, in ticks.
pub(crate) fn busy_ticks() -> Option<u64> {
    parse(&fs::read_to_string("/proc/stat").ok()?)
}

/// Parses the line `cpu user nice system idle iowait irq softirq …`. What the host took is no work.
fn parse(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<u64> = fields.map_while(|tick| tick.parse().ok()).take(7).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq] = *ticks else { return None };
    Some(user + nice + system + irq + softirq)
}

/// Returns the CPU time of the machine per message in microseconds, without that of the client's
/// thread, if there are enough ticks to know it.
pub(crate) fn per_message(samples: &[&Sample]) -> Option<f64> {
    let ticks: u64 = samples.iter().map(|it| it.machine_ticks).sum::<Option<u64>>()?;
    let client: Duration = samples.iter().map(|it| it.slice.cpu).sum();
    let messages: u64 = samples.iter().map(|it| it.slice.messages).sum();
    if ticks < CpuTicks::MIN || messages == 0 {
        return None;
    }
    let others = ticks as f64 / TICKS_PER_SECOND - client.as_secs_f64();
    Some(others.max(0.0) / messages as f64 * 1e6)
}

#[cfg(test)]
mod tests {
    use proactor_load::LoadSlice;

    use super::*;

    #[test]
    fn idle_and_stolen_time_is_no_work() {
        assert_eq!(parse("cpu  1 2 4 1000 1000 8 16 1000 1000 0\ncpu0 9 9"), Some(31));
        assert_eq!(parse("cpu  1 2 4 1000"), None);
        assert!(busy_ticks().is_some());
    }

    #[test]
    fn the_time_of_the_client_is_not_the_servers() {
        let slice =
            LoadSlice { messages: 1_000_000, cpu: Duration::from_secs(5), ..LoadSlice::default() };
        let sample = |machine_ticks| Sample {
            participant: 0,
            began_ns: 0,
            slice,
            server_cpu: Duration::ZERO,
            server_waited: Duration::ZERO,
            machine_ticks,
            server_idle_cpu_share: 0.0,
        };
        assert_eq!(per_message(&[&sample(Some(900))]), Some(4.0));
        assert_eq!(per_message(&[&sample(Some(99))]), None, "too short");
        assert_eq!(per_message(&[&sample(Some(900)), &sample(None)]), None);
    }
}
