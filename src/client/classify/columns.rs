//! Columns of classified videos as Parquet: the fields of a JSON line.

use serde_json::Value;

use crate::client::lines::Shape;

/// A clip of a data set.
const OF_DATASET: &str = "message clip {
    required binary video (STRING);
    required binary label (STRING);
    required group labels (LIST) {
        repeated group list {
            required binary element (STRING);
        }
    }
    optional float score;
    required int32 rank;
    required group predictions (LIST) {
        repeated group list {
            required group element {
                required binary label (STRING);
                required int32 label_index;
                optional float score;
                required boolean selected;
            }
        }
    }
    required boolean unknown_label;
    optional group error {
        required binary message (STRING);
        optional binary reason (STRING);
    }
}";

/// A video of a folder.
const OF_FOLDER: &str = "message clip {
    required binary video (STRING);
    optional binary version (STRING);
    required group predictions (LIST) {
        repeated group list {
            required group element {
                required binary label (STRING);
                required int32 label_index;
                optional float score;
                required boolean selected;
            }
        }
    }
    optional double confidence;
    optional boolean unknown;
    optional group error {
        required binary message (STRING);
        optional binary reason (STRING);
        optional binary code (STRING);
        optional int32 exit_code;
        optional binary request_id (STRING);
    }
}";

/// Columns of the clips of a data set, which one version classified.
pub(in crate::client) fn of_dataset(version: &str, dataset: &str, split: &str) -> Shape {
    let about = [("version", version), ("dataset", dataset), ("split", split)];
    Shape {
        schema: OF_DATASET,
        about: about.map(|(key, value)| (key, value.to_owned())).into(),
        row: |line| line,
    }
}

/// Columns of the videos of a folder, which one version classified.
pub(super) fn of_folder(version: &str, folder: &str) -> Shape {
    let about = [("version", version), ("folder", folder)];
    Shape {
        schema: OF_FOLDER,
        about: about.map(|(key, value)| (key, value.to_owned())).into(),
        row: |mut line| {
            // A line has the error as a command prints it, inside an object that says that it is one.
            if let Some(error) = line.pointer_mut("/error/error").map(Value::take) {
                line["error"] = error;
            }
            line
        },
    }
}
