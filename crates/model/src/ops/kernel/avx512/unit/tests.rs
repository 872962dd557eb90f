//! Units of floats with packed rows and with rows in place, whether or not the CPU's orders choose them.

use super::*;
use crate::Activation;
use crate::ops::isa::{self, Isa};
#[cfg(target_os = "linux")]
use crate::ops::kernel::amx::emulator;
use crate::ops::kernel::avx512::is_amd;
use crate::ops::kernel::unit::{Stays, Target};
use crate::ops::kernel::{Kernel, Left};
use crate::ops::packed::Place;
use crate::rng::Stream;

#[test]
fn packed_rows_give_the_bits_of_rows_in_place() {
    if !Isa::Avx512.runs(Format::F32) || !isa::is_widest() {
        return;
    }
    let mut stream = Stream::new(8, "units");
    for (rows, words, n) in [(3, 64, 40), (8, 33, 16), (29, 768, 70), (37, 1600, 100)] {
        let mut values =
            |count: usize| -> Vec<f32> { (0..count).map(|_| stream.normal()).collect() };
        let count = usize::div_ceil(n, NR);
        let (x, bias) = (values(rows * words), values(n));
        let (residual, panels) = (values(rows * n), values(count * words * NR));
        let panels: Vec<u32> = panels.iter().map(|value| value.to_bits()).collect();
        let places: Vec<Place> = (0..count)
            .map(|p| Place {
                column: p * NR,
                width: NR.min(n - p * NR),
            })
            .collect();
        let run = |is_packed: bool, stays: Stays| {
            let mut y = vec![0.0_f32; rows * n];
            let unit = Unit {
                stays,
                words,
                left: Left::floats(x.as_ptr(), words, 1),
                rows,
                panels: &panels,
                places: &places,
                columns: &[],
                scales: &[],
                bias: Some(&bias),
                activation: Some(Activation::QuickGelu),
                first_column: 0,
                residual: Some(residual.as_ptr()),
                before: None,
                y: Target::F32(y.as_mut_ptr()),
                stride: n,
            };
            // SAFETY: the operands and the result have these sizes.
            unsafe {
                if is_packed {
                    F32s.unit(&unit, &mut Vec::new());
                } else {
                    in_place::<F32s>(&unit, Format::F32);
                }
            }
            y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let want = run(false, Stays::Rows);
        assert_eq!(run(false, Stays::Panels), want);
        assert_eq!(run(true, Stays::Rows), want);
    }
}

#[test]
fn floats_are_packed_on_intels_cpus_and_on_the_emulated_one() {
    let Some(kernel) = Kernel::on(Format::F32, Isa::Avx512).filter(|_| isa::is_widest()) else {
        return;
    };
    let (order, _) = kernel.order(768, true);
    let is_packed = kernel.units(768).is_some() && order.tile == PACKED;
    assert_eq!(is_packed, !is_amd());
    #[cfg(target_os = "linux")]
    if emulator::is_installed() {
        assert!(is_packed);
    }
}
