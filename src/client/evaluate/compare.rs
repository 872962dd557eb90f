//! Two versions, of one task or of two, on the same clips.

use std::collections::BTreeMap;
use std::str::FromStr;

use bytes::Bytes;
use serde_json::{Value, json as object};

use super::mcnemar::{self, Answer, Comparison};
use super::{Args, evaluation, request};
use crate::client::{Error, json, resource};
use crate::proto::v1::{self, evaluate_version_response as response};

/// Changed clips that people are shown.
const SHOWN: usize = 50;

/// A version to compare: `N`, `TASK@N` or `tasks/TASK/versions/N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Task of the version, that of the command when absent.
    task: Option<String>,
    version: u32,
}

impl FromStr for Compared {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = text.strip_prefix("tasks/");
        let named = named.and_then(|rest| rest.split_once("/versions/"));
        let (task, version) = match named.or_else(|| text.rsplit_once('@')) {
            Some((task, version)) => (Some(task), version),
            None => (None, text),
        };
        let is_task = |task: &str| !task.is_empty() && !task.contains(['/', '@']);
        let version = version.parse().ok().filter(|number| *number > 0);
        match version.filter(|_| task.is_none_or(is_task)) {
            Some(version) => Ok(Self {
                task: task.map(str::to_owned),
                version,
            }),
            None => Err("expected N, TASK@N or tasks/TASK/versions/N".to_owned()),
        }
    }
}

/// A version whose task is known.
#[derive(Debug)]
struct Named {
    task: String,
    /// Its resource name.
    name: String,
    number: u32,
    /// What people are shown of it beside the other.
    shown: String,
}

/// The names of both versions.
///
/// # Errors
/// When a version names no task, and the command does not either.
fn named(task: Option<&str>, both: [&Compared; 2]) -> Result<[Named; 2], Error> {
    let of = |own: &Compared| match own.task.as_deref().or(task) {
        Some(task) => Ok(resource("tasks", task)),
        None => Err(Error::Usage(format!(
            "--compare {}: of which task? Give --task, or TASK@{0}",
            own.version
        ))),
    };
    let tasks = [of(both[0])?, of(both[1])?];
    let is_one = tasks[0] == tasks[1];
    let named = |task: String, number: u32| {
        let name = format!("{task}/versions/{number}");
        Named {
            shown: match is_one {
                true => format!("version {number}"),
                false => name.clone(),
            },
            task,
            name,
            number,
        }
    };
    let [first, second] = tasks;
    Ok([
        named(first, both[0].version),
        named(second, both[1].version),
    ])
}

/// `frameshift evaluate --compare`.
///
/// # Errors
/// When the server refuses.
pub(super) async fn run(args: &Args, both: [&Compared; 2]) -> Result<(), Error> {
    let versions = named(args.task.as_deref(), both)?;
    let output = args.connection.output();
    let mut answers = [BTreeMap::new(), BTreeMap::new()];
    let mut digests = Vec::new();
    for (version, answers) in versions.iter().zip(&mut answers) {
        let client = args.connection.client_toward(Some(&version.task)).await?;
        let mut request = request(args, version.name.clone());
        let of = v1::GetAdapterVersionRequest {
            name: request.version.clone(),
        };
        let of = client.tasks().get_adapter_version(of).await?.into_inner();
        let kind = of.label_kind();
        request.top_k = match kind {
            v1::LabelKind::Unspecified | v1::LabelKind::Single => 1,
            // Every label of the version, since any may be selected.
            v1::LabelKind::Multi => u32::try_from(of.labels.len()).unwrap_or(u32::MAX),
        };
        let keep = |clips: &response::Clips| {
            for clip in clips.clips.iter().filter(|own| !own.unknown_label) {
                let answer = Answer::of(clip, kind).filter(|_| clip.error.is_none());
                if let Some(answer) = answer {
                    answers.insert(clip.video.clone(), answer);
                }
            }
            Ok(())
        };
        let ended = Box::pin(evaluation(&client, request, Bytes::new(), output, keep)).await?;
        digests.push(ended.dataset_digest);
    }
    if digests.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(Error::DatasetChanged {
            dataset: args.dataset.clone(),
        });
    }
    let [first, second] = &answers;
    let compared = mcnemar::compare(first, second);
    output.result(
        || described(&versions, &compared),
        || json::typed("comparison", value(&versions, &compared)),
    );
    Ok(())
}

fn described([first, second]: &[Named; 2], compared: &Comparison) -> String {
    let share = |right: u64| right as f64 / compared.clips.max(1) as f64;
    let better = compared
        .changes
        .iter()
        .filter(|change| change.is_better)
        .count();
    let worse = compared.changes.len() - better;
    let verdict = match compared.p {
        p if p < 0.05 => "the versions differ",
        _ => "chance explains the difference",
    };
    let mut text = format!(
        "{} clips: {} is right on {:.3} of them, {} on {:.3}\nMcNemar: {better} clips are right now and were not, {worse} were and are not; p = {:.4}: {verdict}",
        compared.clips,
        first.shown,
        share(compared.right[0]),
        second.shown,
        share(compared.right[1]),
        compared.p
    );
    if compared.left_out > 0 {
        text += &format!(
            "\n{} clips are left out, since only one of the versions has their label or could read them",
            compared.left_out
        );
    }
    for change in compared.changes.iter().take(SHOWN) {
        let sign = if change.is_better { '+' } else { '-' };
        text += &format!(
            "\n{sign} {}  {}: {} → {}",
            change.video, change.label, change.first, change.second
        );
    }
    if compared.changes.len() > SHOWN {
        text += &format!(
            "\n… and {} more; --json has all",
            compared.changes.len() - SHOWN
        );
    }
    text
}

fn value([first, second]: &[Named; 2], compared: &Comparison) -> Value {
    let changes = compared.changes.iter().map(|change| {
        object!({
            "video": change.video,
            "label": change.label,
            "first": change.first,
            "second": change.second,
            "better": change.is_better,
        })
    });
    object!({
        "first": first.number,
        "second": second.number,
        "versions": [first.name, second.name],
        "clips": compared.clips,
        "left_out": compared.left_out,
        "first_right": compared.right[0],
        "second_right": compared.right[1],
        "p": compared.p,
        "changes": changes.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_of_the_commands_task_or_of_its_own() {
        let of = |text: &str| text.parse::<Compared>();
        let name = |task, both: [&str; 2]| {
            let both = both.map(|text| of(text).unwrap());
            named(task, both.each_ref()).map(|named| named.map(|own| (own.name, own.shown)))
        };
        let plain = name(Some("t"), ["3", "t@4"]).unwrap();
        assert_eq!(plain[0], ("tasks/t/versions/3".into(), "version 3".into()));
        assert_eq!(plain[1], ("tasks/t/versions/4".into(), "version 4".into()));
        let other = name(None, ["probe@1", "tasks/wide.2/versions/12"]).unwrap();
        let probe = "tasks/probe/versions/1".to_owned();
        assert_eq!(other[0], (probe.clone(), probe));
        assert_eq!(other[1].0, "tasks/wide.2/versions/12");
        let error = name(None, ["probe@1", "7"]).unwrap_err();
        assert_eq!(error.exit_code(), 64);
        assert!(error.to_string().contains("TASK@7"), "{error}");
        for wrong in [
            "",
            "0",
            "x",
            "@1",
            "t@",
            "t@x",
            "t@0",
            "tasks/t",
            "tasks//versions/1",
            "a/b@1",
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
