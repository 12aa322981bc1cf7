//! `--models`: which I/O models are meant.

use std::str::FromStr;

use crate::model::{Choice, Model};

/// A word of `--models`, of which commas separate several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// `all`.
    All,
    /// A name.
    Take(Model),
    /// `-` and a name.
    Leave(Model),
}

impl FromStr for Pick {
    type Err = String;

    fn from_str(text: &str) -> Result<Pick, String> {
        let model = |name: &str| match name.parse() {
            Ok(Choice::Model(model)) => Ok(model),
            Ok(Choice::Auto) => Err("name the model itself".to_owned()),
            Err(_) => {
                let names = Model::ALL.map(Model::name).join(", ");
                Err(format!("no model {name:?}: one of {names}, or all; -NAME leaves one out"))
            }
        };
        match (text, text.strip_prefix('-')) {
            ("all", _) => Ok(Pick::All),
            (_, Some(left)) => model(left).map(Pick::Leave),
            (_, None) => model(text).map(Pick::Take),
        }
    }
}

/// Those who are picked, one word after the other: each once, in the order of their first words.
pub(super) fn picked(picks: &[Pick]) -> Vec<Model> {
    let mut models: Vec<Model> = Vec::new();
    for &pick in picks {
        match pick {
            Pick::All => models.extend(Model::ALL),
            Pick::Take(model) => models.push(model),
            Pick::Leave(left) => models.retain(|&model| model != left),
        }
    }
    let first = |&(at, model): &(usize, Model)| !models[..at].contains(&model);
    models.iter().copied().enumerate().filter(first).map(|(_, model)| model).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(words: &str) -> Vec<Model> {
        let picks: Vec<Pick> = words.split(',').map(|word| word.parse().expect("a word")).collect();
        picked(&picks)
    }

    #[test]
    fn all_are_all_and_a_hyphen_leaves_one_out() {
        assert_eq!(models("all"), Model::ALL);
        let without = models("all,-process,-uring");
        assert_eq!(without.len(), Model::ALL.len() - 2);
        assert!(!without.contains(&Model::Process) && !without.contains(&Model::Uring));
        assert_eq!(models("poll,all,-poll,poll,epoll").last(), Some(&Model::Poll));
        assert_eq!(models("poll,poll"), [Model::Poll]);
        for wrong in ["kqueue", "-kqueue", "auto", "", "-", "-all"] {
            wrong.parse::<Pick>().expect_err(wrong);
        }
        let error = "kqueue".parse::<Pick>().expect_err("no such model");
        for known in Model::ALL.map(Model::name).into_iter().chain(["all", "kqueue"]) {
            assert!(error.contains(known), "{known} is missing: {error}");
        }
    }
}
