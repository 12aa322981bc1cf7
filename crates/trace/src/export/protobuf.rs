//! The part of [Protocol Buffers](https://protobuf.dev/programming-guides/encoding/) that the
//! export needs: varints, fixed 64-bit numbers, and fields with a length.

/// A message, in the order of the fields that are added. A field without a value is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ProtoMessage(pub(super) Vec<u8>);

impl ProtoMessage {
    /// Adds a number: `uint64`, `bool`, an enumeration, or an `int64` as its bits.
    pub(super) fn uint(mut self, field: u32, value: impl Into<Option<u64>>) -> ProtoMessage {
        if let Some(value) = value.into() {
            self.tag(field, 0);
            varint(&mut self.0, value);
        }
        self
    }

    /// Adds a `fixed64` number.
    pub(super) fn fixed(mut self, field: u32, value: u64) -> ProtoMessage {
        self.tag(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds a `string` field.
    pub(super) fn text<'t>(self, field: u32, text: impl Into<Option<&'t str>>) -> ProtoMessage {
        match text.into() {
            Some(text) => self.bytes(field, text.as_bytes()),
            None => self,
        }
    }

    /// Adds a nested message, unless it is empty.
    pub(super) fn message(self, field: u32, inner: &ProtoMessage) -> ProtoMessage {
        if inner.0.is_empty() { self } else { self.bytes(field, &inner.0) }
    }

    fn bytes(mut self, field: u32, bytes: &[u8]) -> ProtoMessage {
        self.tag(field, 2);
        varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn tag(&mut self, field: u32, wire_type: u64) {
        varint(&mut self.0, u64::from(field) << 3 | wire_type);
    }
}

/// Encodes a number as LEB128: seven bits a byte, the lowest first; the eighth bit says that more
/// bytes follow.
fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_encoded_as_in_the_specification() {
        // The examples of the encoding's own guide: 150 in field 1, "testing" in field 2.
        let inner = ProtoMessage::default().uint(1, 150);
        assert_eq!(inner.0, [0x08, 0x96, 0x01]);
        let message = ProtoMessage::default().text(2, "testing").message(3, &inner);
        assert_eq!(message.0, b"\x12\x07testing\x1a\x03\x08\x96\x01");
    }

    #[test]
    fn the_longest_numbers_take_ten_and_eight_bytes() {
        let message = ProtoMessage::default().uint(1, -2i64 as u64);
        assert_eq!(message.0, b"\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01");
        let message = ProtoMessage::default().fixed(47, 1);
        assert_eq!(message.0, [0xf9, 0x02, 1, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_field_without_a_value_is_left_out_and_an_empty_text_is_not() {
        let empty = ProtoMessage::default().uint(1, None).text(2, None);
        assert_eq!(empty.clone().message(3, &empty).text(4, "").0, [0x22, 0]);
    }
}
