//! The choice between a fused product and the product and activation apart, with kernels that the tests make: right ones, and each way to be wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::ops::Format;
use crate::ops::cuda::products;
use crate::ops::linear::Rows;
use crate::rng::Stream;

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

/// What is wrong with a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Nothing,
    /// It does not start.
    Refuses,
    /// It does not start this many times.
    RefusesFirst(usize),
    /// It forgets the bias, or multiplies by the wrong slope.
    Wrong,
    /// Its last row is not written.
    Short,
    /// It computes large batches another way than small ones.
    Large,
}

/// Returns the kernel that ends a product whose sums are in this format.
fn end_of(shape: &Shape, numbers: Numbers, fault: Fault) -> &'static str {
    match (shape.way, shape.activation, numbers) {
        (Way::Forward, Activation::Gelu, Numbers::F32) => "gelu_f32_bf16",
        (Way::Forward, Activation::Gelu, Numbers::Bf16) => "gelu_bf16_bf16",
        (Way::Forward, Activation::QuickGelu, Numbers::F32) => "quick_gelu_f32_bf16",
        (Way::Forward, Activation::QuickGelu, Numbers::Bf16) => "quick_gelu_bf16_bf16",
        (Way::Backward, _, Numbers::F32) if fault == Fault::Wrong => "gelu_backward_f32_f32_bf16",
        (Way::Backward, Activation::Gelu, Numbers::F32) => "gelu_backward_bf16_f32_bf16",
        (Way::Backward, Activation::Gelu, Numbers::Bf16) => "gelu_backward_bf16_bf16_bf16",
        (Way::Backward, Activation::QuickGelu, Numbers::F32) => "quick_gelu_backward_bf16_f32_bf16",
        (Way::Backward, Activation::QuickGelu, Numbers::Bf16) => {
            "quick_gelu_backward_bf16_bf16_bf16"
        }
    }
}

/// A fused product out of plain kernels: correct, if slow.
struct Planted {
    fault: Fault,
    calls: Arc<AtomicUsize>,
}

impl Epilogues for Planted {
    fn run(
        &self,
        gpu: &Arc<Gpu>,
        shape: &Shape,
        rows: usize,
        operands: Operands,
    ) -> std::result::Result<(), String> {
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        let refuses = match self.fault {
            Fault::Refuses => true,
            Fault::RefusesFirst(times) => before < times,
            Fault::Nothing | Fault::Wrong | Fault::Short | Fault::Large => false,
        };
        if refuses {
            return Err("it has no mind to".to_owned());
        }
        let Shape { columns, inner, .. } = *shape;
        let is_forward = shape.way == Way::Forward;
        let own = rows - usize::from(self.fault == Fault::Short);
        let numbers = match self.fault == Fault::Large && rows > 7 {
            true => Numbers::Bf16,
            false => Numbers::F32,
        };
        let words = |error: candle_core::Error| error.to_string();
        let mut sums = Tensor::unfilled(gpu, numbers, &[rows, columns]).map_err(words)?;
        let plain = match numbers {
            Numbers::F32 => "plain_bf16_f32",
            Numbers::Bf16 => "plain_bf16_bf16",
        };
        let bias = match is_forward && self.fault != Fault::Wrong {
            true => operands.beside,
            false => 0,
        };
        let (row, step) = match is_forward {
            true => (inner, 1),
            false => (1, columns),
        };
        let product = gpu.launch(plain).grid([columns.div_ceil(256), own, 1]);
        product
            .threads(256)
            .value(operands.input)
            .value(operands.weight)
            .write(&mut sums)
            .value(bias)
            .value(0_u64)
            .int(columns)
            .int(inner)
            .long(inner)
            .long(1)
            .long(row)
            .long(step)
            .run()
            .map_err(words)?;
        let count = own * columns;
        let end = end_of(shape, numbers, self.fault);
        let launch = gpu
            .launch(end)
            .grid([count.div_ceil(8).div_ceil(256), 1, 1])
            .threads(256);
        let launch = match (is_forward, self.fault) {
            (true, _) => launch.read(&sums).value(0_u64),
            // The sums take the place of the values before the activation.
            (false, Fault::Wrong) => launch.read(&sums).read(&sums),
            (false, _) => launch.value(operands.beside).read(&sums),
        };
        launch
            .value(operands.output)
            .long(count)
            .run()
            .map_err(words)
    }
}

