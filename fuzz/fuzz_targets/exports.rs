//! Whatever reads as a trace is exported, in every format.

#![no_main]

#[path = "../../crates/cli/tests/any_bytes/trace.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod any;
#[path = "../../crates/cli/tests/any_bytes/perfetto.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod perfetto;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let most = bytes.last().map_or(0, |byte| usize::from(byte % 5));
    let admitted = any::admitted(bytes);
    any::export(admitted.as_deref().unwrap_or(bytes), most);
});
