//! Reads Rust source files: words and signs, comments and string literals, each with its line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A source file, cut into tokens and prose.
pub(crate) struct SourceFile {
    /// The path from the root of the repository.
    pub(crate) path: String,
    pub(crate) lines: Vec<String>,
    pub(crate) tokens: Vec<Token>,
    pub(crate) comments: Vec<Comment>,
}

pub(crate) struct Token {
    pub(crate) line: usize,
    /// The last line of the token: a string literal may have several lines.
    pub(crate) end: usize,
    /// The word or sign; a string literal is its content behind a quotation mark.
    pub(crate) text: String,
    /// Whether the token is compiled for tests only.
    pub(crate) test: bool,
    /// The number of `{` that are open around the token, and how many of them are of modules.
    pub(crate) depth: usize,
    pub(crate) modules: usize,
}

/// Consecutive comment lines of one kind.
pub(crate) struct Comment {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
    /// The text of each line, without the comment sign.
    pub(crate) text: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// `///` comments, of an item.
    Outer,
    /// `//!` comments, of a file.
    Inner,
}

impl Token {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub(crate) fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }

    /// Returns the content of a string literal.
    pub(crate) fn literal(&self) -> Option<&str> {
        self.text.strip_prefix('"')
    }
}

impl SourceFile {
    pub(crate) fn new(path: &str, text: &str) -> SourceFile {
        let (tokens, comments) = cut(text);
        let lines = text.lines().map(str::to_owned).collect();
        let mut source = SourceFile { path: path.to_owned(), lines, tokens, comments };
        source.mark_tests();
        source.mark_depth();
        source
    }

    /// Returns the positions at which `words` stand one after another.
    pub(crate) fn positions<'a>(&'a self, words: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        let windows = self.tokens.windows(words.len()).enumerate();
        windows
            .filter(move |(_, tokens)| tokens.iter().zip(words).all(|(token, word)| token.is(word)))
            .map(|(at, _)| at)
    }

    /// Returns the position after the item that begins at `at`: after its `;` or closing brace.
    pub(crate) fn end_of_item(&self, at: usize) -> usize {
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

    /// Returns the number of lines with code that is not compiled for tests only.
    pub(crate) fn code_lines(&self) -> usize {
        let code = self.tokens.iter().filter(|token| !token.test);
        code.flat_map(|token| token.line..=token.end).collect::<BTreeSet<_>>().len()
    }

    /// Returns the folder in which the files of this module's children are.
    pub(crate) fn folder(&self) -> &str {
        let (folder, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        match file {
            "mod.rs" | "lib.rs" | "main.rs" => folder,
            _ => self.path.trim_end_matches(".rs"),
        }
    }

    fn mark_tests(&mut self) {
        let cfgs: [&[&str]; 2] =
            [&["#", "[", "cfg", "(", "test", ")"], &["#", "[", "cfg", "(", "any", "(", "test"]];
        let found: Vec<usize> = cfgs.iter().flat_map(|cfg| self.positions(cfg)).collect();
        for at in found {
            let close = self.tokens[at..].iter().position(|token| token.is("]")).unwrap_or(0);
            let end = self.end_of_item(at + close + 1);
            self.tokens[at..end].iter_mut().for_each(|token| token.test = true);
        }
    }

    /// Returns the files that this file declares for tests only.
    fn test_files(&self) -> Vec<String> {
        let mods = self.tokens.windows(3);
        mods.filter(|three| three[0].test && three[0].is("mod") && three[2].is(";"))
            .map(|three| format!("{}/{}", self.folder(), three[1].text))
            .flat_map(|module| [format!("{module}.rs"), format!("{module}/mod.rs")])
            .collect()
    }

    fn mark_depth(&mut self) {
        // For each open brace, whether it is the brace of a module.
        let mut braces: Vec<bool> = Vec::new();
        for at in 0..self.tokens.len() {
            if self.tokens[at].is("}") {
                braces.pop();
            }
            self.tokens[at].depth = braces.len();
            self.tokens[at].modules = braces.iter().filter(|&&module| module).count();
            if self.tokens[at].is("{") {
                braces.push(at >= 2 && self.tokens[at - 2].is("mod"));
            }
        }
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the files with this extension below `folder`, which is relative to the root.
pub(crate) fn files(folder: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect(&root().join(folder), extension, &mut found);
    let relative = |path: &PathBuf| {
        let path = path.strip_prefix(root()).expect("a file below the root");
        path.display().to_string()
    };
    let mut found: Vec<String> = found.iter().map(relative).collect();
    found.sort();
    found
}

fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, extension, found);
            }
        } else if path.extension().is_some_and(|its| its == extension) {
            found.push(path);
        }
    }
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("a readable file")
}

