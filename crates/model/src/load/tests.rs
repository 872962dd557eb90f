//! Whole checkpoints in temporary folders: what loads, and what is refused by which name.

mod config;
mod header;
mod layouts;
mod shards;
mod sizes;

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Error, Float, Loaded, Stored, open, serialize};

/// A CLIP vision tower of two blocks on 2 x 2 patches, as transformers 4 names it.
pub(super) struct Tiny {
    pub(super) config: Value,
    pub(super) tensors: Vec<Stored>,
}

pub(super) const WIDTH: usize = 6;
const MLP: usize = 10;

pub(super) fn tiny() -> Tiny {
    let config = json!({
        "model_type": "clip_vision_model",
        "image_size": 8,
        "patch_size": 4,
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": MLP,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    });
    let c = WIDTH;
    let mut shapes = vec![
        ("embeddings.class_embedding".to_owned(), vec![c]),
        (
            "embeddings.patch_embedding.weight".to_owned(),
            vec![c, 3, 4, 4],
        ),
        (
            "embeddings.position_embedding.weight".to_owned(),
            vec![5, c],
        ),
    ];
    let mut pair = |name: String, rows: usize, columns: Option<usize>| {
        let weight = [Some(rows), columns].into_iter().flatten().collect();
        shapes.push((format!("{name}.weight"), weight));
        shapes.push((format!("{name}.bias"), vec![rows]));
    };
    for norm in ["pre_layrnorm", "post_layernorm"] {
        pair(norm.to_owned(), c, None);
    }
    for block in 0..2 {
        let own = |name: &str| format!("encoder.layers.{block}.{name}");
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            pair(own(&format!("self_attn.{name}")), c, Some(c));
        }
        pair(own("mlp.fc1"), MLP, Some(c));
        pair(own("mlp.fc2"), c, Some(MLP));
        pair(own("layer_norm1"), c, None);
        pair(own("layer_norm2"), c, None);
    }
    let tensors = shapes
        .into_iter()
        .enumerate()
        .map(|(at, (name, shape))| floats(&format!("vision_model.{name}"), &shape, at))
        .collect();
    Tiny { config, tensors }
}

/// A tensor of distinct values that every float format holds.
pub(super) fn floats(name: &str, shape: &[usize], seed: usize) -> Stored {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count)
        .map(|i| ((i * 7 + seed * 13) % 64) as f32 / 32.0 - 1.0)
        .collect();
    Stored {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: Float::F32.encode(&values),
    }
}

impl Tiny {
    pub(super) fn at(&mut self, name: &str) -> &mut Stored {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .expect("a tensor of the tiny checkpoint")
    }

    pub(super) fn file(&self) -> Vec<u8> {
        serialize(&self.tensors, &std::collections::BTreeMap::new())
    }

    pub(super) fn folder(&self) -> TempDir {
        let folder = TempDir::new().expect("a temporary folder");
        self.write_config(folder.path());
        write(folder.path(), "model.safetensors", self.file());
        folder
    }

    pub(super) fn write_config(&self, folder: &Path) {
        write(folder, "config.json", self.config.to_string());
    }

    pub(super) fn load(&self) -> Result<Loaded, Error> {
        open(self.folder().path())
    }
}

pub(super) fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    fs::write(folder.join(name), content).expect("a temporary file is written");
}

/// The message of a refusal.
pub(super) fn refusal(loaded: Result<Loaded, Error>) -> String {
    match loaded {
        Ok(_) => panic!("loaded what must be refused"),
        Err(error) => error.to_string(),
    }
}
