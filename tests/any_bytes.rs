//! Whatever bytes claim to be a trace, or what the kernel tells: what the fuzz targets do (`fuzz/`)
//! with as many inputs as there is time for is done here with a few hundred that are the same in
//! every run: a real one, damaged.

#[path = "any_bytes/kernel.rs"]
mod kernel;
#[path = "any_bytes/perfetto.rs"]
mod perfetto;
#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;
#[path = "any_bytes/trace.rs"]
mod trace;

use proactor::ring::sim::{Dice, Tier};
use proactor::trace::format::{HEADER, RECORD};
use proactor::trace::kernel::Point;

use support::simulated::simulated;

/// Bytes with bits flipped, pieces moved, and often an end that is missing.
fn damaged(whole: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..dice.below(60) {
        let at = dice.below(bytes.len());
        bytes[at] ^= 1 << dice.below(8);
    }
    for _ in 0..dice.below(4) {
        let len = dice.below(40).min(bytes.len());
        let (from, to) = (dice.below(bytes.len() - len), dice.below(bytes.len() - len));
        bytes.copy_within(from..from + len, to);
    }
    if dice.below(3) == 0 {
        bytes.truncate(dice.below(bytes.len()));
    }
    bytes
}

#[test]
fn no_damage_to_a_trace_makes_a_reader_or_an_export_panic() {
    let mut dice = Dice::new(1);
    for tier in [Tier::Multishot, Tier::OneShot] {
        let whole = &simulated(2, tier)[..HEADER + RECORD * 400];
        for _ in 0..150 {
            let bytes = damaged(whole, &mut dice);
            trace::read(&bytes);
            trace::export(&bytes, dice.below(5));
            // The same with its head made whole, so that damage elsewhere is looked at.
            if let Some(bytes) = trace::admitted(&bytes) {
                trace::read(&bytes);
                trace::follow(&bytes);
                trace::export(&bytes, dice.below(5));
            }
        }
    }
}

#[test]
fn no_damage_to_what_the_kernel_tells_makes_a_reader_of_it_panic() {
    let mut dice = Dice::new(1);
    let events = kernel::events();
    let format = kernel::format(Point::Complete);
    for whole in [&events[..], format.as_bytes()] {
        for _ in 0..600 {
            kernel::tell(&damaged(whole, &mut dice));
        }
    }
}
