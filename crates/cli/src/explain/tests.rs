//! The phases and the pictures, from readings that are made up.

use super::scene::{Carried, Run, median};
use super::*;
use proactor::os::probe::Call;

/// A call of thread 1 at these times, where the message is sent at 1000.
fn call(number: i64, begin: u64, end: Option<u64>, result: i64) -> Call {
    Call { thread: 1, number, args: [5, 1, 1, 0], begin, end, result }
}

fn scene(calls: Vec<Call>, carried: &[Carried]) -> Scene {
    let runs = vec![Run { begin: 1000, sent: 1020, received: 1090, calls }];
    median(runs, carried).expect("there are calls")
}

fn phases(scene: &Scene) -> Vec<(Kind, Who, i64, Option<i64>)> {
    let all = scene.calls.iter().flat_map(|call| &call.phases);
    all.map(|phase| (phase.kind, phase.who, phase.begin, phase.end)).collect()
}

/// What a loop on poll does, with a thread beside it that sleeps.
fn readiness() -> Scene {
    let mut other = call(libc::SYS_accept4, 10, None, 0);
    other.thread = 2;
    let loops = [
        call(libc::SYS_ppoll, 100, Some(1030), 1),
        call(libc::SYS_recvfrom, 1040, Some(1045), 64),
        call(libc::SYS_sendto, 1050, Some(1080), 64),
        call(libc::SYS_ppoll, 1085, None, 0),
    ];
    scene([other].into_iter().chain(loops).collect(), &[])
}

fn ring() -> Scene {
    let carried = |begin, submitted: &[&str], completed: &[&str]| Carried {
        begin,
        submitted: submitted.iter().map(|&name| name.to_owned()).collect(),
        completed: completed.iter().map(|&name| name.to_owned()).collect(),
    };
    let enters = [
        call(libc::SYS_io_uring_enter, 100, Some(1030), 1),
        call(libc::SYS_io_uring_enter, 1050, None, 0),
    ];
    let carried = [carried(101, &["send"], &["recv"]), carried(1051, &["send"], &["recv"])];
    scene(enters.into(), &carried)
}

fn report() -> Report {
    let row = |model, scene: Option<Scene>, refusal: Option<&str>| Row {
        model,
        lesson: "What it is <good> for.",
        refusal: refusal.map(str::to_owned),
        scene,
    };
    Report {
        schema: "proactor.explain/1",
        kernel: "Linux 6.1".to_owned(),
        size: 64,
        runs: 1,
        models: vec![
            row("uring", Some(ring()), None),
            row("poll", Some(readiness()), None),
            row("select", None, Some("<forbidden> & gone")),
        ],
    }
}

#[test]
fn a_wait_ends_where_the_data_comes_and_each_copy_is_a_call() {
    use Kind::{Copying, Waiting, Waking};
    let scene = readiness();
    let expected = [
        (Waiting, Who::Thread, -900, Some(0)),
        (Waking, Who::Thread, 0, Some(30)),
        (Copying, Who::Thread, 40, Some(45)),
        (Copying, Who::Thread, 50, Some(80)),
        (Waiting, Who::Thread, 85, None),
    ];
    assert_eq!(phases(&scene), expected);
    assert_eq!((scene.asleep.join(","), scene.calls_per_message()), ("accept".to_owned(), Some(3)));
}

#[test]
fn a_receive_that_slept_waits_and_copies_in_one_call() {
    let calls = [
        call(libc::SYS_recvfrom, 100, Some(1030), 64),
        call(libc::SYS_sendto, 1040, Some(1060), 64),
        call(libc::SYS_recvfrom, 1070, None, 0),
    ];
    let scene = scene(calls.into(), &[]);
    let expected = [
        (Kind::Waiting, Who::Thread, -900, Some(0)),
        (Kind::WakingAndCopying, Who::Thread, 0, Some(30)),
        (Kind::Copying, Who::Thread, 40, Some(60)),
        (Kind::Waiting, Who::Thread, 70, None),
    ];
    assert_eq!(phases(&scene), expected);
}

#[test]
fn a_ring_copies_by_itself_and_one_enter_carries_the_send_and_the_wait() {
    let scene = ring();
    let expected = [
        (Kind::Waiting, Who::Thread, -900, Some(0)),
        (Kind::WakingAndCopying, Who::Kernel, 0, Some(30)),
        (Kind::Copying, Who::Kernel, 50, Some(90)),
        (Kind::Waiting, Who::Thread, 90, None),
    ];
    assert_eq!(phases(&scene), expected);
    let labels: Vec<String> = scene.calls.iter().map(Step::label).collect();
    assert_eq!(labels, ["enter: recv is done", "enter(send)"]);
    assert!(
        scene.calls[1].completed.is_empty(),
        "it has not returned: what it will bring is unknown"
    );
}

#[test]
fn who_never_sleeps_is_shown_to_the_end_of_a_round() {
    let calls = [
        call(libc::SYS_recvfrom, 1010, Some(1015), -11),
        call(libc::SYS_recvfrom, 1020, Some(1025), 64),
        call(libc::SYS_sendto, 1030, Some(1060), 64),
        call(libc::SYS_recvfrom, 1095, Some(1099), -11),
        call(libc::SYS_recvfrom, 1110, Some(1112), -11),
    ];
    let scene = scene(calls.into(), &[]);
    assert_eq!((scene.calls.len(), scene.calls_per_message()), (4, None));
    assert_eq!(phases(&scene)[0].0, Kind::Asking);
}

#[test]
fn the_run_of_median_time_is_shown_and_the_spread_told() {
    let run = |received| Run {
        begin: 1000,
        sent: 1001,
        received,
        calls: vec![call(libc::SYS_recvfrom, 1002, Some(1003), 64)],
    };
    let scene = median(vec![run(1900), run(1100), run(1200)], &[]).expect("there are calls");
    assert_eq!((scene.received, scene.spread, scene.runs), (200, (100, 900), 3));
    assert!(median(Vec::new(), &[]).is_err());
}

#[test]
fn the_lines_are_aligned_and_no_wider_than_a_terminal() {
    let text = text(&report());
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let bars: Vec<&str> = text.lines().filter(|line| line.contains("░░")).collect();
    let [ring, poll] = bars[..] else { panic!("{text}") };
    assert!(ring.starts_with("uring          ░") && poll.starts_with("poll           ░"), "{text}");
    let data_comes = |line: &str, sign| line.chars().position(|c| c == sign);
    assert!(data_comes(ring, '◆').is_some() && data_comes(ring, '◆') == data_comes(poll, '▒'));
    assert!(poll.contains('█') && !ring.contains('█'), "the ring makes no call to copy: {text}");
    assert!(text.contains("not here: <forbidden> & gone"), "{text}");
}

#[test]
fn a_picture_needs_nothing_else_and_escapes_what_it_is_told() {
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
