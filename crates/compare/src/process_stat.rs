//! One line of `/proc/PID/stat`.

use std::ops::AddAssign;

use serde::Serialize;

/// CPU time in ticks, by the mode of the CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CpuTicks {
    /// The ticks in user mode.
    #[serde(rename = "user_ticks")]
    pub user: u64,
    /// The ticks in the kernel.
    #[serde(rename = "system_ticks")]
    pub system: u64,
}

impl CpuTicks {
    /// The least number of ticks that a share is computed from: a share of one half is then known
    /// to about a tenth, and one near 0 or 1 more exactly.
    pub(crate) const MIN: u64 = 100;

    /// Returns the ticks since an earlier reading.
    pub(crate) fn since(self, earlier: CpuTicks) -> CpuTicks {
        CpuTicks {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }

    /// Returns the ticks of both modes.
    pub(crate) fn all(self) -> u64 {
        self.user + self.system
    }

    /// Returns the share of user mode, if there are enough ticks.
    pub(crate) fn user_share(self) -> Option<f64> {
        (self.all() >= CpuTicks::MIN).then(|| self.user as f64 / self.all() as f64)
    }
}

impl AddAssign for CpuTicks {
    fn add_assign(&mut self, other: CpuTicks) {
        self.user += other.user;
        self.system += other.system;
    }
}

/// Of the flags: a thread of the kernel.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The fields that matter here: proc_pid_stat(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    pub(crate) name: String,
    pub(crate) parent: u32,
    pub(crate) is_kernel: bool,
    /// The CPU that it last ran on.
    pub(crate) cpu: usize,
    pub(crate) ticks: CpuTicks,
}

impl ProcessStat {
    /// Parses a line. The name, in parentheses, may contain spaces and parentheses.
    pub(crate) fn parse(stat: &str) -> Option<ProcessStat> {
        let (head, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first field after the name is number 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(ProcessStat {
            name: head.split_once('(')?.1.to_owned(),
            parent: number(4)? as u32,
            is_kernel: number(9)? & PF_KTHREAD != 0,
            cpu: number(39)? as usize,
            ticks: CpuTicks { user: number(14)?, system: number(15)? },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_process_has_its_cpu_and_whether_it_is_of_the_kernel() {
        let line = |flags: u64| {
            let after = "0 20 0 1 0 9 5 6 1 2 3 4 5 6 0 0 0 0 0 0 0 17 1 0 0";
            format!("7 (a) (b) S 3 7 7 0 -1 {flags} 1 0 0 0 250 50 0 {after}")
        };
        let stat = ProcessStat::parse(&line(0x0040_0100)).expect("a line");
        let (name, ticks) = ("a) (b".to_owned(), CpuTicks { user: 250, system: 50 });
        assert_eq!(stat, ProcessStat { name, parent: 3, is_kernel: false, cpu: 1, ticks });
        assert!(ProcessStat::parse(&line(0x0020_8040)).expect("a line").is_kernel);
        assert_eq!(ProcessStat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn a_share_of_user_mode_needs_a_hundred_ticks() {
        let (ticks, earlier) =
            (CpuTicks { user: 250, system: 50 }, CpuTicks { user: 150, system: 50 });
        assert_eq!(ticks.since(earlier).user_share(), Some(1.0));
        let short = ticks.since(CpuTicks { user: 151, system: 50 });
        assert_eq!(short.user_share(), None, "too short");
        let mut sum = earlier;
        sum += CpuTicks { user: 100, system: 0 };
        assert_eq!(sum, ticks);
    }
}
