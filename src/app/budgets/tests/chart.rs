//! The limits and disks of the pods that the Helm chart makes, beside the sums.

use super::*;

/// A file as the chart renders it with its default values.
const CHART: &str = include_str!("../../../../deploy/chart/ci/golden/minimal.yaml");
/// The same with one kind of pod, which serves and trains.
const CHART_OF_ONE_ROLE: &str = include_str!("../../../../deploy/chart/ci/golden/one-role.yaml");
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
