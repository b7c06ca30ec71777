# shellcheck shell=bash
# Sourced by the runners that break the server on purpose: makes a copy of HEAD to patch, with a build directory of its own. A lock lets one
# runner at a time use it.

CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/mutants
export CARGO_TARGET_DIR
mkdir -p "$CARGO_TARGET_DIR"
exec 9>"$CARGO_TARGET_DIR/lock"
flock 9
copy=$CARGO_TARGET_DIR/copy
# Without this, git finds the repository around the copy and takes the paths of a patch relative to it.
export GIT_CEILING_DIRECTORIES=$CARGO_TARGET_DIR
rm -rf "$copy"
mkdir -p "$copy"
# tar -m sets the current time, so that cargo rebuilds files that the last runner had patched.
git archive HEAD | tar -xm -C "$copy"

# with_patch PATCH COMMAND...: runs the command in the copy with the patch applied, then reverts the patch. git writes the files with the
# current time, so cargo rebuilds them both times.
with_patch() {
    local patch=$1 code=0
    shift
    git -C "$copy" apply "$patch" || return 2
    (cd "$copy" && "$@") || code=$?
    git -C "$copy" apply --reverse "$patch"
    return $code
}
