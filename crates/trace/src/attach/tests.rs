//! Synthetic events of a ring of this process: how they are matched, and what is reported.

use super::rings::MatchedCompletion;
use super::*;
use crate::trace_file::TraceFile;
use crate::view::{Cut, Doctor, OpRow, TraceStats};

/// The numbers of `IORING_OP_*`.
const RECV: u8 = 27;
const SEND: u8 = 26;

fn attached() -> WatchedRings {
    let mut attached = WatchedRings::new(std::process::id()).expect("this process runs");
    attached.begin(false).expect("it still runs");
    attached
}

/// An event of a ring of this process, as a line and with its match.
fn seen(attached: &mut WatchedRings, event: KernelEvent) -> (RingEvent, MatchedCompletion) {
    let event = attached.observe(&event).expect("its ring");
    let Some(SeenCompletion::Matched(matched)) = event.completion else {
        panic!("no match: {event:?}")
    };
    (event, matched)
}

/// The counts of an operation in the summary; `None` if there are none.
fn op(attached: &WatchedRings, ring: usize, name: &str) -> Option<serde_json::Value> {
    let json = attached.json();
    let ops = json["rings"][ring]["ops"].as_array().expect("operations").clone();
    ops.into_iter().find(|op| op["op"] == name)
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
    let (line, matched) = seen(&mut attached, complete(5000, 1, 7, 64, 0));
    assert_eq!((line.event.opcode, matched.took), (Some(RECV), Some(4000)));
    // Only the last completion of a multishot request has the address.
    attached.observe(&submit(6000, 3, 8, RECV));
    attached.observe(&event(6500, 3, 8, Some(RECV), (Tracepoint::TaskAdd, [0; 4])));
    let (line, matched) = seen(&mut attached, complete(7000, 0, 8, 64, 2));
    assert_eq!((line.event.opcode, matched.shot, matched.after), (Some(RECV), 1, Some(500)));
    let (line, matched) = seen(&mut attached, complete(8000, 3, 8, -105, 0));
    assert_eq!((matched.shot, matched.after), (2, None));
    assert!(line.text().contains("last shot (2 in 2.00 µs)") && line.text().ends_with('!'));
    // A request that was submitted earlier is only counted.
    let line = attached.observe(&complete(9000, 9, 9, 0, 0)).expect("its ring");
    assert!(line.text().contains("submission not seen"), "{}", line.text());
    let json = attached.json();
    let ops = json["rings"][0]["ops"].as_array().expect("operations");
    let names: Vec<_> = ops.iter().map(|op| op["op"].as_str().unwrap_or("-")).collect();
    assert_eq!(names, ["-", "send", "recv"]);
    let recv = &ops[2];
    assert_eq!((&recv["completed"], &recv["ok"]), (&3.into(), &2.into()));
    assert_eq!((&recv["errors"]["ENOBUFS"], &recv["multishot_ended"]), (&1.into(), &1.into()));
}

/// A thread that belongs to no process here.
const STRANGER: i32 = -1;
const NOP: u8 = 0;
const POLL: u8 = 6;

fn create(thread: i32) -> KernelEvent {
    KernelEvent { thread, ..event(0, 0, 0, None, (Tracepoint::Create, [5, 0, 8, 16])) }
}

#[test]
fn a_strangers_ring_at_the_address_of_a_closed_one_is_not_ours() {
    let mut attached = attached();
    let me = std::process::id() as i32;
    attached.observe(&create(me));
    attached.observe(&submit(1, 1, 7, NOP));
    assert!(attached.observe(&create(STRANGER)).is_none());
    let stranger = KernelEvent { thread: STRANGER, ..submit(2, 2, 7, NOP) };
    assert!(attached.observe(&stranger).is_none());
    let arrival = event(3, 2, 7, Some(NOP), (Tracepoint::TaskAdd, [0; 4]));
    assert!(attached.observe(&arrival).is_none(), "in any thread's time");
    assert_eq!(op(&attached, 0, "nop").expect("a nop")["submitted"], 1);
    // A ring of ours at that address is another one.
    attached.observe(&create(me));
    attached.observe(&submit(4, 1, 7, NOP));
    let rings = attached.json()["rings"].as_array().expect("rings").len();
    assert_eq!((rings, &op(&attached, 1, "nop").expect("a nop")["submitted"]), (2, &1.into()));
}

