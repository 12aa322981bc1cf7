//! Bugs that were once here, or could be: each is a patch, and the test that it names must fail.
//!
//! `table.toml` lists the mutants. Each costs a compilation, so they run only if asked for:
//!
//! ```sh
//! MUTANTS=all cargo test --test mutants -- --nocapture
//! MUTANTS=accept,drain cargo test --test mutants -- --nocapture
//! ```
//!
//! The second line runs those whose name contains one of the words. A mutant is compiled in a copy
//! of the sources below `target/mutants`, so neither the sources nor the programs in `target/debug`
//! are touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The longest that a test of a mutant may run; a test that a mutant keeps from ending has failed.
const TIME_LIMIT: Duration = Duration::from_secs(120);

struct Mutant {
    name: String,
    /// What is wrong with the program in which the patch is applied.
    fault: String,
    test: Test,
}

/// A test as the arguments of `cargo test` name it: `-p PACKAGE`, `--lib` or `--test TARGET`, name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    package: String,
    target: Option<String>,
    name: String,
}

impl Test {
    fn new(text: &str) -> Option<Test> {
        let words: Vec<&str> = text.split(' ').collect();
        let (package, target, name) = match words[..] {
            ["-p", package, "--lib", name] => (package, None, name),
            ["-p", package, "--test", target, name] => (package, Some(target.to_owned()), name),
            _ => return None,
        };
        Some(Test { package: package.to_owned(), target, name: name.to_owned() })
    }

    /// Returns the command that builds the target of the test in `tree`.
    fn build(&self, tree: &Path) -> Command {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(tree).args(["test", "-q", "--package", &self.package]);
        match &self.target {
            None => command.arg("--lib"),
            Some(target) => command.args(["--test", target]),
        };
        command.env("CARGO_TARGET_DIR", tree.with_file_name("build"));
        // What a mutant costs is its compilation.
        let profile = ["INCREMENTAL", "PROFILE_DEV_OPT_LEVEL", "PROFILE_DEV_DEBUG"];
        for (name, value) in profile.into_iter().zip(["1", "0", "0"]) {
            command.env(format!("CARGO_{name}"), value);
        }
        command
    }

    /// Builds and runs the test. Returns whether it has passed, or what the compiler says.
    fn run(&self, tree: &Path) -> Result<bool, String> {
        let built = output(self.build(tree).arg("--no-run"));
        if !built.status.success() {
            return Err(format!(
                "it does not compile:\n{}",
                String::from_utf8_lossy(&built.stderr)
            ));
        }
        let test = self.build(tree);
        let mut limited = Command::new("timeout");
        limited.args(["--kill-after=5", &TIME_LIMIT.as_secs().to_string()]);
        limited.arg(test.get_program()).args(test.get_args()).args(["--", "--exact", &self.name]);
        limited.current_dir(tree).env("PROACTOR_NO_SKIPS", "1");
        limited.envs(test.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = output(&mut limited);
        Ok(ran.status.success() && String::from_utf8_lossy(&ran.stdout).contains("1 passed"))
    }

    /// Whether a source file of the target has an item, or the argument of a macro, of this name.
    fn exists(&self) -> bool {
        let package = match self.package.strip_prefix("proactor-") {
            Some(name) => root().join("crates").join(name),
            None => root(),
        };
        let name = self.name.rsplit("::").next().unwrap_or_default();
        let places = match &self.target {
            None => vec![package.join("src")],
            Some(target) => {
                let tests = package.join("tests");
                vec![tests.join(format!("{target}.rs")), tests.join(target)]
            }
        };
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        places.iter().flat_map(|place| sources(place)).any(|file| {
            let text = fs::read_to_string(file).expect("a readable file");
            text.split(|c| !is_word(c)).any(|word| word == name)
        })
    }
}

fn sources(place: &Path) -> Vec<PathBuf> {
    match fs::read_dir(place) {
        Ok(entries) => {
            entries.flat_map(|entry| sources(&entry.expect("an entry").path())).collect()
        }
        Err(_) if place.is_file() => vec![place.to_owned()],
        Err(_) => Vec::new(),
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn mutants() -> Vec<Mutant> {
    let text = fs::read_to_string(root().join("tests/mutants/table.toml")).expect("the table");
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("table.toml: {error}"));
    let mutants = table.into_iter().map(|(name, entry)| {
        let field = |field: &str| match entry.get(field).and_then(toml::Value::as_str) {
            Some(text) => text.to_owned(),
            None => panic!("{name} has no text `{field}`"),
        };
        let test = field("test");
        let test = Test::new(&test).unwrap_or_else(|| panic!("{name}: no test `{test}` can be"));
        Mutant { fault: field("fault"), test, name }
    });
    mutants.collect()
}

impl Mutant {
    fn patch(&self) -> PathBuf {
        root().join(format!("tests/mutants/{}.patch", self.name))
    }

    /// Applies the patch to the sources in `tree`, or only checks that it can be.
    fn apply(&self, tree: &Path, args: &[&str]) -> Result<(), String> {
        let mut git = Command::new("git");
        git.current_dir(tree).arg("apply").args(args).arg(self.patch());
        // The copy lies within the repository and is not a part of it.
        git.env("GIT_CEILING_DIRECTORIES", tree.parent().expect("a folder above"));
        let applied = output(&mut git);
        match applied.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&applied.stderr).trim_end().to_owned()),
        }
    }
}

