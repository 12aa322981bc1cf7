//! What the doctor finds in a healthy server, and in one in which a single thing is wrong.

use super::super::{Cut, Doctor, Severity, TraceStats};
use super::tape::{Tape, key, one_shot, ring, selector, threads};
use crate::trace_file::TraceFile;
use proactor::keys::ConnId;
use proactor::ring::{Cqe, Kind};
use proactor_record::{
    About, Call, Clock, Level, Record, Settings, WaitMode, Writer, Writers, sys,
};

/// A ring to which it is done once.
fn once(plant: impl Fn(&mut Tape) -> &mut Tape) -> Tape {
    let mut tape = ring();
    plant(&mut tape);
    tape
}

/// A ring to which it is done as often as a check needs.
fn often(plant: impl Fn(&mut Tape) -> &mut Tape) -> Tape {
    let mut tape = ring();
    for _ in 0..30 {
        plant(&mut tape);
    }
    tape
}

#[test]
fn a_healthy_ring_and_a_healthy_selector_have_no_finding() {
    for mut tape in [ring(), selector("epoll")] {
        let stats = tape.stats();
        assert_eq!(stats.messages, 200);
        let doctor = Doctor::new(stats.clone());
        assert_eq!(doctor.findings, []);
        let text = doctor.to_string();
        assert!(text.contains("nothing found") && text.contains("stalls"), "{text}");
        let unseen = if doctor.looked_for.iter().any(|(name, _)| *name == "disarmed") {
            "kernel"
        } else {
            "buffers, calls"
        };
        let verdict = format!("nothing found; not visible from here: {unseen}");
        assert_eq!(Doctor::new(stats).health.verdict, verdict);
    }
}

#[test]
fn each_fault_of_a_ring_is_found_and_nothing_else() {
    let planted: [(&str, Tape); 12] = [
        (
            "cq-overflow",
            once(|tape| tape.enter(5, WaitMode::Endless, 0, true).cqe(Kind::Wake, 0, 1, 0)),
        ),
        (
            "no-buffers",
            once(|tape| {
                tape.entered(5).cqe(Kind::Recv, 0, -libc::ENOBUFS, 0).sqe(Kind::Recv, 0, 2048);
                tape.entered(9000).cqe(Kind::Recv, 0, 64, Cqe::MORE)
            }),
        ),
        ("out-of-order", once(|tape| tape.entered(5).cqe(Kind::Send, 1, 64, 0))),
        (
            "errors",
            once(|tape| {
                tape.sqe(Kind::Send, 0, 64).entered(5).cqe(Kind::Send, 0, -libc::EINVAL, 0)
            }),
        ),
        ("accepts-refused", once(|tape| tape.entered(5).cqe(Kind::Accept, 0, -libc::EMFILE, 0))),
        (
            "never-closed",
            once(|tape| {
                tape.entered(5).cqe(Kind::Recv, 0, 0, 0).entered(1_100_000);
                tape.cqe(Kind::Recv, 1, 64, Cqe::MORE)
            }),
        ),
        (
            "disarmed",
            often(|tape| {
                tape.echo(0, 5).entered(5).cqe(Kind::Recv, 0, 64, 0).sqe(Kind::Recv, 0, 2048)
            }),
        ),
        (
            "short-sends",
            often(|tape| tape.sqe(Kind::Send, 0, 64).entered(5).cqe(Kind::Send, 0, 60, 0)),
        ),
        ("woken-for-nothing", often(|tape| tape.entered(5))),
        (
            "resets",
            once(|tape| {
                tape.entered(5).cqe(Kind::Recv, 0, -libc::ECONNRESET, 0).sqe(Kind::Close, 0, 0);
                tape.entered(5).cqe(Kind::Close, 0, 0, 0)
            }),
        ),
        ("one-each-iteration", once(|tape| (2..9).fold(tape, Tape::open))),
        ("one-shot", one_shot()),
    ];
    for (name, mut tape) in planted {
        assert_eq!(tape.findings(), [name]);
        let stats = tape.stats();
        let doctor = Doctor::new(stats.clone());
        let ill = doctor.fails(Severity::Costly) == Some(true);
        let health = doctor.health;
        assert_eq!(health.verdict.starts_with("unhealthy"), ill, "{name}");
        assert!(!ill || health.hint.is_empty(), "{name}: no hint beside a problem");
        assert_eq!(
            ill,
            !["one-shot", "one-each-iteration", "resets", "short-sends"].contains(&name),
            "{name}"
        );
    }
}