#[test]
fn failed_operations_come_first_and_are_never_nothing() {
    let mut attached = attached();
    for n in 0..20 {
        attached.observe(&submit(10 * n, 1, n, RECV));
        attached.observe(&complete(10 * n + 1, 1, n, if n % 4 == 0 { -9 } else { -104 }, 0));
    }
    let text = attached.summary();
    let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("no {words} in\n{text}"));
    assert!(place("recv       ECONNRESET     15              20  r0") < place("recv       EBADF"));
    assert!(place("EBADF") < place("r0  thread"), "{text}");
    assert!(!text.contains("nothing stands out"), "{text}");
    let json = attached.json();
    assert_eq!(
        (&json["errors"][0]["error"], &json["errors"][0]["of"]),
        (&"ECONNRESET".into(), &20.into())
    );
    // A timeout that is due is no failure.
    let mut attached = self::attached();
    attached.observe(&submit(0, 1, 7, 11));
    attached.observe(&complete(9, 1, 7, -62, 0));
    let text = attached.summary();
    assert!(text.contains("1 ETIME\n") && text.contains("nothing stands out"), "{text}");
    assert!(!text.contains("errors of"), "{text}");
}

#[test]
fn after_a_loss_counts_are_lower_bounds_and_nothing_is_concluded() {
    let mut attached = attached();
    attached.observe(&submit(0, 1, 7, NOP));
    attached.observe(&complete(500, 1, 7, 0, 0));
    attached.observe(&submit(1000, 1, 7, NOP));
    attached.note_losses(3);
    // Its completion was lost, and a later request has its address and its user data.
    assert!(attached.observe(&complete(8000, 0, 7, 0, 0)).is_none(), "whose ring is it?");
    attached.observe(&submit(8900, 5, 1, NOP));
    let line = attached.observe(&complete(9000, 1, 7, 0, 0)).expect("its ring");
    assert!(line.text().contains("submission not seen"), "{}", line.text());
    attached.observe(&submit(9100, 2, 7, NOP));
    attached.observe(&submit(9200, 2, 8, NOP));
    attached.note_losses(3);
    attached.observe(&submit(9300, 2, 9, NOP));
    attached.observe(&complete(9400, 2, 9, 0, 0));
    for n in 0..200 {
        attached.observe(&event(9500 + n, 0, 0, None, (Tracepoint::CqringWait, [1, 0, 0, 0])));
    }
    let nop = op(&attached, 0, "nop").expect("nops");
    assert_eq!(
        (&nop["skipped_cqes"], &nop["submit_to_cqe"]["samples"]),
        (&serde_json::Value::Null, &1.into())
    );
    assert_eq!(attached.json()["rings"].as_array().expect("rings").len(), 1, "it is the same ring");
    let text = attached.summary();
    assert!(text.contains("3 events lost") && text.contains("counts are lower bounds"), "{text}");
    for word in ["nothing stands out", "SKIP_SUCCESS", "! "] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
    // The gap is over.
    attached.note_losses(3);
    attached.observe(&submit(10_000, 2, 9, NOP));
    seen(&mut attached, complete(10_100, 2, 9, 0, 0));
    assert_eq!(op(&attached, 0, "nop").expect("nops")["submit_to_cqe"]["samples"], 2);
    // A loss may have hidden whose ring has this address now.
    attached.note_losses(4);
    let stranger = KernelEvent { thread: STRANGER, ..submit(20_000, 3, 9, NOP) };
    assert!(attached.observe(&stranger).is_none());
    let arrival = event(20_100, 3, 9, Some(NOP), (Tracepoint::TaskAdd, [0; 4]));
    assert!(attached.observe(&arrival).is_none());
}

