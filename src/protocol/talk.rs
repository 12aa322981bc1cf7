//! Talk: every line goes to the operator at the server's console.

use super::speaker::Speaker;

/// Sends each line to the operator, as `[7] hello`: 7 is the number of the connection, by which the
/// operator replies. Announces connections that come and go, as `* 7 joined` and `* 7 left`.
///
/// The peers of a listener receive nothing of one another. [`Speaker`] says what a line is.
pub type Talk = Speaker<true>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{converse, cut};
    use super::super::{LINE_MAX, TOO_LONG};
    use super::*;

    #[test]
    fn lines_go_to_the_operator_and_not_to_peers() {
        let said = converse(&mut Talk::new(1), [&b"hel"[..], b"lo\nthere"]);
        let sent = "* 1 joined\n[1] hello\n[1] there\n* 1 left\n";
        assert_eq!(String::from_utf8(said.to_operator.concat()).unwrap(), sent);
        assert!(said.messages.is_empty() && said.replies.is_empty() && said.finished);
    }

    #[test]
    fn a_line_too_long_gets_a_complaint_and_the_operator_does_not_see_it() {
        let long = vec![b'x'; LINE_MAX + 1];
        let said = converse(&mut Talk::new(1), [&long[..], b"xx\nshort\n"]);
        assert_eq!(said.replies, TOO_LONG.as_bytes());
        assert_eq!(said.to_operator.concat(), b"* 1 joined\n[1] short\n* 1 left\n");
    }

    proptest! {
        #[test]
        fn how_the_network_cut_the_bytes_changes_nothing(
            lines in prop::collection::vec("[ab]{0,4}|quit", 0..8),
            cuts in prop::collection::vec(0..40usize, 0..8),
        ) {
            let text = lines.join("\n");
            let sent = |parts| converse(&mut Talk::new(1), parts).to_operator.concat();
            prop_assert_eq!(sent(cut(text.as_bytes(), &cuts)), sent(vec![text.as_bytes()]));
        }
    }
}
