//! What became of a request, as the state machines see it.

use std::time::Duration;

/// The wait that control requests and segments ask the relay for, once a receiver has asked.
pub(crate) const WAIT: Duration = Duration::from_secs(8);

/// The wait of the sender before the first `ask`.
pub(crate) const FIRST_WAIT: Duration = Duration::from_secs(25);

/// A request is given up so long after the wait that it asked for.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// An answer that no peer came means that the relay has waited for one. If it comes sooner than this, it has not.
pub(crate) const WAITED: Duration = Duration::from_secs(1);

/// What people are told about such an answer.
pub(crate) const NOT_WAITED: &str = "the relay answered at once that nobody is there";

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The relay, or something before it, answered.
    Status {
        /// The status.
        code: u16,
        /// The `Retry-After` field.
        retry_after: Option<Duration>,
    },
    /// The connection failed, or the request was given up.
    Lost {
        /// The reason, for people.
        why: String,
    },
}

/// What a status means for a request that can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// 2xx.
    Success,
    /// 401: for a receiver, the sender is not there yet.
    Unauthorized,
    /// 403: the token is wrong.
    Forbidden,
    /// 404: no named paths there.
    NoPaths,
    /// 413.
    TooLarge,
    /// 503 or 504 of a request whose peer did not come within the wait.
    NotPaired,
    /// 502: the peer's request was cut.
    PeerCut,
    /// Repeat it.
    Later {
        /// The reason, for people.
        why: String,
    },
    /// A status that no relay answers.
    Foreign(u16),
}

impl Reply {
    /// A status without `Retry-After`.
    #[cfg(test)]
    pub(crate) fn status(code: u16) -> Self {
        Self::Status { code, retry_after: None }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Lost { .. } => None,
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Lost { why } => Verdict::Later { why: why.clone() },
            Self::Status { code, .. } => match code {
                200..=299 => Verdict::Success,
                401 => Verdict::Unauthorized,
                403 => Verdict::Forbidden,
                404 => Verdict::NoPaths,
                413 => Verdict::TooLarge,
                502 => Verdict::PeerCut,
                503 | 504 => Verdict::NotPaired,
                408 | 429 | 500..=599 => Verdict::Later { why: format!("the relay answered {code}") },
                _ => Verdict::Foreign(*code),
            },
        }
    }
}