fn planted(fault: Fault) -> (Fused, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let kernels = Planted {
        fault,
        calls: calls.clone(),
    };
    (Fused::of(Some(Box::new(kernels))), calls)
}

/// Fused products of plain kernels that are used for these shapes, whatever the time that they take.
pub(in crate::ops::cuda) fn used(shapes: impl IntoIterator<Item = Shape>) -> Fused {
    let (fused, _) = planted(Fault::Nothing);
    shapes
        .into_iter()
        .for_each(|shape| choose_it(&fused, shape));
    fused
}

/// Has a shape computed in one kernel, whatever the time that it takes.
fn choose_it(fused: &Fused, shape: Shape) {
    let chosen = Chosen::new(decided([1.0, 2.0]));
    lock(&fused.choices).insert(shape, chosen);
}

const COLUMNS: usize = 48;
const INNER: usize = 24;
const FRAME: usize = 5;

fn shapes() -> Vec<Shape> {
    let both = [Activation::Gelu, Activation::QuickGelu];
    let shape = |way| {
        both.map(|activation| Shape {
            way,
            activation,
            columns: COLUMNS,
            inner: INNER,
        })
    };
    [shape(Way::Forward), shape(Way::Backward)].concat()
}

fn random(gpu: &Arc<Gpu>, name: &str, dims: &[usize]) -> Tensor {
    let mut stream = Stream::new(0, name);
    let values: Vec<f32> = (0..dims.iter().product())
        .map(|_| stream.range(-1.0, 1.0))
        .collect();
    Tensor::upload(gpu, &values, dims).unwrap()
}

