//! The secret that the nodes of a cluster share, and messages that it authenticates (HMAC-SHA-256, RFC 2104).
//!
//! *Invariants.* [`Secrets`] has no `Display`, its `Debug` shows nothing of it, and codes are compared in constant time. Each kind of
//! message has a label of its own, and its parts are preceded by their lengths, so that no message can be taken for another.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// The length of a code in bytes.
pub(crate) const CODE_BYTES: usize = 32;

/// The shared secret, and during a rotation a second one that is valid too.
///
/// To rotate: add the new secret as the second line everywhere, then make it the first line everywhere, then remove the old one. Messages
/// are signed with the first and accepted with either.
///
/// ```
/// use rendezvous_cluster::Secrets;
///
/// assert!(Secrets::parse("4f1d7a33e6cb4a27a5f6c0d58a1be903\n").is_ok());
/// assert!(Secrets::parse("correct horse").is_err());
/// ```
pub struct Secrets {
    first: hmac::Key,
    second: Option<hmac::Key>,
}

/// The secret file cannot be used. The messages do not quote its content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no such file.
    #[error("there is no {path:?} with the cluster's secret: {MAKE_ONE}, and copy it to every node")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read the cluster's secret in {path:?}: it must be readable for the user of the server")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The content is not one or two secrets.
    #[error("{path:?} holds no secret of a cluster")]
    Content {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: BadSecret,
    },
}

/// Why a text is not one or two secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// There is no line, or there are more than two.
    #[error("it has {0} lines: one secret, and during a rotation the other one on a second line")]
    Lines(usize),
    /// A line is shorter than 32 characters, so the secret could be guessed.
    #[error(
        "line {line} has {length} characters, and must have at least {MIN_CHARACTERS} that cannot be \
        guessed: {MAKE_ONE}"
    )]
    TooShort {
        /// The line, from 1.
        line: usize,
        /// Its length in characters.
        length: usize,
    },
    /// The file is larger than 4 KiB, or is not text.
    #[error("it is not a short text of one or two lines: {MAKE_ONE}")]
    NotText,
    /// Both lines are the same.
    #[error("both lines are the same secret: during a rotation one is the new and one the old secret")]
    Same,
}

/// Minimum length of a secret: as 32 hexadecimal digits it has 128 bits.
const MIN_CHARACTERS: usize = 32;
/// Maximum size of the file in bytes.
const MAX_BYTES: usize = 4096;
const MAKE_ONE: &str = "make one with: head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' >FILE";

impl Secrets {
    /// Reads the secrets from a file. Blocks.
    ///
    /// # Errors
    /// [`SecretError`] if the file cannot be read, or does not hold one or two secrets.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        // Allocated at once, so that no copy of the secret is left behind by a growing buffer.
        let mut content = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
        let limit = u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX);
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut content)).map_err(|source| {
            match source.kind() {
                io::ErrorKind::NotFound => SecretError::Missing { path: path.to_owned() },
                _ => SecretError::Read { path: path.to_owned(), source },
            }
        })?;
        let text = std::str::from_utf8(&content).map_err(|_| BadSecret::NotText);
        text.and_then(Self::parse).map_err(|source| SecretError::Content { path: path.to_owned(), source })
    }

    /// Parses one or two lines of at least 32 characters each, of any text: hexadecimal digits are not decoded. Empty lines, and spaces
    /// around a secret, do not count.
    ///
    /// # Errors
    /// [`BadSecret`] if there are no lines or too many, or one is too short.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        if text.len() > MAX_BYTES || text.contains('\0') {
            return Err(BadSecret::NotText);
        }
        let lines = || text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        for (at, line) in lines() {
            let length = line.chars().count();
            if length < MIN_CHARACTERS {
                return Err(BadSecret::TooShort { line: at + 1, length });
            }
        }
        let key = |line: &str| hmac::Key::new(hmac::HMAC_SHA256, line.as_bytes());
        let mut secrets = lines().map(|(_, line)| line);
        match (secrets.next(), secrets.next(), secrets.count()) {
            (Some(first), None, _) => Ok(Self { first: key(first), second: None }),
            (Some(first), Some(second), 0) if first == second => Err(BadSecret::Same),
            (Some(first), Some(second), 0) => Ok(Self { first: key(first), second: Some(key(second)) }),
            _ => Err(BadSecret::Lines(lines().count())),
        }
    }

    /// Returns the code of a message by the first secret.
    pub(crate) fn sign(&self, label: &str, parts: &[&[u8]]) -> [u8; CODE_BYTES] {
        let mut code = [0; CODE_BYTES];
        for (to, from) in code.iter_mut().zip(hmac::sign(&self.first, &message(label, parts)).as_ref()) {
            *to = *from;
        }
        code
    }

    /// Returns whether one of the secrets yields this code for the message.
    pub(crate) fn verify(&self, label: &str, parts: &[&[u8]], code: &[u8]) -> bool {
        let message = message(label, parts);
        let keys = [Some(&self.first), self.second.as_ref()];
        keys.into_iter().flatten().any(|key| hmac::verify(key, &message, code).is_ok())
    }
}

