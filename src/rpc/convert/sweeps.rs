//! Sweeps between the API and the domain.

use std::time::Duration;

use tonic::Status;

use super::{names, spec};
use crate::ids::{AdapterVersion, TaskId};
use crate::jobs::sweep;
use crate::metadata::{SweepJob, SweepRecord, SweepShape, SweepSpec, SweepSummary};
use crate::proto::v1;
use crate::rpc::status;
use crate::spec::Geometry;

/// What a submission tries; the jobs check ranges.
pub(in crate::rpc) fn spec(
    given: v1::SubmitSweepRequest,
    geometry: &Geometry,
) -> Result<SweepSpec, Status> {
    let (dataset, dataset_version) = names::dataset_at(&given.dataset, "dataset")?;
    names::chosen::<TaskId>(&given.task_prefix, "task_prefix")?;
    let count = given.shapes.len();
    let random = usize::try_from(given.random_points).unwrap_or(usize::MAX);
    let of = (count, &given.learning_rates[..]);
    let points = sweep::points(of, random, given.random_seed)
        .map_err(|invalid| status::invalid(invalid.field, invalid.problem))?;
    let mut shapes = Vec::with_capacity(count);
    for (place, shape) in given.shapes.into_iter().enumerate() {
        let own = spec::shape(shape, geometry, &format!("shapes[{place}]"))?;
        shapes.push(SweepShape {
            task: format!("{}-{}", given.task_prefix, place + 1),
            adapter: own.adapter,
            sampling: own.sampling,
            auto_head: own.auto_head,
        });
    }
    Ok(SweepSpec {
        dataset: dataset.to_string(),
        dataset_version,
        shapes,
        hyper_parameters: spec::hyper(given.hyper_parameters.unwrap_or_default())?,
        points,
        seeds: given.seeds,
        halving: given.halving,
        priority: given.priority,
    })
}

/// A sweep with its points.
pub(in crate::rpc) fn of_sweep(record: SweepRecord) -> v1::Sweep {
    let order = sweep::ranked(&record.spec, &record.progress);
    let points = order.into_iter().map(|point| of_point(&record, point));
    let points = points.collect();
    v1::Sweep {
        points,
        ..of_listed_sweep(SweepSummary::from(&record))
    }
}

/// A sweep in a listing.
pub(in crate::rpc) fn of_listed_sweep(own: SweepSummary) -> v1::Sweep {
    v1::Sweep {
        name: format!("sweeps/{}", own.id),
        dataset: match own.dataset_version {
            None => format!("datasets/{}", own.dataset),
            Some(number) => format!("datasets/{}/versions/{number}", own.dataset),
        },
        state: spec::of_state(own.state).into(),
        round: own.round + 1,
        rounds: sweep::rounds(own.points, own.halving),
        jobs: own.jobs,
        unfinished_jobs: own.unfinished_jobs,
        message: own.message.unwrap_or_default(),
        points: Vec::new(),
        cancel_requested: own.cancel_requested,
        create_time: Some(spec::of_time(own.create_time)),
        end_time: own.end_time.map(spec::of_time),
    }
}

fn of_point(record: &SweepRecord, point: usize) -> v1::SweepPoint {
    let outcome = sweep::outcome(&record.progress, point);
    let own = record.spec.points.get(point).copied();
    let shape = own.and_then(|own| record.spec.shapes.get(own.shape));
    let jobs = record.progress.jobs.iter();
    let jobs = jobs.filter(|own| (own.point, own.round) == (point, outcome.round));
    let task = shape.map_or("", |shape| shape.task.as_str());
    let jobs: Vec<v1::SweepJob> = jobs.map(|own| of_job(own, task)).collect();
    v1::SweepPoint {
        task: format!("tasks/{task}"),
        adapter: shape.map(|shape| spec::of_adapter(&shape.adapter)),
        head: shape.map_or(0, |shape| match shape.auto_head {
            true => v1::Head::Auto.into(),
            false => spec::of_head(shape.adapter.head).into(),
        }),
        sampling: shape.map(|shape| spec::of_sampling(&shape.sampling)),
        learning_rate: own.and_then(|own| own.learning_rate),
        round: match jobs.is_empty() {
            true => 0,
            false => outcome.round + 1,
        },
        jobs,
        succeeded: outcome.succeeded,
        top1: outcome.top1,
        top1_deviation: outcome.spread,
        top1_min: outcome.range.0,
        top1_max: outcome.range.1,
        loss: outcome.loss,
        parameters: spec::signed(outcome.parameters),
    }
}

fn of_job(own: &SweepJob, task: &str) -> v1::SweepJob {
    let shown = v1::SweepJob {
        name: format!("jobs/{}", own.job),
        seed: own.seed,
        ..Default::default()
    };
    let Some(outcome) = own.outcome else {
        return shown;
    };
    let version = AdapterVersion::new(outcome.version);
    v1::SweepJob {
        state: spec::of_state(outcome.state).into(),
        version: version.map_or_else(String::new, |own| format!("tasks/{task}/versions/{own}")),
        top1: outcome.top1,
        training_time: Some(spec::of_duration(Duration::from_micros(
            outcome.training_micros,
        ))),
        ..shown
    }
}
