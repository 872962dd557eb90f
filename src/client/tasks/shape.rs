//! The shape of a task as options of the command line.
//!
//! Invariant: an option that was given is never dropped: it becomes the new task's, or is what the existing task has, or is refused.

use super::super::{Client, Error, json};
use super::Order;
use crate::proto::v1;

/// Options of a task's shape, which cannot change once the task exists.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TaskShape {
    /// Places of the adapters in each block [default: pre-mlp]
    #[arg(long, value_enum)]
    pub sites: Option<Sites>,
    /// Bottleneck width of the adapters [default: half of the backbone's width]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub adapter_width: Option<u32>,
    /// Number of blocks with adapters, counted from the last; 0 means all [default: 0]
    #[arg(long)]
    pub adapter_layers: Option<u32>,
    /// Kernel over time, height and width, each odd [default: 3,1,1]
    #[arg(long, value_name = "T,H,W", value_parser = kernel)]
    pub adapter_kernel: Option<Kernel>,
    /// What the head reads of a clip [default: mean]
    #[arg(long, value_enum)]
    pub head: Option<HeadKind>,
    /// Frames per clip [default: 8]
    #[arg(long)]
    pub num_frames: Option<u32>,
    /// Distance of sampled frames; 0 spreads them over the whole video [default: 0]
    #[arg(long)]
    pub sampling_rate: Option<u32>,
    /// Temporal views at classification, with a sampling rate [default: 1]
    #[arg(long)]
    pub temporal_views: Option<u32>,
    /// Spatial views at classification: 1 or 3 [default: 1]
    #[arg(long)]
    pub spatial_views: Option<u32>,
    /// Whether the container's rotation is applied [default: display]
    #[arg(long, value_enum)]
    pub rotation: Option<Rotation>,
    /// The order in which frames are counted [default: display]
    #[arg(long, value_enum)]
    pub order: Option<Order>,
}

/// Sizes of an adapter's convolution over time, height and width.
pub type Kernel = [u32; 3];

fn kernel(text: &str) -> Result<Kernel, String> {
    let sizes: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    let sizes: Option<Kernel> = sizes.ok().and_then(|sizes| sizes.try_into().ok());
    sizes
        .filter(|sizes| sizes.iter().all(|size| size % 2 == 1))
        .ok_or_else(|| "expected three odd numbers T,H,W, for example 3,1,1".to_owned())
}

/// Policies for a container's rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Rotation {
    /// Upright, as players show the video
    Display,
    /// Not applied, as the reference reads the video
    Stored,
}

impl Rotation {
    /// The policy of the API.
    fn policy(self) -> v1::RotationPolicy {
        match self {
            Self::Display => v1::RotationPolicy::Display,
            Self::Stored => v1::RotationPolicy::Stored,
        }
    }
}

/// What a head reads of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HeadKind {
    /// The mean of the frames; without adapters it ignores their order
    Mean,
    /// All frames in their order
    Frames,
    /// The mean of the frames, and a small convolution over time
    Conv,
    /// One attention layer over the frames and a coarse grid of patches of each
    Attention,
    /// Whichever of the adapters and the other heads without adapters is best on the validation split
    Auto,
}

impl HeadKind {
    /// The head of the API.
    fn head(self) -> v1::Head {
        match self {
            Self::Mean => v1::Head::Mean,
            Self::Frames => v1::Head::Frames,
            Self::Conv => v1::Head::Conv,
            Self::Attention => v1::Head::Attention,
            Self::Auto => v1::Head::Auto,
        }
    }
}

/// Places of the adapters in each block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sites {
    /// Before the MLP of each block
    PreMlp,
    /// Before attention
    PreAttn,
    /// Before both
    Both,
    /// Nowhere: a head alone, with `--head mean` a linear probe
    None,
}

/// Creates a task of a shape.
///
/// # Errors
/// When the server refuses.
pub async fn create(client: &Client, id: &str, shape: &TaskShape) -> Result<v1::Task, Error> {
    let request = v1::CreateTaskRequest {
        task_id: id.strip_prefix("tasks/").unwrap_or(id).to_owned(),
        task: Some(shaped(shape)),
        request_id: uuid::Uuid::now_v7().to_string(),
    };
    Ok(client.tasks().create_task(request).await?.into_inner())
}

/// A task of a shape, with what is not given by default. The server, which knows its backbone, chooses a width that is not given.
pub fn shaped(shape: &TaskShape) -> v1::Task {
    let [kernel_t, kernel_h, kernel_w] = shape.adapter_kernel.unwrap_or([3, 1, 1]);
    let sites = shape.sites.unwrap_or(Sites::PreMlp);
    v1::Task {
        adapter: Some(v1::AdapterConfig {
            adapter_width: shape.adapter_width.unwrap_or(0),
            adapter_layers: shape.adapter_layers.unwrap_or(0),
            adapter_kernel_t: kernel_t,
            adapter_kernel_h: kernel_h,
            adapter_kernel_w: kernel_w,
            adapter_pre_attn: matches!(sites, Sites::PreAttn | Sites::Both),
            adapter_pre_mlp: matches!(sites, Sites::PreMlp | Sites::Both),
        }),
        sampling: Some(v1::ClipSampling {
            num_frames: shape.num_frames.unwrap_or(8),
            sampling_rate: shape.sampling_rate.unwrap_or(0),
            num_temporal_views: shape.temporal_views.unwrap_or(1),
            num_spatial_views: shape.spatial_views.unwrap_or(1),
            rotation: shape.rotation.unwrap_or(Rotation::Display).policy().into(),
            order: Order::number(shape.order),
        }),
        head: shape.head.unwrap_or(HeadKind::Mean).head().into(),
        ..Default::default()
    }
}

