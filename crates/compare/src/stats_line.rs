//! The JSON line in which a server reports its counters when it ends: `serve --stats`.

use serde::{Deserialize, Serialize};

use proactor::counters::Counters;

/// The schema of that line.
pub const STATS_SCHEMA: &str = "proactor.stats/2";

/// What a server reports when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStats {
    /// Name and version: [`STATS_SCHEMA`].
    pub schema: String,
    /// The name of the I/O model.
    pub model: String,
    /// What the model used: the ring's flags, the selector's trigger.
    #[serde(default)]
    pub detail: String,
    /// What the server gave up before it served.
    #[serde(default)]
    pub lock_down: Vec<String>,
    /// The server's counters: an object with one number for each.
    #[serde(with = "by_name")]
    pub counters: Counters,
}

mod by_name {
    use std::collections::HashMap;

    use proactor::counters::Counters;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(counters: &Counters, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(counters.named())
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Counters, D::Error> {
        let named = HashMap::<String, u64>::deserialize(from)?;
        Ok(Counters::from_named(named.iter().map(|(name, &value)| (name.as_str(), value))))
    }
}