#[test]
fn every_mutant_can_be_applied_and_its_test_exists() {
    let mutants = mutants();
    let mut wrong = Vec::new();
    for mutant in &mutants {
        if let Err(error) = mutant.apply(&root(), &["--check"]) {
            wrong.push(format!("{}: the patch does not apply: {error}", mutant.name));
        }
        if !mutant.test.exists() {
            wrong.push(format!("{}: there is no test {}", mutant.name, mutant.test.name));
        }
    }
    let patches = sources(&root().join("tests/mutants"));
    let patches = patches.iter().filter(|file| file.extension().is_some_and(|its| its == "patch"));
    for patch in patches.filter(|&patch| mutants.iter().all(|mutant| mutant.patch() != *patch)) {
        wrong.push(format!("{}: it is not in table.toml", patch.display()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_mutants_that_are_asked_for_are_caught() {
    let Ok(words) = std::env::var("MUTANTS") else { return };
    let is_chosen = |name: &str| words == "all" || words.split(',').any(|word| name.contains(word));
    let mut by_target: BTreeMap<_, Vec<Mutant>> = BTreeMap::new();
    for mutant in mutants().into_iter().filter(|mutant| is_chosen(&mutant.name)) {
        let target = (mutant.test.package.clone(), mutant.test.target.clone());
        by_target.entry(target).or_default().push(mutant);
    }
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("mutants").join("sources");
    let mut wrong = 0;
    for mutants in by_target.values() {
        copy_sources(&tree);
        // Each test is seen to pass, once, where nothing is changed.
        let mut passes: BTreeMap<&Test, bool> = BTreeMap::new();
        for Mutant { test, .. } in mutants {
            passes.entry(test).or_insert_with(|| test.run(&tree) == Ok(true));
        }
        for mutant in mutants {
            let begin = Instant::now();
            let outcome = match passes[&mutant.test] {
                true => attempt(mutant, &tree),
                false => Err("its test fails without it".to_owned()),
            };
            let is_caught = outcome.is_ok();
            wrong += u32::from(!is_caught);
            let (word, seconds) = (if is_caught { "caught" } else { "MISSED" }, begin.elapsed());
            println!("{word}  {:4} s  {}", seconds.as_secs(), mutant.name);
            if let Err(reason) = outcome {
                println!("  {}\n  {}\n  {reason}", mutant.fault, mutant.test.name);
            }
        }
    }
    assert_eq!(wrong, 0, "mutants were not caught");
}

/// Compiles the mutant and runs its test, which must fail.
fn attempt(mutant: &Mutant, tree: &Path) -> Result<(), String> {
    copy_sources(tree);
    mutant.apply(tree, &[])?;
    match mutant.test.run(tree)? {
        true => Err("the test passes although the bug is there".to_owned()),
        false => Ok(()),
    }
}

/// Makes `tree` a copy of the sources; a file that is equal keeps its time.
fn copy_sources(tree: &Path) {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = output(&mut git);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    for name in String::from_utf8(listed.stdout).expect("names are UTF-8").split_terminator('\0') {
        let (from, to) = (root().join(name), tree.join(name));
        let Ok(bytes) = fs::read(&from) else { continue }; // it was deleted
        if fs::read(&to).ok().as_ref() != Some(&bytes) {
            fs::create_dir_all(to.parent().expect("a folder")).expect("a new folder");
            fs::write(&to, bytes).expect("a copy");
        }
    }
}
