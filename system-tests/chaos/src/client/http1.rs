//! A strict HTTP/1 client, with a connection for each side.
//!
//! - [`upload`], [`download`]: the two sides of a transfer
//! - [`asker`]: other requests
//! - [`incoming`]: the reader of responses, for all three

mod asker;
mod download;
mod incoming;
mod upload;

use std::io;

pub(crate) use self::asker::Asker;
use self::download::receive;
use self::upload::send;
use super::{Dial, Ending, Errand, Script, Switches, View};
use crate::plan::{Manner, Side};

/// Runs the errand on a connection of its own.
pub(super) async fn run(errand: Errand, dial: &Dial, view: &mut View) {
    let script = Script::new(&errand);
    let departure = script.departure();
    let connected = async {
        let connection = dial.connect(&errand.party).await?;
        errand.log.note(errand.side, format!("connected from {}", connection.tcp().local_addr()?.port()));
        io::Result::Ok(connection)
    };
    tokio::pin!(departure);
    let connection = tokio::select! {
        connected = connected => connected,
        manner = &mut departure => {
            view.ending = Ending::Left(manner);
            return;
        }
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            view.ending = Ending::NoAnswer(format!("no connection: {error}"));
            return;
        }
    };
    view.room = connection.room(&errand.party);
    let switches = connection.switches();
    let left = match errand.side {
        Side::Source => send(&errand, connection, script, view, departure).await,
        Side::Destination => tokio::select! {
            biased;
            left = receive(&errand, connection, script, view, &switches) => left,
            manner = leaving(departure, &switches) => Some(manner),
        },
    };
    if let Some(manner) = left {
        view.ending = Ending::Left(manner);
    }
}

/// Sets how the connection closes, before it is dropped.
async fn leaving(departure: impl Future<Output = Manner>, switches: &Switches) -> Manner {
    let manner = departure.await;
    switches.leave_by(manner);
    manner
}

/// The field line for the wait of a side, if it prefers one.
fn prefer(errand: &Errand) -> String {
    errand.party.wait.map_or_else(String::new, |seconds| format!("Prefer: wait={seconds}\r\n"))
}

fn version(errand: &Errand) -> &'static str {
    if errand.party.is_old { "1.0" } else { "1.1" }
}
