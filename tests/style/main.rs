//! The rules of style that neither the compiler nor Cargo checks.
//!
//! `cargo test --test style -- --nocapture` prints each offence with its file and line, by folder;
//! `STYLE=src/ring cargo test --test style -- --nocapture` prints those of one folder or file only.

mod modules;
mod rust;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::env;

use rust::{Comment, Kind, SOURCES, SourceFile, crate_of, files, read, root};

// The number of offences that are left. They may only fall, and the aim is 0.
const TYPES_TWICE_LEFT: usize = 0;
const BANNED_WORDS_LEFT: usize = 0;
const BANNED_NAMES_LEFT: usize = 0;
const FILES_IN_CIRCLES_LEFT: usize = 0;
const UNEXPLAINED_UNSAFE_LEFT: usize = 0;
const POOR_DOCS_LEFT: usize = 0;
const ANSWERS_MISPLACED_LEFT: usize = 0;
const LINKS_BROKEN_LEFT: usize = 0;
const TESTS_MISSING_LEFT: usize = 0;
const LONG_FUNCTIONS_LEFT: usize = 0;
const LONG_LINES_LEFT: usize = 0;

/// The lines of code of the product, without tests, comments and blank lines: 25,000, 6,100 for
/// limits, the lock-down, `check` and polling, 2,610 for the open loop and the workloads of `load`,
/// and the statistics, the gates, the open loop and the forms of `compare`, and 540 for the page of
/// a recording and the map of durations;
/// 1,450 for `trace attach`: threads, processes and commands, what a loss makes uncertain,
/// enters; 1,110 for the metrics of a server and the interleaved models of `explain`;
/// 740 for delays and stops in recordings, what the doctor cannot see, and slices in `trace diff`;
/// 330 for what the kernel's events add to each view, 280 for the recordings of `trace attach`,
/// and 205 for the rows of `trace summary --every`, times of day, and stops of many threads.
const CODE_LINES_MAX: usize = 38_371;

/// The type names that may be defined more than once, each with a reason; at most ten.
const TWICE: &[(&str, &str)] = &[
    ("Calls", "the trait of calls that may block, and the calls of a protocol that are due"),
    ("Event", "of the client of several servers, and of a trace"),
    ("Socket", "a socket of a ring, and one with its interest in a selector"),
];

/// The files in which `unsafe` may be.
const UNSAFE: &[&str] = &[
    "crates/cli/src/closed.rs",
    "crates/load/src/engine_uring.rs",
    "crates/lockdown/src/rings.rs",
    "crates/models/src/coroutine/watched.rs",
    "crates/record/src/lost_file.rs",
    "crates/record/src/shm_log.rs",
    "crates/record/src/sys.rs",
    "crates/sim/src/lib.rs",
    "src/buffer/chunk.rs",
    "src/buffer/pages.rs",
    "src/buffer/pool.rs",
    "src/os.rs",
    "src/os/child.rs",
    "src/os/io_signals.rs",
    "src/os/probe.rs",
    "src/os/process.rs",
    "src/os/readiness.rs",
    "src/os/shared.rs",
    "src/os/signal.rs",
    "src/os/socket.rs",
    "src/ring/kernel.rs",
    "src/ring/provided.rs",
    "src/ring/uring.rs",
];

/// Documentation comments in this folder are the texts of `--help`, which have no final period.
const HELP_TEXTS: &str = "crates/cli/src/commands/";

const MAX_FUNCTION: usize = 70;
const MAX_COLUMNS: usize = 100;

/// The files that must quote banned words: this test, and the changelog, which names old keys.
const ABOUT_WORDS: &[&str] = &["tests/style/words.rs", "tests/style/main.rs", "CHANGELOG.md"];

#[test]
fn a_type_name_is_defined_once() {
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in SOURCES.iter() {
        for (line, name) in types(source) {
            defined.entry(name).or_default().push(format!("{}:{line}", source.path));
        }
    }
    assert!(TWICE.len() <= 10, "TWICE lists more than ten names");
    let is_listed = |name: &String| TWICE.iter().any(|(listed, _)| listed == name);
    let twice = defined.iter().filter(|(name, places)| places.len() > 1 && !is_listed(name));
    let offences = twice.map(|(name, places)| {
        let others = places[1..].join(", ");
        format!("{}: `{name}` is defined again in {others}", places[0])
    });
    check("TYPES_TWICE_LEFT", TYPES_TWICE_LEFT, offences.collect());
}

