//! What a connection received and its protocol has not taken.
//!
//! ```text
//!   kept from before          received now
//!   ┌──────────────────┐ ┌─────────────────────┐
//!   │ head: heap memory │ │ tail: pooled buffer │      take, line: from the front
//!   └──────────────────┘ └─────────────────────┘
//! ```
//!
//! What the protocol leaves is copied to the head, so a connection that waits for the rest of a
//! message keeps no pooled buffer. Only a message that lies across both parts is copied; all others
//! are handed out where they were received.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::buffer::Chunk;
use crate::memory::Charge;

/// The bytes that a connection received and its [`Protocol`](super::Protocol) has not taken.
///
/// Each method that returns bytes takes them, except the two that begin with `peek`. Bytes that
/// are not taken stay in the connection, and are there at the next call in front of what arrives
/// meanwhile. They are limited by `Limits::max_input`: a connection that exceeds it is aborted.
#[derive(Debug)]
pub struct Input<'a> {
    tail: Chunk,
    untaken: &'a mut Untaken,
    max_input: usize,
    received: PhantomData<&'a mut [u8]>,
}

/// What a connection keeps of its input between two calls; empty for most connections.
#[derive(Debug, Default)]
pub struct Untaken(Option<Box<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    head: Vec<u8>,
    /// How many of its first bytes have been taken.
    taken: usize,
    /// How many of the first bytes are known to hold no newline.
    searched: usize,
    /// How many bytes the protocol asked for: it is not called before they are there.
    wanted: usize,
    /// True while the rest of a line that was too long is dropped.
    skips_line: bool,
    /// How many bytes of that line have been dropped.
    skipped: usize,
    /// True once the protocol asked for what is not there.
    asked: bool,
    /// Why the connection must be aborted.
    violation: Option<String>,
    /// For the memory of the head.
    charge: Charge,
}

/// From this length on, a part of the input is large.
const LARGE: usize = 4 << 10;

impl Kept {
    fn head(&self) -> &[u8] {
        &self.head[self.taken..]
    }

    /// Takes the first `n` bytes of the head.
    fn advance(&mut self, n: usize) {
        self.taken += n;
        if self.taken == self.head.len() {
            self.head.clear();
            self.taken = 0;
        }
    }

    /// Appends `bytes` to the head. What was taken is dropped as soon as it is more than what is
    /// left, so each byte is moved at most once for each byte taken.
    fn append(&mut self, bytes: &[u8]) {
        if self.taken > self.head.len() - self.taken {
            self.head.drain(..self.taken);
            self.taken = 0;
        }
        // A large part is the last one for some time: what would be kept free costs as much again.
        let reserved = match bytes.len() {
            ..LARGE => self.head.try_reserve(bytes.len()),
            _ => self.head.try_reserve_exact(bytes.len()),
        };
        if reserved.is_err() {
            let len = self.head.len();
            self.violation = Some(format!("no memory for {} bytes of input", len + bytes.len()));
            return;
        }
        self.head.extend_from_slice(bytes);
        self.charge.set(self.head.capacity());
    }
}

/// Bytes taken from an [`Input`], where they were received; writable in place.
///
/// [`Outbox::send`](super::Outbox::send) sends them from there, without a copy.
/// [`into_chunk`](Received::into_chunk) keeps them beyond the call. Several may live at once.
#[derive(Debug)]
pub struct Received<'a> {
    chunk: Chunk,
    input: PhantomData<&'a mut [u8]>,
}

