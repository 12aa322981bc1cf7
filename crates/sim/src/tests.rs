//! Each law of the simulated kernel, broken once.

use std::fs::File;
use std::os::fd::AsFd;

use super::*;
use proactor::buffer::BufferClass;
use proactor::ring::{Completion, Recv, RecvMode};

const SOCKET: Socket = Socket(0);

/// A kernel with one client, accepted, that has sent five bytes.
fn sim(tier: Tier) -> Sim {
    let (socket_buffer, window, outq) = (64, 64, true);
    let faults = Faults::NONE;
    let setup =
        Setup { seed: 1, tier, sockets: 4, entries: 8, socket_buffer, window, outq, faults };
    let mut sim = Sim::new(setup, Pool::new(&[BufferClass { bytes: 64, count: 2 }]).unwrap());
    let listener = ListenerId(0);
    let client = sim.connect(listener, Reads::AtOnce);
    sim.client_mut(client).send(b"hello");
    sim.push(Op::Accept {
        accept: AcceptId { listener, slot: 0 },
        fd: File::open("/dev/null").unwrap().as_fd(),
    });
    sim.enter(Wait::Completion).unwrap();
    assert_eq!(sim.reap().unwrap().res, SOCKET.0 as i32);
    sim
}

fn conn() -> ConnId {
    ConnId::new(0, 0)
}

fn recv() -> Op<'static> {
    Op::Recv { conn: conn(), socket: SOCKET, size: Size(0), mode: RecvMode::Many }
}

#[test]
fn bytes_come_in_a_claimed_buffer_and_it_comes_home() {
    for tier in [Tier::Multishot, Tier::OneShot] {
        let mut sim = sim(tier);
        let pool = Rc::clone(sim.pool());
        sim.push(recv());
        let mut received = Vec::new();
        while received.len() < 5 {
            sim.enter(Wait::Completion).unwrap();
            while let Some(completion) = sim.next() {
                let Completion::Recv { outcome: Recv::Data(chunk), more, .. } = completion else {
                    panic!("{completion:?}");
                };
                received.extend_from_slice(&chunk);
                assert_eq!(more, tier == Tier::Multishot);
                if !more {
                    sim.push(recv());
                }
            }
        }
        assert_eq!(received, b"hello");
        assert!(!pool.is_whole(), "it holds some for what is in flight");
        drop(sim);
        assert!(pool.is_whole());
    }
}

#[test]
#[should_panic(expected = "two of Recv 0.0 in flight")]
fn two_receives_in_flight_are_found_out() {
    let mut sim = sim(Tier::Multishot);
    sim.push(recv());
    sim.push(recv());
}

#[test]
#[should_panic(expected = "closed with Some(Recv 0.0) in flight")]
fn a_close_before_the_last_answer_is_found_out() {
    let mut sim = sim(Tier::Multishot);
    sim.push(recv());
    sim.push(Op::Close { conn: conn(), socket: SOCKET });
}

#[test]
#[should_panic(expected = "which is not its own")]
fn the_use_of_a_closed_socket_is_found_out() {
    let mut sim = sim(Tier::OneShot);
    sim.push(Op::Close { conn: conn(), socket: SOCKET });
    sim.push(recv());
}

#[test]
#[should_panic(expected = "aims at nothing")]
fn a_cancel_of_nothing_is_found_out() {
    sim(Tier::Multishot).push(Op::Cancel { target: CancelTarget::Send(conn()) });
}

#[test]
#[should_panic(expected = "the loop spins")]
fn entering_again_and_again_for_nothing_is_found_out() {
    let mut sim = sim(Tier::Multishot);
    for _ in 0..1000 {
        sim.enter(Wait::No).unwrap();
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn sleeping_for_what_cannot_come_is_found_out() {
    let mut sim = sim(Tier::OneShot);
    for _ in 0..3 {
        sim.enter(Wait::Completion).unwrap();
    }
}

#[test]
fn where_nothing_happens_before_it_time_jumps_to_the_end_of_the_wait() {
    let mut sim = sim(Tier::OneShot);
    sim.enter(Wait::Until(Nanos(5_000_000_000))).unwrap();
    assert_eq!(sim.now(), Nanos(5_000_000_000));
}
