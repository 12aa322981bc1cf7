//! Texts for people as templates: a text stands in a file as it is printed, and a value that
//! serializes fills it. What people read and what programs read is therefore the same value.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, TableStyle, presets};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, escape_formatter};

use crate::histogram::is_lower_end;
use crate::{NOTHING, units};

/// Stands for a `|` of a value until the text is filled, so that it separates no cells: a character
/// of private use.
const BAR: &str = "\u{E000}";

/// Stands for a `|` between the cells of a table, which would become a [`BAR`] when it is printed.
const LINE: &str = "\u{E001}";

/// The last character of a bar: from an eighth to the whole.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// How a template's columns are written, and what stands in front of its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// Columns that blanks align.
    Text,
    /// As Markdown, in which each line is an item of a list, or a heading.
    Markdown,
}

/// Fills a template as text. Its filters are those of minijinja, the formats of [`units`], and
/// those of texts: `digits(n)` for decimals, `left(n)` and `right(n)` for a place of `n` columns,
/// `wrap(n)` for lines of at most `n` columns, `trim_end`, `bar(most, n)`, and `columns("lr")`,
/// which aligns lines of cells that `|` separates, left or right; with a width, they are wrapped
/// to fit it.
///
/// # Panics
/// The template is not one, or uses a value that it is not given.
pub fn fill(template: &str, values: Value) -> String {
    fill_as(TextFormat::Text, template, values)
}

/// Fills a template, as [`fill`] does. The values `heading`, `line` and `indented` stand in front
/// of lines, and are empty, empty and two blanks in text.
///
/// # Panics
/// As [`fill`].
pub fn fill_as(format: TextFormat, template: &str, values: Value) -> String {
    let (bar_in_text, style, [heading, line, indented]) = match format {
        TextFormat::Text => ("|", presets::NOTHING, ["", "", "  "]),
        TextFormat::Markdown => ("\\|", presets::ASCII_MARKDOWN, ["## ", "- ", "- "]),
    };
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(text) if matches!(state.auto_escape(), AutoEscape::None) => {
            Ok(out.write_str(&text.replace('|', BAR))?)
        }
        _ => escape_formatter(out, state, value),
    });
    environment.add_filter("rate", units::rate);
    environment.add_filter("bytes", units::bytes);
    environment.add_filter("span", units::nanos);
    environment
        .add_filter("latency", |nanos: Option<u64>| nanos.map_or(NOTHING.into(), units::nanos));
    environment.add_filter("estimate", estimate);
    environment.add_filter("percent", units::percent);
    environment.add_filter("count", units::count);
    environment.add_filter("plural", |n: u64, thing: &str| units::plural(n, thing));
    environment.add_filter("digits", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment
        .add_filter("agree", |n: u64, one: &str, many: &str| units::agree(n, one, many).to_owned());
    environment.add_filter("times", units::times);
    environment.add_filter("ratio", units::ratio);
    environment.add_filter("left", |text: &str, width: usize| format!("{text:<width$}"));
    environment.add_filter("right", |text: &str, width: usize| format!("{text:>width$}"));
    environment.add_filter("trim_end", |text: &str| text.trim_end().to_owned());
    environment.add_filter("wrap", wrap);
    environment.add_filter("bar", bar);
    environment.add_filter("columns", move |text: &str, alignments: &str, width: Option<usize>| {
        columns(text, alignments, width, style)
    });
    for (name, value) in [("heading", heading), ("line", line), ("indented", indented)] {
        environment.add_global(name, value);
    }
    let text = environment.render_str(template, values);
    text.expect("a template that fits its values").replace(BAR, bar_in_text).replace(LINE, "|")
}

/// An estimate of the percentile for `share` of so many samples, with `≥` for a lower end.
fn estimate(nanos: Option<u64>, samples: u64, share: f64) -> String {
    let sign = if is_lower_end(samples, share) { "≥ " } else { "" };
    nanos.map_or(NOTHING.into(), |nanos| format!("{sign}{}", units::nanos(nanos)))
}

/// Aligns cells in columns, left for an `l`, else right. The first line is the heading. If there is
/// a width, cells are wrapped so that a line is at most this wide.
fn columns(text: &str, alignments: &str, width: Option<usize>, style: TableStyle) -> String {
    let align = |align| if align == 'l' { CellAlignment::Left } else { CellAlignment::Right };
    let mut rows = text.lines().map(|line| {
        let cells = line.split('|').enumerate().map(cell).map(Cell::new).zip(alignments.chars());
        cells.map(|(cell, letter)| cell.set_alignment(align(letter))).collect::<Vec<_>>()
    });
    let mut table = Table::new();
    table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width.try_into().unwrap_or(u16::MAX));
    }
    table.set_header(rows.next().unwrap_or_default());
    if style == presets::NOTHING {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
    }
    table.add_rows(rows);
    table.trim_fmt().replace('|', LINE) + "\n"
}

