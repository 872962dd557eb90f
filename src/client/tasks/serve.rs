//! `frameshift tasks serve`: what answers for a task, how requests are shared out, and the way back.

use std::str::FromStr;

use super::{get, json, until_serving};
use crate::client::{Client, Error};
use crate::proto::v1;

/// Thousandths in all.
const WHOLE: u32 = 1000;

/// Arguments of `tasks serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Task id
    pub id: String,
    /// Number of the version that answers all requests or, with `--split`, is the main one (default: the one with the largest share)
    #[arg(value_name = "VERSION", required_unless_present_any = ["split", "rollback"])]
    pub version: Option<Number>,
    /// Versions that share the requests, with their shares in percent, which sum to 100: `v3=90,v4=10`
    #[arg(long, value_name = "VERSION=PERCENT", value_delimiter = ',')]
    pub split: Vec<Share>,
    /// Shadow versions, which are run beside the version that answers and compared with it: `v5`, or `v5=20` for 20 percent of the requests
    #[arg(long, value_name = "VERSION[=PERCENT]", value_delimiter = ',')]
    pub shadow: Vec<Share>,
    /// Goes back to what served before; a second rollback undoes the first
    #[arg(long, conflicts_with_all = ["version", "split", "shadow"])]
    pub rollback: bool,
    /// Waits until the main version serves, or cannot
    #[arg(long)]
    pub wait: bool,
}

/// The number of a version, also written `v3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number(u32);

/// A version and its share of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    version: Number,
    /// Thousandths; `None` when it was not given.
    per_mille: Option<u32>,
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix('v').unwrap_or(text);
        match digits.parse() {
            Ok(number) if number > 0 && !digits.starts_with('+') => Ok(Self(number)),
            Ok(_) | Err(_) => Err(format!("{text:?} is no version: expected 3 or v3")),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (version, per_mille) = match text.split_once('=') {
            None => (text, None),
            Some((version, share)) => (version, Some(thousandths(share)?)),
        };
        Ok(Self {
            version: version.parse()?,
            per_mille,
        })
    }
}