#[test]
fn what_keeps_a_loop_from_its_work_is_found_and_nothing_else() {
    let planted = [
        ("stalls", often(|tape| tape.pass(5000).echo(0, 5))),
        (
            "no-cpu",
            often(|tape| tape.entered(12_000).delayed(11_000, 13_000).cqe(Kind::Wake, 0, 1, 0)),
        ),
        (
            "stopped",
            once(|tape| tape.entered(40_000).note(Record::continued(1)).cqe(Kind::Wake, 0, 1, 0)),
        ),
    ];
    for (name, mut tape) in planted {
        assert_eq!(tape.findings(), [name]);
        let doctor = Doctor::new(tape.stats());
        let fails = [Severity::Wrong, Severity::Costly].map(|severity| doctor.fails(severity));
        assert_eq!(fails, [Some(false), Some(true)], "{name} is costly, and not wrong");
        let without = Doctor::without(tape.stats(), &[name.to_owned()]);
        assert_eq!(without.findings, []);
        assert!(without.looked_for.iter().all(|(one, _)| *one != name), "it was not looked for");
    }
}

#[test]
fn each_fault_of_a_selector_is_found_and_nothing_else() {
    type Plant = fn(&mut Tape);
    let planted: [(&str, Plant); 5] = [
        ("spurious-reports", |tape| {
            tape.wait(5, &[0]).wait(5, &[1]);
        }),
        ("would-block", |tape| {
            tape.wait(5, &[0]).call(Call::Recv, 0, 64, 9).call(Call::Recv, 0, 64, -libc::EAGAIN);
        }),
        ("rewatched", |tape| {
            tape.wait(5, &[0]).call(Call::Recv, 0, 64, 9).call(Call::Rewatch, 0, 3, 0);
        }),
        ("short-sends", |tape| {
            tape.wait(5, &[0]).call(Call::Recv, 0, 64, 9);
            tape.call(Call::Send, 0, 64, 3).call(Call::Send, 0, 61, -libc::EAGAIN);
        }),
        ("errors", |tape| {
            tape.wait(5, &[0]).call(Call::Accept, 0, 0, -libc::EPERM).call(Call::Recv, 0, 64, 9);
        }),
    ];
    for (name, plant) in planted {
        let mut tape = selector("epoll");
        (0..60).for_each(|_| plant(&mut tape));
        assert_eq!(tape.findings(), [name]);
    }
}

