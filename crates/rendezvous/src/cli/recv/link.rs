//! Where the link of `recv` comes from, and how it is kept out of the list of processes.
//!
//! *Invariant.* Once a request is sent, no argument of the process holds the link.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read, Write, stderr, stdin};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;

use rendezvous_client::link::{InvalidLink, Link};
use reqwest::Url;

use crate::cli::exit::Failure;
use crate::cli::transfer::relay::variable;
use crate::cli::transfer::view::complain;

/// The variable with the link.
const VARIABLE: &str = "RENDEZVOUS_LINK";
/// The maximum length of the line with the link, in bytes.
const MAX_LINE: usize = 4096;

/// What can be received.
#[derive(Debug, PartialEq)]
pub(super) enum Offer {
    /// The link of `send`.
    Encrypted(Link),
    /// The URL of a stream or a path.
    Plain(Url),
}

impl FromStr for Offer {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        match text.parse::<Link>() {
            Ok(link) => Ok(Self::Encrypted(link)),
            Err(error) => match plain_url(text) {
                Some(url) => Ok(Self::Plain(url)),
                None => Err(invalid(text, &error)),
            },
        }
    }
}

/// Returns the URL of a stream or a named path, if `text` is one.
fn plain_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let is_stream = ["/stream/", "/p/"].iter().any(|route| url.path().contains(route));
    (url.fragment().is_none() && is_stream).then_some(url)
}

fn invalid(text: &str, error: &InvalidLink) -> Failure {
    if text.contains("%23") {
        return Failure::usage(
            "a mail program has damaged the link: put # in place of %23. If the damaged link was opened in a browser, its \
             secret is in the log of proxies: let the sender send again",
        );
    }
    Failure::usage(error.to_string())
}

/// Returns the link: `given` as an argument or by the variable, or a line of standard input.
///
/// If it is an argument, starts the program again with the link in the variable instead, and does not return: the environment of a process
/// can be read only by its user and by root, its arguments by everybody.
pub(super) fn find(given: Option<&str>) -> Result<String, Failure> {
    match given {
        Some("-") => return from_stdin(),
        Some("") | None => {}
        Some(link) => {
            hide(link);
            return Ok(link.to_owned());
        }
    }
    if let Some(link) = variable(VARIABLE)? {
        return Ok(link);
    }
    if stdin().is_terminal() {
        return Err(Failure::usage(
            "give the link that the sender has printed, in quotes: rendezvous recv 'https://relay.example/r#SECRET'",
        ));
    }
    from_stdin()
}

fn from_stdin() -> Result<String, Failure> {
    if stdin().is_terminal() {
        let _ = write!(stderr(), "link: ");
    }
    let line = first_line(&mut stdin().lock());
    let line =
        line.map_err(|error| Failure::usage(format!("cannot read the link from standard input: {error}")))?;
    if line.trim().is_empty() {
        return Err(Failure::usage("there is no link on standard input"));
    }
    Ok(line)
}

/// Reads a line, and nothing behind it: the sender that writes it into a pipe goes on running.
fn first_line(input: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_LINE && input.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend_from_slice(&byte);
    }
    String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Starts the program again without the link among its arguments, if it is one.
fn hide(link: &str) {
    let arguments: Vec<_> = std::env::args_os().collect();
    let Some((name, rest)) = without(arguments, OsStr::new(link)) else { return };
    let error = match std::env::current_exe() {
        // Returns only if it fails.
        Ok(program) => Command::new(program).arg0(name).args(rest).env(VARIABLE, link).exec(),
        Err(error) => error,
    };
    complain(&format!("warning: others on this machine can read the link in the list of processes: {error}"));
}

/// Returns the name of the program and its arguments without the link; `None` if the link is none of them.
fn without(arguments: Vec<OsString>, link: &OsStr) -> Option<(OsString, Vec<OsString>)> {
    let mut arguments = arguments.into_iter();
    let name = arguments.next()?;
    let all: Vec<_> = arguments.collect();
    let kept: Vec<_> = all.iter().filter(|argument| *argument != link).cloned().collect();
    (kept.len() < all.len()).then_some((name, kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    const LINK: &str = "https://relay.example/r#000G40R40M30E209185GR38E1W";

    #[test]
    fn a_link_and_the_url_of_a_stream_can_be_received_and_nothing_else() {
        assert!(
            matches!(format!(" {LINK}\n").parse(), Ok(Offer::Encrypted(link)) if link.to_string() == LINK)
        );
        for url in ["https://relay.example/stream/2f9c", "http://127.0.0.1:9999/p/a/b"] {
            assert!(matches!(url.parse(), Ok(Offer::Plain(plain)) if plain.as_str() == url), "{url}");
        }
        for bad in [
            "",
            "hello",
            "https://relay.example/",
            "https://relay.example/r",
            "https://relay.example/r#short",
            "ftp://relay.example/stream/1",
        ] {
            assert_eq!(bad.parse::<Offer>().unwrap_err().exit, Exit::Usage, "{bad}");
        }
        let damaged = LINK.replace('#', "%23").parse::<Offer>().unwrap_err();
        assert!(damaged.message.contains("put # in place of %23"), "{}", damaged.message);
    }

    #[test]
    fn a_line_is_read_and_nothing_behind_it() {
        let mut input: &[u8] = b"https://a\nrest";
        assert_eq!(first_line(&mut input).unwrap(), "https://a");
        assert_eq!(input, b"rest");
        assert_eq!(first_line(&mut [b'x'; 2 * MAX_LINE].as_slice()).unwrap().len(), MAX_LINE);
    }

    #[test]
    fn only_the_link_is_removed_from_the_arguments() {
        let owned = |arguments: &[&str]| arguments.iter().map(OsString::from).collect::<Vec<_>>();
        let given = owned(&["rendezvous", "recv", LINK, "-o", "a"]);
        let kept = (OsString::from("rendezvous"), owned(&["recv", "-o", "a"]));
        assert_eq!(without(given, OsStr::new(LINK)), Some(kept));
        assert_eq!(without(owned(&["rendezvous", "recv"]), OsStr::new(LINK)), None);
    }
}
