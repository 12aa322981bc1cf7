//! What all threads of a server share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use super::group::lock;
use proactor::buffer::BufferClass;
use proactor::keys::ConnId;
use proactor::os::EventFd;

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
pub(super) struct SharedState {
    stage: AtomicU8,
    /// The shapes of each connection's buffers, before a few of them are taken.
    pub(super) buffers: Vec<BufferClass>,
    /// See [`Limits::max_input`](proactor::limits::Limits::max_input).
    pub(super) max_input: usize,
    /// Rung by each thread as it ends, and when the operator is told something.
    pub(super) event: EventFd,
    /// Which threads have ended, or are about to.
    ended: Mutex<Vec<ConnId>>,
    /// Whether there is an operator.
    pub(super) attended: bool,
    operator_messages: Mutex<OperatorMessages>,
}

/// What the operator was told and has not seen.
#[derive(Debug, Default)]
struct OperatorMessages {
    /// Whole lines.
    lines: Vec<u8>,
    /// How often there was no room for more.
    lost: u64,
}

/// With more than this to be seen, in bytes, what the operator is told is lost.
const OPERATOR_MESSAGES_MAX: usize = 1 << 20;

impl SharedState {
    pub(super) fn new(buffers: Vec<BufferClass>, max_input: usize, event: EventFd) -> SharedState {
        let stage = AtomicU8::new(Stage::Serving as u8);
        SharedState {
            stage,
            buffers,
            max_input,
            event,
            ended: Mutex::default(),
            attended: false,
            operator_messages: Mutex::default(),
        }
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
    pub(super) fn ends(&self, key: ConnId) {
        lock(&self.ended).push(key);
        self.event.notify();
    }

    /// Which threads have ended since this was last called.
    pub(super) fn take_ended(&self) -> Vec<ConnId> {
        self.event.take();
        std::mem::take(&mut lock(&self.ended))
    }

    /// Tells the operator whole lines, if there is one.
    pub(super) fn tell(&self, lines: &[u8]) {
        if !self.attended {
            return;
        }
        let mut told = lock(&self.operator_messages);
        let first = told.lines.is_empty() && told.lost == 0;
        if told.lines.len() < OPERATOR_MESSAGES_MAX {
            told.lines.extend_from_slice(lines);
        } else {
            told.lost += 1;
        }
        drop(told);
        if first {
            self.event.notify();
        }
    }

    /// What the operator was told since this was last called, and how often there was no room.
    pub(super) fn take_operator_messages(&self) -> (Vec<u8>, u64) {
        let OperatorMessages { lines, lost } = std::mem::take(&mut *lock(&self.operator_messages));
        (lines, lost)
    }
}