/// The bytes that a code covers: the label and the parts, each after its length.
fn message(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::new();
    for part in [label.as_bytes()].iter().chain(parts) {
        message.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", if self.second.is_some() { "two" } else { "one" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "a passphrase of more than 32 characters";

    fn secrets(lines: &[&str]) -> Secrets {
        Secrets::parse(&lines.join("\n")).unwrap()
    }

    #[test]
    fn a_rotation_in_three_steps_is_never_out_of_step_with_a_neighbour() {
        let steps = [&[OLD][..], &[OLD, NEW], &[NEW, OLD], &[NEW]];
        for neighbours in steps.windows(2) {
            let [one, other] = [secrets(neighbours[0]), secrets(neighbours[1])];
            for (from, to) in [(&one, &other), (&other, &one), (&one, &one)] {
                assert!(to.verify("test", &[b"x"], &from.sign("test", &[b"x"])), "{neighbours:?}");
            }
        }
        let (first, last) = (secrets(steps[0]), secrets(steps[3]));
        assert!(!last.verify("test", &[b"x"], &first.sign("test", &[b"x"])));
    }

    #[test]
    fn a_code_is_valid_for_its_label_and_parts_only() {
        let secrets = secrets(&[OLD]);
        let code = secrets.sign("label", &[b"one", b"two"]);
        assert!(secrets.verify("label", &[b"one", b"two"], &code));
        let others: [(&str, &[&[u8]]); 5] = [
            ("labe", &[b"lone", b"two"]),
            ("label", &[b"onet", b"wo"]),
            ("label", &[b"onetwo"]),
            ("label", &[b"one", b"two", b""]),
            ("label", &[b"one", b"twO"]),
        ];
        for (label, parts) in others {
            assert!(!secrets.verify(label, parts, &code), "{label} {parts:?}");
        }
        assert!(!secrets.verify("label", &[b"one", b"two"], &code[..31]));
        assert!(!secrets.verify("label", &[b"one", b"two"], &[]));
    }

    #[test]
    fn the_lines_of_a_secret_file() {
        let cases = [
            (String::new(), Err(BadSecret::Lines(0))),
            ("\n \n".into(), Err(BadSecret::Lines(0))),
            (format!("{OLD}\n{NEW}\n{OLD}x\n"), Err(BadSecret::Lines(3))),
            (OLD[1..].into(), Err(BadSecret::TooShort { line: 1, length: 31 })),
            (format!("{OLD}\n\nshort"), Err(BadSecret::TooShort { line: 3, length: 5 })),
            (format!("{OLD}\n{OLD}"), Err(BadSecret::Same)),
            (format!("{OLD}\0"), Err(BadSecret::NotText)),
            ("x".repeat(MAX_BYTES + 1), Err(BadSecret::NotText)),
            (OLD.into(), Ok("Secrets(one)")),
            (format!("  {OLD}\r\n"), Ok("Secrets(one)")),
            (format!("{OLD}\n\n{NEW}\n"), Ok("Secrets(two)")),
        ];
        for (text, expected) in cases {
            let shown = Secrets::parse(&text).map(|secrets| format!("{secrets:?}"));
            assert_eq!(shown.as_deref().map_err(|error| *error), expected, "{text:?}");
        }
    }

    #[test]
    fn a_missing_file_is_reported_with_the_command_that_makes_one_and_another_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let error = Secrets::load(&path).unwrap_err().to_string();
        assert!(error.contains("make one with") && error.contains("secret"), "{error}");
        let unreadable = Secrets::load(directory.path()).unwrap_err().to_string();
        assert!(unreadable.contains("must be readable"), "{unreadable}");
        std::fs::write(&path, [0xff; 40]).unwrap();
        assert!(matches!(Secrets::load(&path), Err(SecretError::Content { source: BadSecret::NotText, .. })));
        std::fs::write(&path, OLD).unwrap();
        assert!(Secrets::load(&path).is_ok());
    }
}