/// An event of a new task of this process: a thread, or with other flags a child process.
fn new_task(number: i32, flags: u64) -> KernelEvent {
    let name = u64::from_ne_bytes(*b"quick\0\0\0");
    event(0, 0, 0, None, (Tracepoint::NewTask, [number as u64, flags, name, 0]))
}

#[test]
fn a_thread_that_has_ended_before_its_events_are_read_is_ours() {
    let mut attached = attached();
    attached.observe(&new_task(-2, 0x10000));
    attached.observe(&create(-2));
    assert!(attached.observe(&KernelEvent { thread: -2, ..submit(1, 1, 7, NOP) }).is_some());
    assert!(attached.summary().contains("r0  thread -2 (quick)"), "{}", attached.summary());
}

#[test]
fn a_ring_of_a_child_is_shown_if_it_is_followed_and_is_else_the_reason() {
    let mut attached = attached();
    attached.observe(&new_task(-3, 0));
    assert!(attached.observe(&create(-3)).is_none());
    let why = attached.nothing_to_watch().expect("nothing");
    assert!(why.ends_with("its child process -3 (quick) has rings: -f watches children"), "{why}");
    attached.begin(true).expect("it runs");
    attached.observe(&new_task(-3, 0));
    attached.observe(&create(-3));
    attached.observe(&KernelEvent { thread: -3, ..submit(1, 1, 7, NOP) });
    let process = &attached.json()["processes"][0];
    assert_eq!((&process["pid"], &process["name"]), (&(-3).into(), &"quick".into()));
    assert_eq!((&process["rings"], &process["submitted"]), (&1.into(), &1.into()));
}

#[test]
fn the_reason_for_nothing_does_not_hide_a_loss() {
    let mut attached = attached();
    attached.note_losses(5);
    let why = attached.nothing_to_watch().expect("nothing");
    assert!(why.ends_with("no operation was seen, but events were lost"), "{why}");
}

#[test]
fn requests_with_the_same_user_data_are_distinguished() {
    let mut attached = attached();
    attached.observe(&submit(0, 1, 7, POLL));
    for n in 1..=500 {
        attached.observe(&submit(100 * n, 2, 7, NOP));
        seen(&mut attached, complete(100 * n + 1, 2, 7, 0, 0));
        let (line, matched) = seen(&mut attached, complete(100 * n + 2, 0, 7, 1, 2));
        assert_eq!((line.event.opcode, matched.shot), (Some(POLL), n));
    }
    let (_, matched) = seen(&mut attached, complete(99_999, 1, 7, -125, 0));
    assert_eq!(matched.shot, 501);
    let (poll, nop) =
        (op(&attached, 0, "poll_add").expect("polls"), op(&attached, 0, "nop").expect("nops"));
    assert_eq!((&poll["completed"], &nop["completed"]), (&501.into(), &500.into()));
    assert_eq!(attached.rings[0].remembered(), (0, 0));
    // The same if the shorter request is older, and if its completion has no address.
    attached.observe(&submit(0, 2, 7, NOP));
    attached.observe(&submit(1, 1, 7, POLL));
    let (line, _) = seen(&mut attached, event(2, 0, 7, None, (Tracepoint::CqeOverflow, [0; 4])));
    assert_eq!(line.event.opcode, Some(NOP));
    let (line, _) = seen(&mut attached, complete(3, 0, 7, 1, 2));
    assert_eq!(line.event.opcode, Some(POLL));
    // The same while both are in flight, whichever is older.
    for (older, younger) in [((3, POLL), (4, NOP)), ((5, NOP), (6, POLL))] {
        let mut attached = self::attached();
        attached.observe(&submit(10, older.0, 7, older.1));
        attached.observe(&submit(11, younger.0, 7, younger.1));
        let (line, _) = seen(&mut attached, complete(12, 0, 7, 1, 2));
        assert_eq!(line.event.opcode, Some(POLL), "{older:?} is older than {younger:?}");
    }
}

