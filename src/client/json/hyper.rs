//! Hyper-parameters as JSON.

use serde_json::{Value, json};

use crate::proto::v1;

/// Hyper-parameters; those that the server is to choose are null.
pub(super) fn parameters(hyper: &v1::HyperParameters) -> Value {
    json!({
        "epochs": hyper.epochs,
        "batch_size": hyper.batch_size,
        "learning_rate": hyper.learning_rate,
        "weight_decay": hyper.weight_decay,
        "warmup_share": hyper.warmup_share,
        "dropout": hyper.dropout,
        "clip_norm": hyper.clip_norm,
        "min_crop_area": hyper.min_crop_area,
        "horizontal_flip": hyper.horizontal_flip,
        "mirror": hyper.mirror.map(|_| short(hyper.mirror().as_str_name(), "MIRROR_")),
        "seed": hyper.seed.map(|seed| seed.to_string()),
        "checkpoint_steps": hyper.checkpoint_steps,
        "warmup_epochs": hyper.warmup_epochs,
        "base_learning_rate": hyper.base_learning_rate,
        "label_smoothing": hyper.label_smoothing,
        "short_side_scale": hyper.short_side_scale,
        "random_erasing": hyper.random_erasing,
        "rand_augment": hyper.rand_augment,
        "eval_every": hyper.eval_every,
        "best_by": hyper.best_by.map(|_| short(hyper.best_by().as_str_name(), "BEST_BY_")),
        "publish": hyper.publish.map(|_| short(hyper.publish().as_str_name(), "PUBLISH_")),
        "patience": hyper.patience,
        "validation_share": hyper.validation_share,
        "evaluate_test": hyper.evaluate_test,
        "near_duplicates": hyper.near_duplicates,
        "class_weights": hyper.class_weights.map(|_| short(hyper.class_weights().as_str_name(), "CLASS_WEIGHTS_")),
        "balanced_sampling": hyper.balanced_sampling,
        "mixup": hyper.mixup,
        "cutmix": hyper.cutmix,
        "max_steps": hyper.max_steps,
        "max_seconds": hyper.max_seconds,
        "max_clip_frames": hyper.max_clip_frames,
        "unknown_below": hyper.unknown_below,
        "parent": hyper.parent,
        "keep_checkpoints": hyper.keep_checkpoints,
    })
}

/// The name of a value without its prefix, in lower case.
fn short(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}
