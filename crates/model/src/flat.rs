//! Named values one after another in one buffer: weights in training, their gradients and moments.
//!
//! Invariant: equal names and shapes give equal positions, so that buffers of one set are updated together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use super::ops::{Array, Place};
use super::{Error, Tensors};

/// Values of which each weight's begin at a multiple: 256 bytes, which products on a device require and cache lines like.
const ALIGNED: usize = 64;

/// Named f32 values in one buffer.
#[derive(Debug)]
pub struct Flat {
    names: Arc<Names>,
    values: Array,
}

/// Positions of the values by name.
#[derive(Debug)]
struct Names {
    /// In the order of their positions.
    entries: Vec<Entry>,
    by_name: BTreeMap<String, usize>,
    total: usize,
}

/// Name, shape and position of some values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) range: Range<usize>,
}

impl Names {
    fn new(shapes: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let (mut entries, mut by_name, mut total) = (Vec::new(), BTreeMap::new(), 0_usize);
        for (name, shape) in shapes {
            let end = total + shape.iter().product::<usize>();
            by_name.insert(name.clone(), entries.len());
            let range = total..end;
            entries.push(Entry { name, shape, range });
            total = end.next_multiple_of(ALIGNED);
        }
        Self {
            entries,
            by_name,
            total,
        }
    }
}

impl Flat {
    /// Returns the values of named shapes, in their order, each from `fetch`.
    pub(super) fn new(
        shapes: impl IntoIterator<Item = (String, Vec<usize>)>,
        place: &Place,
        fetch: impl FnMut(&str) -> Result<Vec<f32>, Error>,
    ) -> Result<Self, Error> {
        Self::filled(Arc::new(Names::new(shapes)), place, fetch)
    }

    /// Returns other values of the same names and shapes, each from `fetch`.
    pub(super) fn with(
        &self,
        place: &Place,
        fetch: impl FnMut(&str) -> Result<Vec<f32>, Error>,
    ) -> Result<Self, Error> {
        Self::filled(Arc::clone(&self.names), place, fetch)
    }

    fn filled(
        names: Arc<Names>,
        place: &Place,
        mut fetch: impl FnMut(&str) -> Result<Vec<f32>, Error>,
    ) -> Result<Self, Error> {
        let mut values = vec![0.0; names.total];
        for Entry { name, shape, range } in &names.entries {
            let own = fetch(name)?;
            if own.len() != range.len() {
                return Err(Error::WrongShape {
                    name: name.clone(),
                    expected: shape.clone(),
                    got: vec![own.len()],
                });
            }
            values[range.clone()].copy_from_slice(&own);
        }
        let values = Array::of(values, names.total)?.to(place)?;
        Ok(Self { names, values })
    }

    /// Returns zeros with the same names and shapes.
    pub(super) fn zeros(&self, place: &Place) -> Result<Self, Error> {
        Ok(Self {
            names: Arc::clone(&self.names),
            values: Array::zeros(self.names.total, place)?,
        })
    }

    /// Returns where the values are.
    pub(super) fn place(&self) -> Place {
        self.values.place()
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.names.entries.len()
    }

    /// Returns whether there are no names.
    pub fn is_empty(&self) -> bool {
        self.names.entries.is_empty()
    }

    /// Returns the whole buffer.
    pub(super) fn values(&self) -> &Array {
        &self.values
    }

    /// Returns names, shapes and positions, in the order of the positions.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.names.entries
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        let found = self.names.by_name.get(name);
        let found = found.and_then(|&at| self.names.entries.get(at));
        found.ok_or_else(|| Error::MissingTensor { name: name.into() })
    }

    /// Returns the values of a name, without copying them: what is written to the buffer later is seen.
    pub(super) fn get(&self, name: &str) -> Result<Array, Error> {
        let entry = self.entry(name)?;
        let own = self.values.rows(entry.range.clone())?;
        Ok(own.reshape(entry.shape.as_slice())?)
    }

    /// Writes the values of a name; as many as it has, in any shape and place.
    pub(super) fn set(&self, name: &str, own: &Array) -> Result<(), Error> {
        let entry = self.entry(name)?;
        let count: usize = own.dims().iter().product();
        if count != entry.range.len() {
            return Err(Error::WrongShape {
                name: entry.name.clone(),
                expected: entry.shape.clone(),
                got: own.dims().to_vec(),
            });
        }
        Ok(self
            .values
            .write(entry.range.start, &own.to(&self.place())?)?)
    }

    /// Returns an error unless `other` has the same names and shapes.
    pub(super) fn matches(&self, other: &Self) -> Result<(), Error> {
        if Arc::ptr_eq(&self.names, &other.names) {
            return Ok(());
        }
        for entry in &self.names.entries {
            let got = other.entry(&entry.name)?;
            if got.shape != entry.shape {
                return Err(Error::WrongShape {
                    name: entry.name.clone(),
                    expected: entry.shape.clone(),
                    got: got.shape.clone(),
                });
            }
        }
        let mut names = other.names.entries.iter();
        match names.find(|entry| !self.names.by_name.contains_key(&entry.name)) {
            Some(entry) => Err(Error::UnexpectedTensor {
                name: entry.name.clone(),
            }),
            None if self.names.entries == other.names.entries => Ok(()),
            None => Err(Error::Order { what: "update" }),
        }
    }

    /// Returns a copy of the values of each name on the host.
    ///
    /// # Errors
    /// When the values cannot be read.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>, Error> {
        let mut tensors = BTreeMap::new();
        for (name, (shape, values)) in self.named("")? {
            tensors.insert(name, super::ops::tensor(values, shape)?);
        }
        Ok(tensors)
    }

    /// Returns shapes and values by name, to each of which `end` is added.
    pub(super) fn named(&self, end: &str) -> Result<Tensors, Error> {
        let mut tensors = Tensors::new();
        self.values.read(|values| {
            for Entry { name, shape, range } in &self.names.entries {
                let own = (shape.clone(), values[range.clone()].to_vec());
                tensors.insert(format!("{name}{end}"), own);
            }
        })?;
        Ok(tensors)
    }
}
