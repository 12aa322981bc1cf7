//! Rules that neither the compiler nor Cargo holds. Each failure names the file, the line, the rule
//! and a way out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The files in which `unsafe` may stand.
const UNSAFE: [&str; 17] = [
    "src/buffer/pool.rs",
    "src/ring/uring.rs",
    "src/ring/provided.rs",
    "src/ring/kernel.rs",
    "crates/sim/src/lib.rs",
    "src/os.rs",
    "src/os/child.rs",
    "src/os/io_signals.rs",
    "src/os/readiness.rs",
    "src/os/signal.rs",
    "src/os/socket.rs",
    "crates/models/src/coroutine/watched.rs",
    "src/os/probe.rs", // a filter, and a handler that makes the call in the program's place
    "src/os/process.rs", // fork and its kin: what a child does before it is safe to be one
    "src/os/shared.rs", // counters that parent and children share
    "crates/load/src/wire_uring.rs",
    "crates/trace/src/map.rs",
];

#[test]
fn a_protocol_knows_buffers_and_nothing_else() {
    let mut wrong = Vec::new();
    for file in sources("src/protocol") {
        for (line, other) in file.imports() {
            if other != "buffer" && other != "protocol" {
                wrong.push(format!(
                    "{}:{line}: a protocol imports `{other}`. Way out: a protocol is told what \
                     happened and answers in its `Outbox`; let the driver do the rest.",
                    file.path
                ));
            }
        }
        for part in ["io", "net", "os", "time", "thread", "fs", "process"] {
            for line in file.find(&["std", ":", ":", part]) {
                wrong.push(format!(
                    "{}:{line}: a protocol names `std::{part}`. Way out: protocols are pure; what \
                     they need from outside arrives as an argument.",
                    file.path
                ));
            }
        }
    }
    report(wrong);
}

#[test]
fn the_ring_loop_knows_no_particular_ring() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        match file.room().as_deref() {
            Some("proactor") => {
                for token in file.tokens.iter().filter(|token| !token.test) {
                    if ["Uring", "Sim", "Traced"].contains(&&*token.text) {
                        wrong.push(format!(
                            "{}:{}: the loop names `{}`. Way out: it has a type parameter, `R: \
                             Ring`.",
                            file.path, token.line, token.text
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    report(wrong);
}

#[test]
fn unsafe_stands_in_a_few_files_only() {
    let mut wrong = Vec::new();
    for file in sources("src").iter().filter(|file| !UNSAFE.contains(&&*file.path)) {
        for line in file.tokens.iter().filter(|token| token.is("unsafe")).map(|token| token.line) {
            wrong.push(format!(
                "{}:{line}: `unsafe` outside of {}. Way out: put a safe function into one of \
                 them, with the invariant that makes it sound.",
                file.path,
                UNSAFE.join(", ")
            ));
        }
    }
    report(wrong);
}

#[test]
fn io_uring_is_known_to_the_ring_and_its_client_only() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        if file.path.starts_with("src/ring/") || file.path == "crates/load/src/wire_uring.rs" {
            continue;
        }
        for line in file.find(&["io_uring", ":", ":"]) {
            wrong.push(format!(
                "{}:{line}: `io_uring::` outside of src/ring/ and src/load/wire_uring.rs. Way \
                 out: a word of ours in src/ring/mod.rs that says what is meant.",
                file.path
            ));
        }
    }
    report(wrong);
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for path in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&path).expect("a source is readable");
            if !text.starts_with("//! ") {
                wrong.push(format!(
                    "{}:1: the file does not open with a `//!` doc. Way out: one to five \
                     sentences on what it is for.",
                    relative(&path)
                ));
            }
        }
    }
    report(wrong);
}

