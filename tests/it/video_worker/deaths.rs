//! Workers and zygotes that are killed or stopped, and whose fault that is.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_fails_nobody() {
    let decoder = decoder(frameshift::video::Config {
        workers: 1,
        ..patient()
    })
    .await;
    let (victim, other) = (tenant("victim"), tenant("other"));
    let worker = stopped(&decoder, "victim").await;
    let killed = decoder.probe(&victim, Lane::Batch, small());
    let rest = async {
        kill(worker);
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

/// Has a tenant's video probed and kills both workers that it gets. When it was decoded before that, another one.
async fn killed_twice(decoder: &Decoder, name: &str, input: &Input) -> Error {
    let own = tenant(name);
    for _ in 0..20 {
        let probed = decoder.probe(&own, Lane::Interactive, input.clone());
        let kills = async {
            let first = pid_of(decoder, name).await;
            kill_if_there(first);
            until(|| async { pid_of(decoder, name).await != first }).await;
            kill_if_there(pid_of(decoder, name).await);
            std::future::pending().await
        };
        let probed = tokio::select! {
            probed = probed => probed,
            never = kills => never,
        };
        if let Err(error) = probed {
            return error;
        }
    }
    panic!("twenty videos were decoded although their workers were killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_whose_second_worker_is_killed_too_is_refused_only_when_nothing_ran_beside_it() {
    let decoder = decoder(frameshift::video::Config {
        workers: 3,
        ..config()
    })
    .await;
    let other = tenant("other");
    let input = slow();
    let alone = killed_twice(&decoder, "victim", &input).await;
    assert!(
        matches!(&alone, Error::Rejected(own) if *own == Reject::Memory),
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
        killed_twice(&decoder, "victim", &input).await
    };
    let crowded = tokio::select! {
        crowded = crowded => crowded,
        never = beside => never,
    };
    assert!(matches!(crowded, Error::Interrupted), "{crowded:?}");
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
    let decoder = decoder(frameshift::video::Config {
        workers: 1,
        ..patient()
    })
    .await;
    stopped(&decoder, "a").await;
    let a = tenant("a");
    let probed = decoder.probe(&a, Lane::Batch, small());
    let first = decoder.processes().0.expect("a zygote");
    let (probed, ()) = tokio::join!(probed, async { kill(first) });
    probed.expect("decoded by another worker");
    assert_ne!(decoder.processes().0.expect("a zygote"), first);
}