/// All Rust files of the repository. Files outside of `src` are tests as a whole, and so
/// are the files that a `#[cfg(test)] mod name;` declares.
pub(crate) static SOURCES: LazyLock<Vec<SourceFile>> = LazyLock::new(|| {
    let mut sources: Vec<SourceFile> =
        files("", "rs").iter().map(|path| SourceFile::new(path, &read(path))).collect();
    // Twice: the modules of a file of tests are of tests as well.
    for _ in 0..2 {
        let tests: BTreeSet<String> = sources.iter().flat_map(SourceFile::test_files).collect();
        for source in &mut sources {
            let of_tests = tests.contains(&source.path)
                || source.path.ends_with("/tests.rs")
                || crate_of(&source.path).is_none();
            if of_tests {
                source.tokens.iter_mut().for_each(|token| token.test = true);
            }
        }
    }
    sources
});

/// Returns the folder of the crate whose `src` the file is in; the root crate is "src".
pub(crate) fn crate_of(path: &str) -> Option<&str> {
    if path.starts_with("src/") {
        return Some("src");
    }
    let (name, inside) = path.strip_prefix("crates/")?.split_once('/')?;
    inside.starts_with("src/").then(|| &path[.."crates/".len() + name.len()])
}

/// Cuts Rust into tokens and comments; characters and lifetimes are left out.
fn cut(text: &str) -> (Vec<Token>, Vec<Comment>) {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut tokens, mut comments) = (Vec::new(), Vec::new());
    let (mut line, mut i) = (1, 0);
    while i < chars.len() {
        let begin = i;
        let mut word = None;
        match chars[i] {
            '/' if at(i + 1) == '/' => {
                i += until(&chars[i..], |c| c == '\n');
                add_comment(&mut comments, line, &chars[begin..i]);
            }
            '/' if at(i + 1) == '*' => {
                i = end_of_block_comment(&chars, i);
                add_comment(&mut comments, line, &chars[begin..i]);
            }
            '"' => {
                i = end_of_string(&chars, i);
                word = Some(literal(&chars[begin + 1..(i - 1).min(chars.len())]));
            }
            '\'' if at(i + 1) == '\\' => i += 3 + until(&chars[i + 3..], |c| c == '\'') + 1,
            '\'' if at(i + 2) == '\'' => i += 3,
            '\'' => i += 1 + until(&chars[i + 1..], |c| !is_word(c)),
            c if is_word(c) => {
                i += until(&chars[i..], |c| !is_word(c));
                let text: String = chars[begin..i].iter().collect();
                let hashes = until(&chars[i..], |c| c != '#');
                if ["r", "br", "cr"].contains(&&*text) && at(i + hashes) == '"' {
                    let open = i + hashes + 1;
                    i = end_of_raw_string(&chars, open, hashes);
                    let content: String = chars[open..i - hashes - 1].iter().collect();
                    word = Some(format!("\"{content}"));
                } else if !["b", "c"].contains(&&*text) || !['"', '\''].contains(&at(i)) {
                    word = Some(text);
                }
            }
            c => {
                i += 1;
                word = (!c.is_whitespace()).then(|| c.to_string());
            }
        }
        i = i.min(chars.len());
        let lines = chars[begin..i].iter().filter(|&&c| c == '\n').count();
        if let Some(text) = word {
            let end = line + lines;
            tokens.push(Token { line, end, text, test: false, depth: 0, modules: 0 });
        }
        line += lines;
    }
    (tokens, comments)
}

fn add_comment(comments: &mut Vec<Comment>, line: usize, chars: &[char]) {
    let text: String = chars.iter().collect();
    let (kind, text) = match text.get(..3) {
        Some("///") => (Kind::Outer, &text[3..]),
        Some("//!") => (Kind::Inner, &text[3..]),
        _ => (Kind::Plain, text.trim_start_matches("//")),
    };
    if let Some(last) = comments.last_mut()
        && last.kind == kind
        && last.line + last.text.len() == line
    {
        last.text.push(text.to_owned());
        return;
    }
    let text = text.lines().map(str::to_owned).collect();
    comments.push(Comment { line, kind, text });
}

/// Returns a string literal's token, without escapes.
fn literal(chars: &[char]) -> String {
    let content: String = chars.iter().collect();
    format!("\"{}", content.replace("\\n", "\n").replace("\\t", " ").replace("\\\"", "\""))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the number of characters before the first that `stops`.
fn until(chars: &[char], stops: impl Fn(char) -> bool) -> usize {
    chars.iter().position(|&c| stops(c)).unwrap_or(chars.len())
}

fn end_of_block_comment(chars: &[char], open: usize) -> usize {
    let (mut depth, mut i) = (0, open);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
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
