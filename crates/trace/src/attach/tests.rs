//! Made-up tales of a ring of this very process: what is joined with what, and what is said of it.

use super::*;
use crate::kernel::Point;

/// Operations.
const RECV: u8 = 27;
const SEND: u8 = 26;

fn attached() -> Attached {
    Attached::new(std::process::id()).expect("this process runs")
}

fn told(time: u64, request: u64, user_data: u64, opcode: Option<u8>, what: Tale) -> Told {
    let thread = std::process::id() as i32;
    Told { time, thread, ring: 0xa, request, user_data, opcode, what }
}

fn submit(time: u64, request: u64, user_data: u64, opcode: u8) -> Told {
    told(time, request, user_data, Some(opcode), Tale::Submitted { by_kernel: false })
}

fn complete(time: u64, request: u64, user_data: u64, res: i32, flags: u32) -> Told {
    told(time, request, user_data, None, Tale::Completed { res, flags })
}

#[test]
fn completions_find_their_submissions_by_address_or_else_by_user_data() {
    let mut attached = attached();
    // Two with the same user data: the address tells them apart.
    attached.see(&submit(1000, 1, 7, RECV));
    attached.see(&submit(2000, 2, 7, SEND));
    let line = attached.see(&complete(5000, 1, 7, 64, 0)).expect("its ring");
    assert_eq!((line.opcode, line.done.and_then(|done| done.took)), (Some(RECV), Some(4000)));
    // All but the last of many tell no address.
    attached.see(&submit(6000, 3, 8, RECV));
    attached.see(&told(6500, 3, 8, Some(RECV), Tale::Arrived));
    let line = attached.see(&complete(7000, 0, 8, 64, 2)).expect("its ring");
    let done = line.done.expect("a submission");
    assert_eq!((line.opcode, done.shot, done.after), (Some(RECV), 1, Some(500)));
    let line = attached.see(&complete(8000, 3, 8, -105, 0)).expect("its ring");
    let done = line.done.expect("a submission");
    assert_eq!((done.shot, done.after), (2, None));
    assert!(line.text().contains("last shot (2 in 2.00 µs)") && line.text().ends_with('!'));
    // What began before is counted, and no more is said of it.
    let line = attached.see(&complete(9000, 9, 9, 0, 0)).expect("its ring");
    assert!(line.done.is_none() && line.text().contains("submitted before"));
    let json = attached.json();
    let ops = json["rings"][0]["ops"].as_array().expect("operations");
    let names: Vec<_> = ops.iter().map(|op| op["op"].as_str().unwrap_or("-")).collect();
    assert_eq!(names, ["-", "send", "recv"]);
    let recv = &ops[2];
    assert_eq!((&recv["completed"], &recv["ok"]), (&3.into(), &2.into()));
    assert_eq!((&recv["errors"]["ENOBUFS"], &recv["multishot_ended"]), (&1.into(), &1.into()));
}

#[test]
fn how_long_it_was_watched_is_no_matter_of_when_something_happened() {
    let mut attached = attached();
    attached.see(&submit(1000, 1, 7, RECV));
    attached.see(&complete(5000, 1, 7, 64, 0));
    attached.set_watched(Duration::from_secs(2));
    assert!(attached.summary().contains("2.00 s watched"), "{}", attached.summary());
    assert_eq!(attached.json()["watched_ns"], 2_000_000_000_u64);
}

#[test]
fn each_column_of_a_line_stands_under_its_heading() {
    let (mut attached, heading) = (attached(), Attached::heading());
    attached.see(&submit(1000, 1, 7, RECV));
    let line = attached.see(&complete(5000, 1, 7, 64, 0)).expect("its ring").text();
    for (name, value) in [("ring", "r0"), ("what", "cqe"), ("op", "recv"), ("user data", "0x7")] {
        assert_eq!(heading.find(name), line.find(value), "{name}:\n{heading}\n{line}");
    }
    assert_eq!(heading.find("details"), line.find("took"), "{heading}\n{line}");
}

#[test]
fn a_notification_is_no_answer() {
    let mut attached = attached();
    attached.see(&submit(0, 1, 7, 47));
    attached.see(&complete(10, 1, 7, 64, 2));
    attached.see(&complete(20, 5, 7, 0, 8));
    let json = attached.json();
    assert_eq!(json["rings"][0]["ops"][0]["completed"], 1);
}

