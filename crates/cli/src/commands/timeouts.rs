//! The options of `serve` for the time limits of connections.

use std::str::FromStr;
use std::time::Duration;

use proactor::limits::{Limits, Timeouts};
use proactor_report::units;

/// A limit of time, or `off`.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimit(Option<Duration>);

impl FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<TimeLimit, String> {
        /// The longest time of a keepalive that the kernel takes, rounded down.
        const MOST: Duration = Duration::from_secs(9 * 3600);
        if text == "off" {
            return Ok(TimeLimit(None));
        }
        match units::parse_positive_duration(text).map_err(|error| format!("{error}, or `off`"))? {
            time if time <= MOST => Ok(TimeLimit(Some(time))),
            _ => Err(format!("invalid duration `{text}`: the maximum is 9h; `off` is no limit")),
        }
    }
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct TimeoutArgs {
    /// Close a connection that is owed bytes if its peer acknowledges none of them for this time;
    /// `off` is no limit
    #[arg(long, help_heading = "Limits", value_name = "TIME", default_value = "60s")]
    send_timeout: TimeLimit,

    /// The same, while others wait for the connection: members of its chat that it throttles, or
    /// connections that need the buffers it holds
    #[arg(
        long,
        help_heading = "Limits",
        value_name = "TIME",
        default_value = "10s",
        visible_alias = "room-timeout"
    )]
    evict_timeout: TimeLimit,

    /// Close a connection if nothing is received and nothing sent for this time
    #[arg(long, help_heading = "Limits", value_name = "TIME", default_value = "off")]
    idle_timeout: TimeLimit,

    /// Close a connection whose client sends nothing for this time after it is accepted
    #[arg(long, help_heading = "Limits", value_name = "TIME", default_value = "off")]
    first_byte_timeout: TimeLimit,

    /// Close a connection if a message of its client, such as a line, is incomplete for this time
    #[arg(long, help_heading = "Limits", value_name = "TIME", default_value = "off")]
    receive_timeout: TimeLimit,

    /// Have the kernel ask, after this time without a packet, whether a TCP client is still there;
    /// one that has vanished is noticed after twice this time
    #[arg(long, help_heading = "Limits", value_name = "TIME", default_value = "300s")]
    keepalive: TimeLimit,
}

impl TimeoutArgs {
    /// Sets the limits that these options name.
    pub(super) fn apply(self, limits: &mut Limits) {
        let Timeouts { send, evict, idle, first_byte, receive, .. } = &mut limits.timeouts;
        for (limit, TimeLimit(asked)) in [
            (send, self.send_timeout),
            (evict, self.evict_timeout),
            (idle, self.idle_timeout),
            (first_byte, self.first_byte_timeout),
            (receive, self.receive_timeout),
            (&mut limits.keepalive, self.keepalive),
        ] {
            *limit = asked;
        }
    }
}
