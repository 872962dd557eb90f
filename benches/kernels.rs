//! Benchmarks of the single kernels: `cargo bench --bench kernels`.
//!
//! criterion's "elements" are operations (two for a multiply-add), so that its throughput is in FLOP/s; for memory-bound kernels it is in bytes per second.
//! At the end, a table shows the machine's limits, measured in the same run, and each kernel's share of its limit.
#![allow(missing_docs, clippy::print_stdout)] // It prints a table for people.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use frameshift::model::bench::{Case, Sizes, Work, cases, peak_bytes, peak_operations};
use frameshift::model::{
    BackboneConfig, Error, LineAligned, Place, compute_threads, keep_freed_pages,
};
use frameshift::spec::Precision;

#[global_allocator]
static ALLOCATOR: LineAligned = LineAligned;

/// Returns the kernels of all precisions at the sizes of ViT-B/16, for one clip.
fn all() -> Result<Vec<Case>, Error> {
    let config = BackboneConfig::VIT_B_16;
    let mut all = Vec::new();
    for precision in Precision::ALL {
        let sizes = Sizes {
            config: &config,
            frames: 8,
            clips: 1,
            precision,
        };
        all.extend(cases(&Place::Host, sizes)?);
    }
    Ok(all)
}

fn run(criterion: &mut Criterion) -> Result<(), Error> {
    let cases = all()?;
    let mut group = criterion.benchmark_group("kernels");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    for case in &cases {
        group.throughput(match case.work {
            Work::Operations(count) => Throughput::Elements(count),
            Work::Bytes(count) => Throughput::Bytes(count),
        });
        group.bench_function(&case.name, |bencher| bencher.iter(|| case.call()));
    }
    group.finish();
    let floats = peak_operations(Precision::F32);
    let halves = peak_operations(Precision::Bf16).max(floats);
    let bytes = peak_bytes();
    println!(
        "limits: {:.1} GFLOP/s f32, {:.1} bf16, {:.1} GB/s",
        floats / 1e9,
        halves / 1e9,
        bytes / 1e9
    );
    for case in &cases {
        let seconds = case.seconds(10)?;
        let (rate, limit, unit) = match case.work {
            Work::Operations(count) if case.name.ends_with("bf16") => (count, halves, "GFLOP/s"),
            Work::Operations(count) => (count, floats, "GFLOP/s"),
            Work::Bytes(count) => (count, bytes, "GB/s"),
        };
        let rate = rate as f64 / seconds;
        println!(
            "{:<36} {:>7.1} {unit:<8} {:.2} of the limit",
            case.name,
            rate / 1e9,
            rate / limit
        );
    }
    Ok(())
}

fn kernels(criterion: &mut Criterion) {
    keep_freed_pages();
    compute_threads(None);
    if let Err(error) = run(criterion) {
        eprintln!("{error}");
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
