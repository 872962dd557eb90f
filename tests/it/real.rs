//! Training on real data, when `FRAMESHIFT_REAL=DIR` names a folder with `<set>/<split>/<label>/<video>` (docs/real-data.md); else skipped with a word.
//!
//! `FRAMESHIFT_REAL_SEEDS=3` trains each recipe so often, `FRAMESHIFT_REAL_BACKBONE=PATH` on another backbone than the built-in one. No figure is asserted, but that
//! every video of the folder is counted, that training lowers the loss, and that a job and an evaluation say the same; the figures are printed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use frameshift::client::Client;
use frameshift::config::Backbone;
use frameshift::proto::v1;
use frameshift::proto::v1::evaluate_version_response::Event;
use frameshift::spec::wilson;

use crate::reports::command::{ask, word};
use crate::server::{TestServer, clip};
use crate::shared::files_below;

const SPLITS: [&str; 3] = ["train", "val", "test"];

/// The recipes that are compared, with what `train` needs for them.
const RECIPES: [(&str, &[&str]); 3] = [
    ("probe", &["--sites", "none", "--head", "mean"]),
    ("frames", &["--sites", "none", "--head", "frames"]),
    ("adapters", &[]),
];

/// Videos of each label, by split.
type Found = BTreeMap<String, BTreeMap<String, u64>>;

/// Walks `<split>/<label>/…`. Hidden files are no videos.
fn walk(set: &Path) -> Found {
    let mut found = Found::new();
    for file in files_below(set) {
        let place = file.strip_prefix(set).expect("a file of the set");
        let parts: Vec<&str> = place.iter().filter_map(|part| part.to_str()).collect();
        let [split, label, .., name] = parts[..] else {
            panic!("{}: expected <split>/<label>/<video>", file.display());
        };
        assert!(
            SPLITS.contains(&split),
            "{}: {split:?} is none of the splits train, val and test",
            file.display()
        );
        if !name.starts_with('.') {
            let labels = found.entry(split.to_owned()).or_default();
            *labels.entry(label.to_owned()).or_default() += 1;
        }
    }
    found
}

fn videos(found: &Found, split: &str) -> u64 {
    found.get(split).map_or(0, |labels| labels.values().sum())
}

