//! One backbone for serving and for every job: training adds no copy of its weights.

use std::process::{Command, Stdio};
use std::sync::Arc;

use frameshift::device::Walk;
use frameshift::model::{AdapterSet, Backbone, BackboneConfig, Inference, Segment, Step};
use frameshift::rng::Stream;
use frameshift::spec::{AdapterConfig, JobState};

use super::bed::{ADAPTERS, Bed, SIDE, backbone_config, backbone_of, hyper};
use super::tenant;
use crate::processes::Usage;

/// Tells the test below that it is the child.
const CHILD: &str = "FRAMESHIFT_TEST_MEMORY";

/// 28 M parameters on few tokens, so that weights outweigh activations by far.
fn large() -> Backbone {
    backbone_of(BackboneConfig {
        patch_size: 16,
        width: 768,
        heads: 12,
        mlp_width: 3072,
        layers: 4,
        ..backbone_config()
    })
}

/// Memory of this process, in bytes.
fn resident() -> u64 {
    Usage::of(std::process::id()).resident << 10
}

/// A served batch.
struct Serve(Inference);

impl Walk for Serve {
    type Output = Vec<Vec<f32>>;

    fn advance(&mut self) -> Step {
        self.0.advance().expect("a slice")
    }

    fn finish(self) -> Self::Output {
        self.0.into_logits().expect("logits")
    }
}

async fn serve(bed: &Bed) -> Vec<Vec<f32>> {
    let backbone = Arc::clone(&bed.parts.backbone);
    let stream = Stream::new(1, "served");
    let set = AdapterSet::fresh(backbone.config(), ADAPTERS, 2, &stream).expect("a set");
    let values = 3 * 4 * (SIDE * SIDE) as usize;
    let frames: Arc<[f32]> = (0..values).map(|i| (i as f32 * 0.1).sin()).collect();
    let segment = Segment {
        set: Arc::new(set),
        clips: 0..2,
        num_frames: 4,
    };
    let inference = Inference::new(backbone, vec![Arc::clone(&frames), frames], vec![segment]);
    let walk = Serve(inference.expect("a batch"));
    bed.parts.device.run(walk).await.expect("logits")
}

/// Not a test of its own: the process whose memory is measured.
#[tokio::test(flavor = "multi_thread")]
async fn child_of_the_memory_test() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut bed = Bed::open(directory.path()).await;
    bed.parts.backbone = Arc::new(large());
    let weights = bed.parts.backbone.bytes();
    let pointers = bed.parts.backbone.weight_pointers();
    let (_, dataset) = bed.fades(&tenant("one"), 8, 2).await;
    let (_, other) = bed.fades(&tenant("two"), 8, 2).await;
    let alone = serve(&bed).await;
    let before = resident();

    let runners = bed.run();
    let adapter = AdapterConfig {
        adapter_layers: Some(2.try_into().expect("not 0")),
        ..ADAPTERS
    };
    let mut jobs = Vec::new();
    for (owner, dataset) in [(tenant("one"), dataset), (tenant("two"), other)] {
        let task = bed.task(&owner, "last", adapter).await;
        let job = runners
            .handle
            .submit(&owner, &task, &dataset, hyper(3, 1), None)
            .await;
        jobs.push((owner, job.expect("a job").id));
    }
    for (owner, job) in &jobs {
        runners.steps(owner, *job, 2).await;
    }
    assert!(serve(&bed).await == alone, "training changes no answer");
    let mut most = resident();
    for (owner, job) in &jobs {
        let (job, _) = runners.end(owner, *job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        most = most.max(resident());
    }
    let grown = most.saturating_sub(before);
    println!(
        "{} MB of weights, serving plus two jobs took {} MB more",
        weights >> 20,
        grown >> 20
    );
    assert!(
        grown < weights / 2,
        "{grown} bytes more, of {weights} bytes of weights"
    );
    assert_eq!(bed.parts.backbone.weight_pointers(), pointers);
    runners.drain().await;
    bed.close().await;
}

#[test]
fn two_jobs_beside_serving_take_less_than_half_a_backbone() {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "jobs::memory::child_of_the_memory_test",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .output()
        .expect("a child");
    let told = String::from_utf8_lossy(&child.stdout);
    let told = told.lines().find(|line| line.contains("MB of weights"));
    println!("{}", told.unwrap_or("the child told nothing"));
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
}
