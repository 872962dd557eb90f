//! Published sizes at full size: headers and configurations as they are, with holes for the values, which a plan does not read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::naming::{Naming, Scheme};
use super::super::{Overrides, plan};
use super::write;
use crate::spec::Normalization;
use crate::{Activation, BackboneConfig};

/// Image, patch, width, layers, heads, MLP.
type Sizes = [usize; 6];

const S16: Sizes = [224, 16, 384, 12, 6, 1536];
const B32: Sizes = [224, 32, 768, 12, 12, 3072];
const B16: Sizes = [224, 16, 768, 12, 12, 3072];
const L14: Sizes = [224, 14, 1024, 24, 16, 4096];
const L14_336: Sizes = [336, 14, 1024, 24, 16, 4096];
const H14: Sizes = [224, 14, 1280, 32, 16, 5120];
const G14: Sizes = [224, 14, 1408, 40, 16, 6144];

fn config([image_size, patch_size, width, layers, heads, mlp_width]: Sizes) -> BackboneConfig {
    BackboneConfig {
        image_size,
        patch_size,
        width,
        layers,
        heads,
        mlp_width,
        activation: Activation::Gelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    }
}

/// A safetensors file of a model's names and shapes whose values take no room on the disk.
fn weights(path: &Path, config: &BackboneConfig, scheme: Scheme, prefix: &'static str) {
    let naming = Naming { scheme, prefix };
    let mut header = BTreeMap::new();
    let mut end = 0;
    for (name, shape) in config.tensors() {
        for (name, shape) in naming.stored(&name, &shape) {
            let begin = end;
            end += 4 * shape.iter().product::<usize>();
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]});
            header.insert(name, entry);
        }
    }
    let mut json = json!(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut file = File::create(path).expect("is created");
    file.write_all(&(json.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(&json))
        .and_then(|()| file.set_len((8 + json.len() + end) as u64))
        .expect("is written");
}

fn sizes_of(folder: &TempDir, overrides: &str) -> (Sizes, Activation) {
    let overrides: Overrides = overrides.parse().expect("overrides");
    let plan = plan(folder.path(), &overrides).expect("is read");
    let own = plan.config();
    let sizes = [
        own.image_size,
        own.patch_size,
        own.width,
        own.layers,
        own.heads,
        own.mlp_width,
    ];
    (sizes, own.activation)
}

#[test]
fn every_published_size_of_clip_is_read_in_every_layout() {
    for sizes in [B32, B16, L14, L14_336, H14, G14] {
        let config = config(sizes);
        let [image, patch, width, layers, heads, mlp] = sizes;
        let folder = |name: &str, json: Value, file: &str, scheme, prefix| {
            let folder = TempDir::new().expect("a temporary folder");
            if !name.is_empty() {
                write(folder.path(), name, json.to_string());
            }
            weights(&folder.path().join(file), &config, scheme, prefix);
            folder
        };
        let vision = json!({"image_size": image, "patch_size": patch, "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": mlp, "hidden_act": "gelu"});
        let hugging_face = json!({"model_type": "clip", "vision_config": vision});
        let open_clip = json!({"model_cfg": {"vision_cfg": {"image_size": image, "patch_size": patch, "width": width,
            "layers": layers, "head_width": width / heads, "mlp_ratio": mlp as f64 / width as f64}}});
        let clip = (Scheme::HfClip, "vision_model.");
        let own = (Scheme::Reference, "visual.");
        let folders = [
            folder(
                "config.json",
                hugging_face,
                "model.safetensors",
                clip.0,
                clip.1,
            ),
            folder(
                "open_clip_config.json",
                open_clip,
                "open_clip_model.safetensors",
                own.0,
                own.1,
            ),
            folder("", Value::Null, "bare.safetensors", own.0, own.1),
        ];
        for (i, folder) in folders.iter().enumerate() {
            let said = if i == 2 { "activation=gelu" } else { "" };
            assert_eq!(
                sizes_of(folder, said),
                (sizes, Activation::Gelu),
                "layout {i}"
            );
        }
    }
}

#[test]
fn every_published_size_of_imagenet_vits_is_read_in_every_layout() {
    for sizes in [S16, B32, B16] {
        let config = BackboneConfig {
            pre_norm: false,
            patch_bias: true,
            ..config(sizes)
        };
        let [image, patch, width, layers, heads, mlp] = sizes;
        let hugging_face = json!({"model_type": "vit", "image_size": image, "patch_size": patch, "hidden_size": width,
            "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp, "hidden_act": "gelu"});
        let timm = json!({"architecture": format!("vit_base_patch{patch}_{image}")});
        let layouts = [
            (Some(hugging_face), Scheme::HfVit, "vit."),
            (Some(timm), Scheme::Timm, ""),
            (None, Scheme::Timm, ""),
        ];
        for (json, scheme, prefix) in layouts {
            let folder = TempDir::new().expect("a temporary folder");
            if let Some(json) = json {
                write(folder.path(), "config.json", json.to_string());
            }
            let file = folder.path().join("model.safetensors");
            weights(&file, &config, scheme, prefix);
            assert_eq!(
                sizes_of(&folder, ""),
                (sizes, Activation::Gelu),
                "{scheme:?}"
            );
        }
    }
}
