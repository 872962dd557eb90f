//! A backbone's identity: one digest per model, whatever layout and float format its file has.
//!
//! Invariant: whatever changes what the backbone computes changes the digest (weights, heads, activation, eps, and the mean and deviation of its
//! pixels); where and how it is stored does not.

use sha2::{Digest as _, Sha256};

use crate::spec::Digest;
use crate::{Activation, BackboneConfig, Tensors};

/// Prefix of the hash: what is hashed, and how it is encoded.
const DOMAIN: &[u8] = b"frameshift backbone 2\n";

/// Sha256 of `frameshift backbone 2\n`, the constants (see [`constants`]), and the sha256 of each tensor, sorted by name.
///
/// The hash of a tensor covers: the length of its name, its name, its rank, its dimensions (all counts as little-endian u64), then its values
/// (little-endian f32). Tensors can therefore be hashed on all cores.
pub fn digest(config: &BackboneConfig, tensors: &Tensors) -> Digest {
    use rayon::prelude::*;
    let digests: Vec<Digest> = tensors
        .par_iter()
        .map(|(name, (shape, values))| of_tensor(name, shape, values))
        .collect();
    of_model(config, &digests)
}

/// The digest of one tensor.
pub(crate) fn of_tensor(name: &str, shape: &[usize], values: &[f32]) -> Digest {
    let mut sha = Sha256::new();
    sha.update((name.len() as u64).to_le_bytes());
    sha.update(name);
    sha.update((shape.len() as u64).to_le_bytes());
    for &side in shape {
        sha.update((side as u64).to_le_bytes());
    }
    let mut bytes = [0_u8; 1 << 14];
    for part in values.chunks(bytes.len() / 4) {
        let bytes = &mut bytes[..4 * part.len()];
        for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(part) {
            *bytes = value.to_le_bytes();
        }
        sha.update(&*bytes);
    }
    Digest(sha.finalize().into())
}

/// The digest of the model, from its tensors' digests in the order of their names.
pub(crate) fn of_model(config: &BackboneConfig, tensors: &[Digest]) -> Digest {
    let mut sha = Sha256::new();
    sha.update(DOMAIN);
    sha.update(constants(config));
    for tensor in tensors {
        sha.update(tensor.0);
    }
    Digest(sha.finalize().into())
}

/// The constants that the tensors do not say: heads and activation (0 QuickGELU, 1 GELU) as little-endian u64, eps as f64, mean and deviation as f32.
fn constants(config: &BackboneConfig) -> Vec<u8> {
    let activation: u64 = match config.activation {
        Activation::QuickGelu => 0,
        Activation::Gelu => 1,
    };
    let mut bytes = Vec::new();
    bytes.extend((config.heads as u64).to_le_bytes());
    bytes.extend(activation.to_le_bytes());
    bytes.extend(config.eps.to_le_bytes());
    let normalization = config.normalization;
    for value in normalization.mean.into_iter().chain(normalization.std) {
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Normalization;

    fn config() -> BackboneConfig {
        BackboneConfig {
            image_size: 8,
            patch_size: 4,
            width: 6,
            layers: 1,
            heads: 2,
            mlp_width: 4,
            activation: Activation::Gelu,
            eps: 1e-5,
            pre_norm: true,
            patch_bias: false,
            normalization: Normalization::CLIP,
        }
    }

    fn tensors(list: &[(&str, &[usize], &[f32])]) -> Tensors {
        list.iter()
            .map(|&(name, shape, values)| (name.to_owned(), (shape.to_vec(), values.to_vec())))
            .collect()
    }

    #[test]
    fn names_shapes_and_bits_all_count() {
        let digest = |tensors: &Tensors| digest(&config(), tensors);
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
    fn what_changes_the_function_changes_the_digest() {
        let base = tensors(&[("a", &[2], &[0.0, 1.0])]);
        let changes: [fn(&mut BackboneConfig); 5] = [
            |config| config.heads = 3,
            |config| config.activation = Activation::QuickGelu,
            |config| config.eps = 1e-6,
            |config| config.normalization.mean[2] = 0.5,
            |config| config.normalization.std[0] = 0.5,
        ];
        for change in changes {
            let mut changed = config();
            change(&mut changed);
            assert_ne!(digest(&config(), &base), digest(&changed, &base));
        }
    }

    #[test]
    fn the_digest_is_the_documented_one() {
        let mut tensor = Vec::new();
        tensor.extend(1_u64.to_le_bytes());
        tensor.extend(b"a");
        tensor.extend(2_u64.to_le_bytes());
        tensor.extend(1_u64.to_le_bytes());
        tensor.extend(2_u64.to_le_bytes());
        tensor.extend(0.5_f32.to_le_bytes());
        tensor.extend((-3.0_f32).to_le_bytes());
        let mut model = b"frameshift backbone 2\n".to_vec();
        model.extend(2_u64.to_le_bytes());
        model.extend(1_u64.to_le_bytes());
        model.extend(1e-5_f64.to_le_bytes());
        for value in [Normalization::CLIP.mean, Normalization::CLIP.std].concat() {
            model.extend(value.to_le_bytes());
        }
        model.extend(Sha256::digest(tensor));
        let expected = Digest(Sha256::digest(model).into());
        let own = digest(&config(), &tensors(&[("a", &[1, 2], &[0.5, -3.0])]));
        assert_eq!(own, expected);
    }
}
