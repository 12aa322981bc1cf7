//! What threads or children do, each in a lane of its own: slices that follow one another, for a
//! thread is in one call at a time.

use std::collections::{BTreeMap, HashSet};

use super::scene::{Draw, Flow, Gauge, Place, count, instant};
use crate::event::Event;
use crate::view::{Lanes, Phase};
use proactor_record::format::MAIN;
use proactor_record::{Op, Payload};

/// Draws lanes.
#[derive(Debug)]
pub(super) struct Threads {
    lanes: Lanes,
    /// Which of the stints are drawn.
    drawn: HashSet<usize>,
    /// By lane, the call that it is in.
    busy: BTreeMap<u16, Busy>,
    /// How many of those wait.
    asleep: usize,
    /// Lanes that somebody is in.
    manned: HashSet<u16>,
    /// What was counted last.
    counted: [Option<u64>; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Busy {
    stint: Option<usize>,
    phase: Phase,
    /// Whose it is, and which; of a wait nobody's and none.
    made: Option<(u64, u8)>,
}

impl Threads {
    /// Of all, with these of the stints drawn.
    pub(super) fn new(lanes: Lanes, drawn: &[usize]) -> Threads {
        Threads {
            lanes,
            drawn: drawn.iter().copied().collect(),
            busy: BTreeMap::new(),
            asleep: 0,
            manned: HashSet::new(),
            counted: [None; 3],
        }
    }

    /// Draws what a lane does. `place` is where the connection's part of it is drawn, if it is:
    /// answers the end of an arrow that leads there from the lane of somebody else.
    pub(super) fn draw(
        &mut self,
        event: &Event,
        place: Option<Place>,
        put: &mut impl FnMut(Draw<'_>),
    ) -> Option<Flow> {
        let lane = event.lane?;
        let stint = self.lanes.whose(event);
        let drawn = stint.filter(|stint| self.drawn.contains(stint));
        self.manned.insert(lane);
        let made = event.op.map(|_| (event.raw.id, event.raw.op));
        let mut arrow = None;
        match event.what {
            Payload::CallBegin { .. } | Payload::WaitBegin { .. } => {
                self.leave(lane, put);
                let phase = Phase::of(event).unwrap_or(Phase::Other);
                self.busy.insert(lane, Busy { stint, phase, made });
                self.asleep += usize::from(phase == Phase::Waiting);
                if let Some(stint) = drawn {
                    arrow = arrow_to(place, lane, event);
                    let flow = arrow.map(Flow::On);
                    let name = event.op.map_or("wait", Op::name).to_owned();
                    put(Draw::Begin { place: Place::Lane(stint), name, event, flow });
                }
            }
            Payload::CallEnd { .. } | Payload::WaitEnd { .. } => {
                let is_its = |busy: &Busy| (busy.stint, busy.made) == (stint, made);
                let ended = self.busy.get(&lane).copied().filter(is_its).is_some();
                if ended {
                    self.end(lane);
                }
                match drawn.map(Place::Lane) {
                    Some(place) if ended => put(Draw::End { place, event: Some(event) }),
                    Some(place) => instant(put, place, event, None),
                    None => {}
                }
            }
            Payload::Lane { .. } => self.leave(lane, put),
            _ => {
                if let Some(stint) = drawn {
                    instant(put, Place::Lane(stint), event, None);
                }
            }
        }
        if stint.is_some_and(|stint| self.lanes.stints[stint].ends_with(event)) {
            self.manned.remove(&lane);
        }
        self.count(put);
        arrow.map(Flow::Last)
    }

    /// Ends what is open.
    pub(super) fn close(&mut self, put: &mut impl FnMut(Draw<'_>)) {
        let lanes: Vec<u16> = self.busy.keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.leave(lane, put));
    }

    /// What a lane was at ends, and is not known to have.
    fn leave(&mut self, lane: u16, put: &mut impl FnMut(Draw<'_>)) {
        let stint = self.end(lane).and_then(|busy| busy.stint);
        if let Some(stint) = stint.filter(|stint| self.drawn.contains(stint)) {
            put(Draw::End { place: Place::Lane(stint), event: None });
        }
    }

    /// Takes out what a lane is at, if it is at anything.
    fn end(&mut self, lane: u16) -> Option<Busy> {
        let busy = self.busy.remove(&lane)?;
        self.asleep -= usize::from(busy.phase == Phase::Waiting);
        Some(busy)
    }

    fn count(&mut self, put: &mut impl FnMut(Draw<'_>)) {
        let awake = self.manned.len().saturating_sub(self.asleep);
        let now = [
            (Gauge::Asleep, self.asleep as u64),
            (Gauge::Awake, awake as u64),
            (Gauge::Calls, self.busy.len() as u64),
        ];
        for ((gauge, value), last) in now.into_iter().zip(&mut self.counted) {
            if last.replace(value) != Some(value) {
                count(put, gauge, value);
            }
        }
    }
}

/// The number of an arrow from a lane to a connection that another serves.
fn arrow_to(place: Option<Place>, lane: u16, event: &Event) -> Option<u64> {
    let (Place::In(conn) | Place::Out(conn)) = place? else { return None };
    // A record's number is unique, and so is an arrow's.
    (lane != MAIN && u32::from(lane) != conn.slot()).then(|| event.number.wrapping_add(1))
}
