//! The cursor over what was received, however it was cut.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{LINE_MAX, TOO_LONG};
use super::*;

/// Calls `each` with an input of each of `parts` behind what was left of those before.
fn receive_each<'p>(
    untaken: &mut Untaken,
    parts: impl IntoIterator<Item = &'p [u8]>,
    mut each: impl FnMut(&mut Input<'_>),
) {
    for part in parts {
        let mut input = Input::new(Chunk::from(part.to_vec()), untaken, 1 << 20);
        each(&mut input);
        assert_eq!(input.leave(false, usize::MAX), None);
    }
}

/// Returns the lines of `parts`, and how many were too long.
fn lines<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, usize) {
    let (mut untaken, mut text, mut too_long) = (Untaken::default(), Vec::new(), 0);
    receive_each(&mut untaken, parts, |input| {
        while let Some(lines) = input.try_lines(LINE_MAX, usize::MAX) {
            match lines {
                Ok(lines) => {
                    assert_eq!(lines.last(), Some(&b'\n'), "whole lines only");
                    text.extend_from_slice(&lines);
                }
                Err(TooLong) => too_long += 1,
            }
        }
        assert!(input.len() <= LINE_MAX);
    });
    let last = Input::new(Chunk::EMPTY, &mut untaken, 1 << 20).take_all();
    text.extend_from_slice(&last);
    text.extend_from_slice(if last.is_empty() { b"" } else { b"\n" });
    (text, too_long)
}

#[test]
fn the_complaint_names_the_limit() {
    assert_eq!(TOO_LONG, format!("line too long: {LINE_MAX} bytes at most\n"));
}

#[test]
fn whole_lines_are_taken_together_and_in_place() {
    let chunk = Chunk::from(b"one\ntwo\nthr".to_vec());
    let (place, mut untaken) = (chunk.as_ptr(), Untaken::default());
    let mut input = Input::new(chunk, &mut untaken, 100);
    let lines = input.try_lines(LINE_MAX, usize::MAX).unwrap().unwrap();
    assert_eq!((&lines[..], lines.as_ptr()), (&b"one\ntwo\n"[..], place));
    assert!(input.try_lines(LINE_MAX, usize::MAX).is_none() && input.awaits_more());
    assert_eq!(input.len(), 3);
}

#[test]
fn lines_one_by_one_lie_where_they_were_received() {
    let chunk = Chunk::from(b"one\ntwo\n".to_vec());
    let (place, mut untaken) = (chunk.as_ptr(), Untaken::default());
    let mut input = Input::new(chunk, &mut untaken, 100);
    let [first, second] = [(); 2].map(|()| input.line(10).unwrap());
    assert_eq!((&first[..], first.as_ptr()), (&b"one\n"[..], place));
    assert_eq!((&second[..], second.as_ptr()), (&b"two\n"[..], place.wrapping_add(4)));
    assert!(input.line(10).is_none() && input.is_empty());
    assert_eq!(input.leave(false, usize::MAX), None);
    assert!(untaken.0.is_none(), "nothing is allocated for whole lines");
}

#[test]
fn a_line_of_the_greatest_length_passes_and_one_more_byte_does_not() {
    let mut line = vec![b'x'; LINE_MAX];
    line.push(b'\n');
    assert_eq!(lines([&line[..]]), (line.clone(), 0));
    line.insert(0, b'x');
    line.extend_from_slice(b"next\n");
    assert_eq!(lines([&line[..]]), (b"next\n".to_vec(), 1));
}

#[test]
fn a_line_too_long_aborts_or_is_reported() {
    let mut untaken = Untaken::default();
    let mut input = Input::new(Chunk::from(b"too long\nok\n".to_vec()), &mut untaken, 100);
    assert!(matches!(input.try_line(7), Some(Err(TooLong))));
    assert_eq!(&input.try_line(7).unwrap().unwrap()[..], b"ok\n");
    let mut input = Input::new(Chunk::from(b"too long\n".to_vec()), &mut untaken, 100);
    assert!(input.line(7).is_none());
    assert_eq!(input.leave(false, usize::MAX).as_deref(), Some("a line of more than 7 bytes"));
}