/// A line was longer than its limit, and is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl<'a> Input<'a> {
    /// An input of `chunk` behind what `untaken` holds. With more than `max_input` bytes left
    /// untaken, `leave` returns a violation.
    pub fn new(chunk: Chunk, untaken: &'a mut Untaken, max_input: usize) -> Input<'a> {
        if let Some(kept) = &mut untaken.0 {
            kept.asked = false;
        }
        Input::rest(chunk, untaken, max_input)
    }

    /// Returns the number of bytes that are there.
    pub fn len(&self) -> usize {
        self.head_len() + self.tail.len()
    }

    /// Returns whether no byte is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all bytes without taking them.
    pub fn peek(&mut self) -> &[u8] {
        if self.head_len() == 0 {
            return &self.tail;
        }
        self.join();
        self.head()
    }

    /// Returns the first `N` bytes without taking them, as for a header. If fewer are there,
    /// `data` is called again once they are.
    pub fn peek_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.len() < N {
            self.want(N);
            return None;
        }
        let mut bytes = self.head().iter().chain(self.tail.iter()).copied();
        Some(std::array::from_fn(|_| bytes.next().expect("as many are there")))
    }

    /// Takes the first `n` bytes. If fewer are there it takes none, and `data` is called again once
    /// they are. An `n` above `Limits::max_input` aborts the connection.
    pub fn take(&mut self, n: usize) -> Option<Received<'a>> {
        if self.len() < n {
            self.want(n);
            return None;
        }
        Some(self.take_front(n))
    }

    /// Takes all bytes that are there.
    pub fn take_all(&mut self) -> Received<'a> {
        if self.head_len() == 0 {
            self.forget_search(usize::MAX);
            return Received::new(std::mem::replace(&mut self.tail, Chunk::EMPTY));
        }
        self.take_across(self.len())
    }

    /// Takes the bytes that are there, `most` of them at most; `None` if there is none.
    pub fn take_most(&mut self, most: usize) -> Option<Received<'a>> {
        let n = self.len().min(most);
        (n > 0).then(|| self.take_front(n))
    }

    /// Takes the next line with its newline. `None`: no whole line is there, and `data` is called
    /// again when more has arrived. A line of more than `max` bytes, its newline not counted,
    /// aborts the connection.
    pub fn line(&mut self, max: usize) -> Option<Received<'a>> {
        let line = self.try_line(max)?;
        line.map_err(|TooLong| self.violate(format!("a line of more than {max} bytes"))).ok()
    }

    /// Takes the next line with its newline, as [`line`](Input::line) does; a line that is too long
    /// is dropped, and reported once in its place.
    pub fn try_line(&mut self, max: usize) -> Option<Result<Received<'a>, TooLong>> {
        Some(self.find_line(max)?.map(|len| self.take_front(len)))
    }

    /// Takes whole lines, each with its newline: as many as are there in the first `most` bytes,
    /// and at least one, in one piece as long as none has to be copied for it. A line of more than
    /// `max` bytes is dropped and reported in its place.
    pub fn try_lines(&mut self, max: usize, most: usize) -> Option<Result<Received<'a>, TooLong>> {
        let found = self.find_line(max)?;
        Some(found.map(|mut whole| {
            let bytes = if self.head_len() == 0 { &self.tail[..] } else { self.head() };
            while let Some(len) = bytes.get(whole..).and_then(newline)
                && len <= max
                && whole + len < most
            {
                whole += len + 1;
            }
            self.take_front(whole)
        }))
    }

    /// Returns the length of the next line, its newline included, if it is there and not too long.
    fn find_line(&mut self, max: usize) -> Option<Result<usize, TooLong>> {
        if !self.skip_line() || self.is_empty() {
            return None;
        }
        let searched = self.untaken.0.as_ref().map_or(0, |kept| kept.searched);
        match self.newline_from(searched) {
            Some(len) if len <= max => return Some(Ok(len + 1)),
            Some(len) => self.advance(len + 1),
            None if self.len() <= max => {
                let len = self.len();
                let kept = self.kept();
                (kept.searched, kept.asked) = (len, true);
                return None;
            }
            None => {
                self.kept().skips_line = true;
                self.skip_line();
            }
        }
        Some(Err(TooLong))
    }

    /// Returns how many bytes stand before the first newline at or behind `from`.
    fn newline_from(&self, from: usize) -> Option<usize> {
        let head = self.head();
        if from < head.len()
            && let Some(at) = newline(&head[from..])
        {
            return Some(from + at);
        }
        let from = from.saturating_sub(head.len());
        newline(&self.tail[from..]).map(|at| head.len() + from + at)
    }

    /// Drops the rest of a line that was too long. Returns whether its newline has been found.
    fn skip_line(&mut self) -> bool {
        if !self.untaken.0.as_ref().is_some_and(|kept| kept.skips_line) {
            return true;
        }
        let (end, len) = (self.newline_from(0), self.len());
        self.advance(end.map_or(len, |len| len + 1));
        let kept = self.kept();
        kept.skips_line = end.is_none();
        kept.skipped = if kept.skips_line { kept.skipped + len } else { 0 };
        kept.asked |= end.is_none();
        end.is_some()
    }

    /// Takes the first `n` bytes, which are there.
    fn take_front(&mut self, n: usize) -> Received<'a> {
        if self.head_len() > 0 {
            return self.take_across(n);
        }
        if n == self.tail.len() {
            return self.take_all();
        }
        self.forget_search(n);
        Received::new(self.tail.split_to(n))
    }

    #[cold]
    fn take_across(&mut self, n: usize) -> Received<'a> {
        let mut bytes = Vec::with_capacity(n);
        let from_head = n.min(self.head_len());
        bytes.extend_from_slice(&self.head()[..from_head]);
        bytes.extend_from_slice(&self.tail[..n - from_head]);
        self.advance(n);
        Received::new(bytes.into())
    }

    /// Drops the first `n` bytes, which are there.
    fn advance(&mut self, n: usize) {
        self.forget_search(n);
        let from_head = n.min(self.head_len());
        if from_head > 0 {
            self.kept().advance(from_head);
        }
        self.tail.advance(n - from_head);
    }

    /// Has the bytes of both parts in the head.
    fn join(&mut self) {
        let tail = std::mem::replace(&mut self.tail, Chunk::EMPTY);
        if !tail.is_empty() {
            self.kept().append(&tail);
        }
    }

    fn want(&mut self, n: usize) {
        if n > self.max_input {
            let most = self.max_input;
            return self.violate(format!("{n} bytes are asked for at once, {most} at most"));
        }
        let kept = self.kept();
        (kept.wanted, kept.asked) = (n, true);
    }

    #[cold]
    fn violate(&mut self, reason: String) {
        let kept = self.kept();
        kept.asked = true;
        kept.violation.get_or_insert(reason);
    }

    fn forget_search(&mut self, taken: usize) {
        if let Some(kept) = &mut self.untaken.0 {
            kept.searched = kept.searched.saturating_sub(taken);
            kept.wanted = 0;
        }
    }

    fn head_len(&self) -> usize {
        self.untaken.0.as_ref().map_or(0, |kept| kept.head.len() - kept.taken)
    }

    fn head(&self) -> &[u8] {
        self.untaken.0.as_ref().map_or(&[], |kept| kept.head())
    }

    fn kept(&mut self) -> &mut Kept {
        self.untaken.0.get_or_insert_default()
    }

    // For the connection.

    /// What is left of an input, with what its protocol asked for.
    pub(crate) fn rest(tail: Chunk, untaken: &'a mut Untaken, max_input: usize) -> Input<'a> {
        Input { tail, untaken, max_input, received: PhantomData }
    }

    /// Returns what was not taken of the bytes that arrived last.
    pub(crate) fn into_tail(self) -> Chunk {
        self.tail
    }

    /// Returns whether nothing is left, nor kept, nor to be dropped.
    pub(crate) fn is_used_up(&self) -> bool {
        self.tail.is_nothing() && !self.has_state()
    }

    /// Returns whether something is kept beside bytes that have just arrived.
    pub(crate) fn has_state(&self) -> bool {
        self.untaken.0.is_some()
    }

    /// Returns whether the protocol can make use of what is there: it did not ask for more.
    pub(crate) fn is_enough(&self) -> bool {
        self.untaken.0.as_ref().is_none_or(|kept| self.len() >= kept.wanted)
    }

    /// Returns whether the protocol asked for what is not there.
    pub(crate) fn awaits_more(&self) -> bool {
        self.untaken.0.as_ref().is_some_and(|kept| kept.asked)
    }

    /// What is left is held, and is not what the protocol has left: its limit does not count.
    pub(crate) fn hold(&mut self) {
        self.max_input = usize::MAX;
    }

    /// Keeps what was not taken for the next call. Returns why the connection must be aborted, if
    /// it must, as for more than `most` bytes; a `paused` one may keep what had arrived before it
    /// paused, however much that is.
    #[inline(never)]
    pub(crate) fn leave(mut self, paused: bool, most: usize) -> Option<String> {
        self.join();
        let (len, most) = (self.len(), self.max_input.min(most));
        let kept = self.untaken.0.as_mut()?;
        let violation = kept.violation.take();
        let idle = len == 0 && kept.wanted == 0 && !kept.skips_line;
        if violation.is_some() || idle {
            self.untaken.0 = None;
            return violation;
        }
        let over = len > most && !paused;
        let held = self.max_input == usize::MAX;
        let what = if held { "wait, and the memory is full" } else { "are not taken" };
        over.then(|| format!("{len} bytes of input {what}, {most} at most"))
    }
}

