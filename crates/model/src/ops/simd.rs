//! Loops that the compiler vectorises, compiled three times: for AVX-512 and for AVX2 with FMA, chosen at run time, and for the baseline CPU.
#![allow(unsafe_code)]

/// Whether baseline code for this architecture has fused multiply-add; without it, a call of the library's function costs more than the loop.
pub(super) const ANY_FUSES: bool = cfg!(target_arch = "aarch64");

/// Defines functions whose bodies are compiled for all three targets. In the bodies, `FUSES` is true when the CPU has fused multiply-add.
macro_rules! wide {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[allow(unsafe_code)]
        $vis fn $name($($arg: $kind),*) $(-> $result)? {
            #[inline(always)]
            fn body<const FUSES: bool>($($arg: $kind),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
                fn on_avx512($($arg: $kind),*) $(-> $result)? {
                    body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn on_avx2($($arg: $kind),*) $(-> $result)? {
                    body::<true>($($arg),*)
                }
                if $crate::ops::isa::is_widest() {
                    // SAFETY: the CPU has all these features.
                    return unsafe { on_avx512($($arg),*) };
                }
                if $crate::ops::isa::is_wide() {
                    // SAFETY: the CPU has both features.
                    return unsafe { on_avx2($($arg),*) };
                }
            }
            body::<{ $crate::ops::simd::ANY_FUSES }>($($arg),*)
        }
    )*};
}
pub(super) use wide;

/// Returns the same row, opaque to the compiler, which then vectorises over its columns and not over one column of several rows, for which it would
/// have to gather.
#[inline(always)]
pub(super) fn alone<const N: usize>(row: &mut [f32; N]) -> &mut [f32; N] {
    std::hint::black_box(row)
}

/// Number of partial sums; fixed, so that the order of a sum does not depend on the CPU.
pub(super) const LANES: usize = 16;

/// Computes a · b + c, with one rounding where the CPU has fused multiply-add.
#[inline(always)]
fn multiply_add<const FUSES: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSES { a.mul_add(b, c) } else { a * b + c }
}

/// Evaluates a polynomial, given by its coefficients from the highest one on.
#[inline(always)]
fn polynomial<const FUSES: bool>(x: f32, coefficients: &[f32]) -> f32 {
    let mut sum = 0.0;
    for (i, &c) in coefficients.iter().enumerate() {
        sum = if i == 0 {
            c
        } else {
            multiply_add::<FUSES>(sum, x, c)
        };
    }
    sum
}

/// -ln 2 in two parts, of which the first has few bits.
pub(super) const LN_2: [f32; 2] = [-0.693_359_4, 2.121_944_4e-4];

/// Coefficients of (e^r - 1 - r) / r², from the highest on (Cephes).
pub(super) const EXP: [f32; 6] = [
    1.987_569_1e-4,
    1.398_2e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// Computes e^x within 2 ulp (Cephes' polynomial); NaN stays NaN.
#[inline(always)]
pub(super) fn exp<const FUSES: bool>(x: f32) -> f32 {
    // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer without an SSE 4.1 instruction.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let shifted = multiply_add::<FUSES>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add::<FUSES>(n, LN_2[0], x);
    let r = multiply_add::<FUSES>(n, LN_2[1], r);
    let p = polynomial::<FUSES>(r, &EXP);
    let y = multiply_add::<FUSES>(p * r, r, r) + 1.0;
    // The lowest bits of 1.5 · 2^23 + n are n: no conversion, which would have to saturate. For a NaN they are arbitrary, and y carries the NaN.
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000))
}

/// Numerator of the error function's approximation, divided by x, as a polynomial of x².
pub(super) const ERF_ABOVE: [f32; 7] = [
    -2.726_142_3e-10,
    2.770_681_4e-8,
    -2.101_024e-6,
    -5.692_506_4e-5,
    -7.349_906_3e-4,
    -2.954_6e-3,
    -1.609_603_3e-2,
];

/// Denominator of the same.
pub(super) const ERF_BELOW: [f32; 5] = [
    -1.456_607_2e-5,
    -2.133_740_6e-4,
    -1.682_827e-3,
    -7.373_329e-3,
    -1.426_473_9e-2,
];

/// Computes the error function within 4 ulp (Eigen's rational approximation); NaN stays NaN.
#[inline(always)]
pub(super) fn erf<const FUSES: bool>(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    x * polynomial::<FUSES>(s, &ERF_ABOVE) / polynomial::<FUSES>(s, &ERF_BELOW)
}

/// Adds up the partial sums, in their order.
#[inline(always)]
pub(super) fn total(lanes: [f32; LANES]) -> f32 {
    let mut sum = 0.0;
    for lane in lanes {
        sum += lane;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_and_error_functions_are_close_whether_the_cpu_fuses_or_not() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            for got in [exp::<true>(x), exp::<false>(x)] {
                let error = (f64::from(got) - want).abs() / want;
                assert!(error < 3e-7, "e^{x} is {got}, want {want}");
            }
            let (one, two) = (erf::<true>(x / 10.0), erf::<false>(x / 10.0));
            assert!((one - two).abs() <= 4e-7, "erf({}): {one}, {two}", x / 10.0);
        }
        // Values from tables of the function.
        for (x, want) in [
            (0.0, 0.0),
            (0.5, 0.520_499_9),
            (1.0, 0.842_700_8),
            (2.0, 0.995_322_3),
            (-5.0, -1.0),
        ] {
            assert!((erf::<true>(x) - want).abs() < 5e-7);
        }
        assert!(exp::<true>(f32::NAN).is_nan() && erf::<true>(f32::NAN).is_nan());
        assert!(exp::<false>(f32::NAN).is_nan() && erf::<false>(f32::NAN).is_nan());
    }
}