#[test]
fn prose_uses_plain_words() {
    let mut offences = Vec::new();
    let mut add = |path: &str, found: Vec<words::Found>| {
        let found = found.into_iter().filter(|found| !is_command(path, &found.word));
        offences.extend(found.map(|found| {
            format!("{path}:{}: \"{}\": write {}", found.line, found.word, found.instead)
        }));
    };
    for source in SOURCES.iter().filter(|source| !ABOUT_WORDS.contains(&&*source.path)) {
        for Comment { line, text, .. } in &source.comments {
            add(&source.path, words::in_prose(*line, text.iter().map(String::as_str)));
        }
        for token in &source.tokens {
            let text = token.literal().unwrap_or_default();
            add(&source.path, words::in_prose(token.line, text.lines()));
        }
    }
    let texts = ["md", "html", "js", "css", "toml", "py"].iter().flat_map(|its| files("", its));
    for path in texts.filter(|path| !ABOUT_WORDS.contains(&&**path)) {
        add(&path, words::in_prose(1, read(&path).lines()));
    }
    check("BANNED_WORDS_LEFT", BANNED_WORDS_LEFT, offences);
}

#[test]
fn names_use_plain_words() {
    let mut offences = Vec::new();
    for source in SOURCES.iter().filter(|source| !ABOUT_WORDS.contains(&&*source.path)) {
        let mut seen = BTreeSet::new();
        for token in source.tokens.iter().filter(|token| token.is_name()) {
            if seen.insert(&token.text) {
                offences.extend(words::in_name(&token.text).into_iter().map(|(word, instead)| {
                    let (path, line, name) = (&source.path, token.line, &token.text);
                    format!("{path}:{line}: `{name}`: for \"{word}\" write {instead}")
                }));
            }
        }
    }
    check("BANNED_NAMES_LEFT", BANNED_NAMES_LEFT, offences);
}

#[test]
fn no_files_import_one_another() {
    let mut crates: BTreeMap<&str, Vec<&SourceFile>> = BTreeMap::new();
    for source in SOURCES.iter() {
        if let Some(name) = crate_of(&source.path) {
            crates.entry(name).or_default().push(source);
        }
    }
    let offences = crates.values().flat_map(|sources| modules::circles(sources)).flatten();
    check("FILES_IN_CIRCLES_LEFT", FILES_IN_CIRCLES_LEFT, offences.collect());
}

#[test]
fn unsafe_code_is_in_few_files_and_explained() {
    let mut offences = Vec::new();
    let mut listed: BTreeSet<&str> = UNSAFE.iter().copied().collect();
    for source in SOURCES.iter().filter(|source| crate_of(&source.path).is_some()) {
        for at in source.positions(&["unsafe"]) {
            let line = source.tokens[at].line;
            if !UNSAFE.contains(&&*source.path) {
                offences.push(format!(
                    "{}:{line}: `unsafe` outside of the files in UNSAFE: write a safe function in \
                     one of them",
                    source.path
                ));
            }
            listed.remove(&*source.path);
            let block =
                source.tokens.get(at + 1).is_some_and(|next| next.is("{") || next.is("impl"));
            if block && !is_explained(source, line) {
                offences.push(format!("{}:{line}: `unsafe` without a SAFETY comment", source.path));
            }
        }
    }
    offences.extend(listed.iter().map(|file| format!("{file}:1: in UNSAFE without `unsafe`")));
    check("UNEXPLAINED_UNSAFE_LEFT", UNEXPLAINED_UNSAFE_LEFT, offences);
}

#[test]
fn documentation_is_sentences() {
    let mut offences = Vec::new();
    for source in SOURCES.iter() {
        for comment in source.comments.iter().filter(|comment| comment.kind != Kind::Plain) {
            let first = comment.text.iter().map(|line| line.trim());
            let first: Vec<&str> = first.take_while(|line| !line.is_empty()).collect();
            let is_help = source.path.starts_with(HELP_TEXTS) && comment.kind == Kind::Outer;
            if let Some(problem) = problem_of(&first.join(" ")).filter(|_| !is_help) {
                offences.push(format!("{}:{}: {problem}", source.path, comment.line));
            }
        }
        if source.comments.first().is_none_or(|first| first.kind != Kind::Inner || first.line != 1)
        {
            let text = "the file does not begin with a `//!` comment that says what it is for";
            offences.push(format!("{}:1: {text}", source.path));
        }
    }
    check("POOR_DOCS_LEFT", POOR_DOCS_LEFT, offences);
}

