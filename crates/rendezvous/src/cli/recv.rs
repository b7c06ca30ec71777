//! `rendezvous recv`: receives what a link offers.

#![allow(clippy::doc_markdown, reason = "the help is plain text")]

mod ending;
mod link;
mod terminal;

use std::fs::File;
use std::io::{IsTerminal, stdout};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rendezvous_client::destination::{self, Destination, Existing};
use rendezvous_client::link::Link;
use rendezvous_client::plain::{DownloadEvent, download};
use rendezvous_client::receive::{ReceiveEvent, ReceiveOptions, receive};
use rendezvous_server::config::Period;
use reqwest::Url;

use self::link::Offer;
use self::terminal::Terminal;
use super::exit::{Exit, Failure};
use super::transfer;
use super::transfer::text::printable;
use super::transfer::view::{Ending, Event, OutputFlags, Side, View};

const EXAMPLES: &str = "Examples:
  Into this directory, into a file, into a program:
      rendezvous recv 'https://relay.example/r#SECRET'
      rendezvous recv 'https://relay.example/r#SECRET' -o report.pdf
      rendezvous recv 'https://relay.example/r#SECRET' -o - | psql shop
  Without the link in the history of the shell:
      rendezvous recv -";

/// Receive what a link offers
///
/// The data is verified, flushed to disk and named; only then the sender is told. After a cut, the
/// transfer goes on by itself. If this program was ended, the same command continues the transfer,
/// as long as the sender runs.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "--help says more about each flag, and has the exit codes.",
    after_long_help = format!("{}\n{EXAMPLES}", Exit::help())
)]
pub(crate) struct RecvArguments {
    /// Link that the sender has printed, or - for a line of standard input
    ///
    /// Without it, RENDEZVOUS_LINK counts, and then a line of standard input, unless that is a terminal.
    /// The program removes the link from its arguments, so that other users do not see it in the list
    /// of processes. The URL of a stream (send --plain) works too.
    #[arg(value_name = "LINK", env = "RENDEZVOUS_LINK", hide_env_values = true, verbatim_doc_comment)]
    link: Option<String>,
    /// Directory to receive into, file name to give, or - for standard output [default: this directory]
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Replace what exists under the name
    #[arg(long, conflicts_with = "rename")]
    force: bool,
    /// Take another name if the name exists: `report (1).pdf`
    #[arg(long)]
    rename: bool,
    /// How long to go on without any progress
    #[arg(long, value_name = "PERIOD", default_value = "24h")]
    give_up: Period,
    #[command(flatten)]
    show: OutputFlags,
}

/// Receives, and returns the exit code.
pub(crate) fn run(arguments: &RecvArguments) -> Result<Exit, Failure> {
    let text = link::find(arguments.link.as_deref())?;
    let offer: Offer = text.parse()?;
    let mut view = View::new(arguments.show, Side::Receive);
    let ending = match offer {
        Offer::Encrypted(link) => {
            let destination = arguments.destination(&link)?;
            let options = ReceiveOptions { link, give_up: arguments.give_up.get() };
            encrypted(destination, options, !arguments.is_to_stdout(), &mut view)
        }
        Offer::Plain(url) => {
            // Its secret only names the temporary file: such a download cannot be continued.
            let link = Link::new(&url).map_err(|error| Failure::usage(error.to_string()))?;
            plain(url, arguments.give_up.get(), arguments.destination(&link)?, &mut view)
        }
    };
    Ok(view.end(&ending?))
}

impl RecvArguments {
    /// Where the data goes.
    fn destination(&self, link: &Link) -> Result<Box<dyn Destination>, Failure> {
        if self.is_to_stdout() {
            return to_stdout();
        }
        let into = self.output.as_deref().unwrap_or(Path::new("."));
        destination::directory(into, link, self.existing())
            .map_err(|error| Failure::new(ending::exit_of(&error), printable(&error.to_string())))
    }

    fn is_to_stdout(&self) -> bool {
        self.output.as_deref() == Some(Path::new("-"))
    }

    /// What to do with a file or directory of the same name.
    fn existing(&self) -> Existing {
        match (self.force, self.rename) {
            (true, _) => Existing::Force,
            (_, true) => Existing::Rename,
            _ => Existing::Fail,
        }
    }
}

/// Standard output: as it is, or without control characters if it is a terminal. Not by [`std::io::Stdout`], which would hold back the end
/// of a line that has not ended.
fn to_stdout() -> Result<Box<dyn Destination>, Failure> {
    let descriptor = stdout().as_fd().try_clone_to_owned();
    let out = descriptor
        .map(File::from)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write to standard output: {error}")))?;
    Ok(if out.is_terminal() { destination::handed(Terminal::new(out)) } else { destination::handed(out) })
}

fn encrypted(
    destination: Box<dyn Destination>,
    options: ReceiveOptions,
    is_kept: bool,
    view: &mut View,
) -> Result<Ending, Failure> {
    let give_up = options.give_up;
    let ended = transfer::run(|stop| {
        receive(destination, options, stop, |event| match event {
            ReceiveEvent::Resumed { offset } => view.show(&Event::Resumed { offset }),
            ReceiveEvent::Description(description) => {
                view.show(&Event::Description { description: &description, files: None });
            }
            ReceiveEvent::Received { bytes } => view.show(&Event::Moved { bytes }),
            ReceiveEvent::Busy => view.show(&Event::Busy),
            ReceiveEvent::Cut { why } => view.show(&Event::Cut { why: &why }),
            ReceiveEvent::Verified { bytes, sha256 } => view.show(&Event::Verified { bytes, sha256 }),
            ReceiveEvent::Warning(message) => view.show(&Event::Warning { message: &message }),
        })
    })?;
    Ok(ending::encrypted(ended, give_up, is_kept))
}

fn plain(
    url: Url,
    give_up: Duration,
    destination: Box<dyn Destination>,
    view: &mut View,
) -> Result<Ending, Failure> {
    let ended = transfer::run(|stop| {
        download(url, None, give_up, destination, stop, |event| match event {
            DownloadEvent::Description(description) => {
                view.show(&Event::Description { description: &description, files: None });
            }
            DownloadEvent::Received { bytes } => view.show(&Event::Moved { bytes }),
        })
    })?;
    Ok(ending::plain(ended))
}
