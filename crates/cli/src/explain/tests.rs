//! The phases and the pictures, from invented clock readings.

use super::timeline::{MessageRun, median};
use super::*;
use proactor::os::probe::Call;

/// Returns a call of thread 1 at these times. The message is sent at 1000.
fn call(number: i64, begin: u64, end: Option<u64>, result: i64) -> Call {
    Call { thread: 1, number, args: [5, 1, 1, 0], begin, end, result }
}

fn timeline(calls: Vec<Call>, enters: &[(u64, RingOps)]) -> CallTimeline {
    let runs = [MessageRun { begin: 1000, sent: 1020, received: 1090, calls }];
    median(&runs, (enters, enters.is_empty()), 90, true).expect("there are calls")
}

fn phases(timeline: &CallTimeline) -> Vec<(PhaseKind, i64, Option<i64>)> {
    let all = timeline.calls.iter().flat_map(|call| &call.phases);
    all.map(|phase| (phase.kind, phase.begin, phase.end)).collect()
}

/// Returns the calls of a loop on poll, with another thread that sleeps.
fn readiness() -> CallTimeline {
    let mut other = call(libc::SYS_accept4, 10, None, 0);
    other.thread = 2;
    let loops = [
        call(libc::SYS_ppoll, 100, Some(1030), 1),
        call(libc::SYS_recvfrom, 1040, Some(1045), 64),
        call(libc::SYS_sendto, 1050, Some(1080), 64),
        call(libc::SYS_ppoll, 1085, None, 0),
    ];
    timeline([other].into_iter().chain(loops).collect(), &[])
}

fn ring() -> CallTimeline {
    let ops = || RingOps { submitted: vec!["send".to_owned()], completed: vec!["recv".to_owned()] };
    let enters = [
        call(libc::SYS_io_uring_enter, 100, Some(1030), 1),
        call(libc::SYS_io_uring_enter, 1050, None, 0),
    ];
    timeline(enters.into(), &[(101, ops()), (1051, ops())])
}

fn report() -> ExplainReport {
    let model = |model, timeline: Option<CallTimeline>, refusal: Option<&str>| ModelReport {
        model,
        summary: "What it is <good> for.",
        refusal: refusal.map(str::to_owned),
        several: timeline.clone(),
        large: timeline.clone(),
        single: timeline,
    };
    ExplainReport {
        kernel: "Linux 6.1".to_owned(),
        options: ExplainOptions { size: 64, connections: 4, large: 65_536, runs: 1 },
        models: vec![
            model("uring", Some(ring()), None),
            model("poll", Some(readiness()), None),
            model("select", None, Some("<forbidden> & gone")),
        ],
    }
}

#[test]
fn a_wait_ends_where_the_data_comes_and_each_copy_is_a_call() {
    use PhaseKind::{Receiving, Sending, Waiting, Waking};
    let timeline = readiness();
    let expected = [
        (Waiting, -900, Some(0)),
        (Waking, 0, Some(30)),
        (Receiving, 40, Some(45)),
        (Sending, 50, Some(80)),
        (Waiting, 85, None),
    ];
    assert_eq!(phases(&timeline), expected);
    assert_eq!(timeline.asleep.join(","), "accept");
    assert_eq!(timeline.finished_calls(), Some(3));
}

#[test]
fn a_receive_that_slept_waits_and_copies_in_one_call() {
    let calls = [
        call(libc::SYS_recvfrom, 100, Some(1030), 64),
        call(libc::SYS_sendto, 1040, Some(1060), 64),
        call(libc::SYS_recvfrom, 1070, None, 0),
    ];
    let timeline = timeline(calls.into(), &[]);
    let expected = [
        (PhaseKind::Waiting, -900, Some(0)),
        (PhaseKind::WakingAndReceiving, 0, Some(30)),
        (PhaseKind::Sending, 40, Some(60)),
        (PhaseKind::Waiting, 70, None),
    ];
    assert_eq!(phases(&timeline), expected);
}

#[test]
fn a_ring_copies_inside_its_enter_and_one_enter_carries_the_send_and_the_wait() {
    let timeline = ring();
    let expected = [
        (PhaseKind::Waiting, -900, Some(0)),
        (PhaseKind::ReceivingInEnter, 0, Some(30)),
        (PhaseKind::SendingInEnter, 50, Some(90)),
        (PhaseKind::Waiting, 90, None),
    ];
    assert_eq!(phases(&timeline), expected);
    let labels: Vec<String> = timeline.calls.iter().map(ServerCall::label).collect();
    assert_eq!(labels, ["enter: recv done", "enter(send)"]);
    assert!(
        timeline.calls[1].ops.completed.is_empty(),
        "it has not returned: its completions are unknown"
    );
}

