//! Frames of a video read in order and part by part are those that a clip has, whatever happens to the worker in between.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use frameshift::spec::{FrameOrder, Normalization, RotationPolicy};
use frameshift::video::encode::Format;
use frameshift::video::{
    ClipSpec, ColorPolicy, Decoder, Error, Frame, FramesSpec, Input, Lane, Reject, Sampling, Slide,
    Stride, Views,
};

use crate::decoding::{config, decoder, tenant};
use crate::processes::children;
use crate::server::until;
use crate::video_worker::{kill_if_there, video};

const SIZE: (u32, u32) = (160, 96);

fn spec(offsets: &[u32], stride: u32, size: u16) -> FramesSpec {
    FramesSpec {
        slide: Slide {
            stride: Stride::Frames(NonZeroU32::new(stride).unwrap()),
            offsets: offsets.to_vec(),
            start: Duration::ZERO,
            after: None,
            end: None,
        },
        views: Views::Center,
        size,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        normalization: Normalization::CLIP,
        from: 0,
    }
}

/// All frames that a request names.
async fn read(decoder: &Decoder, input: Input, spec: FramesSpec) -> Result<Vec<Frame>, Error> {
    let mut frames = decoder.frames(&tenant("a"), Lane::Interactive, input, spec)?;
    let mut all = Vec::new();
    while let Some(part) = frames.next().await? {
        all.extend(part.frames);
    }
    assert!(frames.next().await?.is_none());
    Ok(all)
}

/// The planes of single frames, as clips of one frame.
async fn clips(decoder: &Decoder, input: Input, of: &FramesSpec, all: &[u32]) -> Vec<Arc<[f32]>> {
    let mut planes = Vec::new();
    for &index in all {
        let spec = ClipSpec {
            frames: NonZeroU16::MIN,
            sampling: Sampling::Indices(vec![index]),
            temporal_views: NonZeroU8::MIN,
            views: of.views.clone(),
            size: of.size,
            rotation: of.rotation,
            order: of.order,
            color: of.color,
            normalization: of.normalization,
            alters: Vec::new(),
        };
        let owner = tenant("a");
        let clip = decoder.clip(&owner, Lane::Interactive, input.clone(), spec);
        planes.extend(clip.await.unwrap().planes);
    }
    planes
}