#[test]
fn a_finding_has_evidence_and_the_first_times_it_happened() {
    let mut tape = ring();
    tape.entered(5).cqe(Kind::Recv, 1, -libc::ENOBUFS, 0).sqe(Kind::Recv, 1, 2048);
    let at = tape.now;
    tape.entered(9000).cqe(Kind::Recv, 1, 64, Cqe::MORE);
    let doctor = Doctor::new(tape.stats());
    let finding = &doctor.findings[0];
    assert_eq!((finding.first[0].at_ns, finding.first[0].conn), (at, Some(ConnId::new(1, 0))));
    let text = doctor.to_string();
    for part in [
        "no-buffers",
        "1 of 202 receives",
        "the longest wait took 9.00 ms",
        "64 lent in all",
        "c1.0",
        "--buffers",
        "! no-b",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_doctor_says_why_records_are_not_here_and_advises_more_space_only_if_that_was_short() {
    let lost = |model: &str, [lost, overwritten, stopped]: [u64; 3]| {
        let mut stats = ring().stats();
        (stats.source.lost, stats.source.overwritten) = (lost, overwritten);
        (stats.source.stopped, stats.source.written) = (stopped, 9);
        if model == "process" {
            stats.source.writers = "processes";
        }
        let finding =
            Doctor::new(stats.clone()).findings.into_iter().find(|one| one.name == "records-lost");
        let finding = finding.expect("some are lost");
        (finding.what, finding.evidence.join("; "), finding.fix)
    };
    let (what, evidence, fix) = lost("process", [1, 0, 0]);
    assert_eq!(what, "1 of 9 records (11 %) is not here");
    assert_eq!(evidence, "1 begun and not written");
    assert!(
        fix.contains("the record that it was writing is lost") && !fix.contains("--trace-size"),
        "{fix}"
    );
    // Those that were not written are not among the written.
    let (what, evidence, fix) = lost("uring", [3, 0, 3]);
    assert_eq!(what, "3 of 12 records (25 %) are not here");
    assert_eq!(evidence, "3 not written while recording was stopped");
    assert!(fix.contains("SIGUSR2") && !fix.contains("--trace-size"), "{fix}");
    let (what, evidence, fix) = lost("process", [8, 7, 0]);
    assert_eq!(what, "8 of 9 records (89 %) are not here");
    assert_eq!(evidence, "7 overwritten by newer ones, 1 begun and not written");
    assert!(fix.contains("--trace-size"), "{fix}");
}

#[test]
fn a_loop_that_was_frozen_is_never_called_healthy() {
    // Stopped, or without a CPU, within an enter: the clock of the loop shows a long sleep.
    let frozen = || often(|tape| tape.entered(50_000).cqe(Kind::Wake, 0, 1, 0));
    let doctor = Doctor::new(frozen().with_delays(false));
    assert_eq!(doctor.findings, []);
    assert!(doctor.not_visible.iter().any(|one| one.name == "delays"), "{doctor}");
    assert!(doctor.health.verdict.contains("not visible from here: delays"), "{doctor}");
    assert!(doctor.to_string().contains("/proc/thread-self/schedstat"), "{doctor}");
    // A stall that may be a preemption is none that costs.
    let mut stalled = often(|tape| tape.pass(5000).echo(0, 5));
    let doctor = Doctor::new(stalled.with_delays(false));
    assert_eq!(doctor.findings[0].severity, Severity::Note, "{doctor}");
    assert!(
        doctor.to_string().contains("whether the thread had a CPU is not recorded"),
        "{doctor}"
    );
    let doctor = Doctor::new(threads_that_echo());
    assert!(doctor.health.verdict.contains("threads"), "{doctor}");
}

#[test]
fn a_stop_between_two_records_of_an_iteration_is_a_stop_and_no_stall() {
    let mut tape = Tape::with("uring", Settings { level: Level::Record, ..Settings::default() });
    tape.open(0).entered(20).pass(40_000).cqe(Kind::Recv, 0, 64, Cqe::MORE).pass(1);
    // It is known when the next iteration begins.
    tape.note(Record::continued(1)).entered(5).cqe(Kind::Wake, 0, 1, 0);
    assert_eq!(tape.findings(), ["stopped"]);
    assert_eq!(tape.stats().pauses.stopped.total_ns / 1_000_000, 39, "all that no work explains");
    // Its time is that of no event that follows, and a signal without a stop is none.
    tape.pass(40_000).note(Record::continued(1)).entered(5).note(Record::continued(1)).entered(5);
    let pauses = tape.stats().pauses;
    assert_eq!((pauses.stopped.times.count, pauses.unexplained.unwrap().times.count), (2, 0));
}

#[test]
fn a_stop_of_threads_is_seen_though_another_goes_on_before_the_one_that_records_it() {
    let stops = |silent: u64, late: u64| {
        let settings = Settings { bytes: 0, clock: Some(Clock::Nanos), ..Settings::default() };
        let about = About { model: "thread".to_owned(), ..About::default() };
        let writer = Writer::new(None, &settings, &about, Writers::Threads).expect("memory");
        let mut now = sys::monotonic();
        let mut write = |micros: u64, record| {
            now += micros * 1000;
            writer.write(|| now, record);
        };
        write(10, Record::call_begin(Call::Recv, true, key(0), 3, 64));
        write(silent, Record::call_end(Call::Recv, true, key(0), 3, 64));
        write(late, Record::continued(1));
        TraceStats::of(&TraceFile::from_bytes(&writer.bytes()).expect("a trace"), &Cut::default())
            .pauses
            .stopped
    };
    let stopped = stops(40_000, 900);
    assert_eq!((stopped.times.count, stopped.longest_ns), (1, 40_000_000));
    assert_eq!(stopped.times.first[0].amount, Some(40_000_000));
    assert_eq!(stops(40_000, 500_000).longest_ns, 500_000_000, "it was silent until then");
    assert_eq!(stops(800, 900).times.count, 0);
}

#[test]
fn of_a_trace_without_an_iteration_nothing_can_be_said() {
    let doctor = Doctor::new(Tape::new("uring").sqe(Kind::Accept, 0, 0).stats());
    assert_eq!(doctor.fails(Severity::Costly), None);
    assert!(doctor.health.verdict.starts_with("nothing can be said"), "{doctor}");
}

#[test]
fn what_is_rare_short_or_not_here_is_no_problem() {
    let mut short = often(|tape| tape.entered(3000).delayed(2500, 3000).cqe(Kind::Wake, 0, 1, 0));
    let mut disarmed =
        once(|tape| tape.entered(5).cqe(Kind::Recv, 0, 64, 0).sqe(Kind::Recv, 0, 2048));
    let mut few = Tape::new("uring");
    for _ in 0..50 {
        few.sqe(Kind::Recv, 0, 64).entered(9).cqe(Kind::Recv, 0, 64, 0);
    }
    for tape in [&mut short, &mut disarmed, &mut few] {
        assert_eq!(tape.findings(), <[&str; 0]>::default());
    }
    let mut gap = ring();
    gap.log.freeze(crate::Frozen::Signal);
    gap.entered(5).pass(50_000).log.thaw();
    assert_eq!(gap.entered(5).findings(), ["records-lost"], "nothing is known of the gap");
    let doctor = Doctor::new(gap.stats());
    assert!(doctor.not_visible.iter().any(|one| one.name == "records"), "{doctor}");
    // Once, and three times in a minute.
    let mut delayed = once(|tape| tape.entered(90_000).delayed(90_000, 90_000));
    let mut stalled = ring();
    (0..3).for_each(|_| _ = stalled.pass(5000).echo(0, 5));
    stalled.entered(60_000_000).cqe(Kind::Wake, 0, 1, 0);
    for (tape, name) in [(&mut delayed, "no-cpu"), (&mut stalled, "stalls")] {
        let doctor = Doctor::new(tape.stats());
        let found: Vec<_> = doctor.findings.iter().map(|one| (one.name, one.severity)).collect();
        assert_eq!(found, [(name, Severity::Note)]);
    }
}

/// A thread that echoes ten messages.
fn threads_that_echo() -> TraceStats {
    let writer = threads();
    for _ in 0..10 {
        for call in [Call::Recv, Call::Send] {
            writer.write(|| 0, Record::call_begin(call, true, 0, 3, 64));
            writer.write(|| 0, Record::call_end(call, true, 0, 3, 64));
        }
    }
    TraceStats::of(&TraceFile::from_bytes(&writer.bytes()).unwrap(), &Cut::default())
}

#[test]
fn what_preemption_and_work_explain_is_no_stall_in_a_loop_and_in_tasks() {
    // 30 ms away, of which the thread was ready for 29 ms.
    let preempted = |tape: &mut Tape| {
        tape.pass(30_000).entered(5).delayed(29_000, 30_005).echo(0, 5);
    };
    // 30 ms away, with a megabyte of each of 40 connections.
    let busy = |tape: &mut Tape| {
        tape.entered(5);
        (0..40).for_each(|_| _ = tape.cqe(Kind::Recv, 0, 1 << 20, Cqe::MORE | Cqe::BUFFER));
        tape.pass(30_000);
        // 15 ms, with little of each of 400.
        tape.entered(5);
        (0..400).for_each(|_| _ = tape.cqe(Kind::Recv, 0, 64, Cqe::MORE | Cqe::BUFFER));
        tape.pass(15_000);
    };
    let mut tape = ring();
    for _ in 0..5 {
        preempted(&mut tape);
        busy(&mut tape);
    }
    let pauses = tape.stats().pauses;
    assert_eq!(pauses.unexplained.unwrap().times.count, 0);
    assert_eq!(pauses.delayed_ns, Some(5 * 29_000_000));
    assert_eq!(pauses.delayed.times.count, 5);
    for (had_cpu, stalls) in [(false, 0), (true, 10)] {
        let pauses = tasks_away(had_cpu).pauses;
        assert_eq!(pauses.unexplained.unwrap().times.count, stalls, "with a CPU: {had_cpu}");
    }
}

/// Tasks of one thread that are away for 30 ms, twice in each of five iterations: at work, or
/// without a CPU.
fn tasks_away(had_cpu: bool) -> TraceStats {
    let settings = Settings { bytes: 0, clock: Some(Clock::Nanos), ..Settings::default() };
    let more = vec![("delays".to_owned(), "2000".to_owned())];
    let about = About { model: "coroutine".to_owned(), more, ..About::default() };
    let writer = Writer::new(None, &settings, &about, Writers::Threads).expect("memory");
    let mut now = sys::monotonic();
    let mut write = |passes: u64, record| {
        now += passes * 1000;
        writer.write(|| now, record);
    };
    for _ in 0..5 {
        write(10, Record::wait_begin(WaitMode::Endless, 0));
        write(50_000, Record::wait_end(None));
        for call in [Call::Recv, Call::Send] {
            write(30_000, Record::call_begin(call, false, key(0), 3, 64));
            if !had_cpu {
                write(0, Record::delayed(29_000_000, 30_000));
            }
            write(2, Record::call_end(call, false, key(0), 3, 64));
        }
    }
    TraceStats::of(&TraceFile::from_bytes(&writer.bytes()).expect("a trace"), &Cut::default())
}

#[test]
fn a_few_short_waits_for_buffers_are_no_finding_and_long_ones_are() {
    let waiting = |wait: u64, times: u32, rest: u64| {
        let mut tape = ring();
        for _ in 0..times {
            tape.entered(5).cqe(Kind::Recv, 0, -libc::ENOBUFS, 0).sqe(Kind::Recv, 0, 2048);
            tape.entered(wait).cqe(Kind::Recv, 0, 64, Cqe::MORE);
        }
        (0..2000).for_each(|_| _ = tape.echo(1, 20));
        tape.entered(rest).cqe(Kind::Wake, 0, 1, 0);
        let doctor = Doctor::new(tape.stats());
        doctor.findings.iter().map(|one| (one.name, one.severity)).collect::<Vec<_>>()
    };
    // Two connections are open for some 90 ms each: the pool lends more when it finds none.
    assert_eq!(waiting(20, 40, 0), []);
    assert_eq!(waiting(100, 40, 0), [("no-buffers", Severity::Costly)]);
    assert_eq!(waiting(3000, 40, 0), [("no-buffers", Severity::Wrong)]);
    // Another receive that finds none goes on with the wait, and the close ends it.
    let mut tape = ring();
    for _ in 0..2 {
        tape.entered(5).cqe(Kind::Recv, 0, -libc::ENOBUFS, 0).sqe(Kind::Recv, 0, 2048).pass(4000);
    }
    let waits = tape.entered(5).cqe(Kind::Close, 0, 0, 0).stats().starvation.waits;
    assert_eq!((waits.times.count, waits.longest_ns / 1_000_000), (1, 8));
    // More buffers are no remedy for what waits outside of the completion queue.
    let fix = |overflow| {
        let mut tape = ring();
        tape.entered(5).cqe(Kind::Recv, 0, -libc::ENOBUFS, 0).sqe(Kind::Recv, 0, 2048);
        tape.enter(9000, WaitMode::Endless, 0, overflow).cqe(Kind::Recv, 0, 64, Cqe::MORE);
        let doctor = Doctor::new(tape.stats());
        doctor.findings.into_iter().find(|one| one.name == "no-buffers").unwrap().fix
    };
    assert!(fix(false).contains("--buffers") && fix(true).starts_with("see to cq-overflow"));
    // For one connection a second is long, though both are open for four minutes.
    assert_eq!(waiting(900_000, 1, 120_000_000), []);
    assert_eq!(waiting(1_100_000, 1, 120_000_000), [("no-buffers", Severity::Costly)]);
}

#[test]
fn another_receive_after_a_full_buffer_and_a_look_between_two_parts_of_work_are_no_finding() {
    let mut tape = selector("epoll-et");
    for _ in 0..200 {
        tape.wait(5, &[0]).call(Call::Recv, 0, 2048, 2048).call(Call::Send, 0, 2048, 1024);
        tape.call(Call::Recv, 0, 2048, -libc::EAGAIN).look().call(Call::Send, 0, 1024, 1024);
    }
    let names: Vec<_> = tape.findings().into_iter().filter(|&one| one != "short-sends").collect();
    assert_eq!(names, <[&str; 0]>::default());
    let mut tape = selector("epoll-et");
    (0..200).for_each(|_| _ = tape.look());
    assert_eq!(tape.findings(), ["woken-for-nothing"]);
}

#[test]
fn a_spurious_report_for_each_connection_is_usual() {
    let mut tape = selector("epoll-et");
    for conn in 2..40 {
        tape.wait(5, &[conn]).call(Call::Accept, conn, 0, -libc::EAGAIN);
    }
    assert_eq!(tape.findings(), <[&str; 0]>::default());
}

#[test]
fn a_connection_with_nearly_all_bytes_is_noted() {
    let mut tape = ring();
    (2..12).for_each(|conn| _ = tape.open(conn).echo(conn, 20));
    tape.entered(5).cqe(Kind::Recv, 3, 4 << 20, Cqe::MORE);
    let doctor = Doctor::new(tape.stats());
    let found = doctor.findings.iter().find(|one| one.name == "one-heavy").expect("it is one");
    assert_eq!((found.severity, found.first[0].conn), (Severity::Note, Some(ConnId::new(3, 0))));
    assert!(found.what.starts_with("c3.0 has "), "{doctor}");
}
