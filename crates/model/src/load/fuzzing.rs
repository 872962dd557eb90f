//! Entry points for fuzzers: whole files of tensors, archives' directories, pickles, and the JSON beside the weights, each with what must hold of
//! what is read.
//!
//! Invariant: no input makes these panic; that is the only way to fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde_json::json;

use super::naming::{Naming, Scheme};
use super::{Archive, CONFIG_KEY, Overrides, Stored, plan, serialize};
use crate::spec::{Digest, Normalization};
use crate::{Activation, BackboneConfig, exchange};

pub use super::torch::fuzzing::{pickle, zip};

/// A backbone of one block on 2 x 2 patches.
const CONFIG: BackboneConfig = BackboneConfig {
    image_size: 4,
    patch_size: 2,
    width: 4,
    layers: 1,
    heads: 2,
    mlp_width: 8,
    activation: Activation::Gelu,
    eps: 1e-5,
    pre_norm: true,
    patch_bias: false,
    normalization: Normalization::CLIP,
};
const SHARD: &str = "model-1.safetensors";

/// Reads any bytes as a file of tensors, in whichever format they begin: what is read lies inside the bytes.
pub fn archive(data: &[u8]) {
    if let Ok(archive) = Archive::in_memory("fuzzed", data.to_vec()) {
        for entry in &archive.header().entries {
            std::hint::black_box(archive.data(entry));
        }
    }
}

/// Reads any bytes as a file of adapters: a set that is accepted fits its backbone and comes back from a PyTorch file with the same bits.
///
/// # Panics
/// When the set does not fit or comes back changed.
pub fn adapters(data: &[u8]) {
    let read = |bytes: Vec<u8>| {
        let archive = Archive::in_memory("fuzzed", bytes).ok()?;
        let set = exchange::read(archive, &CONFIG, Digest([0; 32])).ok()?;
        let adapter = set.adapter;
        Some(set.into_set(&CONFIG, adapter))
    };
    let Some(Ok(set)) = read(data.to_vec()) else {
        return;
    };
    let again = set
        .to_safetensors(BTreeMap::new())
        .and_then(|bytes| exchange::to_torch(&bytes))
        .map(read);
    match again {
        Ok(Some(Ok(again))) => assert!(same(&set, &again), "it came back as another"),
        other => panic!("it did not come back: {other:?}"),
    }
}

fn same(a: &crate::AdapterSet, b: &crate::AdapterSet) -> bool {
    let bytes = |set: &crate::AdapterSet| set.to_safetensors(BTreeMap::new()).ok();
    bytes(a) == bytes(b)
}

/// Puts any text in the place of one of the JSON files beside small, good weights; the first byte says which.
///
/// # Panics
/// When the folder cannot be written.
pub fn configuration(data: &[u8]) {
    let Some((&which, text)) = data.split_first() else {
        return;
    };
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    let folder = folder.path();
    let clip = || {
        json!({"model_type": "clip_vision_model", "image_size": 4, "patch_size": 2, "hidden_size": 4,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "hidden_act": "gelu"})
    };
    let of_clip = (Scheme::HfClip, "vision_model.");
    match which % 7 {
        0 => weights(folder, "model.safetensors", of_clip),
        1 => weights(folder, "model.safetensors", (Scheme::HfVit, "vit.")),
        2 => weights(folder, "model.safetensors", (Scheme::Timm, "")),
        3 => weights(
            folder,
            "open_clip_model.safetensors",
            (Scheme::Reference, "visual."),
        ),
        4 | 5 => {
            write(folder, "config.json", clip().to_string().as_bytes());
            let name = ["model.safetensors", SHARD][usize::from(which % 7 - 4)];
            weights(folder, name, of_clip);
        }
        _ => {
            let stored = stored((Scheme::Reference, ""));
            let text = String::from_utf8_lossy(text).into_owned();
            let own = BTreeMap::from([(CONFIG_KEY.to_owned(), text)]);
            write(folder, "own.safetensors", &serialize(&stored, &own));
        }
    }
    let name = match which % 7 {
        0..=2 => Some("config.json"),
        3 => Some("open_clip_config.json"),
        4 => Some("preprocessor_config.json"),
        5 => Some("model.safetensors.index.json"),
        _ => None,
    };
    if let Some(name) = name {
        write(folder, name, text);
    }
    if let Ok(plan) = plan(folder, &Overrides::default()) {
        let config = plan.config();
        assert!(config.validate().is_ok(), "{config:?}");
        assert!(plan.digest().is_ok(), "zeros are finite");
    }
}

fn weights(folder: &Path, name: &str, scheme: (Scheme, &'static str)) {
    let file = serialize(&stored(scheme), &BTreeMap::new());
    write(folder, name, &file);
}

/// The tensors of [`CONFIG`], all zeros, under a family's names.
fn stored((scheme, prefix): (Scheme, &'static str)) -> Vec<Stored> {
    let naming = Naming { scheme, prefix };
    let imagenet = matches!(scheme, Scheme::HfVit | Scheme::Timm);
    let config = BackboneConfig {
        pre_norm: !imagenet,
        patch_bias: imagenet,
        ..CONFIG
    };
    let tensors = config.tensors();
    let parts = tensors
        .iter()
        .flat_map(|(name, shape)| naming.stored(name, shape));
    parts
        .map(|(name, shape)| Stored {
            name,
            dtype: Dtype::F32,
            bytes: vec![0; 4 * shape.iter().product::<usize>()],
            shape,
        })
        .collect()
}

fn write(folder: &Path, name: &str, content: &[u8]) {
    if let Err(error) = fs::write(folder.join(name), content) {
        panic!("{name} cannot be written: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn each(seeds: &[&[u8]], count: u64, target: fn(&[u8])) {
        let mut random = Stream::new(5, "fuzzing");
        for seed in seeds {
            target(seed);
            for _ in 0..count {
                let mut data = seed.to_vec();
                for _ in 0..=random.below(3) {
                    let at = random.below(data.len() as u64) as usize;
                    data[at] = random.bits() as u8;
                }
                target(&data);
            }
        }
    }

    fn head() -> Vec<u8> {
        let tensor = |name: &str, shape: &[usize]| Stored {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: vec![0; 4 * shape.iter().product::<usize>()],
        };
        let tensors = [tensor("fc.weight", &[3, 4]), tensor("fc.bias", &[3])];
        serialize(&tensors, &BTreeMap::new())
    }

    #[test]
    fn nothing_makes_the_readers_of_tensors_panic() {
        let safetensors = head();
        let torch = exchange::to_torch(&safetensors).expect("is written");
        for target in [archive, adapters, zip] {
            each(&[&safetensors, &torch], 1000, target);
        }
        each(&[&torch], 1000, pickle);
    }

    #[test]
    fn a_good_configuration_beside_the_weights_loads_and_a_changed_one_does_not_panic() {
        let text = |which: u8, json: serde_json::Value| {
            let text = json.to_string();
            [&[which][..], text.as_bytes()].concat()
        };
        let vit = json!({"model_type": "vit", "image_size": 4, "patch_size": 2, "hidden_size": 4,
            "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8});
        let timm = json!({"architecture": "vit_tiny_patch2_4", "model_args": {"num_heads": 2}, "pretrained_cfg": {}});
        let open_clip = json!({"model_cfg": {"vision_cfg": {"head_width": 2, "width": 4}}});
        let mean = json!({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]});
        let seeds = [
            text(1, vit),
            text(2, timm),
            text(3, open_clip),
            text(4, mean),
        ];
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        each(&seeds, 100, configuration);
    }
}
