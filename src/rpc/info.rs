//! ServerService: the server's description of itself.

use tonic::{Request, Response, Status};

use super::convert::spec::signed;
use super::{Api, CHUNK_BYTES, MESSAGE_BYTES};
use crate::engine;
use crate::proto::v1;
use crate::proto::v1::server_service_server::ServerService;
use crate::spec::{Digest, Normalization};

/// What the server is: its backbone, device and limits.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// Name of the backbone.
    pub backbone: String,
    /// Digest of the backbone.
    pub digest: Digest,
    /// Side of the backbone's input in pixels.
    pub image_size: u16,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Width of a token of the backbone.
    pub width: u32,
    /// Number of the backbone's transformer blocks.
    pub layers: u32,
    /// Number of the backbone's attention heads.
    pub heads: u32,
    /// Number of the backbone's parameters.
    pub parameters: u64,
    /// Hidden width of the backbone's MLPs.
    pub mlp_width: u32,
    /// Activation of the backbone's MLPs: `quick_gelu` or `gelu`.
    pub activation: &'static str,
    /// Epsilon of every LayerNorm of the backbone.
    pub eps: f64,
    /// Files that the backbone was loaded from.
    pub origin: Origin,
    /// Normalisation of the pixels that the backbone reads.
    pub normalization: Normalization,
    /// Device that computes, for example `cpu`.
    pub device: String,
    /// Precision of matrix products.
    pub precision: String,
    /// Layers of isolation that hold for the video workers.
    pub isolation: Vec<&'static str>,
    /// Most bytes of one upload.
    pub upload_bytes: u64,
    /// Most clips that wait or run at once.
    pub queue_clips: usize,
    /// Most bytes of the resident adapter sets.
    pub adapter_bytes: u64,
    /// Most unfinished jobs of one tenant.
    pub jobs_per_tenant: u32,
    /// Most memory of each part of the server.
    pub budgets: Vec<Budget>,
}

/// State of an accelerator at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    /// Number and model of the accelerator.
    pub name: String,
    /// Bytes of the accelerator's memory.
    pub memory: u64,
    /// Bytes of the accelerator's memory that this process has taken.
    pub reserved: u64,
    /// Bytes that are in use, of those that this process has taken.
    pub used: u64,
    /// Slices of work that the accelerator was given.
    pub slices: u64,
    /// Time that uploads to the accelerator took.
    pub uploading: std::time::Duration,
    /// Bytes that were uploaded to the accelerator.
    pub uploaded: u64,
    /// Plans by which the accelerator computes matrix products.
    pub plans: Vec<String>,
}

/// Function that reads the accelerator's state; `None` when there is none.
pub type LookAtAccelerator = Box<dyn Fn() -> Option<Accelerator> + Send + Sync>;

/// Most memory of a part of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Use of the memory.
    pub part: &'static str,
    /// Settings that limit the part, separated by commas.
    pub settings: &'static str,
    /// Largest size of the part in bytes.
    pub bytes: u64,
}

/// Files of a backbone, and what was decided about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Family whose layout the backbone's files have, for example `hf_clip`.
    pub family: String,
    /// Format of the backbone's files.
    pub format: String,
    /// Float formats of the stored weights.
    pub stored_as: String,
    /// Values that the tensors do not state, each with its source.
    pub decisions: Vec<Decided>,
}

/// Value that a backbone's tensors do not state, and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Name of the value.
    pub field: &'static str,
    /// Value as text.
    pub value: String,
    /// Source of the value: a file and its key, a family's rule, or the operator.
    pub from: String,
}

