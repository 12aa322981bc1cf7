//! What the simulated kernel does with the operations that it was given, and what goes wrong.

use std::collections::VecDeque;
use std::time::Duration;

use super::client::Client;
use super::{Cancelled, Doing, Fault, Open, Reset, STEPS, Sim, Tier, Work, reclaim, stays};
use proactor::buffer::{Chunk, Lease, Size};
use proactor::keys::ListenerId;
use proactor::ring::{CancelTarget, Cqe, Kind, RecvMode, Socket, Token, Wait};

impl Sim {
    /// Lends itself what is idle.
    pub(super) fn lend(&mut self) -> u32 {
        let mut count = 0;
        if self.setup.tier != Tier::OneShot {
            for (at, group) in self.lent.iter_mut().enumerate() {
                let before = group.len();
                self.pool.lend(Size(at as u8), usize::MAX, |id, _, _| group.push_back(id));
                count += group.len() - before;
            }
        }
        count as u32
    }

    /// Takes the queue, or a part of it. Returns the number taken, and whether that is all.
    pub(super) fn take(&mut self) -> (u32, bool) {
        let queued = self.queue.len();
        let part = queued > 1 && self.befalls(Fault::PartialSubmit);
        let count = if part { self.dice.between(1, queued - 1) } else { queued };
        for _ in 0..count {
            let doing = self.queue.pop_front().expect("counted");
            self.start(doing);
        }
        (count as u32, !part)
    }

    fn start(&mut self, mut doing: Doing) {
        doing.work = match doing.work {
            Work::Shutdown(socket) => {
                self.far(socket).server_ends();
                Work::Done(0)
            }
            Work::Close(socket) => {
                self.far(socket).server_closes();
                self.sockets[socket.0 as usize] = None;
                self.unused.push(socket.0);
                self.closes[socket.0 as usize] = Some(doing.token);
                Work::Done(0)
            }
            Work::Cancel(target) => Work::Done(self.cancel(target)),
            Work::Outq(socket) if self.setup.outq => {
                Work::Done(self.far(socket).unacknowledged() as i32)
            }
            Work::Outq(_) => Work::Done(-libc::EOPNOTSUPP),
            // Without a buffer it fails at once, or waits for bytes and fails then.
            Work::Recv { size, .. } if self.finds_no_buffer(size) => Work::Done(-libc::ENOBUFS),
            Work::Send { socket, chunks, skip_success: true, .. } => {
                return self.send_skipping_completion(doing.token, socket, &chunks);
            }
            Work::Send { socket, chunks, skip_success, .. } => {
                let waits = self.far(socket).writable() == 0;
                Work::Send { socket, chunks, skip_success, waits }
            }
            work => work,
        };
        self.bag.push(doing);
    }

    fn finds_no_buffer(&mut self, size: Size) -> bool {
        let lends = self.setup.tier == Tier::OneShotLent;
        lends && self.lent[size.0 as usize].is_empty() && self.dice.below(2) == 0
    }

    fn cancel(&mut self, target: CancelTarget) -> i32 {
        let target = Token::from(target);
        let Some(at) = self.bag.iter().position(|doing| doing.token == target) else {
            self.fault_counts.count(Fault::CancelFoundNothing);
            return -libc::ENOENT;
        };
        let once = self.bag[at].cancelled == Cancelled::No;
        self.check(once, format_args!("{target:?} is cancelled twice"));
        let late = self.befalls(Fault::CancelTooLate);
        self.bag[at].cancelled = if late { Cancelled::TooLate } else { Cancelled::Yes };
        if late { -libc::EALREADY } else { 0 }
    }

    /// Runs one operation or client that can make progress. Returns false if there is none.
    fn play(&mut self) -> bool {
        let all = self.bag.len() + self.clients.len();
        if all == 0 {
            return false;
        }
        let first = self.dice.below(all);
        for at in (first..all).chain(0..first) {
            if let Some(client) = at.checked_sub(self.bag.len()) {
                if self.clients[client].can_step(self.now) {
                    self.clients[client].step(self.now, &mut self.dice);
                    return true;
                }
            } else if self.bag[at].at <= self.now && self.can_go_on(&self.bag[at]) {
                let mut doing = self.bag.swap_remove(at);
                if self.befalls(Fault::Late) {
                    doing.at = self.now + Duration::from_nanos(self.dice.below(2_000_000) as u64);
                    self.bag.push(doing);
                } else {
                    self.go_on(doing);
                }
                return true;
            }
        }
        false
    }

