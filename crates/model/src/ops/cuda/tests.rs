//! The device layer on a device: the emulated one of `tests/emulated`, or a GPU. Where there is none the tests say "skipped", unless
//! `FRAMESHIFT_TEST_DEVICE=cuda` says that there is one.

mod faults;
mod sizes;
mod walk;

use std::ffi::CString;
use std::sync::Arc;

use candle_core::Result;
use half::bf16;

use super::gpu::Gpu;
use super::weights::Matrix;
use super::{Readback, Tensor, products};
use crate::ops::failure::Failure;
use crate::ops::linear::Rows;
use crate::ops::{Format, Numbers, Place};
use crate::rng::Stream;
use crate::spec::{Normalization, Precision};
use crate::{Activation, BackboneConfig};

fn gpu() -> Option<Arc<Gpu>> {
    match Gpu::open(0) {
        Ok(gpu) => Some(gpu),
        Err(why) => {
            let is_there = std::env::var_os("FRAMESHIFT_TEST_DEVICE").is_some();
            assert!(!is_there, "{why}");
            println!("skipped: {why}");
            None
        }
    }
}

/// `fs_emulated_set` of the emulated driver.
type Set = extern "C" fn(*const libc::c_char, *const libc::c_char) -> libc::c_int;

/// Changes a setting of the emulated driver; false on a real one, which has none.
fn emulated(name: &str, value: &str) -> bool {
    let [library, function] =
        ["libcuda.so", "fs_emulated_set"].map(|name| CString::new(name).unwrap());
    let (name, value) = (CString::new(name).unwrap(), CString::new(value).unwrap());
    // SAFETY: the library is loaded already, and the emulated driver declares the function like this.
    unsafe {
        let loaded = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if loaded.is_null() {
            return false;
        }
        let found = libc::dlsym(loaded, function.as_ptr());
        if found.is_null() {
            println!("skipped: not the emulated driver");
            return false;
        }
        let set = std::mem::transmute::<*mut libc::c_void, Set>(found);
        set(name.as_ptr(), value.as_ptr());
    }
    true
}

fn random(name: &str, count: usize) -> Vec<f32> {
    let mut stream = Stream::new(0, name);
    (0..count).map(|_| stream.range(-1.0, 1.0)).collect()
}

fn upload(gpu: &Arc<Gpu>, name: &str, dims: &[usize], numbers: Numbers) -> Tensor {
    let values = random(name, dims.iter().product());
    let floats = Tensor::upload(gpu, &values, dims).unwrap();
    floats.cast(numbers).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let host = tensor.cast(Numbers::F32).unwrap().host().unwrap();
    host.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn values_come_back_as_they_went_up() {
    let Some(gpu) = gpu() else { return };
    let values = random("x", 3 * 5 * 7);
    for tensor in [
        Tensor::upload(&gpu, &values, &[3, 5, 7]).unwrap(),
        Tensor::stage(&gpu, &values, &[3, 5, 7]).unwrap(),
    ] {
        assert_eq!(floats(&tensor), values);
        assert_eq!(floats(&tensor.narrow(1, 2).unwrap()), values[35..]);
        let halves = tensor.cast(Numbers::Bf16).unwrap();
        let expected: Vec<f32> = values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        assert_eq!(floats(&halves), expected);
        let joined = Tensor::cat(&[&tensor, &tensor.narrow(0, 1).unwrap()]).unwrap();
        assert_eq!(joined.dims(), [4, 5, 7]);
        assert_eq!(floats(&joined)[105..], values[..35]);
        assert!(tensor.narrow(2, 2).is_err() && tensor.reshape(&[2, 3]).is_err());
    }
    let zeros = Tensor::zeros(&gpu, Numbers::F32, &[4]).unwrap();
    zeros
        .narrow(1, 2)
        .unwrap()
        .copy_from(&Tensor::upload(&gpu, &[5.0, 6.0], &[2]).unwrap())
        .unwrap();
    assert_eq!(floats(&zeros), [0.0, 5.0, 6.0, 0.0]);
    let none = Tensor::upload(&gpu, &[], &[0]).unwrap();
    assert!(floats(&none).is_empty());
}

#[test]
fn a_launch_that_a_device_would_refuse_is_refused_by_name() {
    let Some(gpu) = gpu() else { return };
    let x = upload(&gpu, "x", &[8], Numbers::F32);
    let launch = |grid, threads, shared| {
        let mut y = Tensor::unfilled(&gpu, Numbers::Bf16, &[8]).unwrap();
        gpu.launch("cast_f32_bf16")
            .grid(grid)
            .threads(threads)
            .shared(shared)
            .read(&x)
            .write(&mut y)
            .long(8)
            .run()
    };
    assert!(launch([1, 1, 1], 256, 0).is_ok());
    // No blocks: nothing to do.
    assert!(launch([0, 1, 1], 256, 0).is_ok());
    for wrong in [
        launch([1, 70_000, 1], 256, 0),
        launch([1, 1, 1], 2048, 0),
        launch([1, 1, 1], 256, 1 << 20),
    ] {
        assert!(wrong.unwrap_err().to_string().contains("cast_f32_bf16"));
    }
    let unknown = gpu.launch("no_such_kernel").run().unwrap_err().to_string();
    assert!(unknown.contains("no_such_kernel"), "{unknown}");
    let mut shared = x.clone();
    let refused = gpu.launch("cast_f32_bf16").write(&mut shared).run();
    assert!(refused.unwrap_err().to_string().contains("shared"));
    assert!(gpu.lost().is_none());
}

/// What a product has to give, in f64: rows of x times rows of W, and a bias.
fn expected(x: &[f32], w: &[f32], k: usize, bias: Option<&[f32]>) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks_exact(k) {
        for (j, w) in w.chunks_exact(k).enumerate() {
            let sum: f64 = x
                .iter()
                .zip(w)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum();
            y.push(sum + bias.map_or(0.0, |bias| f64::from(bias[j])));
        }
    }
    y
}

