//! The place of a transfer on its server: the stream or the path at which its sides meet, and what a third client sees there.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::control::Control;
use crate::plan::{Address, Scenario, Side};

/// First and longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Where the sides of a transfer meet.
pub(crate) struct Place<'a> {
    control: &'a Control,
    name: Name,
}

enum Name {
    Stream { id: String },
    Path { path: String },
}

/// What a third client sees at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sight {
    /// The status of the stream.
    Status(Status),
    /// The stream is not known, or there is no server.
    Unknown,
    /// Somebody waits or streams at the path.
    Taken,
    /// Nobody is at the path.
    Free,
}

/// The status of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Status {
    /// The state.
    pub(crate) state: String,
    /// It has not ended.
    pub(crate) active: bool,
    /// The body bytes that were passed on.
    pub(crate) bytes_transferred: u64,
}

impl<'a> Place<'a> {
    /// Creates the stream, or chooses the path. `turn` is the number of the play on its server. `None` if no server creates the stream.
    pub(crate) async fn of(scenario: &Scenario, control: &'a Control, turn: u64) -> Option<Self> {
        let name = match scenario.address {
            Address::Stream { is_promised, ttl } => {
                let length = is_promised.then_some(scenario.size);
                Name::Stream { id: create(control, length, ttl).await? }
            }
            Address::Path => Name::Path { path: path_of_turn(turn) },
        };
        Some(Self { control, name })
    }

    /// The target of the requests of this side. The sides spell a path differently.
    pub(crate) fn target(&self, side: Side) -> String {
        match (&self.name, side) {
            (Name::Stream { id }, _) => format!("/stream/{id}"),
            (Name::Path { path }, Side::Source) => format!("/p/{path}"),
            (Name::Path { path }, Side::Destination) => format!("/p/{}/", path.replacen('/', "%2F", 1)),
        }
    }

    /// Looks at it.
    pub(crate) async fn look(&self) -> Sight {
        match &self.name {
            Name::Stream { id } => {
                let status = self.control.insist("GET", &format!("/stream/{id}/status"), "", 200).await;
                let status = status.and_then(|status| serde_json::from_slice(&status).ok());
                status.map_or(Sight::Unknown, Sight::Status)
            }
            Name::Path { path } => match self.control.persist("HEAD", &format!("/p/{path}"), "").await {
                Some((200, _)) => Sight::Taken,
                Some((404, _)) => Sight::Free,
                _ => Sight::Unknown,
            },
        }
    }

    /// Looks at it until it `is_so` or the time is over. Returns whether it is so, and what was seen last.
    pub(crate) async fn look_until(&self, limit: Duration, is_so: impl Fn(&Sight) -> bool) -> (bool, Sight) {
        let begun = Instant::now();
        let mut pause = PAUSES.0;
        loop {
            let sight = self.look().await;
            let is_over = is_so(&sight);
            if is_over || begun.elapsed() >= limit {
                return (is_over, sight);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Reports an error for the stream. Returns the status of the response, if there is one. A path has no reports.
    pub(crate) async fn report(&self, body: &str) -> Option<u16> {
        let Name::Stream { id } = &self.name else { return None };
        let answer = self.control.ask("POST", &format!("/stream/{id}/error"), body).await;
        answer.ok().map(|(status, _)| status)
    }
}

async fn create(control: &Control, promised: Option<u64>, ttl: Option<Duration>) -> Option<String> {
    #[derive(Deserialize)]
    struct Created {
        stream: String,
    }
    let promised = promised.map(|length| format!(r#""download_headers":{{"Content-Length":{length}}}"#));
    let ttl = ttl.map(|ttl| format!(r#""ttl":"{}ms""#, ttl.as_millis()));
    let settings: Vec<_> = promised.into_iter().chain(ttl).collect();
    let body = if settings.is_empty() { String::new() } else { format!("{{{}}}", settings.join(",")) };
    let created = control.insist("POST", "/stream", &body, 201).await?;
    serde_json::from_slice(&created).ok().map(|Created { stream }| stream)
}

/// A path of its own for each turn. One segment for each digit, so that paths of the same time begin with each other.
fn path_of_turn(mut turn: u64) -> String {
    let mut segments = Vec::new();
    while turn > 0 {
        segments.insert(0, (turn % 3).to_string());
        turn /= 3;
    }
    format!("chaos/{}", segments.join("/"))
}

impl Sight {
    /// Whether a side has its seat, or never will.
    pub(crate) fn is_seated(&self) -> bool {
        match self {
            Self::Status(status) => status.state != "CREATED",
            Self::Unknown | Self::Taken => true,
            Self::Free => false,
        }
    }

    /// Whether the seat of this side is free of a side that waits alone.
    pub(crate) fn is_free(&self, side: Side) -> bool {
        match self {
            Self::Status(status) => status.state != waiting(side),
            Self::Unknown | Self::Free => true,
            Self::Taken => false,
        }
    }

    /// Whether both sides have their seats, or never will. A path does not show when.
    pub(crate) fn is_paired(&self) -> bool {
        match self {
            Self::Status(status) => ![waiting(Side::Source), waiting(Side::Destination), "CREATED"]
                .contains(&status.state.as_str()),
            Self::Unknown | Self::Free => true,
            Self::Taken => false,
        }
    }

    /// Whether the stream has ended, or no side is there.
    pub(crate) fn is_left(&self) -> bool {
        match self {
            Self::Status(status) => !status.active || status.state == "CREATED",
            Self::Unknown | Self::Free => true,
            Self::Taken => false,
        }
    }

    /// The status, if it is that of a stream.
    pub(crate) fn status(&self) -> Option<&Status> {
        match self {
            Self::Status(status) => Some(status),
            _ => None,
        }
    }
}

fn waiting(side: Side) -> &'static str {
    match side {
        Side::Source => "SRC_CONNECTED",
        Side::Destination => "DST_CONNECTED",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_turn_has_a_path_of_its_own_that_others_begin_with() {
        let paths: Vec<_> = (1..=1000).map(path_of_turn).collect();
        assert_eq!(paths.iter().collect::<HashSet<_>>().len(), 1000);
        assert_eq!(paths[..4], ["chaos/1", "chaos/2", "chaos/1/0", "chaos/1/1"]);
    }
}