    pub(super) fn play_some(&mut self) {
        for _ in 0..self.dice.below(STEPS) {
            self.idle &= !self.play();
        }
    }

    fn can_go_on(&self, doing: &Doing) -> bool {
        let far = |socket: &Socket| {
            let open = self.sockets[socket.0 as usize].as_ref().expect("closed last of all");
            &self.clients[open.client.0]
        };
        doing.cancelled != Cancelled::No
            || match &doing.work {
                Work::Accept(listener) => {
                    let fails = self.shut_down.contains(&listener.0);
                    fails || !self.backlogs[listener.0 as usize].is_empty()
                }
                Work::Recv { socket, mode, .. } => {
                    *mode == RecvMode::AtOnce || far(socket).is_readable()
                }
                Work::Send { socket, waits, .. } => !waits || far(socket).is_writable(),
                Work::Read(_) => !self.input.is_empty() || self.input_ended,
                Work::Wake => self.readable,
                _ => true,
            }
    }

    fn go_on(&mut self, doing: Doing) {
        match doing.work {
            Work::Accept(listener) => self.accept(listener, doing),
            Work::Recv { socket, .. } => self.recv(socket, doing),
            Work::Send { socket, .. } => self.send(socket, doing),
            Work::Read(lease) => self.read(doing.token, lease),
            Work::Wake => {
                self.readable = false;
                self.post(doing.token, 1, 0);
            }
            Work::Done(result) => {
                self.post(doing.token, result, 0);
            }
            Work::Shutdown(_) | Work::Close(_) | Work::Cancel(_) | Work::Outq(_) => {
                unreachable!("done at once")
            }
        }
    }

    fn accept(&mut self, listener: ListenerId, doing: Doing) {
        let token = doing.token;
        let fails = self.shut_down.contains(&listener.0);
        let backlog = &mut self.backlogs[listener.0 as usize];
        if fails && doing.cancelled != Cancelled::Yes {
            self.post(token, -libc::EINVAL, 0);
        } else if doing.cancelled == Cancelled::Yes || backlog.is_empty() {
            self.end_cancelled(&doing);
        } else if self.befalls(Fault::AcceptExhausted) {
            let errno = [libc::EMFILE, libc::ENFILE][self.dice.below(2)];
            self.post(token, -errno, 0);
        } else if self.befalls(Fault::AcceptBogus) {
            let none = self.sockets.len() + self.dice.below(1000);
            self.post_and_stay(doing, none as i32, 0);
        } else if self.befalls(Fault::AcceptAborted) {
            self.post(token, -libc::ECONNABORTED, 0);
        } else if let Some(socket) = self.unused.pop() {
            let client = self.backlogs[listener.0 as usize].pop_front().expect("a client waits");
            self.sockets[socket as usize] = Some(Open { client, owner: None, closing: false });
            if self.closes[socket as usize].is_some_and(|close| self.live.contains(&close)) {
                self.fault_counts.count(Fault::SocketReused);
            }
            self.post_and_stay(doing, socket as i32, 0);
        } else {
            // No slot is left: the connection had already been taken, and is lost.
            let client = self.backlogs[listener.0 as usize].pop_front().expect("a client waits");
            self.clients[client.0].break_off(Reset::ByServer);
            self.post(token, -libc::ENFILE, 0);
        }
    }