fn near(got: &Tensor, expected: &[f64], bound: f64) {
    let got = floats(got);
    assert_eq!(got.len(), expected.len());
    let square = |x: f64| x * x;
    let apart: f64 = got
        .iter()
        .zip(expected)
        .map(|(a, b)| square(f64::from(*a) - b))
        .sum();
    let total: f64 = expected.iter().map(|b| square(*b)).sum();
    let distance = (apart / total).sqrt();
    assert!(distance < bound, "{distance:e}");
}

#[test]
fn products_are_those_of_64_bit_floats() {
    let Some(gpu) = gpu() else { return };
    for (format, numbers, bound) in [
        (Format::F32, Numbers::F32, 1e-6),
        (Format::Bf16, Numbers::Bf16, 3e-3),
    ] {
        // Sizes for the library, and sizes that it does not take in bfloat16.
        for (n, k) in [(48, 16), (36, 12)] {
            let (frames, tokens) = (3, 5);
            let w = random("w", n * k);
            let matrix = Matrix::new(&gpu, format, &w, k, 3).unwrap();
            let w = matrix.unpacked().unwrap();
            let bias = upload(&gpu, "bias", &[n], Numbers::F32);
            let b = floats(&bias);
            let x = upload(&gpu, "x", &[frames, tokens, k], numbers);
            let xs = floats(&x);
            let all = products::project(&x, Rows::All, &matrix, (0..3, Some(&bias)), numbers);
            near(&all.unwrap(), &expected(&xs, &w, k, Some(&b)), bound);
            let third = n / 3;
            let some = products::project(&x, Rows::All, &matrix, (1..2, Some(&bias)), Numbers::F32);
            let own = &w[third * k..2 * third * k];
            near(
                &some.unwrap(),
                &expected(&xs, own, k, Some(&b[third..2 * third])),
                bound,
            );
            let class: Vec<f32> = xs
                .chunks_exact(tokens * k)
                .flat_map(|x| x[..k].to_vec())
                .collect();
            let y = products::project(&x, Rows::Class, &matrix, (0..3, None), numbers).unwrap();
            assert_eq!(y.dims(), [frames, n]);
            near(&y, &expected(&class, &w, k, None), bound);
            backward(&gpu, (&matrix, &w), (n, k), numbers, bound);
            adds(&gpu, (&matrix, &w), (n, k), numbers, bound);
        }
    }
}

/// dy · W of a section.
fn backward(
    gpu: &Arc<Gpu>,
    (matrix, w): (&Matrix, &[f32]),
    (n, k): (usize, usize),
    numbers: Numbers,
    bound: f64,
) {
    let third = n / 3;
    let dy = upload(gpu, "dy", &[2, 5, third], numbers);
    let own = &w[third * k..2 * third * k];
    let transposed: Vec<f32> = (0..k)
        .flat_map(|j| (0..third).map(move |i| own[i * k + j]))
        .collect();
    let second = matrix.transposed(1..2);
    assert_eq!((second.n(), second.k()), (k, third));
    assert_eq!(second.unpacked().unwrap(), transposed);
    let dx = products::project(&dy, Rows::All, &second, (0..1, None), Numbers::F32).unwrap();
    near(
        &dx,
        &expected(&floats(&dy), &transposed, third, None),
        bound,
    );
}