#[test]
fn a_frame_is_awaited_whole_and_copied_only_across_two_receives() {
    let mut untaken = Untaken::default();
    let mut input = Input::new(Chunk::from(b"\0\x03ab".to_vec()), &mut untaken, 100);
    assert_eq!(input.peek_array(), Some([0, 3]));
    assert!(input.take(5).is_none() && input.awaits_more());
    assert_eq!(input.leave(false, usize::MAX), None);
    let second = Chunk::from(b"c\0\x01d".to_vec());
    let place = second.as_ptr();
    let mut input = Input::new(second, &mut untaken, 100);
    assert!(input.is_enough());
    let frame = input.take(5).unwrap();
    let next = input.take(3).unwrap();
    assert_eq!((&frame[..], &next[..]), (&b"\0\x03abc"[..], &b"\0\x01d"[..]));
    assert_eq!(next.as_ptr(), place.wrapping_add(1));
    assert!(input.peek_array::<2>().is_none());
    assert_eq!(input.leave(false, usize::MAX), None);
    let input = Input::new(Chunk::from(b"\0".to_vec()), &mut untaken, 100);
    assert!(!input.is_enough(), "a header of two bytes is awaited");
}

#[test]
fn more_than_the_limit_is_neither_awaited_nor_kept() {
    let mut untaken = Untaken::default();
    let mut input = Input::new(Chunk::from(b"12345".to_vec()), &mut untaken, 4);
    assert!(input.take(6).is_none());
    let reason = input.leave(false, usize::MAX).unwrap();
    assert_eq!(reason, "6 bytes are asked for at once, 4 at most");
    let five = || Chunk::from(b"12345".to_vec());
    let reason = Input::new(five(), &mut untaken, 4).leave(false, usize::MAX).unwrap();
    assert_eq!(reason, "5 bytes of input are not taken, 4 at most");
    untaken.clear();
    assert_eq!(Input::new(five(), &mut untaken, 4).leave(true, usize::MAX), None, "it paused");
}

#[test]
fn what_is_peeked_at_stays() {
    let mut untaken = Untaken::default();
    receive_each(&mut untaken, [&b"hel"[..], b"lo"], |input| {
        let seen = input.peek().to_vec();
        assert!(seen == b"hel" || seen == b"hello");
    });
    let mut input = Input::new(Chunk::from(b"!".to_vec()), &mut untaken, 100);
    assert_eq!(&input.take_all()[..], b"hello!");
    assert!(input.is_empty());
}

#[test]
fn what_passes_through_leaves_no_memory_behind() {
    let mut untaken = Untaken::default();
    let part = [&[b'x'; 100][..], b"\nrest"].concat();
    for _ in 0..1000 {
        receive_each(&mut untaken, [&part[..]], |input| while input.line(200).is_some() {});
        let kept = untaken.0.as_ref().unwrap();
        assert!(kept.head().len() == 4 && kept.head.capacity() < 1000);
    }
}

proptest! {
    #[test]
    fn how_the_network_cut_the_bytes_changes_nothing(
        lengths in vec(prop_oneof![0..40usize, LINE_MAX - 1..LINE_MAX + 3], 0..6),
        terminated: bool,
        mut cuts in vec(0..=4 * LINE_MAX, 0..8),
    ) {
        let mut text = Vec::new();
        for (at, length) in lengths.iter().enumerate() {
            text.resize(text.len() + length, b'a' + at as u8);
            if terminated || at + 1 < lengths.len() {
                text.push(b'\n');
            }
        }
        cuts.retain(|&cut| cut < text.len());
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let parts = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
        prop_assert_eq!(lines(parts), lines([&text[..]]));
    }

    /// Against a model: everything that was received, as one string.
    #[test]
    fn every_method_takes_from_the_front(
        parts in vec(vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..12), 0..6),
        takes in vec((0..4u8, 0..9usize), 0..24),
    ) {
        let (mut untaken, mut model) = (Untaken::default(), Vec::new());
        let mut takes = takes.iter();
        for part in &parts {
            model.extend_from_slice(part);
            let mut input = Input::new(Chunk::from(part.clone()), &mut untaken, 1 << 20);
            for &(method, n) in takes.by_ref().take(4) {
                prop_assert_eq!(input.len(), model.len());
                let taken = match method {
                    0 => input.take(n),
                    1 => input.line(100),
                    2 => (input.peek().len() == n).then(|| input.take_all()),
                    _ => {
                        let header = input.peek_array::<3>();
                        prop_assert_eq!(header.as_ref().map(|it| &it[..]), model.get(..3));
                        None
                    }
                };
                let expected = match method {
                    0 => model.get(..n),
                    1 => newline(&model).map(|at| &model[..=at]),
                    2 => model.get(..).filter(|all| all.len() == n),
                    _ => None,
                };
                prop_assert_eq!(taken.as_deref(), expected);
                let len = expected.map_or(0, <[u8]>::len);
                model.drain(..len);
            }
            prop_assert_eq!(input.leave(false, usize::MAX), None);
        }
    }
}
