//! JSON values as the columns of a Parquet schema: one value a leaf, with the levels that say where it belongs.
//!
//! Invariant: each leaf below a field gets at least one pair of levels for each row, so that all columns have the same rows.

use std::io;

use parquet::basic::Repetition;
use parquet::schema::types::Type;
use serde_json::Value;

use super::leaf::Leaf;

/// Adds a value of a field to the leaves below it, which come first. Returns the leaves after them.
///
/// # Errors
/// When a value is not of the field's type, or one that is required is absent.
pub(super) fn put<'a>(
    field: &Type,
    value: &Value,
    (mut definition, repetition): (i16, i16),
    leaves: &'a mut [Leaf],
) -> io::Result<&'a mut [Leaf]> {
    let repeats = field.get_basic_info().repetition();
    if repeats == Repetition::OPTIONAL {
        if value.is_null() {
            return Ok(absent(field, (definition, repetition), leaves));
        }
        definition += 1;
    }
    if let Some(element) = element(field) {
        let values = value.as_array().ok_or_else(|| unlike(field))?;
        return list(element, values, (definition, repetition), leaves);
    }
    if field.is_primitive() {
        let (own, rest) = leaves.split_first_mut().ok_or_else(|| unlike(field))?;
        return match own.value(value, repetition) {
            true => Ok(rest),
            false => Err(unlike(field)),
        };
    }
    let mut leaves = leaves;
    for part in field.get_fields() {
        leaves = put(part, &value[part.name()], (definition, repetition), leaves)?;
    }
    Ok(leaves)
}

/// Adds the elements of a list, which is in no other list.
fn list<'a>(
    element: &Type,
    values: &[Value],
    (definition, repetition): (i16, i16),
    leaves: &'a mut [Leaf],
) -> io::Result<&'a mut [Leaf]> {
    let count = width(element);
    if leaves.len() < count {
        return Err(unlike(element));
    }
    let (own, rest) = leaves.split_at_mut(count);
    if values.is_empty() {
        absent(element, (definition, repetition), own);
    }
    for (at, value) in values.iter().enumerate() {
        let repetition = if at == 0 { repetition } else { 1 };
        put(element, value, (definition + 1, repetition), own)?;
    }
    Ok(rest)
}

/// Adds to all leaves of a field that there is nothing.
fn absent<'a>(field: &Type, levels: (i16, i16), leaves: &'a mut [Leaf]) -> &'a mut [Leaf] {
    let count = width(field).min(leaves.len());
    let (own, rest) = leaves.split_at_mut(count);
    own.iter_mut().for_each(|leaf| leaf.absent(levels));
    rest
}

/// Number of leaves of a field.
fn width(field: &Type) -> usize {
    match field.is_primitive() {
        true => 1,
        false => field.get_fields().iter().map(|part| width(part)).sum(),
    }
}

/// The element of a list: the only field of its only, repeated, field.
fn element(field: &Type) -> Option<&Type> {
    let only = |field: &Type| field.is_group() && field.get_fields().len() == 1;
    if !only(field) {
        return None;
    }
    let repeated = &field.get_fields()[0];
    let is_list = repeated.get_basic_info().repetition() == Repetition::REPEATED;
    (is_list && only(repeated)).then(|| repeated.get_fields()[0].as_ref())
}

/// The error of a value that is not of a field's type.
pub(super) fn unlike(field: &Type) -> io::Error {
    io::Error::other(format!("a value of {} has another type", field.name()))
}