#[test]
fn nothing_unfinished_is_left_in_the_sources() {
    /// What must not stand, whether tests may have it, and what to do instead.
    const BANNED: [(&[&str], bool, &str); 6] = [
        (&["todo", "!"], false, "write it, or return an error that says what is missing"),
        (&["unimplemented", "!"], false, "write it, or return an error that says what is missing"),
        (&["dbg", "!"], false, "`tracing`, or a test"),
        (&["#", "[", "ignore"], false, "a test that runs, or a skip that is counted and says why"),
        (&["allow", "(", "dead_code"], true, "delete it; or `expect` it, with a reason"),
        (&[".", "unwrap", "("], true, "`expect` with the invariant that makes it hold, or `?`"),
    ];
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for file in sources(folder) {
            for (banned, in_tests, instead) in BANNED {
                for at in file.positions(banned) {
                    let token = &file.tokens[at];
                    if in_tests && (folder != "src" || token.test) {
                        continue;
                    }
                    wrong.push(format!(
                        "{}:{}: `{}` stands here. Way out: {instead}.",
                        file.path,
                        token.line,
                        banned.concat()
                    ));
                }
            }
        }
    }
    report(wrong);
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let text = "use crate::{a::B, c::{D, e}, f};\n// crate::comment\n/* /* crate::no */ */\n\
                let s = \"crate::string\"; let r = r#\"crate::\"raw\"#; let c = '\"'; let l: &'x T;\n\
                fn g() { crate::h::i() }\n\
                #[cfg(test)]\nmod tests { use super::super::j; fn k() { x.unwrap() } }\n\
                fn after() { super::l::m() }";
    let file = Source::new("src/room/file.rs".into(), text);
    let imports: Vec<_> = file.imports().into_iter().collect();
    let expected = [(1, "a"), (1, "c"), (1, "f"), (5, "h")];
    assert_eq!(imports, expected.map(|(line, name)| (line, name.to_owned())));
    assert_eq!(file.room().as_deref(), Some("room"));
    assert!(file.tokens.iter().any(|token| token.is("unwrap") && token.test));
    assert!(file.tokens.iter().any(|token| token.is("after") && !token.test));

    let flat =
        Source::new("src/flat.rs".into(), "use super::up;\nmod m { use super::super::top; }");
    let imports: Vec<_> = flat.imports().into_iter().map(|(_, name)| name).collect();
    assert_eq!(imports, ["up", "top"]);
}

fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("a file of ours").display().to_string()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("a folder is readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The sources in a folder; those that a `#[cfg(test)] mod name;` declares are all test.
fn sources(folder: &str) -> Vec<Source> {
    let mut files: Vec<Source> = rust_files(&root().join(folder))
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).expect("a source is readable");
            Source::new(relative(path), &text)
        })
        .collect();
    let of_tests: BTreeSet<String> = files.iter().flat_map(Source::test_files).collect();
    for file in files.iter_mut().filter(|file| of_tests.contains(&file.path)) {
        file.tokens.iter_mut().for_each(|token| token.test = true);
    }
    files
}

/// A source file as its words and signs, without comments and literals.
struct Source {
    path: String,
    tokens: Vec<Token>,
}

struct Token {
    line: usize,
    text: String,
    /// Whether it is compiled for tests only.
    test: bool,
    /// How many `mod name { … }` are open around it.
    nesting: usize,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.text == text
    }
}

impl Source {
    fn new(path: String, text: &str) -> Source {
        let mut file = Source { path, tokens: tokens(text) };
        file.note_tests();
        file.note_nesting();
        file
    }

