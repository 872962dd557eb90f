//! Decoding, sampling and transforms equal the reference's: walks every case of `golden/preproc`.

use std::collections::BTreeSet;
use std::fs;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};

use frameshift::rng::Stream;
use frameshift::spec::{FrameOrder, Normalization, RotationPolicy};
use frameshift::video::{
    Clip, ClipSpec, ColorPolicy, Decoder, Lane, PictureSpec, Sampling, Views, sampling, transform,
};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Deserialize;

use crate::decoding::{config, decoder, file, tenant};
use crate::shared;

/// Largest difference of a view's value.
const LIMIT: f64 = 2e-5;
/// Draws of the training samplers: enough that each slot shows its smallest and largest index.
const DRAWS: u64 = 20_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    video: String,
    n_video_frames: u32,
    spatial_size: u16,
    num_frames: NonZeroU16,
    sampling_rate: u32,
    num_spatial_views: usize,
    num_temporal_views: NonZeroU8,
    frame_indices: Vec<Vec<u32>>,
    resized_to: (usize, usize),
    #[serde(rename = "crops_hw")]
    crops: Vec<(usize, usize)>,
    train_sampling: Training,
    #[serde(rename = "layout")]
    _layout: String,
    #[serde(rename = "reference_returned")]
    _reference_returned: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Training {
    slot_min: Vec<u32>,
    slot_max: Vec<u32>,
    distinct_draws: usize,
}

impl Case {
    fn sampling(&self) -> Sampling {
        NonZeroU32::new(self.sampling_rate).map_or(Sampling::Uniform, Sampling::Strided)
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .into_string()
                .expect("a text")
        })
        .collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks();
    (values.iter().map(|value| f32::from_le_bytes(*value))).collect()
}

fn integers(bytes: &[u8]) -> Vec<i64> {
    let (values, _) = bytes.as_chunks();
    (values.iter().map(|value| i64::from_le_bytes(*value))).collect()
}

/// Whether each slot takes exactly the golden range, and as many clips are possible.
fn check_training(name: &str, case: &Case) {
    let (n, frames) = (case.n_video_frames, case.num_frames.get());
    let (mut low, mut high) = (vec![u32::MAX; frames.into()], vec![0; frames.into()]);
    let mut clips = BTreeSet::new();
    let stream = Stream::new(1, "golden");
    for draw in 0..DRAWS {
        let mut random = stream.fork(draw);
        let indices = match NonZeroU32::new(case.sampling_rate) {
            None => sampling::uniform_training(n, frames, &mut random),
            Some(rate) => sampling::strided_training(n, frames, rate, &mut random),
        };
        for (slot, index) in indices.iter().enumerate() {
            low[slot] = low[slot].min(*index);
            high[slot] = high[slot].max(*index);
        }
        clips.insert(indices);
    }
    assert_eq!(low, case.train_sampling.slot_min, "{name}: smallest index");
    assert_eq!(high, case.train_sampling.slot_max, "{name}: largest index");
    // The golden number counts what a finite number of draws gave.
    assert!(
        clips.len() >= case.train_sampling.distinct_draws,
        "{name}: {} clips, {} in the reference",
        clips.len(),
        case.train_sampling.distinct_draws
    );
}

