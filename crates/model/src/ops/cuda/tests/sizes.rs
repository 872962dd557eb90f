//! The self-check's comparison with the host at odd sizes, and convolutions of segments that have little in common.

use super::*;
use crate::ops::depthwise::Extent;
use crate::ops::placed::cells::{self, Cells};
use crate::ops::placed::{Array, Convolved, Depthwise, convolve_each};

#[test]
fn every_operation_agrees_with_the_host_at_odd_numbers_of_tokens() {
    let Some(gpu) = gpu() else { return };
    let place = Place::Cuda(gpu);
    // Tokens of a frame: the class token and the squares of these, 2 to 577.
    for (grid, precision) in [
        (1, Precision::F32),
        (2, Precision::Bf16),
        (4, Precision::F32),
        (7, Precision::Bf16),
        (8, Precision::F32),
        (14, Precision::Bf16),
        (16, Precision::F32),
        (24, Precision::Bf16),
    ] {
        let config = BackboneConfig {
            image_size: 2 * grid,
            patch_size: 2,
            mlp_width: 24,
            ..config(16, 2)
        };
        let checked = place.check(&config, precision);
        assert_eq!(checked, Ok(()), "{} tokens", config.tokens());
    }
}

#[test]
fn every_operation_agrees_with_the_host_at_odd_widths() {
    let Some(gpu) = gpu() else { return };
    let place = Place::Cuda(gpu);
    // Widths of heads from 8 to 88, and of the backbone to 1,664.
    for (width, heads, precision) in [
        (8, 1, Precision::Bf16),
        (36, 3, Precision::F32),
        (80, 2, Precision::Bf16),
        (88, 1, Precision::Bf16),
        (192, 3, Precision::Bf16),
        (264, 3, Precision::F32),
        (1664, 26, Precision::Bf16),
    ] {
        let config = BackboneConfig {
            image_size: 4,
            mlp_width: 40,
            ..config(width, heads)
        };
        let checked = place.check(&config, precision);
        assert_eq!(checked, Ok(()), "width {width}, {heads} heads");
    }
}

#[test]
fn convolutions_of_all_segments_at_once_are_each_alone_by_the_bit() {
    let Some(gpu) = gpu() else { return };
    let place = Place::Cuda(gpu.clone());
    let grid = 3;
    // Channels, kernel, frames of a clip, clips, format of operand and result.
    let kinds = [
        (16, [3, 1, 1], 4, 2, Numbers::F32, Numbers::Bf16),
        (5, [3, 1, 1], 4, 1, Numbers::F32, Numbers::F32),
        (8, [3, 1, 1], 4, 1, Numbers::F32, Numbers::Bf16),
        (8, [7, 5, 5], 4, 1, Numbers::F32, Numbers::Bf16),
        (24, [3, 3, 3], 4, 3, Numbers::F32, Numbers::Bf16),
        (16, [1, 1, 1], 2, 1, Numbers::F32, Numbers::Bf16),
        (16, [3, 1, 1], 2, 1, Numbers::F32, Numbers::Bf16),
        (7, [3, 3, 3], 4, 1, Numbers::F32, Numbers::F32),
        (16, [3, 1, 1], 4, 1, Numbers::Bf16, Numbers::Bf16),
        // A segment of none.
        (16, [3, 1, 1], 4, 0, Numbers::F32, Numbers::Bf16),
    ];
    let mut own = Vec::new();
    for (number, (channels, kernel, frames, clips, read, written)) in kinds.into_iter().enumerate()
    {
        let name = |what: &str| format!("{what} {number}");
        let taps: usize = kernel.iter().product();
        let weight = upload(&gpu, &name("taps"), &[channels * taps], Numbers::F32);
        let bias = upload(&gpu, &name("bias"), &[channels], Numbers::F32);
        let (weight, bias) = (Array::Cuda(weight), Array::Cuda(bias));
        let weights = Depthwise::new(&weight, &bias, kernel, &place).unwrap();
        let dims = [frames * clips, grid * grid, channels];
        let x = Array::Cuda(upload(&gpu, &name("x"), &dims, read));
        own.push((weights, x, Extent { frames, grid }, written));
    }
    let segments: Vec<Convolved<'_>> = own
        .iter()
        .map(|(weights, x, extent, numbers)| Convolved {
            weights,
            x,
            extent: *extent,
            numbers: *numbers,
        })
        .collect();
    let bits = |x: &Array| -> Vec<u32> {
        let Array::Cuda(x) = x else {
            panic!("not on the device")
        };
        floats(x).iter().map(|x| x.to_bits()).collect()
    };
    for run in [&segments[..], &segments[3..], &segments[..1], &[]] {
        let all = convolve_each(run).unwrap();
        assert_eq!(all.len(), run.len());
        for (one, got) in run.iter().zip(&all) {
            let alone = one.weights.forward(one.x, one.extent, one.numbers).unwrap();
            assert_eq!(got.dims(), one.x.dims());
            assert_eq!(bits(got), bits(&alone));
        }
    }
    // Sixty-four sets of one kind.
    let many: Vec<Convolved<'_>> = (0..64).map(|_| segments[2]).collect();
    for got in convolve_each(&many).unwrap() {
        let one = &many[0];
        let alone = one.weights.forward(one.x, one.extent, one.numbers).unwrap();
        assert_eq!(bits(&got), bits(&alone));
    }
}

#[test]
fn cells_have_the_bits_of_the_host() {
    let Some(gpu) = gpu() else { return };
    for (grid, side, c) in [(1, 1, 3), (3, 3, 8), (7, 4, 5), (14, 4, 16)] {
        let of = Cells { grid, side };
        let x = Array::Cuda(upload(&gpu, "x", &[3, of.tokens(), c], Numbers::F32));
        let dy = Array::Cuda(upload(&gpu, "dy", &[3 * of.rows(), c], Numbers::F32));
        for (run, own) in [
            (cells::means as fn(&Array, Cells) -> Result<Array>, &x),
            (cells::spread, &dy),
        ] {
            let there = run(own, of).unwrap().host().unwrap();
            let here = run(&Array::Host(own.host().unwrap()), of).unwrap();
            let here = here.host().unwrap();
            assert_eq!(there.dims(), here.dims());
            let values = |x: candle_core::Tensor| -> Vec<f32> {
                x.flatten_all().unwrap().to_vec1().unwrap()
            };
            assert_eq!(values(there), values(here), "{of:?}");
        }
    }
}
