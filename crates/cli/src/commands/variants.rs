//! The variants of the ring that `compare` measures: what an older kernel had, or less a feature.

use std::sync::OnceLock;

use proactor::ring::kernel::{self, Kernel, Version};
use proactor_compare::plan::ModelSpec;

/// Returns the variants of the ring without what each kernel brought, up to the running one.
pub(super) fn of_kernels() -> Vec<ModelSpec> {
    let first = Version { major: 5, minor: 6 };
    let since = kernel::SINCE.iter().map(|(since, _)| *since);
    let known = since.filter(|since| Version::running().is_none_or(|it| *since <= it));
    let mut all: Vec<Version> = std::iter::once(first).chain(known).collect();
    // The newest is what the baseline uses.
    all.pop();
    all.into_iter().rev().map(|tier| format!("uring@{tier}").as_str().into()).collect()
}

/// Returns the variants of the ring without one feature, of those that a server uses here. Where
/// io_uring cannot be used, there is none, and the baseline says why.
pub(super) fn of_features() -> Vec<ModelSpec> {
    let used = here().into_iter().flat_map(Kernel::in_use);
    used.map(|it| ModelSpec { without: Some(it), ..ModelSpec::from("uring") }).collect()
}

/// Returns what the ring has here, or `None` if it cannot be used. It is looked for once: a server
/// is started in each block.
fn here() -> Option<Kernel> {
    static HERE: OnceLock<Option<Kernel>> = OnceLock::new();
    *HERE.get_or_init(|| Kernel::detect().ok())
}

/// Returns why a variant is the same server as one that has less in its name: its row would be a
/// comparison of a server with itself that does not say so.
pub(super) fn is_none(spec: &ModelSpec) -> Option<String> {
    if spec.kernel.is_none() && spec.without.is_none() {
        return None;
    }
    // What cannot be used, or not so, the server itself refuses.
    is_none_of(here()?, spec)
}

fn is_none_of(whole: Kernel, spec: &ModelSpec) -> Option<String> {
    let ceiling = spec.kernel.as_ref().and_then(|kernel| kernel.parse().ok());
    let lowered = ceiling.map_or(Some(whole), |it| whole.lowered_to(it).ok())?;
    if ceiling.is_some() && lowered == whole {
        let uring = ModelSpec { kernel: None, ..spec.clone() };
        return Some(format!("it is the server of {uring}: this kernel has nothing newer"));
    }
    let feature = spec.without?;
    let because = match lowered.unused(feature) {
        _ if !lowered.has(feature) => "it is not there",
        why => why?,
    };
    let uring = ModelSpec { without: None, ..spec.clone() };
    Some(format!("it is the server of {uring}, which does not use {}: {because}", feature.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_that_is_no_other_server_says_which_one_it_is() {
        let whole = here().unwrap_or(Kernel::OLDEST);
        let says = |name: &str| is_none_of(whole, &name.into());
        let newest = says("uring@999.0+trace").expect("no kernel is newer");
        assert!(newest.starts_with("it is the server of uring+trace:"), "{newest}");
        let accept = says("uring-ACCEPT_MULTISHOT").expect("no server uses it");
        assert!(accept.starts_with("it is the server of uring, which"), "{accept}");
        let oldest = says("uring@5.6-RECV_MULTISHOT").expect("5.6 did not have it");
        assert!(oldest.starts_with("it is the server of uring"), "{oldest}");
        assert_eq!(says("uring@5.6").is_some(), whole == Kernel::OLDEST);
        assert!(of_features().iter().all(|spec| is_none(spec).is_none()));
        assert_eq!(is_none(&"epoll+trace".into()), None);
    }
}