#[test]
fn a_request_at_the_address_of_another_one_is_not_that_one() {
    let mut attached = attached();
    // It ends without a completion, and a request with its address completes whose submission was
    // not seen.
    attached.observe(&submit(0, 1, 7, SEND));
    let line = attached.observe(&complete(10, 1, 8, 64, 0)).expect("its ring");
    assert!(line.text().contains("submission not seen"), "{}", line.text());
    assert_eq!(op(&attached, 0, "send").expect("a send")["completed"], 0);
}

#[test]
fn a_refused_submission_completes_as_what_it_was() {
    let mut attached = attached();
    let refused = (Tracepoint::ReqFailed, [-22i64 as u64, 0, 0, 0]);
    attached.observe(&event(1000, 1, 7, Some(200), refused));
    let (line, _) = seen(&mut attached, complete(1100, 1, 7, -22, 0));
    assert_eq!(line.event.opcode, Some(200));
    let counts = op(&attached, 0, "op 200").expect("its row");
    assert_eq!((&counts["rejected"], &counts["completed"]), (&1.into(), &1.into()));
    assert_eq!(attached.json()["rings"][0]["ops"].as_array().expect("rows").len(), 1);
}

#[test]
fn a_message_of_another_ring_is_not_a_completion_of_an_earlier_submission() {
    let mut attached = attached();
    attached.observe(&submit(0, 1, 8, NOP));
    let line = attached.observe(&complete(10, 0, 8, 5, 0)).expect("its ring").text();
    assert!(line.contains("message of another ring"), "{line}");
    let text = attached.summary();
    assert!(text.contains("(message)") && !text.contains("(unseen)"), "{text}");
    assert_eq!(op(&attached, 0, "nop").expect("a nop")["completed"], 0);
    // A kernel that does not name requests does not say so.
    attached.missing = vec![Missing::Request];
    seen(&mut attached, complete(20, 0, 8, 5, 0));
}

#[test]
fn a_message_outside_a_full_queue_is_known_if_all_submissions_were_seen() {
    let mut attached = attached();
    let is_message = |attached: &mut WatchedRings| {
        let overflow = (Tracepoint::CqeOverflow, [0; 4]);
        let line = attached.observe(&event(10, 0, 9, None, overflow)).expect("its ring").text();
        line.contains("message of another ring")
    };
    attached.observe(&submit(0, 1, 8, NOP));
    assert!(!is_message(&mut attached), "it may have been submitted before");
    attached.observe(&create(std::process::id() as i32));
    attached.observe(&submit(20, 1, 8, NOP));
    assert!(is_message(&mut attached));
    attached.note_losses(1);
    attached.observe(&submit(30, 1, 8, NOP));
    assert!(!is_message(&mut attached), "its submission may be lost");
}

#[test]
fn an_enter_is_counted_for_the_ring_that_its_thread_uses() {
    let mut attached = attached();
    let enter = || event(0, 0, 0, None, (Tracepoint::Enter, [0; 4]));
    for _ in 0..3 {
        attached.observe(&enter());
        for request in 1..=4 {
            attached.observe(&submit(1, request, request, NOP));
            attached.observe(&complete(2, request, request, 0, 0));
        }
    }
    // One that does nothing, one that is the last, one of a stranger.
    attached.observe(&enter());
    attached.observe(&enter());
    attached.observe(&KernelEvent { thread: STRANGER, ..enter() });
    attached.end();
    assert_eq!(attached.json()["rings"][0]["enters"], 5);
    let text = attached.summary();
    assert!(
        text.contains("5 enters: 12 submissions, 2.4 each, 12 completions, 2.4 each"),
        "{text}"
    );
}

