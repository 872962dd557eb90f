//! What goes wrong on a device, on purpose: nothing of it is lost, or taken for something else.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use super::walk::{adapters, backbone, bits, clip, logits, set, train};
use super::*;
use crate::ops::cuda::buffer::Buffer;
use crate::ops::cuda::library::Products;
use crate::ops::cuda::pinned::{BUDGET, PIECE};
use crate::ops::cuda::plan::{self, Kind, Reads};
use crate::ops::cuda::trial::{Trial, Verdict};
use crate::spec::Head;
use crate::{Error, Keep};

/// Clips, each with its set.
type Clips = Vec<(Arc<[f32]>, Arc<crate::AdapterSet>)>;

/// A small backbone, and a batch of two sets.
fn batch(gpu: &Arc<Gpu>) -> (Arc<crate::Backbone>, Clips) {
    let config = BackboneConfig {
        image_size: 8,
        ..config(16, 2)
    };
    let backbone = backbone(gpu, &config, Precision::Bf16);
    let of = |seed| {
        let kind = adapters(8, [3, 1, 1], Head::Mean);
        (clip(&backbone, 2, seed), set(&backbone, kind, seed))
    };
    let clips = vec![of(1), of(2)];
    (backbone, clips)
}

/// Calls `run` with the n-th call of a function of the driver failing, for every n that it reaches. Returns how many there were. An allocation is tried twice,
/// and fails both times.
pub(super) fn at_every_call(
    call: &str,
    mut run: impl FnMut() -> std::result::Result<(), Error>,
) -> usize {
    let times = if call == "cuMemAllocAsync" { 2 } else { 1 };
    for n in 1.. {
        emulated("FS_EMULATED_FAIL", &format!("{call}:{n}:2:{times}"));
        let result = run();
        emulated("FS_EMULATED_FAIL", "");
        match result {
            Ok(()) => return n - 1,
            Err(Error::OutOfMemory { .. }) => {}
            Err(other) => panic!("{call} number {n}: {other}"),
        }
    }
    unreachable!("the numbers do not end")
}

#[test]
fn a_batch_without_room_for_one_of_its_buffers_fails_alone_whichever_it_is() {
    let Some(gpu) = gpu() else { return };
    if !emulated("FS_EMULATED_FAIL", "") {
        return;
    }
    let (backbone, clips) = batch(&gpu);
    let expected = bits(&logits(&backbone, &clips).unwrap());
    // Buffers are freed when a stream gets there.
    gpu.synchronize().unwrap();
    let used = gpu.memory().unwrap().used;
    for late in ["", "1"] {
        emulated("FS_EMULATED_LATE", late);
        let failures = at_every_call("cuMemAllocAsync", || {
            let got = logits(&backbone, &clips)?;
            assert_eq!(bits(&got), expected);
            Ok(())
        });
        assert!(failures > 20, "{failures}");
        gpu.synchronize().unwrap();
        // Whatever was not used any more was freed, also on the way out of an error.
        assert_eq!(gpu.memory().unwrap().used, used);
        assert_eq!(bits(&logits(&backbone, &clips).unwrap()), expected);
    }
    gpu.synchronize().unwrap();
    emulated("FS_EMULATED_LATE", "");
    assert!(gpu.lost().is_none());
}

#[test]
fn memory_that_is_about_to_be_free_is_room() {
    let Some(gpu) = gpu() else { return };
    if !emulated("FS_EMULATED_LATE", "1") {
        return;
    }
    let room = gpu.memory().unwrap().used + (3 << 19);
    emulated("FS_EMULATED_MEMORY", &room.to_string());
    // Each is freed when the stream gets there, which nobody has waited for when the next one is allocated.
    for _ in 0..5 {
        Tensor::zeros(&gpu, Numbers::F32, &[1 << 18]).unwrap();
    }
    let two = [(); 2].map(|()| Tensor::zeros(&gpu, Numbers::F32, &[1 << 18]));
    let [_first, second] = two;
    let error = second.unwrap_err();
    let full = Some(&Failure::OutOfMemory { bytes: 1 << 20 });
    assert_eq!(Failure::inside(&error), full);
    gpu.synchronize().unwrap();
    emulated("FS_EMULATED_MEMORY", "");
    emulated("FS_EMULATED_LATE", "");
    // One refusal is no missing room.
    emulated("FS_EMULATED_FAIL", "cuMemAllocAsync:1:2");
    assert!(Tensor::zeros(&gpu, Numbers::F32, &[1 << 18]).is_ok());
}