#[tonic::async_trait]
impl ServerService for Api {
    async fn get_server_info(
        &self,
        request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::ServerInfo>, Status> {
        let caller = super::auth::caller(&request)?;
        let (parts, tenant, _) = self.enter(request)?;
        let mut info = of_about(&parts.about);
        info.tenant = tenant.to_string();
        let now = parts.engine.in_use();
        info.in_use = Some(of_in_use(&now));
        let throughput = now.rate.map(|rate| of_rate(&parts.about, rate));
        info.throughput = throughput.into_iter().collect();
        info.accelerator = (parts.accelerator)().map(of_accelerator);
        info.principal = caller.principal.to_string();
        info.scopes = super::convert::access::of_scopes(caller.scopes);
        let tasks = caller.tasks.iter().flat_map(|tasks| tasks.iter());
        info.tasks = tasks.map(|task| format!("tasks/{task}")).collect();
        Ok(Response::new(info))
    }
}

fn of_about(about: &About) -> v1::ServerInfo {
    v1::ServerInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        backbone: Some(v1::Backbone {
            name: about.backbone.clone(),
            digest: about.digest.0.to_vec().into(),
            image_size: about.image_size.into(),
            patch_size: about.patch_size,
            width: about.width,
            layers: about.layers,
            heads: about.heads,
            parameters: signed(about.parameters),
            mlp_width: about.mlp_width,
            activation: about.activation.into(),
            layer_norm_eps: about.eps,
            mean: about.normalization.mean.to_vec(),
            std: about.normalization.std.to_vec(),
            family: about.origin.family.clone(),
            format: about.origin.format.clone(),
            stored_as: about.origin.stored_as.clone(),
            decisions: about.origin.decisions.iter().map(of_decided).collect(),
        }),
        device: about.device.clone(),
        precision: about.precision.clone(),
        limits: Some(v1::Limits {
            upload_bytes: signed(about.upload_bytes),
            message_bytes: MESSAGE_BYTES as i64,
            chunk_bytes: CHUNK_BYTES as i64,
            queue_clips: signed(about.queue_clips as u64),
            adapter_bytes: signed(about.adapter_bytes),
            jobs_per_tenant: about.jobs_per_tenant.into(),
        }),
        video_isolation: about
            .isolation
            .iter()
            .map(|layer| (*layer).into())
            .collect(),
        // The caller's part is the handler's.
        tenant: String::new(),
        principal: String::new(),
        scopes: Vec::new(),
        tasks: Vec::new(),
        in_use: None,
        memory_budgets: about.budgets.iter().map(of_budget).collect(),
        throughput: Vec::new(),
        accelerator: None,
    }
}

fn of_accelerator(now: Accelerator) -> v1::Accelerator {
    v1::Accelerator {
        name: now.name,
        memory_bytes: signed(now.memory),
        reserved_bytes: signed(now.reserved),
        used_bytes: signed(now.used),
        slices: signed(now.slices),
        upload_us: i64::try_from(now.uploading.as_micros()).unwrap_or(i64::MAX),
        uploaded_bytes: signed(now.uploaded),
        plans: now.plans,
    }
}

fn of_in_use(now: &engine::InUse) -> v1::InUse {
    v1::InUse {
        queue_clips: signed(now.clips as u64),
        queue_clips_capacity: signed(now.clips_capacity as u64),
        queue_bytes: signed(now.bytes),
        queue_bytes_capacity: signed(now.bytes_capacity),
        waiting_frames: signed(now.waiting_frames),
        resident_sets: signed(now.sets as u64),
        resident_bytes: signed(now.set_bytes),
    }
}

fn of_rate(about: &About, rate: engine::Rate) -> v1::Throughput {
    let source = match rate.origin {
        engine::Origin::WarmUp => v1::throughput::Source::WarmUp,
        engine::Origin::LastMinute => v1::throughput::Source::LastMinute,
    };
    v1::Throughput {
        precision: about.precision.clone(),
        clips_per_second: rate.clips,
        frames_per_second: rate.frames,
        source: source.into(),
    }
}

fn of_budget(budget: &Budget) -> v1::MemoryBudget {
    v1::MemoryBudget {
        part: budget.part.into(),
        settings: budget.settings.into(),
        bytes: signed(budget.bytes),
    }
}

fn of_decided(decided: &Decided) -> v1::backbone::Decision {
    v1::backbone::Decision {
        field: decided.field.into(),
        value: decided.value.clone(),
        source: decided.from.clone(),
    }
}
