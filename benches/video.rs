//! Benchmarks of video decoding: the bicubic resize alone, and whole clips in the confined worker: `cargo bench --bench video`.
//!
//! criterion's "elements" are frames. `make bench-video` compares with libraries for Python.
#![allow(missing_docs, clippy::expect_used)] // A benchmark that cannot be set up ends.

use std::hint::black_box;
use std::num::{NonZeroU8, NonZeroU16};
use std::path::PathBuf;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use frameshift::ids::TenantId;
use frameshift::rng::Stream;
use frameshift::spec::{FrameOrder, Normalization, RotationPolicy};
use frameshift::video::encode::{Encoder, Format};
use frameshift::video::transform::{Planes, Rgb, plan};
use frameshift::video::{
    ClipSpec, ColorPolicy, Config, Decoder, Input, Lane, Sampling, Views, write_view,
};
use tokio::runtime::Runtime;

const SIDE: usize = 224;

fn noise(bytes: usize) -> Vec<u8> {
    let mut random = Stream::new(1, "pixels");
    (0..bytes).map(|_| random.bits() as u8).collect()
}

fn bicubic(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bicubic");
    group.throughput(Throughput::Elements(1));
    for (name, size) in [("340x256", (340, 256)), ("1920x1080", (1920, 1080))] {
        let bytes = noise(size.0 * size.1 * 3);
        let picture = Rgb {
            bytes: &bytes,
            stride: size.0 * 3,
            width: size.0,
            height: size.1,
        };
        let view = &plan(&Views::Center, size, SIDE)[0];
        let mut values = vec![0.0; 3 * SIDE * SIDE];
        let mut row = Vec::new();
        for is_wide in [false, true] {
            let width = if is_wide { "widest" } else { "baseline" };
            group.bench_function(format!("{name}/{width}"), |bencher| {
                bencher.iter(|| {
                    let planes = Planes {
                        values: &mut values,
                        frames: 1,
                        frame: 0,
                    };
                    if is_wide {
                        write_view(view, picture, &Normalization::CLIP, planes, &mut row);
                    } else {
                        view.write(picture, &Normalization::CLIP, planes, &mut row);
                    }
                    black_box(&values);
                });
            });
        }
    }
    group.finish();
}

/// Returns ten seconds of a moving pattern as a video, H.264 if an encoder for it is installed.
fn clip() -> Bytes {
    const SIZE: (u32, u32) = (340, 256);
    let mut encoder = Encoder::new(Format::Mp4, SIZE.0, SIZE.1, 30).expect("an encoder");
    for time in 0..300 {
        let pixel = |i: u32| {
            let (x, y) = (i % SIZE.0, i / SIZE.0);
            [
                ((x + time) ^ y) as u8,
                (x * 2 + time * 3) as u8,
                (y + time) as u8,
            ]
        };
        let rgb: Vec<u8> = (0..SIZE.0 * SIZE.1).flat_map(pixel).collect();
        encoder.push(&rgb).expect("a picture");
    }
    encoder.finish().expect("a file").into()
}

fn whole_clips(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_frameshift"));
    let decoder = runtime.block_on(Decoder::start(Config::new(program)));
    let decoder = decoder.expect("workers start");
    let tenant: TenantId = "bench".parse().expect("a name");
    let input = Input::Bytes(clip());
    let mut group = criterion.benchmark_group("confined");
    group.throughput(Throughput::Elements(8)).sample_size(20);
    for views in [Views::Center, Views::Three] {
        let spec = ClipSpec {
            frames: NonZeroU16::new(8).expect("some"),
            sampling: Sampling::Uniform,
            temporal_views: NonZeroU8::MIN,
            views,
            size: SIDE as u16,
            rotation: RotationPolicy::Display,
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            normalization: Normalization::CLIP,
            alters: Vec::new(),
        };
        group.bench_function(format!("340x256/{:?}", spec.views), |bencher| {
            bencher.iter(|| {
                let clip = decoder.clip(&tenant, Lane::Batch, input.clone(), spec.clone());
                black_box(runtime.block_on(clip).expect("a clip"))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bicubic, whole_clips);
criterion_main!(benches);
