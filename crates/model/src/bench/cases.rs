//! The operations of the walk at the sizes of a backbone, in any place.
//!
//! Invariant: a case calls what a block calls, with operands in the formats that it gives.

use super::{Case, Error, Work, random, values};
use crate::BackboneConfig;
use crate::ops::attention::How;
use crate::ops::depthwise::Extent;
use crate::ops::placed::linear::{Each, Options, Rows};
use crate::ops::placed::{
    Array, Depthwise, Matrix, Onto, Vector, activation, adamw, attention, linear, norm, rows,
    weight_gradient,
};
use crate::ops::{Form, Format, Numbers, Place};
use crate::spec::Precision;

/// Largest width of the adapters.
const ADAPTER: usize = 384;
/// Weights of an optimiser's update: those of adapters of this width before each MLP of a ViT-B/16.
const WEIGHTS: usize = 7_000_000;

/// Sizes of the operands.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<'a> {
    /// Shape of the backbone.
    pub config: &'a BackboneConfig,
    /// Number of frames of a clip.
    pub frames: usize,
    /// Number of clips of a batch.
    pub clips: usize,
    /// Precision of the frozen weights.
    pub precision: Precision,
}

/// Cases under construction.
struct Bench<'a> {
    place: &'a Place,
    of: Sizes<'a>,
    format: Format,
    /// Number format that products read, and that other operations beside them give.
    reads: Numbers,
    beside: Numbers,
    cases: Vec<Case>,
}

type Made = candle_core::Result<()>;

/// Returns a case for every kernel, forward and backward. Integers have products and what makes their operands alone.
///
/// # Errors
/// When the operands cannot be created.
pub fn cases(place: &Place, sizes: Sizes<'_>) -> Result<Vec<Case>, Error> {
    let format = Format::of(sizes.precision);
    let mut bench = Bench {
        place,
        of: sizes,
        format,
        reads: Numbers::read_by(format),
        beside: Numbers::beside(format),
        cases: Vec::new(),
    };
    bench.products()?;
    bench.norm()?;
    if sizes.precision != Precision::Int8 {
        bench.products_backward()?;
        bench.attention()?;
        bench.norm_backward()?;
        bench.activations()?;
        bench.adapters()?;
        bench.convolutions()?;
        bench.optimiser()?;
    }
    Ok(bench.cases)
}

