//! The verdict about a ratio to the baseline: a word that follows from the printed interval.
//!
//! Each block gives one value of a ratio, and the trimmed mean of their logarithms its centre. The
//! interval holds for all rows, both metrics and all loads of a run together (Bonferroni), so the
//! chance that any word of a run is false is at most that of its confidence. The margins of
//! *within* are fixed in advance: a noisier run shows less, never more.

use serde::Serialize;

use crate::plan::Rules;
use proactor_report::stats::Interval;

/// A verdict about a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The ratio is one, within the margin.
    Within,
    /// The ratio is above one.
    Higher,
    /// The ratio is below one.
    Lower,
    /// None of these is shown, and an interval of this width could show *within*.
    NotShown,
    /// The interval is too wide to show *within*, wherever its centre is.
    TooNoisy,
    /// There are too few blocks for an interval.
    TooFewBlocks,
    /// The client set the rate of one side, so that the ratio says nothing of the servers.
    ClientBound,
}

/// The ends of an interval of a ratio as they are printed: with three decimals, rounded outwards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RatioInterval {
    /// The lower end of the ratio.
    pub low: f64,
    /// The upper end of the ratio.
    pub high: f64,
}

/// A ratio to the baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratio {
    /// The logarithm of the ratio in each valid block.
    pub logs: Vec<f64>,
    /// The centre of the ratio: its trimmed mean over the blocks.
    pub centre: f64,
    /// Its interval, if there are enough blocks and the client did not set a rate.
    pub interval: Option<RatioInterval>,
    /// The word for it.
    pub verdict: Verdict,
}

/// What decides about the ratios of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Judge {
    pub(crate) rules: Rules,
    /// The number of intervals that must hold together.
    pub(crate) intervals: usize,
}

impl Judge {
    /// Returns the probability with which one interval may miss.
    pub(crate) fn alpha(&self) -> f64 {
        (1.0 - self.rules.confidence) / self.intervals.max(1) as f64
    }

    /// Returns the ratio that these logarithms show, or `None` if there are none.
    pub(crate) fn ratio(&self, logs: Vec<f64>, margin: f64) -> Option<Ratio> {
        let interval = Interval::of(&logs, self.alpha());
        let centre = interval.map(|it| it.centre).or(logs.first().copied())?.exp();
        let enough = logs.len() >= self.rules.blocks_min() as usize;
        let interval = interval.filter(|_| enough).map(RatioInterval::outwards);
        let verdict = interval.map_or(Verdict::TooFewBlocks, |it| it.verdict(margin));
        Some(Ratio { logs, centre, interval, verdict })
    }
}

impl RatioInterval {
    fn outwards(logs: Interval) -> RatioInterval {
        /// Below the error of the arithmetic.
        const ERROR: f64 = 1e-6;
        RatioInterval {
            low: (1000.0 * logs.low.exp() + ERROR).floor() / 1000.0,
            high: (1000.0 * logs.high.exp() - ERROR).ceil() / 1000.0,
        }
    }

    fn verdict(self, margin: f64) -> Verdict {
        // The ends have three decimals, and so has the margin.
        let within = |end: f64| (end - 1.0).abs() <= margin + 1e-9;
        match self {
            it if within(it.low) && within(it.high) => Verdict::Within,
            it if it.low > 1.0 => Verdict::Higher,
            it if it.high < 1.0 => Verdict::Lower,
            it if it.high - it.low <= 2.0 * margin + 1e-9 => Verdict::NotShown,
            _ => Verdict::TooNoisy,
        }
    }

    /// Returns true if equal servers would have this interval.
    pub(crate) fn encloses_one(self) -> bool {
        self.low <= 1.0 && self.high >= 1.0
    }

    /// Returns the ends in words: `1.9 to 3.8 % more`, or `0.8 % less and 1.1 % more`.
    fn words(self, less: &str) -> String {
        let percent = |end: f64| format!("{:.1}", (end - 1.0).abs() * 100.0);
        let (low, high) = (percent(self.low), percent(self.high));
        match self {
            it if it.low > 1.0 => format!("{low} to {high} % more"),
            it if it.high < 1.0 => format!("{high} to {low} % {less}"),
            _ => format!("{low} % {less} and {high} % more"),
        }
    }
}

