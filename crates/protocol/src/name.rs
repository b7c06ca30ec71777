//! [`StreamName`]: what clients call a stream by.

use std::borrow::Cow;
use std::fmt;

use crate::id::StreamId;
use crate::path::PathName;

/// The name of a stream: the id of one that was created, or the path of one that its first side made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StreamName {
    /// `/stream/:id`.
    Id(StreamId),
    /// `/p/:path`.
    Path(PathName),
}

/// The kind of a stream, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Created by `POST /stream`.
    Created,
    /// Made by the first side of a path.
    Path,
}

impl StreamName {
    /// Returns the kind of the stream.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        match self {
            Self::Id(_) => StreamKind::Created,
            Self::Path(_) => StreamKind::Path,
        }
    }

    /// Returns the whole name, for responses to a client that is authorized to have it. It must not be logged.
    #[must_use]
    pub fn as_text(&self) -> Cow<'_, str> {
        match self {
            Self::Id(id) => Cow::Borrowed(id.as_str()),
            Self::Path(path) => path.as_text(),
        }
    }

    /// Returns the form for logs: enough to distinguish streams, too little to connect to one.
    #[must_use]
    pub fn short(&self) -> impl fmt::Display {
        fmt::from_fn(|f| match self {
            Self::Id(id) => write!(f, "{}", id.short()),
            Self::Path(path) => write!(f, "{}", path.hashed()),
        })
    }
}
