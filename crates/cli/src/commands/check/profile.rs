//! The seccomp profile of a server, for container engines and for systemd, from one list.

use serde_json::json;

/// The calls of `serve` on every model, one in each line; `#` begins a comment.
const LIST: &str = include_str!("syscalls.txt");

/// The format of a profile.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Format {
    /// JSON for Docker, Podman, containerd, CRI-O and Kubernetes
    Oci,
    /// A drop-in of a unit
    Systemd,
}

/// Returns the profile.
pub(super) fn text(format: Format) -> String {
    match format {
        Format::Oci => oci(),
        Format::Systemd => systemd(),
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    let lines = LIST.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(str::split_whitespace)
}

fn oci() -> String {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{ "names": names().collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW" }],
    });
    format!("{profile:#}\n")
}

/// Calls in a line of a unit.
const IN_LINE: usize = 8;

fn systemd() -> String {
    let mut text = include_str!("unit.txt").to_owned();
    for names in names().collect::<Vec<_>>().chunks(IN_LINE) {
        text += &format!("SystemCallFilter={}\n", names.join(" "));
    }
    text
}
