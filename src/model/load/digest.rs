//! A backbone's identity: one digest per model, whatever layout and float format its file has.

use sha2::{Digest as _, Sha256};

use crate::model::Tensors;
use crate::spec::Digest;

/// Sha256 over canonical tensors, sorted by name: for each the length of its name, its name, its rank, its dimensions (all counts as little-endian
/// u64), then its values (little-endian f32).
pub fn digest(tensors: &Tensors) -> Digest {
    let mut sha = Sha256::new();
    let mut bytes = Vec::with_capacity(1 << 16);
    for (name, (shape, values)) in tensors {
        sha.update((name.len() as u64).to_le_bytes());
        sha.update(name);
        sha.update((shape.len() as u64).to_le_bytes());
        for &side in shape {
            sha.update((side as u64).to_le_bytes());
        }
        for part in values.chunks(1 << 14) {
            bytes.clear();
            bytes.extend(part.iter().flat_map(|value| value.to_le_bytes()));
            sha.update(&bytes);
        }
    }
    Digest(sha.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(list: &[(&str, &[usize], &[f32])]) -> Tensors {
        list.iter()
            .map(|&(name, shape, values)| (name.to_owned(), (shape.to_vec(), values.to_vec())))
            .collect()
    }

    #[test]
    fn names_shapes_and_bits_all_count() {
        let base = tensors(&[("a", &[2], &[0.0, 1.0]), ("b", &[1], &[2.0])]);
        let others = [
            tensors(&[("a", &[2], &[-0.0, 1.0]), ("b", &[1], &[2.0])]),
            tensors(&[("a", &[2, 1], &[0.0, 1.0]), ("b", &[1], &[2.0])]),
            tensors(&[("a", &[2], &[0.0, 1.0]), ("c", &[1], &[2.0])]),
            tensors(&[("a", &[1], &[0.0]), ("b", &[2], &[1.0, 2.0])]),
            tensors(&[("a", &[2], &[0.0, 1.0])]),
        ];
        for other in others {
            assert_ne!(digest(&base), digest(&other));
        }
        assert_eq!(digest(&base).to_string(), digest(&base.clone()).to_string());
    }

    #[test]
    fn the_digest_is_the_documented_one() {
        let mut bytes = Vec::new();
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(b"a");
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(0.5_f32.to_le_bytes());
        bytes.extend((-3.0_f32).to_le_bytes());
        let expected = Digest(Sha256::digest(bytes).into());
        let own = digest(&tensors(&[("a", &[1, 2], &[0.5, -3.0])]));
        assert_eq!(own, expected);
    }
}
