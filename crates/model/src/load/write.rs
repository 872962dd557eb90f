//! Safetensors bytes that depend on nothing but their content.
//!
//! Invariant: equal tensors and metadata give equal bytes (the `safetensors` crate keeps metadata in a hash map, whose order differs from run to run).

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Name of the tensor, distinct.
    pub name: String,
    /// Number format of the tensor.
    pub dtype: Dtype,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
    /// Values of the tensor, little-endian, row-major.
    pub bytes: Vec<u8>,
}

/// The bytes of a file with these tensors, in the order given.
pub fn serialize(tensors: &[Stored], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut end = 0;
    for tensor in tensors {
        let begin = end;
        end += tensor.bytes.len();
        header.insert(
            tensor.name.clone(),
            json!({
                "dtype": format!("{:?}", tensor.dtype),
                "shape": tensor.shape,
                "data_offsets": [begin, end],
            }),
        );
    }
    let mut json = Value::Object(header).to_string().into_bytes();
    // Readers that map the file want the data aligned.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut file = Vec::with_capacity(8 + json.len() + end);
    file.extend((json.len() as u64).to_le_bytes());
    file.extend(json);
    for tensor in tensors {
        file.extend(&tensor.bytes);
    }
    file
}