/// A cell without the blank beside each `|`. Other blanks are of its text, as those that indent it.
fn cell((at, text): (usize, &str)) -> &str {
    let text = text.strip_suffix(' ').unwrap_or(text);
    text.strip_prefix(' ').filter(|_| at > 0).unwrap_or(text)
}

/// Breaks a text into lines of at most `width` columns, where its words allow it.
fn wrap(text: &str, width: usize) -> String {
    let (mut lines, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        let is_next = column == 0 || column + 1 + length > width;
        column = if is_next { length } else { column + 1 + length };
        if !lines.is_empty() {
            lines.push(if is_next { '\n' } else { ' ' });
        }
        lines.push_str(word);
    }
    lines
}

/// Draws a bar as long as `value` is of `most`, which is `width` columns; what is not zero is seen.
fn bar(value: u64, most: u64, width: usize) -> String {
    if value == 0 || most == 0 {
        return String::new();
    }
    let eighths = (value as f64 / most as f64 * (width * 8) as f64).round() as usize;
    let eighths = eighths.clamp(1, width * 8);
    let last = (!eighths.is_multiple_of(8)).then(|| EIGHTHS[eighths % 8 - 1]);
    "█".repeat(eighths / 8) + &String::from_iter(last)
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    #[test]
    fn a_template_has_units_and_columns() {
        let template = "{{ n | plural(\"round\") }} at {{ x | digits(2) }}\n\
                        {% filter columns(\"lr\") %}\n\
                        model | msg/s\n\
                        {% for name in names %}\n\
                        {{ name }} | {{ n | rate }}\n\
                        {% endfor %}\n\
                        {% endfilter %}\n\
                        {% if none %}\nnothing\n{% endif %}\nend\n";
        let names = ["epoll", "uring+trace"];
        let text = fill(template, context! { n => 5361, x => 0.5, names, none => () });
        let expected = "5,361 rounds at 0.50\n\
                        model        msg/s\n\
                        epoll        5.36k\n\
                        uring+trace  5.36k\n\
                        end\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_bar_in_a_value_separates_no_cells() {
        let template = "{% macro same(it) %}{{ it }}{% endmacro %}\n\
                        {% filter columns(\"lr\") %}\n\
                        name | vs {{ name }}\n\
                        {{ same(name) }} | {{ n }}\n\
                        {% endfilter %}\n\
                        {{ name }}: done\n";
        let text = fill(template, context! { n => 7, name => "a|b" });
        assert_eq!(text, "name  vs a|b\na|b        7\na|b: done\n");
    }

    #[test]
    fn the_first_cell_of_a_line_may_be_indented() {
        let text =
            fill("{% filter columns(\"lr\") %}\na | b\n  c | 1\n{% endfilter %}", context! {});
        assert_eq!(text, "a    b\n  c  1\n");
    }

    #[test]
    fn a_width_wraps_cells() {
        let text = "{% filter columns(\"ll\", width) %}\n\
                    name | words\n\
                    one | two three\n\
                    {% endfilter %}";
        let wide = fill(text, context! { width => 20 });
        assert_eq!(wide, "name  words\none   two three\n");
        assert_eq!(fill(text, context! { width => () }), wide);
        assert_eq!(fill(text, context! { width => 14 }), "name  words\none   two\n      three\n");
    }

    #[test]
    fn percentiles_have_units_and_dashes() {
        let mut latencies = crate::Latencies::new();
        (1..=2000).for_each(|micros| latencies.record(std::time::Duration::from_micros(micros)));
        let text = "p50 {{ p50_ns | latency }} p99 {{ p99_ns | latency }} \
                    p99.9 {{ p99_9_ns | latency }}";
        let text = fill(text, Value::from_serialize(latencies));
        assert_eq!(text, "p50 1.00 ms p99 1.98 ms p99.9 –");
        let estimates = |ns: u64| fill("{{ ns | estimate(5000, 0.99) }}", context! { ns });
        assert_eq!(estimates(1500), "≥ 1.50 µs", "50 are above it");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_and_what_is_not_zero_is_seen() {
        assert_eq!(bar(8, 8, 3), "███");
        assert_eq!(bar(4, 8, 3), "█▌");
        assert_eq!(bar(1, 1_000_000, 3), "▏");
        assert_eq!(bar(0, 8, 3), "");
        assert_eq!(bar(0, 0, 3), "");
        assert_eq!(bar(9, 8, 3), "███", "no longer than it may be");
    }

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("one two three", 7), "one two\nthree");
        assert_eq!(wrap("unbreakable", 3), "unbreakable");
        assert_eq!(wrap("to unbreakable", 3), "to\nunbreakable");
    }

    #[test]
    #[should_panic(expected = "fits its values")]
    fn a_value_that_is_missing_is_an_error() {
        fill("{{ missing }}", context! {});
    }
}
