//! Features beside logits, and several versions on one clip.

use std::sync::Arc;
use std::time::{Duration, Instant};

use frameshift::engine::{Clips, Error, Load, Pictures};
use frameshift::ids::VersionRef;
use frameshift::model::{AdapterSet, Features, Step};
use frameshift::spec::{AdapterConfig, Head};

use super::fixture::{ADAPTER, CLASSES, Running, bits, clip, config, patient, stored, version};

/// Versions of one tenant with adapters in all blocks, in the last one, and in none.
async fn versions(running: &Running) -> Vec<VersionRef> {
    let last = AdapterConfig {
        adapter_layers: 1.try_into().ok(),
        adapter_pre_attn: true,
        ..ADAPTER
    };
    let shapes = [ADAPTER, last, AdapterConfig::LINEAR_PROBE];
    let mut versions = Vec::new();
    for (seed, shape) in shapes.into_iter().enumerate() {
        let version = version("a", &format!("t{seed}"), 1);
        running.shelf.put(&version, stored(seed as u64, shape, 0.3));
        running.one(&version, clip(0, 2)).await.unwrap();
        versions.push(version);
    }
    versions
}

fn with_each(versions: &[VersionRef], clips: &[Arc<[f32]>]) -> Vec<Clips> {
    let with = |version: &VersionRef| Clips {
        version: version.clone(),
        clips: clips.iter().cloned().map(Pictures::from).collect(),
    };
    versions.iter().map(with).collect()
}

#[tokio::test]
async fn several_versions_on_one_clip_are_one_batch_and_each_is_as_alone() {
    let running = Running::start(patient()).await;
    let versions = versions(&running).await;
    let clips = [clip(1, 4), clip(2, 4)];
    let mut alone = Vec::new();
    for version in &versions {
        for clip in &clips {
            alone.push(running.one(version, clip.clone()).await.unwrap());
        }
    }
    let before = running.settled().batches;
    let (clips_each, frames, readers) = (2, 4, versions.len());
    let load = Load {
        clips: clips_each,
        frames,
        readers,
    };
    let tenant = &versions[0].tenant;
    let permit = running.engine.admit_all(tenant, &[load]).unwrap();
    let mut wanted = with_each(&versions, &clips);
    let missing = version("a", "missing", 1);
    let answers = running
        .engine
        .classify_each(&permit, wanted.clone(), None)
        .await
        .unwrap();
    assert_eq!(running.settled().batches - before, 1);
    let together = answers
        .into_iter()
        .flat_map(|answer| answer.unwrap().logits);
    for (alone, together) in alone.iter().zip(together) {
        assert_eq!(bits(alone), bits(&together));
    }

    // One version that is missing is its own answer's error; more than the permit covers is refused.
    wanted[1].version = missing;
    let answers = running.engine.classify_each(&permit, wanted.clone(), None);
    let answers = answers.await.unwrap();
    let failed: Vec<bool> = answers.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, true, false]);
    assert!(matches!(answers[1], Err(Error::NotFound { .. })));
    wanted.push(wanted[0].clone());
    let more = running.engine.classify_each(&permit, wanted.clone(), None);
    assert!(matches!(more.await, Err(Error::QueueFull { clips: 8, .. })));
    wanted.truncate(3);
    // Planes that are not shared take more room.
    wanted[2].clips = vec![clip(3, 4).into(), clip(4, 4).into()];
    let more = running.engine.classify_each(&permit, wanted, None);
    assert!(matches!(more.await, Err(Error::QueueFull { clips: 6, .. })));
}

#[tokio::test]
async fn several_versions_that_are_late_or_given_up_never_reach_the_device() {
    let running = Running::start(patient()).await;
    let versions = versions(&running).await;
    let before = running.settled();
    let load = Load {
        clips: 1,
        frames: 2,
        readers: versions.len(),
    };
    let tenant = &versions[0].tenant;
    let paused = running.device.pause();
    let permit = running.engine.admit_all(tenant, &[load]).unwrap();
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let late = running
        .engine
        .classify_each(&permit, with_each(&versions, &[clip(1, 2)]), deadline);
    assert!(matches!(late.await, Err(Error::DeadlineExceeded)));
    {
        let wanted = with_each(&versions, &[clip(1, 2)]);
        let left = running.engine.classify_each(&permit, wanted, None);
        let mut left = Box::pin(left);
        assert!(futures::poll!(left.as_mut()).is_pending());
        let text = running.metrics.text();
        assert!(text.contains("frameshift_queue_clips 3"), "{text}");
    }
    drop(paused);
    assert_eq!(running.settled(), before);
    let text = running.metrics.text();
    assert!(text.contains("frameshift_queue_clips 0"), "{text}");
    for (reason, count) in [("expired", 3), ("cancelled", 3)] {
        let line = format!("requests_dropped_total{{reason=\"{reason}\",tenant=\"a\"}} {count}");
        assert!(text.contains(&line), "{line}: {text}");
    }
}