/// The folders of a folder, by name.
fn sets(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("FRAMESHIFT_REAL={}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut sets: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    sets.sort();
    sets
}

/// A name of the API for a folder.
fn id_of(set: &Path) -> String {
    let name = set.file_name().and_then(|name| name.to_str());
    let letters = name.expect("a name").to_lowercase();
    let letters = letters.chars().map(|own| {
        if own.is_ascii_alphanumeric() {
            own
        } else {
            '-'
        }
    });
    format!("real-{}", letters.collect::<String>().trim_matches('-'))
}

/// What a version scores on a split, as an evaluation says.
async fn evaluated(client: &Client, version: &str, dataset: &str) -> v1::Evaluation {
    let request = v1::EvaluateVersionRequest {
        version: version.to_owned(),
        dataset: format!("datasets/{dataset}"),
        split: v1::Split::Test.into(),
        ..Default::default()
    };
    let stream = client.tasks().evaluate_version(request).await;
    let mut stream = stream.expect("an evaluation").into_inner();
    while let Some(message) = stream.message().await.expect("a message") {
        if let Some(Event::Result(result)) = message.event {
            return result.evaluation.expect("metrics");
        }
    }
    panic!("the evaluation of {version} has no result")
}

/// What a job of a recipe came to.
struct Outcome {
    task: String,
    result: v1::JobResult,
    seconds: f64,
}

async fn train(server: &TestServer, dataset: &str, task: String, words: &[&str]) -> Outcome {
    let began = Instant::now();
    let train = ["train", "--task", &task, "--dataset", dataset];
    let ran = ask(server, &[&train[..], words].concat()).await;
    ran.ends(0);
    let client = server.client("default").await;
    let request = v1::ListJobsRequest {
        page_size: 1000,
        ..Default::default()
    };
    let page = client.fine_tuning().list_jobs(request).await.expect("jobs");
    let jobs = page.into_inner().jobs.into_iter();
    let mut own = jobs.filter(|job| job.task == format!("tasks/{task}"));
    let name = own.next().expect("a job").name;
    let request = v1::GetJobRequest { name };
    let job = client.fine_tuning().get_job(request).await.expect("a job");
    let job = job.into_inner();
    assert_eq!(job.state(), v1::JobState::Succeeded, "{}", job.message);
    Outcome {
        task,
        result: job.result.expect("a result"),
        seconds: began.elapsed().as_secs_f64(),
    }
}

fn accuracy(evaluation: &v1::Evaluation) -> String {
    let examples = u64::try_from(evaluation.examples).unwrap_or_default();
    let right = (evaluation.top1 * examples as f64).round() as u64;
    let (low, high) = wilson(right, examples);
    format!("{:.3} [{low:.2}, {high:.2}] of {examples}", evaluation.top1)
}

/// Uploads a set, trains each recipe with each seed, and prints what they come to.
async fn measure(server: &TestServer, set: &Path, seeds: u64, more: &[&str]) {
    let found = walk(set);
    let dataset = id_of(set);
    let create = ["dataset", "create", &dataset, "--from", word(set)];
    let created = ask(server, &create).await.ends(0);
    let client = server.client("default").await;
    let request = v1::GetDatasetRequest {
        name: format!("datasets/{dataset}"),
    };
    let held = client.datasets().get_dataset(request).await.expect("it");
    let all: u64 = SPLITS.iter().map(|split| videos(&found, split)).sum();
    let held = u64::try_from(held.into_inner().examples).unwrap_or_default();
    assert_eq!(
        held, all,
        "every video of the folder is an example: {}",
        created.err
    );
    let tests = found.get("test");
    let most = tests.and_then(|labels| labels.values().max()).copied();
    let (test, most) = (videos(&found, "test"), most.unwrap_or_default());
    println!(
        "{dataset}: {} train, {} val, {test} test videos of {} labels; always the most frequent label: {:.3}",
        videos(&found, "train"),
        videos(&found, "val"),
        found.get("train").map_or(0, BTreeMap::len),
        most as f64 / test.max(1) as f64
    );
    for (recipe, words) in RECIPES {
        for seed in 1..=seeds {
            let seed = seed.to_string();
            let words = [words, &["--seed", &seed], more].concat();
            let task = format!("{dataset}-{recipe}-{seed}");
            let outcome = train(server, &dataset, task, &words).await;
            let result = outcome.result;
            let (first, last) = (result.loss_curve.first(), result.loss_curve.last());
            assert!(last <= first, "{}: {:?}", outcome.task, result.loss_curve);
            let shown = |evaluation: &Option<v1::Evaluation>| {
                evaluation.as_ref().map_or_else(|| "-".into(), accuracy)
            };
            println!(
                "{dataset} {recipe} seed {seed}: val {}, test {}, {} weights, {:.0} s",
                shown(&result.evaluation),
                shown(&result.test_evaluation),
                result.parameters,
                outcome.seconds
            );
            if test > 0 {
                let own = result.test_evaluation.expect("test metrics");
                let again = evaluated(&client, &result.version, &dataset).await;
                assert_eq!(u64::try_from(own.examples), Ok(test));
                assert_eq!(
                    (own.top1.to_bits(), own.loss.to_bits()),
                    (again.top1.to_bits(), again.loss.to_bits()),
                    "a job and an evaluation of its version agree"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_videos_are_learned_from() {
    let Some(folder) = std::env::var_os("FRAMESHIFT_REAL") else {
        println!("skipped: FRAMESHIFT_REAL names no folder of real data (docs/real-data.md)");
        return;
    };
    let seeds = std::env::var("FRAMESHIFT_REAL_SEEDS").ok();
    let seeds = seeds.map_or(1, |seeds| seeds.parse().expect("a number of seeds"));
    let backbone = std::env::var_os("FRAMESHIFT_REAL_BACKBONE");
    let backbone = backbone.map_or(Backbone::Builtin, |path| Backbone::Path(path.into()));
    let server = TestServer::start_with(|config| config.backbone = backbone).await;
    let sets = sets(Path::new(&folder));
    assert!(!sets.is_empty(), "FRAMESHIFT_REAL has no folder of a set");
    for set in sets {
        measure(&server, &set, seeds, &[]).await;
    }
    server.stop().await;
}

/// A folder as the test of real data expects it, with drawn clips.
fn laid_out(folder: &Path) {
    let mut shade = 0;
    for (split, count) in [("train", 4), ("val", 2), ("test", 3)] {
        for i in 0..2 * count {
            shade += 1;
            let (label, shade) = match i % 2 {
                0 => ("dark", shade),
                _ => ("bright", 255 - 12 - shade),
            };
            let place = folder.join("Two Shades").join(split).join(label);
            std::fs::create_dir_all(&place).expect("a folder");
            std::fs::write(place.join(format!("{i}.mp4")), clip(shade)).expect("a video");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_the_layout_of_real_data_is_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    laid_out(folder.path());
    let sets = sets(folder.path());
    let [set] = &sets[..] else {
        panic!("one set: {sets:?}")
    };
    let found = walk(set);
    let counts = SPLITS.map(|split| videos(&found, split));
    assert_eq!(counts, [8, 4, 6]);
    assert_eq!(found["test"]["dark"], 3);
    assert_eq!(id_of(set), "real-two-shades");
    let server = TestServer::start().await;
    measure(&server, set, 1, &["--epochs", "3", "--num-frames", "2"]).await;
    server.stop().await;
}
