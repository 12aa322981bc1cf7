//! The part of [Protocol Buffers](https://protobuf.dev/programming-guides/encoding/) that the
//! export needs: varints, fixed 64-bit numbers, and fields with a length.

/// A message, in the order of the fields that are added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ProtoMessage(Vec<u8>);

impl ProtoMessage {
    /// The encoded bytes so far.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a number: `uint64`, `bool` or an enumeration.
    pub(super) fn uint(&mut self, field: u32, value: u64) -> &mut ProtoMessage {
        self.tag(field, 0);
        varint(&mut self.0, value);
        self
    }

    /// Adds an `int64`, which takes ten bytes if it is negative.
    pub(super) fn int(&mut self, field: u32, value: i64) -> &mut ProtoMessage {
        self.uint(field, value as u64)
    }

    /// Adds a `fixed64` number.
    pub(super) fn fixed(&mut self, field: u32, value: u64) -> &mut ProtoMessage {
        self.tag(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds a `string` field.
    pub(super) fn text(&mut self, field: u32, text: &str) -> &mut ProtoMessage {
        self.bytes(field, text.as_bytes())
    }

    /// Adds a nested message.
    pub(super) fn message(&mut self, field: u32, inner: &ProtoMessage) -> &mut ProtoMessage {
        self.bytes(field, &inner.0)
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) -> &mut ProtoMessage {
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
        let mut inner = ProtoMessage::default();
        inner.uint(1, 150);
        assert_eq!(inner.as_bytes(), [0x08, 0x96, 0x01]);
        let mut message = ProtoMessage::default();
        message.text(2, "testing").message(3, &inner);
        assert_eq!(message.as_bytes(), b"\x12\x07testing\x1a\x03\x08\x96\x01");
    }

    #[test]
    fn the_longest_numbers_take_ten_and_eight_bytes() {
        let mut message = ProtoMessage::default();
        message.int(1, -2);
        assert_eq!(message.as_bytes(), b"\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01");
        let mut message = ProtoMessage::default();
        message.fixed(47, 1);
        assert_eq!(message.as_bytes(), [0xf9, 0x02, 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
