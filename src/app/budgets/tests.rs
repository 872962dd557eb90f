//! The sums, their parts in the documentation, and the limits of the chart's pods.

use super::*;
use crate::config::settings::{Flags, Role, Settings};
use std::collections::BTreeMap;

fn budgets(flags: &Flags) -> Budgets {
    let config = Config::load(None, &BTreeMap::new(), flags, "frameshift".into()).unwrap();
    Budgets::of(&config, 300 << 20, None)
}

#[test]
fn what_is_computed_with_counts_for_the_gpu_where_there_is_one() {
    let config = Config::load(
        None,
        &BTreeMap::new(),
        &Flags::default(),
        "frameshift".into(),
    );
    let config = config.unwrap();
    let cpu = Budgets::of(&config, 300 << 20, None);
    let computed: u64 = (300 << 20)
        + config.engine.residency_bytes
        + config.engine.batch_bytes
        + config.jobs.runners as u64 * config.jobs.step_bytes;
    let mut gpu = Budgets::of(&config, 300 << 20, Some(computed));
    gpu.available = None;
    assert_eq!(gpu.sum(), cpu.sum() - computed + STAGING);
    assert!(!gpu.is_too_much());
    let text = gpu.to_string();
    let (host, device) = text.split_once("GPU's memory").unwrap();
    assert!(
        host.contains("waiting clips") && !host.contains("adapter sets"),
        "{text}"
    );
    assert!(
        device.contains("adapter sets") && !device.contains("which is less"),
        "{text}"
    );
    gpu.device = Some(computed - 1);
    assert!(gpu.is_too_much() && gpu.to_string().contains("which is less"));
}

#[test]
fn the_sum_follows_every_setting() {
    let text = |text: &str| Some(text.parse().unwrap());
    let base = Flags {
        message_memory: text("128MiB"),
        upload_memory: text("128MiB"),
        video_workers: Some(2.try_into().unwrap()),
        ..Flags::default()
    };
    let before = budgets(&base);
    let parts: u64 = before.parts.iter().map(|part| part.bytes).sum();
    assert_eq!(before.sum(), parts);
    for (flags, more) in [
        (
            Flags {
                message_memory: text("129MiB"),
                ..base.clone()
            },
            1 << 20,
        ),
        (
            Flags {
                upload_memory: text("130MiB"),
                ..base.clone()
            },
            2 << 20,
        ),
        (
            Flags {
                connections: Some(513.try_into().unwrap()),
                ..base.clone()
            },
            u64::from(CONNECTION_WINDOW),
        ),
        (
            Flags {
                video_workers: Some(3.try_into().unwrap()),
                ..base.clone()
            },
            1 << 30,
        ),
        (
            Flags {
                live_memory: text("513MiB"),
                ..base.clone()
            },
            1 << 20,
        ),
        (
            Flags {
                adapter_memory: text("3GiB"),
                ..base.clone()
            },
            2 << 30,
        ),
    ] {
        assert_eq!(budgets(&flags).sum() - before.sum(), more);
    }
}

/// The parts of the table in docs/operate.md, each with the settings that it names, in their order.
fn documented() -> Vec<(&'static str, Vec<&'static str>)> {
    let page = include_str!("../../../docs/operate.md");
    let (_, rest) = page.split_once("| part | setting | what it is |").unwrap();
    let lines = rest
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let settings = cells[1].split('`').skip(1).step_by(2);
        (cells[0], settings.collect())
    };
    lines.map(row).collect()
}

#[test]
fn the_table_for_operators_has_every_part_with_its_settings() {
    let budgets = budgets(&Flags::default());
    let parts = budgets.parts.iter().map(|part| {
        let settings = part.settings.split(", ").filter(|key| !key.is_empty());
        (part.what, settings.collect::<Vec<_>>())
    });
    assert_eq!(documented(), parts.collect::<Vec<_>>());
    // What a part names is a setting.
    for part in &budgets.parts {
        for key in part.settings.split(", ").filter(|key| !key.is_empty()) {
            assert!(Settings::KEYS.contains(&key), "{key}");
        }
    }
}

#[test]
fn more_than_there_is_is_said() {
    let mut budgets = budgets(&Flags::default());
    budgets.available = Some(budgets.sum());
    assert!(!budgets.is_too_much());
    budgets.available = Some(budgets.sum() - 1);
    assert!(budgets.is_too_much());
    let text = budgets.to_string();
    for part in ["at most", "which is less", "message_memory", "300 MiB"] {
        assert!(text.contains(part), "{text}");
    }
}

/// A file as the chart renders it with its default values.
const CHART: &str = include_str!("../../../deploy/chart/ci/golden/minimal.yaml");
/// The same with one kind of pod, which serves and trains.
const CHART_OF_ONE_ROLE: &str = include_str!("../../../deploy/chart/ci/golden/one-role.yaml");
/// Bytes of a ViT-B/16 in f32, for which the chart's limits leave room.
const BACKBONE: u64 = 350 << 20;

/// A pod that the chart makes: its settings, and what Kubernetes lets it have.
struct Pod {
    config: Config,
    memory: u64,
    data: u64,
    tmp: u64,
}

