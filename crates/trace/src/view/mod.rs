//! What a trace comes to: views that count, follow, judge and compare.
//!
//! A [`Digest`] is made in one pass over the events; the summary, the doctor's findings
//! and the difference of two traces are functions of it. A connection's story has a pass of its
//! own. Each view is a value that serialises, and its text is made of nothing but that value: what
//! people read and what programs read cannot differ.
//!
//! ```text
//!   events ─► Digest ─┬─► Summary   what was asked, what came of it, how old it was
//!                     ├─► Doctor    the loop, and what is wrong with it, with evidence and remedy
//!                     └─► Diff      two of them, side by side
//!   events ─► Lives ────► Roster    all connections, the worst first
//!          ─► Story     one connection, turn by turn
//! ```
//!
//! Where threads or children recorded, the digest has [`Lanes`]: what each did with its time. The
//! difference and the exports are made of it.
//!
//! **Honesty.** A view says of what it is made: records that are missing, a sample, a cut. A number
//! that they make untrue is left out. An *age* is no latency: it ends when a completion was reaped,
//! and when the kernel posted it nobody here can know.

mod chart;
mod checks;
mod diff;
mod digest;
mod doctor;
mod finding;
mod health;
mod lanes;
mod life;
mod names;
mod ops;
mod roster;
mod source;
mod story;
mod summary;
mod turns;

pub use diff::Diff;
pub use digest::Digest;
pub use doctor::Doctor;
pub use finding::{Finding, Severity};
pub use health::Health;
pub use lanes::{Lanes, Phase, Stint};
pub use life::{Ending, Life, Measure};
pub use ops::{Errors, Octave, OpRow};
pub use roster::Roster;
pub(crate) use source::POLLS_ALL;
pub use source::{Cut, Source};
pub use story::{Step, Story, Told};
pub use summary::Summary;
pub use turns::{Batches, Moment, Noted, Turns};

#[cfg(test)]
mod tests;
