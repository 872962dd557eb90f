//! Admission: room by clips and bytes, shares of tenants and classes, and deadlines that cannot be met.

use std::time::{Duration, Instant};

use frameshift::device::PauseGuard;
use frameshift::engine::{Ask, Config, Error, Limit, Permit};
use frameshift::fair::Class;
use frameshift::ids::{TenantId, VersionRef};
use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::fixture::{Running, backbone, clip, config, patient, tenant};
use super::queueing::three_tasks;

/// An engine with room for so many clips, and a resident version of tenant `a`, whose clips have 4 frames.
async fn with_room(queue_clips: usize) -> (Running, VersionRef) {
    let running = Running::start(Config {
        queue_clips,
        ..Config::default()
    })
    .await;
    let (version, frames) = three_tasks(&running).await.remove(0);
    assert_eq!(frames, FRAMES);
    (running, version)
}

const FRAMES: usize = 4;

fn is_refused<T>(answer: &Result<T, Error>, by: Limit) -> bool {
    matches!(answer, Err(Error::QueueFull { limit, .. }) if *limit == by)
}

#[tokio::test]
async fn a_tenant_that_is_alone_uses_the_queue_but_for_the_reserve() {
    let (running, version) = with_room(4).await;
    let paused = running.device.pause();
    let flood = (0..80).map(|seed| running.one(&version, clip(seed, FRAMES)));
    let mut flood = Box::pin(join_all(flood));
    assert!(futures::poll!(flood.as_mut()).is_pending());
    // The reserve is for others, and then everything is taken.
    let newcomer = running.engine.admit(&tenant("c"), 1, FRAMES);
    assert!(newcomer.is_ok(), "{newcomer:?}");
    let full = running.engine.admit(&tenant("d"), 1, FRAMES);
    assert!(is_refused(&full, Limit::Queue), "{full:?}");
    drop(paused);
    let answers = flood.await;
    let finished = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = answers.iter().filter(|own| is_refused(own, Limit::Reserve));
    assert_eq!((finished, refused.count()), (3, 77));
    let text = running.metrics.text();
    for (tenant, count) in [("a", 77), ("d", 1)] {
        let line = format!("reason=\"queue_full\",tenant=\"{tenant}\"}} {count}");
        assert!(text.contains(&line), "{text}");
    }
}

