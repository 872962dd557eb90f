//! A version's manifest, as the metadata of its safetensors file.
