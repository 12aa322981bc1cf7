//! Messages, packed for a stream between two processes: four bytes of length, then the message.
//!
//! A message is passed on whole or not at all, however the stream was cut. So lines never mix, even
//! if a process is killed while it writes one.

use proactor::buffer::SendQueue;
use proactor::protocol::{Input, Message, Outbox, Received};

/// The length of a frame's header in bytes.
pub(super) const HEADER: usize = 4;

/// This bit of the length marks an announcement: it is dropped for a peer that is behind.
const ANNOUNCES: u32 = 1 << 31;

/// Broadcasts `message`, packed. A message to an operator is dropped: this model has none.
pub(super) fn broadcast(message: Message, out: &mut Outbox<'_>) {
    let len = u32::try_from(message.chunk().len()).ok().filter(|len| len & ANNOUNCES == 0);
    let len = len.expect("a chunk is smaller than 2 GiB");
    match message {
        Message::Broadcast(chunk) => {
            out.broadcast(len.to_le_bytes().to_vec());
            out.broadcast(chunk);
        }
        // Dropped as a whole.
        Message::Announce(chunk) => {
            out.announce([&(len | ANNOUNCES).to_le_bytes()[..], &chunk].concat())
        }
        Message::Operator(_) => {}
    }
}

/// Returns one frame of what is queued.
pub(super) fn packed(queue: &SendQueue) -> Vec<u8> {
    let mut frame = (queue.bytes() as u32).to_le_bytes().to_vec();
    queue.iter().for_each(|chunk| frame.extend_from_slice(chunk));
    frame
}

/// Passes a frame on to all other peers, as what it was; without its header if it is `unpacked`.
pub(super) fn pass_on(frame: Received<'_>, unpacked: bool, out: &mut Outbox<'_>) {
    let announces = frame[HEADER - 1] & (ANNOUNCES >> 24) as u8 != 0;
    let mut chunk = frame.into_chunk();
    chunk.advance(if unpacked { HEADER } else { 0 });
    if announces { out.announce(chunk) } else { out.broadcast(chunk) }
}

/// Takes the next frame, with its header, if it is complete.
pub(super) fn next<'a>(input: &mut Input<'a>) -> Option<Received<'a>> {
    let header = input.peek_array()?;
    input.take(HEADER + (u32::from_le_bytes(header) & !ANNOUNCES) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use proactor::buffer::Chunk;
    use proactor::protocol::testing::{cut, receive};
    use proactor::protocol::{OutboxBuffer, Protocol, Untaken};

    fn packed(messages: &[Vec<u8>]) -> Vec<u8> {
        let frame = |post: &Vec<u8>| [&(post.len() as u32).to_le_bytes()[..], post].concat();
        messages.iter().flat_map(frame).collect()
    }

    /// Collects the frames of its input.
    #[derive(Default)]
    struct Frames(Vec<Chunk>);

    impl Protocol for Frames {
        fn data(&mut self, input: &mut Input<'_>, _: &mut Outbox<'_>) {
            while let Some(frame) = next(input) {
                self.0.push(frame.into_chunk());
            }
        }
    }

    fn frames<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Vec<Vec<u8>> {
        let (mut frames, mut untaken) = (Frames::default(), Untaken::default());
        for part in parts {
            let chunk = Chunk::from(part.to_vec());
            receive(&mut frames, chunk, &mut untaken, &mut OutboxBuffer::default());
        }
        frames.0.iter().map(|frame| frame[HEADER..].to_vec()).collect()
    }

    #[test]
    fn a_frame_in_one_piece_is_not_copied() {
        let chunk = Chunk::from(packed(&[b"one".to_vec(), b"two".to_vec()]));
        let places = [chunk.as_ptr(), chunk[HEADER + 3..].as_ptr()];
        let (mut frames, mut untaken) = (Frames::default(), Untaken::default());
        receive(&mut frames, chunk, &mut untaken, &mut OutboxBuffer::default());
        assert_eq!(frames.0.iter().map(|frame| frame.as_ptr()).collect::<Vec<_>>(), places);
    }

    #[test]
    fn an_incomplete_frame_is_not_passed_on() {
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
