//! What a transfer shows, in four modes: a terminal, lines, JSON, and nearly nothing.
//!
//! Standard output carries what other programs want: the link, the path of what was received, or JSON. Everything else goes to standard error.
//!
//! *Invariant.* Text of the other side is shown only by [`harmless`].
//!
//! *Bounds.* Progress makes at most four JSON lines a second, and one line of text every ten seconds.

mod json;
mod lines;
mod meter;
mod screen;

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};

use clap::Args;
use rendezvous_client::digest::Digest;
use rendezvous_client::source::{Description, Kind};

use self::json::Json;
use self::lines::Lines;
use self::screen::Screen;
use super::text::{harmless, size};
use crate::cli::exit::Exit;

/// The flags that choose what is shown.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputFlags {
    /// Report each event as a line of JSON on standard output
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Print only the link or the path of what was received, and errors
    #[arg(long, short)]
    quiet: bool,
}

/// Which side of a transfer this program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Send,
    Receive,
}

impl Side {
    /// What has happened to the bytes that were counted.
    fn moved(self) -> &'static str {
        match self {
            Self::Send => "sent",
            Self::Receive => "received",
        }
    }

    /// Whom this side waits for at the start.
    fn awaited(self) -> &'static str {
        match self {
            Self::Send => "waiting for the receiver",
            Self::Receive => "waiting for the sender",
        }
    }
}

/// Something to show.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// What is transferred. The number of files is known to the sender only.
    Description { description: &'a Description, files: Option<u64> },
    /// The link to give away, and how the other side uses it.
    Link { link: &'a str, command: String, qr: Option<String> },
    /// A receiver asked for the bytes from `offset` on.
    Asked { receivers: u32, offset: u64 },
    /// An earlier run is continued.
    Resumed { offset: u64 },
    /// The bytes up to here were sent, or received.
    Moved { bytes: u64 },
    /// Only the receipt is missing.
    AllSent { bytes: u64 },
    /// Another receiver is served.
    Busy,
    /// All is received, verified, and stored or passed on.
    Verified { bytes: u64, sha256: Digest },
    /// The transfer was cut and goes on.
    Cut { why: &'a str },
    /// Something that people should know.
    Warning { message: &'a str },
}

/// The end of a transfer.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) exit: Exit,
    /// What happened, and if it is a failure, what to do. Without control characters.
    pub(crate) message: String,
    /// Whether the message reports a success.
    pub(crate) is_success: bool,
    pub(crate) bytes: Option<u64>,
    pub(crate) sha256: Option<Digest>,
    /// Where the data was stored.
    pub(crate) at: Option<PathBuf>,
}

impl Ending {
    pub(crate) fn success(exit: Exit, message: impl Into<String>, bytes: u64) -> Self {
        let message = message.into();
        Self { exit, message, is_success: true, bytes: Some(bytes), sha256: None, at: None }
    }

    pub(crate) fn failure(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, message, is_success: false, bytes: None, sha256: None, at: None }
    }
}

/// What a transfer shows.
pub(crate) enum View {
    Screen(Screen),
    Lines(Lines),
    Json(Json),
    Quiet,
}

impl View {
    /// Chooses the mode by the flags and by whether standard error is a terminal.
    pub(crate) fn new(flags: OutputFlags, side: Side) -> Self {
        let is_terminal =
            stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        match flags {
            OutputFlags { json: true, .. } => Self::Json(Json::new(side)),
            OutputFlags { quiet: true, .. } => Self::Quiet,
            _ if is_terminal => Self::Screen(Screen::new(side)),
            _ => Self::Lines(Lines::new(side)),
        }
    }

    /// Shows an event.
    pub(crate) fn show(&mut self, event: &Event<'_>) {
        match self {
            Self::Screen(screen) => screen.show(event),
            Self::Lines(lines) => lines.show(event, &mut stderr()),
            Self::Json(json) => json.show(event, &mut stdout()),
            Self::Quiet => {
                if let Event::Link { link, .. } = event {
                    print(link);
                }
            }
        }
    }

    /// Shows the end, and returns the exit code.
    pub(crate) fn end(mut self, ending: &Ending) -> Exit {
        match &mut self {
            Self::Screen(screen) => screen.end(ending),
            Self::Lines(lines) => lines.end(ending, &mut stderr()),
            Self::Json(json) => json.end(ending, &mut stdout()),
            Self::Quiet => {}
        }
        if !matches!(self, Self::Json(_)) {
            if let Some(at) = &ending.at {
                print_path(at);
            }
            if !ending.is_success {
                complain(&ending.message);
            }
        }
        ending.exit
    }
}

/// Reports a failure as a line on standard error, which may be closed.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(stderr(), "rendezvous: {message}");
}

/// Prints a line to standard output, which may be closed.
fn print(line: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Prints the link: for a person the whole command, for a program the link alone.
fn print_link(link: &str, command: &str) {
    print(if stdout().is_terminal() { command } else { link });
}

/// Prints a path: to a program byte by byte, to a terminal harmless.
fn print_path(path: &Path) {
    // The current directory is where people look anyway.
    let path = path.strip_prefix(".").unwrap_or(path);
    if stdout().is_terminal() {
        return print(&harmless(&path.to_string_lossy()));
    }
    let mut out = stdout().lock();
    let _ = out.write_all(path.as_os_str().as_encoded_bytes()).and_then(|()| out.write_all(b"\n"));
    let _ = out.flush();
}

/// One line about what is transferred: `holiday/ · 1204 files · 3.1 GiB`.
fn described(description: &Description, files: Option<u64>) -> String {
    let slash = if description.kind == Kind::Tar { "/" } else { "" };
    let size = description.size.map(|bytes| format!(" · {}", size(bytes))).unwrap_or_default();
    let files = match files.filter(|_| description.kind == Kind::Tar) {
        Some(1) => " · 1 file".to_owned(),
        Some(files) => format!(" · {files} files"),
        None => String::new(),
    };
    format!("{}{slash}{files}{size}", harmless(&description.name))
}

/// Leaves out a cut that repeats the one before, as long as nothing has moved: while a relay restarts, each attempt fails alike.
#[derive(Debug, Default)]
struct Repeats {
    why: Option<String>,
}

impl Repeats {
    fn is_news(&mut self, event: &Event<'_>) -> bool {
        match event {
            Event::Cut { why } if self.why.as_deref() == Some(why) => return false,
            Event::Cut { why } => self.why = Some((*why).to_owned()),
            Event::Moved { .. } => self.why = None,
            _ => {}
        }
        true
    }
}

/// Events that read the same in a line of text, whatever the mode.
fn sentence(event: &Event<'_>) -> Option<String> {
    match event {
        Event::Asked { receivers: 1, offset: 0 } => Some("the receiver has asked".to_owned()),
        Event::Asked { receivers: 1, offset } => Some(format!("continuing from {}", size(*offset))),
        Event::Asked { receivers, offset } => {
            Some(format!("{receivers} receivers have asked so far; serving one from {}", size(*offset)))
        }
        Event::Resumed { offset } => Some(format!("continuing an earlier run from {}", size(*offset))),
        Event::Busy => Some("another receiver is served; asking again in 15 s".to_owned()),
        Event::Cut { why } => Some(format!("cut, trying again: {}", harmless(why))),
        Event::Warning { message } => Some(format!("warning: {}", harmless(message))),
        _ => None,
    }
}
