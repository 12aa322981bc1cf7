//! The `user_data` of an operation, from its submission to its last completion.

use std::fmt;

pub use proactor_record::Kind;

use super::{AcceptId, CancelTarget, WakeSource};
use crate::keys::{ConnId, ListenerId};

/// The 64 bits of `user_data`: the kind of the operation, and its connection or listener.
///
/// ```text
///   63       56 55              32 31                        0
///   │  kind 8  │  generation 24   │  slot 32 (or accept)      │
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    /// Returns the token of an operation on a connection.
    pub fn of(kind: Kind, conn: ConnId) -> Token {
        Token(kind.token(conn.generation(), conn.slot()))
    }

    /// Returns the token of an operation on neither, with a number of its own.
    pub fn at(kind: Kind, index: u32) -> Token {
        Token(kind.token(0, index))
    }

    /// Returns the token of a wait for this descriptor.
    pub fn of_wake(source: WakeSource) -> Token {
        Token::at(Kind::Wake, source as u32)
    }

    /// Returns the kind of the operation.
    pub fn kind(self) -> Option<Kind> {
        Kind::of(self.0)
    }

    /// Returns true if the operation is of this kind.
    pub fn is(self, kind: Kind) -> bool {
        self.0 >> 56 == kind as u64
    }

    /// Returns the token of an operation of another kind on the same.
    pub fn with(self, kind: Kind) -> Token {
        Token((kind as u64) << 56 | self.0 << 8 >> 8)
    }

    /// Returns the connection, for an operation on one.
    pub fn conn(self) -> ConnId {
        ConnId::new(self.0 as u32, (self.0 >> 32) as u32 & 0xff_ffff)
    }

    /// Returns the token of an operation on a listener.
    pub fn of_accept(kind: Kind, accept: AcceptId) -> Token {
        Token::at(kind, u32::from(accept.slot) << 16 | u32::from(accept.listener.0))
    }

    /// Returns the accept that a token of [`of_accept`](Token::of_accept) names.
    pub fn accept(self) -> AcceptId {
        AcceptId { listener: ListenerId(self.0 as u16), slot: (self.0 >> 16) as u16 }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Some(kind) => write!(f, "{kind:?} {}", self.conn()),
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

impl From<CancelTarget> for Token {
    fn from(target: CancelTarget) -> Token {
        match target {
            CancelTarget::Accept(accept) => Token::of_accept(Kind::Accept, accept),
            CancelTarget::Recv(conn) => Token::of(Kind::Recv, conn),
            CancelTarget::Send(conn) => Token::of(Kind::Send, conn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_what_it_was_made_of() {
        for kind in Kind::ALL.iter().copied() {
            let conn = ConnId::new(u32::MAX, 0xab_cdef);
            assert_eq!(
                (Token::of(kind, conn).kind(), Token::of(kind, conn).conn()),
                (Some(kind), conn)
            );
            let accept = AcceptId { listener: ListenerId(65_535), slot: 7 };
            assert_eq!(Token::of_accept(kind, accept).accept(), accept);
        }
        assert_eq!((Token(0).kind(), Token(u64::MAX).kind()), (None, None));
        assert_eq!(format!("{:?}", Token::of(Kind::Send, ConnId::new(12, 3))), "Send 12.3");
    }
}