#[test]
fn a_server_that_never_sleeps_is_shown_to_the_end_of_a_pass() {
    let calls = [
        call(libc::SYS_recvfrom, 1010, Some(1015), -11),
        call(libc::SYS_recvfrom, 1020, Some(1025), 64),
        call(libc::SYS_sendto, 1030, Some(1060), 64),
        call(libc::SYS_recvfrom, 1095, Some(1099), -11),
        call(libc::SYS_recvfrom, 1110, Some(1112), -11),
    ];
    let timeline = timeline(calls.into(), &[]);
    assert_eq!((timeline.calls.len(), timeline.finished_calls()), (4, None));
    assert_eq!(phases(&timeline)[0].0, PhaseKind::WithoutData);
}

#[test]
fn the_run_of_median_time_is_shown_with_the_quartiles() {
    let run = |received| MessageRun {
        begin: 1000,
        sent: 1001,
        received,
        calls: vec![call(libc::SYS_recvfrom, 1002, Some(1003), 64)],
    };
    let runs = [1900, 1100, 1200, 1300, 1250].map(run);
    let shown = median(&runs, (&[], true), 250, true).expect("there are calls");
    assert_eq!((shown.received, shown.quartiles, shown.runs), (250, (200, 300), 5));
    assert_eq!((shown.unrecorded, shown.recorder), (250, 0));
    assert!(median(&[], (&[], true), 0, true).is_err());
}

#[test]
fn the_lines_are_aligned_and_no_wider_than_a_terminal() {
    for width in [40, 60, 77, 78, 100, 200] {
        let text = text(&report(), width);
        let most = text.lines().map(|line| line.chars().count()).max();
        assert!(most <= Some(width.min(100)), "{width}: {text}");
    }
    let text = text(&report(), 100);
    let bars: Vec<&str> = text.lines().filter(|line| line.contains("░░")).collect();
    let [ring, poll, _, _, _, _] = bars[..] else { panic!("{text}") };
    assert_eq!(bars[..2], bars[2..4], "the same calls in every section");
    assert_eq!(bars[..2], bars[4..], "the same calls in every section");
    assert!(ring.starts_with("uring          ░") && poll.starts_with("poll           ░"), "{text}");
    let data_comes = |line: &str, sign| line.chars().position(|c| c == sign);
    assert!(data_comes(ring, '◆').is_some() && data_comes(ring, '◆') == data_comes(poll, '▒'));
    assert!(poll.contains('█') && !ring.contains('█'), "the ring makes no call to copy: {text}");
    assert!(text.contains("not shown: <forbidden> & gone"), "{text}");
}

#[test]
fn a_picture_is_self_contained_and_escapes_text() {
    for picture in [svg(&report()), html(&report())] {
        let own = picture.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http:", "https:", "src=", "@import", "url(/", "//cdn"] {
            assert!(!own.contains(outside), "{outside}");
        }
        assert!(
            picture.contains("&lt;forbidden&gt; &amp; gone") && !picture.contains("<forbidden")
        );
        assert!(!picture.contains("NaN") && !picture.contains("inf\""));
    }
}

#[test]
fn a_page_says_nothing_of_what_was_not_recorded() {
    let says = |report: &ExplainReport| {
        let (text, page) = (text(report, 100), html(report));
        let spread = ["half of the", "quartiles that"].map(|words| page.contains(words));
        (text.contains("half of the runs"), spread, page.contains("bytes shows"))
    };
    let mut report = report();
    report.options.large = 0;
    assert_eq!(says(&report), (false, [false; 2], false), "of one run");
    (report.options.runs, report.options.large) = (4, 65_536);
    for row in &mut report.models {
        let timelines = [&mut row.single, &mut row.several, &mut row.large];
        timelines.into_iter().flatten().for_each(|timeline| timeline.runs = 4);
    }
    assert_eq!(says(&report), (true, [true; 2], true));
}

