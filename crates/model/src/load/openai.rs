//! OpenAI's CLIP: its TorchScript archives and their state dictionaries. They name no heads and no activation; all have QuickGELU and heads of width 64.

use std::path::Path;

use super::Error;
use super::checkpoint::Checkpoint;
use super::decide::{Constants, Overrides, Said, heads_of_width};
use super::measure;
use super::naming::{Naming, Scheme};
use super::plan::{Draft, Plan};
use crate::Activation;
use crate::spec::Normalization;

/// Numbers that only OpenAI's files keep as tensors at the root.
const SIGNS: [&str; 3] = ["input_resolution", "context_length", "vocab_size"];

/// Whether a checkpoint with a vision tower at `visual.` is OpenAI's.
pub(super) fn is_own(checkpoint: &Checkpoint) -> bool {
    SIGNS.iter().all(|sign| checkpoint.find(sign).is_some())
}

/// Plans a checkpoint of OpenAI's CLIP.
pub(super) fn plan(
    path: &Path,
    checkpoint: Checkpoint,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    let naming = Naming {
        scheme: Scheme::Reference,
        prefix: "visual.",
    };
    let geometry = measure::geometry(&checkpoint, &naming)?;
    let constants = Constants {
        heads: heads_of_width(geometry.width, "OpenAI"),
        activation: Said::new(Activation::QuickGelu, "OpenAI's rule: always QuickGELU"),
        eps: Said::new(1e-5, "OpenAI's rule"),
        normalization: Said::new(Normalization::CLIP, "CLIP's rule"),
        why: "heads are of width 64, which does not divide the width",
    };
    let draft = Draft {
        path,
        sizes_in: path,
        family: "openai_clip",
        geometry,
        constants,
        checkpoint,
        naming,
    };
    Plan::new(draft, overrides)
}
