//! Adapter configurations, samplings, hyper-parameters, splits and states.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::time::Duration;

use tonic::Status;

use super::selection;
use crate::proto::v1;
use crate::rpc::status;
use crate::spec::{
    AdapterConfig, ClipSampling, FrameOrder, Geometry, Head, HyperParameters, Invalid, JobState,
    LabelKind, RotationPolicy, Sampling, SpatialViews, Split,
};

/// A domain complaint as a violation of a field below `path`.
pub(in crate::rpc) fn below(path: &str) -> impl Fn(Invalid) -> Status {
    let path = path.to_owned();
    move |invalid| status::invalid(&format!("{path}.{}", invalid.field), invalid.problem)
}

/// The adapters of a task on a backbone, with the paper's head; zeros become the documented defaults.
pub(in crate::rpc) fn adapter(
    config: Option<v1::AdapterConfig>,
    geometry: &Geometry,
    path: &str,
) -> Result<AdapterConfig, Status> {
    let config = config.ok_or_else(|| status::invalid(path, "required"))?;
    let or = |size: u32, default: u32| if size == 0 { default } else { size };
    // With an adapter a block before the MLP, adapters of this width are about 8 % of a ViT, whatever its size.
    let half = u32::try_from(geometry.width / 2).unwrap_or(u32::MAX).max(1);
    let adapter = AdapterConfig {
        adapter_width: or(config.adapter_width, half),
        adapter_layers: NonZeroU32::new(config.adapter_layers),
        adapter_kernel_size: [
            or(config.adapter_kernel_t, 3),
            or(config.adapter_kernel_h, 1),
            or(config.adapter_kernel_w, 1),
        ],
        adapter_pre_attn: config.adapter_pre_attn,
        adapter_pre_mlp: config.adapter_pre_mlp,
        head: Head::Mean,
    };
    if !adapter.has_sites() {
        return Ok(AdapterConfig::LINEAR_PROBE);
    }
    adapter.validate().map_err(below(path))?;
    Ok(adapter)
}

/// The shape of a task.
#[derive(Debug, Clone, Copy)]
pub(in crate::rpc) struct Shape {
    pub(in crate::rpc) adapter: AdapterConfig,
    pub(in crate::rpc) sampling: ClipSampling,
    /// Whether jobs also train heads without adapters.
    pub(in crate::rpc) auto_head: bool,
}

/// The shape of a task, which its backbone has to be able to run.
pub(in crate::rpc) fn shape(
    task: v1::Task,
    geometry: &Geometry,
    path: &str,
) -> Result<Shape, Status> {
    let field = |name: &str| format!("{path}.{name}");
    let own = adapter(task.adapter, geometry, &field("adapter"))?;
    let sampling = sampling(task.sampling, &field("sampling"))?;
    let adapter = AdapterConfig {
        head: head(task.head, sampling.num_frames, &field("head"))?,
        ..own
    };
    geometry.check(&adapter, &sampling).map_err(below(path))?;
    Ok(Shape {
        adapter,
        sampling,
        auto_head: task.head == i32::from(v1::Head::Auto),
    })
}

/// A task of a shape that is not created, as the API shows it.
pub(in crate::rpc) fn of_shape(name: String, shape: &Shape) -> v1::Task {
    v1::Task {
        name,
        adapter: Some(of_adapter(&shape.adapter)),
        sampling: Some(of_sampling(&shape.sampling)),
        head: match shape.auto_head {
            true => v1::Head::Auto,
            false => of_head(shape.adapter.head),
        }
        .into(),
        auto_serve: Some(true),
        ..Default::default()
    }
}

/// Returns the head of a task, checked against the number of its clips' frames.
pub(in crate::rpc) fn head(
    number: i32,
    num_frames: NonZeroU16,
    path: &str,
) -> Result<Head, Status> {
    match v1::Head::try_from(number) {
        // The head of the adapters beside which a job tries the others.
        Ok(v1::Head::Unspecified | v1::Head::Mean | v1::Head::Auto) => Ok(Head::Mean),
        Ok(v1::Head::Frames) => Ok(Head::Frames(num_frames)),
        Ok(v1::Head::Conv) => Ok(Head::Conv),
        Ok(v1::Head::Attention) => Ok(Head::Attention(num_frames)),
        Err(_) => Err(status::invalid(path, format!("no head {number}"))),
    }
}