    fn recv(&mut self, socket: Socket, mut doing: Doing) {
        let Work::Recv { size, lease, mode, .. } = &mut doing.work else {
            unreachable!("a receive")
        };
        let (size, own, token) = (*size, lease.take(), doing.token);
        let at_once = *mode == RecvMode::AtOnce;
        let available = self.far(socket).available();
        let group = &self.lent[size.0 as usize];
        let lends = self.setup.tier != Tier::OneShot;
        let has_buffer = if lends { !group.is_empty() } else { own.is_some() };

        match doing.cancelled {
            Cancelled::Yes if available > 0 && lends && has_buffer => {
                if !self.befalls(Fault::DataAfterCancel) {
                    return self.end_cancelled(&doing);
                }
            }
            Cancelled::TooLate if available > 0 && has_buffer => {}
            Cancelled::Yes | Cancelled::TooLate => return self.end_cancelled(&doing),
            Cancelled::No => {}
        }
        if self.far(socket).was_reset().is_none() && self.befalls(Fault::RecvReset) {
            self.far(socket).reset();
        }
        if self.far(socket).was_reset().is_some() {
            self.post(token, -libc::ECONNRESET, 0);
        } else if self.befalls(Fault::RecvInterrupted) {
            let errnos = [libc::EINTR, if at_once { libc::EINTR } else { libc::EAGAIN }];
            let errno = errnos[self.dice.below(2)];
            self.post(token, -errno, 0);
        } else if self.befalls(Fault::NoMemory) {
            self.post(token, -libc::ENOMEM, 0);
        } else if !has_buffer && available > 0 {
            self.post(token, -libc::ENOBUFS, 0);
        } else if available == 0 && at_once && !self.far(socket).is_readable() {
            self.post(token, -libc::EAGAIN, 0);
        } else if available == 0 {
            self.post(token, 0, 0);
        } else if self.befalls(Fault::NoBuffers) {
            self.post(token, -libc::ENOBUFS, 0);
        } else {
            self.fill(socket, size, own, doing);
        }
    }

    /// Receives into the operation's own buffer, or into one that was lent.
    fn fill(&mut self, socket: Socket, size: Size, own: Option<Lease>, doing: Doing) {
        let (mut lease, flags) = match own {
            Some(lease) => (lease, 0),
            None => {
                let id = self.lent[size.0 as usize].pop_front().expect("a buffer is lent");
                (reclaim(&self.pool, id), Cqe::BUFFER | id.0 << 16)
            }
        };
        let bytes = lease.bytes_mut();
        let mut len = self.far(socket).available().min(bytes.len());
        if len > 1 && self.befalls(Fault::ShortRecv) {
            len = self.dice.between(1, len - 1);
        }
        self.far(socket).fill(&mut lease.bytes_mut()[..len]);
        let cqe = self.post_and_stay(doing, len as i32, flags);
        self.filled.push((cqe, lease));
    }

    fn read(&mut self, token: Token, mut lease: Lease) {
        if self.befalls(Fault::ReadFailed) {
            self.post(token, -libc::EIO, 0);
        } else if self.befalls(Fault::ReadInterrupted) {
            self.post(token, -libc::EINTR, 0);
        } else {
            let space = lease.bytes_mut();
            let mut len = self.input.len().min(space.len());
            if len > 1 && self.befalls(Fault::ShortRead) {
                len = self.dice.between(1, len - 1);
            }
            space.iter_mut().zip(self.input.drain(..len)).for_each(|(to, byte)| *to = byte);
            let cqe = self.post(token, len as i32, 0);
            if len > 0 {
                self.filled.push((cqe, lease));
            }
        }
    }

    fn send(&mut self, socket: Socket, mut doing: Doing) {
        let Work::Send { chunks, .. } = &mut doing.work else { unreachable!("a send") };
        let chunks = std::mem::take(chunks);
        if self.far(socket).was_reset().is_none() && self.befalls(Fault::SendReset) {
            self.far(socket).reset();
        }
        if self.far(socket).was_reset().is_some() {
            let errno = [libc::EPIPE, libc::ECONNRESET][self.dice.below(2)];
            return self.end(&doing, -errno);
        }
        if doing.cancelled == Cancelled::No && self.befalls(Fault::NoMemory) {
            let errno = [libc::ENOMEM, libc::EAGAIN][self.dice.below(2)];
            return self.end(&doing, -errno);
        }
        let space = match doing.cancelled {
            Cancelled::Yes => 0,
            _ => self.far(socket).writable(),
        };
        if space == 0 {
            return self.end_cancelled(&doing);
        }
        // What it takes at once: a send that waits does not wait to send all (kernel-notes §6).
        let mut left = space.min(chunks.iter().map(|chunk| chunk.len()).sum());
        if left > 1 && self.befalls(Fault::ShortSend) {
            left = self.dice.between(1, left - 1);
        }
        let sent = self.give(socket, &chunks, left);
        self.end(&doing, sent as i32);
    }

    /// Sends the first `space` bytes of `chunks`.
    fn give(&mut self, socket: Socket, chunks: &VecDeque<Chunk>, space: usize) -> usize {
        let mut left = space;
        for chunk in chunks {
            let len = chunk.len().min(left);
            self.far(socket).give(&chunk[..len]);
            left -= len;
        }
        space - left
    }

