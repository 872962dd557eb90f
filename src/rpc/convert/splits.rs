//! Splits of a task's requests as the API shows them, and as it asks for them.

use std::time::Duration;

use tonic::Status;

use super::names;
use super::spec::{of_duration, signed};
use crate::ids::{TaskId, TenantId, VersionRef};
use crate::metadata::{Plan, Proof, Share, TaskRecord, WHOLE};
use crate::proto::v1;
use crate::rpc::{Parts, status};
use crate::serving::Comparison;

/// Returns the plan that SetServing asks for; `None` for a rollback.
pub(in crate::rpc) fn asked(
    tenant: &TenantId,
    task: &TaskId,
    set: &v1::SetServingRequest,
) -> Result<Option<Plan>, Status> {
    if set.rollback {
        let is_alone = set.version.is_empty() && set.split.is_empty() && set.shadows.is_empty();
        return match is_alone {
            true => Ok(None),
            false => {
                let problem = "goes without version, split and shadows";
                Err(status::invalid("rollback", problem))
            }
        };
    }
    let members = shares(tenant, task, ("split", 0), &set.split)?;
    let shadows = shares(tenant, task, ("shadows", WHOLE), &set.shadows)?;
    let largest = members.iter().rev().max_by_key(|own| own.per_mille);
    let main = match (set.version.as_str(), largest) {
        ("", Some(largest)) => largest.version,
        (name, _) => names::version_of(tenant, task, name, "version")?.version,
    };
    let plan = Plan {
        main,
        members,
        shadows,
    };
    plan.check()
        .map_err(|bad| status::invalid(bad.field, bad.problem))?;
    Ok(Some(plan))
}

fn shares(
    tenant: &TenantId,
    task: &TaskId,
    (field, default): (&str, u16),
    shares: &[v1::ServingShare],
) -> Result<Vec<Share>, Status> {
    let share = |(place, own): (usize, &v1::ServingShare)| {
        let name = format!("{field}[{place}].version");
        let version = names::version_of(tenant, task, &own.version, &name)?;
        let per_mille = match own.per_mille {
            0 => Ok(default),
            given => u16::try_from(given),
        };
        let per_mille = per_mille.ok().filter(|own| (1..=WHOLE).contains(own));
        let per_mille = per_mille.ok_or_else(|| {
            let problem = format!("expected 1 to {WHOLE}, got {}", own.per_mille);
            status::invalid(&format!("{field}[{place}].per_mille"), problem)
        })?;
        Ok(Share::new(version.version, per_mille))
    };
    shares.iter().enumerate().map(share).collect()
}

/// Returns the split of a task.
pub(super) fn of_record(record: &TaskRecord) -> Option<v1::ServingSplit> {
    let plan = record.split.as_ref()?;
    let mut split = of_plan(&record.id, plan);
    let main = split.version.clone();
    for member in split.members.iter_mut().filter(|own| own.version == main) {
        let (state, error) = match &record.serving_error {
            Some(why) => (v1::ServingState::Failed, why.clone()),
            None if record.serving == record.desired => (v1::ServingState::Ready, String::new()),
            None => (v1::ServingState::Loading, String::new()),
        };
        member.state = state.into();
        member.error = error;
    }
    Some(split)
}

/// Converts a serving plan.
pub(super) fn of_plan(task: &TaskId, plan: &Plan) -> v1::ServingSplit {
    let member = |own: &Share| {
        let (state, error) = of_proof(&own.proof);
        v1::ServingMember {
            version: names::of_version(task, Some(own.version)),
            per_mille: own.per_mille.into(),
            state,
            error,
        }
    };
    let shadow = |own: &Share| {
        let (state, error) = of_proof(&own.proof);
        v1::ServingShadow {
            version: names::of_version(task, Some(own.version)),
            per_mille: own.per_mille.into(),
            state,
            error,
            ..Default::default()
        }
    };
    v1::ServingSplit {
        version: names::of_version(task, Some(plan.main)),
        members: plan.members.iter().map(member).collect(),
        shadows: plan.shadows.iter().map(shadow).collect(),
    }
}

fn of_proof(proof: &Proof) -> (i32, String) {
    let (state, error) = match proof {
        Proof::Pending => (v1::ServingState::Loading, ""),
        Proof::Ready => (v1::ServingState::Ready, ""),
        Proof::Failed { why } => (v1::ServingState::Failed, why.as_str()),
    };
    (state.into(), error.to_owned())
}

