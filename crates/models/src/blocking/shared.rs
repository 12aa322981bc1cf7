//! What all threads of a server share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use super::group::lock;
use proactor::buffer::BufferClass;
use proactor::keys::ConnId;
use proactor::lifecycle::Stage;
use proactor::os::EventFd;

/// What all threads of a server share.
#[derive(Debug)]
pub(super) struct SharedState {
    stage: AtomicU8,
    /// The buffer sizes of each connection.
    pub(super) buffers: Vec<BufferClass>,
    /// The limit [`Limits::max_input`](proactor::limits::Limits::max_input) of each connection.
    pub(super) max_input: usize,
    /// Notified by each thread as it ends, and by a first message to the operator.
    pub(super) event: EventFd,
    /// The threads that have ended, or are about to.
    ended: Mutex<Vec<ConnId>>,
    /// True if there is an operator console.
    pub(super) has_operator: bool,
    operator_messages: Mutex<OperatorMessages>,
}

/// Messages to the operator that were not printed yet.
#[derive(Debug, Default)]
struct OperatorMessages {
    /// Whole lines of text.
    lines: Vec<u8>,
    /// How many messages were dropped because too much was waiting.
    lost: u64,
}

/// With more than this waiting to be printed, in bytes, messages are dropped.
const OPERATOR_MESSAGES_MAX: usize = 1 << 20;

impl SharedState {
    pub(super) fn new(buffers: Vec<BufferClass>, max_input: usize, event: EventFd) -> SharedState {
        SharedState {
            stage: AtomicU8::new(Stage::Serving as u8),
            buffers,
            max_input,
            event,
            ended: Mutex::default(),
            has_operator: false,
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

    /// Advances to a stage; never back.
    pub(super) fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// Notes that a thread is about to end.
    pub(super) fn thread_ends(&self, key: ConnId) {
        lock(&self.ended).push(key);
        self.event.notify();
    }

    /// Returns the threads that have ended since the last call.
    pub(super) fn take_ended(&self) -> Vec<ConnId> {
        self.event.take();
        std::mem::take(&mut lock(&self.ended))
    }

    /// Queues whole lines for the operator, if there is one.
    pub(super) fn to_operator(&self, lines: &[u8]) {
        if !self.has_operator {
            return;
        }
        let mut queued = lock(&self.operator_messages);
        let first = queued.lines.is_empty() && queued.lost == 0;
        if queued.lines.len() < OPERATOR_MESSAGES_MAX {
            queued.lines.extend_from_slice(lines);
        } else {
            queued.lost += 1;
        }
        drop(queued);
        if first {
            self.event.notify();
        }
    }

    /// Returns the messages to the operator since the last call, and how many were dropped.
    pub(super) fn take_operator_messages(&self) -> (Vec<u8>, u64) {
        let OperatorMessages { lines, lost } = std::mem::take(&mut *lock(&self.operator_messages));
        (lines, lost)
    }
}