/// Products that are added to all rows, and to class rows.
fn adds(
    gpu: &Arc<Gpu>,
    (matrix, w): (&Matrix, &[f32]),
    (n, k): (usize, usize),
    numbers: Numbers,
    bound: f64,
) {
    let (frames, tokens) = (3, 5);
    let residual = upload(gpu, "residual", &[frames, tokens, n], Numbers::F32);
    let r = floats(&residual);
    let x = upload(gpu, "x", &[frames, tokens, k], numbers);
    let y = products::project_add(&x, &residual, matrix, Rows::All, None).unwrap();
    let mut all = expected(&floats(&x), w, k, None);
    all.iter_mut()
        .zip(&r)
        .for_each(|(y, r)| *y += f64::from(*r));
    near(&y, &all, bound);
    let class = upload(gpu, "class", &[frames, k], numbers);
    let y = products::project_add(&class, &residual, matrix, Rows::Class, None).unwrap();
    let mut sum: Vec<f64> = r.iter().map(|r| f64::from(*r)).collect();
    let added = expected(&floats(&class), w, k, None);
    for (frame, added) in sum.chunks_exact_mut(tokens * n).zip(added.chunks_exact(n)) {
        frame.iter_mut().zip(added).for_each(|(y, a)| *y += a);
    }
    near(&y, &sum, bound);
    // Rows that are not added to have the bits of the residual, which is as it was.
    let (y, after) = (floats(&y), floats(&residual));
    assert_eq!(y[n..tokens * n], r[n..tokens * n]);
    assert_eq!(after, r);
}

#[test]
fn a_row_of_a_product_has_the_same_bits_whatever_is_beside_it() {
    let Some(gpu) = gpu() else { return };
    let (n, k, tokens) = (24, 16, 5);
    let w = random("w", n * k);
    let matrix = Matrix::new(&gpu, Format::Bf16, &w, k, 1).unwrap();
    let x = upload(&gpu, "x", &[9, tokens, k], Numbers::Bf16);
    let project = |x: &Tensor| -> Vec<u32> {
        let y = products::project(x, Rows::All, &matrix, (0..1, None), Numbers::F32).unwrap();
        floats(&y).iter().map(|y| y.to_bits()).collect()
    };
    let all = project(&x);
    for frame in 0..9 {
        let one = project(&x.narrow(frame, 1).unwrap());
        assert_eq!(one, all[frame * tokens * n..(frame + 1) * tokens * n]);
    }
    assert_eq!(
        gpu.products().plans().len(),
        1,
        "one plan for all numbers of rows"
    );
}

#[test]
fn a_bias_that_was_updated_is_rounded_again() {
    let Some(gpu) = gpu() else { return };
    let matrix = Matrix::new(&gpu, Format::Bf16, &[0.0; 64], 8, 1).unwrap();
    let x = upload(&gpu, "x", &[2, 8], Numbers::Bf16);
    let bias = Tensor::upload(&gpu, &[1.0; 8], &[8]).unwrap();
    let project =
        || products::project(&x, Rows::All, &matrix, (0..1, Some(&bias)), Numbers::Bf16).unwrap();
    assert_eq!(floats(&project()), [1.0; 16]);
    bias.copy_from(&Tensor::upload(&gpu, &[2.0; 8], &[8]).unwrap())
        .unwrap();
    assert_eq!(floats(&project()), [2.0; 16]);
}

/// A little of everything: uploads, products, copies, a way back.
fn forward(gpu: &Arc<Gpu>, matrix: &Matrix) -> Result<Vec<f32>> {
    let x = Tensor::stage(gpu, &random("x", 2 * 5 * 16), &[2, 5, 16])?;
    let y = products::project(&x, Rows::All, matrix, (0..1, None), Numbers::Bf16)?;
    let all = Tensor::cat(&[&y, &y.narrow(0, 1)?])?;
    all.cast(Numbers::F32)?.host()?.flatten_all()?.to_vec1()
}

