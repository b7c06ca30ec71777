//! The life of one stream: every sequence of operations follows the rules of the seats, as their model defines them.

use rendezvous_core::outcome::{Fault, Outcome};
use rendezvous_protocol::Side;
use testkit::slot_model::{self, Operation};

/// Checks a sequence of operations, one per byte.
pub fn check(data: &[u8]) {
    slot_model::check(data.iter().map(|byte| match byte % 9 {
        0 | 1 => Operation::Connect(Side::Source),
        2 | 3 => Operation::Connect(Side::Destination),
        4 => Operation::Leave(Side::Source),
        5 => Operation::Leave(Side::Destination),
        6 => Operation::Report,
        7 => Operation::Expire,
        _ if byte % 2 == 0 => Operation::Settle(Outcome::Finished),
        _ => Operation::Settle(Outcome::Failed(Fault::SourceDisconnected)),
    }));
}
