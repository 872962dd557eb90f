//! Adapters and head of a task, with weights that an optimiser updates.

use super::adapter::AdapterSet;
use super::flat::Flat;
use super::layout::Layout;
use super::ops::Place;
use super::weights::Mode;
use super::{Backbone, Error, Gradients};
use crate::spec::{Head, Precision};

/// Adapter set whose weights an optimiser updates: one buffer of f32, in the order of the reference.
pub struct TrainableSet {
    form: Layout,
    weights: Flat,
}

impl TrainableSet {
    /// Copies a set to the host; the copy shares no memory with it.
    ///
    /// # Errors
    /// When a tensor cannot be created.
    pub fn new(set: &AdapterSet) -> Result<Self, Error> {
        Self::placed(set, &Place::Host)
    }

    /// Copies a set to where a backbone is.
    ///
    /// # Errors
    /// When the weights cannot be read, or there is no memory for them.
    pub fn beside(set: &AdapterSet, backbone: &Backbone) -> Result<Self, Error> {
        Self::placed(set, backbone.place())
    }

    fn placed(set: &AdapterSet, place: &Place) -> Result<Self, Error> {
        Ok(Self {
            form: set.form,
            weights: Flat::new(set.form.weights(), place, |name| set.values(name))?,
        })
    }

    /// Returns an immutable copy of the current weights on the host, which shares no memory with `self`.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn snapshot(&self) -> Result<AdapterSet, Error> {
        self.build(&Mode::frozen(Precision::F32, None))
    }

    /// Returns the weights by name, in a fixed order.
    pub fn parameters(&self) -> &Flat {
        &self.weights
    }

    /// Returns the number of classes, which is the number of rows of the head.
    pub fn classes(&self) -> usize {
        self.form.classes
    }

    /// Returns what the head reads.
    pub(super) fn head(&self) -> Head {
        self.form.config.head
    }

    /// Returns trainable layers beside a backbone with the current weights; products run in its precision, while the weights stay f32.
    pub(super) fn layers(&self, backbone: &Backbone) -> Result<AdapterSet, Error> {
        let mode = Mode::trainable(backbone.precision());
        self.build(&mode.at(backbone.place()))
    }

    fn build(&self, mode: &Mode) -> Result<AdapterSet, Error> {
        AdapterSet::build(self.form, mode, |name| self.weights.get(name))
    }

    /// Returns a zero gradient for every weight, in this place.
    pub(super) fn zeros(&self, place: &Place) -> Result<Gradients, Error> {
        self.weights.zeros(place)
    }
}
