//! Golden tensors: read, and compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// Golden tensors: shape and values, widened to f64.
pub(super) struct Golden(pub(super) BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Golden {
    pub(super) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).expect("a golden file is safetensors");
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let data = view.data();
            // Golden files have three formats; any other is a file that is not understood.
            #[allow(clippy::wildcard_enum_match_arm)]
            let values = match view.dtype() {
                Dtype::F32 => wide(data, f32::from_le_bytes, f64::from),
                Dtype::F64 => wide(data, f64::from_le_bytes, |value| value),
                Dtype::I64 => wide(data, i64::from_le_bytes, |value| value as f64),
                other => panic!("{}: {name} is {other:?}", path.display()),
            };
            tensors.insert(name, (view.shape().to_vec(), values));
        }
        Self(tensors)
    }

    pub(super) fn get(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("the golden file lacks {name}"))
    }

    /// Values that were f32.
    pub(super) fn floats(&self, name: &str) -> Vec<f32> {
        self.get(name).1.iter().map(|&value| value as f32).collect()
    }
}

fn wide<const N: usize, T>(bytes: &[u8], read: fn([u8; N]) -> T, widen: fn(T) -> f64) -> Vec<f64> {
    let (values, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty());
    values.iter().map(|&value| widen(read(value))).collect()
}

/// Largest distance of two lists.
pub(super) fn distance(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len(), "as many values");
    assert!(got.iter().all(|value| value.is_finite()), "finite values");
    got.iter()
        .zip(expected)
        .map(|(&got, &expected)| (f64::from(got) - expected).abs())
        .fold(0.0, f64::max)
}