impl Untaken {
    /// Returns whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|kept| kept.head().is_empty())
    }

    /// Takes the bytes that are kept. What the protocol asked for stays.
    pub(crate) fn take_head(&mut self) -> Chunk {
        let Some(kept) = &mut self.0 else { return Chunk::EMPTY };
        let (head, taken) = (std::mem::take(&mut kept.head), std::mem::take(&mut kept.taken));
        kept.charge.set(0);
        kept.searched = 0;
        let mut chunk = Chunk::from(head);
        chunk.advance(taken);
        chunk
    }

    /// Returns how many bytes wait for those that follow, if any do.
    pub(crate) fn incomplete(&self) -> Option<usize> {
        let kept = self.0.as_ref()?;
        let len = kept.head().len() + kept.skipped;
        (len > 0).then_some(len)
    }

    /// Drops what is kept.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

impl<'a> Received<'a> {
    fn new(chunk: Chunk) -> Received<'a> {
        Received { chunk, input: PhantomData }
    }

    /// Keeps the bytes beyond the call, without a copy.
    pub fn into_chunk(self) -> Chunk {
        self.chunk
    }
}

impl Deref for Received<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.chunk
    }
}

impl DerefMut for Received<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.chunk.make_mut()
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the line is too long")
    }
}

impl std::error::Error for TooLong {}

fn newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\n')
}

#[cfg(test)]
mod tests;
