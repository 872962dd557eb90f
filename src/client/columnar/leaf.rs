//! The values of one column that are not written yet, with their levels.
//!
//! Invariant: there is one pair of levels for each value, each absent value and each empty list.

use std::io;

use bytes::Bytes;
use parquet::basic::Type as Physical;
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType,
    FloatType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedColumnWriter;
use parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

/// Half floats that are made ready to be written at a time.
const AT_ONCE: usize = 4096;
/// Bytes of a half float.
const HALF: usize = 2;
/// Bytes of a value's two levels.
const LEVELS: usize = 4;

/// A column of the rows that are held.
pub(super) struct Leaf {
    values: Values,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    /// The definition level at which there is a value.
    defined: i16,
    /// Bytes of the texts.
    texts: usize,
}

enum Values {
    Flags(Vec<bool>),
    Ints(Vec<i32>),
    Longs(Vec<i64>),
    Floats(Vec<f32>),
    Doubles(Vec<f64>),
    Texts(Vec<ByteArray>),
    /// Two bytes each.
    Halves(Vec<u8>),
}

impl Leaf {
    pub(super) fn of(column: &ColumnDescriptor) -> io::Result<Self> {
        let values = match column.physical_type() {
            Physical::BOOLEAN => Values::Flags(Vec::new()),
            Physical::INT32 => Values::Ints(Vec::new()),
            Physical::INT64 => Values::Longs(Vec::new()),
            Physical::FLOAT => Values::Floats(Vec::new()),
            Physical::DOUBLE => Values::Doubles(Vec::new()),
            Physical::BYTE_ARRAY => Values::Texts(Vec::new()),
            Physical::FIXED_LEN_BYTE_ARRAY if column.type_length() == 2 => {
                Values::Halves(Vec::new())
            }
            Physical::FIXED_LEN_BYTE_ARRAY | Physical::INT96 => {
                let name = column.path().string();
                return Err(io::Error::other(format!("{name} has a type of no value")));
            }
        };
        Ok(Self {
            values,
            definitions: Vec::new(),
            repetitions: Vec::new(),
            defined: column.max_def_level(),
            texts: 0,
        })
    }

    /// Bytes that the values and their levels take.
    pub(super) fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Flags(values) => values.len(),
            Values::Ints(values) => size_of_val(values.as_slice()),
            Values::Longs(values) => size_of_val(values.as_slice()),
            Values::Floats(values) => size_of_val(values.as_slice()),
            Values::Doubles(values) => size_of_val(values.as_slice()),
            Values::Texts(values) => size_of_val(values.as_slice()) + self.texts,
            Values::Halves(values) => values.len(),
        };
        values + self.definitions.len() * LEVELS
    }

    fn level(&mut self, (definition, repetition): (i16, i16)) {
        self.definitions.push(definition);
        self.repetitions.push(repetition);
    }

    /// Adds that there is no value, or no element of a list.
    pub(super) fn absent(&mut self, levels: (i16, i16)) {
        self.level(levels);
    }

    /// Adds a value. Returns whether it is of the column's type.
    #[must_use]
    pub(super) fn value(&mut self, value: &Value, repetition: i16) -> bool {
        let added = match &mut self.values {
            Values::Flags(values) => value.as_bool().map(|value| values.push(value)),
            Values::Ints(values) => {
                let value = value.as_i64().and_then(|value| value.try_into().ok());
                value.map(|value| values.push(value))
            }
            Values::Longs(values) => value.as_i64().map(|value| values.push(value)),
            // JSON has the float's own digits.
            Values::Floats(values) => value.as_f64().map(|value| values.push(value as f32)),
            Values::Doubles(values) => value.as_f64().map(|value| values.push(value)),
            Values::Texts(values) => value.as_str().map(|value| {
                self.texts += value.len();
                values.push(ByteArray::from(value));
            }),
            Values::Halves(_) => None,
        };
        if added.is_some() {
            self.level((self.defined, repetition));
        }
        added.is_some()
    }

    /// Adds a list of little-endian numbers.
    pub(super) fn numbers(&mut self, bytes: &[u8]) -> io::Result<()> {
        let count = match &mut self.values {
            Values::Floats(values) => {
                let (numbers, rest) = bytes.as_chunks();
                values.extend(numbers.iter().map(|own| f32::from_le_bytes(*own)));
                rest.is_empty().then_some(numbers.len())
            }
            Values::Halves(values) => {
                values.extend(bytes);
                let whole = bytes.len().is_multiple_of(HALF);
                whole.then_some(bytes.len() / HALF)
            }
            Values::Flags(_)
            | Values::Ints(_)
            | Values::Longs(_)
            | Values::Doubles(_)
            | Values::Texts(_) => None,
        };
        let problem = || io::Error::other("features are of another type than their column");
        let count = count.ok_or_else(problem)?;
        if count == 0 {
            self.absent((0, 0));
        }
        for at in 0..count {
            self.level((self.defined, i16::from(at > 0)));
        }
        Ok(())
    }

    /// Writes all values and forgets them.
    pub(super) fn write(
        &mut self,
        column: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), ParquetError> {
        let levels = (Some(&*self.definitions), Some(&*self.repetitions));
        let (definitions, repetitions) = levels;
        macro_rules! written {
            ($values:ident, $type:ty) => {{
                let column = column.typed::<$type>();
                column.write_batch($values, definitions, repetitions)?;
                $values.clear();
            }};
        }
        match &mut self.values {
            Values::Flags(values) => written!(values, BoolType),
            Values::Ints(values) => written!(values, Int32Type),
            Values::Longs(values) => written!(values, Int64Type),
            Values::Floats(values) => written!(values, FloatType),
            Values::Doubles(values) => written!(values, DoubleType),
            Values::Texts(values) => written!(values, ByteArrayType),
            Values::Halves(values) => {
                let values = Bytes::from(std::mem::take(values));
                self.write_halves(&values, column)?;
            }
        }
        self.definitions.clear();
        self.repetitions.clear();
        self.texts = 0;
        Ok(())
    }

    /// Writes half floats some rows at a time: what the crate takes is 16 times as large.
    fn write_halves(
        &self,
        values: &Bytes,
        column: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), ParquetError> {
        let column = column.typed::<FixedLenByteArrayType>();
        let (mut from, mut at) = (0, 0);
        while from < self.definitions.len() {
            let most = (from + AT_ONCE).min(self.definitions.len());
            // A batch begins with a row.
            let next_row = self.repetitions[most..]
                .iter()
                .position(|&level| level == 0);
            let to = next_row.map_or(self.definitions.len(), |rest| most + rest);
            let definitions = &self.definitions[from..to];
            let present = definitions.iter().filter(|&&level| level == self.defined);
            let halves: Vec<FixedLenByteArray> = (at..)
                .step_by(HALF)
                .take(present.count())
                .map(|at| ByteArray::from(values.slice(at..at + HALF)).into())
                .collect();
            at += halves.len() * HALF;
            column.write_batch(
                &halves,
                Some(definitions),
                Some(&self.repetitions[from..to]),
            )?;
            from = to;
        }
        Ok(())
    }
}
