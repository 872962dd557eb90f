//! Columns as values: how ids, digests, numbers, names and structures are stored.
//!
//! Invariant: a value reads back as it was written, floats to the last bit; a column that does not is [`Error::Corrupt`], never a panic.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::{Error, Kind, Result};
use super::database::Row;
use crate::ids::AdapterVersion;
use crate::spec::{Digest, HyperParameters};

/// Reads the row of a resource.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub(super) fn found<T>(
    row: Option<Row>,
    read: impl FnOnce(&Row) -> Result<T>,
    (kind, name): (Kind, impl fmt::Display),
) -> Result<T> {
    match row {
        Some(row) => read(&row),
        None => Err(Error::NotFound {
            kind,
            name: name.to_string(),
        }),
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Hyper-parameters that release 0.1 stored as text.
const FLOATS_AS_TEXT: [&str; 6] = [
    "learning_rate",
    "weight_decay",
    "warmup_share",
    "dropout",
    "clip_norm",
    "min_crop_area",
];

/// Typed columns of a row, by name.
pub(super) trait Columns {
    fn text(&self, column: &'static str) -> Result<String>;
    fn optional_text(&self, column: &'static str) -> Result<Option<String>>;
    fn int(&self, column: &'static str) -> Result<i64>;
    fn optional_int(&self, column: &'static str) -> Result<Option<i64>>;
    fn blob(&self, column: &'static str) -> Result<Vec<u8>>;
    fn optional_blob(&self, column: &'static str) -> Result<Option<Vec<u8>>>;

    fn id<T>(&self, column: &'static str) -> Result<T>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        self.text(column)?
            .parse()
            .map_err(|error: T::Err| corrupt(column, error))
    }

    /// A whole number that is not negative and fits.
    fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T> {
        let value = self.int(column)?;
        T::try_from(value).map_err(|_| corrupt(column, format!("{value} is out of range")))
    }

    fn version(&self, column: &'static str) -> Result<Option<AdapterVersion>> {
        let Some(value) = self.optional_int(column)? else {
            return Ok(None);
        };
        u32::try_from(value)
            .ok()
            .and_then(AdapterVersion::new)
            .map(Some)
            .ok_or_else(|| corrupt(column, format!("{value} is no version")))
    }

    fn digest(&self, column: &'static str) -> Result<Digest> {
        let bytes = self.blob(column)?;
        match bytes.as_slice().try_into() {
            Ok(digest) => Ok(Digest(digest)),
            Err(_) => Err(corrupt(column, format!("{} bytes", bytes.len()))),
        }
    }

    fn flag(&self, column: &'static str) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    /// A name of an enumeration.
    fn name<T: DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        let name = Value::String(self.text(column)?);
        serde_json::from_value(name).map_err(|error| corrupt(column, error))
    }

    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|error| corrupt(column, error))
    }

    fn optional_json<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>> {
        self.optional_text(column)?
            .map(|text| serde_json::from_str(&text).map_err(|error| corrupt(column, error)))
            .transpose()
    }

    /// Reads hyper-parameters; release 0.1 stored their floats as text.
    fn hyper_parameters(&self, column: &'static str) -> Result<HyperParameters> {
        let mut value: Value = self.json(column)?;
        let fields = value.as_object_mut().into_iter().flatten();
        for (name, field) in fields {
            if let Value::String(text) = field
                && FLOATS_AS_TEXT.contains(&name.as_str())
            {
                let float: f64 = text.parse().map_err(|error| corrupt(column, error))?;
                *field = Value::from(float);
            }
        }
        serde_json::from_value(value).map_err(|error| corrupt(column, error))
    }
}

/// A structure as it is stored.
pub(super) fn json<T: Serialize>(column: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| corrupt(column, error))
}

/// A value as JSON that is no text yet.
pub(super) fn value<T: Serialize>(column: &'static str, value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| corrupt(column, error))
}

/// An enumeration's name as it is stored.
pub(super) fn name<T: Serialize>(column: &'static str, value: T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => Ok(name),
        Ok(other) => Err(corrupt(column, format!("{other} is no name"))),
        Err(error) => Err(corrupt(column, error)),
    }
}

/// A size or count as it is stored.
pub(super) fn int(column: &'static str, value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|error| corrupt(column, error))
}

pub(super) fn corrupt(column: &'static str, source: impl Into<Cause>) -> Error {
    Error::Corrupt {
        column,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyper_parameters_keep_every_bit() {
        // Seventeen digits, as sums and single-precision values have them.
        for rate in [0.1 + 0.2, f64::from(2e-3_f32), f64::MIN_POSITIVE, 2e-3, 1.0] {
            for next in 0..64 {
                let hyper = HyperParameters {
                    learning_rate: Some(f64::from_bits(rate.to_bits() + next)),
                    seed: Some(u64::MAX),
                    horizontal_flip: Some(true),
                    ..HyperParameters::default()
                };
                let text = json("hyper_parameters", &hyper).expect("serialisable");
                let read: HyperParameters = serde_json::from_str(&text).expect("json");
                assert_eq!(read, hyper, "{text}");
            }
        }
    }
}
