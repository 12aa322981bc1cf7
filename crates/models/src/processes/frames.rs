//! What was said, packed for a stream between two processes: its length, four bytes, and then it.
//!
//! A post is passed on whole or not at all, however the stream was cut: so lines never mix in
//! their midst, not even if a process was killed in the midst of one.

use proactor::buffer::Chunk;
use proactor::protocol::{Message, Outbox};

/// The bytes that stand before each.
pub(super) const HEADER: usize = 4;

/// Says `message` to the others, packed. What is for an operator is for nobody: there is none.
pub(super) fn broadcast(message: Message, out: &mut Outbox<'_>) {
    let Message::Broadcast(chunk) = message else { return };
    let len = u32::try_from(chunk.len()).expect("a chunk is smaller than 4 GiB");
    out.broadcast(len.to_le_bytes().to_vec());
    out.broadcast(chunk);
}

/// Says to the others that no more will be said: a frame of nothing.
pub(super) fn broadcast_goodbye(out: &mut Outbox<'_>) {
    out.broadcast(&[0; HEADER][..]);
}

/// Finds the frames of a stream. Holds at most one that has not come whole.
#[derive(Debug, Clone, Default)]
pub(super) struct Frames {
    partial: Vec<u8>,
}

impl Frames {
    /// Takes in `chunk` and calls `each` with every frame that it completes, its header included:
    /// in place, unless it straddles two chunks.
    pub(super) fn feed(&mut self, mut chunk: Chunk, mut each: impl FnMut(Chunk)) {
        while !chunk.is_empty() {
            if self.partial.is_empty()
                && let Some(len) = frame_len(&chunk).filter(|&len| len <= chunk.len())
            {
                each(chunk.split_to(len));
                continue;
            }
            let wanted = frame_len(&self.partial).unwrap_or(HEADER) - self.partial.len();
            let some = chunk.split_to(wanted.min(chunk.len()));
            self.partial.extend_from_slice(&some);
            if frame_len(&self.partial) == Some(self.partial.len()) {
                each(Chunk::from(std::mem::take(&mut self.partial)));
            }
        }
    }
}

/// How long the frame is that begins here, with its header.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|&header| HEADER + u32::from_le_bytes(header) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use proactor::protocol::testing::cut;

    fn packed(messages: &[Vec<u8>]) -> Vec<u8> {
        let frame = |post: &Vec<u8>| [&(post.len() as u32).to_le_bytes()[..], post].concat();
        messages.iter().flat_map(frame).collect()
    }

    fn frames<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Vec<Vec<u8>> {
        let (mut frames, mut found) = (Frames::default(), Vec::new());
        for part in parts {
            frames.feed(Chunk::from(part.to_vec()), |frame| found.push(frame[HEADER..].to_vec()));
        }
        found
    }

    #[test]
    fn a_frame_in_one_piece_is_not_copied() {
        let chunk = Chunk::from(packed(&[b"one".to_vec(), b"two".to_vec()]));
        let mut places = vec![chunk.as_ptr()];
        let second = chunk[HEADER + 3..].as_ptr();
        Frames::default().feed(chunk, |frame| places.push(frame.as_ptr()));
        assert_eq!(places, [places[0], places[0], second]);
    }

    #[test]
    fn what_is_not_whole_is_nobodys() {
        let text = packed(&[b"whole".to_vec(), b"torn".to_vec()]);
        assert_eq!(frames([&text[..text.len() - 1]]), [b"whole"]);
    }

    proptest! {
        #[test]
        fn how_the_stream_was_cut_changes_nothing(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6),
            cuts in prop::collection::vec(0..80usize, 0..12),
        ) {
            prop_assert_eq!(frames(cut(&packed(&messages), &cuts)), messages);
        }
    }
}
