//! Names that a peer chose: made safe, or judged. Pure.
//!
//! *Invariants.* [`sanitized`] returns one component of 1–255 bytes that is neither hidden nor leads elsewhere. A link for which
//! [`leads_out`] is false resolves within its tree, whatever other such links the tree has.

/// Maximum length of a name in bytes, as in most file systems.
pub(crate) const MAX_NAME: usize = 255;

/// Returns a name that can be used in any directory: separators, control characters, marks that reorder text and leading dots become `_`,
/// a name that Windows reserves for a device gets `_` before it, and what is longer than 255 bytes loses the end of its stem.
pub(crate) fn sanitized(name: &str) -> String {
    let dots = name.bytes().take_while(|byte| *byte == b'.').count();
    let mut safe: String = name
        .chars()
        .enumerate()
        .map(|(index, character)| if index < dots || is_unsafe(character) { '_' } else { character })
        .collect();
    if is_device(&safe) {
        safe.insert(0, '_');
    }
    if safe.is_empty() {
        safe.push('_');
    }
    shortened(&safe, MAX_NAME)
}

/// Returns the name in at most `limit` bytes. The extension stays, if it has at most 16 bytes.
pub(crate) fn shortened(name: &str, limit: usize) -> String {
    if name.len() <= limit {
        return name.to_owned();
    }
    let (stem, extension) = split_extension(name);
    let stem_limit = limit.saturating_sub(extension.len());
    let end = stem.floor_char_boundary(stem_limit);
    format!("{}{extension}", stem.get(..end).unwrap_or_default())
}

/// Splits a name before the dot of its extension. The extension is empty if it is longer than 16 bytes, or the name begins with the dot.
pub(crate) fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= 17 => name.split_at(dot),
        _ => (name, ""),
    }
}

/// Tells whether a symbolic link leads out of its tree, or might with the help of other links. `depth` is the number of directories between
/// the link and the root of the tree.
///
/// `..` is allowed at the start only, where the link's own directories, which are no links, are left. Behind a name, which may be a link
/// itself, `..` could lead anywhere.
pub(crate) fn leads_out(target: &[u8], depth: usize) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.contains(&0) {
        return true;
    }
    let mut components = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let ups = components.by_ref().take_while(|part| *part == b"..").count();
    // `take_while` has also consumed the first name; only `..` matters in what follows.
    ups > depth || components.any(|part| part == b"..")
}

fn is_unsafe(character: char) -> bool {
    let reorders = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    let breaks_line = matches!(character, '\u{2028}' | '\u{2029}');
    character.is_control() || reorders || breaks_line || matches!(character, '/' | '\\')
}

/// Tells whether Windows would open a device for this name, with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    match stem.as_str() {
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" => true,
        _ => ["COM", "LPT"].iter().any(|device| {
            stem.strip_prefix(device).is_some_and(|number| {
                matches!(number.chars().collect::<Vec<_>>()[..], ['0'..='9' | '¹' | '²' | '³'])
            })
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_names_become_harmless_and_others_stay() {
        for (name, safe) in [
            ("report.pdf", "report.pdf"),
            ("two words 'and' \"quotes\".txt", "two words 'and' \"quotes\".txt"),
            ("Übergröße 東京 👩‍🚀.tar.gz", "Übergröße 東京 👩‍🚀.tar.gz"),
            ("", "_"),
            (".", "_"),
            ("..", "__"),
            ("../../etc/passwd", "___.._etc_passwd"),
            ("/etc/passwd", "_etc_passwd"),
            ("..\\..\\boot.ini", "___.._boot.ini"),
            (".ssh", "_ssh"),
            ("...hidden", "___hidden"),
            ("a\nb\r\tc\0d\u{7f}e\u{9b}2J", "a_b__c_d_e_2J"),
            ("exe.\u{202e}fdp.scr", "exe._fdp.scr"),
            ("a\u{200e}\u{200f}\u{61c}\u{2066}\u{2069}b", "a_____b"),
            ("CON", "_CON"),
            ("con.txt", "_con.txt"),
            ("Lpt9 .log", "_Lpt9 .log"),
            ("com¹", "_com¹"),
            ("conin$", "_conin$"),
            ("COM10", "COM10"),
            ("console", "console"),
        ] {
            assert_eq!(sanitized(name), safe, "{name:?}");
        }
    }

    #[test]
    fn a_long_name_keeps_its_extension() {
        let long = format!("{}.sql", "é".repeat(200));
        let safe = sanitized(&long);
        assert!(safe.ends_with("é.sql"), "{safe}");
        assert!(safe.len() <= 255 && safe.len() > 250, "{}", safe.len());
        assert_eq!(sanitized(&"x".repeat(1000)).len(), 255);
    }

    #[test]
    fn links_that_leave_their_tree_are_told_from_others() {
        for (target, depth, out) in [
            ("file", 0, false),
            ("a/b/c", 0, false),
            ("./a", 0, false),
            ("../a", 1, false),
            (".././../a", 2, false),
            ("..", 1, false),
            ("a/..b/...", 0, false),
            ("", 0, true),
            ("/", 3, true),
            ("/etc/passwd", 3, true),
            ("..", 0, true),
            ("../..", 1, true),
            (".//..//../a", 1, true),
            // `a` may be a link to the root of the tree.
            ("a/../b", 2, true),
            ("a/..", 5, true),
            ("../a/b/../c", 2, true),
        ] {
            assert_eq!(leads_out(target.as_bytes(), depth), out, "{target} at {depth}");
        }
    }

    proptest! {
        #[test]
        fn every_name_becomes_one_visible_component(name in any::<String>()) {
            let safe = sanitized(&name);
            prop_assert!((1..=255).contains(&safe.len()));
            prop_assert!(!safe.starts_with('.') && !safe.contains(['/', '\\']), "{:?}", safe);
            prop_assert!(!safe.chars().any(char::is_control), "{:?}", safe);
            prop_assert_eq!(sanitized(&safe), safe.clone(), "a safe name stays");
        }
    }
}
