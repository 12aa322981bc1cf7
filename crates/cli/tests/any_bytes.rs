//! Whatever bytes claim to be a trace, or events of the kernel: what the fuzz targets do (`fuzz/`)
//! with as many inputs as there is time for is done here with a few hundred that are the same in
//! every run: a real one, damaged.
//!
//! `PROACTOR_CORPUS=$PWD/fuzz/corpus cargo test --test any_bytes` also writes what the fuzz targets
//! begin from. Then: `cargo +nightly fuzz run trace`, `exports`, `kernel` or `proxy`.

#[path = "any_bytes/kernel.rs"]
mod kernel;
#[path = "any_bytes/perfetto.rs"]
mod perfetto;
#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;
#[path = "any_bytes/trace.rs"]
mod trace;

use std::fs;
use std::path::Path;

use proactor_sim::{Dice, Tier};
use proactor_trace::Trace;
use proactor_trace::format::{HEADER, RECORD};
use proactor_trace::kernel::Tracepoint;

use support::server::PROACTOR;
use support::simulated::simulated;
use support::{Client, Launch, io_uring_refused, skip};

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
fn times_that_go_anywhere_are_read_and_exported() {
    let mut dice = Dice::new(1);
    let whole = &simulated(2, Tier::Multishot)[..HEADER + RECORD * 256];
    let extremes = [0, 1, 1 << 32, 1 << 63, u64::MAX - 1, u64::MAX];
    for _ in 0..60 {
        let mut bytes = whole.to_vec();
        for record in bytes[HEADER..].chunks_exact_mut(RECORD) {
            if dice.below(4) == 0 {
                record[..8].copy_from_slice(&extremes[dice.below(6)].to_ne_bytes());
            }
        }
        trace::read(&bytes);
        trace::export(&bytes, 3);
    }
}

#[test]
fn no_damage_to_kernel_events_makes_a_reader_panic() {
    let mut dice = Dice::new(1);
    let events = kernel::events();
    let format = kernel::format(Tracepoint::Complete);
    let far = format.replace("offset:32", &format!("offset:{}", usize::MAX));
    for whole in [&events[..], kernel::PAGE.as_bytes(), format.as_bytes(), far.as_bytes()] {
        for _ in 0..400 {
            kernel::kernel(&damaged(whole, &mut dice));
        }
    }
}

/// A recording of a real server.
fn recorded(model: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.trace");
    let option = format!("--trace={}", path.display());
    let server =
        Launch::new(PROACTOR, &["serve", "--model", model, "--listen", "127.0.0.1:0", &option]);
    let server = server.start();
    let client = Client::connect(server.address());
    for _ in 0..20 {
        client.say(&[7; 64]);
        client.hear(&[7; 64]);
    }
    client.finish();
    client.hear_end();
    server.drain();
    fs::read(path).unwrap()
}

#[test]
fn what_fuzz_targets_begin_from_is_read_as_it_stands() {
    let mut traces = vec![("simulated", simulated(2, Tier::Multishot))];
    traces.push(("one-shot", simulated(2, Tier::OneShot)));
    traces.push(("epoll", recorded("epoll")));
    match io_uring_refused() {
        Some(why) => skip(&why),
        None => traces.push(("uring", recorded("uring"))),
    }
    let corpus = std::env::var_os("PROACTOR_CORPUS");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let Some(corpus) = &corpus else { return };
        let folder = Path::new(corpus).join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    };
    for (name, whole) in &traces {
        // As much of it as is let in.
        let some = &whole[..HEADER + RECORD * 256];
        assert!(Trace::from_bytes(some).unwrap().records.len() > 100, "{name}");
        trace::read(some);
        trace::export(some, 3);
        ["trace", "exports"].iter().for_each(|target| write(target, name, some));
    }
    let format = kernel::format(Tracepoint::Complete);
    for (name, bytes) in [
        ("events", &kernel::events()[..]),
        ("page", kernel::PAGE.as_bytes()),
        ("format", format.as_bytes()),
    ] {
        kernel::kernel(bytes);
        write("kernel", name, bytes);
    }
}
