//! What the pages of the repository point to within it is there: links with their anchors, and paths in code.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a path that is told begins with, unless it is one below `src`.
const FOLDERS: [&str; 8] =
    [".ci/", "benches/", "crates/", "docs/", "packaging/", "system-tests/", "src/", "tests/"];
const ENDINGS: [&str; 6] = [".rs", ".py", ".md", ".toml", ".json", ".yml"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each page with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let in_folder = |folder: &Path| {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect::<Vec<_>>()
    };
    let paths = [in_folder(root()), in_folder(&root().join("docs"))].concat();
    assert!(paths.len() >= 5, "{paths:?}");
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The text without its blocks of code, in which links are none.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The anchors that a page has, by its headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text);
    let headings =
        prose.lines().filter_map(|line| line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' '));
    let letter = |letter: char| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ => letter.is_alphanumeric().then(|| letter.to_ascii_lowercase()),
    };
    headings.map(|heading| heading.chars().filter_map(letter).collect()).collect()
}

#[test]
fn every_link_into_the_repository_leads_somewhere() {
    for (page, text) in pages() {
        for link in prose(&text).split("](").skip(1) {
            let (link, _) = link.split_once(')').unwrap();
            if link.starts_with("https://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: there is no {link}", page.display());
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&target).unwrap());
                assert!(anchors.contains(anchor), "{}: {link} leads to none of {anchors:?}", page.display());
            }
        }
    }
}

/// The paths that a page tells in code, up to what is left open by a star.
fn told_paths(text: &str) -> Vec<&str> {
    let code = text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
    let blocks = text.split("```").skip(1).step_by(2).flat_map(str::split_whitespace);
    let words = code.chain(blocks).map(|word| word.split("::").next().unwrap_or(word));
    let is_path = |word: &&str| {
        FOLDERS.iter().any(|folder| word.starts_with(folder))
            || (word.contains('/') && !word.contains(':') && !word.starts_with(['/', '<', '-']))
                && ENDINGS.iter().any(|ending| word.ends_with(ending))
    };
    words.filter(is_path).filter_map(|word| word.split('*').next()).collect()
}

#[test]
fn every_path_that_is_told_is_there() {
    let mut count = 0;
    for (page, text) in pages() {
        for path in told_paths(&text) {
            count += 1;
            let is_there = root().join(path).exists() || root().join("src").join(path).exists();
            assert!(is_there, "{}: there is no {path}", page.display());
        }
    }
    assert!(count > 30, "only {count} paths were seen");
}
