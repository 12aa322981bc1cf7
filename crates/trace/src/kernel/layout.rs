//! The layout of a tracepoint's events, read from the kernel's `format` file.
//!
//! Names change between kernel versions, and offsets between compilers. Only the names of the
//! wanted fields are known in advance; their positions and widths come from the running kernel.

/// The position of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The offset in bytes.
    pub offset: usize,
    /// The width in bytes.
    pub size: usize,
    /// Whether the highest bit is a sign.
    pub signed: bool,
}

impl Field {
    /// Returns the value, sign-extended; `None` if it is not a number or lies outside `bytes`.
    pub fn read(self, bytes: &[u8]) -> Option<u64> {
        let part = bytes.get(self.offset..self.offset.checked_add(self.size)?)?;
        if ![1, 2, 4, 8].contains(&self.size) {
            return None;
        }
        let at = if cfg!(target_endian = "big") { 8 - self.size } else { 0 };
        let mut wide = [0; 8];
        wide[at..at + self.size].copy_from_slice(part);
        let (wide, unused) = (u64::from_ne_bytes(wide), 64 - 8 * self.size);
        Some(if self.signed { ((wide << unused) as i64 >> unused) as u64 } else { wide })
    }
}

/// The fields of one tracepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The number that each of its events begins with.
    pub id: u16,
    /// The fields by name.
    fields: Vec<(String, Field)>,
}

impl Layout {
    /// Parses a `format` file. Lines that are not fields are ignored; `None` if there is no id.
    pub fn parse(text: &str) -> Option<Layout> {
        let id = text.lines().find_map(|line| line.strip_prefix("ID:"))?.trim().parse().ok()?;
        Some(Layout { id, fields: fields(text) })
    }

    /// Returns the field with the first of these names that exists.
    pub fn field(&self, names: &[&str]) -> Option<Field> {
        let find = |wanted: &&str| self.fields.iter().find(|(name, _)| name == wanted);
        names.iter().find_map(find).map(|(_, field)| *field)
    }
}

/// Parses fields from lines such as
/// `field:unsigned int common_type;  offset:0;  size:2;  signed:0;`.
pub(super) fn fields(text: &str) -> Vec<(String, Field)> {
    text.lines().filter_map(field).collect()
}

fn field(line: &str) -> Option<(String, Field)> {
    let mut parts = line.trim().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let name = declaration.rsplit([' ', '*']).next()?.split('[').next()?;
    let number = |name| parts.clone().find_map(|part| part.strip_prefix(name)?.trim().parse().ok());
    let (offset, size) = (number("offset:")?, number("size:")?);
    let field = Field { offset, size, signed: number("signed:") == Some(1) };
    (!name.is_empty()).then(|| (name.to_owned(), field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_name_at_any_position() {
        let layout = Layout::parse(
            "name: io_uring_submit_sqe\nID: 1190\nformat:\n\
             \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
             \n\tfield:void * ctx;\toffset:8;\tsize:8;\tsigned:0;\n\
             \tfield:u8 opcode;\toffset:16;\tsize:1;\tsigned:0;\n\
             \tfield:char name[16];\toffset:32;\tsize:16;\tsigned:0;\n\
             \tfield:int res;\toffset:48;\tsize:4;\tsigned:1;\n\nprint fmt: \"ring %p\", REC->ctx\n",
        )
        .expect("a format");
        assert_eq!(layout.id, 1190);
        assert_eq!(layout.field(&["ring", "ctx"]).map(|field| field.offset), Some(8));
        assert_eq!(layout.field(&["user_data", "data"]), None);
        let mut bytes = [0; 52];
        bytes[48..].copy_from_slice(&(-105i32).to_ne_bytes());
        let read = |name| layout.field(&[name]).and_then(|field| field.read(&bytes));
        assert_eq!(read("res"), Some(-105i64 as u64));
        assert_eq!(read("name"), None, "sixteen bytes are not a number");
        assert_eq!(layout.field(&["res"]).and_then(|field| field.read(&bytes[..50])), None);
    }

    #[test]
    fn a_text_that_is_not_a_format_is_none_or_has_no_fields() {
        for text in ["", "ID:", "ID: x", "ID: 70000", "format:\nfield:a b;offset:1;size:1;"] {
            assert_eq!(Layout::parse(text), None, "{text:?}");
        }
        for line in ["field:", "field:;offset:0;size:1", "field:u8 a;offset:;size:1", "\tu8 a;"] {
            let layout = Layout::parse(&format!("ID: 1\n{line}\n")).expect("an id");
            assert_eq!(layout.fields, [], "{line:?}");
        }
    }
}
