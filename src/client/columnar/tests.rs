//! What is written is read back by the crate's reader: values, absences, lists, groups of rows.

use std::fs::File;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::json;

use super::*;

const SCHEMA: &str = "message answer {
    required binary video (STRING);
    optional int32 rank;
    required group scores (LIST) {
        repeated group list {
            required group element { required binary label (STRING); optional float score; }
        }
    }
    optional group error { required binary message (STRING); optional binary reason (STRING); }
    required group features (LIST) { repeated group list { required float element; } }
}";

/// A row as JSON, like the one that it was made of.
// A field has many types, of which only these are written.
#[allow(clippy::wildcard_enum_match_arm)]
fn value(field: &Field) -> Value {
    match field {
        Field::Str(text) => text.as_str().into(),
        Field::Int(number) => (*number).into(),
        Field::Float(number) => number.to_string().parse::<f64>().unwrap().into(),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::Null => Value::Null,
        other => panic!("{other:?} is not of the schema"),
    }
}

fn object(row: &Row) -> Value {
    let fields = row.get_column_iter();
    let fields = fields.map(|(name, field)| (name.clone(), value(field)));
    Value::Object(fields.collect())
}

#[test]
fn rows_are_read_back_whatever_is_absent_or_empty_in_whatever_groups() {
    let score = |label: &str, score: Value| json!({ "label": label, "score": score });
    let rows = [
        json!({ "video": "a", "rank": 1, "scores": [score("x", 0.25.into()), score("y", Value::Null)], "error": null }),
        json!({ "video": "b", "rank": null, "scores": [], "error": { "message": "broken", "reason": null } }),
        json!({ "video": "c", "rank": -7, "scores": [score("z", 0.1.into())], "error": { "message": "gone", "reason": "WHY" } }),
    ];
    let features = [vec![1.5f32, -0.0, f32::MIN_POSITIVE], vec![], vec![3.25]];
    let folder = tempfile::tempdir().unwrap();
    for (limit, groups) in [(1, 3), (250, 2), (1 << 20, 1)] {
        let out = folder.path().join(format!("{limit}.parquet"));
        let mut columns = Columns::with_groups(&out, SCHEMA, limit).unwrap();
        columns.describe("version", "tasks/t/versions/1");
        for (row, features) in rows.iter().zip(&features) {
            let bytes: Vec<u8> = features.iter().flat_map(|own| own.to_le_bytes()).collect();
            columns.add(row, &bytes).unwrap();
            assert!(!out.exists(), "it is not whole");
        }
        columns.finish().unwrap();
        let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
        let metadata = reader.metadata();
        assert_eq!(metadata.num_row_groups(), groups, "{limit}");
        let about = metadata.file_metadata().key_value_metadata().unwrap();
        assert_eq!(about[0].key, "frameshift.version");
        assert_eq!(about[0].value.as_deref(), Some("tasks/t/versions/1"));
        let read: Vec<Row> = reader
            .get_row_iter(None)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(read.len(), rows.len());
        for ((read, row), features) in read.iter().zip(&rows).zip(&features) {
            let mut expected = row.clone();
            let digits = |own: &f32| own.to_string().parse::<f64>().unwrap();
            expected[FEATURES] = features.iter().map(digits).collect();
            assert_eq!(object(read), expected);
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_value_of_another_type_is_an_error_and_leaves_no_file() {
    let whole = json!({ "video": "a", "rank": 1, "scores": [], "error": null });
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("answers.parquet");
    for (field, wrong) in [
        ("video", Value::Null),
        ("video", 7.into()),
        ("rank", (i64::from(i32::MAX) + 1).into()),
        ("scores", Value::Null),
        ("scores", json!([{ "score": 1 }])),
        ("error", json!({ "reason": "WHY" })),
    ] {
        let mut row = whole.clone();
        row[field] = wrong;
        let mut columns = Columns::create(&out, SCHEMA).unwrap();
        let error = columns.add(&row, &[]).expect_err("another type");
        assert!(error.to_string().contains("answers.parquet"), "{error}");
    }
    let mut columns = Columns::create(&out, SCHEMA).unwrap();
    columns
        .add(&whole, &[1, 2, 3])
        .expect_err("no whole number");
    drop(columns);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = Columns::create(Path::new("/no/such/folder/x.parquet"), SCHEMA);
    assert_eq!(nowhere.err().map(|error| error.exit_code()), Some(73));
}
