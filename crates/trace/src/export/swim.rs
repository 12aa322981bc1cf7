//! The swim lanes of a page: what each of the busiest threads or children was at, call by call.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::columns::{Column, Names, column};
use super::page::{ABNORMAL, RESULT, UNENDED};
use super::scene::{Draw, Place, Stroke, label};
use super::threads::Threads;
use crate::Event;
use crate::view::{Lanes, Phase, Stint};
use proactor_report::units;

/// Threads or children that have a lane on a page.
const SWIMMERS: usize = 16;
/// Calls that are drawn in them at most: the last.
const BLOCKS: usize = 250_000;

/// The lanes.
#[derive(Debug)]
pub(super) struct Swim {
    lanes: Lanes,
    drawn: Vec<usize>,
    blocks: VecDeque<Block>,
    left_out: u64,
    open: HashMap<usize, Block>,
}

/// A call.
#[derive(Debug, Clone, Copy)]
struct Block {
    stint: usize,
    at: u64,
    lasted: u64,
    /// What it is called, and whose connection it is about.
    name: u32,
    whose: u32,
    phase: Phase,
    bits: u64,
    res: i64,
}

impl Swim {
    pub(super) fn new(lanes: Lanes) -> Swim {
        let drawn = lanes.busiest(SWIMMERS);
        Swim { lanes, drawn, blocks: VecDeque::new(), left_out: 0, open: HashMap::new() }
    }

    /// Who draws what these lanes show.
    pub(super) fn threads(&self) -> Threads {
        Threads::new(self.lanes.clone(), &self.drawn)
    }

    pub(super) fn stroke(&mut self, stroke: &Stroke<'_>, names: &mut Names) {
        match &stroke.what {
            Draw::Begin { place: Place::Lane(stint), event, name, .. } => {
                let whose = event.conn.map_or(String::new(), |conn| format!("c{conn}"));
                let block = Block {
                    stint: *stint,
                    at: stroke.at,
                    lasted: 0,
                    name: names.number(name),
                    whose: names.number(&whose),
                    phase: Phase::of(event).unwrap_or(Phase::Other),
                    bits: UNENDED,
                    res: 0,
                };
                self.open.insert(*stint, block);
            }
            Draw::End { place: Place::Lane(stint), event } => {
                let Some(mut block) = self.open.remove(stint) else { return };
                block.lasted = stroke.at.saturating_sub(block.at);
                if let Some(event) = event {
                    block.ended(event, names);
                }
                self.blocks.push_back(block);
                if self.blocks.len() > BLOCKS {
                    self.blocks.pop_front();
                    self.left_out += 1;
                }
            }
            _ => {}
        }
    }

    /// What has no lane, or is not in it, a sentence each.
    pub(super) fn left_out(&self) -> Vec<String> {
        let mut all = Vec::new();
        let (lanes, shown) = (&self.lanes, self.drawn.len());
        let without = lanes.stints.len().saturating_sub(shown) as u64;
        if without > 0 {
            let kind = match (without, lanes.kind) {
                (1, "threads") => "thread",
                (1, "processes") => "process",
                (_, kind) => kind,
            };
            all.push(format!(
                "{} {kind} {} no lane: {shown} have, the main one and those that made the most \
                 calls",
                units::count(without),
                units::agree(without, "has", "have")
            ));
        }
        if self.left_out > 0 {
            all.push(format!(
                "of {} calls in the lanes of {} the last {} are drawn",
                units::count(self.left_out + self.blocks.len() as u64),
                lanes.kind,
                units::count(self.blocks.len() as u64)
            ));
        }
        all
    }

    /// As the script reads it: see the page's own columns.
    pub(super) fn pack(&self) -> Value {
        let mut of_stint: HashMap<usize, Vec<&Block>> = HashMap::new();
        self.blocks.iter().for_each(|one| of_stint.entry(one.stint).or_default().push(one));
        let lane = |&stint: &usize| {
            let mut blocks = of_stint.remove(&stint).unwrap_or_default();
            blocks.sort_by_key(|block| block.at);
            packed(&self.lanes.stints[stint], &blocks)
        };
        json!({ "all": self.lanes, "shown": self.drawn.iter().map(lane).collect::<Vec<_>>() })
    }
}

fn packed(stint: &Stint, blocks: &[&Block]) -> Value {
    let of = |of: fn(&Block) -> u64| column(blocks.iter().map(|one| of(one)), Column::push);
    json!({
        "stint": stint,
        "at": column(blocks.iter().map(|block| block.at), Column::push_after),
        "lasted": of(|block| block.lasted),
        "name": of(|block| block.name.into()),
        "whose": of(|block| block.whose.into()),
        "phase": of(|block| block.phase as u64),
        "bits": of(|block| block.bits),
        "res": column(blocks.iter().map(|block| block.res), Column::push_signed),
    })
}

impl Block {
    fn ended(&mut self, event: &Event, names: &mut Names) {
        if event.op.is_some() {
            self.name = names.number(&label(event));
        }
        self.bits = if event.is_abnormal() { ABNORMAL } else { 0 };
        match event.result() {
            Some(Ok(n)) => (self.res, self.bits) = (i64::from(n), self.bits | RESULT),
            Some(Err(errno)) => (self.res, self.bits) = (-i64::from(errno.0), self.bits | RESULT),
            None => {}
        }
    }
}