/// Adds what this process knows of a split: versions that it cannot serve, and comparisons.
pub(in crate::rpc) fn tell(
    parts: &Parts,
    (tenant, task): (&TenantId, &TaskId),
    split: &mut v1::ServingSplit,
) {
    let known = |name: &str| -> Option<(VersionRef, Option<String>)> {
        let version = names::version_of(tenant, task, name, "split").ok()?;
        let refusal = parts.engine.refusal(&version);
        Some((version, refusal.map(|why| why.to_string())))
    };
    for own in &mut split.members {
        if let Some((_, Some(why))) = known(&own.version) {
            own.state = v1::ServingState::Failed.into();
            own.error = why;
        }
    }
    for own in &mut split.shadows {
        let Some((version, refusal)) = known(&own.version) else {
            continue;
        };
        if let Some(why) = refusal {
            own.state = v1::ServingState::Failed.into();
            own.error = why;
        }
        compared(own, parts.serving.comparison(&version));
    }
}

fn compared(shadow: &mut v1::ServingShadow, comparison: Comparison) {
    let Comparison {
        compared,
        agreed,
        failed,
        dropped,
        device,
        answer_device,
    } = comparison;
    shadow.compared = signed(compared);
    shadow.agreed = signed(agreed);
    shadow.failed = signed(failed);
    shadow.dropped = signed(dropped);
    let mean = |sum: Duration| (compared > 0).then(|| of_duration(sum.div_f64(compared as f64)));
    shadow.mean_device_time = mean(device);
    shadow.mean_answer_device_time = mean(answer_device);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(version: u32, split: &[(u32, u32)], shadows: &[(u32, u32)]) -> v1::SetServingRequest {
        let name = |number: u32| match number {
            0 => String::new(),
            number => format!("tasks/t/versions/{number}"),
        };
        let shares = |own: &[(u32, u32)]| {
            let shares = own.iter().map(|&(number, per_mille)| v1::ServingShare {
                version: name(number),
                per_mille,
            });
            shares.collect()
        };
        v1::SetServingRequest {
            version: name(version),
            split: shares(split),
            shadows: shares(shadows),
            ..Default::default()
        }
    }

    fn read(set: &v1::SetServingRequest) -> Result<Option<Plan>, Status> {
        asked(&TenantId::anonymous(), &"t".parse().unwrap(), set)
    }

    #[test]
    fn the_main_version_is_the_named_one_or_has_the_largest_share() {
        for (asked, main) in [
            (set(1, &[], &[]), 1),
            (set(0, &[(3, 900), (4, 100)], &[]), 3),
            (set(0, &[(3, 500), (4, 500)], &[]), 3),
            (set(4, &[(3, 900), (4, 100)], &[(5, 0)]), 4),
        ] {
            let plan = read(&asked).unwrap().unwrap();
            assert_eq!(plan.main.get(), main, "{asked:?}");
        }
        let plan = read(&set(1, &[], &[(5, 0), (6, 7)])).unwrap().unwrap();
        let shares: Vec<u16> = plan.shadows.iter().map(|own| own.per_mille).collect();
        assert_eq!(shares, [1000, 7]);
    }

    #[test]
    fn a_wrong_share_is_refused_by_its_path() {
        let rollback = v1::SetServingRequest {
            rollback: true,
            ..set(1, &[], &[])
        };
        for (asked, field) in [
            (set(0, &[], &[]), "version"),
            (set(0, &[(1, 900), (2, 0)], &[]), "split[1].per_mille"),
            (set(0, &[(1, 900), (2, 70_000)], &[]), "split[1].per_mille"),
            (set(0, &[(1, 900), (0, 100)], &[]), "split[1].version"),
            (set(1, &[], &[(2, 1001)]), "shadows[0].per_mille"),
            (set(0, &[(1, 900), (2, 50)], &[]), "split"),
            (set(3, &[(1, 900), (2, 100)], &[]), "version"),
            (rollback, "rollback"),
        ] {
            let message = read(&asked).unwrap_err().message().to_owned();
            assert!(message.starts_with(&format!("{field}: ")), "{message}");
        }
        let rollback = v1::SetServingRequest {
            rollback: true,
            ..Default::default()
        };
        assert_eq!(read(&rollback).unwrap(), None);
    }
}