/// In `kernel-notes.md` each name in backquotes after `Proof:`, and in the table of traps, must be
/// a test; each trap has one, or is not used.
#[test]
fn every_test_that_the_kernel_notes_name_exists() {
    let tests: BTreeSet<&str> = SOURCES
        .iter()
        .flat_map(|source| source.tokens.iter().filter(|token| token.test))
        .map(|token| &*token.text)
        .collect();
    let (mut offences, mut proof, mut named) = (Vec::new(), false, 0);
    let (mut in_traps, mut traps) = (false, Vec::new());
    for (n, line) in read("kernel-notes.md").lines().enumerate() {
        in_traps = if line.starts_with("## ") { line == "## Traps" } else { in_traps };
        proof &= !line.trim().is_empty() && !line.starts_with(['*', '|']);
        let mut start = line.find("Proof:");
        let trap = line.strip_prefix("| ").and_then(|row| row.split(' ').next()?.parse().ok());
        if let Some(trap) = trap.filter(|_: &u32| in_traps) {
            traps.push(trap);
            start = line.trim_end_matches(['|', ' ']).rfind("| ");
            let tested = line.trim_end_matches(['|', ' ']).ends_with('`') || line.contains("` on ");
            assert!(tested || line.contains("not used"), "trap {trap} has no test");
        }
        proof |= start.is_some();
        for name in line[start.unwrap_or(0)..].split('`').skip(1).step_by(2).filter(|_| proof) {
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if name.contains('_') && name.chars().all(is_name) {
                named += 1;
                if !tests.contains(name) {
                    let text = format!("kernel-notes.md:{}: there is no test `{name}`", n + 1);
                    offences.push(text);
                }
            }
        }
    }
    assert!(traps.into_iter().eq((1..=34).chain(1..=16)), "each trap has its row");
    assert!(named > 60, "only {named} tests were found in kernel-notes.md");
    check("TESTS_MISSING_LEFT", TESTS_MISSING_LEFT, offences);
}

/// In `tests/reading/questions.md` each answer quotes a line of the file that it names. A line
/// number that is no longer true is printed; `UPDATE=1` corrects it in the document.
#[test]
fn the_answers_of_the_reading_questions_are_where_they_say() {
    let (mut offences, mut answers, mut corrected) = (Vec::new(), 0, String::new());
    let file = "tests/reading/questions.md";
    for (n, line) in read(file).lines().enumerate() {
        let mut line = line.to_owned();
        if let Some((_, answer)) = line.clone().split_once("Answer: ") {
            let quoted: Vec<&str> = answer.split('`').skip(1).step_by(2).collect();
            let (place, text) = (quoted[0], quoted[1]);
            let (path, number) = place.rsplit_once(':').expect("PATH:LINE");
            let number: usize = number.parse().expect("a line number");
            let found = SOURCES.iter().find(|source| source.path == path);
            let lines = found.into_iter().flat_map(|source| (1..).zip(&source.lines));
            let places = lines.filter(|(_, line)| line.contains(text)).map(|(at, _)| at);
            match places.min_by_key(|at: &usize| at.abs_diff(number)) {
                None => offences.push(format!("{file}:{}: `{text}` is not in {path}", n + 1)),
                Some(at) if at != number => {
                    println!("{file}:{}: {path}:{number} is now line {at}: set UPDATE=1", n + 1);
                    line = line.replace(place, &format!("{path}:{at}"));
                }
                Some(_) => {}
            }
            answers += 1;
        }
        corrected += &(line + "\n");
    }
    assert_eq!(answers, 10);
    if env::var_os("UPDATE").is_some() {
        std::fs::write(root().join(file), corrected).expect("a writable file");
    }
    check("ANSWERS_MISPLACED_LEFT", ANSWERS_MISPLACED_LEFT, offences);
}

