//! The observations of a client.
//!
//! A cut message is never taken for a whole one: a message is whole only if it has the end that its framing demands.

use serde::Deserialize;

use crate::body::Body;
use crate::plan::{Manner, Side};

/// The observations of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Its side.
    pub(crate) side: Side,
    /// The final response, if its head arrived.
    pub(crate) answer: Option<Answer>,
    /// How its connection or HTTP/2 stream ended.
    pub(crate) ending: Ending,
    /// The body bytes that it has sent or received.
    pub(crate) bytes: u64,
    /// Of a source: whether the kernel has its whole message.
    pub(crate) sent_whole: bool,
    /// Of a destination: the offset of the first wrong byte.
    pub(crate) wrong_at: Option<u64>,
    /// Whether bytes followed the last message.
    pub(crate) has_surplus: bool,
    /// The bound on the bytes that its kernel could accept without its knowledge, if any.
    pub(crate) room: Option<u64>,
    /// The number of interim responses.
    pub(crate) interims: u32,
}

/// The head of a final response, and the error in its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The `name` of the error, or an empty string.
    pub(crate) name: String,
}

/// How the connection or HTTP/2 stream of a client ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The response was whole according to its framing.
    Whole,
    /// The response began and was cut.
    Cut(String),
    /// There was no response.
    NoAnswer(String),
    /// The client left before the end.
    Left(Manner),
    /// The received bytes were not HTTP.
    Malformed(String),
    /// There was no response long after the end of its plan.
    Hung,
}

impl View {
    /// The view of a client without observations.
    #[must_use]
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            answer: None,
            ending: Ending::Hung,
            bytes: 0,
            sent_whole: false,
            wrong_at: None,
            has_surplus: false,
            room: None,
            interims: 0,
        }
    }

    /// The status of the final response.
    #[must_use]
    pub(crate) fn status(&self) -> Option<u16> {
        self.answer.as_ref().map(|answer| answer.status)
    }

    /// Whether the client left before the end.
    #[must_use]
    pub(crate) fn left(&self) -> bool {
        matches!(self.ending, Ending::Left(_))
    }

    /// Whether the response was whole and had this status.
    #[must_use]
    pub(crate) fn is_whole(&self, status: u16) -> bool {
        self.ending == Ending::Whole && self.status() == Some(status)
    }

    /// Whether the record that cuts a download over TLS has come together with the beginning of the download. The library decrypts both at
    /// once, and drops what it has read before the record that it cannot decrypt.
    #[must_use]
    pub(crate) fn lost_its_beginning(&self) -> bool {
        matches!(&self.ending, Ending::NoAnswer(how) if how.contains("decrypt"))
    }

    /// Whether its wait ended without the other side.
    #[must_use]
    pub(crate) fn has_waited_in_vain(&self) -> bool {
        self.is_whole(503)
            && self.answer.as_ref().is_some_and(|answer| answer.name == "PeerNotConnectedError")
    }

    pub(super) fn answered(&mut self, status: u16, error: &[u8]) {
        #[derive(Deserialize)]
        struct Error {
            name: String,
        }
        let name = serde_json::from_slice(error).map_or_else(|_| String::new(), |error: Error| error.name);
        self.answer = Some(Answer { status, name });
    }

    pub(super) fn got(&mut self, body: &Body, bytes: &[u8]) {
        if self.wrong_at.is_none() {
            self.wrong_at = body.first_wrong(self.bytes, bytes);
        }
        self.bytes += bytes.len() as u64;
    }
}