/// Operands of a shape, three frames of them, and the result that product and activation give apart.
fn operands(gpu: &Arc<Gpu>, shape: &Shape) -> ([Tensor; 3], Tensor) {
    let narrow = |name, dims: &[usize]| random(gpu, name, dims).cast(Numbers::Bf16).unwrap();
    let x = narrow("x", &[3, FRAME, INNER]);
    let act = shape.activation;
    match shape.way {
        Way::Forward => {
            let w: Vec<f32> = random(gpu, "w", &[COLUMNS * INNER])
                .host()
                .unwrap()
                .to_vec1()
                .unwrap();
            let matrix = Matrix::new(gpu, Format::Bf16, &w, INNER, 1).unwrap();
            let bias = random(gpu, "bias", &[COLUMNS]);
            let y = products::project(&x, Rows::All, &matrix, (0..1, Some(&bias)), Numbers::F32);
            let y = crate::ops::cuda::activation::forward(&y.unwrap(), act, Numbers::F32).unwrap();
            ([x, matrix.values().clone(), bias], y)
        }
        Way::Backward => {
            let w: Vec<f32> = random(gpu, "w", &[COLUMNS * INNER])
                .host()
                .unwrap()
                .to_vec1()
                .unwrap();
            let matrix = Matrix::new(gpu, Format::Bf16, &w, COLUMNS, 1).unwrap();
            let before = narrow("before", &[3, FRAME, COLUMNS]);
            let view = matrix.transposed(0..1);
            let d = products::project(&x, Rows::All, &view, (0..1, None), Numbers::F32).unwrap();
            let dx =
                crate::ops::cuda::activation::backward(&before, &d, act, Numbers::F32).unwrap();
            ([x, matrix.values().clone(), before], dx)
        }
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let host = tensor.cast(Numbers::F32).unwrap().host().unwrap();
    host.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asks for a product of three frames.
fn compute(gpu: &Arc<Gpu>, fused: &Fused, shape: &Shape) -> Option<Tensor> {
    let (own, _) = operands(gpu, shape);
    let dims = [3, FRAME, COLUMNS];
    fused
        .compute(gpu, shape, (3 * FRAME, FRAME), &dims, || Ok(own))
        .unwrap()
}

#[test]
fn a_kernel_that_is_wrong_is_not_used_and_the_reason_is_said() {
    let Some(gpu) = gpu() else { return };
    for (fault, words) in [
        (Fault::Refuses, "it has no mind to"),
        (Fault::Wrong, "the one kernel is wrong: distance"),
        (Fault::Short, "the one kernel is wrong: value"),
        (Fault::Large, "bits depend on the number of rows"),
    ] {
        for shape in shapes() {
            let (fused, calls) = planted(fault);
            assert!(
                compute(&gpu, &fused, &shape).is_none(),
                "{fault:?} {shape:?}"
            );
            let plans = fused.plans();
            assert!(
                matches!(plans.as_slice(), [plan] if plan.contains("apart: ") && plan.contains(words)),
                "{fault:?}: {plans:?}"
            );
            let tried = calls.load(Ordering::Relaxed);
            assert!(compute(&gpu, &fused, &shape).is_none());
            assert_eq!(calls.load(Ordering::Relaxed), tried, "decided once");
        }
    }
    assert!(gpu.lost().is_none());
}

#[test]
fn a_kernel_that_is_right_is_used_when_it_is_faster() {
    let Some(gpu) = gpu() else { return };
    for shape in shapes() {
        let (fused, _) = planted(Fault::Nothing);
        let trial = Trial::new(&gpu, &shape, FRAME).unwrap();
        let kernels = fused.kernels.as_deref().unwrap();
        assert_eq!(trial.problem(kernels).unwrap(), None, "{shape:?}");
        assert!(
            trial
                .micros(kernels)
                .unwrap()
                .iter()
                .all(|took| *took > 0.0)
        );
        assert!(
            matches!(decided([3.0, 2.0]), Choice::Apart(why) if why.contains("not faster: 3.0"))
        );
        assert!(matches!(decided([1.99, 2.0]), Choice::Apart(_)));
        choose_it(&fused, shape);
        let got = compute(&gpu, &fused, &shape).expect("in one kernel");
        assert_eq!(
            (got.dims(), got.numbers()),
            (&[3, FRAME, COLUMNS][..], Numbers::Bf16)
        );
        let (_, expected) = operands(&gpu, &shape);
        assert_eq!(
            super::trial::far_apart(&expected, &got).unwrap(),
            None,
            "{shape:?}"
        );
        assert!(floats(&got).iter().all(|value| value.is_finite()));
        let plans = fused.plans();
        assert!(
            plans[0].contains("in one kernel, 1.0 µs, apart 2.0 µs"),
            "{plans:?}"
        );
    }
}

#[test]
fn a_kernel_that_refuses_after_it_was_chosen_costs_no_result_and_comes_back() {
    let Some(gpu) = gpu() else { return };
    for shape in shapes() {
        let (fused, calls) = planted(Fault::RefusesFirst(4));
        choose_it(&fused, shape);
        let cut_short = || {
            let mut choices = lock(&fused.choices);
            let all = choices.values_mut();
            all.for_each(|chosen| chosen.rest.cut_short());
        };
        for tried in [2, 4] {
            assert!(compute(&gpu, &fused, &shape).is_none(), "{shape:?}");
            assert!(gpu.lost().is_none());
            let plans = fused.plans();
            let words =
                "apart: the one kernel refused a call: it has no mind to; it is tried again in ";
            assert!(
                matches!(plans.as_slice(), [plan] if plan.contains(words)),
                "{plans:?}"
            );
            assert!(compute(&gpu, &fused, &shape).is_none());
            assert_eq!(calls.load(Ordering::Relaxed), tried, "not while it rests");
            cut_short();
        }
        let got = compute(&gpu, &fused, &shape).expect("in one kernel again");
        let (_, expected) = operands(&gpu, &shape);
        let distance = super::trial::far_apart(&expected, &got).unwrap();
        assert_eq!(distance, None, "{shape:?}");
        assert!(fused.plans()[0].contains("in one kernel"));
    }
}

#[test]
fn a_kernel_that_refuses_once_is_tried_once_more() {
    let Some(gpu) = gpu() else { return };
    let (fused, calls) = planted(Fault::RefusesFirst(1));
    choose_it(&fused, shapes()[0]);
    assert!(compute(&gpu, &fused, &shapes()[0]).is_some());
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn sizes_that_matrix_instructions_do_not_read_are_computed_apart() {
    let Some(gpu) = gpu() else { return };
    let (fused, calls) = planted(Fault::Nothing);
    let odd = Shape {
        columns: 36,
        ..shapes()[0]
    };
    let none = fused.compute(&gpu, &odd, (15, 5), &[3, 5, 36], || {
        candle_core::bail!("nobody asks for operands")
    });
    assert!(none.unwrap().is_none());
    let whole = shapes()[0];
    let none = fused.compute(&gpu, &whole, (0, 5), &[0, 5, 48], || {
        candle_core::bail!("nobody asks for operands")
    });
    assert!(none.unwrap().is_none());
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    let without = Fused::of(None);
    assert!(compute(&gpu, &without, &whole).is_none() && without.plans().is_empty());
}