#[test]
fn an_error_that_a_dropped_event_has_left_keeps_nobody_from_waiting() {
    let Some(gpu) = gpu() else { return };
    if !emulated("FS_EMULATED_LATE", "1") {
        return;
    }
    gpu.synchronize().unwrap();
    let used = gpu.memory().unwrap().used;
    let left = DriverError(CUresult::CUDA_ERROR_NOT_FOUND);
    let leave = || gpu.context.record_err::<()>(Err(left));
    let is_left = || gpu.context.check_err().is_err();
    // It is freed when the copy stream gets there.
    let buffer = Buffer::for_copies(&gpu, 1 << 20).unwrap();
    leave();
    drop(buffer);
    assert!(is_left(), "freeing took another call's error");
    leave();
    gpu.settle();
    assert!(is_left(), "settling took another call's error");
    assert_eq!(gpu.memory().unwrap().used, used);
    emulated("FS_EMULATED_LATE", "");
}

#[test]
fn a_refusal_is_the_calls_own_unless_the_device_answers_nothing_any_more() {
    // CUDA_ERROR_NOT_FOUND; and CUDA_ERROR_INVALID_PTX, one that no list of final errors has, with a stream that gives the same answer afterwards.
    for (failure, then, is_lost) in [(500, "", false), (218, "cuStreamQuery:1:218", true)] {
        let Some(gpu) = gpu() else { return };
        let values = [1.0, 2.0];
        if !emulated("FS_EMULATED_FAIL", then) {
            return;
        }
        let refused = Failure::Refused {
            what: "a call",
            reason: format!("code {failure}").into(),
        };
        let error = gpu.failed(refused);
        let lost = matches!(Failure::inside(&error), Some(Failure::Lost { .. }));
        assert_eq!((lost, gpu.lost().is_some()), (is_lost, is_lost), "{error}");
        emulated("FS_EMULATED_FAIL", "");
        assert!(Tensor::upload(&gpu, &values, &[2]).is_ok());
    }
}

#[test]
fn a_step_without_room_for_one_of_its_buffers_fails_alone_whichever_it_is() {
    let Some(gpu) = gpu() else { return };
    if !emulated("FS_EMULATED_FAIL", "") {
        return;
    }
    let (backbone, clips) = batch(&gpu);
    let expected = train(&backbone, &clips[0].1, Keep::All).unwrap();
    let used = gpu.memory().unwrap().used;
    let failures = at_every_call("cuMemAllocAsync", || {
        let got = train(&backbone, &clips[0].1, Keep::All)?;
        assert!(got == expected);
        Ok(())
    });
    assert!(failures > 50, "{failures}");
    assert_eq!(gpu.memory().unwrap().used, used);
    assert!(gpu.lost().is_none());
}

#[test]
fn a_copy_that_fails_anywhere_frees_what_it_took() {
    let Some(gpu) = gpu() else { return };
    if !emulated("FS_EMULATED_FAIL", "") {
        return;
    }
    // Three pieces and a bit.
    let values = random("values", 3 * PIECE / 4 + 5);
    let there = |gpu: &Arc<Gpu>| -> Result<Vec<f32>> {
        let tensor = Tensor::stage(gpu, &values, &[values.len()])?;
        tensor.host()?.to_vec1()
    };
    assert_eq!(there(&gpu).unwrap(), values);
    let used = gpu.memory().unwrap().used;
    for call in [
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuEventCreate",
        "cuEventRecord",
        "cuStreamWaitEvent",
        "cuMemAllocAsync",
    ] {
        for late in ["", "1"] {
            emulated("FS_EMULATED_LATE", late);
            let failures = at_every_call(call, || there(&gpu).map(drop).map_err(Error::from));
            assert!(failures > 0, "{call}");
            gpu.synchronize().unwrap();
            assert_eq!(gpu.memory().unwrap().used, used, "{call}");
            assert_eq!(there(&gpu).unwrap(), values, "{call}");
        }
    }
    gpu.synchronize().unwrap();
    emulated("FS_EMULATED_LATE", "");
    assert!(gpu.pinned.bytes() <= BUDGET, "{}", gpu.pinned.bytes());
}

