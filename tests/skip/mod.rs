//! The one way in which a test leaves out what a machine does not have.

use std::collections::BTreeMap;
use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Mutex;

/// Says that a case is left out, and why. With `PROACTOR_NO_SKIPS` set it fails instead: where
/// everything should be there, all must run.
pub(crate) fn skip(reason: &str) {
    assert!(env::var_os("PROACTOR_NO_SKIPS").is_none(), "a case was left out: {reason}");
    leave_out("skipped", reason);
}

/// Says past the capture of the test harness that a case is left out; counts by reason. A line goes
/// to the file that `PROACTOR_SKIPS` names, which `.ci/run` sums up.
pub(crate) fn leave_out(how: &str, reason: &str) {
    static LEFT_OUT: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
    let mut left_out = LEFT_OUT.lock().expect("no thread panics while it counts");
    let count = left_out.entry(format!("{how}: {reason}")).or_default();
    *count += 1;
    writeln!(io::stderr(), "{how}: {count} ({reason})").expect("stderr is open");
    if let Some(path) = env::var_os("PROACTOR_SKIPS") {
        // One write of one line: several test programs append to the file.
        let line = format!("{how}: {reason}\n");
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("a writable file");
    }
}
