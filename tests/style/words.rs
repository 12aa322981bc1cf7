//! The words that comments, documentation, messages and names do not use.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Words or phrases (`|` separates them), what to write instead, and the phrases that are fine.
type Banned = (&'static str, &'static str, &'static [&'static str]);

/// Banned in prose: comments, string literals and Markdown.
const PROSE: &[Banned] = &[
    // Grammar: a noun as the subject.
    ("whoever|whom|somebody|nobody|anybody", "a noun: the client, the thread, no caller", &[]),
    ("who", "a noun, or `which`; people may be `who`", PEOPLE),
    ("he|she|his|him|her", "a noun: the caller, the reader", &[]),
    ("is to be|are to be|was to be|were to be", "must be, will be", &[]),
    ("for ever", "forever, without a limit", &[]),
    ("manieth", "generation", &[]),
    ("in vain", "without a result; spurious", &[]),
    ("comes beyond|come beyond|beyond waits", "above the limit", &[]),
    ("let go|lets go|is let go", "disconnected, released, freed", &[]),
    ("answers whether|answers what|answers how|answers with|answers the", "returns", &[]),
    // Metaphors, by what they stand for.
    ("house|houses", "project, program, server", &[]),
    ("room|rooms", "group; space", &["chat room", "chat rooms", "room timeout"]),
    ("hall|halls", "shared state", &[]),
    ("crew|crews", "thread pool", &[]),
    ("hand|hands", "worker; `passes`", &["by hand", "other hand", "one hand"]),
    ("slate|slates", "thread status", &[]),
    ("tally|tallies", "local counters", &[]),
    ("desk|desks", "console", &[]),
    ("door|doors", "acceptor, listener", &[]),
    ("seat|seats", "membership", &[]),
    ("pen|pens", "write lock; cursor", &[]),
    ("mail|mails", "outbox, message", &[]),
    ("witness|witnesses", "hooks", &[]),
    (
        "family|families|kin",
        "process tree, kind, group",
        &["address family", "address families", "font family", "ss family", "ss_family"],
    ),
    ("bury|buries|buried|burial", "reap", &[]),
    ("ledger|ledgers", "shared counters", &[]),
    ("bell|bells", "eventfd", &[]),
    ("guest|guests", "external descriptor", &[]),
    ("told|tell|tells", "is notified, reports, says; operator message", APART),
    ("tale|tales|story|stories|teller", "event, timeline", &[]),
    ("scribe|scribes", "kernel recorder", &[]),
    ("digest|digests", "statistics", &[]),
    ("life|lives", "timeline, lifetime", LIVES),
    ("roster|rosters", "connection list", &[]),
    ("stint|stints", "span", &[]),
    ("swim", "timeline", &[]),
    ("scene|scenes", "track", &[]),
    ("preface", "header", &[]),
    ("heat|heats", "table", &["heat map", "heat maps"]),
    ("entrant|entrants|contender|contenders|challenger|challengers", "participant", &[]),
    ("arena|arenas", "bench", &[]),
    ("recipe|recipes", "command builder", &[]),
    ("appetite|appetites", "receive size", &[]),
    ("hungry", "waits for a buffer of any size", &[]),
    ("feed|feeds|fed", "wakes, passes", &["line feed"]),
    ("starve|starves|starved|starving", "waits for a buffer, out of buffers", &[]),
    ("quiet|quietly", "skip_success; no output", QUIET),
    ("at ease", "can skip its completion", &[]),
    ("hush|hushes|hushed|hushing", "throttled", &[]),
    ("patient|patience", "await_send; timeout", &["patience alias"]),
    ("parked|parks", "in the backlog", TOKIO),
    ("aside|asides", "internal", &[]),
    ("turn|turns", "iteration, exchange, slice", TURN),
    ("floor|floors", "layer", &["noise floor", "math floor"]),
    ("arrow|arrows", "import, dependency", &["arrow key", "arrow keys"]),
];

