//! What is the same in all views: two of a kind compared, gaps, and JSON.

use super::super::{ConnectionList, ConnectionTimeline, Cut, Diff, Doctor, Summary};
use super::tape::{SEND, Tape, ring, selector};
use proactor::ring::Kind;

#[test]
fn two_traces_are_compared_per_message_and_nonsense_is_refused() {
    let diff = Diff::new(selector("epoll").stats(), ring().stats()).unwrap();
    let line = |name: &str| diff.lines.iter().find(|line| line.name == name).unwrap();
    let calls = line("system calls / message");
    assert_eq!((calls.a, calls.b), (Some(503.0 / 200.0), Some(403.0 / 200.0)));
    assert_eq!((line("  recv calls").a, line("  recv calls").b), (Some(1.0), None));
    let text = diff.to_string();
    assert!(text.contains("0.80×") && text.contains("answered is left out"), "{text}");

    let none = Diff::new(ring().stats(), Tape::new("epoll").stats()).unwrap_err();
    assert!(none.contains("second trace has no message"), "{none}");
    let mut sample = ring().stats();
    sample.source.sample = 4;
    let refused = Diff::new(sample, ring().stats()).unwrap_err();
    assert!(refused.contains("sample of 1 in 4"), "{refused}");
}

#[test]
fn where_records_are_lost_nothing_is_paired_over_the_gap_and_the_view_says_so() {
    let mut tape = ring();
    tape.sqe(Kind::Send, 0, 64);
    tape.log.freeze(crate::Frozen::Signal);
    tape.entered(5).cqe(Kind::Send, 0, 64, 0);
    tape.log.thaw();
    // Its submission is seen, a completion is not, and this is of another.
    tape.entered(5).cqe(Kind::Send, 0, 64, 0);
    let stats = tape.stats();
    assert_eq!(stats.source.lost, 3);
    let send = stats.op(SEND).unwrap();
    assert_eq!((send.begun, send.ended, send.unseen), (201, 201, 1));
    assert_eq!(send.ages.unwrap().samples, 200);
    assert!(stats.source.to_string().contains("note: 3 records were not written"));
    assert_eq!(stats.buffers.unwrap().fewest, None, "how many were lent is not known");
    assert_eq!(tape.findings(), ["records-lost"], "and no fault of the loop is made of it");
}

#[test]
fn json_has_a_schema_and_what_the_text_says() {
    let json = |view: &dyn erased::Json| view.json();
    let stats = ring().stats();
    let summary = json(&Summary { stats: stats.clone() });
    assert_eq!(summary["schema"], "proactor.trace.summary/2");
    assert_eq!(summary["messages"], 200);
    assert_eq!(summary["ops"][0]["op"], "accept");
    assert_eq!(json(&Doctor::new(stats.clone()).health)["verdict"], "healthy");
    assert_eq!(json(&Doctor::new(stats.clone()))["schema"], "proactor.trace.doctor/2");
    let timeline =
        ConnectionTimeline::of(&ring().trace(), &Cut::default(), (0, None), 3, false).unwrap();
    assert_eq!(json(&timeline)["lines"][0]["step"]["what"], "recv armed #1");
    assert_eq!(json(&ConnectionList::new(stats.clone(), 9))["connections"][1]["messages"], 100);
    let diff = json(&Diff::new(stats.clone(), stats).unwrap());
    assert_eq!(diff["lines"][0]["name"], "messages");
}

/// Views as JSON, whatever they are.
mod erased {
    pub(super) trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}
