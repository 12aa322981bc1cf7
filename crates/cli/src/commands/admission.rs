//! The options of `serve` that limit its connections.

use std::time::Duration;

use super::number;
use proactor::limits::Limits;
use proactor::{Network, Rate};
use proactor_report::units;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct AdmissionArgs {
    /// Maximum number of concurrent connections; further ones wait in the backlog [default: 10000,
    /// or fewer if `ulimit -Hn` or --max-memory permits no more]
    #[arg(long, help_heading = "Limits", value_name = "N",
          value_parser = number::<u32>(1, 1_000_000))]
    pub(super) max_connections: Option<u32>,

    /// At the maximum of connections, close those that have never sent a byte after this time,
    /// oldest first; `off` closes none. Members of a chat, and other clients that may only listen,
    /// are not closed
    #[arg(long, help_heading = "Limits", value_name = "TIME|off", default_value = "60s",
          value_parser = time_or_off)]
    silent_timeout: TimeOrOff,

    /// Maximum number of concurrent connections of one address, of IPv6 of one /64 network; further
    /// ones are closed. Clients of a Unix socket have no address and no such limit
    #[arg(long, help_heading = "Limits", value_name = "N",
          value_parser = number::<usize>(1, 1_000_000))]
    max_connections_per_address: Option<usize>,

    /// Maximum number of connections accepted in a second, as 500/s, or in a minute, as 30/m, of
    /// all listeners together; further ones wait in the backlog. As many as in a second may come at
    /// once
    #[arg(long, help_heading = "Limits", value_name = "RATE")]
    accept_rate: Option<Rate>,

    /// Maximum number of connections of one address in a second or a minute; further ones are
    /// closed
    #[arg(long, help_heading = "Limits", value_name = "RATE")]
    accept_rate_per_address: Option<Rate>,

    /// Networks without a limit per address, for example 10.0.0.0/8,2001:db8::/32; none is exempt
    /// otherwise, 127.0.0.1 neither
    #[arg(long, help_heading = "Limits", value_name = "NETWORK,…", value_delimiter = ',')]
    exempt: Vec<Network>,

    /// Expect a header of the PROXY protocol, version 1 or 2, at the beginning of each connection,
    /// as from a balancer: limits, log and protocols then see the address of the client.
    /// Connections without a valid one are closed, and with NETWORK, those from elsewhere
    #[arg(long, help_heading = "Limits", value_name = "NETWORK,…", num_args = 0..=1,
          require_equals = true, default_missing_value = "", value_parser = networks)]
    proxy_protocol: Option<Networks>,
}

// Other names for these types, because `Vec` and `Option` have a meaning of their own to clap.
type Networks = Vec<Network>;
type TimeOrOff = Option<Duration>;

/// Parses a list of networks; there are none in an empty one.
fn networks(text: &str) -> Result<Networks, String> {
    text.split(',').filter(|_| !text.is_empty()).map(str::parse).collect()
}

fn time_or_off(text: &str) -> Result<TimeOrOff, String> {
    if text == "off" { Ok(None) } else { units::parse_positive_duration(text).map(Some) }
}

impl AdmissionArgs {
    /// Sets the limits, all but that of all connections.
    pub(super) fn apply(&self, limits: &mut Limits) {
        limits.silent_timeout = self.silent_timeout;
        limits.connections_per_address = self.max_connections_per_address;
        limits.accept_rate = self.accept_rate;
        limits.accept_rate_per_address = self.accept_rate_per_address;
        limits.exempt = self.exempt.clone();
        limits.proxy_protocol = self.proxy_protocol.clone();
    }

    /// Returns true if clients are limited by the addresses that PROXY headers name.
    pub(super) fn limits_proxied_addresses(&self) -> bool {
        let of_address = self.max_connections_per_address.is_some();
        (of_address || self.accept_rate_per_address.is_some()) && self.proxy_protocol.is_some()
    }
}