const PEOPLE: &[&str] = &[
    "person who",
    "people who",
    "reader who",
    "readers who",
    "operator who",
    "user who",
    "users who",
    "student who",
    "anyone who",
    "decide who",
    "who since when",
];
const APART: &[&str] =
    &["not told", "noisy to tell", "tell apart", "tells apart", "told apart", "tell them apart"];
const LIVES: &[&str] =
    &["life cycle", "lives as long", "lives until", "lives on", "pool lives", "thread lives"];
const QUIET: &[&str] = &["quiet release", "alias quiet"];
const TOKIO: &[&str] = &["tokio parks", "executor parks", "runtime parks"];
const TURN: &[&str] = &[
    "in turn",
    "turn on",
    "turn off",
    "turns on",
    "turns off",
    "turns out",
    "turn it on",
    "turn it off",
    "turn into",
    "turns into",
];

/// Banned as a part of a name, beside the single words of `PROSE`.
const NAMES: &[Banned] = &[
    ("lack|lacks", "missing", &[]),
    ("odd", "anomaly", &[]),
    ("stroke|strokes", "draw command", &["stroke_width"]),
    ("beside", "sidecar", &[]),
    ("manieth", "generation", &[]),
];

/// Parts of names that are fine although the word is banned in prose.
const FINE_IN_NAMES: &[&str] = &["he", "his", "him", "her", "floor", "turn_on"];

type Phrase = (Vec<&'static str>, &'static str, &'static [&'static str]);

/// The phrases of `PROSE` by their first word.
static PHRASES: LazyLock<HashMap<&str, Vec<Phrase>>> = LazyLock::new(|| {
    let mut by_first: HashMap<&str, Vec<Phrase>> = HashMap::new();
    for (phrases, instead, fine) in PROSE {
        for phrase in phrases.split('|') {
            let phrase: Vec<&str> = phrase.split(' ').collect();
            by_first.entry(phrase[0]).or_default().push((phrase, instead, fine));
        }
    }
    by_first
});

pub(crate) struct Found {
    pub(crate) line: usize,
    pub(crate) word: String,
    pub(crate) instead: &'static str,
}

/// Returns the banned words in consecutive lines of prose, the first of which is `line`.
pub(crate) fn in_prose<'a>(line: usize, text: impl Iterator<Item = &'a str>) -> Vec<Found> {
    let words: Vec<(usize, String)> = text
        .enumerate()
        .flat_map(|(n, text)| words(text).map(move |word| (line + n, word)))
        .collect();
    let plain: Vec<&str> = words.iter().map(|(_, word)| &**word).collect();
    let mut found = Vec::new();
    for at in 0..plain.len() {
        for (phrase, instead, fine) in PHRASES.get(plain[at]).into_iter().flatten() {
            if plain[at..].starts_with(phrase) && !is_fine(&plain, at, fine) {
                found.push(Found { line: words[at].0, word: phrase.join(" "), instead });
            }
        }
    }
    found
}

/// Returns the banned words in one name, in snake case, camel case or capitals.
pub(crate) fn in_name(name: &str) -> Vec<(&'static str, &'static str)> {
    let parts = parts(name);
    let mut found = Vec::new();
    for (phrases, instead, fine) in PROSE.iter().chain(NAMES) {
        let banned = phrases.split('|').filter(|word| !word.contains(' '));
        for word in banned.filter(|word| !FINE_IN_NAMES.contains(word)) {
            if parts.iter().any(|part| part == word) && !fine.contains(&name) {
                found.push((word, *instead));
            }
        }
    }
    found
}

/// Returns whether the word `at` is part of one of the phrases `fine`.
fn is_fine(words: &[&str], at: usize, fine: &[&str]) -> bool {
    fine.iter().any(|phrase| {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        (0..phrase.len())
            .filter_map(|offset| words.get(at.checked_sub(offset)?..))
            .any(|words| words.starts_with(&phrase) && phrase.len() > 1)
            && phrase.contains(&words[at])
    })
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’')
        .map(|word| word.trim_matches('\'').trim_end_matches("'s").trim_end_matches("’s"))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && before.is_lowercase()) {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().expect("never empty").extend(c.to_lowercase());
        }
        before = c;
    }
    parts.retain(|part| !part.is_empty());
    parts
}
