//! The dashboard and the alert rules name only metrics that a server shows.

#[path = "../../../tests/skip/mod.rs"]
mod skip;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics").join(name)
}

/// Returns the words of a text that look like names of metrics.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| ["proactor_", "process_"].iter().any(|it| word.starts_with(it))).collect()
}

fn assert_are_shown(text: &str, least: usize) {
    let shown = proactor_metrics::names();
    let named = named(text);
    let others: Vec<_> = named.iter().filter(|name| !shown.iter().any(|it| it == *name)).collect();
    assert!(others.is_empty(), "no server shows {others:?}");
    assert!(named.len() >= least, "only {named:?}");
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let text = std::fs::read_to_string(file("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().expect("panels");
    for panel in panels {
        let targets = panel["targets"].as_array().expect("targets");
        for target in targets {
            let expr = target["expr"].as_str().expect("an expression");
            assert!(!named(expr).is_empty(), "{expr}");
        }
        assert!(!targets.is_empty() && panel["title"].is_string(), "{panel}");
    }
    assert_are_shown(&text, 20);
}

#[test]
fn the_alert_rules_are_of_metrics_that_there_are_and_promtool_reads_them() {
    let rules = file("alerts.yml");
    let text = std::fs::read_to_string(&rules).unwrap();
    assert_are_shown(&text, 10);
    let Ok(checked) = Command::new("promtool").args(["check", "rules"]).arg(&rules).output() else {
        return skip::skip("no promtool to check the alert rules with");
    };
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.contains("9 rules found"), "{said}");
}
