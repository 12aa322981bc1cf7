//! Synthetic events of a ring of this process: how they are matched, and what is reported.

use super::*;

/// The numbers of `IORING_OP_*`.
const RECV: u8 = 27;
const SEND: u8 = 26;

fn attached() -> WatchedProcess {
    WatchedProcess::new(std::process::id()).expect("this process runs")
}

fn event(
    time: u64,
    request: u64,
    user_data: u64,
    opcode: Option<u8>,
    (tracepoint, own): (Tracepoint, [u64; 4]),
) -> KernelEvent {
    let thread = std::process::id() as i32;
    KernelEvent { time, thread, ring: 0xa, request, user_data, opcode, tracepoint, own }
}

fn submit(time: u64, request: u64, user_data: u64, opcode: u8) -> KernelEvent {
    event(time, request, user_data, Some(opcode), (Tracepoint::SubmitReq, [0; 4]))
}

fn complete(time: u64, request: u64, user_data: u64, res: i32, flags: u32) -> KernelEvent {
    event(time, request, user_data, None, (Tracepoint::Complete, [res as u64, flags.into(), 0, 0]))
}

#[test]
fn completions_are_matched_by_address_or_else_by_user_data() {
    let mut attached = attached();
    // Two with the same user data: only their addresses differ.
    attached.observe(&submit(1000, 1, 7, RECV));
    attached.observe(&submit(2000, 2, 7, SEND));
    let line = attached.observe(&complete(5000, 1, 7, 64, 0)).expect("its ring");
    assert_eq!(
        (line.event.opcode, line.matched.and_then(|matched| matched.took)),
        (Some(RECV), Some(4000))
    );
    // Only the last completion of a multishot request has the address.
    attached.observe(&submit(6000, 3, 8, RECV));
    attached.observe(&event(6500, 3, 8, Some(RECV), (Tracepoint::TaskAdd, [0; 4])));
    let line = attached.observe(&complete(7000, 0, 8, 64, 2)).expect("its ring");
    let matched = line.matched.expect("a submission");
    assert_eq!((line.event.opcode, matched.shot, matched.after), (Some(RECV), 1, Some(500)));
    let line = attached.observe(&complete(8000, 3, 8, -105, 0)).expect("its ring");
    let matched = line.matched.expect("a submission");
    assert_eq!((matched.shot, matched.after), (2, None));
    assert!(line.text().contains("last shot (2 in 2.00 µs)") && line.text().ends_with('!'));
    // A request that was submitted earlier is only counted.
    let line = attached.observe(&complete(9000, 9, 9, 0, 0)).expect("its ring");
    assert!(line.matched.is_none() && line.text().contains("submitted earlier"));
    let json = attached.json();
    let ops = json["rings"][0]["ops"].as_array().expect("operations");
    let names: Vec<_> = ops.iter().map(|op| op["op"].as_str().unwrap_or("-")).collect();
    assert_eq!(names, ["-", "send", "recv"]);
    let recv = &ops[2];
    assert_eq!((&recv["completed"], &recv["ok"]), (&3.into(), &2.into()));
    assert_eq!((&recv["errors"]["ENOBUFS"], &recv["multishot_ended"]), (&1.into(), &1.into()));
}

#[test]
fn the_watched_time_does_not_depend_on_the_events() {
    let mut attached = attached();
    attached.observe(&submit(1000, 1, 7, RECV));
    attached.observe(&complete(5000, 1, 7, 64, 0));
    attached.watched = Duration::from_secs(2);
    assert!(attached.summary().contains("2.00 s watched"), "{}", attached.summary());
    assert_eq!(attached.json()["watched_ns"], 2_000_000_000_u64);
}

#[test]
fn each_column_of_a_line_stands_under_its_heading() {
    let (mut attached, heading) = (attached(), WatchedProcess::heading());
    attached.observe(&submit(1000, 1, 7, RECV));
    let line = attached.observe(&complete(5000, 1, 7, 64, 0)).expect("its ring").text();
    for (name, value) in [("ring", "r0"), ("what", "post"), ("op", "recv"), ("user data", "0x7")] {
        assert_eq!(heading.find(name), line.find(value), "{name}:\n{heading}\n{line}");
    }
    assert_eq!(heading.find("details"), line.find("took"), "{heading}\n{line}");
}

#[test]
fn a_notification_is_not_a_completion() {
    let mut attached = attached();
    attached.observe(&submit(0, 1, 7, 47));
    attached.observe(&complete(10, 1, 7, 64, 2));
    attached.observe(&complete(20, 5, 7, 0, 8));
    let json = attached.json();
    assert_eq!(json["rings"][0]["ops"][0]["completed"], 1);
}

