//! Tests of bfloat16 between kernels: reading it gives the result of the same values as floats, and writing it gives the rounded float.

use candle_core::{DType, Tensor};

use super::{random, values};
use crate::Activation;
use crate::ops::attention::{self, How};
use crate::ops::isa::Isa;
use crate::ops::linear::{self, Options, Rows};
use crate::ops::norm::{self, Norm};
use crate::ops::{Format, Numbers, Packed, gelu};

const FORMATS: [Format; 3] = [Format::F32, Format::Bf16, Format::Int8];
const NUMBERS: [Numbers; 2] = [Numbers::F32, Numbers::Bf16];

/// Returns values as bfloat16, and those as floats.
fn narrowed(x: &Tensor) -> (Tensor, Tensor) {
    let narrow = x.to_dtype(DType::BF16).expect("bfloat16");
    let floats = narrow.to_dtype(DType::F32).expect("floats");
    (narrow, floats)
}

/// Asserts that a result equals the expected one, in this number format.
fn assert_same(what: &str, got: &Tensor, want: &Tensor, numbers: Numbers) {
    assert_eq!(got.dtype(), numbers.dtype(), "{what}");
    assert_eq!(got.dims(), want.dims(), "{what}");
    let want = want.to_dtype(numbers.dtype()).expect("numbers");
    let floats = |x: &Tensor| values(&x.to_dtype(DType::F32).expect("floats"));
    assert_eq!(floats(got), floats(&want), "{what}");
}

#[test]
fn linear_layers_read_and_write_it() {
    for (n, l, k, out) in [(1, 5, 7, 33), (2, 17, 48, 50), (2, 50, 19, 15)] {
        let (narrow, floats) = narrowed(&random("x", &[n, l, k]));
        let (w, bias) = (
            values(&random("w", &[out, k])),
            values(&random("b", &[out])),
        );
        for format in FORMATS {
            let packed = Packed::new(format, &w, k, 1);
            for packed in Isa::ALL.iter().filter_map(|&isa| packed.clone().on(isa)) {
                let options = |numbers, activation| Options {
                    bias: Some(&bias),
                    activation,
                    sections: None,
                    numbers,
                };
                for rows in [Rows::All, Rows::Patches, Rows::Class] {
                    let plain = options(Numbers::F32, None);
                    let want = linear::project(&floats, &packed, rows, plain).expect("a product");
                    for numbers in NUMBERS {
                        let own = options(numbers, None);
                        let got = linear::project(&narrow, &packed, rows, own).expect("a product");
                        assert_same("project", &got, &want, numbers);
                    }
                }
                let gelu = Some(Activation::QuickGelu);
                let project = |activation| {
                    let options = options(Numbers::F32, activation);
                    linear::project(&floats, &packed, Rows::All, options).expect("a product")
                };
                let wants = [project(None), project(gelu)];
                for (first, numbers) in NUMBERS.into_iter().zip([Numbers::Bf16, Numbers::F32]) {
                    let own = options(numbers, gelu);
                    let (before, after) =
                        linear::project_both(&narrow, &packed, own, first).expect("products");
                    assert_same("before", &before, &wants[0], first);
                    assert_same("after", &after, &wants[1], numbers);
                }
                let r = random("r", &[n, l, out]);
                let add = |x| linear::project_add(x, &r, &packed, Rows::All, None).expect("a sum");
                assert_same("sum", &add(&narrow), &add(&floats), Numbers::F32);
            }
        }
    }
}

#[test]
fn attention_reads_and_writes_it() {
    for (n, l, heads, d) in [(1, 1, 1, 1), (2, 17, 2, 7), (1, 50, 3, 16), (1, 197, 1, 64)] {
        let c = heads * d;
        let (narrow, floats) = narrowed(&random("qkv", &[n, l, 3 * c]));
        let dy = random("dy", &[n, l, c]);
        let (q, q_floats) = narrowed(&random("q", &[n, c]));
        let (kv, kv_floats) = narrowed(&random("kv", &[n, l, 2 * c]));
        let d_class = random("dy", &[n, c]);
        for format in [Format::F32, Format::Bf16] {
            let how = |numbers| How {
                heads,
                format,
                numbers,
            };
            let plain = how(Numbers::F32);
            for numbers in NUMBERS {
                let want = attention::forward(&floats, plain).expect("attention");
                let got = attention::forward(&narrow, how(numbers)).expect("attention");
                assert_same("attention", &got, &want, numbers);
                let want = attention::backward(&floats, &dy, plain).expect("a gradient");
                let got = attention::backward(&narrow, &dy, how(numbers)).expect("a gradient");
                assert_same("its gradient", &got, &want, numbers);
                let want = attention::class_forward(&q_floats, &kv_floats, plain);
                let got = attention::class_forward(&q, &kv, how(numbers)).expect("attention");
                assert_same("class attention", &got, &want.expect("attention"), numbers);
                let want = attention::class_backward(&q_floats, &kv_floats, &d_class, plain);
                let want = want.expect("gradients");
                let got = attention::class_backward(&q, &kv, &d_class, how(numbers));
                let got = got.expect("gradients");
                assert_same("dq", &got.0, &want.0, numbers);
                assert_same("dkv", &got.1, &want.1, numbers);
            }
        }
    }
}

#[test]
fn norms_write_it_and_activations_go_back_from_it() {
    let x = random("x", &[35, 50]);
    let norm = Norm {
        weight: values(&random("w", &[50])),
        bias: values(&random("b", &[50])),
        eps: 1e-5,
    };
    let want = norm::forward(&x, &norm, Numbers::F32).expect("a norm");
    let got = norm::forward(&x, &norm, Numbers::Bf16).expect("a norm");
    assert_same("norm", &got, &want, Numbers::Bf16);
    let (narrow, floats) = narrowed(&random("hidden", &[3, 7001]));
    let dy = random("dy", &[3, 7001]);
    for activation in [Activation::QuickGelu, Activation::Gelu] {
        let want = gelu::backward(&floats, &dy, activation, Numbers::F32).expect("a gradient");
        for numbers in NUMBERS {
            let got = gelu::backward(&narrow, &dy, activation, numbers).expect("a gradient");
            assert_same("activation's gradient", &got, &want, numbers);
        }
    }
}
