//! The video model: one frozen backbone and adapter sets give logits for a batch that mixes tasks.
