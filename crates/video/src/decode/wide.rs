//! Makes views of pictures with the widest vectors that this processor has.
//!
//! Invariant: the same operations in the same order whatever the width (no fused ones), so that every processor gives the same bits.

#![allow(unsafe_code)]

use crate::spec::Normalization;
use crate::transform::{Planes, Rgb, View};

/// Writes the view of a picture as one frame of `planes`, as [`View::write`] does.
pub fn write(
    view: &View,
    picture: Rgb<'_>,
    normalization: &Normalization,
    planes: Planes<'_>,
    row: &mut Vec<f32>,
) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { write_avx2(view, picture, normalization, planes, row) };
    }
    view.write(picture, normalization, planes, row);
}

/// [`View::write`], which is inlined here, compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn write_avx2(
    view: &View,
    picture: Rgb<'_>,
    normalization: &Normalization,
    planes: Planes<'_>,
    row: &mut Vec<f32>,
) {
    view.write(picture, normalization, planes, row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Views;
    use crate::rng::Stream;
    use crate::transform::plan;

    #[test]
    fn every_width_of_vectors_gives_the_same_bits() {
        let mut random = Stream::new(5, "pixels");
        for size in [(340, 256), (97, 61), (5, 300), (64, 64)] {
            let bytes: Vec<u8> = (0..size.0 * size.1 * 3)
                .map(|_| random.bits() as u8)
                .collect();
            let picture = Rgb {
                bytes: &bytes,
                stride: size.0 * 3,
                width: size.0,
                height: size.1,
            };
            for view in plan(&Views::Corners, size, 56) {
                let mut values = [vec![0.0_f32; 3 * 56 * 56], vec![0.0; 3 * 56 * 56]];
                for (wide, values) in values.iter_mut().enumerate() {
                    let planes = Planes {
                        values,
                        frames: 1,
                        frame: 0,
                    };
                    let mut row = Vec::new();
                    if wide == 1 {
                        write(&view, picture, &Normalization::CLIP, planes, &mut row);
                    } else {
                        view.write(picture, &Normalization::CLIP, planes, &mut row);
                    }
                }
                assert!(values[0] == values[1], "{size:?}");
            }
        }
    }
}