#[test]
fn another_processs_ring_is_not_looked_at() {
    let mut attached = attached();
    let stranger = Told { thread: 1, ..submit(0, 1, 7, RECV) };
    assert!(attached.see(&stranger).is_none());
    // Data arrive in anybody's time: that thread says nothing of whose ring it is.
    assert!(attached.see(&told(0, 1, 7, Some(RECV), Tale::Arrived)).is_none());
    let silence = attached.silence().expect("nothing was seen");
    assert!(silence.contains("nothing was told of a ring of process"), "{silence}");
    attached.see(&submit(1, 1, 7, RECV));
    assert_eq!(attached.silence(), None);
    assert!(Attached::new(u32::MAX).is_err());
}

#[test]
fn what_stands_out_is_found() {
    let mut attached = attached();
    for n in 0..200 {
        attached.see(&submit(10 * n, n + 1, n, RECV));
        attached.see(&told(10 * n + 1, n + 1, n, Some(RECV), Tale::Punted));
        attached.see(&told(10 * n + 2, 0, 0, None, Tale::Waited { least: 1 }));
        attached.see(&told(10 * n + 3, 0, n, None, Tale::Overflowed { res: -105, flags: 0 }));
    }
    let text = attached.summary();
    for word in ["overflowed: 200 of 200", "io-wq", "no buffer 200 times", "one completion"] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    attached.see(&submit(9999, 1, 1, SEND));
    assert!(!text.contains("nothing stands out"));
}

#[test]
fn one_of_a_thing_is_no_plural() {
    let mut attached = attached();
    attached.see(&submit(1000, 1, 7, RECV));
    attached.see(&told(1500, 0, 0, None, Tale::Waited { least: 1 }));
    let one = attached.see(&told(1600, 0, 0, None, Tale::Worked { count: 1 })).expect("its ring");
    assert!(one.text().ends_with("1 piece of deferred work"), "{}", one.text());
    attached.see(&told(2000, 0, 7, None, Tale::Overflowed { res: -105, flags: 0 }));
    attached.set_lost(1);
    let before = attached.summary();
    attached.see(&told(2500, 2, 8, Some(SEND), Tale::Refused { error: -22 }));
    let text = before + &attached.summary();
    let right = [
        "1 ring  1 event lost",
        "1 submission, 1 completion; 1 sleep, 1.0 completions each",
        "overflowed: 1 of 1 completion had",
        "no buffer once",
        "1 send was refused",
    ];
    for words in right {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    attached.see(&told(3000, 0, 0, None, Tale::Waited { least: 1 }));
    let two = attached.see(&told(3600, 0, 0, None, Tale::Worked { count: 2 })).expect("its ring");
    assert!(two.text().ends_with("2 pieces of deferred work"), "{}", two.text());
    assert!(attached.summary().contains("; 2 sleeps"), "{}", attached.summary());
}

#[test]
fn what_never_completes_does_not_pile_up() {
    let mut attached = attached();
    for n in 0..10_000 {
        attached.see(&submit(n, 1 + n % 8, n, SEND));
    }
    assert_eq!(attached.rings[0].remembered(), (8, 8));
}

#[test]
fn what_5_10_hands_to_its_threads_is_counted_by_operation() {
    let mut attached = attached();
    attached.see(&submit(1000, 0xe0, 7, RECV));
    // The request is all that it says.
    let line = attached.see(&told(2000, 0xe0, 0, None, Tale::Punted)).expect("its ring");
    assert!(line.text().contains("punt    recv         0x7"), "{}", line.text());
    // Another's request, of which nothing was seen.
    attached.see(&told(3000, 0xf0, 0, None, Tale::Punted));
    let json = attached.json();
    let punts = |op: usize| json["rings"][0]["ops"][op]["punts"].clone();
    assert_eq!((punts(0), punts(1)), (1.into(), 1.into()), "{json}");
}

#[test]
fn what_a_kernel_does_not_tell_is_not_shown_as_none() {
    let mut attached = attached();
    attached.see(&submit(1000, 1, 7, RECV));
    assert!(attached.summary().contains("overflow never"));
    attached.set_lacks(&[Point::Overflow, Point::Punt, Point::Wait].map(Lack::Point));
    let text = attached.summary();
    for word in ["overflow not told", "– sleeps", "no io_uring_cqe_overflow on this kernel: "] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    let json = attached.json();
    assert_eq!(json["not_told"][1], "io_uring_queue_async_work");
    let ring = &json["rings"][0];
    assert!(ring["overflows"].is_null() && ring["sleeps"].is_null(), "{json}");
    assert!(ring["ops"][0]["punts"].is_null() && ring["ops"][0]["polls"] == 0, "{json}");
}
