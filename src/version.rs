//! The version of a kernel, as far as features go.

use std::fmt;
use std::str::FromStr;

use proactor_record::sys;

/// The oldest kernel whose io_uring suffices: SEND, RECV, ACCEPT, CLOSE, READ and the probe for
/// them.
pub const OLDEST_VERSION: Version = Version { major: 5, minor: 6 };

/// A kernel's version, as far as features go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The 6 of 6.1.
    pub major: u16,
    /// The 1 of 6.1.
    pub minor: u16,
}

impl Version {
    /// Returns the version of the running kernel.
    pub fn running() -> Option<Version> {
        let release = release();
        let mut numbers = release.split(|one: char| !one.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        Some(Version { major: number()?, minor: number()? })
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let wrong = || format!("invalid kernel version {text:?}: write it as 6.1");
        let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
        let number = |part: &str| part.parse().map_err(|_| wrong());
        Ok(Version { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Returns the release of the running kernel, as `uname -r` prints it.
pub fn release() -> String {
    sys::uname().split(' ').nth(1).unwrap_or("unknown").to_owned()
}
