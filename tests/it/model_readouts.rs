//! What a forward gives besides logits, and clips that share their planes: computed once, to the bit what each is alone.

use std::sync::Arc;

use frameshift::model::{AdapterSet, Features, Inference, Readout, Segment, Step};
use frameshift::spec::{AdapterConfig, Head, Precision};

use crate::model::{adapters, alone, backbone_in, bits, clip, finish, lively, mixed, small};

fn readouts(mut inference: Inference) -> Vec<Vec<f32>> {
    while inference.advance().expect("a slice") != Step::Done {}
    inference.into_readouts().expect("readouts")
}

/// Sets whose lowest adapters are in different blocks, one without any, and one whose only adapter is dead.
fn sets() -> Vec<Arc<AdapterSet>> {
    let configs = [
        adapters(12, 2, [3, 1, 1], false, true),
        AdapterConfig::LINEAR_PROBE,
        adapters(7, 4, [3, 3, 3], true, true),
        adapters(5, 1, [3, 1, 1], true, false),
        adapters(9, 2, [5, 1, 1], true, true),
        adapters(9, 1, [3, 1, 1], false, true),
    ];
    let set = |(seed, config): (u64, AdapterConfig)| Arc::new(lively(config, 3, seed));
    (0..).zip(configs).map(set).collect()
}

#[test]
fn clips_that_share_their_planes_are_to_the_bit_what_each_is_alone() {
    for precision in Precision::ALL.into_iter().filter(super::model::computes) {
        let backbone = backbone_in(precision);
        let (shared, second, own) = (clip(4, 1), clip(4, 2), clip(2, 3));
        let (mut clips, mut segments) = (Vec::new(), Vec::new());
        for (i, set) in sets().into_iter().enumerate() {
            let first = clips.len();
            clips.push(shared.clone());
            if i % 2 == 0 {
                clips.push(second.clone());
            }
            segments.push(Segment {
                set: set.clone(),
                clips: first..clips.len(),
                num_frames: 4,
            });
            if i == 3 {
                segments.push(Segment {
                    set,
                    clips: clips.len()..clips.len() + 2,
                    num_frames: 2,
                });
                clips.extend([own.clone(), own.clone()]);
            }
        }
        let batch = Inference::new(backbone.clone(), clips.clone(), segments.clone());
        let before = backbone.frozen_linear_calls();
        let together = finish(batch.expect("a batch").sharing());
        let calls = backbone.frozen_linear_calls() - before;
        for segment in &segments {
            for i in segment.clips.clone() {
                let before = backbone.frozen_linear_calls();
                let own = alone(&backbone, &segment.set, &clips[i], segment.num_frames);
                assert_eq!(backbone.frozen_linear_calls() - before, calls);
                assert_eq!(bits(&own), bits(&together[i]), "{precision:?}, clip {i}");
            }
        }
    }
}

#[test]
fn sharing_changes_nothing_where_nothing_is_shared_or_everything_is_kept() {
    let backbone = backbone_in(Precision::F32);
    let (clips, segments) = mixed();
    let batch = || Inference::new(backbone.clone(), clips.clone(), segments.clone()).unwrap();
    assert_eq!(finish(batch().sharing()), finish(batch()));
    let shared = vec![clip(2, 1); 3];
    let set = sets().swap_remove(1);
    let segment = Segment {
        set,
        clips: 0..3,
        num_frames: 2,
    };
    let new = || Inference::new(backbone.clone(), shared.clone(), vec![segment.clone()]).unwrap();
    let mut kept = new().with_hidden_states().sharing();
    while kept.advance().expect("a slice") != Step::Done {}
    for hidden in kept.hidden_states() {
        assert_eq!(hidden.dims()[0], 6, "the tokens of every clip are there");
    }
    let kept = kept.into_logits().unwrap();
    assert_eq!(kept.len(), 3);
    assert_eq!(finish(new().sharing()), finish(new()));
}

/// Rows of a readout `[1 + T, C]`.
fn rows(readout: &[f32]) -> Vec<&[f32]> {
    readout.chunks_exact(small().width).collect()
}

#[test]
fn the_head_reads_the_features_and_the_class_tokens_average_to_theirs() {
    let backbone = backbone_in(Precision::F32);
    let (clips, segments) = mixed();
    let batch = || Inference::new(backbone.clone(), clips.clone(), segments.clone()).unwrap();
    let logits = finish(batch());
    let all = |readout: Readout| readouts(batch().reading(vec![readout; segments.len()]));
    let (features, tokens) = (all(Readout::Features), all(Readout::ClassTokens));
    for segment in &segments {
        let head = segment.set.tensors().unwrap();
        let (weight, bias) = (&head["fc.weight"].1, &head["fc.bias"].1);
        for i in segment.clips.clone() {
            let (features, tokens) = (rows(&features[i]), rows(&tokens[i]));
            assert_eq!(features.len(), 1 + segment.num_frames);
            assert_eq!(tokens.len(), 1 + segment.num_frames);
            for (class, (row, bias)) in weight.chunks_exact(small().width).zip(bias).enumerate() {
                let sum: f32 = row.iter().zip(features[0]).map(|(w, x)| w * x).sum();
                let (own, expected) = (sum + bias, logits[i][class]);
                assert!((own - expected).abs() < 1e-4, "{own} and {expected}");
            }
            for (c, mean) in tokens[0].iter().enumerate() {
                let sum = tokens[1..].iter().fold(0.0, |sum, frame| sum + frame[c]);
                assert_eq!((sum / segment.num_frames as f32).to_bits(), mean.to_bits());
            }
            if segment.num_frames == 1 {
                assert_eq!(features[0], features[1]);
            }
        }
    }
}

#[test]
fn one_batch_gives_logits_to_one_and_features_to_another() {
    let backbone = backbone_in(Precision::F32);
    let (clips, segments) = mixed();
    let batch = || Inference::new(backbone.clone(), clips.clone(), segments.clone()).unwrap();
    let all = |readout: Readout| readouts(batch().reading(vec![readout; segments.len()]));
    let each = [
        all(Readout::Logits),
        all(Readout::Features),
        all(Readout::ClassTokens),
    ];
    let wanted = [
        Readout::ClassTokens,
        Readout::Logits,
        Readout::Features,
        Readout::Logits,
    ];
    let together = readouts(batch().reading(wanted));
    for (segment, readout) in segments.iter().zip(wanted) {
        let expected = match readout {
            Readout::Logits => &each[0],
            Readout::Features => &each[1],
            Readout::ClassTokens => &each[2],
        };
        for i in segment.clips.clone() {
            assert_eq!(bits(&together[i]), bits(&expected[i]), "clip {i}");
        }
    }
    // A set without adapters gives what the bare backbone gives.
    let bare = &segments[2];
    assert_eq!(bare.set.config(), AdapterConfig::LINEAR_PROBE);
    let own = clips[bare.clips.clone()].to_vec();
    let mut forward = Features::new(backbone.clone(), own, Head::Mean).unwrap();
    while forward.advance().expect("a slice") != Step::Done {}
    for (features, i) in forward
        .into_features()
        .unwrap()
        .iter()
        .zip(bare.clips.clone())
    {
        assert_eq!(bits(features), bits(rows(&each[2][i])[0]));
    }
}
