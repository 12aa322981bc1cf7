//! `--models`: a selection of I/O models.

use std::str::FromStr;

use proactor_compare::plan::{ModelSpec, RECORDED};
use proactor_models::model::{Choice, Model};

/// One word of `--models`; words are separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pick<T> {
    /// `all` adds every model.
    All,
    /// `NAME` adds this model.
    Take(T),
    /// `-NAME` removes this model.
    Leave(T),
}

/// A value that can be selected by name.
pub(super) trait Candidate: Clone + PartialEq {
    /// Returns the value of this name.
    ///
    /// # Errors
    /// The name is unknown; the message lists the known names.
    fn named(name: &str) -> Result<Self, String>;

    /// Returns the value that `all` selects for this model.
    fn of(model: Model) -> Self;
}

impl Candidate for Model {
    fn named(name: &str) -> Result<Model, String> {
        match name.parse() {
            Ok(Choice::Model(model)) => Ok(model),
            Ok(Choice::Auto) => Err("`auto` is not possible here: name a model".to_owned()),
            Err(_) => {
                let names = Model::ALL.map(Model::name).join(", ");
                Err(format!("unknown model {name:?}: use one of {names}"))
            }
        }
    }

    fn of(model: Model) -> Model {
        model
    }
}

/// `NAME+trace` and `NAME` are different values.
impl Candidate for ModelSpec {
    fn named(name: &str) -> Result<ModelSpec, String> {
        let variant = ModelSpec::from(name);
        if variant.model == "all" && variant.recorded {
            return Err(format!("name each model to record, for example uring{RECORDED}"));
        }
        Model::named(&variant.model).map(|_| variant)
    }

    fn of(model: Model) -> ModelSpec {
        model.name().into()
    }
}

impl<T: Candidate> FromStr for Pick<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Pick<T>, String> {
        match (text, text.strip_prefix('-')) {
            ("all", _) => Ok(Pick::All),
            (_, Some(left)) => T::named(left).map(Pick::Leave),
            (_, None) => T::named(text).map(Pick::Take),
        }
        .map_err(|why| format!("{why} (or all; -NAME removes one)"))
    }
}

/// Applies the words in order. Returns each selected value once, in the order of its first word.
pub(super) fn picked<T: Candidate>(picks: &[Pick<T>]) -> Vec<T> {
    let mut taken: Vec<T> = Vec::new();
    let take = |taken: &mut Vec<T>, one: T| {
        if !taken.contains(&one) {
            taken.push(one);
        }
    };
    for pick in picks {
        match pick {
            Pick::All => Model::ALL.map(T::of).into_iter().for_each(|one| take(&mut taken, one)),
            Pick::Take(one) => take(&mut taken, one.clone()),
            Pick::Leave(left) => taken.retain(|one| one != left),
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(words: &str) -> Vec<Model> {
        let picks: Vec<Pick<Model>> =
            words.split(',').map(|word| word.parse().expect("a word")).collect();
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
            wrong.parse::<Pick<Model>>().expect_err(wrong);
            wrong.parse::<Pick<ModelSpec>>().expect_err(wrong);
        }
        let error = "kqueue".parse::<Pick<Model>>().expect_err("no such model");
        for known in Model::ALL.map(Model::name).into_iter().chain(["all", "kqueue"]) {
            assert!(error.contains(known), "{known} is missing: {error}");
        }
    }

    #[test]
    fn a_model_that_is_recorded_is_picked_and_left_out_by_its_own_name() {
        let names = |words: &str| -> Vec<String> {
            let picks: Vec<_> =
                words.split(',').map(|word| word.parse().expect("a word")).collect();
            picked::<ModelSpec>(&picks).iter().map(ModelSpec::to_string).collect()
        };
        assert_eq!(names("thread+trace,thread,thread+trace"), ["thread+trace", "thread"]);
        assert_eq!(names("poll,poll+trace,-poll"), ["poll+trace"]);
        let error = "kqueue+trace".parse::<Pick<ModelSpec>>().expect_err("no such model");
        assert!(error.contains("\"kqueue\""), "{error}");
        "poll+trace".parse::<Pick<Model>>().expect_err("nothing can be recorded here");
    }
}