/// Checks that every option that was given is what an existing task has.
///
/// # Errors
/// Names the first that differs.
pub fn check_shape(task: &v1::Task, shape: &TaskShape) -> Result<(), Error> {
    let adapter = task.adapter.unwrap_or_default();
    let sampling = task.sampling.unwrap_or_default();
    let sites = Sites::of(&adapter).to_string();
    let kernel = [
        adapter.adapter_kernel_t,
        adapter.adapter_kernel_h,
        adapter.adapter_kernel_w,
    ];
    let kernel_text = |[t, h, w]: Kernel| format!("{t},{h},{w}");
    let head = |head| json::head_name(head).to_owned();
    let rotation = |policy| json::rotation_name(policy).to_owned();
    let number =
        |given: Option<u32>, own: u32| (given.map(|given| given.to_string()), own.to_string());
    let options = [
        (
            "--sites",
            (shape.sites.map(|given| given.to_string()), sites),
        ),
        (
            "--adapter-width",
            number(shape.adapter_width, adapter.adapter_width),
        ),
        (
            "--adapter-layers",
            number(shape.adapter_layers, adapter.adapter_layers),
        ),
        (
            "--head",
            (
                shape.head.map(|given| head(given.head())),
                head(task.head()),
            ),
        ),
        (
            "--num-frames",
            number(shape.num_frames, sampling.num_frames),
        ),
        (
            "--sampling-rate",
            number(shape.sampling_rate, sampling.sampling_rate),
        ),
        (
            "--temporal-views",
            number(shape.temporal_views, sampling.num_temporal_views),
        ),
        (
            "--spatial-views",
            number(shape.spatial_views, sampling.num_spatial_views),
        ),
        (
            "--adapter-kernel",
            (shape.adapter_kernel.map(kernel_text), kernel_text(kernel)),
        ),
        (
            "--rotation",
            (
                shape.rotation.map(|given| rotation(given.policy())),
                rotation(sampling.rotation()),
            ),
        ),
        (
            "--order",
            (
                shape.order.map(|given| given.to_string()),
                Order::from(sampling.order()).to_string(),
            ),
        ),
    ];
    for (option, (given, own)) in options {
        if let Some(given) = given.filter(|given| *given != own) {
            return Err(Error::Usage(format!(
                "{} has {own} where {option} {given} was given; the shape of a task cannot change",
                task.name
            )));
        }
    }
    Ok(())
}

impl Sites {
    /// The places of a configuration's adapters.
    pub(in crate::client) fn of(adapter: &v1::AdapterConfig) -> Self {
        match (adapter.adapter_pre_attn, adapter.adapter_pre_mlp) {
            (true, true) => Self::Both,
            (true, false) => Self::PreAttn,
            (false, true) => Self::PreMlp,
            (false, false) => Self::None,
        }
    }
}

impl std::fmt::Display for Sites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PreMlp => "pre-mlp",
            Self::PreAttn => "pre-attn",
            Self::Both => "both",
            Self::None => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> v1::Task {
        v1::Task {
            name: "tasks/sides".to_owned(),
            adapter: Some(v1::AdapterConfig {
                adapter_width: 16,
                adapter_kernel_t: 3,
                adapter_kernel_h: 1,
                adapter_kernel_w: 1,
                adapter_pre_mlp: true,
                ..Default::default()
            }),
            sampling: Some(v1::ClipSampling {
                num_frames: 8,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn options_that_contradict_a_task_are_refused_and_the_others_are_its_own() {
        let none = TaskShape::default();
        assert!(check_shape(&task(), &none).is_ok());
        let same = TaskShape {
            sites: Some(Sites::PreMlp),
            adapter_width: Some(16),
            adapter_kernel: Some([3, 1, 1]),
            ..Default::default()
        };
        assert!(check_shape(&task(), &same).is_ok());
        let wider = TaskShape {
            adapter_width: Some(64),
            ..Default::default()
        };
        let error = check_shape(&task(), &wider).unwrap_err();
        assert_eq!(error.exit_code(), 64);
        let wanted = "tasks/sides has 16 where --adapter-width 64 was given; the shape of a task cannot change";
        assert_eq!(error.to_string(), wanted);
        let stored = TaskShape {
            rotation: Some(Rotation::Stored),
            ..Default::default()
        };
        assert!(
            check_shape(&task(), &stored)
                .unwrap_err()
                .to_string()
                .contains("has display where --rotation stored")
        );
        let both = TaskShape {
            sites: Some(Sites::Both),
            num_frames: Some(16),
            ..Default::default()
        };
        assert!(
            check_shape(&task(), &both)
                .unwrap_err()
                .to_string()
                .contains("pre-mlp where --sites both")
        );
        let frames = TaskShape {
            head: Some(HeadKind::Frames),
            ..Default::default()
        };
        let error = check_shape(&task(), &frames).unwrap_err().to_string();
        assert!(error.contains("has mean where --head frames"), "{error}");
        let ordered = v1::Task {
            head: v1::Head::Frames.into(),
            ..task()
        };
        assert!(check_shape(&ordered, &frames).is_ok());
    }

    #[test]
    fn a_kernel_is_three_sizes() {
        assert_eq!(kernel("3,1,1"), Ok([3, 1, 1]));
        for wrong in ["3,1", "3,1,1,1,1", "3,1,x", "2,1,1", ""] {
            assert!(kernel(wrong).is_err(), "{wrong}");
        }
    }
}
