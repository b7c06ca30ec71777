//! A JSON object whose fields are read strictly.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{INTEGER_LIMIT, InvalidMessage, VERSION};

/// A parsed JSON object, in which no object has a key twice.
pub(super) struct Object(Map<String, Value>);

impl Object {
    /// Parses an object and nothing behind it.
    pub(super) fn parse(json: &[u8]) -> Result<Self, InvalidMessage> {
        match serde_json::from_slice(json) {
            Ok(Strict(Value::Object(fields))) => Ok(Self(fields)),
            _ => Err(InvalidMessage::Json),
        }
    }

    /// Returns a text.
    pub(super) fn text(&self, field: &'static str) -> Result<&str, InvalidMessage> {
        self.0.get(field).and_then(Value::as_str).ok_or(InvalidMessage::Field(field))
    }

    /// Returns a copy of a text.
    pub(super) fn text_owned(&self, field: &'static str) -> Result<String, InvalidMessage> {
        self.text(field).map(str::to_owned)
    }

    /// Returns a field that is written as a text of a fixed form.
    pub(super) fn parsed<T: FromStr>(&self, field: &'static str) -> Result<T, InvalidMessage> {
        self.text(field)?.parse().map_err(|_| InvalidMessage::Field(field))
    }

    /// Returns an integer from 0 to below 2^53.
    pub(super) fn integer(&self, field: &'static str) -> Result<u64, InvalidMessage> {
        let value = self.0.get(field).and_then(Value::as_u64);
        value.filter(|value| *value < INTEGER_LIMIT).ok_or(InvalidMessage::Field(field))
    }

    /// Returns an integer whose absolute value is below 2^53.
    pub(super) fn signed(&self, field: &'static str) -> Result<i64, InvalidMessage> {
        let value = self.0.get(field).and_then(Value::as_i64);
        value.filter(|value| value.unsigned_abs() < INTEGER_LIMIT).ok_or(InvalidMessage::Field(field))
    }

    /// Returns `None` if the field is absent or `null`, else reads it.
    pub(super) fn optional<T>(
        &self,
        field: &'static str,
        read: impl FnOnce(&Self, &'static str) -> Result<T, InvalidMessage>,
    ) -> Result<Option<T>, InvalidMessage> {
        if self.0.get(field).is_none_or(Value::is_null) { Ok(None) } else { read(self, field).map(Some) }
    }

    /// Returns whether the field is `true`. Absent means `false`.
    pub(super) fn flag(&self, field: &'static str) -> Result<bool, InvalidMessage> {
        let read = |object: &Self, field| {
            object.0.get(field).and_then(Value::as_bool).ok_or(InvalidMessage::Field(field))
        };
        Ok(self.optional(field, read)?.unwrap_or(false))
    }

    /// Returns an object within this one.
    pub(super) fn object(&self, field: &'static str) -> Result<Self, InvalidMessage> {
        let value = self.0.get(field).and_then(Value::as_object);
        value.cloned().map(Self).ok_or(InvalidMessage::Field(field))
    }
}

/// A message that is being written, with its version.
pub(super) struct NewObject(Map<String, Value>);

impl NewObject {
    pub(super) fn new() -> Self {
        let mut object = Self(Map::new());
        object.set("v", VERSION);
        object
    }

    pub(super) fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.0.insert(field.to_owned(), value.into());
    }

    /// Leaves the field out if there is no value.
    pub(super) fn set_optional(&mut self, field: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(field, value);
        }
    }

    pub(super) fn into_json(self) -> Vec<u8> {
        Value::Object(self.0).to_string().into_bytes()
    }
}

/// A JSON value in which no object has a key twice. `serde_json` alone takes the last of two.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without duplicate keys")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = elements.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if map.insert(key, value).is_some() {
                return Err(A::Error::custom("a key occurs twice"));
            }
        }
        Ok(Value::Object(map))
    }
}
