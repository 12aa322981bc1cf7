//! The limits of a server: what `--limits` prints, and that no client makes it use more.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use serde_json::Value;

use proactor_models::ALL;
use support::Launch;
use support::server::PROACTOR;

/// Returns the limits of `serve` with these arguments.
fn limits(args: &[&str]) -> Value {
    let exit = Launch::new(PROACTOR, &["serve", "--limits", "--json"]).args(args).run();
    assert_eq!(exit.code(), Some(0), "{exit:?}");
    serde_json::from_str(&exit.stdout.join("\n")).expect("JSON")
}

/// Returns the value of one limit.
fn limit(limits: &Value, section: &str, name: &str) -> u64 {
    let rows = limits["limits"].as_array().expect("a list").iter();
    let row = rows.clone().find(|row| row["section"] == section && row["name"] == name);
    row.and_then(|row| row["value"].as_u64()).unwrap_or_else(|| panic!("{section} {name}"))
}

#[test]
fn the_parts_of_the_user_memory_make_its_limit_on_every_model() {
    for model in ALL.map(|model| model.name()) {
        let args = ["--model", model, "--max-memory", "3G", "--max-connections", "1000"];
        let limits = limits(&args);
        let parts = ["program", "buffers", "connections", "queues"];
        let sum: u64 = parts.iter().map(|part| limit(&limits, "user memory", part)).sum();
        assert_eq!((sum, limit(&limits, "user memory", "in all")), (3 << 30, 3 << 30), "{model}");
    }
}

#[test]
fn a_limit_of_memory_below_what_the_connections_need_is_refused() {
    let exit = Launch::new(PROACTOR, &["serve", "--max-memory", "16M"]).run();
    assert_eq!(exit.code(), Some(2), "{exit:?}");
    assert!(exit.stderr.contains("--max-memory of 16.8 MB: 10,000 connections"), "{exit:?}");
}
