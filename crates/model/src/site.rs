//! One adapter: fc2(depthwise convolution(fc1(patch tokens))) added to the patch tokens; and the adapters of a mixed batch at one site.
//!
//! Invariant: a segment's tokens pass only through its own adapter; class tokens are unchanged.

use std::ops::Range;

use super::ops::depthwise::Extent;
use super::ops::placed::linear::{self, Each, Rows};
use super::ops::placed::{Convolved, Depthwise, Onto, convolve_each};
use super::ops::{Array, Numbers};
use super::weights::{Found, Linear, Mode};
use super::{Error, Gradients};

type Result<T> = std::result::Result<T, Error>;

/// Bottleneck adapter at one site of a block.
pub(super) struct Adapter {
    pub(super) fc1: Linear,
    pub(super) conv: Depthwise,
    pub(super) fc2: Linear,
}

/// Activation that an adapter's backward pass reads in addition to its input: the output of fc1, `[frames, P, width]`. The convolution's output is
/// recomputed, which is cheaper than keeping it.
pub(super) struct Saved(Array);

impl Adapter {
    pub(super) fn bytes(&self) -> u64 {
        self.fc1.bytes() + self.conv.bytes() + self.fc2.bytes()
    }

    /// Returns the same adapter, frozen, in this mode.
    pub(super) fn in_mode(&self, mode: &Mode) -> Result<Self> {
        Ok(Self {
            fc1: self.fc1.in_mode(mode)?,
            conv: self.conv.placed(mode.place())?,
            fc2: self.fc2.in_mode(mode)?,
        })
    }

    /// Computes the gradients from x and dy of the site's frames.
    fn backward(
        &self,
        x: &Array,
        saved: &Saved,
        dy: &Array,
        site: &Site<'_>,
        wants_dx: bool,
    ) -> Result<(Option<Array>, Found)> {
        let mut found = Found::new();
        let (narrow, extent) = (&saved.0, site.extent);
        if self.fc2.is_trainable() {
            let mixed = self.conv.forward(narrow, extent, Numbers::F32)?;
            let (mixed, dy) = ((&mixed, Rows::All), (dy, Rows::Patches));
            let names = ["fc2.weight", "fc2.bias"];
            let onto = [site.onto(names[0])?, site.onto(names[1])?];
            self.fc2
                .gradients_onto(mixed, dy, names, onto, &mut found)?;
        }
        let d_mixed = self.fc2.backward(dy, Rows::Patches)?;
        if self.fc1.is_trainable() {
            let (weight, bias) = (site.earlier("conv.weight")?, site.earlier("conv.bias")?);
            let earlier = weight.as_ref().zip(bias.as_ref());
            let (weight, bias) = self
                .conv
                .weight_gradient(narrow, &d_mixed, extent, earlier)?;
            found.push(("conv.weight".to_owned(), weight));
            found.push(("conv.bias".to_owned(), bias));
        }
        let d_narrow = self.conv.backward(&d_mixed, extent)?;
        let (of_x, of_dy) = ((x, Rows::Patches), (&d_narrow, Rows::All));
        let names = ["fc1.weight", "fc1.bias"];
        let onto = [site.onto(names[0])?, site.onto(names[1])?];
        self.fc1
            .gradients_onto(of_x, of_dy, names, onto, &mut found)?;
        let dx = if wants_dx {
            Some(self.fc1.backward_add(&d_narrow, dy, Rows::Patches)?)
        } else {
            None
        };
        Ok((dx, found))
    }
}

/// Frames of a segment, and its adapter at one site, if it has one there.
#[derive(Clone)]
pub(super) struct Site<'a> {
    pub(super) frames: Range<usize>,
    pub(super) extent: Extent,
    pub(super) adapter: Option<&'a Adapter>,
    /// Gradients of earlier clips of the same training step.
    pub(super) sums: Option<Sums<'a>>,
}

/// Gradients so far, in which those of one adapter have names with a prefix.
#[derive(Clone)]
pub(super) struct Sums<'a> {
    pub(super) all: &'a Gradients,
    pub(super) prefix: String,
}