#[test]
fn a_steady_state_takes_no_memory() {
    let Some(gpu) = gpu() else { return };
    let matrix = Matrix::new(&gpu, Format::Bf16, &random("w", 24 * 16), 16, 1).unwrap();
    let first = forward(&gpu, &matrix).unwrap();
    let before = gpu.memory().unwrap();
    for _ in 0..1000 {
        assert_eq!(forward(&gpu, &matrix).unwrap(), first);
    }
    assert_eq!(gpu.memory().unwrap(), before);
    assert!(gpu.work().uploaded >= 24 * 16 * 2);
}

#[test]
fn an_allocation_without_room_fails_alone_whichever_it_is() {
    let Some(gpu) = gpu() else { return };
    let matrix = Matrix::new(&gpu, Format::Bf16, &random("w", 24 * 16), 16, 1).unwrap();
    let expected = forward(&gpu, &matrix).unwrap();
    if !emulated("FS_EMULATED_FAIL", "") {
        return;
    }
    for call in ["cuMemAllocAsync", "cuMemHostAlloc"] {
        let failures = faults::at_every_call(call, || {
            let result = forward(&gpu, &matrix);
            emulated("FS_EMULATED_FAIL", "");
            assert_eq!(forward(&gpu, &matrix).unwrap(), expected, "the next one");
            let values = result.map_err(crate::Error::from)?;
            assert_eq!(values, expected);
            Ok(())
        });
        println!("{call}: failed {failures} times");
        assert!(failures > 0 || call == "cuMemHostAlloc", "blocks are kept");
    }
    assert!(gpu.lost().is_none());
}

#[test]
fn a_sticky_error_loses_the_device() {
    let Some(gpu) = gpu() else { return };
    let matrix = Matrix::new(&gpu, Format::Bf16, &random("w", 24 * 16), 16, 1).unwrap();
    forward(&gpu, &matrix).unwrap();
    if !emulated("FS_EMULATED_FAIL", "cuLaunchKernel:2:719") {
        return;
    }
    let error = forward(&gpu, &matrix).unwrap_err();
    assert!(
        matches!(Failure::inside(&error), Some(Failure::Lost { .. })),
        "{error}"
    );
    let reason = gpu.lost().unwrap();
    assert!(reason.contains("LAUNCH_FAILED"), "{reason}");
    assert!(gpu.pace().is_err(), "nothing works any more");
    emulated("FS_EMULATED_FAIL", "");
}

#[test]
fn late_streams_change_no_value_and_results_arrive() {
    let Some(gpu) = gpu() else { return };
    let matrix = Matrix::new(&gpu, Format::Bf16, &random("w", 24 * 16), 16, 1).unwrap();
    let expected = forward(&gpu, &matrix).unwrap();
    if !emulated("FS_EMULATED_LATE", "1") {
        return;
    }
    for _ in 0..20 {
        assert_eq!(forward(&gpu, &matrix).unwrap(), expected);
        gpu.pace().unwrap();
    }
    let x = Tensor::stage(&gpu, &[1.0, 2.0], &[2]).unwrap();
    let reading = Readback::start(&x.cast(Numbers::Bf16).unwrap()).unwrap();
    // Who asks again and again gets there.
    assert!((0..1000).any(|_| reading.is_ready()));
    let values: Vec<bf16> = reading.wait().unwrap().to_vec1().unwrap();
    assert_eq!(values, [1.0, 2.0].map(bf16::from_f32));
    assert_eq!(gpu.work().slices, 20);
    gpu.synchronize().unwrap();
    emulated("FS_EMULATED_LATE", "");
}

/// A backbone of odd sizes.
pub(super) fn config(width: usize, heads: usize) -> BackboneConfig {
    BackboneConfig {
        image_size: 12,
        patch_size: 4,
        width,
        layers: 2,
        heads,
        mlp_width: 2 * width + 8,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    }
}

#[test]
fn every_operation_agrees_with_the_host() {
    let Some(gpu) = gpu() else { return };
    let place = Place::Cuda(gpu);
    for (width, heads, precision) in [
        (36, 3, Precision::F32),
        (128, 2, Precision::F32),
        (48, 3, Precision::Bf16),
        (128, 2, Precision::Bf16),
    ] {
        place.check(&config(width, heads), precision).unwrap();
    }
    let refused = place.check(&config(64, 1), Precision::Int8).unwrap_err();
    assert!(refused.to_string().contains("int8"), "{refused}");
}
