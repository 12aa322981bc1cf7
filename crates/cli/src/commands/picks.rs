//! `--models`: a selection of I/O models.

use std::str::FromStr;

use proactor::Model;
use proactor::ring::kernel::Version;
use proactor_compare::plan::{ModelSpec, RECORDED};
use proactor_models::{ALL, choose};

/// One word of `--models`; words are separated by commas. `all` adds every model, `NAME` adds this
/// model, and `-NAME` removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pick {
    removes: bool,
    specs: Vec<ModelSpec>,
}

/// Parses a model by its name; `NAME+trace` and `NAME` are different models, and so are
/// `uring@KERNEL` and `uring-FEATURE`.
///
/// # Errors
/// The name is unknown; the message lists the known names.
pub(super) fn named(name: &str) -> Result<ModelSpec, String> {
    let spec = ModelSpec::from(name);
    if let Some(kernel) = &spec.kernel {
        kernel.parse::<Version>().map_err(|wrong| format!("{name}: {wrong}"))?;
    }
    match choose(&spec.model) {
        Ok(Some(model)) if uses_less(&spec) && model != Model::URING => {
            Err(format!("{name}: {model} does not use io_uring, whose features @ and - select"))
        }
        Ok(Some(_)) => Ok(spec),
        Ok(None) => Err("`auto` is not possible here: name a model".to_owned()),
        Err(_) if spec.recorded && spec.model == "all" => {
            Err(format!("name each model to record, for example uring{RECORDED}"))
        }
        Err(_) => {
            let names = ALL.map(Model::name).join(", ");
            Err(format!("unknown model {:?}: use one of {names}", spec.model))
        }
    }
}

/// Returns whether a server uses less of io_uring than it could.
fn uses_less(spec: &ModelSpec) -> bool {
    spec.kernel.is_some() || spec.without.is_some()
}

impl FromStr for Pick {
    type Err = String;

    fn from_str(text: &str) -> Result<Pick, String> {
        let (removes, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        if text == "all" {
            return Ok(Pick { removes, specs: ALL.map(|model| model.name().into()).to_vec() });
        }
        let spec = named(name).map_err(|why| format!("{why} (or all; -NAME removes one)"))?;
        Ok(Pick { removes, specs: vec![spec] })
    }
}

/// Parses a word of `--models` where nothing is recorded into a file.
pub(super) fn unrecorded(text: &str) -> Result<Pick, String> {
    let pick: Pick = text.parse()?;
    match pick.specs.iter().find(|spec| spec.recorded || uses_less(spec)) {
        Some(spec) => Err(format!("only compare takes {text}: write {}", spec.model)),
        None => Ok(pick),
    }
}

/// Applies the words in order. Returns each selected model once, in the order of its first word.
pub(super) fn picked(picks: &[Pick]) -> Vec<ModelSpec> {
    let mut taken: Vec<ModelSpec> = Vec::new();
    for Pick { removes, specs } in picks {
        let (known, new): (Vec<_>, Vec<_>) = specs.iter().partition(|it| taken.contains(it));
        match removes {
            true => taken.retain(|it| !known.contains(&it)),
            false => taken.extend(new.into_iter().cloned()),
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &str) -> Vec<String> {
        let picks: Vec<Pick> = words.split(',').map(|word| word.parse().expect("a word")).collect();
        picked(&picks).iter().map(ModelSpec::to_string).collect()
    }

    #[test]
    fn all_are_all_and_a_hyphen_leaves_one_out() {
        assert_eq!(names("all"), ALL.map(Model::name));
        let without = names("all,-process,-uring");
        assert_eq!(without.len(), ALL.len() - 2);
        assert!(!without.iter().any(|name| ["process", "uring"].contains(&&**name)));
        assert_eq!(names("poll,all,-poll,poll,epoll").last().expect("a model"), "poll");
        assert_eq!(names("poll,poll"), ["poll"]);
        for wrong in ["kqueue", "-kqueue", "auto", "", "-", "-all"] {
            wrong.parse::<Pick>().expect_err(wrong);
            unrecorded(wrong).expect_err(wrong);
        }
        let error = "kqueue".parse::<Pick>().expect_err("no such model");
        for known in ALL.map(Model::name).into_iter().chain(["all", "kqueue"]) {
            assert!(error.contains(known), "{known} is missing: {error}");
        }
    }

    #[test]
    fn a_model_that_is_recorded_is_picked_and_left_out_by_its_own_name() {
        assert_eq!(names("thread+trace,thread,thread+trace"), ["thread+trace", "thread"]);
        assert_eq!(names("poll,poll+trace,-poll"), ["poll+trace"]);
        let error = "kqueue+trace".parse::<Pick>().expect_err("no such model");
        assert!(error.contains("\"kqueue\""), "{error}");
        unrecorded("poll+trace").expect_err("nothing is recorded here");
        assert_eq!(
            names("uring@5.6,uring@5.6+trace,uring"),
            ["uring@5.6", "uring@5.6+trace", "uring"]
        );
        assert_eq!(names("uring-recv_multishot,-uring"), ["uring-RECV_MULTISHOT"]);
        for wrong in ["epoll@5.6", "uring@", "uring@new", "epoll-RECV_MULTISHOT", "uring-IOPOLL"] {
            wrong.parse::<Pick>().expect_err(wrong);
        }
        unrecorded("uring@5.6").expect_err("only compare takes it");
    }
}
