//! Findings about made data sets: equal videos, small labels, labels that file properties tell apart.

use super::*;
use crate::metadata::VideoProbe;

/// An example whose content is a number.
fn example(content: u64, label: &str, split: Split) -> (ExampleRecord, VideoRecord) {
    let id = VideoId::generate();
    let mut sha256 = [7; 32];
    sha256[..8].copy_from_slice(&content.to_le_bytes());
    let probe = VideoProbe {
        container: "mov".into(),
        codec: "h264".into(),
        width: 320,
        height: 240,
        frames: 60,
        duration_micros: 2_000_000,
        frame_rate: 30.0,
        rotation_degrees: 0,
        mirrored: false,
        reference_frames: None,
        warnings: Vec::new(),
    };
    let video = VideoRecord {
        tenant: "owner".parse().unwrap(),
        id,
        display_name: String::new(),
        size_bytes: 1000,
        sha256: Digest(sha256),
        probe,
        create_time: 0,
    };
    let example = ExampleRecord {
        video: id,
        labels: label.into(),
        split,
    };
    (example, video)
}

/// Ten training clips of each of these labels.
fn clean(labels: &[&str]) -> Vec<(ExampleRecord, VideoRecord)> {
    let numbered = (0..10 * labels.len() as u64).map(|i| {
        let label = labels[i as usize % labels.len()];
        example(1_000_000 + i, label, Split::Train)
    });
    numbered.collect()
}

fn findings(examples: &[(ExampleRecord, VideoRecord)]) -> Vec<Finding> {
    let mut check = Check::default();
    for (example, video) in examples {
        check.add(example, video, None);
    }
    assert_eq!(check.examples(), examples.len() as u64);
    check.finish()
}

fn kinds(examples: &[(ExampleRecord, VideoRecord)]) -> Vec<Kind> {
    findings(examples)
        .iter()
        .map(|finding| finding.kind)
        .collect()
}

#[test]
fn nothing_is_found_in_a_clean_data_set() {
    assert_eq!(findings(&clean(&["left", "right", "up"])), []);
    assert_eq!(findings(&[]), []);
}

#[test]
fn planted_duplicates_are_found_with_their_videos_and_the_worst_comes_first() {
    let mut examples = clean(&["left", "right"]);
    examples.push(example(1, "left", Split::Train));
    examples.push(example(1, "left", Split::Train));
    examples.push(example(2, "left", Split::Train));
    examples.push(example(2, "left", Split::Test));
    examples.push(example(3, "left", Split::Train));
    examples.push(example(3, "right", Split::Test));
    let found = findings(&examples);
    let kinds: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::DuplicateAcrossLabels,
            Kind::DuplicateAcrossSplits,
            Kind::Duplicate
        ]
    );
    for (finding, first) in found.iter().zip([24, 22, 20]) {
        let mut planted = [examples[first].0.video, examples[first + 1].0.video];
        planted.sort();
        assert_eq!((finding.count, &finding.videos[..]), (1, &planted[..]));
    }
    assert_eq!(found[0].labels.len(), 2);
}

#[test]
fn what_is_named_has_a_limit() {
    let mut examples = clean(&["left", "right"]);
    for content in 0..500 {
        examples.push(example(content, "left", Split::Train));
        examples.push(example(content, "right", Split::Train));
    }
    let found = findings(&examples);
    assert_eq!((found[0].count, found[0].videos.len()), (500, NAMED));
}

#[test]
fn labels_with_few_clips_and_imbalance_are_found() {
    let mut examples = clean(&["left", "right"]);
    for content in 0..3 {
        examples.push(example(content, "rare", Split::Train));
    }
    assert_eq!(kinds(&examples), [Kind::FewClips]);
    for content in 10..40 {
        examples.push(example(content, "left", Split::Train));
    }
    let found = findings(&examples);
    assert_eq!(
        found.iter().map(|own| own.kind).collect::<Vec<_>>(),
        [Kind::FewClips, Kind::Imbalance]
    );
    assert_eq!(found[0].labels, ["rare"]);
    assert_eq!(found[1].labels, ["left", "rare"]);
}

#[test]
fn labels_that_hardly_differ_are_found() {
    let examples = clean(&["Push Up", "push_up", "PushUps", "pull up", "pass", "pas"]);
    let found = findings(&examples);
    assert_eq!(found.len(), 1, "{found:?}");
    let mut labels = found[0].labels.clone();
    labels.sort();
    assert_eq!(labels, ["Push Up", "PushUps", "push_up"]);
}