#[test]
fn copies_wait_for_one_another_rather_than_exceed_the_budget_of_pinned_memory() {
    let Some(gpu) = gpu() else { return };
    if !emulated("FS_EMULATED_LATE", "1") {
        return;
    }
    let values = random("values", BUDGET / 2);
    let staged: Vec<Tensor> = (0..3)
        .map(|_| Tensor::stage(&gpu, &values, &[values.len()]).unwrap())
        .collect();
    assert!(gpu.pinned.bytes() <= BUDGET, "{}", gpu.pinned.bytes());
    for tensor in &staged {
        assert!(tensor.host().unwrap().to_vec1::<f32>().unwrap() == values);
    }
    drop(staged);
    // A result that is larger than the budget comes home all the same, and its block is not kept.
    assert!(gpu.pinned.bytes() <= BUDGET, "{}", gpu.pinned.bytes());
    gpu.synchronize().unwrap();
    emulated("FS_EMULATED_LATE", "");
}

#[test]
fn a_forgotten_event_between_the_streams_is_seen() {
    let Some(gpu) = gpu() else { return };
    if !emulated("FS_EMULATED_LATE", "1") {
        return;
    }
    let values = random("values", 100);
    let copy = |waits: bool| -> Vec<f32> {
        let write = |begin: usize, to: &mut [f32]| to.copy_from_slice(&values[begin..][..to.len()]);
        let (buffer, copied) = gpu.copy_in(values.len(), write).unwrap();
        let buffer = match waits {
            true => buffer.after(&copied).unwrap(),
            false => buffer,
        };
        let tensor = Tensor::around(buffer, &[values.len()], Numbers::F32).unwrap();
        let home = tensor.host().unwrap().to_vec1().unwrap();
        // The buffer must not be freed before the copy that nobody waited for.
        copied.synchronize().unwrap();
        home
    };
    assert_eq!(copy(true), values);
    assert!(
        copy(false).iter().all(|x| x.is_nan()),
        "the fault is not seen"
    );
    gpu.synchronize().unwrap();
    emulated("FS_EMULATED_LATE", "");
}

/// A kind of product.
fn kind() -> Kind {
    Kind {
        reads: Reads::Rows,
        columns: 16,
        inner: 8,
        weight_pitch: 8,
        input_pitch: 8,
        output_pitch: 16,
        input: Numbers::Bf16,
        output: Numbers::F32,
        has_bias: true,
        adds: true,
    }
}

#[test]
fn a_plan_that_the_library_fails_to_run_is_refused_and_the_device_goes_on() {
    // CUBLAS_STATUS_INTERNAL_ERROR, of a plan and of the search for plans.
    for failure in ["cublasLtMatmul:1:14", "cublasLtMatmulAlgoGetHeuristic:1:14"] {
        // One that has no plans yet.
        let Some(gpu) = gpu() else { return };
        if !emulated("FS_EMULATED_FAIL", failure) {
            return;
        }
        let matrix = Matrix::new(&gpu, Format::Bf16, &random("w", 24 * 16), 16, 1).unwrap();
        let error = forward(&gpu, &matrix).unwrap_err();
        let refused = matches!(Failure::inside(&error), Some(Failure::Refused { .. }));
        assert!(refused && gpu.lost().is_none(), "{error}");
        assert!(forward(&gpu, &matrix).is_ok());
    }
    // When the driver says that the context is broken, the device is lost.
    let Some(other) = super::gpu() else { return };
    let matrix = Matrix::new(&other, Format::Bf16, &random("w", 24 * 16), 16, 1).unwrap();
    emulated("FS_EMULATED_FAIL", "cublasLtMatmul:1:719");
    assert!(forward(&other, &matrix).is_err());
    emulated("FS_EMULATED_FAIL", "");
}

