//! Kernel events: any text and any page must be read without a panic.

#![no_main]

#[path = "../../crates/cli/tests/any_bytes/kernel.rs"]
#[allow(dead_code, reason = "the seeds are made by a test")]
mod kernel;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| kernel::kernel(bytes));
