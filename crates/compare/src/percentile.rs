//! A percentile of the service times of all blocks, with a confidence interval.
//!
//! Messages that wait behind one another are late together, so the block, and not the message, is
//! what is independent: the interval follows from how much the blocks differ. It is descriptive: no
//! word depends on it.

use serde::Serialize;

use proactor_report::stats::Interval;

/// The service times of one block: each value in nanoseconds with its count, in order.
pub(crate) type Counts = [(u64, u64)];

/// A percentile in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentile {
    /// Its estimate; absent if only its lower end is known.
    pub ns: Option<u64>,
    /// The lower end of its interval of 95 %.
    pub low_ns: u64,
    /// The upper end, if there is one.
    pub high_ns: Option<u64>,
}

/// With fewer messages beyond it, a percentile is not known at all.
const BEYOND_MIN: f64 = 20.0;
/// With fewer messages beyond it, or in fewer blocks, only its lower end is known.
const BEYOND_KNOWN: f64 = 100.0;
const BLOCKS_KNOWN: usize = 5;

/// Returns the percentile for `share`, each block with the same weight, or `None` if there are too
/// few messages beyond it.
pub(crate) fn of(blocks: &[&Counts], share: f64) -> Option<Percentile> {
    let total = |block: &Counts| block.iter().map(|(_, count)| count).sum::<u64>() as f64;
    let (n, messages) = (blocks.len() as f64, blocks.iter().map(|it| total(it)).sum::<f64>());
    let beyond = messages * (1.0 - share) * (1.0 + 1e-9);
    if blocks.len() < 2 || beyond < BEYOND_MIN {
        return None;
    }
    // The share of the messages up to each value, averaged over the blocks.
    let mut steps: Vec<(u64, f64)> = Vec::new();
    for block in blocks {
        let weight = 1.0 / (total(block).max(1.0) * n);
        steps.extend(block.iter().map(|&(value, count)| (value, count as f64 * weight)));
    }
    steps.sort_by_key(|step| step.0);
    let mut sum = 0.0;
    steps.iter_mut().for_each(|step| {
        sum += step.1;
        step.1 = sum;
    });
    let at = |share: f64| steps.iter().find(|step| step.1 >= share - 1e-9).map(|step| step.0);
    let estimate = at(share)?;
    let below = |block: &&Counts| {
        let counts = block.iter().take_while(|(value, _)| *value < estimate);
        counts.map(|(_, count)| count).sum::<u64>() as f64 / total(block).max(1.0)
    };
    let shares: Vec<f64> = blocks.iter().map(below).collect();
    let interval = Interval::of_mean(&shares, 0.05)?;
    let half = interval.high - interval.centre;
    let low_ns = at(share - half)?;
    let is_open = share + half >= 1.0 - 1.0 / (2.0 * messages);
    let high_ns = at(share + half).filter(|_| !is_open);
    let is_known = beyond >= BEYOND_KNOWN && blocks.len() >= BLOCKS_KNOWN && high_ns.is_some();
    Some(match is_known {
        true => Percentile { ns: Some(estimate), low_ns, high_ns },
        false => Percentile { ns: None, low_ns, high_ns: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a block whose messages take 1, 2, … `values` µs, each `count` times.
    fn block(values: u64, count: u64) -> Vec<(u64, u64)> {
        (1..=values).map(|value| (value * 1000, count)).collect()
    }

    fn percentile(blocks: &[Vec<(u64, u64)>], share: f64) -> Option<Percentile> {
        of(&blocks.iter().map(Vec::as_slice).collect::<Vec<_>>(), share)
    }

    #[test]
    fn equal_blocks_have_a_narrow_interval_about_the_estimate() {
        let blocks = vec![block(100, 100); 10];
        let p99 = percentile(&blocks, 0.99).expect("a thousand are beyond it");
        let (low, high) = (p99.low_ns, p99.high_ns.expect("it is not open"));
        assert_eq!((low, p99.ns, high), (99_000, Some(99_000), 99_000));
    }

    #[test]
    fn the_interval_is_as_wide_as_the_blocks_differ() {
        let blocks: Vec<_> = (0..10).map(|number| block(100 + 10 * number, 100)).collect();
        let p50 = percentile(&blocks, 0.5).expect("half are beyond it");
        let (low, high) = (p50.low_ns, p50.high_ns.expect("it is not open"));
        assert!(low < 70_000 && high > 75_000, "{p50:?}");
        assert!((60_000..90_000).contains(&p50.ns.expect("it is known")), "{p50:?}");
    }

    #[test]
    fn few_messages_beyond_a_percentile_leave_its_lower_end_or_nothing() {
        let of = |blocks: usize, share| percentile(&vec![block(100, 10); blocks], share);
        assert_eq!(of(1, 0.5), None, "one block does not show how much they differ");
        assert!(of(10, 0.5).expect("5,000 are beyond it").ns.is_some());
        let p99 = of(9, 0.99).expect("90 are beyond it");
        assert_eq!((p99.ns, p99.low_ns, p99.high_ns), (None, 99_000, None));
        assert_eq!(of(10, 0.999), None, "10 are beyond it");
        assert_eq!(of(4, 0.5).expect("2,000 are beyond it").ns, None, "four blocks");
    }
}
