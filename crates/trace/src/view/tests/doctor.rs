//! What the doctor finds in a healthy server, and in one in which a single thing is wrong.

use super::super::Doctor;
use super::tape::{Tape, ring, selector};
use proactor::keys::ConnId;
use proactor::ring::{Cqe, Kind};
use proactor_record::{Call, WaitMode};

/// A ring without multishot: each receive is submitted anew.
fn one_shot() -> Tape {
    let mut tape = Tape::new("uring");
    for conn in 0..120 {
        tape.sqe(Kind::Recv, conn % 2, 64).entered(9).cqe(Kind::Recv, conn % 2, 64, 0);
    }
    tape
}

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
        assert_eq!(Doctor::new(stats).health.verdict, "healthy");
    }
}

#[test]
fn each_fault_of_a_ring_is_found_and_nothing_else() {
    let planted: [(&str, Tape); 13] = [
        (
            "cq-overflow",
            once(|tape| tape.enter(5, WaitMode::Endless, 0, true).cqe(Kind::Wake, 0, 1, 0)),
        ),
        (
            "no-buffers",
            once(|tape| {
                tape.entered(5).cqe(Kind::Recv, 0, -libc::ENOBUFS, 0).sqe(Kind::Recv, 0, 2048)
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
        ("stalls", often(|tape| tape.pass(2000).echo(0, 5))),
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
        let ill = Doctor::new(stats.clone()).ills().next().is_some();
        let health = Doctor::new(stats).health;
        assert_eq!(health.verdict != "healthy", ill, "{name}");
        assert!(!ill || health.hint.is_empty(), "{name}: no hint beside a problem");
        assert_eq!(
            ill,
            !["one-shot", "one-each-iteration", "resets", "short-sends"].contains(&name),
            "{name}"
        );
    }
}

#[test]
fn each_fault_of_a_selector_is_found_and_nothing_else() {
    type Plant = fn(&mut Tape);
    let planted: [(&str, Plant); 5] = [
        ("spurious-reports", |tape| {
            tape.wait(5, &[0]);
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
    let doctor = Doctor::new(tape.stats());
    let finding = &doctor.findings[0];
    assert_eq!((finding.first[0].at_ns, finding.first[0].conn), (at, Some(ConnId::new(1, 0))));
    let text = doctor.to_string();
    for part in ["no-buffers", "1 of 201 receives", "64 lent in all", "c1.0", "--buffers", "! no-b"]
    {
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
