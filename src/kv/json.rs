//! JSON values, in one form each: equal values have equal bytes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How deep values of a transaction may nest; text or a number nests 1 deep, a list of them 2.
pub const MAX_DEPTH: u32 = 100;

/// What an answer adds to that: a value appended to a list, in a row of a scan.
const ANSWER_DEPTH: u32 = 8;

/// How much a value in a table may take, and how much the results of a transaction, in bytes as [`Json::size`] counts
/// them: 64 MiB.
pub const MAX_SIZE: u64 = 64 << 20;

/// What each value counts, and each key of an object, beside the bytes of texts: about the memory that it takes.
pub(super) const VALUE_SIZE: usize = 32;

/// A JSON value.
///
/// Integers and floating-point numbers are different values even when they are numerically equal: 1 is not 1.0. The
/// integer -0 is 0 in the text of a [`Transaction`](super::Transaction); serde_json alone takes it for 0.0.
/// Serde reads and writes it as JSON in human-readable formats (`serde_json::to_value`, `serde_json::from_str`), and
/// as an enum in others.
///
/// Shape: as JSON, objects are sorted by the bytes of their keys.
///
/// Errors: reading JSON fails for an object that names a key twice, and for values that nest deeper than
/// [`MAX_DEPTH`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum Json {
    /// Nothing. As the value of a row it means that there is none.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// An integer below 2^63.
    Int(i64),
    /// An integer from 2^63.
    Unsigned(Unsigned),
    /// A number with a fraction or an exponent.
    Float(Float),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object.
    Object(BTreeMap<String, Json>),
}

/// An integer from 2^63 to 2^64 - 1: smaller ones are [`Json::Int`], always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Unsigned(u64);

impl Unsigned {
    /// The integer.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Unsigned {
    type Error = &'static str;

    fn try_from(integer: u64) -> Result<Self, &'static str> {
        match i64::try_from(integer) {
            Ok(_) => Err("an integer that fits 64 bits with sign"),
            Err(_) => Ok(Self(integer)),
        }
    }
}

impl From<Unsigned> for u64 {
    fn from(integer: Unsigned) -> Self {
        integer.0
    }
}

/// A finite floating-point number. Zero has no sign.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Float(f64);

/// Not a number equals not even itself, and is excluded.
impl Eq for Float {}

impl Float {
    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Float {
    type Error = &'static str;

    fn try_from(number: f64) -> Result<Self, &'static str> {
        if !number.is_finite() {
            return Err("a number that is not finite");
        }
        // Adding zero takes the sign from a negative zero, and does nothing else.
        Ok(Self(number + 0.0))
    }
}

impl From<Float> for f64 {
    fn from(number: Float) -> Self {
        number.0
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Json {
    fn from(integer: i64) -> Self {
        Self::Int(integer)
    }
}

impl From<u64> for Json {
    fn from(integer: u64) -> Self {
        match i64::try_from(integer) {
            Ok(integer) => Self::Int(integer),
            Err(_) => Self::Unsigned(Unsigned(integer)),
        }
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Vec<Json>> for Json {
    fn from(list: Vec<Json>) -> Self {
        Self::List(list)
    }
}

/// As JSON, without spaces.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// A value nests deeper than [`MAX_DEPTH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooDeep;

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value nests deeper than {MAX_DEPTH}")
    }
}

impl std::error::Error for TooDeep {}

/// What is left of [`MAX_SIZE`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Room(u64);

impl Room {
    pub(super) const ALL: Self = Self(MAX_SIZE);

    /// Takes so many bytes; `None` if that is more than there is.
    pub(super) fn take(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.checked_sub(bytes as u64)?;
        Some(())
    }

    /// Takes the size of a value, looking at no more of it than fits.
    pub(super) fn take_value(&mut self, value: &Json) -> Option<()> {
        self.take(VALUE_SIZE)?;
        self.take_inside(value)
    }

    /// Takes what is in a value, and not what it counts itself.
    pub(super) fn take_inside(&mut self, value: &Json) -> Option<()> {
        match value {
            Json::Text(text) => self.take(text.len()),
            Json::List(list) => self.take_values(list),
            Json::Object(object) => object.iter().try_for_each(|(key, value)| {
                self.take(VALUE_SIZE + key.len())?;
                self.take_value(value)
            }),
            _ => Some(()),
        }
    }

    /// Takes the sizes of values. What each of them counts comes first, all at once: long lists are often of numbers.
    pub(super) fn take_values(&mut self, values: &[Json]) -> Option<()> {
        self.take(values.len() * VALUE_SIZE)?;
        values.iter().try_for_each(|value| self.take_inside(value))
    }
}

impl Json {
    /// How much it counts for [`MAX_SIZE`], which is also the least that this says of a larger one: 32 bytes for each
    /// value in it and for itself, and for each key of an object, and the bytes of texts and keys.
    ///
    /// Cost: looks at all of it.
    #[must_use]
    pub fn size(&self) -> u64 {
        let mut room = Room::ALL;
        room.take_value(self).map_or(MAX_SIZE, |()| MAX_SIZE - room.0)
    }

    /// Fails when the value nests deeper than `limit`, without going deeper itself.
    pub(super) fn check_depth(&self, limit: u32) -> Result<(), TooDeep> {
        let limit = limit.checked_sub(1).ok_or(TooDeep)?;
        match self {
            Self::List(list) => list.iter().try_for_each(|value| value.check_depth(limit)),
            Self::Object(object) => object.values().try_for_each(|value| value.check_depth(limit)),
            _ => Ok(()),
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            // The derived one: an inherent function, because of `remote`.
            return Json::serialize(self, serializer);
        }
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(integer) => serializer.serialize_i64(*integer),
            Self::Unsigned(integer) => serializer.serialize_u64(integer.get()),
            Self::Float(number) => serializer.serialize_f64(number.get()),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list),
            Self::Object(object) => serializer.collect_map(object),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let is_json = deserializer.is_human_readable();
        let limit = if is_json { MAX_DEPTH } else { MAX_DEPTH + ANSWER_DEPTH };
        let _nested = Nested::enter(limit).map_err(D::Error::custom)?;
        if is_json { deserializer.deserialize_any(AnyValue) } else { Json::deserialize(deserializer) }
    }
}

/// Bounds the recursion of reading, whatever the bytes say.
struct Nested;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

impl Nested {
    fn enter(limit: u32) -> Result<Self, TooDeep> {
        let depth = DEPTH.get();
        if depth >= limit {
            return Err(TooDeep);
        }
        DEPTH.set(depth + 1);
        Ok(Self)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, integer: i64) -> Result<Json, E> {
        Ok(Json::Int(integer))
    }

