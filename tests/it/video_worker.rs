//! Worker processes: what one does to another, what ends them, and what a caller sees of it.

mod deaths;
mod limits;

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use frameshift::rng::splitmix64;
use frameshift::spec::{FrameOrder, Normalization, RotationPolicy};
use frameshift::video::encode::{Encoder, Format};
use frameshift::video::{
    Alter, ClipSpec, ColorPolicy, Decoder, Error, Input, Lane, Layers, PictureSpec, Reject,
    Sampling, Views,
};
use futures::poll;
use rustix::process::{Pid, Signal, kill_process};

use crate::decoding::{config, decoder, tenant};
use crate::server::{found, soon, until};

/// A picture of a moving square whose top row tells its number.
fn picture(i: u16, (width, height): (usize, usize)) -> Vec<u8> {
    let mut rgb = vec![40_u8; width * height * 3];
    for y in 0..height {
        for x in 0..width {
            let (dx, dy) = ((x + usize::from(i) * 3) % width, y % 16);
            if y < 8 && x < 128 {
                let bit = i >> (x / 8) & 1;
                rgb[(y * width + x) * 3..][..3].fill(if bit == 1 { 235 } else { 16 });
            } else if dx < 16 && dy < 12 {
                rgb[(y * width + x) * 3..][..3].copy_from_slice(&[200, (x % 251) as u8, 90]);
            }
        }
    }
    rgb
}

fn number(rgb: &[u8], width: u32) -> u16 {
    (0_u16..16).fold(0, |number, bit| {
        let at = (4 * width as usize + usize::from(bit) * 8 + 4) * 3;
        number | u16::from(rgb[at] > 128) << bit
    })
}

pub(crate) fn video(format: Format, frames: u16, size: (u32, u32)) -> Bytes {
    let mut encoder = Encoder::new(format, size.0, size.1, 25).expect("an encoder");
    for i in 0..frames {
        let rgb = picture(i, (size.0 as usize, size.1 as usize));
        encoder.push(&rgb).expect("a picture");
    }
    encoder.finish().expect("a file").into()
}

fn small() -> Input {
    Input::Bytes(video(Format::Mp4, 24, (160, 96)))
}

/// Takes a good part of a second to decode, and its packets are too many bytes to be kept (64 MiB).
fn slow() -> Input {
    const SIZE: (usize, usize) = (1280, 720);
    let mut encoder = Encoder::new(Format::Lossless, 1280, 720, 25).expect("an encoder");
    let noise: Vec<u8> = (0..SIZE.0 * SIZE.1 * 3)
        .map(|i| (splitmix64(i as u64) & 63) as u8)
        .collect();
    for i in 0..40 {
        let mut rgb = noise.clone();
        let barcode = picture(i, (128, 8));
        let (rows, _) = rgb.as_chunks_mut::<{ SIZE.0 * 3 }>();
        for (row, own) in rows.iter_mut().zip(barcode.as_chunks::<{ 128 * 3 }>().0) {
            row[..own.len()].copy_from_slice(own);
        }
        encoder.push(&rgb).expect("a picture");
    }
    Input::Bytes(encoder.finish().expect("a file").into())
}

fn clip(frames: u16) -> ClipSpec {
    ClipSpec {
        frames: NonZeroU16::new(frames).expect("some"),
        sampling: Sampling::Uniform,
        temporal_views: NonZeroU8::MIN,
        views: Views::Center,
        size: 64,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        normalization: Normalization::CLIP,
        alters: Vec::new(),
    }
}

pub(crate) fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

/// Kills a process that may end by itself meanwhile.
pub(crate) fn kill_if_there(pid: u32) {
    let pid = Pid::from_raw(pid as i32).expect("a process");
    let killed = kill_process(pid, Signal::KILL);
    assert!(
        matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)),
        "{killed:?}"
    );
}

pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process");
    kill_process(pid, signal).expect("it runs");
}

/// The worker that decodes for a tenant, once it does.
async fn pid_of(decoder: &Decoder, name: &str) -> u32 {
    found(|| {
        let (_, workers) = decoder.processes();
        let own = workers.iter().find(|worker| worker.tenant == tenant(name));
        own.map(|worker| worker.pid)
    })
    .await
}

