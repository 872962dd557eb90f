//! Races of drawn calls: their answers and what is left have to be those of some order of the calls, one after another, on a model of the records.

use std::collections::{BTreeSet, HashSet};

use frameshift::metadata::VideoRecord;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;

/// Unfinished jobs that the tenant may have.
const JOBS: u32 = 3;

/// A call.
#[derive(Debug, Clone, Copy)]
enum Op {
    CreateTask,
    DeleteTask,
    /// Changes the task if it is as it was in the beginning.
    UpdateTask,
    CreateDataset,
    DeleteDataset,
    Add(usize),
    Remove(usize),
    DeleteVideo(usize),
    SubmitJob,
}

/// What the calls decide on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// Whether the task is as it was in the beginning.
    task: Option<bool>,
    /// The videos in the data set.
    dataset: Option<BTreeSet<usize>>,
    videos: BTreeSet<usize>,
    jobs: u32,
}

impl World {
    /// What a call answers here, and what it makes of the world.
    fn after(&self, op: Op) -> (Self, &'static str) {
        let mut next = self.clone();
        let told = match op {
            Op::CreateTask if self.task.is_some() => "AlreadyExists",
            Op::CreateTask => {
                next.task = Some(false);
                "Ok"
            }
            Op::DeleteTask | Op::UpdateTask if self.task.is_none() => "NotFound",
            Op::DeleteTask if self.jobs > 0 => "InUse",
            Op::DeleteTask => {
                next.task = None;
                "Ok"
            }
            Op::UpdateTask if self.task == Some(false) => "EtagMismatch",
            Op::UpdateTask => {
                next.task = Some(false);
                "Ok"
            }
            Op::CreateDataset if self.dataset.is_some() => "AlreadyExists",
            Op::CreateDataset => {
                next.dataset = Some(BTreeSet::new());
                "Ok"
            }
            Op::DeleteDataset | Op::Add(_) | Op::Remove(_) | Op::SubmitJob
                if self.dataset.is_none() =>
            {
                "NotFound"
            }
            Op::DeleteDataset if self.jobs > 0 => "InUse",
            Op::DeleteDataset => {
                next.dataset = None;
                "Ok"
            }
            Op::Add(video) if !self.videos.contains(&video) => "VideosNotFound",
            Op::Add(video) => {
                next.dataset.get_or_insert_default().insert(video);
                "Ok"
            }
            Op::Remove(video) => {
                next.dataset.get_or_insert_default().remove(&video);
                "Ok"
            }
            Op::DeleteVideo(video) if !self.videos.contains(&video) => "NotFound",
            Op::DeleteVideo(video) => {
                let mut sets = self.dataset.iter();
                if sets.any(|videos| videos.contains(&video)) {
                    "InUse"
                } else {
                    next.videos.remove(&video);
                    "Ok"
                }
            }
            Op::SubmitJob if self.task.is_none() => "NotFound",
            Op::SubmitJob if self.jobs >= JOBS => "TooManyJobs",
            Op::SubmitJob => {
                next.jobs += 1;
                "Ok"
            }
        };
        (next, told)
    }
}

/// Whether some order of the calls gives their answers and what is left.
fn is_serial(calls: &[(Op, String)], begin: &World, end: &World) -> bool {
    fn search(
        calls: &[(Op, String)],
        done: u32,
        world: &World,
        end: &World,
        seen: &mut HashSet<(u32, World)>,
    ) -> bool {
        if done.count_ones() as usize == calls.len() {
            return world == end;
        }
        if !seen.insert((done, world.clone())) {
            return false;
        }
        calls.iter().enumerate().any(|(place, (op, told))| {
            let is_done = done & (1 << place) != 0;
            let (next, expected) = world.after(*op);
            !is_done && expected == told && search(calls, done | (1 << place), &next, end, seen)
        })
    }
    search(calls, 0, begin, end, &mut HashSet::new())
}

#[test]
fn an_order_is_found_where_there_is_one() {
    let begin = World {
        task: Some(true),
        dataset: Some(BTreeSet::from([0])),
        videos: BTreeSet::from([0]),
        jobs: 0,
    };
    let told = |all: &[(Op, &str)]| -> Vec<(Op, String)> {
        all.iter()
            .map(|(op, own)| (*op, (*own).to_owned()))
            .collect()
    };
    let mut end = begin.clone();
    (end.dataset, end.videos) = (Some(BTreeSet::new()), BTreeSet::new());
    let calls = told(&[(Op::DeleteVideo(0), "Ok"), (Op::Remove(0), "Ok")]);
    assert!(is_serial(&calls, &begin, &end));
    // Both cannot have come first.
    let calls = told(&[(Op::UpdateTask, "Ok"), (Op::UpdateTask, "Ok")]);
    assert!(!is_serial(&calls, &begin, &begin));
    let calls = told(&[(Op::SubmitJob, "Ok"), (Op::DeleteTask, "Ok")]);
    (end.task, end.jobs) = (None, 1);
    assert!(!is_serial(&calls, &begin, &end));
}

