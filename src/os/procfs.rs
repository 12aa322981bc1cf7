//! Texts of /proc and /sys.

use std::fs;
use std::path::Path;

/// Returns the content of a file without the space around it, unless it is empty or cannot be read.
pub fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Returns what follows `name` on the first line that begins with it: `VmPTE:  64 kB`, or
/// `Max processes  63  63`.
pub fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim_start().trim_start_matches(':').trim())
}

/// Returns the number that follows `name`.
pub fn number(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_follows_its_name() {
        let limits =
            "Max cpu time  unlimited  unlimited  seconds\nMax processes  63  64  processes\n";
        assert_eq!(number(limits, "Max processes"), Some(63));
        assert_eq!(number(limits, "Max cpu time"), None);
        assert_eq!(number("Name:\tx\nUid:\t0\t1\t0\t0\n", "Uid:"), Some(0));
        assert_eq!(field("model name\t: AMD EPYC\n", "model name"), Some("AMD EPYC"));
    }
}
