//! The import graph of a crate's files.
//!
//! A path is followed through re-exports to the file that defines the item. A `pub use` is no
//! import of its own: a module that only re-exports its children does not depend on them. A file
//! may use what the modules around it define, as an `impl` in a file of its own must; so only
//! siblings and their descendants can form a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::rust::SourceFile;

/// The modules of one crate by their path; the root is the empty path.
type Modules<'a> = BTreeMap<Vec<String>, Module<'a>>;

struct Module<'a> {
    source: &'a SourceFile,
    uses: Vec<Use>,
}

struct Use {
    line: usize,
    path: Vec<String>,
    /// The name that the path has here; `*` for all names.
    name: String,
    public: bool,
}

/// Returns the files of `sources`, all of one crate, that import one another in a circle: each
/// group with the imports, as text, that close it.
pub(crate) fn circles(sources: &[&SourceFile]) -> Vec<Vec<String>> {
    let modules: Modules = sources
        .iter()
        .filter_map(|source| {
            Some((module_path(&source.path)?, Module { source, uses: uses(source) }))
        })
        .collect();
    let mut imports: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (at, module) in &modules {
        let uses = module.uses.iter().filter(|its| !its.public);
        let paths = uses.map(|its| (its.line, its.path.clone())).chain(paths(module.source));
        for (line, path) in paths {
            let Some(file) = resolve(&modules, at, &path, 0) else { continue };
            let around = module_path(file).is_some_and(|path| at.starts_with(&path));
            if !around {
                let from = imports.entry(&module.source.path).or_default();
                from.entry(file).or_insert(line);
            }
        }
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|&file| (file, reachable(&imports, file))).collect();
    let mut groups: BTreeMap<BTreeSet<&str>, Vec<String>> = BTreeMap::new();
    for (&file, reached) in reach.iter().filter(|(file, reached)| reached.contains(*file)) {
        let back = |other: &&str| reach.get(other).is_some_and(|its| its.contains(file));
        let group: BTreeSet<&str> = reached.iter().copied().filter(back).collect();
        for (other, line) in imports[file].iter().filter(|(other, _)| group.contains(*other)) {
            let text = format!("{file}:{line}: imports {other}, which imports it again");
            groups.entry(group.clone()).or_default().push(text);
        }
    }
    groups.into_values().collect()
}

fn reachable<'a>(
    imports: &BTreeMap<&'a str, BTreeMap<&'a str, usize>>,
    from: &'a str,
) -> BTreeSet<&'a str> {
    let (mut found, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        for &other in imports.get(file).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(other) {
                next.push(other);
            }
        }
    }
    found
}

/// Returns the module path of a file in a crate's `src`; none for binaries.
fn module_path(path: &str) -> Option<Vec<String>> {
    let inside = path.rsplit_once("src/")?.1.trim_end_matches(".rs");
    if inside == "main" || inside.starts_with("bin/") {
        return None;
    }
    let inside = inside.trim_end_matches("/mod");
    Some(inside.split('/').filter(|part| *part != "lib").map(str::to_owned).collect())
}

/// Returns the file that defines what `path`, as written in module `at`, names.
fn resolve<'a>(
    modules: &Modules<'a>,
    at: &[String],
    path: &[String],
    depth: usize,
) -> Option<&'a str> {
    let mut here = at.to_vec();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("crate") => {
            here.clear();
            rest = &path[1..];
        }
        Some("self") => rest = &path[1..],
        Some("super") => {
            while rest.first().is_some_and(|part| part == "super") {
                here.pop()?;
                rest = &rest[1..];
            }
        }
        Some(name) => {
            let child = [&here[..], &[name.to_owned()]].concat();
            if !modules.contains_key(&child) {
                return None;
            }
        }
        None => return None,
    }
    for (n, name) in rest.iter().enumerate() {
        let child = [&here[..], std::slice::from_ref(name)].concat();
        if modules.contains_key(&child) {
            here = child;
            continue;
        }
        let known = modules.get(&here)?.uses.iter().find(|its| its.name == *name);
        if let Some(known) = known.filter(|_| depth < 8) {
            let whole = [&known.path[..], &rest[n + 1..]].concat();
            return resolve(modules, &here, &whole, depth + 1);
        }
        break;
    }
    modules.get(&here).map(|module| &*module.source.path)
}

/// Returns the `use` declarations outside of tests and of modules within the file.
fn uses(source: &SourceFile) -> Vec<Use> {
    let mut found = Vec::new();
    let tokens = &source.tokens;
    for at in source.positions(&["use"]) {
        if tokens[at].test || tokens[at].modules > 0 {
            continue;
        }
        let public = at > 0 && (tokens[at - 1].is("pub") || tokens[at - 1].is(")"));
        let end = source.end_of_item(at);
        let mut next = at + 1;
        tree(source, &mut next, end, &[], &mut |path, name, line| {
            found.push(Use { line, path, name, public });
        });
    }
    found
}

/// Calls `found` for each path of the `use` tree at `next`.
fn tree(
    source: &SourceFile,
    next: &mut usize,
    end: usize,
    prefix: &[String],
    found: &mut impl FnMut(Vec<String>, String, usize),
) {
    let mut path = prefix.to_vec();
    while *next < end {
        let token = &source.tokens[*next];
        *next += 1;
        match &*token.text {
            ":" => {}
            "{" => {
                while *next < end && !source.tokens[*next].is("}") {
                    tree(source, next, end, &path, found);
                    if *next < end && source.tokens[*next].is(",") {
                        *next += 1;
                    }
                }
                *next += 1;
                return;
            }
            "," | "}" | ";" => {
                *next -= 1;
                break;
            }
            "as" => {
                let name = source.tokens[*next].text.clone();
                *next += 1;
                found(path, name, token.line);
                return;
            }
            "*" => {
                found(path, "*".into(), token.line);
                return;
            }
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
    }
    if let Some(name) = path.last().cloned() {
        let line = source.tokens[next.saturating_sub(1)].line;
        found(path, name, line);
    }
}

/// Returns the paths outside of `use` declarations and tests, each with its line.
fn paths(source: &SourceFile) -> Vec<(usize, Vec<String>)> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].is("use") {
            at = source.end_of_item(at);
            continue;
        }
        let begin = at;
        let mut path = Vec::new();
        while tokens.get(at).is_some_and(|token| token.is_name()) {
            path.push(tokens[at].text.clone());
            let colons = tokens.get(at + 1).zip(tokens.get(at + 2));
            at += 1;
            match colons {
                Some((one, two)) if one.is(":") && two.is(":") => at += 2,
                _ => break,
            }
        }
        let Some(first) = tokens.get(begin) else { break };
        // `super` within a module of the file may be the file itself.
        if path.len() > 1 && !first.test && (first.modules == 0 || first.is("crate")) {
            found.push((first.line, path));
        }
        at = at.max(begin + 1);
    }
    found
}