#[tokio::test]
async fn a_tenant_that_competes_gets_its_share_from_what_comes_free() {
    let (running, version) = with_room(16).await;
    let engine = &running.engine;
    let admit = |name: &str| engine.admit(&tenant(name), 1, FRAMES);
    let mut first: Vec<_> = std::iter::from_fn(|| admit("a").ok()).collect();
    assert_eq!(first.len(), 14);
    let mut second = vec![admit("b").unwrap()];
    let full = admit("b");
    assert!(is_refused(&full, Limit::Queue), "{full:?}");
    first.truncate(10);
    let full = admit("a");
    assert!(is_refused(&full, Limit::Share), "{full:?}");
    second.extend(std::iter::from_fn(|| admit("b").ok()));
    assert_eq!(second.len(), 4);
    drop((first, second));
    running.one(&version, clip(0, FRAMES)).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_the_longest_clips_stays_within_its_bytes() {
    const LONGEST: usize = 64;
    let bytes = |frames: usize| (frames * config().frame_len() * size_of::<f32>()) as u64;
    let running = Running::start(Config {
        queue_bytes: bytes(8 * LONGEST),
        batch_bytes: 7 * backbone().bytes_of(LONGEST),
        batch_frames: usize::MAX,
        ..patient()
    })
    .await;
    let (version, _) = three_tasks(&running).await.remove(0);
    let before = running.settled().batches;
    let paused = running.device.pause();
    let flood = (0..100).map(|seed| running.one(&version, clip(seed, LONGEST)));
    let mut flood = Box::pin(join_all(flood));
    assert!(futures::poll!(flood.as_mut()).is_pending());
    // The flood has all but an eighth, which a newcomer finds, and one that asks for too much is told how much there is.
    let newcomer = running.engine.admit(&tenant("c"), 1, LONGEST);
    assert!(newcomer.is_ok(), "{newcomer:?}");
    let never = running.engine.admit(&tenant("d"), 9, LONGEST);
    let limit = bytes(8 * LONGEST);
    assert!(
        matches!(never, Err(Error::TooManyBytes { limit: own, .. }) if own == limit),
        "{never:?}"
    );
    drop(paused);
    let answers = flood.await;
    let finished = answers.iter().filter(|answer| answer.is_ok()).count();
    let full = answers.iter().filter(|own| is_refused(own, Limit::Reserve));
    assert_eq!((finished, full.count()), (7, 93));
    assert_eq!(running.settled().batches, before + 1);
}

#[tokio::test]
async fn a_stream_waits_for_room_where_a_request_is_refused() {
    let (running, version) = with_room(4).await;
    let held = running.engine.admit(&version.tenant, 4, FRAMES).unwrap();
    let ask = Ask::new(2, FRAMES);
    let mut credit = Box::pin(running.engine.reserve(&version.tenant, ask));
    assert!(futures::poll!(credit.as_mut()).is_pending());
    drop(held);
    let permit = credit.await.unwrap();
    let clips = vec![clip(0, FRAMES), clip(1, FRAMES)];
    let answer = running.engine.classify(permit, &version, clips, None);
    assert_eq!(answer.await.unwrap().logits.len(), 2);
}

/// Classifies one clip in a class.
async fn in_class(
    running: &Running,
    version: &VersionRef,
    seed: u64,
    class: Class,
) -> Result<Vec<f32>, Error> {
    let ask = Ask {
        class,
        ..Ask::new(1, FRAMES)
    };
    let permit = running.engine.admit_for(&version.tenant, ask)?;
    let clips = vec![clip(seed, FRAMES)];
    let answer = running.engine.classify(permit, version, clips, None);
    Ok(answer.await?.logits.remove(0))
}

/// An engine whose batches hold two clips, with tasks of tenants `a` and `b`, whose clips have 4 and 8 frames.
async fn with_small_batches() -> (Running, VersionRef, VersionRef) {
    let running = Running::start(Config {
        batch_clips: 2,
        ..patient()
    })
    .await;
    let mut tasks = three_tasks(&running).await;
    let (quiet, _) = tasks.remove(1);
    let (flood, _) = tasks.remove(0);
    (running, flood, quiet)
}

/// Whether each answer is an urgent one, in the order in which the device gave them: futures are polled as they were woken.
async fn order<'a>(
    running: &Running,
    paused: PauseGuard,
    flood: impl Iterator<Item = BoxFuture<'a, Result<Vec<f32>, Error>>>,
    urgent: impl Iterator<Item = BoxFuture<'a, Result<Vec<f32>, Error>>>,
) -> Vec<bool> {
    let before = running.device.stats().batches;
    let tagged = |is_urgent| move |answer: Result<Vec<f32>, Error>| answer.map(|_| is_urgent);
    let mut requests = FuturesUnordered::new();
    requests.extend(flood.map(|request| request.map(tagged(false))));
    requests.extend(urgent.map(|request| request.map(tagged(true))));
    assert!(futures::poll!(requests.next()).is_pending());
    assert_eq!(running.device.stats().batches, before);
    drop(paused);
    requests.map(Result::unwrap).collect().await
}

#[tokio::test]
async fn a_quiet_tenant_beside_a_flood_waits_for_one_batch() {
    let (running, flood, quiet) = with_small_batches().await;
    let paused = running.device.pause();
    let flood = (0..40).map(|seed| running.one(&flood, clip(seed, FRAMES)).boxed());
    let one = std::iter::once(running.one(&quiet, clip(7, 8)).boxed());
    let order = order(&running, paused, flood, one).await;
    // A batch has two clips.
    let at = order.iter().position(|is_quiet| *is_quiet);
    assert!(at.is_some_and(|at| at < 2), "{at:?}");
    assert_eq!(order.len(), 41);
}