/// Every link and every path of ours in a Markdown file must exist.
#[test]
fn documents_name_files_that_exist() {
    let mut offences = Vec::new();
    for path in files("", "md") {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (n, line) in read(&path).lines().enumerate() {
            let links = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            let links = links.filter(|link| !link.is_empty() && !link.contains("://"));
            let links = links.map(|link| root().join(folder).join(link));
            let quoted = line.split('`').skip(1).step_by(2);
            let is_ours = |text: &&str| {
                let ours = ["src/", "crates/", "tests/", "docs/", "benches/", "examples/"];
                ours.iter().any(|ours| text.starts_with(ours)) && !text.contains([' ', '*', '{'])
            };
            let paths = quoted.filter(is_ours).filter_map(|path| path.split(':').next());
            let paths = paths.map(|path| root().join(path));
            for missing in links.chain(paths).filter(|path| !path.exists()) {
                offences.push(format!("{path}:{}: there is no {}", n + 1, missing.display()));
            }
        }
    }
    check("LINKS_BROKEN_LEFT", LINKS_BROKEN_LEFT, offences);
}

/// The table of layers in `ARCHITECTURE.md` names each crate and the crates of ours that it uses.
#[test]
fn the_table_of_layers_is_that_of_the_manifests() {
    let mut offences = Vec::new();
    let mut known = Vec::new();
    let text = read("ARCHITECTURE.md");
    for (n, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, _, uses, _] = cells[..] else { continue };
        let Some(folder) = name.strip_prefix('`').and_then(|name| name.split('`').next()) else {
            continue;
        };
        let manifest = read(&format!("{folder}/Cargo.toml"));
        let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
        let lines = lines.take_while(|line| !line.starts_with('['));
        let used: BTreeSet<&str> = lines
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| name.starts_with("proactor"))
            .map(|name| name.trim_start_matches("proactor-"))
            .collect();
        let listed: BTreeSet<&str> = uses.split(", ").filter(|name| *name != "–").collect();
        let above = used.iter().all(|used| known.contains(used));
        if used != listed || !above {
            offences.push(format!("ARCHITECTURE.md:{}: {folder} uses {used:?}", n + 1));
        }
        known.push(if folder == "." { "proactor" } else { folder.trim_start_matches("crates/") });
    }
    let crates =
        files("crates", "toml").iter().filter(|path| path.ends_with("/Cargo.toml")).count();
    assert_eq!(known.len(), crates + 1, "every crate has a row");
    check("0", 0, offences);
}

#[test]
fn functions_and_lines_are_short() {
    let (mut functions, mut lines) = (Vec::new(), Vec::new());
    for source in SOURCES.iter() {
        for at in source.positions(&["fn"]).filter(|&at| source.tokens[at + 1].is_name()) {
            let (line, end) = (source.tokens[at].line, source.end_of_item(at));
            let length = source.tokens[end - 1].end - line + 1;
            if length > MAX_FUNCTION {
                let name = &source.tokens[at + 1].text;
                functions.push(format!("{}:{line}: `{name}` has {length} lines", source.path));
            }
        }
        let literals = source.tokens.iter().filter(|token| token.end > token.line);
        let within: BTreeSet<usize> = literals.flat_map(|token| token.line..=token.end).collect();
        for (n, line) in source.lines.iter().enumerate() {
            let columns = line.chars().count();
            if columns > MAX_COLUMNS && !within.contains(&(n + 1)) {
                lines.push(format!("{}:{}: {columns} columns", source.path, n + 1));
            }
        }
    }
    check("LONG_FUNCTIONS_LEFT", LONG_FUNCTIONS_LEFT, functions);
    check("LONG_LINES_LEFT", LONG_LINES_LEFT, lines);
}

#[test]
fn the_product_is_small() {
    let mut crates: BTreeMap<String, usize> = BTreeMap::new();
    for source in SOURCES.iter() {
        let Some(name) = crate_of(&source.path) else { continue };
        let simulator =
            source.path.contains("/ring/sim") || name.trim_end_matches('/').ends_with("sim");
        if !simulator {
            *crates.entry(name.to_owned()).or_default() += source.code_lines();
        }
    }
    let whole: usize = crates.values().sum();
    for (name, lines) in &crates {
        println!("code lines of {name:24} {lines:6}");
    }
    println!("code lines in all {:17} {whole:6}", "");
    assert!(whole <= CODE_LINES_MAX, "{whole} lines of code: more than {CODE_LINES_MAX}");
}