/// Calls of tasks and jobs, or of data sets and videos: a job keeps its videos, which the model does not.
fn drawn(runner: &mut TestRunner, round: u32) -> Vec<Op> {
    let jobs = prop_oneof![
        1 => Just(Op::CreateTask),
        1 => Just(Op::DeleteTask),
        1 => Just(Op::UpdateTask),
        1 => Just(Op::DeleteDataset),
        3 => Just(Op::SubmitJob),
    ];
    let videos = prop_oneof![
        1 => Just(Op::CreateDataset),
        1 => Just(Op::DeleteDataset),
        2 => (0..3usize).prop_map(Op::Add),
        2 => (0..3usize).prop_map(Op::Remove),
        2 => (0..3usize).prop_map(Op::DeleteVideo),
    ];
    let all = if round.is_multiple_of(2) {
        jobs.boxed()
    } else {
        videos.boxed()
    };
    let all = prop::collection::vec(all, CALLERS);
    all.new_tree(runner).expect("drawn").current()
}

/// Makes a call. Returns its answer by name.
async fn call(store: Store, a: TenantId, op: Op, videos: Vec<VideoRecord>, etag: String) -> String {
    let (task_name, set) = (task_id("t"), dataset_id("t"));
    let result = match op {
        Op::CreateTask => store.create_task(&a, task("t"), None).await.map(drop),
        Op::DeleteTask => store.delete_task(&a, &task_name, None).await.map(drop),
        Op::UpdateTask => {
            let update = TaskUpdate {
                display_name: Some("changed".into()),
                auto_serve: None,
            };
            let updated = store.update_task(&a, &task_name, update, Some(&etag));
            updated.await.map(drop)
        }
        Op::CreateDataset => store
            .create_dataset(&a, &set, "".into(), None)
            .await
            .map(drop),
        Op::DeleteDataset => store.delete_dataset(&a, &set).await,
        Op::Add(video) => {
            let own = [example(videos[video].id, "label", Split::Train)];
            store.add_examples(&a, &set, &own).await.map(drop)
        }
        Op::Remove(video) => {
            let own = [videos[video].id];
            store.remove_examples(&a, &set, &own).await.map(drop)
        }
        Op::DeleteVideo(video) => store.delete_video(&a, videos[video].id, false).await,
        Op::SubmitJob => {
            let mut job = new_job("t");
            job.limit = JOBS;
            store.submit_job(&a, job, None).await.map(drop)
        }
    };
    match result {
        Ok(()) => "Ok".into(),
        Err(error) => {
            let text = format!("{error:?}");
            let end = text.find(|letter: char| !letter.is_alphanumeric());
            text[..end.unwrap_or(text.len())].to_owned()
        }
    }
}

/// What the records hold.
async fn world(store: &Store, a: &TenantId, videos: &[VideoRecord], etag: &str) -> World {
    let task = store.get_task(a, &task_id("t")).await;
    let examples = store.list_examples(a, &dataset_id("t"), &page()).await;
    let place = |id| videos.iter().position(|own| own.id == id);
    let jobs = store.list_jobs(a, &page()).await.expect("listed");
    let mut left = BTreeSet::new();
    for (place, video) in videos.iter().enumerate() {
        if store.get_video(a, video.id).await.is_ok() {
            left.insert(place);
        }
    }
    World {
        task: task.ok().map(|task| task.etag == etag),
        dataset: examples.ok().map(|page| {
            page.items
                .iter()
                .filter_map(|own| place(own.video))
                .collect()
        }),
        videos: left,
        jobs: jobs.items.len() as u32,
    }
}

contract! {
    async fn drawn_calls_answer_as_in_some_order(store: Store) {
        let mut runner = TestRunner::deterministic();
        for round in 0..rounds() {
            let a = tenant(&format!("m{round}"));
            let mut videos = trainable(store, &a, "t").await;
            videos.push(video(store, &a).await);
            let etag = store.get_task(&a, &task_id("t")).await.expect("found").etag;
            let begin = world(store, &a, &videos, &etag).await;
            let ops = drawn(&mut runner, round);
            let (own, all) = (ops.clone(), videos.clone());
            let (owner, before) = (a.clone(), etag.clone());
            let told = race(store, move |store, caller| {
                call(store, owner.clone(), own[caller], all.clone(), before.clone())
            }).await;
            let calls: Vec<_> = ops.into_iter().zip(told).collect();
            let end = world(store, &a, &videos, &etag).await;
            assert!(is_serial(&calls, &begin, &end), "no order gives {calls:#?} from {begin:?} to {end:?}");
        }
    }
}