fn indices(frames: &[Frame]) -> Vec<u32> {
    frames.iter().map(|frame| frame.index).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_order_are_those_of_clips() {
    let decoder = decoder(config()).await;
    for (format, count) in [(Format::Mp4, 90), (Format::Lossless, 40)] {
        let input = Input::Bytes(video(format, count, SIZE));
        for views in [Views::Center, Views::Three] {
            let wanted = FramesSpec {
                views,
                ..spec(&[0, 2, 7], 3, 32)
            };
            let frames = read(&decoder, input.clone(), wanted.clone()).await.unwrap();
            let numbers = indices(&frames);
            let expected = wanted_indices(count.into(), 3, &[0, 2, 7]);
            assert_eq!(numbers, expected, "{format:?}");
            let some = [0, 1, numbers.len() / 2, numbers.len() - 1];
            let some = some.map(|place| numbers[place]);
            let clips = clips(&decoder, input.clone(), &wanted, &some).await;
            let own = some.iter().flat_map(|index| {
                let frame = frames.iter().find(|frame| frame.index == *index);
                frame.expect("the frame").views.clone()
            });
            assert!(own.eq(clips), "{format:?}");
            // 25 frames a second.
            let last = frames.last().unwrap();
            assert_eq!(last.time, Duration::from_millis(u64::from(last.index) * 40));
        }
    }
}

/// Frames of windows that begin every `stride` frames.
fn wanted_indices(count: u32, stride: usize, offsets: &[u32]) -> Vec<u32> {
    let begins = (0..count).step_by(stride);
    let all = begins.flat_map(|begin| offsets.iter().map(move |offset| begin + offset));
    let mut all: Vec<u32> = all.filter(|&index| index < count).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_lost_between_two_parts_is_replaced_and_no_frame_comes_twice() {
    let decoder = decoder(config()).await;
    let input = Input::Bytes(video(Format::Mp4, 150, SIZE));
    let wanted = spec(&[0], 1, 32);
    let whole = read(&decoder, input.clone(), wanted.clone()).await.unwrap();
    assert_eq!(indices(&whole), (0..150).collect::<Vec<u32>>());
    let owner = tenant("a");
    let mut frames = decoder
        .frames(&owner, Lane::Interactive, input, wanted)
        .unwrap();
    let mut all = Vec::new();
    while let Some(part) = frames.next().await.unwrap() {
        all.extend(part.frames);
        // Every worker, also the one that waits in the middle of the video.
        let zygote = decoder.processes().0.expect("a zygote");
        until(|| async {
            // One may be forked ahead meanwhile.
            let workers = children(zygote);
            workers.iter().for_each(|(pid, _)| kill_if_there(*pid));
            workers.is_empty()
        })
        .await;
    }
    assert_eq!(indices(&all), indices(&whole));
    let same = all.iter().zip(&whole);
    assert!(same.clone().all(|(one, other)| one.views == other.views));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_readers_than_workers_may_wait_all_come_to_their_ends() {
    let mut config = config();
    config.workers = 1;
    let decoder = decoder(config).await;
    let input = Input::Bytes(video(Format::Mp4, 100, SIZE));
    let owner = tenant("a");
    let mut readers: Vec<_> = (0..5)
        .map(|_| {
            let spec = spec(&[0], 1, 32);
            let frames = decoder.frames(&owner, Lane::Interactive, input.clone(), spec);
            (frames.unwrap(), Vec::new())
        })
        .collect();
    // In turns, so that each has to wait in the middle of its video, and most have lost their workers meanwhile.
    for _ in 0..5 {
        for (frames, all) in &mut readers {
            let part = frames.next().await.unwrap();
            all.extend(part.into_iter().flat_map(|part| indices(&part.frames)));
        }
    }
    for (_, all) in &readers {
        assert_eq!(*all, (0..100).collect::<Vec<u32>>());
    }
    let zygote = decoder.processes().0.expect("a zygote");
    // One spare, one of a slot, and two that wait, once those that were ended are gone.
    until(|| async { children(zygote).len() <= 4 }).await;
    drop(readers);
    until(|| async { children(zygote).len() <= 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_video_is_refused_and_a_part_of_one_ends_where_it_ends() {
    let decoder = decoder(config()).await;
    let nothing = Input::Bytes(bytes::Bytes::from_static(b"nothing"));
    let refused = read(&decoder, nothing, spec(&[0], 1, 32)).await;
    assert!(
        matches!(&refused, Err(Error::Rejected(own)) if *own == Reject::Unrecognised),
        "{refused:?}"
    );
    let empty = Input::Bytes(bytes::Bytes::new());
    let refused = read(&decoder, empty, spec(&[0], 1, 32)).await;
    assert!(matches!(&refused, Err(Error::Rejected(own)) if *own == Reject::Empty));
    // Half of a file that has no index at its end.
    let whole = video(Format::Lossless, 60, SIZE);
    let half = Input::Bytes(whole.slice(..whole.len() / 2));
    let frames = read(&decoder, half.clone(), spec(&[0], 1, 32))
        .await
        .unwrap();
    let numbers = indices(&frames);
    assert!((10..50).contains(&numbers.len()), "{}", numbers.len());
    assert_eq!(numbers, (0..numbers.len() as u32).collect::<Vec<u32>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_of_whose_packets_nothing_is_sure_gives_the_same_frames() {
    use frameshift::video::encode::{Encoder, Settings};
    let decoder = decoder(config()).await;
    // The packets of MPEG-2 do not say which pictures they are.
    let settings = Settings {
        group: 12,
        b_frames: 2,
        ..Settings::new("mpeg2video", "mpegts")
    };
    let mut encoder = Encoder::with(&settings, SIZE.0, SIZE.1, 25).unwrap();
    for frame in 0..70_u8 {
        let shade = [frame * 3; 160 * 96 * 3];
        encoder.push(&shade).unwrap();
    }
    let input = Input::Bytes(encoder.finish().unwrap().into());
    let wanted = spec(&[0, 3], 4, 32);
    let frames = read(&decoder, input.clone(), wanted.clone()).await.unwrap();
    let numbers = indices(&frames);
    assert_eq!(numbers, wanted_indices(70, 4, &[0, 3]));
    let clips = clips(&decoder, input, &wanted, &numbers[..6]).await;
    let own = frames.iter().flat_map(|frame| frame.views.clone());
    assert!(own.take(6).eq(clips));
}
