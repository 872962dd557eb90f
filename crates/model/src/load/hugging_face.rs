//! What Hugging Face's CLIP and ViT folders have in common: the keys of `config.json`, the preprocessor's file, the weights' files.

use std::path::Path;

use super::decide::{Constants, Geometry, Overrides, Said};
use super::fields::Fields;
use super::naming::{Naming, Scheme};
use super::plan::{Draft, Plan};
use super::{Error, measure, preprocessor};
use crate::Activation;
use crate::spec::{Invalid, Normalization};

/// What differs between the models. Absent keys have the defaults of transformers' configuration classes, which leave them out when they write
/// differences only.
pub(super) struct Model {
    pub(super) family: &'static str,
    pub(super) scheme: Scheme,
    /// Beginning of the names where the tower is part of a model.
    pub(super) part: &'static str,
    pub(super) normalization: Normalization,
    pub(super) patch_size: usize,
    pub(super) activation: &'static str,
    pub(super) eps: f64,
    pub(super) pre_norm: bool,
    pub(super) patch_bias: bool,
}

impl Model {
    /// Plans a folder; `fields` describe its image tower.
    pub(super) fn plan(
        &self,
        path: &Path,
        folder: &Path,
        fields: Result<Fields<'_>, Invalid>,
        overrides: &Overrides,
    ) -> Result<Plan, Error> {
        let sizes_in = folder.join("config.json");
        let wrong = |source| Error::Config {
            path: sizes_in.clone(),
            source,
        };
        let (geometry, mut constants) = fields
            .and_then(|fields| self.read_config(fields))
            .map_err(wrong)?;
        constants.normalization = preprocessor::normalization(folder, self.normalization)?;
        let checkpoint = super::hf_weights(folder)?;
        let is_part = checkpoint.names().any(|name| name.starts_with(self.part));
        let prefix = if is_part { self.part } else { "" };
        measure::refuse_foreign(&checkpoint, prefix)?;
        let draft = Draft {
            path,
            sizes_in: &sizes_in,
            family: self.family,
            geometry,
            constants,
            checkpoint,
            naming: Naming {
                scheme: self.scheme,
                prefix,
            },
        };
        Plan::new(draft, overrides)
    }

    fn read_config(&self, fields: Fields<'_>) -> Result<(Geometry, Constants), Invalid> {
        three_channels(fields)?;
        let geometry = Geometry {
            image_size: fields.side("image_size", 224)?,
            patch_size: fields.side("patch_size", self.patch_size)?,
            width: fields.count("hidden_size", 768)?,
            layers: fields.count("num_hidden_layers", 12)?,
            mlp_width: fields.count("intermediate_size", 3072)?,
            pre_norm: self.pre_norm,
            patch_bias: self.patch_bias,
            from: "config.json and the tensors' shapes".to_owned(),
        };
        let name = fields.text("hidden_act")?.unwrap_or(self.activation);
        let constants = Constants {
            heads: Said::new(
                fields.count("num_attention_heads", 12)?,
                "config.json num_attention_heads",
            ),
            activation: Said::new(activation(name)?, "config.json hidden_act"),
            eps: Said::new(
                fields.number("layer_norm_eps", self.eps)?,
                "config.json layer_norm_eps",
            ),
            normalization: Said::nothing(),
            why: "",
        };
        Ok((geometry, constants))
    }
}

/// Checks the number of channels: other numbers have other patch embeddings.
fn three_channels(fields: Fields<'_>) -> Result<(), Invalid> {
    match fields.count("num_channels", 3)? {
        3 => Ok(()),
        channels => Err(Invalid::new(
            "num_channels",
            format!("expected 3, got {channels}"),
        )),
    }
}

/// The activation that transformers calls by this name.
fn activation(name: &str) -> Result<Activation, Invalid> {
    Activation::named(name).ok_or_else(|| {
        Invalid::new(
            "hidden_act",
            format!("unknown activation {name:?}, expected \"quick_gelu\" or \"gelu\""),
        )
    })
}