/// The head of a task as the API shows it.
pub(in crate::rpc) fn of_head(head: Head) -> v1::Head {
    match head {
        Head::Mean => v1::Head::Mean,
        Head::Frames(_) => v1::Head::Frames,
        Head::Conv => v1::Head::Conv,
        Head::Attention(_) => v1::Head::Attention,
    }
}

/// The adapters of a task as the API shows them.
pub(in crate::rpc) fn of_adapter(config: &AdapterConfig) -> v1::AdapterConfig {
    let [t, h, w] = config.adapter_kernel_size;
    v1::AdapterConfig {
        adapter_width: config.adapter_width,
        adapter_layers: config.adapter_layers.map_or(0, NonZeroU32::get),
        adapter_kernel_t: t,
        adapter_kernel_h: h,
        adapter_kernel_w: w,
        adapter_pre_attn: config.adapter_pre_attn,
        adapter_pre_mlp: config.adapter_pre_mlp,
    }
}

/// How clips are sampled; an absent message is all defaults.
pub(in crate::rpc) fn sampling(
    sampling: Option<v1::ClipSampling>,
    path: &str,
) -> Result<ClipSampling, Status> {
    let given = sampling.unwrap_or_default();
    let field = |name: &str| format!("{path}.{name}");
    let frames = u16::try_from(given.num_frames)
        .map_err(|_| status::invalid(&field("num_frames"), "expected 1 to 64"))?;
    let temporal = u8::try_from(given.num_temporal_views)
        .map_err(|_| status::invalid(&field("num_temporal_views"), "expected 1 to 10"))?;
    let spatial_views = match given.num_spatial_views {
        0 | 1 => SpatialViews::Center,
        3 => SpatialViews::Three,
        other => {
            let problem = format!("expected 1 or 3, got {other}");
            return Err(status::invalid(&field("num_spatial_views"), problem));
        }
    };
    let rotation = match v1::RotationPolicy::try_from(given.rotation) {
        Ok(v1::RotationPolicy::Unspecified | v1::RotationPolicy::Display) => {
            RotationPolicy::Display
        }
        Ok(v1::RotationPolicy::Stored) => RotationPolicy::Stored,
        Err(_) => return Err(status::invalid(&field("rotation"), "no such policy")),
    };
    let order = match v1::FrameOrder::try_from(given.order) {
        Ok(v1::FrameOrder::Unspecified | v1::FrameOrder::Display) => FrameOrder::Display,
        Ok(v1::FrameOrder::Reference) => FrameOrder::Reference,
        Err(_) => return Err(status::invalid(&field("order"), "no such order")),
    };
    let sampling = ClipSampling {
        num_frames: NonZeroU16::new(frames).unwrap_or(EIGHT),
        sampling: NonZeroU32::new(given.sampling_rate).map_or(Sampling::Uniform, Sampling::Strided),
        temporal_views: NonZeroU8::new(temporal).unwrap_or(NonZeroU8::MIN),
        spatial_views,
        rotation,
        order,
    };
    sampling.validate().map_err(below(path))?;
    Ok(sampling)
}

const EIGHT: NonZeroU16 = NonZeroU16::MIN.saturating_add(7);

/// How clips are sampled as the API shows it.
pub(in crate::rpc) fn of_sampling(sampling: &ClipSampling) -> v1::ClipSampling {
    v1::ClipSampling {
        num_frames: sampling.num_frames.get().into(),
        sampling_rate: match sampling.sampling {
            Sampling::Uniform => 0,
            Sampling::Strided(rate) => rate.get(),
        },
        num_temporal_views: sampling.temporal_views.get().into(),
        num_spatial_views: match sampling.spatial_views {
            SpatialViews::Center => 1,
            SpatialViews::Three => 3,
        },
        rotation: match sampling.rotation {
            RotationPolicy::Display => v1::RotationPolicy::Display,
            RotationPolicy::Stored => v1::RotationPolicy::Stored,
        }
        .into(),
        order: match sampling.order {
            FrameOrder::Display => v1::FrameOrder::Display,
            FrameOrder::Reference => v1::FrameOrder::Reference,
        }
        .into(),
    }
}

