//! The meaning of a completion queue entry.

use std::io;

use super::{AcceptId, CancelTarget, Cqe, Kind, Socket, Token, WakeSource};
use crate::buffer::{Chunk, Lease};
use crate::keys::ConnId;
use crate::os::AcceptFailure;

/// A completion with its result decoded: the layers above see an [`io::Error`] or an
/// [`AcceptFailure`], never a negative result.
#[derive(Debug)]
pub enum Completion {
    /// An accept brought a connection, or failed.
    Accept {
        /// The accept that completed.
        accept: AcceptId,
        /// The result of the operation.
        outcome: Result<Socket, AcceptFailure>,
        /// True if the accept stays in flight.
        more: bool,
    },
    /// A receive brought bytes, the end, or failed.
    Recv {
        /// The connection of the operation.
        conn: ConnId,
        /// The result of the operation.
        outcome: Recv,
        /// True if the receive stays in flight.
        more: bool,
    },
    /// A send ended, with success or not.
    Send {
        /// The connection of the operation.
        conn: ConnId,
        /// How many bytes were sent, perhaps fewer than all.
        outcome: Sent,
    },
    /// The outbound direction was shut down, also if the connection had broken.
    Shutdown {
        /// The connection of the operation.
        conn: ConnId,
    },
    /// A socket was closed.
    Close {
        /// The connection of the operation.
        conn: ConnId,
    },
    /// A cancel ended, whether it found its target or not.
    Cancel {
        /// The operation to cancel.
        target: CancelTarget,
    },
    /// A read brought bytes, the end, or failed; it is never [`NoBuffer`](Recv::NoBuffer).
    Read {
        /// The result of the operation.
        outcome: Recv,
    },
    /// How many bytes the peer of a connection has not acknowledged; `None` if it is not known.
    Outq {
        /// The connection of the operation.
        conn: ConnId,
        /// The number of bytes.
        outq: Option<usize>,
    },
    /// The descriptor of an [`Op::Wake`](super::Op::Wake) is readable, or the wait for it failed.
    Wake {
        /// Whose descriptor it is.
        source: WakeSource,
    },
    /// An operation of the ring itself ended.
    Internal,
}

/// The result of a receive.
#[derive(Debug)]
pub enum Recv {
    /// Bytes were received, into this chunk.
    Data(Chunk),
    /// The peer sends no more.
    End,
    /// No buffer was free; the bytes stay in the socket.
    NoBuffer,
    /// Nothing is there, and the receive does not wait.
    Nothing,
    /// It was cancelled, and no byte was lost.
    Cancelled,
    /// The connection is broken.
    Failed(io::Error),
}

/// The result of a send.
#[derive(Debug)]
pub enum Sent {
    /// This many bytes were sent.
    Bytes(usize),
    /// It was cancelled before any byte was sent.
    Cancelled,
    /// The connection is broken.
    Failed(io::Error),
}

/// Decodes a completion queue entry. `take_buffer` returns the buffer that a receive has filled.
pub(super) fn decode(cqe: Cqe, take_buffer: impl FnOnce(Cqe) -> Option<Lease>) -> Completion {
    let (token, more) = (cqe.token, cqe.more());
    let conn = token.conn();
    match token.kind() {
        Some(Kind::Accept) => {
            Completion::Accept { accept: token.accept(), outcome: accepted(cqe), more }
        }
        Some(Kind::Recv) => {
            Completion::Recv { conn, outcome: received(cqe, take_buffer(cqe)), more }
        }
        Some(Kind::Send) => Completion::Send { conn, outcome: sent(cqe) },
        Some(Kind::Shutdown) => Completion::Shutdown { conn },
        Some(Kind::Close) => Completion::Close { conn },
        Some(Kind::CancelAccept) => {
            Completion::Cancel { target: CancelTarget::Accept(token.accept()) }
        }
        Some(Kind::CancelRecv) => Completion::Cancel { target: CancelTarget::Recv(conn) },
        Some(Kind::CancelSend) => Completion::Cancel { target: CancelTarget::Send(conn) },
        Some(Kind::Read) => Completion::Read { outcome: received(cqe, take_buffer(cqe)) },
        Some(Kind::Outq) => {
            Completion::Outq { conn, outq: cqe.result().ok().map(|bytes| bytes as usize) }
        }
        Some(Kind::Wake) => {
            let monitor = token == Token::of_wake(WakeSource::Monitor);
            let source = if monitor { WakeSource::Monitor } else { WakeSource::Shutdown };
            Completion::Wake { source }
        }
        Some(
            Kind::Internal | Kind::PollAccept | Kind::PollRecv | Kind::PollSend | Kind::PollRead,
        ) => Completion::Internal,
        None => panic!("the kernel completes only what was submitted: {cqe:?}"),
    }
}