#[test]
fn a_label_that_a_property_of_the_files_tells_is_found() {
    type Change = fn(&mut VideoProbe);
    let changes: [(Kind, Change); 4] = [
        (Kind::ToldBySize, |probe| probe.width = 640),
        (Kind::ToldByLength, |probe| probe.duration_micros *= 3),
        (Kind::ToldByCodec, |probe| probe.codec = "vp9".into()),
        (Kind::ToldByFrameRate, |probe| probe.frame_rate = 25.0),
    ];
    for (kind, change) in changes {
        let mut examples = clean(&["left", "right"]);
        // One of ten of the other label has it, too.
        let mut others = 0;
        for (example, video) in &mut examples {
            others += usize::from(example.labels.text() == "left");
            if example.labels.text() == "right" || others == 1 {
                change(&mut video.probe);
            }
        }
        let found = findings(&examples);
        let kinds: Vec<Kind> = found.iter().map(|own| own.kind).collect();
        assert_eq!(kinds, [kind]);
        let mut labels = found[0].labels.clone();
        labels.sort();
        assert_eq!(labels, ["left", "right"]);
    }
    // Both labels have both sizes: nothing is told by it.
    let mut examples = clean(&["left", "right"]);
    for (i, (_, video)) in examples.iter_mut().enumerate() {
        if i % 4 < 2 {
            video.probe.width = 640;
        }
    }
    assert_eq!(kinds(&examples), []);
}

#[test]
fn only_the_labels_that_a_property_tells_are_named() {
    let mut examples = clean(&["dark", "bright", "left", "right"]);
    // One camera for the first two, of which it does not tell one from the other; two for the others.
    for (example, video) in &mut examples {
        match example.labels.text() {
            "left" => video.probe.width = 640,
            "right" => video.probe.width = 1280,
            _ => {}
        }
    }
    let found = findings(&examples);
    let [told] = &found[..] else {
        panic!("one is found: {found:?}")
    };
    assert_eq!((told.kind, told.count), (Kind::ToldBySize, 40));
    let mut labels = told.labels.clone();
    labels.sort();
    assert_eq!(labels, ["left", "right"]);
    assert!(
        told.text.contains("alone tells the label of 0.50"),
        "{}",
        told.text
    );
}

#[test]
fn properties_that_tell_a_label_together_alone_are_found_and_named() {
    let mut examples = clean(&["left", "right"]);
    for (i, (example, video)) in examples.iter_mut().enumerate() {
        // Each size and each rate is as frequent in both labels; only a pair of them says which one it is.
        let (is_wide, is_right) = (i % 4 < 2, example.labels.text() == "right");
        video.probe.width = if is_wide { 640 } else { 320 };
        video.probe.frame_rate = if is_wide == is_right { 25.0 } else { 30.0 };
    }
    let found = findings(&examples);
    let [told] = &found[..] else {
        panic!("one is found: {found:?}")
    };
    assert_eq!(told.kind, Kind::ToldTogether);
    let said = "size of the picture and frame rate together tell the label of 1.00 of the examples";
    assert!(told.text.starts_with(said), "{}", told.text);
    let mut labels = told.labels.clone();
    labels.sort();
    assert_eq!(labels, ["left", "right"]);
    // What one of them tells alone is not said again of both.
    for (example, video) in &mut examples {
        video.probe.codec = example.labels.text().into();
    }
    assert_eq!(kinds(&examples), [Kind::ToldByCodec]);
}

#[test]
fn several_properties_that_tell_little_more_than_one_are_no_finding() {
    // The codec tells 74 of 100, less than a finding takes, and the rate two more.
    let mut examples = clean(&["left", "right"].repeat(5));
    for (i, (example, video)) in examples.iter_mut().enumerate() {
        let (label, other) = match example.labels.text() {
            "left" => ("left", "right"),
            _ => ("right", "left"),
        };
        let is_told = i / 2 < 37;
        video.probe.codec = if is_told { label } else { other }.into();
        let is_odd = label == "left" && i / 2 >= 48;
        video.probe.frame_rate = if is_odd { 30.0 } else { 25.0 };
    }
    assert_eq!(kinds(&examples), []);
}