    /// Sends what fits, at once. A completion is posted only if that is not all.
    fn send_skipping_completion(&mut self, token: Token, socket: Socket, chunks: &VecDeque<Chunk>) {
        let all: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        if self.far(socket).was_reset().is_some() {
            self.post(token, -libc::EPIPE, 0);
            return;
        }
        let mut space = self.far(socket).writable().min(all);
        if self.befalls(Fault::SkippedSendFails) {
            space = self.dice.below(space + 1).min(all - 1);
        }
        self.give(socket, chunks, space);
        match space {
            0 => drop(self.post(token, -libc::EAGAIN, 0)),
            space if space < all => drop(self.post(token, space as i32, 0)),
            all => self.implied.push_back((token, all)),
        }
    }

    /// Ends what was cancelled and has nothing to report.
    fn end_cancelled(&mut self, doing: &Doing) {
        let late = doing.cancelled == Cancelled::TooLate;
        self.end(doing, if late { -libc::EINTR } else { -libc::ECANCELED });
    }

    /// Gives the last answer of an operation that may have been cancelled.
    fn end(&mut self, doing: &Doing, result: i32) {
        if doing.cancelled == Cancelled::Yes {
            let answered = !self.bag.iter().any(|other| {
                matches!(other.work, Work::Done(_)) && cancels(other.token, doing.token)
            });
            self.fault_counts.count(if answered { Fault::CancelFirst } else { Fault::TargetFirst });
        }
        self.post(doing.token, result, 0);
    }

    /// Answers, and stays in flight if the tier and chance will have it.
    fn post_and_stay(&mut self, doing: Doing, result: i32, flags: u32) -> Cqe {
        let once = match doing.work {
            Work::Accept(_) => self.accepts_once(),
            Work::Recv { mode, .. } => mode != RecvMode::Many,
            _ => false,
        };
        let more = self.setup.tier == Tier::Multishot
            && !once
            && doing.cancelled != Cancelled::TooLate
            && !self.befalls(Fault::MultishotEnded);
        let cqe = self.post(doing.token, result, flags | if more { Cqe::MORE } else { 0 });
        if stays(cqe) {
            self.bag.push(doing);
        }
        cqe
    }

    /// Posts a completion. If the queue is full, a multishot operation ends (kernel-notes §8).
    fn post(&mut self, token: Token, result: i32, flags: u32) -> Cqe {
        let full = !self.overflow.is_empty() || self.befalls(Fault::Overflow);
        let flags = if full { flags & !Cqe::MORE } else { flags };
        let cqe = Cqe { token, res: result, flags };
        if full { &mut self.overflow } else { &mut self.completions }.push_back(cqe);
        cqe
    }

    /// Sleeps until something completes, or until the timeout of `wait`. Returns whether it slept
    /// without a completion, but with a reason.
    ///
    /// When nothing can ever complete it returns once, so that the test can check whether this is
    /// the expected end. To sleep again is a deadlock.
    pub(super) fn sleep(&mut self, wait: Wait) -> bool {
        let mut slept = false;
        while self.completions.is_empty() && self.overflow.is_empty() {
            if self.play() {
                self.idle = false;
                continue;
            }
            let late = self.bag.iter().filter(|doing| self.can_go_on(doing)).map(|doing| doing.at);
            let next = late.chain(self.clients.iter().filter_map(Client::steps_at)).min();
            let until = match wait {
                Wait::No => return slept,
                Wait::Completion => None,
                Wait::Until(until) => Some(until),
            };
            let Some(to) = next.into_iter().chain(until).min() else {
                self.check(!self.idle, "deadlock: nothing can ever complete");
                self.idle = true;
                return true;
            };
            slept |= to > self.now;
            self.now = self.now.max(to);
            self.clock.set(self.now);
            if until.is_some_and(|until| until <= self.now) {
                return slept;
            }
        }
        slept
    }
}

/// Whether `token` is that of a cancel of `target`.
fn cancels(token: Token, target: Token) -> bool {
    let kind = match target.kind() {
        Some(Kind::Accept) => Kind::CancelAccept,
        Some(Kind::Recv) => Kind::CancelRecv,
        Some(Kind::Send) => Kind::CancelSend,
        _ => return false,
    };
    token == Token::of(kind, target.conn())
}