impl Site<'_> {
    fn earlier(&self, name: &str) -> Result<Option<Array>> {
        let sums = self.sums.as_ref();
        sums.map(|sums| sums.all.get(&format!("{}{name}", sums.prefix)))
            .transpose()
    }

    /// Returns the sum that the gradient of a weight is added to.
    fn onto(&self, name: &str) -> Result<Onto> {
        Ok(Onto {
            clip: self.extent.frames * self.extent.grid * self.extent.grid,
            earlier: self.earlier(name)?,
        })
    }

    fn of(&self, x: &Array) -> Result<Array> {
        Ok(x.rows(self.frames.clone())?)
    }
}

/// Runs every segment of x through its own adapter, as grouped products; segments follow one another over all frames.
pub(super) fn forward(x: &Array, sites: &[Site<'_>]) -> Result<(Array, Vec<Option<Saved>>)> {
    let adapted = adapted(sites);
    let narrow = linear::project_each(x, &each(&adapted, |adapter| &adapter.fc1))?;
    let y = widened(x, &adapted, &narrow)?;
    let mut kept = narrow.into_iter();
    let saved = sites.iter().map(|site| {
        site.adapter?;
        kept.next().map(Saved)
    });
    Ok((y, saved.collect()))
}

/// Recomputes the output of `forward` from what it saved.
pub(super) fn again(x: &Array, sites: &[Site<'_>], saved: &[Option<Saved>]) -> Result<Array> {
    let narrow: Vec<Array> = saved
        .iter()
        .flatten()
        .map(|saved| saved.0.clone())
        .collect();
    widened(x, &adapted(sites), &narrow)
}

/// Returns the sites that have an adapter.
fn adapted<'a, 'b>(sites: &'b [Site<'a>]) -> Vec<(&'b Site<'a>, &'a Adapter)> {
    let adapted = sites.iter().filter_map(|site| Some((site, site.adapter?)));
    adapted.collect()
}

/// Returns x + fc2(convolution(narrow)).
fn widened(x: &Array, adapted: &[(&Site<'_>, &Adapter)], narrow: &[Array]) -> Result<Array> {
    let convolved = adapted.iter().zip(narrow);
    let convolved = convolved.map(|((site, adapter), narrow)| Convolved {
        weights: &adapter.conv,
        x: narrow,
        extent: site.extent,
        numbers: adapter.fc2.reads(),
    });
    let mixed = convolve_each(&convolved.collect::<Vec<_>>())?;
    let parts = each(adapted, |adapter| &adapter.fc2);
    Ok(linear::project_add_each(&mixed, x, &parts)?)
}

/// Returns one layer of each adapter, with the frames that it applies to.
fn each<'a>(
    adapted: &[(&'a Site<'_>, &'a Adapter)],
    layer: fn(&Adapter) -> &Linear,
) -> Vec<Each<'a>> {
    let part =
        |(site, adapter): &(&'a Site<'_>, &'a Adapter)| layer(adapter).each(site.frames.clone());
    adapted.iter().map(part).collect()
}

/// Returns the gradient of x, if it is wanted, and the gradients of each segment's adapter.
pub(super) fn backward(
    x: &Array,
    sites: &[Site<'_>],
    saved: &[Option<Saved>],
    dy: &Array,
    wants_dx: bool,
) -> Result<(Option<Array>, Vec<Found>)> {
    let (mut parts, mut found) = (Vec::new(), Vec::new());
    for (site, saved) in sites.iter().zip(saved) {
        let own = site.of(dy)?;
        let (part, gradients) = match (site.adapter, saved) {
            (Some(adapter), Some(saved)) => {
                adapter.backward(&site.of(x)?, saved, &own, site, wants_dx)?
            }
            _ => (Some(own), Found::new()),
        };
        parts.extend(part);
        found.push(gradients);
    }
    let dx = if wants_dx {
        Some(Array::cat(&parts)?)
    } else {
        None
    };
    Ok((dx, found))
}
