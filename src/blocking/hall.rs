//! What all threads of a server share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use super::room::lock;
use crate::buffer::Shape;
use crate::os::Bell;

/// How far a server is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Stage {
    Serving,
    /// Everyone finishes: what is owed is delivered, then the end.
    Draining,
    /// Everyone breaks off.
    Cutting,
}

/// What all threads of a server share.
#[derive(Debug)]
pub(super) struct Hall {
    stage: AtomicU8,
    /// The shapes of each connection's buffers, before a few of them are taken.
    pub(super) buffers: Vec<Shape>,
    /// Rung by each thread as it ends.
    pub(super) bell: Bell,
    /// Which threads have ended, or are about to.
    ended: Mutex<Vec<usize>>,
}

impl Hall {
    pub(super) fn new(buffers: Vec<Shape>, bell: Bell) -> Hall {
        let stage = AtomicU8::new(Stage::Serving as u8);
        Hall { stage, buffers, bell, ended: Mutex::new(Vec::new()) }
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            stage if stage == Stage::Serving as u8 => Stage::Serving,
            stage if stage == Stage::Draining as u8 => Stage::Draining,
            _ => Stage::Cutting,
        }
    }

    /// Goes on to a stage; never back.
    pub(super) fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// Says that a thread is about to end.
    pub(super) fn ends(&self, key: usize) {
        lock(&self.ended).push(key);
        self.bell.ring();
    }

    /// Which threads have ended since this was last called.
    pub(super) fn take_ended(&self) -> Vec<usize> {
        self.bell.take();
        std::mem::take(&mut lock(&self.ended))
    }
}
