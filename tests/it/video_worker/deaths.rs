//! Workers and zygotes that are killed or stopped, and whose fault that is.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_fails_nobody() {
    let decoder = decoder(frameshift::video::Config {
        workers: 2,
        ..config()
    })
    .await;
    let (victim, other) = (tenant("victim"), tenant("other"));
    let killed = decoder.probe(&victim, Lane::Batch, slow());
    let rest = async {
        kill(pid_of(&decoder, "victim").await);
        decoder.clip(&other, Lane::Batch, small(), clip(8)).await
    };
    let (killed, rest) = tokio::join!(killed, rest);
    killed.expect("decoded by another worker");
    rest.expect("the other clip");
    decoder
        .probe(&victim, Lane::Batch, small())
        .await
        .expect("the next video");
}

/// Kills both workers that a tenant's video gets.
async fn kill_twice(decoder: &Decoder, name: &str) {
    let first = pid_of(decoder, name).await;
    kill(first);
    until(|| async { pid_of(decoder, name).await != first }).await;
    kill(pid_of(decoder, name).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_whose_second_worker_is_killed_too_is_refused_only_when_nothing_ran_beside_it() {
    let decoder = decoder(frameshift::video::Config {
        workers: 3,
        ..config()
    })
    .await;
    let (victim, other) = (tenant("victim"), tenant("other"));
    let input = slow();
    let alone = decoder.probe(&victim, Lane::Interactive, input.clone());
    let (alone, ()) = tokio::join!(alone, kill_twice(&decoder, "victim"));
    assert!(
        matches!(&alone, Err(Error::Rejected(own)) if *own == Reject::Memory),
        "{alone:?}"
    );

    // Two of them, so that one is at work while the other one's next video is on its way.
    let again = async || {
        loop {
            let probed = decoder.probe(&other, Lane::Batch, input.clone()).await;
            probed.expect("the other video");
        }
    };
    let beside = async { tokio::join!(again(), again()).0 };
    let crowded = async {
        pid_of(&decoder, "other").await;
        let crowded = decoder.probe(&victim, Lane::Interactive, input.clone());
        tokio::join!(crowded, kill_twice(&decoder, "victim")).0
    };
    let crowded = tokio::select! {
        crowded = crowded => crowded,
        never = beside => never,
    };
    assert!(matches!(crowded, Err(Error::Interrupted)), "{crowded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_somebody_stopped_is_not_its_videos_fault() {
    let mut config = config();
    config.limits.wall = Duration::from_secs(5);
    config.workers = 1;
    let decoder = decoder(config).await;
    let a = tenant("a");
    let probe = || decoder.probe(&a, Lane::Interactive, small());
    probe().await.expect("a probe");
    send(pid_of(&decoder, "a").await, Signal::STOP);
    probe().await.expect("decoded by another worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zygote_that_somebody_stopped_is_replaced_within_seconds() {
    let mut config = config();
    config.workers = 1;
    // What ends the wait is not the limit of a video.
    config.limits.wall = Duration::from_secs(3600);
    let decoder = decoder(config).await;
    let probe = async |name| {
        decoder
            .probe(&tenant(name), Lane::Interactive, small())
            .await
    };
    probe("a").await.expect("a probe");
    let stopped = decoder.processes().0.expect("a zygote");
    send(stopped, Signal::STOP);
    // The first one may get the worker that was forked ahead.
    for name in ["b", "c"] {
        soon(probe(name)).await.expect("a worker of another zygote");
    }
    assert_ne!(decoder.processes().0.expect("a zygote"), stopped);
    let is_gone = async || !std::fs::exists(format!("/proc/{stopped}")).unwrap_or(false);
    until(is_gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_zygote_is_replaced_and_nobody_notices() {
    let decoder = decoder(config()).await;
    let a = tenant("a");
    let probed = decoder.probe(&a, Lane::Batch, slow());
    let kill = async {
        pid_of(&decoder, "a").await;
        let zygote = decoder.processes().0.expect("a zygote");
        kill(zygote);
        zygote
    };
    let (probed, first) = tokio::join!(probed, kill);
    probed.expect("decoded by another worker");
    assert_ne!(decoder.processes().0.expect("a zygote"), first);
}