#[test]
fn protocols_do_no_io_and_loops_know_no_kernel() {
    let mut offences = Vec::new();
    for source in SOURCES.iter() {
        let Some(inside) = crate_of(&source.path).map(|name| &source.path[name.len()..]) else {
            continue;
        };
        let mut ban = |words: &[&str], instead: &str| {
            for at in source.positions(words).filter(|&at| !source.tokens[at].test) {
                let (path, line) = (&source.path, source.tokens[at].line);
                offences.push(format!("{path}:{line}: `{}`: {instead}", words.concat()));
            }
        };
        if inside.contains("/protocol/") {
            for part in ["io", "net", "os", "thread", "fs", "process"] {
                ban(&["std", ":", ":", part], "protocols are pure");
            }
            for clock in [&["Instant", ":", ":", "now"][..], &["SystemTime"]] {
                ban(clock, "the clock of a protocol is that of its server");
            }
        }
        if inside.contains("/proactor.rs") || inside.contains("/proactor/") {
            for ring in ["Uring", "Sim", "Traced"] {
                ban(&[ring], "the loop has a type parameter, `R: Ring`");
            }
        }
        if !inside.contains("/ring/") && !inside.contains("uring") {
            ban(&["io_uring", ":", ":"], "only `ring` and the load client know io_uring");
        }
        if source.path.starts_with("crates/load/") {
            ban(&["ring", ":", ":"], "what measures shares no hot code with what is measured");
        }
        ban(&["todo", "!"], "write it, or return an error that says what is missing");
        ban(&["unimplemented", "!"], "write it, or return an error that says what is missing");
        ban(&["dbg", "!"], "use `tracing`, or a test");
        for print in ["print", "println", "eprint", "eprintln"] {
            ban(
                &[print, "!"],
                "it panics where it cannot write, and waits: use the command's `note!`",
            );
        }
        ban(&["allow", "(", "dead_code"], "delete it");
        ban(&[".", "unwrap", "("], "use `expect` with the invariant that makes it hold, or `?`");
    }
    for source in SOURCES.iter() {
        offences.extend(
            source
                .positions(&["#", "[", "ignore"])
                .map(|at| format!("{}:{}: an ignored test", source.path, source.tokens[at].line)),
        );
    }
    check("0", 0, offences);
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let text = "use crate::{a::B, c::{D, e as E}, f::*};\n// crate::comment\n/* /* no */ */\n\
                let s = \"two\\nlines\"; let r = r#\"crate::\"raw\"#; let c = '\"'; let l: &'x T;\n\
                #[cfg(test)]\nmod tests { use super::super::j; fn k() { x.unwrap() } }\n\
                /// Doc.\n/// More.\nfn after() { super::l::m() }";
    let source = SourceFile::new("src/group/file.rs", text);
    assert!(source.tokens.iter().any(|token| token.is("unwrap") && token.test));
    assert!(source.tokens.iter().any(|token| token.is("after") && !token.test));
    let literals: Vec<_> = source.tokens.iter().filter_map(|token| token.literal()).collect();
    assert_eq!(literals, ["two\nlines", "crate::\"raw"]);
    assert_eq!(source.comments.last().map(|its| (its.line, its.text.len())), Some((7, 2)));
    assert_eq!(source.code_lines(), 3);

    let root = SourceFile::new("src/lib.rs", "mod a; mod b; mod c;");
    let a = SourceFile::new("src/a/mod.rs", "mod d; pub use d::D; struct A;");
    let d = SourceFile::new("src/a/d.rs", "use super::A; struct D;");
    let b = SourceFile::new("src/b.rs", "use crate::a::D; fn b() { crate::c::c() }");
    let c = SourceFile::new("src/c.rs", "use crate::a;");
    let far = SourceFile::new("src/c.rs", "use crate::{a, b::{self, x}};");
    assert_eq!(modules::circles(&[&root, &a, &b, &c, &d]), Vec::<Vec<String>>::new());
    let found = modules::circles(&[&root, &a, &b, &far, &d]);
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [2], "{found:?}");

    let words = |text: &str| -> Vec<String> {
        words::in_prose(1, text.lines()).into_iter().map(|found| found.word).collect()
    };
    assert_eq!(words("a house of the\naddress family, in turn, to turn\non"), ["house"]);
    assert_eq!(words("the turn of whoever's hand"), ["turn", "whoever", "hand"]);
    assert_eq!(words::in_name("ReadTurn").len() + words::in_name("starve_at").len(), 2);
    assert!(words::in_name("return_value").is_empty());
}

