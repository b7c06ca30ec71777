//! Each target holds for all that fuzzing has found worth keeping.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use crate::targets::TARGETS;

/// The inputs for a target: found to reach something new, and found to break something once.
fn inputs(target: &str) -> Vec<PathBuf> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let folders = ["corpus", "regressions"].map(|folder| fuzz.join(folder).join(target));
    let listed = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let mut inputs: Vec<_> = listed.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    inputs
}

fn holds(name: &str) {
    let (_, hold) = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    let inputs = inputs(name);
    assert!(!inputs.is_empty(), "{name} has no corpus");
    for input in inputs {
        let data = fs::read(&input).unwrap();
        assert!(catch_unwind(|| hold(&data)).is_ok(), "{name} does not hold for {}", input.display());
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                holds(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_a_test_here_and_a_target_there() {
            let names = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|(name, _)| name), names);
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
            let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            let mut stems: Vec<_> = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
            stems.sort_by_key(|stem| names.iter().position(|name| name == stem));
            assert_eq!(stems, names);
        }
    };
}

targets! { head chunked frames forwarded json slot connection }
