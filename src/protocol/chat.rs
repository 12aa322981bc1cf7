//! Chat: every line goes to all other peers, with the number of its sender.

use super::speaker::Speaker;

/// Passes each line on to every other peer of the same listener, as `[7] hello`: 7 is the number of
/// the sending connection. Announces connections that come and go, as `* 7 joined` and `* 7 left`.
///
/// [`Speaker`] says what a line is.
pub type Chat = Speaker<false>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{converse, cut, to_others};
    use super::super::{LINE_MAX, OutboxBuffer, Protocol};
    use super::*;
    use crate::limits::CloseReason;

    /// Returns what the others receive of connection 1.
    fn messages<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Vec<u8> {
        let said = converse(&mut Chat::new(1), parts);
        assert!(said.replies.is_empty() && said.finished);
        said.messages.concat()
    }

    #[test]
    fn lines_go_to_the_others_with_a_label_and_not_back() {
        let sent = messages([&b"hel"[..], b"lo\nyou\nthere"]);
        let expected = "* 1 joined\n[1] hello\n[1] you\n[1] there\n* 1 left\n";
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
    }

    #[test]
    fn quit_leaves_and_later_lines_are_ignored() {
        for quit in [&b"quit\n"[..], b"quit\r\n", b"quit"] {
            let say = [b"quit it\n", quit].concat();
            assert_eq!(messages([&say[..]]), b"* 1 joined\n[1] quit it\n* 1 left\n");
        }
        let rest = messages([&b"a\nquit\nb\n"[..], b"c\nquit\n"]);
        assert_eq!(rest, b"* 1 joined\n[1] a\n* 1 left\n");
    }

    #[test]
    fn a_carriage_return_in_front_of_a_newline_is_not_passed_on() {
        let sent = messages([&b"hello\r\n"[..], b"you\r", b"\nlast\r"]);
        assert_eq!(sent, b"* 1 joined\n[1] hello\n[1] you\n[1] last\n* 1 left\n");
    }

    #[test]
    fn the_end_is_announced_once() {
        let mut chat = Chat::new(7);
        let mut out = OutboxBuffer::default();
        chat.open(&mut out.outbox());
        chat.close(CloseReason::Finished, &mut out.outbox());
        chat.close(CloseReason::Finished, &mut out.outbox());
        assert_eq!(to_others(&out.context.messages), [&b"* 7 joined\n"[..], b"* 7 left\n"]);
    }

    #[test]
    fn a_line_too_long_gets_a_complaint_and_is_not_passed_on() {
        let long = vec![b'x'; LINE_MAX + 1];
        let said = converse(&mut Chat::new(1), [&long[..], b"xx\nshort\n"]);
        assert_eq!(said.replies, b"line too long: 16384 bytes at most\n");
        assert_eq!(said.messages.concat(), b"* 1 joined\n[1] short\n* 1 left\n");
    }

    #[test]
    fn bytes_that_are_not_text_are_passed_on_without_control_characters() {
        let sent = messages([&b"\xff\xfe\0\n\x1b[2J\tyou\r\n"[..]]);
        assert_eq!(sent, b"* 1 joined\n[1] \xff\xfe\n[1] [2J\tyou\n* 1 left\n");
    }

    proptest! {
        #[test]
        fn how_the_network_cut_the_bytes_changes_nothing(
            lines in prop::collection::vec("[ab]{0,4}|quit|quit\r", 0..8),
            cuts in prop::collection::vec(0..40usize, 0..8),
        ) {
            let text = lines.join("\n");
            prop_assert_eq!(messages(cut(text.as_bytes(), &cuts)), messages([text.as_bytes()]));
        }
    }
}
