//! A simulated server that was recorded: what its clients did is known, and a seed decides the
//! rest.

use std::fs::File;
use std::ops::ControlFlow;
use std::rc::Rc;

use proactor::buffer::{BufferClass, Pool};
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::{Ended, Limits};
use proactor::os::ShutdownSignal;
use proactor::peer::Factory;
use proactor::proactor::Proactor;
use proactor::protocol::Echo;
use proactor::traced::Traced;
use proactor_sim::{Dice, Faults, Reads, Setup, Sim, Tier};
use proactor_trace::{About, Clock, Recorder, Settings};

/// Settings with space for the whole run, and a clock read for each record.
pub(crate) fn settings() -> Settings {
    Settings { bytes: 8 << 20, clock: Some(Clock::Nanos), ..Settings::default() }
}

/// Serves five clients of an echo until they end, and drains. Returns the recording, and the number
/// of bytes that the clients sent.
pub(crate) fn echo(seed: u64, tier: Tier, settings: &Settings) -> (Vec<u8>, u64) {
    let mut dice = Dice::new(!seed);
    let setup = Setup {
        seed,
        tier,
        sockets: 64,
        entries: [2, 8, 256][dice.below(3)],
        window: 1 << 16,
        outq: true,
        socket_buffer: [200, 4096][dice.below(2)],
        faults: Faults::some(&mut dice).without_resets(),
    };
    let pool = Pool::new(&[BufferClass { bytes: 256, count: 48 }]).unwrap();
    let log = Recorder::new(None, settings, &About::default()).unwrap();
    let ring = Traced::new(Sim::new(setup, Rc::clone(&pool)), log);
    let stop = ShutdownSignal::new().unwrap();
    let mut limits = Limits::default();
    limits.connections = 8;
    let mut server = Proactor::new(ring, limits, stop.clone()).unwrap();
    server
        .listen(ListenerId(0), File::open("/dev/null").unwrap().into(), Factory::of(|_| Echo))
        .unwrap();
    let sim = server.ring_mut().inner_mut();
    let clients: Vec<_> = (0..5).map(|_| sim.connect(ListenerId(0), Reads::AtOnce)).collect();
    let mut said = 0;
    for &id in &clients {
        let len = dice.between(1, 4000);
        said += len as u64;
        sim.client_mut(id).send(&vec![7; len]);
        sim.client_mut(id).finish();
    }
    while !clients.iter().all(|&id| server.ring().inner().client(id).is_done()) {
        assert!(server.run_once().unwrap().is_continue());
    }
    stop.request();
    server.ring_mut().inner_mut().wake();
    while server.run_once().unwrap() != ControlFlow::Break(Ended::Drained) {}
    (server.ring_mut().recorder().bytes().to_vec(), said)
}

/// What a simulated echo recorded.
pub(crate) fn simulated(seed: u64, tier: Tier) -> Vec<u8> {
    recorded(seed, tier, &settings())
}

/// The same, recorded so.
pub(crate) fn recorded(seed: u64, tier: Tier, settings: &Settings) -> Vec<u8> {
    echo(seed, tier, settings).0
}