/// Hyper-parameters as submitted; the jobs check their ranges.
pub(in crate::rpc) fn hyper(given: v1::HyperParameters) -> Result<HyperParameters, Status> {
    Ok(HyperParameters {
        selection: Some(selection::selection(&given)?),
        mirror: selection::mirror(&given)?,
        epochs: given.epochs,
        batch_size: given.batch_size,
        learning_rate: given.learning_rate,
        weight_decay: given.weight_decay,
        warmup_share: given.warmup_share,
        dropout: given.dropout,
        clip_norm: given.clip_norm,
        min_crop_area: given.min_crop_area,
        horizontal_flip: given.horizontal_flip,
        seed: given.seed,
        checkpoint_steps: given.checkpoint_steps,
        warmup_epochs: given.warmup_epochs,
        base_learning_rate: given.base_learning_rate,
        label_smoothing: given.label_smoothing,
        short_side_scale: given.short_side_scale,
        random_erasing: given.random_erasing,
        rand_augment: given.rand_augment,
        class_weights: selection::class_weights(given.class_weights)?,
        balanced_sampling: given.balanced_sampling,
        mixup: given.mixup,
        cutmix: given.cutmix,
        max_steps: given.max_steps,
        max_seconds: given.max_seconds,
        max_clip_frames: given.max_clip_frames,
        unknown_below: given.unknown_below,
        parent: given.parent,
        keep_checkpoints: given.keep_checkpoints,
    })
}

/// Hyper-parameters as the API shows them.
pub(in crate::rpc) fn of_hyper(hyper: &HyperParameters) -> v1::HyperParameters {
    v1::HyperParameters {
        epochs: hyper.epochs,
        batch_size: hyper.batch_size,
        learning_rate: hyper.learning_rate,
        weight_decay: hyper.weight_decay,
        warmup_share: hyper.warmup_share,
        dropout: hyper.dropout,
        clip_norm: hyper.clip_norm,
        min_crop_area: hyper.min_crop_area,
        horizontal_flip: hyper.horizontal_flip,
        seed: hyper.seed,
        checkpoint_steps: hyper.checkpoint_steps,
        mirror: selection::of_mirror(hyper.mirror),
        warmup_epochs: hyper.warmup_epochs,
        base_learning_rate: hyper.base_learning_rate,
        label_smoothing: hyper.label_smoothing,
        short_side_scale: hyper.short_side_scale,
        random_erasing: hyper.random_erasing,
        rand_augment: hyper.rand_augment.clone(),
        class_weights: selection::of_class_weights(hyper.class_weights),
        balanced_sampling: hyper.balanced_sampling,
        mixup: hyper.mixup,
        cutmix: hyper.cutmix,
        max_steps: hyper.max_steps,
        max_seconds: hyper.max_seconds,
        max_clip_frames: hyper.max_clip_frames,
        unknown_below: hyper.unknown_below,
        parent: hyper.parent,
        keep_checkpoints: hyper.keep_checkpoints,
        ..selection::of_selection(hyper.selection.as_ref())
    }
}

/// A split that has to be given.
pub(in crate::rpc) fn split(number: i32, path: &str) -> Result<Split, Status> {
    match v1::Split::try_from(number) {
        Ok(v1::Split::Train) => Ok(Split::Train),
        Ok(v1::Split::Validation) => Ok(Split::Validation),
        Ok(v1::Split::Test) => Ok(Split::Test),
        Ok(v1::Split::Unspecified) => Err(status::invalid(path, "required")),
        Err(_) => Err(status::invalid(path, format!("no split {number}"))),
    }
}

/// A split as the API shows it.
pub(in crate::rpc) fn of_split(split: Split) -> v1::Split {
    match split {
        Split::Train => v1::Split::Train,
        Split::Validation => v1::Split::Validation,
        Split::Test => v1::Split::Test,
    }
}

/// Whether labels exclude one another; they do when a caller does not say.
pub(in crate::rpc) fn label_kind(number: i32, path: &str) -> Result<LabelKind, Status> {
    match v1::LabelKind::try_from(number) {
        Ok(v1::LabelKind::Unspecified | v1::LabelKind::Single) => Ok(LabelKind::Single),
        Ok(v1::LabelKind::Multi) => Ok(LabelKind::Multi),
        Err(_) => Err(status::invalid(path, format!("no kind {number}"))),
    }
}

