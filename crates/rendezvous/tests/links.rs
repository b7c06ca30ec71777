//! Checks the pages of the repository: each link leads to a file and an anchor, and each path in code exists.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders with which a path in code may begin.
const FOLDERS: [&str; 6] = [".ci/", "crates/", "docs/", "fuzz/", "packaging/", "system-tests/"];
/// The endings of paths in code that begin otherwise.
const ENDINGS: [&str; 6] = [".rs", ".py", ".md", ".toml", ".json", ".yml"];
/// The folders with pages.
const PAGES: [&str; 4] = ["", "docs", "fuzz", "packaging"];

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns each page with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let in_folder = |folder: &str| {
        let paths = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect::<Vec<_>>()
    };
    let paths: Vec<_> = PAGES.into_iter().flat_map(in_folder).collect();
    assert!(paths.len() >= 15, "{paths:?}");
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// Returns the text without its blocks of code, which contain no links.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Returns the anchors of a page's headings, by the rules of GitHub.
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

/// Returns the paths that a page names in code, up to a star or a placeholder. Paths below `target` are left out, because they exist only
/// after a build.
fn named_paths(text: &str) -> Vec<&str> {
    let code = text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
    let blocks = text.split("```").skip(1).step_by(2).flat_map(str::split_whitespace);
    let words = code.chain(blocks).map(|word| word.split("::").next().unwrap_or(word));
    let is_path = |word: &&str| {
        FOLDERS.iter().any(|folder| word.starts_with(folder))
            || (word.contains('/') && !word.contains(':') && !word.starts_with(['/', '<', '-', '$', '~']))
                && ENDINGS.iter().any(|ending| word.ends_with(ending))
    };
    let paths = words.filter(is_path).filter(|path| !path.contains("/target/"));
    paths.filter_map(|path| path.split(['*', '<']).next()).collect()
}

/// A path is relative to the root, or to the page.
#[test]
fn every_path_in_code_exists() {
    let mut count = 0;
    for (page, text) in pages() {
        for path in named_paths(&text) {
            count += 1;
            let exists = root().join(path).exists() || page.parent().unwrap().join(path).exists();
            assert!(exists, "{}: there is no {path}", page.display());
        }
    }
    assert!(count > 30, "only {count} paths were seen");
}

#[test]
fn the_index_has_every_page() {
    let index = root().join("docs/README.md");
    let text = fs::read_to_string(&index).unwrap();
    let linked: BTreeSet<_> = text
        .split("](")
        .skip(1)
        .map(|link| link.split([')', '#']).next().unwrap())
        .map(|link| index.parent().unwrap().join(link).canonicalize().unwrap())
        .collect();
    for (page, _) in pages().into_iter().filter(|(page, _)| *page != index) {
        assert!(linked.contains(&page.canonicalize().unwrap()), "{} is not in the index", page.display());
    }
}