/// Returns the times of the calls of a run with gaps of 12, 5 and 19 between them, the reply, and
/// the time that was taken out.
fn without_recorder(unrecorded: u64) -> (Vec<(i64, Option<i64>)>, i64, i64) {
    let calls = vec![
        call(libc::SYS_ppoll, 100, Some(1030), 1),
        call(libc::SYS_recvfrom, 1042, Some(1045), 64),
        call(libc::SYS_sendto, 1050, Some(1080), 64),
        call(libc::SYS_ppoll, 1099, None, 0),
    ];
    let runs = [MessageRun { begin: 1000, sent: 1020, received: 1090, calls }];
    let shown = median(&runs, (&[], true), unrecorded, true).expect("there are calls");
    assert_eq!(shown.unrecorded, unrecorded as i64);
    let times = shown.calls.iter().map(|call| (call.begin, call.end)).collect();
    (times, shown.received, shown.recorder)
}

#[test]
fn the_reply_takes_as_long_as_without_the_recorder() {
    // 8 of 17 before the send: 5.6 of 12, 2.4 of 5, and as great a share after it.
    let (times, received, recorder) = without_recorder(82);
    assert_eq!(times, [(-900, Some(30)), (37, Some(40)), (42, Some(72)), (83, None)]);
    assert_eq!((received, recorder), (82, 8));
    // A reply that is not slower is not moved.
    let (times, received, recorder) = without_recorder(95);
    assert_eq!(times, [(-900, Some(30)), (42, Some(45)), (50, Some(80)), (99, None)]);
    assert_eq!((received, recorder), (90, 0));
}

#[test]
fn no_more_than_the_gaps_is_taken_out() {
    let (times, received, recorder) = without_recorder(10);
    assert_eq!(times, [(-900, Some(30)), (30, Some(33)), (33, Some(63)), (63, None)]);
    assert_eq!((received, recorder), (73, 17), "the rest of the difference is in the calls");
}

#[test]
fn the_shown_reply_is_between_the_quartiles() {
    // The fastest run has a short gap, so that less is taken out of it than of the others.
    let run = |gap: u64, received| MessageRun {
        begin: 1000,
        sent: 1001,
        received,
        calls: vec![
            call(libc::SYS_recvfrom, 100, Some(1010), 64),
            call(libc::SYS_sendto, 1010 + gap, Some(1080), 64),
        ],
    };
    let runs = [run(2, 1100), run(40, 1110), run(20, 1120)];
    let shown = median(&runs, (&[], true), 80, true).expect("there are calls");
    assert_eq!((shown.received, shown.quartiles), (80, (80, 100)));
}

#[test]
fn runs_in_which_the_server_woke_too_early_are_left_out() {
    let run = |woke, received| MessageRun {
        begin: 1000,
        sent: 1020,
        received,
        calls: vec![
            call(libc::SYS_ppoll, 100, Some(woke), 1),
            call(libc::SYS_sendto, 1050, Some(1080), 64),
        ],
    };
    let runs = [run(1010, 1100), run(1025, 1200), run(1010, 1300)];
    let shown = median(&runs, (&[], true), 200, true).expect("there are calls");
    assert_eq!((shown.received, shown.quartiles), (200, (200, 200)));
    let all = median(&runs, (&[], true), 200, false).expect("there are calls");
    assert_eq!(all.quartiles, (100, 300), "of one connection every run counts");
}

/// It has no wait that could have ended too early.
#[test]
fn every_run_of_a_server_that_never_sleeps_counts() {
    let run = |received| MessageRun {
        begin: 1000,
        sent: 1020,
        received,
        calls: vec![
            call(libc::SYS_recvfrom, 990, Some(1005), -11),
            call(libc::SYS_sendto, 1050, Some(1080), 64),
        ],
    };
    let shown = median(&[1100, 1200, 1300].map(run), (&[], false), 200, true);
    assert_eq!(shown.expect("there are calls").quartiles, (100, 300));
}

/// A server that never sleeps may be interrupted in a receive, before it looks at its socket.
#[test]
fn a_receive_that_begins_before_the_message_waits_only_where_it_sleeps() {
    let shown = |sleeps| {
        let calls = vec![
            call(libc::SYS_recvfrom, 900, Some(1040), 64),
            call(libc::SYS_sendto, 1050, Some(1080), 64),
        ];
        let runs = [MessageRun { begin: 1000, sent: 1020, received: 1090, calls }];
        median(&runs, (&[], sleeps), 90, true).expect("there are calls").calls[0].phases[0].kind
    };
    assert_eq!(shown(true), PhaseKind::Waiting);
    assert_eq!(shown(false), PhaseKind::Receiving);
}