/// The object of the chart's template of this name.
fn rendered<'a>(chart: &'a str, template: &str) -> &'a str {
    let begin = format!("# frameshift/templates/{template}.yaml\n");
    let (_, object) = chart.split_once(&begin).unwrap();
    object
        .split("\n# frameshift/templates/")
        .next()
        .unwrap_or(object)
}

/// The size that stands in the first line after `before` that begins with `key`.
fn size(text: &str, before: &str, key: &str) -> u64 {
    let (_, after) = text.split_once(before).unwrap();
    let mut lines = after.lines().map(str::trim);
    let size = lines.find_map(|line| line.strip_prefix(key)).unwrap();
    let gibibytes = size.trim().strip_suffix("Gi").unwrap();
    gibibytes.parse::<u64>().unwrap() << 30
}

impl Pod {
    fn of(chart: &str, template: &str, role: Role) -> Self {
        let (_, toml) = chart.split_once("  frameshift.toml: |\n").unwrap();
        let lines = toml.lines().map_while(|line| line.strip_prefix("    "));
        let toml: Vec<&str> = lines.collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml.join("\n")).unwrap();
        let pod = rendered(chart, template);
        let variables = pod.split("- name: FRAMESHIFT_").skip(1);
        let environment: BTreeMap<String, String> = variables
            .map(|variable| {
                let (name, rest) = variable.split_once('\n').unwrap();
                let value = rest.lines().next().unwrap().trim();
                let value = value.strip_prefix("value: ").unwrap().trim_matches('"');
                (format!("FRAMESHIFT_{name}"), value.to_owned())
            })
            .filter(|(name, _)| name != "FRAMESHIFT_CONFIG")
            .collect();
        let flags = Flags {
            role: Some(role),
            ..Flags::default()
        };
        let config = Config::load(Some(file.path()), &environment, &flags, "frameshift".into());
        Self {
            config: config.unwrap(),
            memory: size(pod, "limits:", "memory: "),
            data: size(pod, "- name: data", "sizeLimit: "),
            tmp: size(pod, "- name: tmp", "sizeLimit: "),
        }
    }

    fn all() -> [(&'static str, Self); 3] {
        [
            ("servers", Self::of(CHART, "server", Role::Serve)),
            ("trainers", Self::of(CHART, "trainer", Role::Train)),
            (
                "pods of one role",
                Self::of(CHART_OF_ONE_ROLE, "server", Role::All),
            ),
        ]
    }
}

#[test]
fn the_budgets_of_the_charts_pods_fit_their_limits_on_every_node() {
    for (what, pod) in Pod::all() {
        let mut budgets = Budgets::of(&pod.config, BACKBONE, None);
        budgets.available = Some(pod.memory);
        assert!(!budgets.is_too_much(), "{what}: {budgets}");
        // A limit far above the sum would be one that nobody has looked at.
        assert!(budgets.sum() > pod.memory - (1 << 30), "{what}: {budgets}");
        // What is left to the machine would grow with the node.
        let left = pod.config.left;
        assert!(!left.batch_memory && !left.step_memory, "{what}: {left:?}");
        assert_eq!(pod.config.video.workers, 2, "{what}");
        assert_eq!(pod.config.compute_threads.map(usize::from), Some(2));
    }
}

#[test]
fn the_pod_that_takes_a_submission_and_the_one_that_trains_it_know_the_same_sizes() {
    let [(_, server), (_, trainer), _] = Pod::all();
    let (server, trainer) = (server.config.jobs, trainer.config.jobs);
    assert_eq!(server.step_bytes, trainer.step_bytes);
    assert_eq!(server.feature_bytes, trainer.feature_bytes);
}

#[test]
fn files_of_running_work_fit_the_volumes_of_the_charts_pods() {
    for (what, pod) in Pod::all() {
        let config = &pod.config;
        let jobs = config.jobs.runners as u64 * config.jobs.feature_bytes;
        let files = config.rpc.limits.spool_bytes + jobs + config.jobs.clip_disk_bytes;
        assert!(files < pod.data, "{what}: {files} of {}", pod.data);
        // Objects past the cache: one for each video that is decoded.
        let decoders = (config.video.workers + config.video.parked()) as u64;
        let copies = decoders * config.upload_limit;
        assert!(copies < pod.tmp, "{what}: {copies} of {}", pod.tmp);
    }
}

#[test]
fn a_process_has_budgets_for_what_its_role_does() {
    let of = |role| {
        budgets(&Flags {
            role: Some(role),
            ..Flags::default()
        })
    };
    let (all, serving, training) = (of(Role::All), of(Role::Serve), of(Role::Train));
    let bytes = |budgets: &Budgets, what| {
        let part = budgets.parts.iter().find(|part| part.what == what);
        part.unwrap().bytes
    };
    for what in [
        "training steps",
        "examples of jobs",
        "decoded clips of jobs",
    ] {
        assert_eq!(bytes(&serving, what), 0, "{what}");
        assert_eq!(bytes(&training, what), bytes(&all, what), "{what}");
    }
    for what in [
        "messages on their way in",
        "receive windows",
        "uploads, imports, exports",
        "live streams",
        "workers in long videos",
        "frames of windows",
    ] {
        assert_eq!(bytes(&training, what), 0, "{what}");
        assert_eq!(bytes(&serving, what), bytes(&all, what), "{what}");
    }
    assert!(serving.sum() < all.sum() && training.sum() < all.sum());
}