#[tokio::test]
async fn a_versions_features_and_its_head_give_its_logits() {
    let running = Running::start(patient()).await;
    for (seed, version) in (0..).zip(versions(&running).await) {
        let clip = clip(7, 4);
        let logits = running.one(&version, clip.clone()).await.unwrap();
        let permit = running.engine.admit(&version.tenant, 1, 4).unwrap();
        let features = running
            .engine
            .embed(&permit, Some(&version), true, vec![clip], None)
            .await
            .unwrap();
        let [features] = features.clips.as_slice() else {
            panic!("one clip");
        };
        assert_eq!(features.frames.len(), 4);
        let adapter = match seed {
            0 => ADAPTER,
            1 => AdapterConfig {
                adapter_layers: 1.try_into().ok(),
                adapter_pre_attn: true,
                ..ADAPTER
            },
            _ => AdapterConfig::LINEAR_PROBE,
        };
        let file = stored(seed, adapter, 0.3);
        let set =
            AdapterSet::from_safetensors(&file.bytes, running.backbone.config(), adapter, CLASSES);
        let head = set.unwrap().tensors().unwrap();
        let rows = head["fc.weight"].1.chunks_exact(config().width);
        for ((row, bias), logit) in rows.zip(&head["fc.bias"].1).zip(&logits) {
            let sum: f32 = row.iter().zip(&features.pooled).map(|(w, x)| w * x).sum();
            assert!((sum + bias - logit).abs() < 1e-4, "{sum} + {bias}: {logit}");
        }
    }
}

#[tokio::test]
async fn the_bare_backbones_features_are_the_models_own_beside_other_tasks() {
    let running = Running::start(patient()).await;
    let version = versions(&running).await.remove(0);
    let (own, other) = (clip(8, 3), clip(9, 5));
    let mut forward =
        Features::new(running.backbone.clone(), vec![own.clone()], Head::Mean).unwrap();
    while forward.advance().unwrap() != Step::Done {}
    let expected = forward.into_features().unwrap().remove(0);

    let before = running.settled().batches;
    let paused = running.device.pause();
    let tenant = &version.tenant;
    let permit = running.engine.admit(tenant, 2, 3).unwrap();
    let embed = |final_norm| {
        let clips = vec![own.clone()];
        running.engine.embed(&permit, None, final_norm, clips, None)
    };
    let all = futures::future::join3(
        embed(false),
        embed(true),
        running.one(&version, other.clone()),
    );
    let mut all = Box::pin(all);
    assert!(futures::poll!(all.as_mut()).is_pending());
    drop(paused);
    let (tokens, features, logits) = all.await;
    let (tokens, features) = (tokens.unwrap().clips.remove(0), features.unwrap());
    assert_eq!(running.settled().batches - before, 1);
    assert_eq!(bits(&tokens.pooled), bits(&expected));
    assert_ne!(tokens.pooled, features.clips[0].pooled);
    let frames = tokens.frames.len() as f32;
    for (i, mean) in tokens.pooled.iter().enumerate() {
        let sum = tokens.frames.iter().fold(0.0, |sum, frame| sum + frame[i]);
        assert_eq!((sum / frames).to_bits(), mean.to_bits());
    }
    let alone = running.one(&version, other).await.unwrap();
    assert_eq!(bits(&logits.unwrap()), bits(&alone));
}

#[tokio::test]
async fn a_clip_that_breaks_the_bare_backbone_fails_alone() {
    let running = Running::start(patient()).await;
    let version = versions(&running).await.remove(0);
    let broken: Arc<[f32]> = clip(5, 4).iter().map(|_| f32::MAX).collect();
    let permit = running.engine.admit(&version.tenant, 1, 4).unwrap();
    let embed = |clip: Arc<[f32]>| running.engine.embed(&permit, None, true, vec![clip], None);
    let failed = embed(broken).await;
    assert!(matches!(failed, Err(Error::Backbone { .. })), "{failed:?}");
    embed(clip(5, 4)).await.unwrap();
    running.one(&version, clip(5, 4)).await.unwrap();
}
