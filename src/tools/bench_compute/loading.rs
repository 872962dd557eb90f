//! The backbone of a run: from a checkpoint, as a server loads it, or of random weights; and what that took.
//!
//! Invariant: a checkpoint is loaded by the functions that the server calls; nothing else ran before that would have taken memory.

use std::time::Instant;

use serde::Serialize;

use super::{Args, Error, On, round};
use crate::model::load::{self, Overrides, Plan};
use crate::model::{Backbone, BackboneConfig, Tensors, usage};
use crate::rng::Stream;
use crate::spec::{Digest, Invalid};

/// Cost of loading a checkpoint.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Loading {
    family: &'static str,
    format: String,
    stored_as: String,
    parameters: u64,
    /// Time until files are mapped, headers read, and all names and shapes checked.
    mapped_ms: f64,
    /// Time from there until all values are checked, hashed and packed, tensor by tensor on all threads.
    packed_ms: f64,
    /// Sum of the two.
    load_ms: f64,
    /// Memory of the packed weights.
    packed_mib: u64,
    /// Largest resident size of the whole process so far.
    peak_mib: u64,
    /// Peak memory divided by the memory of the packed weights.
    peak_of_packed: f64,
}

/// The line of `bench compute load`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    what: super::What,
    backbone: &'a str,
    digest: String,
    precision: String,
    threads: usize,
    #[serde(flatten)]
    loading: Loading,
    /// Reading, checking and hashing all values once more, without packing them: so much of `packed_ms` is for safety.
    checked_ms: f64,
}

/// A backbone, and what it took: from its checkpoint, or from random tensors, to packed weights.
pub(super) struct Loaded {
    pub(super) backbone: Backbone,
    pub(super) load_ms: f64,
    /// Cost of loading a checkpoint.
    pub(super) loading: Option<Loading>,
}

/// Loads what the arguments ask for.
pub(super) fn load(args: &Args, on: &On) -> Result<Loaded, Error> {
    match &args.backbone {
        Some(_) => {
            let (_, backbone, loading) = checkpoint(args, on)?;
            Ok(Loaded {
                backbone,
                load_ms: loading.load_ms,
                loading: Some(loading),
            })
        }
        None => random(args, on),
    }
}

/// Loads a checkpoint and says what it took.
pub(super) fn line(args: &Args, on: &On, threads: usize) -> Result<String, Error> {
    let (plan, backbone, loading) = checkpoint(args, on)?;
    let start = Instant::now();
    let digest = plan.digest().map_err(|source| refused(args, source))?;
    let checked_ms = ms(start);
    let line = Line {
        what: args.what,
        backbone: backbone.name(),
        digest: digest.to_string(),
        precision: on.precision.to_string(),
        threads,
        loading,
        checked_ms,
    };
    // Numbers and names only: serde_json has no way to fail on them.
    Ok(serde_json::to_string(&line).unwrap_or_default())
}

fn checkpoint(args: &Args, on: &On) -> Result<(Plan, Backbone, Loading), Error> {
    let Some(path) = &args.backbone else {
        let problem = "is needed to measure how it loads";
        return Err(Error::Argument(Invalid::new("backbone", problem)));
    };
    let refused = |source| refused(args, source);
    let start = Instant::now();
    let plan = load::plan(path, &Overrides::default()).map_err(refused)?;
    let mapped_ms = ms(start);
    on.check(plan.config())?;
    let backbone = Backbone::from_plan_on(&plan, on.precision, &on.place).map_err(refused)?;
    let load_ms = ms(start);
    let (packed, peak) = (backbone.bytes(), usage().peak_bytes);
    let loading = Loading {
        family: plan.family(),
        format: plan.format(),
        stored_as: plan.stored_as(),
        parameters: plan.parameters(),
        mapped_ms,
        packed_ms: round(load_ms - mapped_ms, 1.0),
        load_ms,
        packed_mib: packed >> 20,
        peak_mib: peak >> 20,
        peak_of_packed: round(peak as f64 / packed as f64, 3.0),
    };
    Ok((plan, backbone, loading))
}

fn refused(args: &Args, source: load::Error) -> Error {
    Error::Backbone {
        path: args.backbone.clone().unwrap_or_default(),
        source,
    }
}

fn random(args: &Args, on: &On) -> Result<Loaded, Error> {
    let (shape, name) = (args.size.config(), args.size.name());
    let tensors = random_tensors(&name, &shape);
    on.check(&shape)?;
    let start = Instant::now();
    let backbone = Backbone::from_tensors_on(
        &name,
        (shape, Digest([0; 32])),
        tensors,
        on.precision,
        &on.place,
    )?;
    Ok(Loaded {
        backbone,
        load_ms: ms(start),
        loading: None,
    })
}

/// Random values for the tensors of a backbone; equal names give equal values.
pub(in crate::tools) fn random_tensors(name: &str, shape: &BackboneConfig) -> Tensors {
    let rng = Stream::new(1, name);
    let mut tensors = Tensors::new();
    for (i, (name, dims)) in shape.tensors().into_iter().enumerate() {
        let mut rng = rng.fork(i as u64);
        // Norms near the identity, and products that keep the size of what goes through them.
        let (mean, scale) = match (dims.as_slice(), name.ends_with("weight")) {
            ([_], true) => (1.0, 0.1),
            ([_], false) => (0.0, 0.02),
            ([_, rest @ ..], _) => (0.0, (3.0 / rest.iter().product::<usize>() as f32).sqrt()),
            ([], _) => (0.0, 0.0),
        };
        let count = dims.iter().product();
        let values = (0..count).map(|_| rng.range(mean - scale, mean + scale));
        let values = values.collect();
        tensors.insert(name, (dims, values));
    }
    tensors
}

fn ms(start: Instant) -> f64 {
    round(start.elapsed().as_secs_f64() * 1e3, 1.0)
}
