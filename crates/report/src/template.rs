//! Texts for people as templates: a text stands in a file as it is printed, and a value that
//! serializes fills it. What people read and what programs read is therefore the same value.

use minijinja::{Environment, UndefinedBehavior, Value, escape_formatter};

use crate::{Align, NOTHING, Table, units};

/// Stands for a `|` of a value until the text is filled, so that it separates no cells: a character
/// of private use.
const BAR: &str = "\u{E000}";

/// Fills a template. Its filters are those of minijinja, the formats of [`units`], `digits(n)` for
/// decimals, and `columns("lr")`, which aligns lines of cells that `|` separates, left or right.
///
/// # Panics
/// The template is not one, or uses a value that it is not given.
pub fn fill(template: &str, values: Value) -> String {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(text) => Ok(out.write_str(&text.replace('|', BAR))?),
        None => escape_formatter(out, state, value),
    });
    environment.add_filter("rate", units::rate);
    environment.add_filter("bytes", units::bytes);
    environment.add_filter("span", units::nanos);
    environment
        .add_filter("latency", |nanos: Option<u64>| nanos.map_or(NOTHING.into(), units::nanos));
    environment.add_filter("percent", units::percent);
    environment.add_filter("count", units::count);
    environment.add_filter("plural", |n: u64, thing: &str| units::plural(n, thing));
    environment.add_filter("digits", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment.add_filter("columns", columns);
    let text = environment.render_str(template, values);
    text.expect("a template that fits its values").replace(BAR, "|")
}

fn columns(text: &str, alignments: &str) -> String {
    let mut lines = text.lines().map(|line| line.split('|').map(str::trim));
    let heading = lines.next().into_iter().flatten();
    let aligns = alignments.chars().map(|c| if c == 'l' { Align::Left } else { Align::Right });
    let mut table = Table::new(&heading.zip(aligns).collect::<Vec<_>>());
    lines.for_each(|cells| table.row(cells.map(str::to_owned)));
    format!("{table}\n")
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
    #[should_panic(expected = "fits its values")]
    fn a_value_that_is_missing_is_an_error() {
        fill("{{ missing }}", context! {});
    }
}
