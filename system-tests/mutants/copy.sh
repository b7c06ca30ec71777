# shellcheck shell=bash
# Sourced by the runners that break the server on purpose: a copy of HEAD to patch, and builds apart from the real ones. One runner
# at a time has it.

CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/mutants
export CARGO_TARGET_DIR
mkdir -p "$CARGO_TARGET_DIR"
exec 9>"$CARGO_TARGET_DIR/lock"
flock 9
copy=$CARGO_TARGET_DIR/copy
# In the copy git is not to find the repository around it, relative to which it would take the paths of a patch.
export GIT_CEILING_DIRECTORIES=$CARGO_TARGET_DIR
rm -rf "$copy"
mkdir -p "$copy"
# With today's times, so that cargo does not take what it built of the last patch for what is built of this.
git archive HEAD | tar -xm -C "$copy"

# with_patch PATCH COMMAND...: runs the command in the copy while the patch is applied. Its files are newer than what was built
# before, there and back.
with_patch() {
    local patch=$1 code=0
    shift
    git -C "$copy" apply "$patch" || return 2
    (cd "$copy" && "$@") || code=$?
    git -C "$copy" apply --reverse "$patch"
    return $code
}
