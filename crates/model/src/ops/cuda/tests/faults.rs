//! What goes wrong on a device, on purpose: nothing of it is lost, or taken for something else.

use super::walk::{adapters, backbone, bits, clip, logits, set, train};
use super::*;
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

/// Calls `run` with the n-th call of a function of the driver failing, for every n that it reaches. Returns how many there were.
fn at_every_call(call: &str, mut run: impl FnMut() -> std::result::Result<(), Error>) -> usize {
    for n in 1.. {
        emulated("FS_EMULATED_FAIL", &format!("{call}:{n}:2"));
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
            assert!(matches!(verdict, Verdict::Fits), "{kind:?}: {verdict:?}");
            trial.expect_otherwise();
            let verdict = trial.judged(plan, room).unwrap();
            assert!(
                matches!(verdict, Verdict::Wrong(_)),
                "{kind:?}: {verdict:?}"
            );
        }
    }
}
