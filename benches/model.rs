//! Benchmarks of the model's forward pass and training step, at two sizes: `cargo bench --bench model`.
//!
//! criterion's "elements" are floating-point operations of the backbone's matrix products (two for a multiply-add; twice as many in a step as in a
//! forward, since frozen weights have no gradient), so its throughput is in FLOP/s.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use frameshift::model::{
    AdapterSet, Backbone, BackboneConfig, Error, Inference, Keep, LineAligned, Segment, Step,
    TrainableSet, TrainingStep, keep_freed_pages,
};
use frameshift::rng::Stream;
use frameshift::spec::{AdapterConfig, Digest, Head};
use frameshift::tools::pretrain::ARCHITECTURE;

#[global_allocator]
static ALLOCATOR: LineAligned = LineAligned;

const FRAMES: usize = 8;

struct Size {
    name: &'static str,
    config: BackboneConfig,
    adapter_width: u32,
    clips: usize,
}

fn sizes() -> [Size; 2] {
    let large = BackboneConfig {
        image_size: 224,
        patch_size: 16,
        width: 768,
        layers: 12,
        heads: 12,
        mlp_width: 3072,
        ..ARCHITECTURE
    };
    [
        Size {
            name: "builtin",
            config: ARCHITECTURE,
            adapter_width: 48,
            clips: 8,
        },
        Size {
            name: "vit_b16",
            config: large,
            adapter_width: 384,
            clips: 1,
        },
    ]
}

/// Returns the operations of one forward pass of the backbone over the batch.
fn operations(size: &Size) -> u64 {
    let (c, l) = (size.config.width, size.config.tokens());
    let patch = 3 * size.config.patch_size * size.config.patch_size;
    let block = l * c * (4 * c + 2 * size.config.mlp_width) + 2 * l * l * c;
    let frame = (l - 1) * patch * c + size.config.layers * block;
    (2 * frame * FRAMES * size.clips) as u64
}

fn random(rng: &mut Stream, count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|_| scale * rng.normal()).collect()
}

fn run(criterion: &mut Criterion, size: &Size) -> Result<(), Error> {
    let mut rng = Stream::new(1, size.name);
    let tensors = size.config.tensors().into_iter().map(|(name, shape)| {
        let values = random(&mut rng, shape.iter().product(), 0.03);
        (name, (shape, values))
    });
    let tensors = tensors.collect();
    let backbone =
        Backbone::from_tensors(size.name, size.config.clone(), Digest([0; 32]), tensors)?;
    let backbone = Arc::new(backbone);
    let config = AdapterConfig {
        adapter_width: size.adapter_width,
        adapter_layers: None,
        adapter_kernel_size: [3, 1, 1],
        adapter_pre_attn: false,
        adapter_pre_mlp: true,
        head: Head::Mean,
    };
    let set = AdapterSet::fresh(&size.config, config, 4, &rng)?;
    let trainable = TrainableSet::new(&set)?;
    let set = Arc::new(set);
    let clip = random(&mut rng, FRAMES * size.config.frame_len(), 1.0);
    let clips: Vec<Arc<[f32]>> = vec![clip.into(); size.clips];
    let labels: Vec<u32> = (0..size.clips as u32).map(|i| i % 4).collect();

    let mut group = criterion.benchmark_group(size.name);
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(20));
    group.throughput(Throughput::Elements(operations(size)));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| -> Result<_, Error> {
            let segment = Segment {
                set: Arc::clone(&set),
                clips: 0..size.clips,
                num_frames: FRAMES,
            };
            let mut batch = Inference::new(Arc::clone(&backbone), clips.clone(), vec![segment])?;
            while batch.advance()? != Step::Done {}
            Ok(black_box(batch.into_logits()?))
        });
    });
    group.throughput(Throughput::Elements(2 * operations(size)));
    group.bench_function("step", |bencher| {
        bencher.iter(|| -> Result<_, Error> {
            let (backbone, clips) = (Arc::clone(&backbone), clips.clone());
            let mut step =
                TrainingStep::new(backbone, &trainable, clips, &labels, None, Keep::All)?;
            while step.advance()? != Step::Done {}
            Ok(black_box(step.finish()?.loss))
        });
    });
    group.finish();
    Ok(())
}

fn model(criterion: &mut Criterion) {
    keep_freed_pages();
    for size in sizes() {
        if let Err(error) = run(criterion, &size) {
            eprintln!("{}: {error}", size.name);
        }
    }
}

criterion_group!(benches, model);
criterion_main!(benches);