#[test]
fn a_ring_of_another_process_is_ignored() {
    let mut attached = attached();
    let stranger = KernelEvent { thread: 1, ..submit(0, 1, 7, RECV) };
    assert!(attached.observe(&stranger).is_none());
    // Data arrives in any thread's time: that thread does not show whose ring it is.
    assert!(attached.observe(&event(0, 1, 7, Some(RECV), (Tracepoint::TaskAdd, [0; 4]))).is_none());
    attached.watched = Duration::from_millis(800);
    let summary = attached.summary();
    assert!(summary.contains("no activity in 800 ms ("), "{summary}");
    attached.observe(&submit(1, 1, 7, RECV));
    assert_eq!(attached.nothing_to_watch(), None);
    assert!(!attached.summary().contains("no activity"));
    assert!(WatchedProcess::new(u32::MAX).is_err());
}

#[test]
fn findings_name_what_stands_out() {
    let mut attached = attached();
    for n in 0..200 {
        attached.observe(&submit(10 * n, n + 1, n, RECV));
        attached.observe(&event(
            10 * n + 1,
            n + 1,
            n,
            Some(RECV),
            (Tracepoint::QueueAsyncWork, [0; 4]),
        ));
        attached.observe(&event(10 * n + 2, 0, 0, None, (Tracepoint::CqringWait, [1, 0, 0, 0])));
        attached.observe(&event(
            10 * n + 3,
            0,
            n,
            None,
            (Tracepoint::CqeOverflow, [-105i64 as u64, 0, 0, 0]),
        ));
    }
    let text = attached.summary();
    for word in ["overflowed: 200 of 200", "io-wq", "no buffer 200 times", "one completion"] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    attached.observe(&submit(9999, 1, 1, SEND));
    assert!(!text.contains("nothing stands out"));
}

#[test]
fn one_thing_is_not_a_plural() {
    let mut attached = attached();
    attached.observe(&submit(1000, 1, 7, RECV));
    attached.observe(&event(1500, 0, 0, None, (Tracepoint::CqringWait, [1, 0, 0, 0])));
    let one = attached
        .observe(&event(1600, 0, 0, None, (Tracepoint::LocalWorkRun, [1, 0, 0, 0])))
        .expect("its ring");
    assert!(one.text().ends_with("1 piece of deferred work"), "{}", one.text());
    attached.observe(&event(
        2000,
        0,
        7,
        None,
        (Tracepoint::CqeOverflow, [-105i64 as u64, 0, 0, 0]),
    ));
    attached.lost = 1;
    let before = attached.summary();
    attached.observe(&event(
        2500,
        2,
        8,
        Some(SEND),
        (Tracepoint::ReqFailed, [-22i64 as u64, 0, 0, 0]),
    ));
    let text = before + &attached.summary();
    let right = [
        "1 ring  1 event lost",
        "1 submission, 1 completion; 1 sleep, 1.0 completions each",
        "overflowed: 1 of 1 completion had",
        "no buffer once",
        "1 send was rejected",
    ];
    for words in right {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    attached.observe(&event(3000, 0, 0, None, (Tracepoint::CqringWait, [1, 0, 0, 0])));
    let two = attached
        .observe(&event(3600, 0, 0, None, (Tracepoint::LocalWorkRun, [2, 0, 0, 0])))
        .expect("its ring");
    assert!(two.text().ends_with("2 pieces of deferred work"), "{}", two.text());
    assert!(attached.summary().contains("; 2 sleeps"), "{}", attached.summary());
}

#[test]
fn requests_without_completions_do_not_accumulate() {
    let mut attached = attached();
    for n in 0..10_000 {
        attached.observe(&submit(n, 1 + n % 8, n, SEND));
    }
    assert_eq!(attached.rings[0].remembered(), (8, 8));
}

#[test]
fn punted_requests_of_5_10_are_counted_by_operation() {
    let mut attached = attached();
    attached.observe(&submit(1000, 0xe0, 7, RECV));
    // The event has nothing but the request.
    let line = attached
        .observe(&event(2000, 0xe0, 0, None, (Tracepoint::QueueAsyncWork, [0; 4])))
        .expect("its ring");
    assert!(line.text().contains("punt      recv             0x7"), "{}", line.text());
    // A request whose submission was not seen.
    attached.observe(&event(3000, 0xf0, 0, None, (Tracepoint::QueueAsyncWork, [0; 4])));
    let json = attached.json();
    let punts = |op: usize| json["rings"][0]["ops"][op]["punts"].clone();
    assert_eq!((punts(0), punts(1)), (1.into(), 1.into()), "{json}");
}

#[test]
fn an_unknown_count_is_not_shown_as_zero() {
    let mut attached = attached();
    attached.observe(&submit(1000, 1, 7, RECV));
    assert!(attached.summary().contains("overflow never"));
    attached.missing =
        [Tracepoint::CqeOverflow, Tracepoint::QueueAsyncWork, Tracepoint::CqringWait]
            .map(Missing::Tracepoint)
            .to_vec();
    let text = attached.summary();
    for word in ["overflow unknown", "– sleeps", "no io_uring_cqe_overflow on this kernel: "] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    let json = attached.json();
    assert_eq!(json["missing"][1], "io_uring_queue_async_work");
    let ring = &json["rings"][0];
    assert!(ring["overflows"].is_null() && ring["sleeps"].is_null(), "{json}");
    assert!(ring["ops"][0]["punts"].is_null() && ring["ops"][0]["polls"] == 0, "{json}");
}
