//! The log, on standard error.
//!
//! Of the events of libraries, only errors are logged: clients can cause warnings at will (for example by an address as the server name
//! in TLS), and less severe events may contain whole ids and tokens.
//!
//! *Concurrency.* A separate thread writes the lines, so that a slow reader of standard error never delays a stream.
//!
//! *Bounds.* At most [`QUEUE`] lines wait to be written; further ones are dropped.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stderr, Write, stderr};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The maximum number of lines that wait to be written.
const QUEUE: usize = 4 * 1024;
/// The pause after each write, in which lines are collected, because waking the thread costs more than a line.
const PAUSE: Duration = Duration::from_millis(5);
/// The prefixes of the targets of our own events: those of requests and streams, and those of all crates of the workspace, such as
/// `rendezvous_server`.
const OWN_TARGETS: [&str; 2] = ["access", "rendezvous"];

/// The least severe events to log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The format of the lines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// The events to log: a level for each target.
#[derive(Debug, Clone)]
pub(crate) struct Filter(Targets);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let filter = text.parse().map(Self);
        filter.map_err(|_| "give a level, or levels for targets: debug, or warn,access=info".to_owned())
    }
}

impl From<Level> for Filter {
    fn from(level: Level) -> Self {
        Self(Targets::new().with_default(match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }))
    }
}

/// Logs the events that pass `filter`. Dropping the guard waits a moment for the last lines to be written, and ends the log.
pub(crate) fn start(filter: Filter, format: Format) -> WorkerGuard {
    let is_terminal = stderr().is_terminal();
    let builder = NonBlockingBuilder::default().buffered_lines_limit(QUEUE).thread_name("log");
    let (writer, guard) = builder.finish(BatchingStderr(BufWriter::new(stderr())));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        Format::Text if is_terminal => lines.with_target(false).boxed(),
        // The default formatter, which supports colours, takes twice as long.
        Format::Text => {
            lines.with_target(false).with_ansi(false).fmt_fields(debug_fn(write_field).delimited(" ")).boxed()
        }
        Format::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let is_own = |target: &str| OWN_TARGETS.iter().any(|own| target.starts_with(own));
    let shown = filter_fn(move |event| is_own(event.target()) || *event.level() == tracing::Level::ERROR);
    tracing_subscriber::registry().with(lines.with_filter(shown).with_filter(filter.0)).init();
    guard
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() == "message" { write!(writer, "{value:?}") } else { write!(writer, "{field}={value:?}") }
}

/// The writer of the log's thread, which flushes it when no line waits.
struct BatchingStderr(BufWriter<Stderr>);

impl Write for BatchingStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    #[expect(clippy::disallowed_methods, reason = "the thread that writes the log serves no connection")]
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        thread::sleep(PAUSE);
        Ok(())
    }
}