impl Bench<'_> {
    fn width(&self) -> usize {
        self.of.config.width
    }

    fn hidden(&self) -> usize {
        self.of.config.mlp_width
    }

    fn tokens(&self) -> usize {
        self.of.config.tokens()
    }

    /// Returns the number of frames of all clips.
    fn all(&self) -> usize {
        self.of.frames * self.of.clips
    }

    /// Returns the width of an adapter, in steps that its products take.
    fn adapter(&self) -> usize {
        (self.width() / 2).next_multiple_of(8).min(ADAPTER)
    }

    /// Returns random rows `[frames, rows, n]` of all clips: those of one clip again and again.
    fn rows(
        &self,
        name: &str,
        rows: usize,
        n: usize,
        numbers: Numbers,
    ) -> candle_core::Result<Array> {
        let one = random(name, &[self.of.frames, rows, n], numbers, self.place)?;
        Array::cat(&vec![one; self.of.clips])
    }

    fn stream(&self, name: &str, n: usize, numbers: Numbers) -> candle_core::Result<Array> {
        self.rows(name, self.tokens(), n, numbers)
    }

    fn weight(&self, name: &str, n: usize, k: usize) -> candle_core::Result<Matrix> {
        let scale = (3.0 / k as f32).sqrt();
        let values: Vec<f32> = values(name, n * k)
            .iter()
            .map(|value| value * scale)
            .collect();
        Matrix::new(&values, (k, 1), self.format, self.place)
    }

    fn vector(&self, name: &str, count: usize) -> candle_core::Result<Vector> {
        Vector::new(values(name, count), self.place)
    }

    /// Adds a case; its name gets the precision.
    fn add(
        &mut self,
        name: &str,
        work: Work,
        call: impl Fn() -> candle_core::Result<Array> + 'static,
    ) {
        self.cases.push(Case {
            name: format!("{name} {}", self.of.precision),
            work,
            place: self.place.clone(),
            call: Box::new(call),
        });
    }

    /// Returns the operations of a product of the tokens of all frames.
    fn operations(&self, n: usize, k: usize) -> Work {
        Work::Operations((2 * self.all() * self.tokens() * n * k) as u64)
    }

    /// Returns the bytes of as many numbers of these formats as the residual stream has, `times` wider.
    fn bytes(&self, times: usize, formats: &[Numbers]) -> Work {
        let numbers = self.all() * self.tokens() * self.width() * times;
        let each: usize = formats.iter().map(|numbers| numbers.bytes()).sum();
        Work::Bytes((numbers * each) as u64)
    }

    fn products(&mut self) -> Made {
        let (width, hidden) = (self.width(), self.hidden());
        let act = self.of.config.activation;
        for (name, n, k, activation, adds) in [
            ("qkv", 3 * width, width, None, false),
            ("out + residual", width, width, None, true),
            ("fc1", hidden, width, None, false),
            ("fc1 + activation", hidden, width, Some(act), false),
            ("fc2 + residual", width, hidden, None, true),
        ] {
            let (weight, bias) = (self.weight("w", n, k)?, self.vector("bias", n)?);
            let mut x = self.stream("x", k, self.reads)?;
            // Attention gives floats; norms and the first half of the MLP give what the product reads.
            if weight.form() == Form::Integers && name != "out + residual" {
                x = rows::integers(&x)?;
            }
            let name = format!("{name} {k} × {n}");
            let (work, numbers) = (self.operations(n, k), self.beside);
            if activation.is_some() && weight.form() == Form::Integers {
                self.add(&name, work, move || {
                    let options = Options {
                        bias: Some(&bias),
                        activation,
                        ..Options::default()
                    };
                    Ok(linear::project_integers(&x, &weight, options, None)?.1)
                });
                continue;
            }
            if adds {
                let residual = self.stream("residual", n, Numbers::F32)?;
                self.add(&name, work, move || {
                    linear::project_add(&x, &residual, &weight, Rows::All, Some(&bias))
                });
                continue;
            }
            self.add(&name, work, move || {
                let options = Options {
                    bias: Some(&bias),
                    activation,
                    numbers,
                    ..Options::default()
                };
                linear::project(&x, &weight, Rows::All, options)
            });
        }
        Ok(())
    }

    fn products_backward(&mut self) -> Made {
        let (width, hidden) = (self.width(), self.hidden());
        for (name, n, k) in [("qkv", 3 * width, width), ("fc1", hidden, width)] {
            let dy = self.stream("dy", n, self.reads)?;
            let weight = self.weight("w", n, k)?.transposed(0..1);
            let name = format!("{name} backward {n} × {k}");
            let work = self.operations(n, k);
            self.add(&name, work, move || {
                linear::project(&dy, &weight, Rows::All, Options::default())
            });
        }
        let dy = self.stream("dy", width, self.reads)?;
        let before = self.stream("before", hidden, self.beside)?;
        let weight = self.weight("w", width, hidden)?.transposed(0..1);
        let name = format!("fc2 backward × slope {width} × {hidden}");
        let (act, numbers) = (self.of.config.activation, self.reads);
        let work = self.operations(width, hidden);
        self.add(&name, work, move || {
            linear::project_slope(&dy, &weight, &before, act, numbers)
        });
        Ok(())
    }

    fn attention(&mut self) -> Made {
        let (width, heads) = (self.width(), self.of.config.heads);
        let how = How {
            heads,
            format: self.format,
            numbers: self.beside,
        };
        let tokens = self.tokens();
        let once = (2 * self.all() * tokens * tokens * width) as u64;
        let qkv = self.stream("qkv", 3 * width, self.beside)?;
        let dy = self.stream("dy", width, self.beside)?;
        let (_, trace) = attention::forward(&qkv, how)?;
        let own = qkv.clone();
        // Two products, scores and values; the backward computes the scores again and has four more products.
        self.add(
            &format!("attention {heads} heads"),
            Work::Operations(2 * once),
            move || Ok(attention::forward(&own, how)?.0),
        );
        let name = format!("attention backward {heads} heads");
        self.add(&name, Work::Operations(5 * once), move || {
            attention::backward(&qkv, &trace, &dy, how)
        });
        Ok(())
    }

    /// Returns a norm that changes nothing but mean and variance.
    fn plain_norm(&self) -> candle_core::Result<norm::Norm> {
        let (width, eps) = (self.width(), self.of.config.eps as f32);
        norm::Norm::new(vec![1.0; width], vec![0.0; width], eps, self.place)
    }

    fn norm(&mut self) -> Made {
        let (own, x) = (
            self.plain_norm()?,
            self.stream("x", self.width(), Numbers::F32)?,
        );
        let form = self.weight("w", 1, self.width())?.form();
        let work = match form {
            Form::Numbers(numbers) => self.bytes(1, &[Numbers::F32, numbers]),
            // Four bytes are read for each that is written.
            Form::Integers => {
                let numbers = self.all() * self.tokens() * self.width();
                Work::Bytes((numbers * (Numbers::F32.bytes() + 1)) as u64)
            }
        };
        self.add("norm", work, move || norm::forward(&x, &own, form));
        Ok(())
    }

    fn norm_backward(&mut self) -> Made {
        let own = self.plain_norm()?;
        let x = self.stream("x", self.width(), Numbers::F32)?;
        let dy = self.stream("dy", self.width(), Numbers::F32)?;
        let work = self.bytes(1, &[Numbers::F32; 4]);
        self.add("norm backward", work, move || {
            norm::backward(&x, &dy, &dy, &own)
        });
        Ok(())
    }

    fn activations(&mut self) -> Made {
        let before = self.stream("before", self.hidden(), self.beside)?;
        let dy = self.stream("dy", self.hidden(), Numbers::F32)?;
        let (act, reads) = (self.of.config.activation, self.reads);
        let times = self.hidden() / self.width();
        let work = self.bytes(times, &[self.beside, Numbers::F32, reads]);
        self.add("activation backward", work, move || {
            activation::backward(&before, &dy, act, reads)
        });
        Ok(())
    }

    /// The products of one adapter, over patch rows, and the gradient of a weight of it.
    fn adapters(&mut self) -> Made {
        let (width, adapter, all) = (self.width(), self.adapter(), self.all());
        let patches = self.tokens() - 1;
        let work = Work::Operations((2 * all * patches * width * adapter) as u64);
        let x = self.stream("x", width, Numbers::F32)?;
        let narrow = self.rows("narrow", patches, adapter, self.reads)?;
        let (down, up) = (
            self.weight("down", adapter, width)?,
            self.weight("up", width, adapter)?,
        );
        let (short, long) = (self.vector("short", adapter)?, self.vector("long", width)?);
        let of_x = x.clone();
        self.add(
            &format!("adapter fc1 {width} × {adapter}"),
            work,
            move || {
                let part = Each {
                    frames: 0..all,
                    weight: &down,
                    bias: Some(&short),
                };
                let mut parts = linear::project_each(&of_x, &[part])?;
                Ok(parts.swap_remove(0))
            },
        );
        let (of_x, of_narrow) = (x.clone(), narrow.clone());
        self.add(
            &format!("adapter fc2 + residual {adapter} × {width}"),
            work,
            move || {
                let part = Each {
                    frames: 0..all,
                    weight: &up,
                    bias: Some(&long),
                };
                linear::project_add_each(std::slice::from_ref(&of_narrow), &of_x, &[part])
            },
        );
        let (format, clip) = (self.format, self.of.frames * patches);
        let dy = narrow.cast(Numbers::F32)?;
        self.add(
            &format!("weight gradient {adapter} × {width}"),
            work,
            move || {
                let onto = Onto {
                    clip,
                    earlier: None,
                };
                weight_gradient((&x, Rows::Patches), (&dy, Rows::All), &onto, format)
            },
        );
        Ok(())
    }

    fn convolutions(&mut self) -> Made {
        let (adapter, grid) = (self.adapter(), self.of.config.grid());
        let extent = Extent {
            frames: self.of.frames,
            grid,
        };
        let count = (self.all() * grid * grid * adapter) as u64;
        let bytes = |formats: &[Numbers]| {
            Work::Bytes(
                count
                    * formats
                        .iter()
                        .map(|numbers| numbers.bytes() as u64)
                        .sum::<u64>(),
            )
        };
        let x = self.rows("narrow", grid * grid, adapter, Numbers::F32)?;
        for kernel in [[3, 1, 1], [3, 3, 3]] {
            let taps: usize = kernel.iter().product();
            let dims = [adapter, 1, kernel[0], kernel[1], kernel[2]];
            let weight = random("taps", &dims, Numbers::F32, self.place)?;
            let bias = random("bias", &[adapter], Numbers::F32, self.place)?;
            let own = Depthwise::new(&weight, &bias, kernel, self.place)?;
            let name = format!("depthwise {}×{}×{}", kernel[0], kernel[1], kernel[2]);
            let (of_own, of_x, reads) = (own.clone(), x.clone(), self.reads);
            self.add(&name, bytes(&[Numbers::F32, reads]), move || {
                of_own.forward(&of_x, extent, reads)
            });
            let (of_own, of_x) = (own.clone(), x.clone());
            self.add(
                &format!("{name} backward"),
                bytes(&[Numbers::F32; 2]),
                move || of_own.backward(&of_x, extent),
            );
            let of_x = x.clone();
            // Every tap reads both operands, from caches at best.
            let work = Work::Operations(2 * count * taps as u64);
            self.add(&format!("{name} gradients"), work, move || {
                Ok(own.weight_gradient(&of_x, &of_x, extent, None)?.0)
            });
        }
        Ok(())
    }

    fn optimiser(&mut self) -> Made {
        let count = WEIGHTS.min(self.width() * self.width() * 12);
        let of = |name| random(name, &[count], Numbers::F32, self.place);
        let (weights, gradients) = (of("weights")?, of("gradients")?);
        let moments = [
            of("first")?,
            Array::of(vec![0.5; count], count)?.to(self.place)?,
        ];
        let own = [adamw::Own {
            range: 0..count,
            keep: 1.0,
        }];
        let factors = adamw::Factors {
            first: [0.9, 0.1],
            second: [0.999, 0.001],
            scale: 1.0,
            rate: 1e-4,
            root: 1.0,
            eps: 1e-8,
        };
        // Four buffers are read, and three written.
        let work = Work::Bytes((7 * count * size_of::<f32>()) as u64);
        self.add("AdamW", work, move || {
            adamw::update(
                &weights,
                &gradients,
                [&moments[0], &moments[1]],
                &own,
                factors,
            )?;
            Ok(weights.clone())
        });
        Ok(())
    }
}
