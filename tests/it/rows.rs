//! Parquet files as tests look at them: rows as JSON, features by their bits.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::Value;

/// A whole file.
pub(crate) struct Rows {
    /// The metadata of the file, by key.
    pub(crate) about: BTreeMap<String, String>,
    /// The rows without their features.
    pub(crate) rows: Vec<Value>,
    /// The bits of each row's features.
    pub(crate) features: Vec<Vec<u32>>,
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Rows {
    let file = File::open(path).expect("a file");
    let reader = SerializedFileReader::new(file).expect("a whole Parquet file");
    let about = reader.metadata().file_metadata().key_value_metadata();
    let about = about.into_iter().flatten();
    let about = about.map(|own| (own.key.clone(), own.value.clone().unwrap_or_default()));
    let mut all = Rows {
        about: about.collect(),
        rows: Vec::new(),
        features: Vec::new(),
    };
    for row in reader.get_row_iter(None).expect("rows") {
        let row = row.expect("a row");
        let features = row.get_column_iter().find(|(name, _)| *name == "features");
        all.features.extend(features.map(|(_, field)| bits(field)));
        all.rows.push(object(&row));
    }
    all
}

fn object(row: &Row) -> Value {
    let fields = row
        .get_column_iter()
        .filter(|(name, _)| *name != "features");
    let fields = fields.map(|(name, field)| (name.clone(), value(field)));
    Value::Object(fields.collect())
}

// One of many types of another crate, of which only these are written.
#[allow(clippy::wildcard_enum_match_arm)]
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => (*flag).into(),
        Field::Int(number) => (*number).into(),
        Field::Long(number) => (*number).into(),
        // With its own digits, as JSON has it.
        Field::Float(number) => number.to_string().parse::<f64>().ok().into(),
        Field::Double(number) => (*number).into(),
        Field::Str(text) => text.as_str().into(),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        other => panic!("{other:?} is of no type that is written"),
    }
}

#[allow(clippy::wildcard_enum_match_arm)]
fn bits(field: &Field) -> Vec<u32> {
    let Field::ListInternal(list) = field else {
        panic!("{field:?} is no list");
    };
    let numbers = list.elements().iter();
    let bits = numbers.map(|number| match number {
        Field::Float(number) => number.to_bits(),
        Field::Float16(number) => number.to_bits().into(),
        other => panic!("{other:?} is no feature"),
    });
    bits.collect()
}
