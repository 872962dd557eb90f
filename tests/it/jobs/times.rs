//! Where the time of a job went is in its result, over all of its claims.

use frameshift::jobs::Config;
use frameshift::metadata::{Event, EventRecord, JobTimes};
use frameshift::spec::{AdapterConfig, JobState};

use super::bed::{Bed, hyper};
use super::tenant;
use crate::server::until;

/// Microseconds for which a job was in this state, for each time that it came there.
fn spans(events: &[EventRecord], wanted: JobState) -> Vec<u64> {
    let mut spans = Vec::new();
    let mut began = None;
    for record in events {
        if let Event::State { state, .. } = &record.event {
            if let Some(began) = began.take() {
                spans.push(record.time.abs_diff(began));
            }
            began = (*state == wanted).then_some(record.time);
        }
    }
    spans
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_what_it_spent_its_time_on_over_all_claims() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 12, 4).await;
    let probe = bed.task(&owner, "probe", AdapterConfig::LINEAR_PROBE).await;
    let runners = bed.run_with(Config {
        // Every epoch decodes its clips.
        clip_cache_bytes: 0,
        ..Config::default()
    });
    let job = runners.submit(&owner, &task, &dataset, hyper(12, 5)).await;
    runners.steps(&owner, job, 4).await;
    runners.handle.pause(&owner, job).await.expect("paused");
    let get = async || runners.handle.get(&owner, job).await.expect("the job");
    until(async || get().await.state == JobState::Queued).await;
    runners.handle.resume(&owner, job).await.expect("resumed");
    let (ended, events) = runners.end(&owner, job).await;
    assert_eq!((ended.state, ended.attempts), (JobState::Succeeded, 2));
    let times = ended.result.expect("a result").times;
    // The first claim decoded every video, the second none.
    let checks = spans(&events, JobState::Validating);
    assert_eq!(checks.len(), 2, "{events:?}");
    assert!(
        2 * times.checks >= checks[0] + checks[1],
        "{times:?} {checks:?}"
    );
    let training: u64 = spans(&events, JobState::Running).iter().sum();
    let besides = times.clips + times.evaluations;
    assert!(times.clips > 0 && times.evaluations > 0, "{times:?}");
    assert!(
        besides <= training + spans(&events, JobState::Evaluating)[0],
        "{times:?}"
    );
    assert_eq!(times.features, 0);

    let job = runners.submit(&owner, &probe, &dataset, hyper(2, 5)).await;
    let (ended, _) = runners.end(&owner, job).await;
    let times = ended.result.expect("a result").times;
    assert!(times.features > 0 && times.checks > 0, "{times:?}");
    let rest = JobTimes {
        features: 0,
        checks: 0,
        evaluations: 0,
        ..times
    };
    assert_eq!(
        rest,
        JobTimes::default(),
        "a probe's steps wait for no clips"
    );
    runners.drain().await;
    bed.close().await;
}
