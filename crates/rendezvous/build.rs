//! Passes the version and the commit of the source to the compiler, for `rendezvous --version`.
//!
//! The version stands alone where git is missing, and where the source is not part of a repository: a package, a tarball, or a copy
//! inside of another repository.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// Digits of the commit.
const DIGITS: usize = 12;

fn main() -> io::Result<()> {
    let mut cargo = io::stdout().lock();
    writeln!(cargo, "cargo::rerun-if-changed=build.rs")?;
    let version = env!("CARGO_PKG_VERSION");
    let Some(commit) = commit() else {
        return writeln!(cargo, "cargo::rustc-env=VERSION={version}");
    };
    // A file that is missing would have cargo run this script every time.
    for path in files_of_head().iter().filter(|path| Path::new(path).exists()) {
        writeln!(cargo, "cargo::rerun-if-changed={path}")?;
    }
    writeln!(cargo, "cargo::rustc-env=VERSION={version} ({commit})")
}

/// The commit that is checked out, if its repository has this file.
fn commit() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", "HEAD"])?;
    commit.get(..DIGITS).map(str::to_owned)
}

/// The files that change when another commit is checked out or made: the name of the branch, the branch, loose or packed, and the
/// log of both.
fn files_of_head() -> Vec<String> {
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]);
    let names = ["HEAD", "packed-refs", "logs/HEAD"].into_iter().chain(branch.as_deref());
    names.filter_map(|name| git(&["rev-parse", "--git-path", name])).collect()
}

/// What git prints, or `None` if it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // A hook that builds has these set, for its own repository.
    for variable in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"] {
        command.env_remove(variable);
    }
    let output = command.args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
