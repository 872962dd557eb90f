//! Adapters and head of a task, with weights that an optimiser updates.

use std::collections::BTreeMap;

use candle_core::Var;

use super::adapter::{AdapterSet, missing};
use super::layout::Layout;
use super::ops::{read, tensor};
use super::weights::Mode;
use super::{Error, Gradients};
use crate::spec::{Head, Precision};

/// Adapter set whose weights an optimiser updates.
pub struct TrainableSet {
    form: Layout,
    parameters: Vec<(String, Var)>,
}

impl TrainableSet {
    /// Copies a set; the copy shares no memory with it.
    ///
    /// # Errors
    /// When a tensor cannot be created.
    pub fn new(set: &AdapterSet) -> Result<Self, Error> {
        let mut parameters = Vec::new();
        for (name, shape) in set.form.weights() {
            let var = Var::from_tensor(&tensor(set.values(&name), shape)?)?;
            parameters.push((name, var));
        }
        Ok(Self {
            form: set.form,
            parameters,
        })
    }

    /// Returns an immutable copy of the current weights, which shares no memory with `self`.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn snapshot(&self) -> Result<AdapterSet, Error> {
        self.build(&Mode::Frozen(Precision::F32, None))
    }

    /// Returns the name and value of every weight, in a fixed order.
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// Returns the number of classes, which is the number of rows of the head.
    pub fn classes(&self) -> usize {
        self.form.classes
    }

    /// Returns what the head reads.
    pub(super) fn head(&self) -> Head {
        self.form.config.head
    }

    /// Returns trainable layers with the current weights; products run in this precision, while the weights stay f32.
    pub(super) fn layers(&self, precision: Precision) -> Result<AdapterSet, Error> {
        self.build(&Mode::Trainable(precision))
    }

    fn build(&self, mode: &Mode) -> Result<AdapterSet, Error> {
        let by_name: BTreeMap<&str, &Var> = self
            .parameters
            .iter()
            .map(|(name, var)| (name.as_str(), var))
            .collect();
        AdapterSet::build(self.form, mode, |name| {
            let var = by_name.get(name).ok_or_else(|| missing(name))?;
            Ok(read(var.as_tensor(), <[f32]>::to_vec)?)
        })
    }

    /// Returns a zero gradient for every weight.
    pub(super) fn zeros(&self) -> Result<Gradients, Error> {
        let zero = |(name, var): &(String, Var)| Ok((name.clone(), var.as_tensor().zeros_like()?));
        self.parameters.iter().map(zero).collect()
    }
}