#[test]
fn busy_threads_of_other_processes_are_named_once() {
    let mut attached = attached();
    for n in 0..u64::from(BUSY) {
        attached.observe(&KernelEvent { thread: STRANGER, ..submit(n, 1, 7, NOP) });
        attached.observe(&KernelEvent { ring: 0xb, ..submit(n, 1, 7, NOP) });
    }
    assert_eq!((attached.busy_strangers(), attached.busy_strangers()), (vec![STRANGER], vec![]));
    assert_eq!(attached.addresses(), [0xb]);
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
    let (mut attached, heading) = (attached(), WatchedRings::heading());
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
    assert!(WatchedRings::new(u32::MAX).is_err());
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
        "1 ring  0 events lost",
        "0 enters: 1 submission, 1 completion; 1 sleep;",
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

#[test]
fn an_operation_has_the_file_of_its_descriptor() {
    let mut attached = attached();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let fd = std::os::fd::AsRawFd::as_raw_fd(file.as_file());
    attached.observe(&submit(1000, 1, 7, RECV));
    let get = event(1010, 1, 7, None, (Tracepoint::FileGet, [fd as u64, 0, 0, 0]));
    assert!(attached.observe(&get).is_none(), "no line of its own");
    let (line, _) = seen(&mut attached, complete(2000, 1, 7, -104, 0));
    let path = file.path().display().to_string();
    assert!(line.text().contains(&format!("fd {fd} {path}  took 1.00 µs")), "{}", line.text());
    assert_eq!((&line.json()["fd"], &line.json()["file"]), (&fd.into(), &path.clone().into()));
    let row = &attached.json()["files"][0];
    assert_eq!((&row["name"], &row["operations"]), (&path.clone().into(), &1.into()));
    assert_eq!(row["errors"]["ECONNRESET"], 1);
    assert!(attached.summary().contains(&path), "{}", attached.summary());
}

#[test]
fn a_filter_selects_by_operation_error_time_and_punt() {
    let mut attached = attached();
    attached.observe(&submit(0, 1, 7, RECV));
    let punt = event(10, 1, 7, Some(RECV), (Tracepoint::QueueAsyncWork, [0; 4]));
    let punt = attached.observe(&punt).expect("its ring");
    let (failed, _) = seen(&mut attached, complete(5000, 1, 7, -9, 0));
    attached.observe(&submit(6000, 1, 7, SEND));
    let (good, _) = seen(&mut attached, complete(6100, 1, 7, 64, 0));
    let both = |filter: &RingFilter| (failed.passes(filter), good.passes(filter));
    let op = |name: &str| RingFilter { ops: vec![name.to_owned()], ..RingFilter::default() };
    assert!(RingFilter::default().is_empty() && !op("recv").is_empty());
    assert_eq!(both(&RingFilter::default()), (true, true));
    assert_eq!((both(&op("recv")), both(&op("post"))), ((true, false), (true, true)));
    assert_eq!(both(&RingFilter { errors: true, ..RingFilter::default() }), (true, false));
    let slower = Some(Duration::from_micros(1));
    assert_eq!(both(&RingFilter { slower, ..RingFilter::default() }), (true, false));
    let punted = RingFilter { punted: true, ..RingFilter::default() };
    assert_eq!((punt.passes(&punted), both(&punted)), (true, (true, false)));
}

/// Two processes with rings: this one with two, and a child with one.
fn two_processes() -> WatchedRings {
    let mut attached = attached();
    attached.begin(true).expect("it runs");
    attached.observe(&new_task(-3, 0));
    let child = |event| KernelEvent { thread: -3, ring: 0xc, ..event };
    for n in 0..6 {
        attached.observe(&submit(10 * n, 1, n, RECV));
        attached.observe(&complete(10 * n + 5, 1, n, if n == 0 { -9 } else { 64 }, 0));
        attached.observe(&KernelEvent { ring: 0xb, ..submit(10 * n, 1, n, SEND) });
        attached.observe(&child(event(10 * n, 0, 0, None, (Tracepoint::Enter, [0; 4]))));
        attached.observe(&child(submit(10 * n, 1, n, RECV)));
        attached.observe(&child(submit(10 * n, 2, 100 + n, NOP)));
        attached.observe(&child(complete(10 * n + 9, 1, n, 64, 0)));
        attached.observe(&child(complete(10 * n + 9, 2, 100 + n, 0, 0)));
    }
    attached
}

#[test]
fn several_rings_have_a_total_and_several_processes_a_table() {
    let attached = two_processes();
    let json = attached.json();
    let total = json["total"]["ops"].as_array().expect("rows");
    let recv = total.iter().find(|op| op["op"] == "recv").expect("receives");
    assert_eq!((&recv["submitted"], &recv["completed"]), (&12.into(), &12.into()));
    assert_eq!((&recv["ok"], &recv["errors"]["EBADF"]), (&11.into(), &1.into()));
    assert_eq!(recv["submit_to_cqe"]["samples"], 12);
    let rows = json["processes"].as_array().expect("processes");
    let row = |at: usize| ["rings", "submitted", "completed", "failures"].map(|it| &rows[at][it]);
    assert_eq!(rows[0]["name"], "quick", "it has more completions");
    assert_eq!(row(0), [1, 12, 12, 0].map(serde_json::Value::from).each_ref());
    assert_eq!(row(1), [2, 12, 6, 1].map(serde_json::Value::from).each_ref());
    let text = attached.summary();
    let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = ["-3", "quick", "1", "6", "12", "2.0", "12", "2.0"];
    assert!(lines.iter().any(|line: &Vec<&str>| line[..] == expected), "{text}");
    assert!(lines.iter().any(|line| line[..] == ["all", "rings"]), "{text}");
}

#[test]
fn only_the_busiest_of_many_rings_have_a_table() {
    let mut attached = attached();
    for ring in 0..20 {
        attached.observe(&KernelEvent { ring, ..submit(0, 1, 7, NOP) });
        let completions = if ring % 2 == 0 { 2 } else { 0 };
        for n in 0..completions {
            attached.observe(&KernelEvent { ring, ..complete(1, 1 + n, 7, 0, 0) });
        }
    }
    let text = attached.summary();
    let shown = |ring: &str| text.lines().any(|line| line.starts_with(ring));
    assert!(shown("r0  thread") && shown("r14  thread") && !shown("r1  thread"), "{text}");
    assert!(text.contains("… 12 more rings (--json lists all)"), "{text}");
    assert_eq!(attached.json()["rings"].as_array().expect("rings").len(), 20);
}

#[test]
fn rates_are_those_since_the_last_call() {
    let mut attached = two_processes();
    let first = attached.rates(Duration::from_secs(2));
    assert_eq!((&first.json()["submitted"], &first.json()["enters"]), (&24.into(), &6.into()));
    attached.observe(&submit(1_000_000, 9, 9, RECV));
    attached.observe(&complete(1_004_000, 9, 9, -9, 0));
    let second = attached.rates(Duration::from_millis(500));
    let ops = second.json()["ops"].as_array().expect("rows");
    let recv = ops.iter().find(|op| op["op"] == "recv").expect("receives");
    assert_eq!((&recv["submitted"], &recv["errors"]["EBADF"]), (&1.into(), &1.into()));
    assert_eq!(recv["submit_to_cqe"]["samples"], 1);
    let text = second.text();
    let row = text.lines().find(|line| line.starts_with("recv")).expect("its row");
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells[..4], ["recv", "2", "2", "2"], "{text}");
    assert!(!text.contains("send") && !text.contains("nop"), "it had nothing to do: {text}");
    attached.missing = vec![Missing::Tracepoint(Tracepoint::Enter)];
    let text = attached.rates(Duration::from_secs(1)).text();
    assert!(text.contains("– enters"), "{text}");
}