/// The words about one metric in a sentence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetricWords {
    verb: &'static str,
    much: &'static str,
    what: &'static str,
    less: &'static str,
    margin: f64,
}

impl MetricWords {
    /// Of CPU time per message.
    pub(crate) fn cpu(rules: &Rules) -> MetricWords {
        let margin = rules.cpu_margin;
        MetricWords { verb: "takes", much: "much", what: "CPU per message", less: "less", margin }
    }

    /// Of messages per second.
    pub(crate) fn rate(rules: &Rules) -> MetricWords {
        let margin = rules.rate_margin;
        MetricWords { verb: "serves", much: "many", what: "messages", less: "fewer", margin }
    }

    /// Returns the verdict as what a model does: `takes 1.9 to 3.8 % more CPU per message`.
    pub(crate) fn say(self, ratio: &Ratio, blocks_min: u32) -> String {
        let MetricWords { verb, much, what, less, margin } = self;
        let margin = format!("within ±{} %", margin * 100.0);
        let Some(interval) = ratio.interval else {
            let blocks = ratio.logs.len();
            return match ratio.verdict {
                Verdict::ClientBound => {
                    format!("has no verdict on {what}: the client was the limit")
                }
                _ => format!("has no verdict on {what}: {blocks} of {blocks_min} blocks"),
            };
        };
        let ends = interval.words(less);
        match ratio.verdict {
            Verdict::Within if interval.encloses_one() => {
                format!("{verb} as {much} {what} {margin}: between {ends}")
            }
            Verdict::Within => format!("{verb} {ends} {what}, which is {margin}"),
            Verdict::Higher | Verdict::Lower => format!("{verb} {ends} {what}"),
            Verdict::NotShown if interval.encloses_one() => format!(
                "is not shown to differ in {what}: between {ends}; more --time would decide"
            ),
            // Of what comes in bursts, the ends alone are said.
            Verdict::NotShown => format!("{verb} {ends} {what}"),
            _ => format!("is too noisy to tell in {what}: anything between {ends}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(intervals: usize, confidence: f64) -> Judge {
        Judge { rules: Rules { confidence, ..Rules::DEFAULT }, intervals }
    }

    /// Values, the number of intervals, the printed centre, ends and verdict: worked out by the
    /// simulation that chose the procedure.
    type Vector = (&'static [f64], usize, &'static str, [f64; 2], Verdict);

    const VECTORS: [Vector; 6] = [
        (
            &[
                0.0031, -0.0102, 0.0060, -0.0045, 0.0117, -0.0083, 0.0012, -0.0021, 0.0074,
                -0.0066, 0.0090, -0.0128,
            ],
            8,
            "1.000",
            [0.990, 1.009],
            Verdict::Within,
        ),
        (
            &[
                0.0312, 0.0198, 0.0405, 0.0251, 0.0367, 0.0143, 0.0289, 0.0330, 0.0226, 0.0441,
                0.0175, 0.0274, 0.0302, 0.0087, 0.0351,
            ],
            10,
            "1.028",
            [1.019, 1.038],
            Verdict::Higher,
        ),
        (
            &[
                0.0342, 0.0055, 0.0331, 0.0127, -0.0131, 0.0185, 0.0008, 0.0326, -0.0172, 0.0149,
                -0.0082, 0.0228, 0.0043, 0.0277, 0.0091, 0.0204,
            ],
            10,
            "1.013",
            [0.997, 1.029],
            Verdict::NotShown,
        ),
        (
            &[
                0.0512, -0.0433, 0.0184, -0.0711, 0.0926, -0.0205, 0.0347, -0.0118, 0.0641,
                -0.0562, 0.0059, 0.0273,
            ],
            8,
            "1.007",
            [0.953, 1.064],
            Verdict::TooNoisy,
        ),
        (
            &[
                -0.0405, -0.0312, -0.0498, -0.0371, 0.2500, -0.0443, -0.0287, -0.0526, -0.0349,
                -0.0460, -0.0391, -0.0334, -0.0419, -0.0365, -0.0472, 0.1120, -0.0381, -0.0431,
                -0.0298, -0.0512,
            ],
            10,
            "0.962",
            [0.955, 0.969],
            Verdict::Lower,
        ),
        (
            &[
                0.0150, 0.0010, 0.0090, 0.0060, 0.0120, 0.0030, 0.0080, 0.0070, 0.0110, 0.0040,
                0.0100, 0.0050,
            ],
            8,
            "1.008",
            [1.003, 1.012],
            Verdict::Within,
        ),
    ];

    #[test]
    fn the_vectors_of_the_procedure_hold() {
        for (logs, intervals, centre, ends, verdict) in VECTORS {
            let ratio = judge(intervals, 0.95).ratio(logs.to_vec(), 0.02).expect("values");
            let interval = ratio.interval.expect("enough blocks");
            assert_eq!(format!("{:.3}", ratio.centre), centre);
            assert_eq!([interval.low, interval.high], ends, "{logs:?}");
            assert_eq!(ratio.verdict, verdict, "{logs:?}");
        }
    }

    #[test]
    fn too_few_blocks_have_no_interval_and_no_word() {
        let twelve = VECTORS[5].0.to_vec();
        let verdict = |logs: &[f64], confidence| {
            let ratio = judge(8, confidence).ratio(logs.to_vec(), 0.02).expect("values");
            assert_eq!(ratio.interval.is_none(), ratio.verdict == Verdict::TooFewBlocks);
            ratio.verdict
        };
        assert_eq!(verdict(&twelve, 0.99), Verdict::TooFewBlocks, "99 % needs fifteen");
        assert_eq!(verdict(&twelve[..11], 0.95), Verdict::TooFewBlocks);
        assert_eq!(verdict(&twelve[..1], 0.95), Verdict::TooFewBlocks);
        assert_eq!(judge(8, 0.95).ratio(Vec::new(), 0.02), None);
    }

    #[test]
    fn a_margin_is_reached_by_ends_that_are_on_it() {
        let verdict = |low, high, margin| RatioInterval { low, high }.verdict(margin);
        assert_eq!(verdict(0.98, 1.02, 0.02), Verdict::Within);
        assert_eq!(verdict(0.979, 1.0, 0.02), Verdict::NotShown);
        assert_eq!(verdict(1.0, 1.04, 0.02), Verdict::NotShown, "1.000 is enclosed");
        assert_eq!(verdict(1.001, 1.05, 0.02), Verdict::Higher);
        assert_eq!(verdict(0.95, 0.999, 0.02), Verdict::Lower);
        assert_eq!(verdict(0.99, 1.031, 0.02), Verdict::TooNoisy);
        assert_eq!(verdict(0.95, 1.05, 0.05), Verdict::Within);
    }

    #[test]
    fn each_word_is_a_sentence_with_its_interval() {
        let says = |at: usize, words: MetricWords| {
            let (logs, intervals, ..) = VECTORS[at];
            words.say(&judge(intervals, 0.95).ratio(logs.to_vec(), 0.02).expect("values"), 12)
        };
        let cpu = MetricWords::cpu(&Rules::DEFAULT);
        let rate = MetricWords { margin: 0.02, ..MetricWords::rate(&Rules::DEFAULT) };
        let within = "takes as much CPU per message within ±2 %: between 1.0 % less and 0.9 % more";
        assert_eq!(says(0, cpu), within);
        assert_eq!(says(1, cpu), "takes 1.9 to 3.8 % more CPU per message");
        assert_eq!(
            says(2, cpu),
            "is not shown to differ in CPU per message: between 0.3 % less and 2.9 % more; more \
             --time would decide"
        );
        assert_eq!(
            says(3, cpu),
            "is too noisy to tell in CPU per message: anything between 4.7 % less and 6.4 % more"
        );
        assert_eq!(says(4, rate), "serves 3.1 to 4.5 % fewer messages");
        assert_eq!(says(5, cpu), "takes 0.3 to 1.2 % more CPU per message, which is within ±2 %");
        assert_eq!(
            says(0, rate),
            "serves as many messages within ±2 %: between 1.0 % fewer and 0.9 % more"
        );
        let few = judge(8, 0.95).ratio(vec![0.1; 9], 0.02).expect("values");
        assert_eq!(cpu.say(&few, 12), "has no verdict on CPU per message: 9 of 12 blocks");
        let bound = Ratio { interval: None, verdict: Verdict::ClientBound, ..few };
        assert_eq!(rate.say(&bound, 12), "has no verdict on messages: the client was the limit");
    }
}
