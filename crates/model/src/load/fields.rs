//! Values of a JSON configuration, each read with its type and range and named when it is wrong.
//!
//! Invariant: a key that is absent or null gives the default; a key that is there and wrong is an error, never the default.

use serde_json::{Map, Value};

use crate::spec::Invalid;

/// The object of a configuration.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

/// Largest count that a configuration may say; the model's own limits are tighter.
const MAX_COUNT: u64 = 1 << 24;

impl<'a> Fields<'a> {
    /// The value of a key; null counts as absent.
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// The whole number of a key, at least 1.
    pub(super) fn count(self, key: &'static str, default: usize) -> Result<usize, Invalid> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => {
                positive(value).ok_or_else(|| wrong(key, "a whole number from 1", value))
            }
        }
    }

    /// The side of a square under a key: a number, or the same number twice.
    pub(super) fn side(self, key: &'static str, default: usize) -> Result<usize, Invalid> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        let counts: Option<Vec<usize>> = match value.as_array() {
            Some(pair) if pair.len() != 2 => None,
            Some(pair) => pair.iter().map(positive).collect(),
            None => positive(value).map(|side| vec![side]),
        };
        match counts.as_deref() {
            Some([side]) => Ok(*side),
            Some([height, width]) if height == width => Ok(*height),
            Some([height, width]) => Err(Invalid::new(
                key,
                format!("{height} x {width} is not square; only square grids are supported"),
            )),
            _ => Err(wrong(key, "the side of a square", value)),
        }
    }

    /// The number of a key.
    pub(super) fn number(self, key: &'static str, default: f64) -> Result<f64, Invalid> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite())
                .ok_or_else(|| wrong(key, "a number", value)),
        }
    }

    /// The text of a key.
    pub(super) fn text(self, key: &'static str) -> Result<Option<&'a str>, Invalid> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map(Some)
                .ok_or_else(|| wrong(key, "a text", value)),
        }
    }

    /// The boolean of a key.
    pub(super) fn flag(self, key: &'static str, default: bool) -> Result<bool, Invalid> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| wrong(key, "true or false", value)),
        }
    }

    /// The three numbers of a key, one for each colour channel.
    pub(super) fn channels(self, key: &'static str) -> Result<Option<[f32; 3]>, Invalid> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let numbers: Option<Vec<f32>> = value.as_array().and_then(|list| {
            list.iter()
                .map(|number| number.as_f64().map(|number| number as f32))
                .collect()
        });
        numbers
            .and_then(|numbers| <[f32; 3]>::try_from(numbers).ok())
            .filter(|numbers| numbers.iter().all(|number| number.is_finite()))
            .map(Some)
            .ok_or_else(|| wrong(key, "three numbers", value))
    }

    /// The object of a key.
    pub(super) fn object(self, key: &'static str) -> Result<Option<Fields<'a>>, Invalid> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_object()
                .map(|inner| Some(Fields(inner)))
                .ok_or_else(|| wrong(key, "an object", value)),
        }
    }
}

fn positive(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .filter(|count| (1..=MAX_COUNT).contains(count))
        .map(|count| count as usize)
}

fn wrong(key: &'static str, expected: &str, value: &Value) -> Invalid {
    let mut got: String = value.to_string().chars().take(60).collect();
    if got.chars().count() == 60 {
        got.push('…');
    }
    Invalid::new(key, format!("expected {expected}, got {got}"))
}
