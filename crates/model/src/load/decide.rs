//! What a checkpoint's tensors do not say, who says it, and what the operator says instead.
//!
//! Invariant: nothing is guessed. A value comes from the file, from a rule of its family, or from the operator; each is shown with where it came
//! from.

use std::path::Path;
use std::str::FromStr;

use serde::Serialize;

use super::Error;
use crate::spec::{Invalid, Normalization};
use crate::{Activation, BackboneConfig};

/// A value, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Name of the field: `geometry`, `heads`, `activation`, `eps` or `normalization`.
    pub field: &'static str,
    /// Value as text.
    pub value: String,
    /// Source of the value: a file and its key, or a family's rule.
    pub from: String,
}

/// What the operator says of a backbone: any of `heads=12,activation=gelu,eps=1e-6,mean=0.5/0.5/0.5,std=0.5/0.5/0.5`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// Attention heads.
    pub heads: Option<usize>,
    /// Activation of the MLP.
    pub activation: Option<Activation>,
    /// Epsilon of every LayerNorm.
    pub eps: Option<f64>,
    /// Mean of each channel, subtracted from pixels in 0 to 1.
    pub mean: Option<[f32; 3]>,
    /// Deviation of each channel, by which pixels are divided after the mean is subtracted.
    pub std: Option<[f32; 3]>,
}

/// A value that may be missing, and where it came from.
pub(super) struct Said<T> {
    pub(super) value: Option<T>,
    pub(super) from: String,
}

impl<T> Said<T> {
    pub(super) fn new(value: T, from: impl Into<String>) -> Self {
        Self {
            value: Some(value),
            from: from.into(),
        }
    }

    pub(super) fn nothing() -> Self {
        Self {
            value: None,
            from: String::new(),
        }
    }

    fn overridden(self, by: Option<T>, show: impl Fn(&T) -> String) -> Self {
        let Some(by) = by else { return self };
        let from = match &self.value {
            Some(own) => format!(
                "--backbone-override, instead of {} ({})",
                show(own),
                self.from
            ),
            None => "--backbone-override".to_owned(),
        };
        Self::new(by, from)
    }
}

/// The constants that tensors do not say.
pub(super) struct Constants {
    pub(super) heads: Said<usize>,
    pub(super) activation: Said<Activation>,
    pub(super) eps: Said<f64>,
    pub(super) normalization: Said<Normalization>,
    /// Why no rule decides what is missing.
    pub(super) why: &'static str,
}

/// The sizes that files and tensors say.
pub(super) struct Geometry {
    pub(super) image_size: usize,
    pub(super) patch_size: usize,
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) mlp_width: usize,
    pub(super) pre_norm: bool,
    pub(super) patch_bias: bool,
    pub(super) from: String,
}

impl Constants {
    /// Combines all sources; the operator's values win.
    pub(super) fn decide(
        self,
        path: &Path,
        geometry: Geometry,
        overrides: &Overrides,
    ) -> Result<(BackboneConfig, Vec<Decision>), Error> {
        let heads = self.heads.overridden(overrides.heads, usize::to_string);
        let activation = self
            .activation
            .overridden(overrides.activation, |own| own.name().to_owned());
        let eps = self.eps.overridden(overrides.eps, |eps| format!("{eps:e}"));
        let own = self.normalization.value.unwrap_or(Normalization::CLIP);
        let given = (overrides.mean.is_some() || overrides.std.is_some()).then(|| Normalization {
            mean: overrides.mean.unwrap_or(own.mean),
            std: overrides.std.unwrap_or(own.std),
        });
        let normalization = self.normalization.overridden(given, show_normalization);
        let missing: Vec<&'static str> = [
            ("heads", heads.value.is_none()),
            ("activation", activation.value.is_none()),
        ]
        .into_iter()
        .filter_map(|(field, missing)| missing.then_some(field))
        .collect();
        let (Some(head_count), Some(function)) = (heads.value, activation.value) else {
            return Err(Error::Undecided {
                path: path.to_owned(),
                fields: missing,
                why: self.why,
            });
        };
        let config = BackboneConfig {
            image_size: geometry.image_size,
            patch_size: geometry.patch_size,
            width: geometry.width,
            layers: geometry.layers,
            heads: head_count,
            mlp_width: geometry.mlp_width,
            activation: function,
            eps: eps.value.unwrap_or(1e-5),
            pre_norm: geometry.pre_norm,
            patch_bias: geometry.patch_bias,
            normalization: normalization.value.unwrap_or(own),
        };
        let decision = |field, value, from: &str| Decision {
            field,
            value,
            from: from.to_owned(),
        };
        let sizes = format!(
            "{} px, patches of {}, {} blocks of width {}, MLP {}",
            config.image_size, config.patch_size, config.layers, config.width, config.mlp_width
        );
        let decisions = vec![
            decision("geometry", sizes, &geometry.from),
            decision("heads", config.heads.to_string(), &heads.from),
            decision("activation", function.name().to_owned(), &activation.from),
            decision("eps", format!("{:e}", config.eps), &eps.from),
            decision(
                "normalization",
                show_normalization(&config.normalization),
                &normalization.from,
            ),
        ];
        Ok((config, decisions))
    }
}