/// Returns the worst difference of a view.
async fn check_case(folder: &Path, name: &str, decoder: &Decoder) -> f64 {
    let read = |end: &str| {
        let path = folder.join(format!("{name}.{end}"));
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let case: Case =
        serde_json::from_slice(&read("json")).unwrap_or_else(|e| panic!("{name}: {e}"));
    let bytes = read("safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    let tensor = |tensor| {
        tensors
            .tensor(tensor)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    assert_eq!(tensors.len(), 2, "{name}: frames and frame_indices");

    let spec = ClipSpec {
        frames: case.num_frames,
        sampling: case.sampling(),
        temporal_views: case.num_temporal_views,
        views: match case.num_spatial_views {
            1 => Views::Center,
            3 => Views::Three,
            other => panic!("{name}: {other} spatial views"),
        },
        size: case.spatial_size,
        rotation: RotationPolicy::Stored,
        order: FrameOrder::Reference,
        color: ColorPolicy::Reference,
        normalization: Normalization::CLIP,
        alters: Vec::new(),
    };
    let clip = decoder
        .clip(
            &tenant("golden"),
            Lane::Batch,
            file(&folder.join(&case.video)),
            spec,
        )
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(clip.probe.frames, case.n_video_frames, "{name}: frames");
    assert_eq!(clip.indices, case.frame_indices, "{name}: indices");
    let flat: Vec<i64> = clip
        .indices
        .iter()
        .flatten()
        .map(|&index| index.into())
        .collect();
    assert_eq!(
        flat,
        integers(tensor("frame_indices").data()),
        "{name}: indices"
    );

    check_training(name, &case);
    let size = (clip.probe.width as usize, clip.probe.height as usize);
    let (width, height) = transform::resized(size, case.spatial_size.into());
    assert_eq!((height, width), case.resized_to, "{name}: resized");
    assert_eq!(case.crops.len(), case.num_spatial_views, "{name}: crops");
    worst_view(name, &case, &clip, &tensor("frames"))
}

/// The worst difference of a value.
fn worst_view(name: &str, case: &Case, clip: &Clip, golden: &TensorView<'_>) -> f64 {
    let views = case.num_spatial_views * usize::from(case.num_temporal_views.get());
    let (frames, side) = (
        usize::from(case.num_frames.get()),
        usize::from(case.spatial_size),
    );
    assert_eq!(
        golden.shape(),
        [views, 3, frames, side, side],
        "{name}: shape"
    );
    let ours: Vec<f32> = clip
        .planes
        .iter()
        .flat_map(|view| view.iter().copied())
        .collect();
    let golden = floats(golden.data());
    assert_eq!(ours.len(), golden.len(), "{name}: values");
    ours.iter()
        .zip(&golden)
        .fold(0.0_f64, |worst, (ours, golden)| {
            worst.max((f64::from(*ours) - f64::from(*golden)).abs())
        })
}

/// Every frame of a video as RGB equals the reference's, bit by bit (off x86-64 swscale rounds differently).
async fn check_frames(folder: &Path, video: &str, decoder: &Decoder) -> u32 {
    let bytes = fs::read(folder.join(format!("{video}.frames.safetensors"))).expect("frames");
    let tensors = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{video}: {e}"));
    for name in tensors.names() {
        // The planes are what the RGB is made of; they never leave a worker.
        assert!(
            matches!(name, "rgb" | "yuv420p"),
            "{video}: unknown tensor {name}"
        );
    }
    let golden = tensors
        .tensor("rgb")
        .unwrap_or_else(|e| panic!("{video}: {e}"));
    let [count, height, width, 3] = *golden.shape() else {
        panic!("{video}: shape {:?}", golden.shape());
    };
    let count = u16::try_from(count).expect("few frames");
    let spec = PictureSpec {
        frames: NonZeroU16::new(count).expect("some frames"),
        sampling: Sampling::Indices((0..count.into()).collect()),
        rotation: RotationPolicy::Stored,
        order: FrameOrder::Reference,
        color: ColorPolicy::Reference,
        bytes: golden.data().len() as u32,
    };
    let input = file(&folder.join(video));
    let ours = decoder
        .pictures(&tenant("golden"), Lane::Batch, input, spec)
        .await
        .unwrap_or_else(|error| panic!("{video}: {error}"));
    assert_eq!(ours.probe.frames, u32::from(count), "{video}: frames");
    let frames = golden.data().chunks_exact(width * height * 3);
    for (i, (ours, golden)) in ours.pictures.iter().zip(frames).enumerate() {
        assert_eq!((ours.width as usize, ours.height as usize), (width, height));
        if cfg!(target_arch = "x86_64") {
            assert!(ours.rgb == golden, "{video}: frame {i} differs");
        } else {
            let sum: u64 = ours
                .rgb
                .iter()
                .zip(golden)
                .map(|(a, b)| u64::from(a.abs_diff(*b)))
                .sum();
            assert!(
                sum as f64 <= 2.5 * golden.len() as f64,
                "{video}: frame {i} differs"
            );
        }
    }
    count.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_preprocessing_is_reproduced() {
    let folder: PathBuf = shared::root().join("golden/preproc");
    let decoder = decoder(config()).await;
    let all = names(&folder);
    let (mut cases, mut videos, mut known) = (0, 0, BTreeSet::new());
    for name in &all {
        if let Some(case) = name.strip_suffix(".json").filter(|name| *name != "videos") {
            let worst = check_case(&folder, case, &decoder).await;
            println!("{case}: worst {:.3} of the limit", worst / LIMIT);
            assert!(worst <= LIMIT, "{case}: a view differs by {worst:e}");
            known.extend([name.clone(), format!("{case}.safetensors")]);
            cases += 1;
        } else if let Some(video) = name.strip_suffix(".frames.safetensors") {
            let frames = check_frames(&folder, video, &decoder).await;
            println!("{video}: {frames} frames equal");
            known.extend([name.clone(), video.to_owned()]);
            videos += 1;
        }
    }
    known.insert("videos.json".to_owned());
    let strange: Vec<_> = all.difference(&known).collect();
    assert!(
        strange.is_empty(),
        "files that this test does not know: {strange:?}"
    );
    assert!(cases > 0 && videos > 0, "no case in {}", folder.display());
    println!("{cases} cases, {videos} videos");
}
