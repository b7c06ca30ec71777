//! The faults: how sides leave, stall or break the protocol, and what third clients do.

use std::fmt;
use std::time::Duration;

use super::Side;

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It closes its socket.
    Fin,
    /// It resets its connection.
    Reset,
    /// It resets its HTTP/2 stream, not its connection.
    ResetStream,
    /// Its process is killed.
    Kill,
}

/// When a step of a side is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It has sent or received this number of bytes of the body.
    Body(u64),
    /// It has sent the size line of the chunk that begins with this byte, or of the last chunk, and nothing more (chunked source).
    InChunk(u64),
    /// It has sent or received the whole message.
    End,
    /// It waits for the other side.
    Waiting,
    /// This time after its start, whatever it does then.
    After(Duration),
}

/// An action of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// It leaves.
    Leave(Manner),
    /// It closes its sending side and goes on reading.
    HalfClose,
    /// It neither reads nor writes.
    Stall(Duration),
    /// It does not read the body, so that its window is used up. Over HTTP/2 it reads everything else (destination).
    Withhold(Duration),
    /// It sends bytes that are not HTTP.
    Break,
    /// It waits until the destination has received this number of bytes of the body (source).
    Await(u64),
    /// It waits until both sides have their seats.
    AwaitPair,
    /// It waits until the third client has its response (source).
    AwaitIntruder,
    /// It reads nothing more from its connection and goes on writing (HTTP/2).
    StopReading,
}

/// An action of a side and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// When.
    pub(crate) moment: Moment,
    /// What.
    pub(crate) act: Act,
}

/// When a third client interferes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before either side has connected.
    Before,
    /// While the first side waits.
    Waiting,
    /// When the destination has received this number of bytes.
    Streaming(u64),
}

/// The fault of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None.
    None,
    /// The sides take these steps, each in order.
    Acts {
        /// The steps of the source.
        source: Vec<Step>,
        /// The steps of the destination.
        destination: Vec<Step>,
    },
    /// The waiting side leaves once for each of these ways, and each time a new one connects in its place.
    Replaced(Vec<Manner>),
    /// The waiting side leaves, and no other connects in its place.
    Abandoned {
        /// How it leaves.
        manner: Manner,
        /// The other side connects before the server can have noticed.
        at_once: bool,
    },
    /// The first side waits for a second only, in vain, this many times. Then it connects to stay.
    Impatient(u64),
    /// Nothing goes wrong, and the sides repeat the transfer over the same path, this many times in all. Each connects again as soon as it
    /// has its response.
    Looped(u64),
    /// This side never connects.
    Absent(Side),
    /// Neither side connects.
    Forgotten,
    /// A client reports an error.
    Reported(Stage),
    /// Another client tries to take the seat of this side.
    Intruder(Side, Stage),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.act {
            Act::Leave(manner) => write!(f, "leaves ({manner:?})")?,
            Act::HalfClose => f.write_str("half-closes")?,
            Act::Stall(time) => write!(f, "stalls for {time:?}")?,
            Act::Break => f.write_str("breaks HTTP")?,
            Act::Withhold(time) => write!(f, "reads nothing of the body for {time:?}")?,
            Act::Await(u64::MAX) => f.write_str("sends no more")?,
            Act::Await(offset) => write!(f, "waits until byte {offset} has come")?,
            Act::AwaitPair => f.write_str("waits until both have their seats")?,
            Act::AwaitIntruder => f.write_str("waits until the third client has its response")?,
            Act::StopReading => f.write_str("stops reading")?,
        }
        match self.moment {
            Moment::Body(offset) => write!(f, " at byte {offset}"),
            Moment::InChunk(offset) => write!(f, " behind the size line of the chunk at byte {offset}"),
            Moment::End => f.write_str(" behind the whole message"),
            Moment::Waiting => f.write_str(" while it waits"),
            Moment::After(time) => write!(f, " after {time:?}"),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before => f.write_str("before anybody has come"),
            Self::Waiting => f.write_str("while the first waits"),
            Self::Streaming(offset) => write!(f, "when byte {offset} has come"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nothing goes wrong"),
            Self::Acts { source, destination } => {
                let sides = [(Side::Source, source), (Side::Destination, destination)];
                let steps = sides.into_iter().filter(|(_, steps)| !steps.is_empty()).map(|(side, steps)| {
                    let steps: Vec<_> = steps.iter().map(Step::to_string).collect();
                    format!("the {side} {}", steps.join(", then "))
                });
                f.write_str(&steps.collect::<Vec<_>>().join("; "))
            }
            Self::Replaced(manners) => {
                write!(f, "the first side leaves while it waits ({manners:?}), and another connects")
            }
            Self::Abandoned { manner, at_once } => {
                let next = if *at_once { ", and the other side connects at once" } else { "" };
                write!(f, "the first leaves while it waits ({manner:?}), for good{next}")
            }
            Self::Impatient(times) => write!(f, "the first side waits for a second, in vain, {times} times"),
            Self::Looped(rounds) => write!(f, "nothing goes wrong, {rounds} times over one path"),
            Self::Absent(side) => write!(f, "the {side} never connects"),
            Self::Forgotten => f.write_str("no side connects"),
            Self::Reported(stage) => write!(f, "an error is reported {stage}"),
            Self::Intruder(side, stage) => write!(f, "another {side} connects {stage}"),
        }
    }
}
