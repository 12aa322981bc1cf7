//! The option `--metrics`: where they are served, and what of.

use std::io;
use std::str::FromStr;
use std::time::SystemTime;

use super::stderr;
use proactor::address::{Address, BoundSocket, SocketFile};
use proactor::model::PreparedModel;
use proactor::status::ServerMonitor;
use proactor_metrics::{CLIENTS_MAX, DESCRIPTORS, Metrics, PATHS, ServerFacts};

/// Where the metrics are served. A port alone is one of loopback.
#[derive(Debug, Clone)]
pub(super) struct MetricsAddress(pub(super) Address);

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<MetricsAddress, String> {
        let port = text.parse::<u16>().map(|port| format!("127.0.0.1:{port}"));
        port.as_deref().unwrap_or(text).parse().map(MetricsAddress)
    }
}

impl MetricsAddress {
    /// The most descriptors that are open for them, with one listener.
    pub(super) const DESCRIPTORS: usize = DESCRIPTORS + 1 + CLIENTS_MAX;
}

/// Returns what serves the metrics, and the files of its Unix sockets, which are removed when they
/// are dropped.
///
/// # Errors
/// No descriptor is left.
pub(super) fn monitor(
    sockets: Vec<BoundSocket>,
    prepared: &PreparedModel,
) -> io::Result<(Box<dyn ServerMonitor>, Vec<SocketFile>)> {
    let about = ServerFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: prepared.model.name().to_owned(),
        features: prepared.features.clone(),
        started: SystemTime::now(),
        log_lines_dropped: stderr::dropped,
    };
    let mut files = Vec::new();
    let listeners = sockets.into_iter().map(|socket| {
        files.extend(socket.file);
        socket.fd
    });
    let metrics = Metrics::new(listeners.collect(), about)?;
    Ok((Box::new(metrics), files))
}

/// Returns the line that says where they are.
pub(super) fn announcement(address: &Address) -> String {
    match address {
        Address::Unix(_) => format!("metrics on {address}"),
        _ => format!("metrics on http://{address}{}", PATHS[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_loopback_and_any_other_address_is_written_in_full() {
        for (text, address) in [
            ("9100", "127.0.0.1:9100"),
            ("0.0.0.0:9100", "0.0.0.0:9100"),
            ("[::1]:0", "[::1]:0"),
            ("unix:/run/metrics", "unix:/run/metrics"),
        ] {
            let MetricsAddress(found) = text.parse().unwrap();
            assert_eq!(found.to_string(), address);
        }
        for wrong in ["", "70000", "0.0.0.0", ":9100", "all"] {
            wrong.parse::<MetricsAddress>().expect_err(wrong);
        }
    }

    #[test]
    fn the_line_for_a_port_is_a_url() {
        let line = |text: &str| announcement(&text.parse().unwrap());
        assert_eq!(line("127.0.0.1:9"), "metrics on http://127.0.0.1:9/metrics");
        assert_eq!(line("unix:/a"), "metrics on unix:/a");
    }
}
