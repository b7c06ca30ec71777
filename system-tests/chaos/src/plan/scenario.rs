//! The scenario: everything that the plan determines about one transfer, and what follows from it for the play and for the laws.

use std::fmt;
use std::time::Duration;

use super::{Act, Address, Drawn, Fault, KIB, Manner, Moment, Party, Program, Side, Stage, Step};

/// The least throughput of a transfer on a busy machine through a small window, in bytes per second.
const SLOWEST: u64 = 128 * KIB;
/// A waiting HTTP/1 upload up to this size reaches the server's kernel together with its FIN. The FIN of a larger one may stay behind a
/// full buffer.
pub(super) const SEEN_TO_CLOSE: u64 = 32 * KIB;

/// One transfer, from the first request to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// The seed of the run.
    pub(crate) seed: u64,
    /// Its number in the run.
    pub(crate) number: u64,
    /// Where the sides meet.
    pub(crate) address: Address,
    /// The source.
    pub(crate) source: Party,
    /// The destination.
    pub(crate) destination: Party,
    /// How the upload is framed.
    pub(crate) framing: Framing,
    /// The length of the body, in bytes.
    pub(crate) size: u64,
    /// The order in which the sides connect.
    pub(crate) order: Order,
    /// The rate limit of its server, in bytes per second.
    pub(crate) pace: Option<u64>,
    /// The fault of a scenario.
    pub(crate) fault: Fault,
    /// The cell of the table that the scenario was drawn from, if any.
    pub(crate) drawn: Option<Drawn>,
}

/// How the end of an upload is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`; in HTTP/2, no declared length.
    Chunked,
}

/// The order in which the sides connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// This side connects first and waits for the other.
    First(Side),
    /// Both connect without an order.
    Together,
}

impl Scenario {
    /// The client of this side.
    #[must_use]
    pub(crate) fn party(&self, side: Side) -> &Party {
        match side {
            Side::Source => &self.source,
            Side::Destination => &self.destination,
        }
    }

    /// The steps of this side.
    #[must_use]
    pub(crate) fn steps(&self, side: Side) -> &[Step] {
        match &self.fault {
            Fault::Acts { source, destination } => match side {
                Side::Source => source,
                Side::Destination => destination,
            },
            _ => &[],
        }
    }

    /// The longest time from the pairing to the end on a busy machine.
    #[must_use]
    pub(crate) fn takes(&self) -> Duration {
        let steps = self.steps(Side::Source).iter().chain(self.steps(Side::Destination));
        let stalls = steps.map(|step| match step.act {
            Act::Stall(time) | Act::Withhold(time) => time,
            _ => Duration::ZERO,
        });
        let rate = self.pace.map_or(SLOWEST, |pace| pace.min(SLOWEST));
        stalls.sum::<Duration>() + Duration::from_secs(self.size / rate)
    }

    /// Whether a source has sent its whole message at this moment.
    #[must_use]
    pub(crate) fn is_sent_at(&self, moment: Moment) -> bool {
        moment == Moment::End || self.framing == Framing::Length && moment == Moment::Body(self.size)
    }

    /// Whether the FIN of a waiting side that leaves in this way may stay behind a full buffer. Then its seat stays taken until the other
    /// side connects or the ttl ends. A proxy answers `Expect` itself and may not look behind its full buffer for a reset.
    #[must_use]
    pub(crate) fn leaves_unseen(&self, manner: Manner) -> bool {
        let is_seen_by_server =
            self.source.expects.is_some() || !matches!(manner, Manner::Fin | Manner::Kill);
        self.first() == Side::Source
            && !self.source.transport.is_h2()
            && (self.source.proxy.is_some() || !is_seen_by_server)
            && self.size > SEEN_TO_CLOSE
    }

    /// The offset at which the source waits for the response of the third client, so that the transfer is running for certain. None where
    /// it has sent its last byte by then.
    #[must_use]
    pub(crate) fn awaits_intruder_at(&self) -> Option<u64> {
        match self.fault {
            Fault::Intruder(_, Stage::Streaming(offset)) if self.source.program == Program::Own => {
                Some(offset + 1).filter(|offset| *offset < self.size)
            }
            _ => None,
        }
    }

    /// The side that connects first. Without an order it is random.
    #[must_use]
    pub(crate) fn first(&self) -> Side {
        match self.order {
            Order::First(side) => side,
            Order::Together => Side::Source,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            Order::First(side) => format!("the {side} first"),
            Order::Together => "both together".to_owned(),
        };
        let pace = self.pace.map_or_else(String::new, |pace| format!(", {pace} bytes a second"));
        writeln!(f, "  address      {}", self.address)?;
        writeln!(f, "  body         {} bytes, {:?}, {order}{pace}", self.size, self.framing)?;
        writeln!(f, "  source       {}", self.source)?;
        writeln!(f, "  destination  {}", self.destination)?;
        write!(f, "  fault        {}", self.fault)?;
        match self.drawn {
            Some(Drawn { cell, is_exact }) => {
                let how = if is_exact { "exactly" } else { "at any time" };
                write!(f, "\n  table        {:?} {:?}, {how}", cell.event, cell.when)
            }
            None => Ok(()),
        }
    }
}