#[test]
fn properties_that_have_nothing_to_do_with_the_labels_are_no_finding() {
    let mut found = 0;
    for seed in 0..400 {
        let mut stream = crate::rng::Stream::new(seed, "properties");
        let names = ["a", "b", "c", "d"];
        let mut examples = clean(&names[..2 + seed as usize % 3]);
        for (_, video) in &mut examples {
            let mut of = |count: f32| stream.range(0.0, count) as usize;
            video.probe.width = [320, 640][of(2.0)];
            video.probe.codec = ["h264", "vp9"][of(2.0)].into();
            video.probe.frame_rate = [25.0, 30.0][of(2.0)];
            video.probe.duration_micros = 1_000_000 << of(4.0);
        }
        found += usize::from(kinds(&examples).contains(&Kind::ToldTogether));
    }
    assert!(found <= 4, "{found} of 400");
}

#[test]
fn an_example_of_hundreds_of_thousands_takes_a_few_bytes() {
    assert!(size_of::<Seen>() <= 48, "{}", size_of::<Seen>());
}

/// Sketches of as many different videos, the last of which looks like the first: by this share of how far others are apart.
fn sketches(count: u64, share: f32) -> Vec<Option<Sketch>> {
    let of = |seed: u64| -> Vec<f32> {
        let mut stream = crate::rng::Stream::new(seed, "seen");
        (0..96).map(|_| stream.normal()).collect()
    };
    let mut all: Vec<Vec<f32>> = (0..count).map(of).collect();
    let other = of(count + 1);
    let like = all[0].iter().zip(other);
    let last = like.map(|(own, other)| own + share * 2.0_f32.sqrt() * other);
    all[count as usize - 1] = last.collect();
    all.iter().map(|own| Sketch::of(own)).collect()
}

#[test]
fn videos_that_look_like_those_of_another_split_are_found_with_both_videos() {
    let of = |share, split, content| {
        let mut examples = clean(&["left", "right"]);
        examples.push(example(content, "left", split));
        let all = sketches(examples.len() as u64, share);
        let mut check = Check::default();
        for ((example, video), sketch) in examples.iter().zip(all) {
            check.add(example, video, sketch);
        }
        assert_eq!(check.unseen(), 0);
        let last = examples.last().expect("the last one").0.video;
        (check.finish(), [last, examples[0].0.video])
    };
    for (share, kind) in [
        (0.02, Kind::NearDuplicateAcrossSplits),
        (0.15, Kind::SceneAcrossSplits),
    ] {
        for split in [Split::Validation, Split::Test] {
            let (found, videos) = of(share, split, 1);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].kind, found[0].count), (kind, 1));
            assert_eq!(found[0].videos, videos);
        }
        // Within one split it is no news, and nothing is near at the usual distance.
        assert_eq!(of(share, Split::Train, 1).0, []);
    }
    assert_eq!(of(1.0, Split::Test, 1).0, []);
    // Equal bytes are told once.
    let (found, _) = of(0.0, Split::Test, 1_000_000);
    let kinds: Vec<Kind> = found.iter().map(|own| own.kind).collect();
    assert_eq!(kinds, [Kind::DuplicateAcrossSplits]);
}

#[test]
fn examples_of_several_labels_count_for_each_and_equal_sets_are_one_label() {
    let mut examples = clean(&["a", "b"]);
    let both = ExampleLabels::of(["a", "c"]).unwrap();
    for (example, _) in examples.iter_mut().take(3) {
        example.labels = both.clone();
    }
    let found = findings(&examples);
    let few = found.iter().find(|own| own.kind == Kind::FewClips);
    assert_eq!(few.map(|own| own.labels.clone()), Some(vec!["c".into()]));
    // The same bytes with equal sets of labels are no contradiction; with another set they are.
    let copy = |of: &(ExampleRecord, VideoRecord), labels: &ExampleLabels| {
        let (mut example, record) = of.clone();
        example.video = VideoId::generate();
        example.labels = labels.clone();
        (example, record)
    };
    examples.push(copy(&examples[0], &both));
    assert!(!kinds(&examples).contains(&Kind::DuplicateAcrossLabels));
    examples.push(copy(&examples[0], &"a".into()));
    let found = findings(&examples);
    let across = found
        .iter()
        .find(|own| own.kind == Kind::DuplicateAcrossLabels);
    let labels = across.map(|own| own.labels.clone()).unwrap_or_default();
    assert!(labels.contains(&"a + c".to_owned()) && labels.contains(&"a".to_owned()));
    examples.push(copy(&examples[0], &ExampleLabels::default()));
    let found = findings(&examples);
    let across = found
        .iter()
        .find(|own| own.kind == Kind::DuplicateAcrossLabels);
    let mut labels = across.map(|own| own.labels.clone()).unwrap_or_default();
    labels.sort();
    assert_eq!(labels, [NO_LABEL, "a", "a + c"]);
}