#[test]
fn a_plan_that_is_refused_after_it_was_chosen_costs_no_result_and_comes_back() {
    // CUBLAS_STATUS_INTERNAL_ERROR and CUBLAS_STATUS_NOT_SUPPORTED.
    for code in [14, 15] {
        let Some(gpu) = gpu() else { return };
        let matrix = Matrix::new(&gpu, Format::Bf16, &random("w", 24 * 16), 16, 1).unwrap();
        let residual = upload(&gpu, "residual", &[2, 5, 24], Numbers::F32);
        let x = upload(&gpu, "x", &[2, 5, 16], Numbers::Bf16);
        let both = || {
            let added = products::project_add(&x, &residual, &matrix, Rows::All, None).unwrap();
            (forward(&gpu, &matrix).unwrap(), floats(&added))
        };
        let expected = both();
        if !emulated("FS_EMULATED_FAIL", &format!("cublasLtMatmul:1:{code}")) {
            return;
        }
        assert_eq!(both(), expected, "the plan is tried once more");
        for _ in 0..2 {
            emulated("FS_EMULATED_FAIL", &format!("cublasLtMatmul:1:{code}:2"));
            let (products, added) = both();
            emulated("FS_EMULATED_FAIL", "");
            for (got, want) in products.iter().zip(&expected.0) {
                assert!((got - want).abs() < 2e-2, "{got}, not {want}");
            }
            for (got, want) in added.iter().zip(&expected.1) {
                assert!((got - want).abs() < 1e-4, "{got}, not {want}");
            }
        }
        let plans = gpu.plans();
        let plain = plans.iter().filter(|plan| plan.contains("plain kernel"));
        assert_eq!(plain.count(), 2, "{plans:?}");
        assert!(gpu.lost().is_none());
        // Whatever the library does now.
        assert_ne!(both().1, expected.1, "the plain kernel has bits of its own");
        // The spell has not ended: each kind's plan rests anew.
        gpu.products().cut_rests_short();
        emulated("FS_EMULATED_FAIL", &format!("cublasLtMatmul:1:{code}:4"));
        let plain = both();
        emulated("FS_EMULATED_FAIL", "");
        assert_eq!(both(), plain);
        // It has: the bits are those before it.
        gpu.products().cut_rests_short();
        assert_eq!(both(), expected);
        let plans = gpu.plans();
        assert!(
            plans.iter().all(|plan| !plan.contains("plain kernel")),
            "{plans:?}"
        );
    }
}

#[test]
fn a_refusal_while_memory_is_short_is_missing_room_and_no_plans_fault() {
    let Some(gpu) = gpu() else { return };
    let matrix = Matrix::new(&gpu, Format::Bf16, &random("w", 24 * 16), 16, 1).unwrap();
    let expected = forward(&gpu, &matrix).unwrap();
    let plans = gpu.plans();
    gpu.synchronize().unwrap();
    let nearly_full = gpu.memory().unwrap().used + (16 << 20);
    if !emulated("FS_EMULATED_MEMORY", &nearly_full.to_string()) {
        return;
    }
    // CUBLAS_STATUS_INTERNAL_ERROR.
    emulated("FS_EMULATED_FAIL", "cublasLtMatmul:1:14:2");
    let error = forward(&gpu, &matrix).unwrap_err();
    let full = Some(&Failure::OutOfMemory { bytes: 0 });
    assert_eq!(Failure::inside(&error), full, "{error}");
    emulated("FS_EMULATED_FAIL", "");
    assert_eq!(forward(&gpu, &matrix).unwrap(), expected);
    assert_eq!(gpu.plans(), plans);
    emulated("FS_EMULATED_MEMORY", "");
    assert!(gpu.lost().is_none());
}

