//! A reader is given any bytes: as they come, and again behind a header that lets them in.

#![no_main]

#[path = "../../crates/cli/tests/any_bytes/trace.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod any;
#[path = "../../crates/cli/tests/any_bytes/perfetto.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod perfetto;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    any::read(bytes);
    if let Some(bytes) = any::admitted(bytes) {
        any::read(&bytes);
        any::follow(&bytes);
    }
});
