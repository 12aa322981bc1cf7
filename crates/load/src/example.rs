//! A request and the reply to it, each time the same.

use std::sync::Arc;

use serde::Serialize;

use super::pattern::Mismatch;

/// A request and its reply; neither is empty.
pub type Example = (Arc<[u8]>, Arc<[u8]>);

/// The protocol of a server, and what is sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadProtocol {
    /// The name of the protocol.
    #[serde(rename = "protocol")]
    pub name: String,
    /// What is sent and must be received for it, message after message; `None` for pseudo-random
    /// bytes that the server echoes.
    #[serde(skip)]
    pub example: Option<Example>,
}

impl LoadProtocol {
    /// Returns echo, with pseudo-random bytes.
    pub fn echo() -> LoadProtocol {
        LoadProtocol { name: "echo".to_owned(), example: None }
    }
}

/// Writes the bytes from `offset` on of a stream that repeats `message`.
pub(super) fn fill(message: &[u8], offset: u64, out: &mut [u8]) {
    for (byte, next) in out.iter_mut().zip(repeated(message, offset)) {
        *byte = *next;
    }
}

/// Compares `bytes` with a stream that repeats `message`, from `offset` on.
///
/// # Errors
/// The first byte that differs.
pub(super) fn check(message: &[u8], offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
    for ((offset, &expected), &found) in (offset..).zip(repeated(message, offset)).zip(bytes) {
        if expected != found {
            return Err(Mismatch { offset, expected, found });
        }
    }
    Ok(())
}

fn repeated(message: &[u8], offset: u64) -> impl Iterator<Item = &u8> {
    let at = (offset % message.len() as u64) as usize;
    message[at..].iter().chain(message.iter().cycle())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_repeated_whatever_the_cut() {
        let whole = b"abcabcabcabc";
        for begin in 0..6 {
            for len in 0..=6 {
                let mut out = vec![0; len];
                fill(b"abc", begin as u64, &mut out);
                assert_eq!(out, whole[begin..begin + len]);
                assert_eq!(check(b"abc", begin as u64, &out), Ok(()));
            }
        }
    }

    #[test]
    fn the_first_byte_that_differs_is_named_by_its_offset() {
        for at in 0..7 {
            let mut bytes = *b"abcabca";
            bytes[at] = b'-';
            let wrong = check(b"abc", 3, &bytes).expect_err("one byte was changed");
            assert_eq!((wrong.offset, wrong.found), (3 + at as u64, b'-'));
            assert_eq!(wrong.expected, b"abc"[at % 3]);
        }
    }
}