#[test]
fn a_product_without_room_for_its_kernel_is_tried_once_more() {
    let Some(gpu) = gpu() else { return };
    let matrix = Matrix::new(&gpu, Format::Bf16, &random("w", 24 * 16), 16, 1).unwrap();
    let expected = forward(&gpu, &matrix).unwrap();
    let plans = gpu.plans();
    // CUBLAS_STATUS_ALLOC_FAILED.
    if !emulated("FS_EMULATED_FAIL", "cublasLtMatmul:1:3") {
        return;
    }
    assert_eq!(forward(&gpu, &matrix).unwrap(), expected);
    emulated("FS_EMULATED_FAIL", "cublasLtMatmul:1:3:2");
    let error = forward(&gpu, &matrix).unwrap_err();
    let full = Some(&Failure::OutOfMemory { bytes: 0 });
    assert_eq!(Failure::inside(&error), full);
    emulated("FS_EMULATED_FAIL", "");
    assert_eq!(forward(&gpu, &matrix).unwrap(), expected);
    assert_eq!(gpu.plans(), plans, "no plan is given up for that");
    assert!(gpu.lost().is_none());
}

#[test]
fn the_faster_plan_is_taken_only_where_it_changes_no_bit() {
    let Some(gpu) = gpu() else { return };
    let matrix =
        |gpu: &Arc<Gpu>| Matrix::new(gpu, Format::F32, &random("w", 24 * 16), 16, 1).unwrap();
    let product = |gpu: &Arc<Gpu>| {
        let x = upload(gpu, "x", &[2, 5, 16], Numbers::F32);
        let y = products::project(&x, Rows::All, &matrix(gpu), (0..1, None), Numbers::F32);
        floats(&y.unwrap())
    };
    let expected = product(&gpu);
    if !emulated("FS_EMULATED_PLANS", "2") {
        return;
    }
    let kind = Kind {
        input: Numbers::F32,
        ..kind()
    };
    let room = gpu.products().room(&gpu);
    let trial = Trial::new(&gpu, &kind, 5).unwrap();
    let plans = plan::candidates(&kind, trial.most_rows(), room, 4).unwrap();
    let frames = plans.iter().map(|plan| match trial.judged(plan, room) {
        Ok(Verdict::Fits(frame)) => frame,
        other => panic!("{other:?}"),
    });
    let frames: Vec<Tensor> = frames.collect();
    assert_eq!(frames.len(), 2);
    assert!(!crate::ops::cuda::trial::repeats(&frames).unwrap());
    let fastest = trial.fastest_first(plans.clone(), room).unwrap();
    assert_eq!(
        fastest[0].data, plans[1].data,
        "the second seems the faster"
    );
    // A device that chooses anew, as after a restart.
    let other = super::gpu().unwrap();
    assert_eq!(product(&other), expected);
    emulated("FS_EMULATED_PLANS", "");
}

#[test]
fn a_plan_with_wrong_results_is_not_chosen() {
    let Some(gpu) = gpu() else { return };
    for reads in [Reads::Rows, Reads::Columns] {
        for output in [Numbers::F32, Numbers::Bf16] {
            let kind = Kind {
                reads,
                weight_pitch: if reads == Reads::Rows { 8 } else { 24 },
                output,
                adds: output == Numbers::F32,
                // As class rows lie among others.
                output_pitch: 24,
                ..kind()
            };
            let products: &Products = gpu.products();
            let room = products.room(&gpu);
            let mut trial = Trial::new(&gpu, &kind, 1).unwrap();
            let plans = plan::candidates(&kind, trial.most_rows(), room, 4).unwrap();
            let plan = plans.first().unwrap();
            let verdict = trial.judged(plan, room).unwrap();
            assert!(matches!(verdict, Verdict::Fits(_)), "{kind:?}: {verdict:?}");
            trial.expect_otherwise();
            let verdict = trial.judged(plan, room).unwrap();
            assert!(
                matches!(verdict, Verdict::Wrong(_)),
                "{kind:?}: {verdict:?}"
            );
        }
    }
}
