//! Passes the version and the commit of the source to the compiler, for `rendezvous --version`.
//!
//! There is no commit if git is missing, or if the source is not part of a repository: a package, a tarball, or a copy inside another
//! repository.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// Hexadecimal digits of the commit that are shown.
const DIGITS: usize = 12;

fn main() -> io::Result<()> {
    let mut cargo = io::stdout().lock();
    writeln!(cargo, "cargo::rerun-if-changed=build.rs")?;
    let version = env!("CARGO_PKG_VERSION");
    let Some(commit) = commit() else {
        return writeln!(cargo, "cargo::rustc-env=VERSION={version}");
    };
    // If a file does not exist, cargo runs this script every time.
    for path in files_of_head().iter().filter(|path| Path::new(path).exists()) {
        writeln!(cargo, "cargo::rerun-if-changed={path}")?;
    }
    writeln!(cargo, "cargo::rustc-env=VERSION={version} ({commit})")
}

/// Returns the commit that is checked out; `None` if this file is not part of its repository.
fn commit() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", "HEAD"])?;
    commit.get(..DIGITS).map(str::to_owned)
}

/// Returns the files that change when a commit is made or checked out: `HEAD`, its branch as a file or in `packed-refs`, and the log of
/// `HEAD`.
fn files_of_head() -> Vec<String> {
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]);
    let names = ["HEAD", "packed-refs", "logs/HEAD"].into_iter().chain(branch.as_deref());
    names.filter_map(|name| git(&["rev-parse", "--git-path", name])).collect()
}

/// Returns the output of git, or `None` if it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // Git sets these for its hooks. A hook of another repository may run this build.
    for variable in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"] {
        command.env_remove(variable);
    }
    let output = command.args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
