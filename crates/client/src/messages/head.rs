//! The JSON object at the start of each message of the sender.

use serde_json::json;

use super::control::printable;
use super::object::{NewObject, Object};
use super::{InvalidMessage, VERSION};
use crate::destination::Complete;
use crate::link::Id;
use crate::receive::Refusal;
use crate::source::{Description, Kind};

/// What a message of the sender is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Data of an attempt, or its end, or its refusal.
    Segment(Box<SegmentHead>),
    /// The confirmation of a receipt.
    Bye,
}

/// The head of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    /// The transfer: this run of the sender.
    pub(crate) transfer: Id,
    /// The attempt.
    pub(crate) attempt: Id,
    /// The number of the segment.
    pub(crate) segment: u64,
    /// Where its data begins.
    pub(crate) offset: u64,
    /// What is sent; in segment 0.
    pub(crate) description: Option<Description>,
    /// Set if the data ends with this segment.
    pub(crate) end: Option<Complete>,
    /// Set if the attempt is refused; in a segment 0 without data.
    pub(crate) error: Option<(Refused, String)>,
}

/// Why an attempt is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Another receiver is served: ask again.
    Busy,
    /// For good.
    ForGood(Refusal),
}

impl Head {
    /// Parses the decrypted object.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, InvalidMessage> {
        let object = Object::parse(json)?;
        match object.optional("type", Object::text_owned)?.as_deref() {
            Some("bye") => return Ok(Self::Bye),
            Some(_) => return Err(InvalidMessage::Type),
            None => {}
        }
        if object.integer("v") != Ok(VERSION) {
            return Err(InvalidMessage::Version);
        }
        let end = if object.flag("end")? {
            Some(Complete { bytes: object.integer("bytes")?, sha256: object.parsed("sha256")? })
        } else {
            None
        };
        let error = object.optional("error", |object, field| {
            let error = object.object(field)?;
            Ok((refused_of(error.text("reason")?), printable(error.text("message").unwrap_or_default())))
        })?;
        let segment = object.integer("segment")?;
        let description = if segment == 0 && error.is_none() { Some(description_of(&object)?) } else { None };
        Ok(Self::Segment(Box::new(SegmentHead {
            transfer: object.parsed("transfer")?,
            attempt: object.parsed("attempt")?,
            segment,
            offset: object.integer("offset")?,
            description,
            end,
            error,
        })))
    }

    /// Writes it as JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        match self {
            Self::Bye => br#"{"type":"bye"}"#.to_vec(),
            Self::Segment(head) => head.to_json(),
        }
    }
}

impl SegmentHead {
    fn to_json(&self) -> Vec<u8> {
        let mut object = NewObject::new();
        object.set("transfer", self.transfer.as_str());
        object.set("attempt", self.attempt.as_str());
        object.set("segment", self.segment);
        object.set("offset", self.offset);
        if let Some(description) = &self.description {
            object.set("kind", kind_name(description.kind));
            object.set("name", description.name.as_str());
            object.set_optional("size", description.size);
            object.set_optional("mtime", description.mtime);
            object.set_optional("mode", description.mode);
        }
        if let Some(end) = &self.end {
            object.set("end", true);
            object.set("bytes", end.bytes);
            object.set("sha256", end.sha256.to_string());
        }
        if let Some((reason, message)) = &self.error {
            object.set("error", json!({"reason": refused_name(*reason), "message": printable(message)}));
        }
        object.into_json()
    }
}

fn description_of(object: &Object) -> Result<Description, InvalidMessage> {
    let kind = match object.text("kind")? {
        "file" => Kind::File,
        "tar" => Kind::Tar,
        "text" => Kind::Text,
        _ => return Err(InvalidMessage::Field("kind")),
    };
    let name = object.text("name")?;
    if name.is_empty() || name.len() > 255 {
        return Err(InvalidMessage::Field("name"));
    }
    let mode = object.optional("mode", Object::integer)?;
    Ok(Description {
        kind,
        name: name.to_owned(),
        size: object.optional("size", Object::integer)?,
        mtime: object.optional("mtime", Object::signed)?,
        mode: mode.and_then(|mode| u32::try_from(mode & 0o777).ok()),
    })
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Tar => "tar",
        Kind::Text => "text",
    }
}

fn refused_of(name: &str) -> Refused {
    match name {
        "busy" => Refused::Busy,
        "gone" => Refused::ForGood(Refusal::Gone),
        "changed" => Refused::ForGood(Refusal::Changed),
        _ => Refused::ForGood(Refusal::Other),
    }
}

fn refused_name(refused: Refused) -> &'static str {
    match refused {
        Refused::Busy => "busy",
        Refused::ForGood(Refusal::Gone) => "gone",
        Refused::ForGood(Refusal::Changed) => "changed",
        Refused::ForGood(Refusal::Other) => "other",
    }
}