/// A percentage with at most one decimal, in thousandths.
fn thousandths(percent: &str) -> Result<u32, String> {
    let (whole, tenth) = percent.split_once('.').unwrap_or((percent, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|own| own.is_ascii_digit());
    let value = match (is_number(whole), is_number(tenth) && tenth.len() == 1) {
        (true, true) => format!("{whole}{tenth}").parse().ok(),
        _ => None,
    };
    let value = value.filter(|own| (1..=WHOLE).contains(own));
    value.ok_or_else(|| format!("{percent:?} is not 0.1 to 100 percent, with one decimal at most"))
}

/// Asks for what is to serve, and waits for it if that is wanted.
pub(super) async fn serve(client: &Client, args: &Args) -> Result<v1::Task, Error> {
    let shares = |shares: &[Share], name: &str| -> Vec<v1::ServingShare> {
        let share = |own: &Share| v1::ServingShare {
            version: format!("{name}/versions/{}", own.version.0),
            per_mille: own.per_mille.unwrap_or_default(),
        };
        shares.iter().map(share).collect()
    };
    if let Some(own) = args.split.iter().find(|own| own.per_mille.is_none()) {
        let version = own.version.0;
        let problem = format!("--split: version {version} has no share: write v{version}=10");
        return Err(Error::Usage(problem));
    }
    let task = get(client, &args.id).await?;
    let name = task.name.clone();
    let version = args.version.map(|own| format!("{name}/versions/{}", own.0));
    let request = v1::SetServingRequest {
        version: version.unwrap_or_default(),
        split: shares(&args.split, &name),
        shadows: shares(&args.shadow, &name),
        rollback: args.rollback,
        name: task.name,
        etag: task.etag,
    };
    let mut task = client.tasks().set_serving(request).await?.into_inner();
    if args.wait {
        until_serving(client, &name, &task.desired_version).await?;
        task = get(client, &name).await?;
    }
    Ok(task)
}

/// The split of a task and the way back, each in lines that begin with a line feed; nothing for what is absent.
pub(super) fn described(task: &v1::Task) -> String {
    let mut text = String::new();
    if let Some(split) = &task.split {
        for own in &split.members {
            text += &line("split", &own.version, own.per_mille);
            text += &standing(own.state(), &own.error);
        }
        for own in &split.shadows {
            text += &line("shadow", &own.version, own.per_mille);
            text += &standing(own.state(), &own.error);
            text += &compared(own);
        }
    }
    if let Some(previous) = &task.previous {
        let mut versions = vec![previous.version.clone()];
        if !previous.members.is_empty() {
            let share =
                |own: &v1::ServingMember| format!("{} {}", own.version, percent(own.per_mille));
            versions = previous.members.iter().map(share).collect();
        }
        text += &format!("\nbefore      {}", versions.join(", "));
    }
    text
}

fn line(what: &str, version: &str, per_mille: u32) -> String {
    format!("\n{what:<11} {version}  {}", percent(per_mille))
}

fn standing(state: v1::ServingState, error: &str) -> String {
    match (state, error) {
        (v1::ServingState::Ready, _) => String::new(),
        (state, "") => format!("  {}", json::serving_state_name(state)),
        (state, error) => format!("  {}: {error}", json::serving_state_name(state)),
    }
}

fn compared(own: &v1::ServingShadow) -> String {
    let mut text = String::new();
    if own.compared > 0 {
        let share = own.agreed as f64 / own.compared as f64 * 100.0;
        text += &format!(
            "  same best label in {} of {} requests ({share:.1} %)",
            own.agreed, own.compared
        );
    }
    let times = own
        .mean_device_time
        .as_ref()
        .zip(own.mean_answer_device_time.as_ref());
    if let Some((shadow, answer)) = times {
        let (shadow, answer) = (json::milliseconds(shadow), json::milliseconds(answer));
        text += &format!(", {shadow:.1} ms on the device beside {answer:.1} ms");
    }
    if own.failed > 0 || own.dropped > 0 {
        text += &format!("  {} failed, {} dropped", own.failed, own.dropped);
    }
    text
}

fn percent(per_mille: u32) -> String {
    match per_mille % 10 {
        0 => format!("{} %", per_mille / 10),
        tenth => format!("{}.{tenth} %", per_mille / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_shares_are_read_as_people_write_them() {
        let share = |text: &str| {
            text.parse::<Share>()
                .map(|own| (own.version.0, own.per_mille))
        };
        assert_eq!(share("v3=90"), Ok((3, Some(900))));
        assert_eq!(share("4=0.5"), Ok((4, Some(5))));
        assert_eq!(share("v5"), Ok((5, None)));
        assert_eq!(share("5=100"), Ok((5, Some(1000))));
        for bad in [
            "", "v", "v0", "+3", "v+3", "3=", "3=0", "3=101", "3=1.25", "3=.5", "3=1.", "x=1",
        ] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_split_is_told_with_its_troubles_and_comparisons() {
        let name = |number: u32| format!("tasks/a/versions/{number}");
        let task = v1::Task {
            split: Some(v1::ServingSplit {
                version: name(3),
                members: vec![
                    v1::ServingMember {
                        version: name(3),
                        per_mille: 905,
                        state: v1::ServingState::Ready.into(),
                        error: String::new(),
                    },
                    v1::ServingMember {
                        version: name(4),
                        per_mille: 95,
                        state: v1::ServingState::Failed.into(),
                        error: "it is damaged".to_owned(),
                    },
                ],
                shadows: vec![v1::ServingShadow {
                    version: name(5),
                    per_mille: 1000,
                    state: v1::ServingState::Ready.into(),
                    compared: 8,
                    agreed: 6,
                    dropped: 1,
                    ..Default::default()
                }],
            }),
            previous: Some(v1::ServingSplit {
                version: name(2),
                ..Default::default()
            }),
            ..Default::default()
        };
        let expected = "
split       tasks/a/versions/3  90.5 %
split       tasks/a/versions/4  9.5 %  failed: it is damaged
shadow      tasks/a/versions/5  100 %  same best label in 6 of 8 requests (75.0 %)  0 failed, 1 dropped
before      tasks/a/versions/2";
        assert_eq!(described(&task), expected);
        assert_eq!(described(&v1::Task::default()), "");
    }
}