#[test]
fn all_processes_are_watched_whether_their_creation_was_seen_or_not() {
    let mut attached = WatchedRings::of_all();
    if let Err(why) = attached.begin(false) {
        assert!(why.to_string().contains("PID namespace"), "{why}");
        return;
    }
    attached.observe(&submit(0, 1, 7, NOP));
    attached.observe(&KernelEvent { thread: STRANGER, ring: 0xb, ..submit(0, 1, 7, NOP) });
    let json = attached.json();
    let rows = json["processes"].as_array().expect("two processes").iter();
    let pids: Vec<_> = rows.map(|row| row["pid"].as_i64()).collect();
    assert_eq!(pids, [Some(STRANGER.into()), Some(std::process::id().into())]);
    assert!(attached.busy_strangers().is_empty() && attached.is_alive());
    assert!(attached.summary().starts_with("all processes  "), "{}", attached.summary());
}

#[test]
fn a_recording_of_a_ring_is_read_by_the_views() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rings.trace");
    let mut attached = attached();
    attached.record_into(&path).expect("it can be written to");
    let file = |request, user_data, fd| {
        event(0, request, user_data, None, (Tracepoint::FileGet, [fd, 0, 0, 0]))
    };
    const ACCEPT: u8 = 13;
    const READ: u8 = 22;
    attached.observe(&submit(1000, 1, 7, ACCEPT));
    attached.observe(&file(1, 7, 3));
    attached.observe(&complete(2000, 1, 7, 5, 0));
    // Two of a kind on one descriptor, which complete in another order; one fails.
    attached.observe(&submit(3000, 1, 0, READ));
    attached.observe(&file(1, 0, 9));
    attached.observe(&submit(4000, 2, 0, READ));
    attached.observe(&file(2, 0, 9));
    attached.observe(&complete(6000, 2, 0, 4096, 0));
    attached.observe(&complete(9000, 1, 0, -libc::EIO, 0));
    // A message and its reply, the reply without a copy: its notification is no result.
    attached.observe(&submit(10_000, 1, 7, RECV));
    attached.observe(&file(1, 7, 5));
    attached.observe(&complete(11_000, 1, 7, 64, 0));
    attached.observe(&submit(12_000, 1, 7, 47));
    attached.observe(&file(1, 7, 5));
    attached.observe(&complete(14_000, 1, 7, 64, 2));
    attached.observe(&complete(15_000, 1, 7, 0, 8));
    // Without a descriptor, and never ended.
    attached.observe(&submit(16_000, 1, 7, 11));
    // Of another ring.
    let other = |event: KernelEvent| KernelEvent { ring: 0xb, ..event };
    attached.observe(&other(submit(17_000, 8, 7, READ)));
    attached.observe(&other(complete(18_000, 8, 7, 1, 0)));
    attached.note_losses(3);
    assert!(matches!(attached.end_recordings(), (2, None)));

    let trace = TraceFile::open(&path).expect("a trace");
    assert_eq!(trace.header.pid, std::process::id());
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap()) & 0o777, 0o600);
    let stats = TraceStats::of(&trace, &Cut::default());
    let row = |row: &OpRow| (row.op.name(), row.begun, row.ok, row.together_ns);
    assert_eq!(
        stats.ops.iter().map(row).collect::<Vec<_>>(),
        [
            ("timeout", 1, 0, None),
            ("accept", 1, 1, None),
            ("read", 2, 1, Some(8000)),
            ("recv", 1, 1, None),
            ("send_zc", 1, 1, Some(2000)),
        ]
    );
    assert_eq!((stats.messages, stats.bytes_in, stats.bytes_out, stats.calls), (1, 64, 64, None));
    let conns: Vec<_> = stats.conns.iter().map(|conn| conn.conn.to_string()).collect();
    assert_eq!(conns, ["3.0", "9.0", "5.1"], "an accepted one is the first of its descriptor");
    let names = |doctor: &Doctor| doctor.findings.iter().map(|one| one.name).collect::<Vec<_>>();
    let doctor = Doctor::new(stats);
    assert_eq!(names(&doctor), ["errors", "records-lost"], "{doctor}");
    assert!(doctor.not_visible.iter().any(|one| one.name == "program"), "{doctor}");
    let second = TraceFile::open(&folder.path().join("rings.trace.1")).expect("a trace");
    assert_eq!(second.events().count(), 3);
}

#[test]
fn without_a_ring_nothing_is_recorded_and_no_file_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rings.trace");
    let mut attached = attached();
    attached.record_into(&path).expect("it can be written to");
    assert!(path.exists());
    assert!(matches!(attached.end_recordings(), (0, None)));
    assert!(!path.exists());
    assert!(attached.record_into(&folder.path().join("none/a")).is_err());
}
