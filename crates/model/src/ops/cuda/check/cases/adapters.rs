//! The operations of adapters: their products, by segment and alone, and their convolutions.

use candle_core::Result;

use super::{FRAMES, Sizes, input, random, vector, weight};
use crate::ops::depthwise::Extent;
use crate::ops::placed::linear::{self, Each, Options, Rows};
use crate::ops::placed::{Array, Convolved, Depthwise, Matrix, Vector, convolve_each};
use crate::ops::{Numbers, Place};

/// Both products and the convolution of two segments' adapters, each with weights of its own, for either width.
pub(super) fn grouped(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let mut results = Vec::new();
    for adapter in sizes.adapters() {
        results.extend(grouped_of(adapter, sizes, place)?);
    }
    Ok(results)
}

fn grouped_of(adapter: usize, sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let width = sizes.width();
    let x = input("x", &sizes.stream(), Numbers::F32, place)?;
    let down = |name| weight(name, (adapter, width), 1, sizes, place);
    let up = |name| weight(name, (width, adapter), 1, sizes, place);
    let (downs, ups) = ([down("a")?, down("b")?], [up("c")?, up("d")?]);
    let short = [vector("e", adapter, place)?, vector("f", adapter, place)?];
    let long = [vector("g", width, place)?, vector("h", width, place)?];
    let frames = [0..FRAMES[0], FRAMES[0]..sizes.frames()];
    let first = parts(&frames, &downs, &short);
    let second = parts(&frames, &ups, &long);
    let hidden = linear::project_each(&x, &first)?;
    let added = linear::project_add_each(&hidden, &x, &second)?;
    // As frozen adapters do it: the second product reads what the convolution has rounded.
    let reads = Numbers::read_by(ups[0].format());
    let convolutions = [
        taps("i", adapter, [3, 1, 1], place)?,
        taps("j", adapter, [3, 1, 1], place)?,
    ];
    let convolved = (0..2).map(|i| Convolved {
        weights: &convolutions[i],
        x: &hidden[i],
        extent: Extent {
            frames: 1,
            grid: sizes.config.grid(),
        },
        numbers: reads,
    });
    let mixed = convolve_each(&convolved.collect::<Vec<_>>())?;
    let served = linear::project_add_each(&mixed, &x, &second)?;
    Ok(hidden
        .into_iter()
        .chain(mixed)
        .chain([added, served])
        .collect())
}

/// Returns one layer of each segment.
fn parts<'a>(
    frames: &[std::ops::Range<usize>; 2],
    weights: &'a [Matrix; 2],
    biases: &'a [Vector; 2],
) -> Vec<Each<'a>> {
    let of = |i: usize| Each {
        frames: frames[i].clone(),
        weight: &weights[i],
        bias: Some(&biases[i]),
    };
    vec![of(0), of(1)]
}

/// The gradients of both products of an adapter, over patch rows.
pub(super) fn grouped_backward(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let (width, mut results) = (sizes.width(), Vec::new());
    let dy = input("dy", &sizes.stream(), Numbers::F32, place)?;
    for adapter in sizes.adapters() {
        let up = weight("up", (width, adapter), 1, sizes, place)?.transposed(0..1);
        let down = weight("down", (adapter, width), 1, sizes, place)?.transposed(0..1);
        let narrow = linear::project(&dy, &up, Rows::Patches, Options::default())?;
        results.push(linear::project_add(
            &narrow,
            &dy,
            &down,
            Rows::Patches,
            None,
        )?);
        results.push(narrow);
    }
    Ok(results)
}

/// Returns a convolution of random taps.
fn taps(name: &str, channels: usize, kernel: [usize; 3], place: &Place) -> Result<Depthwise> {
    let count: usize = kernel.iter().product();
    let dims = [channels, 1, kernel[0], kernel[1], kernel[2]];
    let weight = Array::of(random(name, channels * count, 0.5), dims.as_slice())?;
    let bias = Array::of(random("bias", channels, 1.0), channels)?;
    Depthwise::new(&weight.to(place)?, &bias.to(place)?, kernel, place)
}

pub(super) fn convolution(sizes: &Sizes<'_>, place: &Place) -> Result<Vec<Array>> {
    let grid = sizes.config.grid();
    let mut results = Vec::new();
    let [usual, odd] = sizes.adapters();
    for (channels, kernel) in [(usual, [3, 1, 1]), (usual, [3, 3, 3]), (odd, [3, 3, 3])] {
        let own = taps("taps", channels, kernel, place)?;
        let frames = FRAMES[0];
        let extent = Extent { frames, grid };
        let dims = [frames, grid * grid, channels];
        let of = |name| input(name, &dims, Numbers::F32, place);
        let (x, dy) = (of("x")?, of("dy")?);
        results.push(own.forward(&x, extent, Numbers::F32)?);
        results.push(own.forward(&x, extent, sizes.numbers)?);
        results.push(own.backward(&dy, extent)?);
        let (weight, bias) = own.weight_gradient(&x, &dy, extent, None)?;
        results.extend([weight, bias]);
    }
    Ok(results)
}