/// A configuration in which neither a worker without work nor one that is stopped is ended.
fn patient() -> frameshift::video::Config {
    let mut config = config();
    config.idle = Duration::from_secs(3600);
    config.limits.wall = Duration::from_secs(3600);
    config
}

/// Has a tenant's video decoded and stops its worker, which then has the tenant's next video, and does not answer, until it goes on or dies. Needs a
/// [`patient`] decoder.
async fn stopped(decoder: &Decoder, name: &str) -> u32 {
    let first = decoder.probe(&tenant(name), Lane::Batch, small()).await;
    first.expect("a probe");
    let worker = pid_of(decoder, name).await;
    send(worker, Signal::STOP);
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn encoded_frames_come_back_in_order() {
    let decoder = decoder(config()).await;
    for format in [Format::Mp4, Format::Lossless] {
        let input = Input::Bytes(video(format, 40, (160, 96)));
        let spec = PictureSpec {
            frames: NonZeroU16::new(40).expect("40"),
            sampling: Sampling::Indices((0..40).rev().collect()),
            rotation: RotationPolicy::Display,
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            bytes: 40 * 160 * 96 * 3,
        };
        let ours = (decoder
            .pictures(&tenant("a"), Lane::Batch, input, spec)
            .await)
            .expect("frames");
        let numbers: Vec<u16> = (ours.pictures.iter())
            .map(|own| number(&own.rgb, own.width))
            .collect();
        assert_eq!(numbers, (0..40).rev().collect::<Vec<u16>>(), "{format:?}");
        if format == Format::Lossless {
            assert!(ours.pictures[39].rgb == picture(0, (160, 96)), "lossless");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_views_of_sixteen_frames_are_what_each_view_is_alone() {
    let decoder = decoder(config()).await;
    let input = Input::Bytes(video(Format::Lossless, 40, (160, 96)));
    let take = |spec: ClipSpec| {
        let (decoder, input) = (decoder.clone(), input.clone());
        async move {
            let owner = tenant("a");
            let clip = decoder.clip(&owner, Lane::Interactive, input, spec);
            clip.await.expect("a clip")
        }
    };
    let whole = ClipSpec {
        sampling: Sampling::Strided(NonZeroU32::new(2).expect("some")),
        temporal_views: NonZeroU8::new(10).expect("some"),
        views: Views::Three,
        size: 224,
        ..clip(16)
    };
    let all = take(whole.clone()).await;
    assert_eq!(
        (all.planes.len(), all.indices.len(), all.pts.len()),
        (30, 10, 10)
    );
    for (temporal, indices) in all.indices.iter().enumerate() {
        let alone = take(ClipSpec {
            sampling: Sampling::Indices(indices.clone()),
            temporal_views: NonZeroU8::MIN,
            ..whole.clone()
        })
        .await;
        assert_eq!(alone.pts[0], all.pts[temporal]);
        for (spatial, planes) in alone.planes.iter().enumerate() {
            assert!(
                *planes == all.planes[spatial * 10 + temporal],
                "view {spatial} × {temporal}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_changed_before_views_are_taken_of_them() {
    let decoder = decoder(config()).await;
    let input = Input::Bytes(video(Format::Lossless, 8, (160, 96)));
    let take = async |alters: Vec<Alter>| {
        let spec = ClipSpec { alters, ..clip(4) };
        let owner = tenant("a");
        let clip = decoder.clip(&owner, Lane::Batch, input.clone(), spec);
        clip.await.expect("a clip").planes.remove(0)
    };
    let plain = take(Vec::new()).await;
    let negative = take(vec![Alter::Invert]).await;
    let plane = 4 * 64 * 64;
    for (channel, (own, other)) in plain.chunks(plane).zip(negative.chunks(plane)).enumerate() {
        // Pixels x and 1 - x, normalised.
        let (mean, std) = (Normalization::CLIP.mean, Normalization::CLIP.std);
        let sum = (1.0 - 2.0 * mean[channel]) / std[channel];
        for (a, b) in own.iter().zip(other) {
            assert!((a + b - sum).abs() < 1e-3, "channel {channel}: {a} and {b}");
        }
    }
    assert!(take(vec![Alter::Invert, Alter::Invert]).await == plain);
    assert!(take(vec![Alter::Rotate(20.0)]).await != plain);
    // What is drawn for a clip is done to each of its frames, as to that frame alone.
    let drawn = [Alter::Rotate(20.0), Alter::Color(0.4), Alter::ShearX(0.2)];
    let of = async |indices: Vec<u32>, alters: &[Alter]| {
        let spec = ClipSpec {
            sampling: Sampling::Indices(indices.clone()),
            alters: alters.to_vec(),
            ..clip(indices.len() as u16)
        };
        let owner = tenant("a");
        let clip = decoder.clip(&owner, Lane::Batch, input.clone(), spec);
        clip.await.expect("a clip").planes.remove(0)
    };
    let indices = [0, 3, 5, 7];
    let whole = of(indices.to_vec(), &drawn).await;
    for (place, index) in indices.into_iter().enumerate() {
        let frame = whole
            .chunks(plane)
            .flat_map(|channel| channel.chunks(64 * 64).nth(place));
        let frame: Vec<f32> = frame.flatten().copied().collect();
        assert!(
            frame[..] == of(vec![index], &drawn).await[..],
            "frame {index}"
        );
        assert!(
            frame[..] != of(vec![index], &drawn[..2]).await[..],
            "frame {index}"
        );
    }
    // So frames that are equal stay equal.
    let still = of(vec![3; 4], &drawn).await;
    let mut frames = still[..plane].chunks(64 * 64);
    let first = frames.next().expect("a frame");
    assert!(frames.all(|own| own == first));
    let spec = ClipSpec {
        alters: vec![Alter::Posterize(9)],
        ..clip(4)
    };
    let refused = decoder.clip(&tenant("a"), Lane::Batch, input, spec).await;
    assert!(matches!(
        refused,
        Err(Error::InvalidRequest {
            field: "alters",
            ..
        })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_decodes_like_its_bytes() {
    let decoder = decoder(config()).await;
    let bytes = video(Format::Mp4, 24, (160, 96));
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, &bytes).expect("written");
    let a = tenant("a");
    let first = decoder
        .clip(&a, Lane::Batch, Input::Bytes(bytes), clip(8))
        .await
        .expect("a clip");
    let second = (decoder
        .clip(&a, Lane::Batch, Input::File(file.into()), clip(8))
        .await)
        .expect("a clip");
    assert_eq!(first.planes, second.planes);
    assert_eq!(first.probe, second.probe);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_are_too_large_to_keep_are_read_again() {
    let decoder = decoder(config()).await;
    let input = slow();
    assert!(matches!(&input, Input::Bytes(bytes) if bytes.len() > 64 << 20));
    let indices = vec![3, 39, 0, 3];
    let spec = PictureSpec {
        frames: NonZeroU16::new(4).expect("4"),
        sampling: Sampling::Indices(indices.clone()),
        rotation: RotationPolicy::Stored,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        bytes: 4 * 1280 * 720 * 3,
    };
    let ours = (decoder
        .pictures(&tenant("a"), Lane::Batch, input, spec)
        .await)
        .expect("frames");
    let numbers: Vec<u32> = (ours.pictures.iter())
        .map(|own| number(&own.rgb, own.width).into())
        .collect();
    assert_eq!(numbers, indices);
    assert_eq!(ours.probe.frames, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_are_confined() {
    let decoder = decoder(config()).await;
    assert_eq!(
        decoder.isolation(),
        Layers::ALL,
        "a kernel with Landlock and seccomp"
    );
    decoder
        .probe(&tenant("a"), Lane::Batch, small())
        .await
        .expect("a probe");
    let pid = pid_of(&decoder, "a").await;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    if let Ok(limits) = limits {
        let limit = |name: &str| {
            let line = limits
                .lines()
                .find(|line| line.starts_with(name))
                .expect("a limit");
            line[name.len()..]
                .split_whitespace()
                .next()
                .map(str::to_owned)
        };
        assert_eq!(limit("Max address space").as_deref(), Some("1073741824"));
        assert_eq!(limit("Max cpu time").as_deref(), Some("41"));
        assert_eq!(limit("Max file size").as_deref(), Some("0"));
        assert_eq!(limit("Max open files").as_deref(), Some("16"));
    }
    // Readable by root only, since the process is not dumpable.
    if let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) {
        assert!(environment.is_empty(), "an empty environment");
    }
    if let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) {
        let mut open: Vec<_> = entries
            .map(|entry| std::fs::read_link(entry.expect("an entry").path()).expect("a link"))
            .collect();
        open.sort();
        let is_socket = |path: &std::path::PathBuf| path.to_string_lossy().starts_with("socket:");
        assert_eq!(
            open.iter().filter(|path| is_socket(path)).count(),
            1,
            "{open:?}"
        );
        assert_eq!(open.len(), 4, "null devices and the socket: {open:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_never_share_a_process() {
    let decoder = decoder(frameshift::video::Config {
        workers: 1,
        ..config()
    })
    .await;
    let mut pids = Vec::new();
    for name in ["a", "a", "b", "a"] {
        decoder
            .probe(&tenant(name), Lane::Batch, small())
            .await
            .expect("a probe");
        pids.push(pid_of(&decoder, name).await);
    }
    assert_eq!(pids[0], pids[1], "a tenant's worker is used again");
    assert!(
        pids[1] != pids[2] && pids[2] != pids[3] && pids[1] != pids[3],
        "{pids:?}"
    );
    for dead in &pids[..3] {
        // A worker does not outlive its turn.
        found(|| std::fs::read_to_string(format!("/proc/{dead}/stat")).err()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_frees_its_worker() {
    let mut config = config();
    config.workers = 1;
    config.limits.wall = Duration::from_secs(3600);
    let decoder = decoder(config).await;
    let left = tenant("left");
    let mut abandoned = Box::pin(decoder.probe(&left, Lane::Batch, slow()));
    // The only worker stands still in the middle of the video: nothing but the caller's leaving frees it.
    tokio::select! {
        result = &mut abandoned => panic!("answered: {result:?}"),
        pid = pid_of(&decoder, "left") => send(pid, Signal::STOP),
    }
    drop(abandoned);
    soon(decoder.probe(&tenant("stays"), Lane::Batch, small()))
        .await
        .expect("the next video");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_an_error_at_once() {
    let decoder = decoder(frameshift::video::Config {
        workers: 1,
        queue_per_tenant: 1,
        ..patient()
    })
    .await;
    let worker = stopped(&decoder, "a").await;
    let a = tenant("a");
    let probe = || Box::pin(decoder.probe(&a, Lane::Batch, small()));
    let mut running = probe();
    assert!(poll!(&mut running).is_pending());
    // There is room for one that waits once the running one has left the queue.
    let waiting = loop {
        let mut next = probe();
        match poll!(&mut next) {
            Poll::Pending => break next,
            Poll::Ready(Err(Error::QueueFull)) => tokio::task::yield_now().await,
            Poll::Ready(other) => panic!("{other:?}"),
        }
    };
    let third = poll!(&mut probe());
    assert!(
        matches!(third, Poll::Ready(Err(Error::QueueFull))),
        "{third:?}"
    );
    send(worker, Signal::CONT);
    running.await.expect("the running one is served");
    waiting.await.expect("the waiting one is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processes_end_with_the_decoder() {
    let decoder = decoder(config()).await;
    decoder
        .probe(&tenant("a"), Lane::Batch, small())
        .await
        .expect("a probe");
    let (zygote, workers) = decoder.processes();
    let mut pids: Vec<u32> = workers.iter().map(|worker| worker.pid).collect();
    pids.extend(zygote);
    assert_eq!(pids.len(), 2);
    drop(decoder);
    for pid in pids {
        found(|| std::fs::metadata(format!("/proc/{pid}")).err()).await;
    }
}

#[test]
fn by_hand_the_worker_says_who_starts_it() {
    let output = std::process::Command::new(config().program)
        .arg("video-worker")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("frameshift serve"));
}