    /// The top-level module that the file belongs to; none for the crate's root and the binaries.
    fn room(&self) -> Option<String> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next().expect("a split has a first part");
        match first {
            "lib.rs" | "main.rs" | "bin" => None,
            _ => Some(first.trim_end_matches(".rs").to_owned()),
        }
    }

    /// Where `words` stand in a row.
    fn positions(&self, words: &[&str]) -> Vec<usize> {
        let windows = self.tokens.windows(words.len()).enumerate();
        windows
            .filter(|(_, tokens)| tokens.iter().zip(words).all(|(token, word)| token.is(word)))
            .map(|(at, _)| at)
            .collect()
    }

    fn find(&self, words: &[&str]) -> Vec<usize> {
        self.positions(words).into_iter().map(|at| self.tokens[at].line).collect()
    }

    /// The top-level modules that are named, each with its line: by `crate::name`, by
    /// `crate::{name, …}`, or by as many `super::` as lead to the crate's root.
    fn imports(&self) -> BTreeSet<(usize, String)> {
        let mut found = BTreeSet::new();
        for at in self.positions(&["crate", ":", ":"]) {
            self.heads(at + 3, &mut found);
        }
        let depth = self.path.trim_start_matches("src/").trim_end_matches("/mod.rs");
        let depth = depth.split('/').count();
        for at in self.positions(&["super", ":", ":"]) {
            if at >= 3 && self.tokens[at - 3].is("super") {
                continue; // In the midst of a chain.
            }
            let chain = (0..)
                .take_while(|n| self.tokens.get(at + 3 * n).is_some_and(|token| token.is("super")));
            let supers = chain.count();
            if supers == depth + self.tokens[at].nesting {
                self.heads(at + 3 * supers, &mut found);
            }
        }
        found
    }

    /// The first name, or names if a brace opens, of the path that begins `at`.
    fn heads(&self, at: usize, found: &mut BTreeSet<(usize, String)>) {
        let Some(first) = self.tokens.get(at) else { return };
        if !first.is("{") {
            found.insert((first.line, first.text.clone()));
            return;
        }
        let mut depth = 0;
        for two in self.tokens[at..].windows(2) {
            match &*two[0].text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
            let begins = depth == 1 && (two[0].is("{") || two[0].is(","));
            if begins && !two[1].is("}") {
                found.insert((two[1].line, two[1].text.clone()));
            }
        }
    }

    fn note_tests(&mut self) {
        for at in self.positions(&["#", "[", "cfg", "(", "test", ")", "]"]) {
            let end = self.end_of_item(at + 7);
            self.tokens[at..end].iter_mut().for_each(|token| token.test = true);
        }
    }

    /// Just behind the item that begins `at`: behind its `;`, or the brace that closes it.
    fn end_of_item(&self, at: usize) -> usize {
        let mut depth = 0;
        for (n, token) in self.tokens[at..].iter().enumerate() {
            match &*token.text {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            if depth == 0 && (token.is(";") || token.is("}")) {
                return at + n + 1;
            }
        }
        self.tokens.len()
    }

    /// The files that this one declares for tests only.
    fn test_files(&self) -> Vec<String> {
        let folder = match self.path.strip_suffix("/mod.rs") {
            Some(folder) => folder,
            None => self.path.trim_end_matches(".rs").trim_end_matches("/lib"),
        };
        let mods = self.tokens.windows(3);
        mods.filter(|three| three[0].test && three[0].is("mod") && three[2].is(";"))
            .map(|three| format!("{folder}/{}.rs", three[1].text))
            .collect()
    }

    fn note_nesting(&mut self) {
        // For each open brace, whether it is a module's.
        let mut braces: Vec<bool> = Vec::new();
        for at in 0..self.tokens.len() {
            self.tokens[at].nesting = braces.iter().filter(|&&module| module).count();
            match &*self.tokens[at].text {
                "{" => braces.push(at >= 2 && self.tokens[at - 2].is("mod")),
                "}" => drop(braces.pop()),
                _ => {}
            }
        }
    }
}

/// Cuts Rust into words and signs; comments, strings, characters and lifetimes are left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut tokens, mut line, mut i) = (Vec::new(), 1, 0);
    while i < chars.len() {
        let begin = i;
        let mut word = None;
        match chars[i] {
            '/' if at(i + 1) == '/' => i += until(&chars[i..], |c| c == '\n'),
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => i = end_of_string(&chars, i),
            '\'' if at(i + 1) == '\\' => i += 3 + until(&chars[i + 3..], |c| c == '\'') + 1,
            '\'' if at(i + 2) == '\'' => i += 3,
            '\'' => i += 1 + until(&chars[i + 1..], |c| !is_word(c)),
            c if is_word(c) => {
                i += until(&chars[i..], |c| !is_word(c));
                let text: String = chars[begin..i].iter().collect();
                let hashes = until(&chars[i..], |c| c != '#');
                if ["r", "br", "cr"].contains(&&*text) && at(i + hashes) == '"' {
                    i = end_of_raw_string(&chars, i + hashes + 1, hashes);
                } else if !["b", "c"].contains(&&*text) || !['"', '\''].contains(&at(i)) {
                    word = Some(text);
                }
            }
            c => {
                i += 1;
                word = (!c.is_whitespace()).then(|| c.to_string());
            }
        }
        if let Some(text) = word {
            tokens.push(Token { line, text, test: false, nesting: 0 });
        }
        i = i.min(chars.len());
        line += chars[begin..i].iter().filter(|&&c| c == '\n').count();
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// How many come before the first that `stops`.
fn until(chars: &[char], stops: impl Fn(char) -> bool) -> usize {
    chars.iter().position(|&c| stops(c)).unwrap_or(chars.len())
}

fn end_of_string(chars: &[char], open: usize) -> usize {
    let mut i = open + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn end_of_raw_string(chars: &[char], mut i: usize, hashes: usize) -> usize {
    while i < chars.len() {
        let closes = chars[i] == '"' && chars[i + 1..].iter().take(hashes).all(|&c| c == '#');
        i += 1;
        if closes {
            return i + hashes;
        }
    }
    i
}
