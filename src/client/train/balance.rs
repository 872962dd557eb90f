//! Flags of `train` for unequal labels, mixed clips and budgets.

use crate::proto::v1;

/// What the loss makes of labels and clips.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Balance {
    /// How much each label's clips count in the loss; balanced makes all labels count the same
    #[arg(long, value_enum)]
    pub class_weights: Option<ClassWeights>,
    /// Takes as many clips of each label in an epoch
    #[arg(long)]
    pub balanced_sampling: bool,
    /// Blends the clips of a step in pairs, by shares from Beta(A, A), 0 to 10; 0 means not
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub mixup: Option<f64>,
    /// Replaces a rectangle of each clip by that of another, of shares from Beta(A, A), 0 to 10; 0 means not
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub cutmix: Option<f64>,
}

/// When training ends at the latest.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Budget {
    /// Steps after which training ends at the latest
    #[arg(long)]
    pub max_steps: Option<u64>,
    /// Seconds of computing after which training ends at the latest
    #[arg(long)]
    pub max_seconds: Option<u64>,
    /// Frames of training clips after which training ends at the latest
    #[arg(long)]
    pub max_clip_frames: Option<u64>,
}

/// How much each label's clips count in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ClassWeights {
    /// Every clip counts the same
    Equal,
    /// All labels count the same
    Balanced,
}

impl ClassWeights {
    pub(super) fn number(self) -> i32 {
        match self {
            Self::Equal => v1::ClassWeights::Equal,
            Self::Balanced => v1::ClassWeights::Balanced,
        }
        .into()
    }
}
