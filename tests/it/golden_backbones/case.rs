//! A case's folder: what its library said about it, and golden tensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use frameshift::model::{Activation, BackboneConfig};
use serde::Deserialize;

/// What `case.json` says, as far as it is checked here.
#[derive(Deserialize)]
struct Description {
    name: String,
    library: String,
    family: String,
    image_size: usize,
    patch_size: usize,
    width: usize,
    layers: usize,
    heads: usize,
    mlp_width: usize,
    activation: String,
    layer_norm_eps: f64,
    pre_norm: bool,
    patch_bias: bool,
    mean: [f32; 3],
    std: [f32; 3],
    tolerance: Tolerance,
    /// The checkpoint's own files.
    files: BTreeMap<String, u64>,
    /// Where a reader finds heads and activation, when that is not plain.
    #[serde(default)]
    heads_from: String,
    #[serde(default)]
    activation_from: String,
    #[serde(default)]
    change_in_cls_if_wrong: Change,
}

/// How far the largest element of `cls` moves when a reader gets something wrong.
#[derive(Default, Deserialize)]
pub(super) struct Change {
    #[serde(default)]
    pub(super) activation: Option<f64>,
    /// By the wrong value.
    #[serde(default)]
    pub(super) eps: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Tolerance {
    atol: f64,
}

impl Description {
    /// Every file of the folder is the checkpoint's, or golden data that is checked.
    fn check_files(&self, folder: &Path) {
        let entries = fs::read_dir(folder).expect("the folder is readable");
        let names: Vec<String> = entries
            .map(|entry| entry.expect("the folder is readable").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        for name in &names {
            let own = self.files.contains_key(name);
            let golden = ["case.json", "expected.safetensors"].contains(&name.as_str());
            let pair = [(".json", ".safetensors"), (".safetensors", ".json")];
            let adapter = pair.iter().any(|(end, other)| {
                name.starts_with("adapter_")
                    && name
                        .strip_suffix(end)
                        .is_some_and(|stem| names.contains(&format!("{stem}{other}")))
            });
            assert!(own || golden || adapter, "{}: what is {name}?", self.name);
        }
        for name in self.files.keys() {
            assert!(names.contains(name), "{}: {name} is not there", self.name);
        }
    }
}

pub(super) struct Case {
    pub(super) folder: PathBuf,
    pub(super) name: String,
    /// Of every golden tensor.
    pub(super) atol: f64,
    description: Description,
}

impl Case {
    pub(super) fn read(folder: &Path) -> Self {
        let description: Description = read_json(&folder.join("case.json"));
        let name = folder.file_name().expect("a folder has a name");
        assert_eq!(name, description.name.as_str(), "{}", folder.display());
        description.check_files(folder);
        Self {
            folder: folder.to_owned(),
            name: description.name.clone(),
            atol: description.tolerance.atol,
            description,
        }
    }

    /// The family that this library's files are of, as the loader calls it.
    pub(super) fn family(&self) -> &'static str {
        let Description {
            library, family, ..
        } = &self.description;
        match (family.as_str(), library.split(' ').next()) {
            ("clip", Some("transformers")) => "hf_clip",
            ("vit", Some("transformers")) => "hf_vit",
            ("clip", Some("open_clip")) => "open_clip",
            ("clip", Some("clip")) => "openai_clip",
            ("vit", Some("timm")) => "timm_vit",
            other => panic!("{}: unknown family {other:?}", self.name),
        }
    }

    /// What the files do not say and no rule of the family decides, so that the user has to.
    pub(super) fn overrides(&self) -> String {
        let Description {
            heads,
            heads_from,
            activation,
            activation_from,
            ..
        } = &self.description;
        let mut said = Vec::new();
        if heads_from.contains("must say") {
            said.push(format!("heads={heads}"));
        }
        if activation_from.contains("must say") {
            said.push(format!("activation={activation}"));
        }
        said.join(",")
    }

    pub(super) fn change(&self) -> &Change {
        &self.description.change_in_cls_if_wrong
    }

    pub(super) fn check_config(&self, config: &BackboneConfig) {
        let said = &self.description;
        let activation = match said.activation.as_str() {
            "gelu" => Activation::Gelu,
            "quick_gelu" => Activation::QuickGelu,
            other => panic!("{}: unknown activation {other:?}", self.name),
        };
        let expected = BackboneConfig {
            image_size: said.image_size,
            patch_size: said.patch_size,
            width: said.width,
            layers: said.layers,
            heads: said.heads,
            mlp_width: said.mlp_width,
            activation,
            eps: said.layer_norm_eps,
            pre_norm: said.pre_norm,
            patch_bias: said.patch_bias,
            normalization: frameshift::spec::Normalization {
                mean: said.mean,
                std: said.std,
            },
        };
        assert_eq!(config, &expected, "{}", self.name);
    }
}

/// The sub-folders, sorted.
pub(super) fn folders(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