fn show_normalization(normalization: &Normalization) -> String {
    let list = |values: [f32; 3]| values.map(|value| value.to_string()).join("/");
    format!(
        "mean {}, std {}",
        list(normalization.mean),
        list(normalization.std)
    )
}

/// The number of heads that published models of this width have, for files that do not say it; `None` when no rule knows.
pub(super) fn heads_of_width(width: usize, family: &str) -> Said<usize> {
    let wide = match width {
        1280 => Some("ViT-H"),
        1408 => Some("ViT-g"),
        1664 => Some("ViT-G"),
        1792 => Some("ViT-e"),
        _ => None,
    };
    match wide {
        Some(size) => Said::new(16, format!("{family}'s {size} of width {width}")),
        None if width.is_multiple_of(64) => {
            Said::new(width / 64, format!("{family}'s rule: width / 64"))
        }
        None => Said::nothing(),
    }
}

impl Overrides {
    /// Whether nothing is overridden.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for Overrides {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut overrides = Self::default();
        let wrong = |problem: String| Invalid::new("backbone_override", problem);
        for pair in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| wrong(format!("{pair:?} is not key=value")))?;
            let (key, value) = (key.trim(), value.trim());
            let expected = |what: &str| wrong(format!("{key}: expected {what}, got {value:?}"));
            match key {
                "heads" => {
                    let heads = value.parse().ok().filter(|heads| (1..=256).contains(heads));
                    overrides.heads = Some(heads.ok_or_else(|| expected("1 to 256"))?);
                }
                "activation" => {
                    let activation = Activation::named(value);
                    overrides.activation =
                        Some(activation.ok_or_else(|| expected("gelu or quick_gelu"))?);
                }
                "eps" => {
                    let eps = value.parse().ok().filter(|eps| *eps > 0.0 && *eps < 1.0);
                    overrides.eps = Some(eps.ok_or_else(|| expected("a number below 1"))?);
                }
                "mean" => {
                    let mean = three(value, |mean| mean.is_finite());
                    overrides.mean = Some(mean.ok_or_else(|| expected("three numbers a/b/c"))?);
                }
                "std" => {
                    let std = three(value, |std| std.is_finite() && std > 0.0);
                    overrides.std =
                        Some(std.ok_or_else(|| expected("three positive numbers a/b/c"))?);
                }
                _ => {
                    let known = "heads, activation, eps, mean and std";
                    return Err(wrong(format!("{key:?} is unknown; {known} are known")));
                }
            }
        }
        Ok(overrides)
    }
}

fn three(text: &str, allowed: impl Fn(f32) -> bool) -> Option<[f32; 3]> {
    let numbers: Option<Vec<f32>> = text.split('/').map(|number| number.parse().ok()).collect();
    let numbers = <[f32; 3]>::try_from(numbers?).ok()?;
    numbers
        .iter()
        .all(|&number| allowed(number))
        .then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_are_read_and_wrong_ones_named() {
        let read: Overrides = "heads=12, activation=gelu,eps=1e-6,mean=0.5/0.25/0,std=1/1/2"
            .parse()
            .expect("all keys are known");
        assert_eq!(
            read,
            Overrides {
                heads: Some(12),
                activation: Some(Activation::Gelu),
                eps: Some(1e-6),
                mean: Some([0.5, 0.25, 0.0]),
                std: Some([1.0, 1.0, 2.0]),
            }
        );
        assert!("".parse::<Overrides>().is_ok_and(|none| none.is_empty()));
        for wrong in [
            "heads",
            "heads=0",
            "heads=x",
            "activation=mish",
            "eps=0",
            "eps=nan",
            "mean=1/2",
            "std=1/0/1",
            "std=1/inf/1",
            "width=3",
        ] {
            let error = wrong.parse::<Overrides>().expect_err(wrong);
            let key = wrong.split('=').next().unwrap_or_default();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn published_widths_have_their_heads() {
        for (width, heads) in [(384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16)] {
            assert_eq!(heads_of_width(width, "x").value, Some(heads));
        }
        assert_eq!(heads_of_width(60, "x").value, None);
    }
}
