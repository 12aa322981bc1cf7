//! What a kernel does not tell, for want of a tracepoint or of a field in one.
//!
//! Each lack is a line that says what cannot be known, so that nothing reads a zero that is none.

use std::fmt;

use super::Point;

/// Something that a kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lack {
    /// It has no such tracepoint, or one that does not say of which ring or operation it is.
    Point(Point),
    /// Its completions are told without their flags.
    Flags,
}

impl Lack {
    /// What that point's not being told comes to; `None` if nothing is lost by it.
    pub(super) fn of(point: Point) -> Option<Lack> {
        // It came with the only rings that it tells of (`DEFER_TASKRUN`, 6.1).
        (point != Point::Work).then_some(Lack::Point(point))
    }

    /// What is missing, as the kernel would call it.
    pub fn name(self) -> &'static str {
        match self {
            Lack::Point(point) => point.names()[0],
            Lack::Flags => "io_uring_complete.cflags",
        }
    }

    /// The lack of what has this name.
    pub fn from_name(name: &str) -> Option<Lack> {
        let all = Point::ALL.map(Lack::Point).into_iter().chain([Lack::Flags]);
        all.into_iter().find(|lack| lack.name() == name)
    }

    /// What is not known without it.
    pub fn unknown(self) -> &'static str {
        match self {
            Lack::Point(Point::Create) => "how a ring was made is not known",
            Lack::Point(Point::Submit) => "submissions are not known",
            Lack::Point(Point::Refuse) => {
                "a submission that is refused before it begins is seen only to complete"
            }
            Lack::Point(Point::Complete) => "completions are not known",
            Lack::Point(Point::Overflow) => {
                "which completions found the queue full is not known: they are told of as any other"
            }
            Lack::Point(Point::Arrive) => "when data arrived is not known",
            Lack::Point(Point::Punt) => "what threads of the kernel (io-wq) had to do is not known",
            Lack::Point(Point::Arm) => "what waited by polling is not known",
            Lack::Point(Point::Work) => "runs of deferred work are not known",
            Lack::Point(Point::Wait) => "sleeps are not known",
            Lack::Point(Point::FailLink) => "that a link was broken is not told by itself",
            Lack::Flags => "which completions are of many, or have a buffer, is not known",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} on this kernel: {}", self.name(), self.unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_found_again_by_its_name_and_is_one_sentence() {
        for lack in Point::ALL.map(Lack::Point).into_iter().chain([Lack::Flags]) {
            assert_eq!(Lack::from_name(lack.name()), Some(lack));
            let line = lack.to_string();
            assert!(line.contains(lack.name()) && !line.contains('\n'), "{line}");
        }
        assert_eq!(Lack::from_name("io_uring_submit_sqe"), None);
        assert_eq!(Lack::of(Point::Work), None);
    }
}
