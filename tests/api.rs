//! The public names of the crate: one list, so that a name is added on purpose.

/// The names in the root, and the modules that are documented.
const NAMES: [&str; 28] = [
    "Address",
    "Builder",
    "Chunk",
    "CloseReason",
    "Counters",
    "Error",
    "Handle",
    "Input",
    "Limits",
    "Model",
    "Needs",
    "Network",
    "Outbox",
    "Payload",
    "Peer",
    "PeerHandle",
    "Protocol",
    "Rate",
    "Received",
    "Report",
    "Running",
    "SendError",
    "Server",
    "Timeouts",
    "TooLong",
    "parts",
    "protocols",
    "testing",
];

/// Returns the names that `lib.rs` makes public and does not hide.
fn public_names(source: &str) -> Vec<String> {
    let (mut names, mut hidden) = (Vec::new(), false);
    for line in source.lines() {
        if let Some(module) = line.strip_prefix("pub mod ").filter(|_| !hidden) {
            names.push(module.trim_end_matches([';', ' ', '{']).to_owned());
        } else if let Some(used) = line.strip_prefix("pub use ") {
            let used = used.trim_end_matches(';');
            let used = used.rsplit_once("::").map_or(used, |(_, last)| last);
            let listed = used.split([',', '{', '}', ' ']).filter(|name| !name.is_empty());
            let (path, last) = line.rsplit_once("::").unwrap_or_default();
            assert!(!path.contains('{') && !last.is_empty(), "one path for each line: {line}");
            names.extend(listed.map(str::to_owned));
        }
        hidden = line == "#[doc(hidden)]";
    }
    names.sort_by_key(|name| (name.starts_with(char::is_lowercase), name.clone()));
    names
}

#[test]
fn the_public_names_are_these() {
    assert_eq!(public_names(include_str!("../src/lib.rs")), NAMES);
}
