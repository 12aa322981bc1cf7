//! Text of others, which may reach a terminal: names of processes, what peers send, paths.

use std::borrow::Cow;

/// Returns whether a character has an effect on a terminal: a control character, a bidirectional
/// control of Unicode, or a line separator. TAB and newline have none that matters.
pub fn has_effect(letter: char) -> bool {
    let is_mark = matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}');
    let is_bidi = is_mark || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_bidi || is_control(letter)
}

fn is_control(letter: char) -> bool {
    letter.is_control() && !matches!(letter, '\t' | '\n')
}

/// Returns a text without effect on a terminal: what has one is written as `\u001b`. JSON stays
/// JSON of the same value, because all these characters have four digits.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(has_effect) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::new();
    push_escaped(text.as_bytes(), &mut escaped);
    Cow::Owned(escaped)
}

/// Appends bytes as [`escape`] does. Those that are no text are written as `\xff`.
pub fn push_escaped(bytes: &[u8], out: &mut String) {
    for part in bytes.utf8_chunks() {
        for letter in part.valid().chars() {
            match has_effect(letter) {
                true => out.push_str(&format!("\\u{:04x}", letter as u32)),
                false => out.push(letter),
            }
        }
        part.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
}

/// Returns lines without their control characters. It never makes them longer, and bytes that are
/// no text stay, but for those that are controls of an 8-bit terminal.
pub fn without_controls(lines: &[u8]) -> Cow<'_, [u8]> {
    if lines.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b' '..=b'~')) {
        return Cow::Borrowed(lines);
    }
    let mut rest = Vec::with_capacity(lines.len());
    for part in lines.utf8_chunks() {
        let letters = part.valid().chars().filter(|&letter| !is_control(letter));
        letters.for_each(|letter| rest.extend(letter.encode_utf8(&mut [0; 4]).bytes()));
        rest.extend(part.invalid().iter().filter(|byte| !matches!(byte, 0x80..=0x9f)));
    }
    Cow::Owned(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_an_effect_on_a_terminal_is_escaped() {
        let escaped = |text: &str| escape(text).into_owned();
        assert_eq!(escaped("\x1b[2J\x07\r\n"), "\\u001b[2J\\u0007\\u000d\n");
        let escaped = escaped("a\u{202e}b\u{9b}c\u{2028}d\x7f");
        assert_eq!(escaped, "a\\u202eb\\u009bc\\u2028d\\u007f");
        assert!(matches!(escape("grüße\t☺\n"), Cow::Borrowed("grüße\t☺\n")));
        let mut out = String::new();
        push_escaped(b"\xff\xc2", &mut out);
        assert_eq!(out, "\\xff\\xc2");
    }

    #[test]
    fn control_characters_are_left_out_and_other_bytes_stay() {
        let rest = |lines| without_controls(lines).into_owned();
        assert_eq!(rest(b"a\x1b[31mb\rc\0\x7f\td\r\n"), b"a[31mbc\td\n");
        assert_eq!(rest("ü\u{9b}31m\u{85}☺\n".as_bytes()), "ü31m☺\n".as_bytes());
        assert_eq!(rest(b"\xfc\x9b31m\xff\xfe\n"), b"\xfc31m\xff\xfe\n");
        assert!(matches!(without_controls(b"plain\ttext\n"), Cow::Borrowed(_)));
    }
}
