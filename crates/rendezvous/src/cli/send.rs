//! `rendezvous send`: offers files, a directory or a pipe, and waits for the receipt.

mod ending;
mod qr;

use std::path::{Path, PathBuf};

use clap::Args;
use rendezvous_client::plain::{PlainSendEvent, send_plain};
use rendezvous_client::relay::Relay;
use rendezvous_client::send::{SendEvent, SendOptions, send};
use rendezvous_client::source::{self, Source};
use rendezvous_server::config::{Period, Size};

use super::exit::{Exit, Failure};
use super::transfer;
use super::transfer::relay::{RelayFlags, choose};
use super::transfer::text::{printable, quoted};
use super::transfer::view::{Ending, Event, OutputFlags, Side, View};

const EXAMPLES: &str = "Examples:
  A file, a directory, the output of a program:
      rendezvous send report.pdf --to https://relay.example
      rendezvous send holiday/
      pg_dump shop | rendezvous send - --name shop.sql && echo stored";

/// Send files, a directory or a pipe, end to end encrypted
///
/// Prints a link, and waits for a receiver that uses it: `rendezvous recv LINK`. The transfer goes on by
/// itself after a cut, on either side, for as long as this program runs. It exits with 0 only if
/// the receiver has verified the data and flushed it to disk.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "--help says more about each flag, and has the exit codes.",
    after_long_help = format!("{}\n{EXAMPLES}", Exit::help())
)]
pub(crate) struct SendArguments {
    /// Files and directories to send, or - for standard input
    ///
    /// One file is sent as it is; a directory, or several paths, as a tar stream that the receiver
    /// unpacks.
    #[arg(required = true, value_name = "PATH", verbatim_doc_comment)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    relay: RelayFlags,
    /// Name that the receiver gets [default: that of the first path, or stdin]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Show the link as a QR code too
    #[arg(long, conflicts_with_all = ["json", "quiet"])]
    qr: bool,
    /// Send without encryption, to a client such as curl or a browser
    ///
    /// Prints a URL that can be fetched once. Nothing is verified or resumed, and the relay can read
    /// all of it.
    #[arg(long, verbatim_doc_comment, conflicts_with_all = ["give_up", "replay_buffer"])]
    plain: bool,
    /// How long to go on without any progress
    #[arg(long, value_name = "PERIOD", default_value = "24h")]
    give_up: Period,
    /// How far a pipe can go back after a cut
    ///
    /// The last bytes of a pipe are kept in memory. After a cut that lost more than this, the transfer
    /// cannot go on.
    #[arg(long, value_name = "BYTES", default_value = "64m", verbatim_doc_comment)]
    replay_buffer: Size,
    #[command(flatten)]
    output: OutputFlags,
}

/// Sends, and returns the exit code.
pub(crate) fn run(arguments: &SendArguments) -> Result<Exit, Failure> {
    let (relay, _) = choose(arguments.relay.to.as_deref(), &arguments.relay.token)?;
    let source = open(arguments)?;
    let mut view = View::new(arguments.output, Side::Send);
    view.show(&Event::Description { description: source.description(), files: Some(source.files()) });
    for left_out in source.left_out() {
        view.show(&Event::Warning { message: &left_out.to_string() });
    }
    let ending = if arguments.plain {
        plain(source, relay, arguments.qr, &mut view)
    } else {
        encrypted(source, relay, arguments, &mut view)
    };
    Ok(view.end(&ending?))
}

fn open(arguments: &SendArguments) -> Result<Box<dyn Source>, Failure> {
    let name = arguments.name.as_deref();
    let replay_buffer = usize::try_from(arguments.replay_buffer.get())
        .map_err(|_| Failure::usage("--replay-buffer is larger than the memory can be"))?;
    if !arguments.paths.iter().any(|path| path == Path::new("-")) {
        return source::open(&arguments.paths, name, replay_buffer)
            .map_err(|error| Failure::new(Exit::Failed, printable(&error.to_string())));
    }
    if arguments.paths.len() > 1 {
        return Err(Failure::usage(
            "- cannot be sent together with other paths: send them one after the other",
        ));
    }
    Ok(source::pipe(std::io::stdin(), name, replay_buffer))
}

fn encrypted(
    source: Box<dyn Source>,
    relay: Relay,
    arguments: &SendArguments,
    view: &mut View,
) -> Result<Ending, Failure> {
    let give_up = arguments.give_up.get();
    let options = SendOptions { relay, give_up };
    let (mut is_reached, mut last_cut) = (false, None);
    let ended = transfer::run(|stop| {
        send(source, options, stop, |event| match event {
            SendEvent::Link(link) => {
                is_reached = true;
                let link = link.to_string();
                let command = format!("rendezvous recv {}", quoted(&link));
                let qr = arguments.qr.then(|| qr::code(&link)).flatten();
                view.show(&Event::Link { link: &link, command, qr });
            }
            SendEvent::Asked { receivers, offset } => view.show(&Event::Asked { receivers, offset }),
            SendEvent::Sent { bytes } => view.show(&Event::Moved { bytes }),
            SendEvent::AllSent { bytes } => view.show(&Event::AllSent { bytes }),
            SendEvent::Cut { why } => {
                view.show(&Event::Cut { why: &why });
                last_cut = Some(why);
            }
            SendEvent::Warning(message) => view.show(&Event::Warning { message: &message }),
        })
    })?;
    Ok(ending::encrypted(ended, give_up, last_cut.as_deref().filter(|_| !is_reached)))
}

fn plain(
    source: Box<dyn Source>,
    relay: Relay,
    is_qr_wanted: bool,
    view: &mut View,
) -> Result<Ending, Failure> {
    let ended = transfer::run(|stop| {
        send_plain(source, relay, stop, |event| match event {
            PlainSendEvent::Url(url) => {
                let command = format!("curl -fOJ {}", quoted(url.as_str()));
                let qr = is_qr_wanted.then(|| qr::code(url.as_str())).flatten();
                view.show(&Event::Link { link: url.as_str(), command, qr });
            }
            PlainSendEvent::Sent { bytes } => view.show(&Event::Moved { bytes }),
        })
    })?;
    Ok(ending::plain(ended))
}