/// Whether labels exclude one another, as the API shows it.
pub(in crate::rpc) fn of_label_kind(kind: LabelKind) -> v1::LabelKind {
    match kind {
        LabelKind::Single => v1::LabelKind::Single,
        LabelKind::Multi => v1::LabelKind::Multi,
    }
}

/// A state as the API shows it.
pub(in crate::rpc) fn of_state(state: JobState) -> v1::JobState {
    match state {
        JobState::Queued => v1::JobState::Queued,
        JobState::Validating => v1::JobState::Validating,
        JobState::Running => v1::JobState::Running,
        JobState::Evaluating => v1::JobState::Evaluating,
        JobState::Publishing => v1::JobState::Publishing,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
    }
}

/// Counts and sizes are signed in the API, as Google's are.
pub(in crate::rpc) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Microseconds since the epoch as a time stamp.
pub(in crate::rpc) fn of_time(micros: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: (micros.rem_euclid(1_000_000) * 1000) as i32,
    }
}

/// A duration that is never negative.
pub(in crate::rpc) fn of_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: signed(duration.as_secs()),
        nanos: duration.subsec_nanos() as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKBONE: Geometry = Geometry {
        image_size: 224,
        layers: 12,
        width: 192,
    };

    #[test]
    fn zeros_mean_the_documented_defaults() {
        let config = v1::AdapterConfig {
            adapter_width: 48,
            adapter_pre_mlp: true,
            ..Default::default()
        };
        let read = adapter(Some(config), &BACKBONE, "task.adapter").unwrap();
        assert_eq!(
            (read.adapter_width, read.adapter_kernel_size),
            (48, [3, 1, 1])
        );
        let given = v1::AdapterConfig {
            adapter_width: 0,
            ..config
        };
        let read = adapter(Some(given), &BACKBONE, "task.adapter").unwrap();
        assert_eq!(read.adapter_width, 96, "half of the backbone's width");
        let narrow = Geometry {
            width: 1,
            ..BACKBONE
        };
        let read = adapter(Some(given), &narrow, "task.adapter").unwrap();
        assert_eq!(read.adapter_width, 1);
        let bare = v1::AdapterConfig::default();
        let read = adapter(Some(bare), &BACKBONE, "task.adapter").unwrap();
        assert_eq!(read, AdapterConfig::LINEAR_PROBE);
        assert_eq!(head(0, EIGHT, "task.head").unwrap(), Head::Mean);
        let frames = head(v1::Head::Frames.into(), EIGHT, "task.head").unwrap();
        assert_eq!(frames, Head::Frames(EIGHT));
        assert_eq!(of_head(frames), v1::Head::Frames);
        let read = sampling(None, "task.sampling").unwrap();
        assert_eq!((read.num_frames.get(), read.views()), (8, 1));
        assert_eq!(read.order, FrameOrder::Display);
        assert_eq!(sampling(Some(of_sampling(&read)), "s").unwrap(), read);
        let reference = ClipSampling {
            order: FrameOrder::Reference,
            ..read
        };
        assert_eq!(
            sampling(Some(of_sampling(&reference)), "s").unwrap(),
            reference
        );
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let with = |change: fn(&mut v1::ClipSampling)| {
            let mut given = v1::ClipSampling::default();
            change(&mut given);
            sampling(Some(given), "task.sampling").map(|_| ())
        };
        assert!(with(|s| s.num_frames = 65).is_err());
        assert!(with(|s| s.num_frames = 70_000).is_err());
        assert!(with(|s| s.num_spatial_views = 2).is_err());
        assert!(with(|s| s.num_temporal_views = 300).is_err());
        assert!(with(|s| s.num_temporal_views = 3).is_err());
        assert!(with(|s| s.rotation = 9).is_err());
        assert!(with(|s| s.order = 9).is_err());
        assert!(with(|s| s.sampling_rate = u32::MAX).is_err());
        assert!(adapter(None, &BACKBONE, "task.adapter").is_err());
        assert!(head(9, EIGHT, "task.head").is_err());
        assert!(split(0, "split").is_err() && split(7, "split").is_err());
    }

    #[test]
    fn times_before_the_epoch_keep_positive_nanos() {
        let time = of_time(-1);
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_000));
    }
}