    fn visit_u64<E>(self, integer: u64) -> Result<Json, E> {
        Ok(Json::from(integer))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Json, E> {
        Float::try_from(number).map(Json::Float).map_err(E::custom)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::from(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = elements.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = BTreeMap::new();
        while let Some((key, value)) = members.next_entry::<String, Json>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("an object names the key {key:?} twice")));
            }
            object.insert(key, value);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        serde_json::from_str(text).expect(text)
    }

    #[test]
    fn json_text_survives_and_is_made_canonical() {
        for (text, canonical) in [
            ("null", "null"),
            ("[true,false]", "[true,false]"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775807", "9223372036854775807"),
            ("18446744073709551615", "18446744073709551615"),
            ("1.0", "1.0"),
            ("-0.0", "0.0"),
            ("0.1", "0.1"),
            ("1e2", "100.0"),
            ("5.391140625e-300", "5.391140625e-300"),
            ("1.7976931348623157e308", "1.7976931348623157e308"),
            (r#""a\u00e9\ud83d\ude00\n""#, "\"aé😀\\n\""),
            (r#"{"b":1, "a":{"z":[], "":null}}"#, r#"{"a":{"":null,"z":[]},"b":1}"#),
        ] {
            let value = json(text);
            let printed = value.to_string();
            let expected: serde_json::Value = serde_json::from_str(canonical).expect("JSON");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&printed).expect("JSON"),
                expected,
                "{text}"
            );
            assert_eq!(json(&printed), value, "{text}");
            assert_eq!(json(canonical), value, "{text}");
        }
        assert_eq!(json(r#"{"b":1,"a":2}"#).to_string(), r#"{"a":2,"b":1}"#);
    }

    #[test]
    fn size_counts_values_texts_and_keys_up_to_the_limit() {
        for (text, size) in [("null", 32), ("[1,2.5]", 96), (r#""abc""#, 35), (r#"{"ab":["c"],"":0}"#, 195)] {
            assert_eq!(json(text).size(), size, "{text}");
        }
        let values = (MAX_SIZE / 32) as usize;
        let filled = |values| Json::List(vec![Json::Null; values - 1]);
        let takes = |value: &Json| {
            let mut room = Room::ALL;
            room.take_value(value).is_some()
        };
        assert!(takes(&filled(values)) && filled(values).size() == MAX_SIZE);
        assert!(!takes(&filled(values + 1)) && filled(values + 1).size() == MAX_SIZE);
    }

    #[test]
    fn numbers_of_different_types_differ() {
        assert_ne!(json("1"), json("1.0"));
        assert_eq!(json("1"), Json::Int(1));
        assert_eq!(json("9223372036854775808"), Json::Unsigned(Unsigned(1 << 63)));
        assert!(Unsigned::try_from(1).is_err() && Float::try_from(f64::NAN).is_err());
        assert!(serde_json::from_str::<Json>("1e400").is_err());
    }

    /// Every double survives its text: the parser rounds correctly.
    #[test]
    fn floats_survive_their_text() {
        let mut bits = 0x3ff0_0000_0000_0000_u64;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if let Ok(float) = Float::try_from(f64::from_bits(bits)) {
                let value = Json::Float(float);
                assert_eq!(json(&value.to_string()), value);
            }
        }
    }

    #[test]
    fn duplicate_keys_and_deep_values_are_refused() {
        assert!(serde_json::from_str::<Json>(r#"{"a":1,"a":1}"#).is_err());
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        let deepest = json(&nested(MAX_DEPTH as usize));
        assert_eq!(deepest.check_depth(MAX_DEPTH), Ok(()));
        assert_eq!(deepest.check_depth(MAX_DEPTH - 1), Err(TooDeep));
        let error = serde_json::from_str::<Json>(&nested(MAX_DEPTH as usize + 1)).expect_err("too deep");
        assert!(error.to_string().contains("deeper than 100"), "{error}");
        // The count starts again after a failure.
        assert_eq!(json(&nested(MAX_DEPTH as usize)), deepest);
    }
}