#[tokio::test]
async fn interactive_requests_go_before_a_flood_of_batch_requests() {
    let (running, flood, quiet) = with_small_batches().await;
    let paused = running.device.pause();
    let flood = (0..40).map(|seed| in_class(&running, &flood, seed, Class::Batch).boxed());
    let urgent = (0..4).map(|seed| running.one(&quiet, clip(seed, 8)).boxed());
    let order = order(&running, paused, flood, urgent).await;
    assert_eq!(order.iter().position(|is_urgent| !is_urgent), Some(4));
    assert_eq!(order.len(), 44);
}

#[tokio::test]
async fn batch_requests_leave_room_for_interactive_ones() {
    let (running, version) = with_room(8).await;
    let ask = Ask {
        class: Class::Batch,
        ..Ask::new(1, FRAMES)
    };
    let admit = || running.engine.admit_for(&version.tenant, ask);
    let held: Vec<_> = std::iter::from_fn(|| admit().ok()).collect();
    assert_eq!(held.len(), 4);
    let full = admit();
    assert!(is_refused(&full, Limit::Batch), "{full:?}");
    assert!(running.engine.admit(&version.tenant, 3, FRAMES).is_ok());
}

/// Asks for room with so much time left, again when the machine let that time pass before the question.
fn within(running: &Running, tenant: &TenantId, ask: Ask, left: Duration) -> Result<Permit, Error> {
    for _ in 0..100 {
        let deadline = Some(Instant::now() + left);
        let answer = (running.engine).admit_for(tenant, Ask { deadline, ..ask });
        if !matches!(answer, Err(Error::DeadlineExceeded)) {
            return answer;
        }
    }
    panic!("{left:?} pass before a question");
}

#[tokio::test]
async fn a_deadline_that_the_queue_cannot_meet_is_refused_at_once() {
    const SHORT: Duration = Duration::from_millis(10);
    let (running, version) = with_room(256).await;
    let tenant = &version.tenant;
    // Many frames, which no machine classifies within the time.
    let large = Ask::new(60, 64);
    let requests = |count| (0..count).map(|seed| running.one(&version, clip(seed, FRAMES)));

    // Three batches ran, too few for an estimate.
    let paused = running.device.pause();
    let mut waiting = Box::pin(join_all(requests(2)));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    let unknown = within(&running, tenant, large, SHORT);
    assert!(unknown.is_ok(), "{unknown:?}");
    drop((paused, unknown));
    waiting.await;
    for request in requests(4) {
        request.await.unwrap();
    }

    // Nothing waits: nobody is refused for an estimate.
    let idle = within(&running, tenant, large, SHORT);
    assert!(idle.is_ok(), "{idle:?}");
    drop(idle);
    let paused = running.device.pause();
    let mut waiting = Box::pin(join_all(requests(20)));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    let refused = within(&running, tenant, large, SHORT);
    let Err(Error::Unreachable { wait, left }) = refused else {
        panic!("{refused:?}");
    };
    assert!(wait > left && left <= SHORT, "{wait:?} {left:?}");
    let patient = within(&running, tenant, large, 2 * wait + Duration::from_secs(60));
    assert!(patient.is_ok(), "{patient:?}");
    let late = Ask {
        deadline: Some(Instant::now()),
        ..large
    };
    let late = running.engine.admit_for(tenant, late);
    assert!(matches!(late, Err(Error::DeadlineExceeded)), "{late:?}");
    drop((paused, patient));
    assert!(waiting.await.iter().all(Result::is_ok));
    let text = running.metrics.text();
    let line = "reason=\"deadline_unreachable\",tenant=\"a\"} 1";
    assert!(text.contains(line), "{text}");
}