fn accepted(cqe: Cqe) -> Result<Socket, AcceptFailure> {
    Ok(Socket(cqe.result()?))
}

fn received(cqe: Cqe, buffer: Option<Lease>) -> Recv {
    match cqe.result() {
        Ok(0) => Recv::End,
        Ok(len) => match buffer {
            Some(lease) => Recv::Data(Chunk::received(lease, len as usize)),
            None => panic!("bytes are received into a buffer: {cqe:?}"),
        },
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOBUFS) => Recv::NoBuffer,
            Some(libc::EAGAIN) => Recv::Nothing,
            // A signal, or no memory for now: as if cancelled, so the loop issues it again.
            Some(libc::ECANCELED | libc::EINTR | libc::ENOMEM) => Recv::Cancelled,
            _ => Recv::Failed(error),
        },
    }
}

fn sent(cqe: Cqe) -> Sent {
    match cqe.result() {
        Ok(len) => Sent::Bytes(len as usize),
        Err(error) => match error.raw_os_error() {
            Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ENOMEM) => Sent::Cancelled,
            _ => Sent::Failed(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{BufferClass, Pool, Size};
    use crate::ring::Token;

    fn decoded(kind: Kind, res: i32, flags: u32, lease: Option<Lease>) -> Completion {
        let token = Token::of(kind, ConnId::new(7, 3));
        decode(Cqe { token, res, flags }, |_| lease)
    }

    fn outcome(res: i32) -> Recv {
        let Completion::Recv { conn, outcome, more } = decoded(Kind::Recv, res, 0, None) else {
            panic!("a receive completes as one");
        };
        assert_eq!((conn, more), (ConnId::new(7, 3), false));
        outcome
    }

    #[test]
    fn the_sizes_of_what_passes_the_border() {
        assert_eq!(size_of::<Cqe>(), 16);
        assert_eq!(size_of::<Token>(), 8);
        assert!(size_of::<Completion>() <= 56, "{}", size_of::<Completion>());
    }

    #[test]
    fn errno_ends_in_decode() {
        assert!(matches!(outcome(0), Recv::End));
        assert!(matches!(outcome(-libc::ENOBUFS), Recv::NoBuffer));
        assert!(matches!(outcome(-libc::ECANCELED), Recv::Cancelled));
        assert!(matches!(outcome(-libc::EAGAIN), Recv::Nothing));
        assert!(matches!(outcome(-libc::ECONNRESET), Recv::Failed(_)));
        let sent = |errno: i32| match decoded(Kind::Send, -errno, 0, None) {
            Completion::Send { outcome, .. } => outcome,
            other => panic!("a send completes as one: {other:?}"),
        };
        assert!(matches!(sent(libc::EPIPE), Sent::Failed(_)));
        for errno in [libc::EAGAIN, libc::EINTR, libc::ENOMEM] {
            assert!(matches!(sent(errno), Sent::Cancelled), "it is repeated");
        }
    }

    #[test]
    fn data_is_the_claimed_buffer_and_more_is_the_kernels_word() {
        let pool = Pool::new(&[BufferClass { bytes: 64, count: 1 }]).unwrap();
        let flags = Cqe::BUFFER | Cqe::MORE;
        let completion = decoded(Kind::Recv, 5, flags, pool.lease(Size(0)));
        let Completion::Recv { outcome: Recv::Data(chunk), more: true, .. } = completion else {
            panic!("{completion:?}");
        };
        assert_eq!(chunk.len(), 5);
    }

    #[test]
    fn a_cancel_names_its_target() {
        let completion = decoded(Kind::CancelSend, -libc::ENOENT, 0, None);
        let target = CancelTarget::Send(ConnId::new(7, 3));
        assert!(matches!(completion, Completion::Cancel { target: t } if t == target));
        assert_eq!(Token::from(target), Token::of(Kind::Send, ConnId::new(7, 3)));
    }
}