/// Prints the offences by folder, and fails if there are more than `left`.
fn check(limit: &str, left: usize, mut offences: Vec<String>) {
    let only = env::var("STYLE").ok();
    let found = offences.len();
    offences.retain(|offence| only.as_ref().is_none_or(|only| offence.starts_with(only)));
    offences.sort_by_key(|offence| {
        let (path, rest) = offence.split_once(':').unwrap_or((offence, ""));
        let line: usize = rest.split(':').next().and_then(|line| line.parse().ok()).unwrap_or(0);
        (path.to_owned(), line)
    });
    let mut folders: BTreeMap<&str, usize> = BTreeMap::new();
    for offence in &offences {
        println!("{offence}");
        let path = offence.split(':').next().unwrap_or_default();
        *folders.entry(path.rsplit_once('/').map_or(path, |(folder, _)| folder)).or_default() += 1;
    }
    for (folder, count) in folders {
        println!("{limit}: {folder}: {count}");
    }
    println!("{limit}: {found} found, {left} allowed\n");
    assert!(only.is_some() || found <= left, "{limit}: {found} found, {left} allowed");
    if found < left {
        println!("{limit}: lower the limit to {found}\n");
    }
}

/// Returns whether a word is the operator's command `tell N TEXT`, an old name of an option of
/// `load` that still works, or a name of Python's.
fn is_command(path: &str, word: &str) -> bool {
    let commands = [
        ("console/command.rs", "tell"),
        ("tests/console.rs", "tell"),
        ("commands/load.rs", "patience"),
        ("tests/metrics/samples.py", "families"),
    ];
    commands.iter().any(|(file, command)| path.ends_with(file) && word == *command)
}

/// Returns the types that a file defines outside of tests, each with its line.
fn types(source: &SourceFile) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, pair) in source.tokens.windows(2).enumerate() {
        let [keyword, name] = pair else { continue };
        let defines = match &*keyword.text {
            "struct" | "enum" | "union" | "trait" => true,
            "type" => keyword.depth == keyword.modules,
            _ => false,
        };
        let field = at > 0 && [".", "r", "#"].contains(&&*source.tokens[at - 1].text);
        let capital = name.text.starts_with(char::is_uppercase);
        if defines && capital && !field && !keyword.test {
            found.push((name.line, name.text.clone()));
        }
    }
    found
}

/// Whether a SAFETY comment is right above the statement with `unsafe` on this line, or on it.
fn is_explained(source: &SourceFile, line: usize) -> bool {
    let mut above = source.lines[..line].iter().rev().map(|line| line.trim());
    if above.next().is_some_and(|its| its.contains("SAFETY:")) {
        return true;
    }
    for text in above {
        if text.starts_with("//") {
            if text.contains("SAFETY:") {
                return true;
            }
        } else if text.is_empty() || text.ends_with([';', '}', '{']) {
            return false;
        }
    }
    false
}

/// Returns what is wrong with the first paragraph of a documentation comment.
fn problem_of(paragraph: &str) -> Option<String> {
    let text = paragraph.trim();
    if text.is_empty() || text.starts_with(['|', '*', '#', '-']) || text.starts_with("```") {
        return None;
    }
    let words = text.split_whitespace().count();
    let begins = !text.starts_with(char::is_lowercase);
    let ends = text.ends_with(['.', ':', '?', '!', '…', '|']) || text.ends_with(".)");
    let problem = match (words, begins, ends) {
        (..4, ..) => "fewer than four words",
        (_, false, _) => "does not begin with a capital letter",
        (_, _, false) => "does not end with a period",
        _ => return None,
    };
    Some(format!("{problem}: \"{}\"", text.chars().take(60).collect::<String>()))
}
