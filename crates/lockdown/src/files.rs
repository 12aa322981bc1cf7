//! No files and no connections: Landlock, which needs no privileges.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictSelfAttr, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest version that is known: of it, a kernel enforces what it has.
const NEWEST: ABI = ABI::V10;

/// Forbids this process to open, make, change or run any file, and to bind or connect a TCP socket
/// or to connect to an abstract Unix socket. What is open stays usable. Files may be removed in the
/// folders of `removable`. Returns the version of Landlock that enforces it.
///
/// # Errors
/// The kernel has no Landlock (Linux 5.13), or it is not enabled.
pub fn forbid_files(removable: &[PathBuf]) -> Result<String, String> {
    let status = restrict(removable).map_err(|error| format!("Landlock: {error}"))?;
    match (status.landlock, status.ruleset) {
        (LandlockStatus::NotImplemented, _) => Err("Landlock needs Linux 5.13".into()),
        (LandlockStatus::Available { effective_abi, kernel_abi }, enforced)
            if enforced != RulesetStatus::NotEnforced =>
        {
            let known = || i32::from(effective_abi as u8);
            Ok(format!("Landlock ABI {}", kernel_abi.unwrap_or_else(known)))
        }
        _ => Err("Landlock is not enabled (see the kernel's parameter lsm=)".into()),
    }
}

fn restrict(removable: &[PathBuf]) -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        // Not `Scope::Signal`: children of before would outlive this process (PR_SET_PDEATHSIG).
        .scope(Scope::AbstractUnixSocket)?
        .create()?
        .add_rules(path_beneath_rules(removable, AccessFs::RemoveFile))?
        .all_threads(true)?
        .restrict_self()
}
