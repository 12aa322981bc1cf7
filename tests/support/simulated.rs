//! Traces of a server on the simulated kernel: the same bytes from the same seed.

use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use proactor::buffer::{Pool, Shape};
use proactor::limits::{Ended, Limits};
use proactor::os::Stop;
use proactor::proactor::Proactor;
use proactor::protocol::Echo;
use proactor::ring::ListenerId;
use proactor::ring::sim::{Dice, Faults, Reads, Setup, Sim, Tier};
use proactor::trace::{About, Clock, Recorder, Settings, Traced};

/// With room for all that is recorded, and a clock that the simulation keeps.
pub(crate) fn settings() -> Settings {
    Settings { bytes: 8 << 20, clock: Some(Clock::Nanos), ..Settings::default() }
}

/// A simulated server that served a few clients, drained, and was recorded.
pub(crate) fn simulated(seed: u64, tier: Tier) -> Vec<u8> {
    recorded(seed, tier, &settings())
}

/// The same, recorded so.
pub(crate) fn recorded(seed: u64, tier: Tier, settings: &Settings) -> Vec<u8> {
    let mut dice = Dice::new(!seed);
    let setup = Setup {
        seed,
        tier,
        sockets: 64,
        entries: [2, 8, 256][dice.below(3)],
        socket_buffer: [200, 4096][dice.below(2)],
        faults: Faults::some(&mut dice).without_resets(),
    };
    let pool = Pool::new(&[Shape { bytes: 256, count: 48 }]).unwrap();
    let log = Recorder::in_memory(settings, &About::default()).unwrap();
    let ring = Traced::new(Sim::new(setup, Rc::clone(&pool)), log);
    let stop = Stop::new().unwrap();
    let limits = Limits { connections: 8, drain: Duration::from_secs(5) };
    let mut server = Proactor::new(ring, limits, stop.handle().unwrap()).unwrap();
    server.listen(File::open("/dev/null").unwrap().into(), Echo);
    let sim = server.ring_mut().inner_mut();
    let clients: Vec<_> = (0..5).map(|_| sim.connect(ListenerId(0), Reads::AtOnce)).collect();
    for &id in &clients {
        sim.client_mut(id).say(&vec![7; dice.between(1, 4000)]);
        sim.client_mut(id).finish();
    }
    while !clients.iter().all(|&id| server.ring().inner().client(id).is_done()) {
        assert_eq!(server.turn().unwrap(), None);
    }
    stop.ask();
    server.ring_mut().inner_mut().wake();
    while server.turn().unwrap() != Some(Ended::Drained) {}
    server.ring_mut().recorder().bytes().to_vec()
}
