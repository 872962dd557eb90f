//! API keys as callers present them: `fsk_<id>_<secret><checksum>`.
//!
//! Invariant: a secret is 256 random bits, is shown once when it is made, and never appears in a debug output.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use crate::ids::KeyId;

/// What every key begins with, so that scanners find keys that were published by mistake.
const PREFIX: &str = "fsk";
/// Characters of an id: about 83 bits, so that nobody meets one by chance.
const ID: usize = 16;
/// Characters of a secret: 256 bits.
const SECRET: usize = 43;
/// Characters of a checksum: the 32 bits of a CRC.
const CHECKSUM: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of an id; the ids of the server have no upper case.
const BASE36: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The operating system gives no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random numbers: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

/// A well-formed key.
pub struct Key {
    id: KeyId,
    secret: SecretString,
}

impl Key {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn generate() -> Result<Self, NoRandomness> {
        loop {
            // Only letters and digits, so it always is an id.
            if let Ok(id) = random(BASE36, ID)?.parse() {
                return Self::with_id(id);
            }
        }
    }

    /// Makes a new secret for a key.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn with_id(id: KeyId) -> Result<Self, NoRandomness> {
        let secret = random(BASE62, SECRET)?.into();
        Ok(Self { id, secret })
    }

    /// Whether a credential says that it is a key, well formed or not.
    pub(super) fn is_one(text: &str) -> bool {
        let rest = text.strip_prefix(PREFIX);
        rest.is_some_and(|rest| rest.starts_with('_'))
    }

    /// Reads a key as it is presented; `None` for everything else, a key with a typing error included.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?.strip_prefix('_')?;
        let (id, rest) = rest.split_once('_')?;
        let (secret, checksum) = rest.split_at_checked(SECRET)?;
        let is_id = id.len() == ID && id.bytes().all(|byte| BASE36.contains(&byte));
        let is_secret = secret.bytes().all(|byte| BASE62.contains(&byte));
        if !is_id || !is_secret || checksum != checksum_of(id, secret) {
            return None;
        }
        Some(Self {
            id: id.parse().ok()?,
            secret: secret.into(),
        })
    }

    /// The public part.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The secret part.
    pub(super) fn secret(&self) -> &str {
        self.secret.expose_secret()
    }

    /// The whole key, for the one time that it is shown.
    pub fn reveal(&self) -> SecretString {
        let (id, secret) = (self.id.as_str(), self.secret());
        let checksum = checksum_of(id, secret);
        format!("{PREFIX}_{id}_{secret}{checksum}").into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// Random characters of an alphabet, each as likely as any other.
fn random(alphabet: &[u8], length: usize) -> Result<String, NoRandomness> {
    // The largest multiple of the alphabet's length that a byte can have: what is above would make the first characters likelier.
    let fair = 256 / alphabet.len() * alphabet.len();
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes).map_err(NoRandomness)?;
        let fair = bytes
            .iter()
            .map(|&byte| usize::from(byte))
            .filter(|&byte| byte < fair);
        let letters = fair.map(|byte| char::from(alphabet[byte % alphabet.len()]));
        text.extend(letters.take(length - text.len()));
    }
    Ok(text)
}

fn checksum_of(id: &str, secret: &str) -> String {
    let mut sum = u64::from(crc32fast::hash(
        format!("{PREFIX}_{id}_{secret}").as_bytes(),
    ));
    let mut digits = [0; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(sum % 62) as usize];
        sum /= 62;
    }
    digits.iter().map(|&digit| char::from(digit)).collect()
}

/// Feeds a stranger's bytes to the reader of keys; for fuzzing.
#[cfg(any(fuzzing, test))]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(key) = Key::parse(text) {
        assert_eq!(
            key.reveal().expose_secret(),
            text,
            "a key is written as it is read"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> String {
        Key::generate().unwrap().reveal().expose_secret().to_owned()
    }

    #[test]
    fn a_key_reads_back_as_it_was_shown() {
        let text = text();
        assert_eq!(text.len(), 4 + ID + 1 + SECRET + CHECKSUM);
        let key = Key::parse(&text).unwrap();
        assert_eq!(key.reveal().expose_secret(), text);
        assert!(text.starts_with(&format!("fsk_{}_", key.id())));
    }

    #[test]
    fn no_two_keys_are_alike() {
        let keys: std::collections::BTreeSet<String> = (0..1000).map(|_| text()).collect();
        assert_eq!(keys.len(), 1000);
    }

    #[test]
    fn every_single_typing_error_is_found() {
        let text = text();
        for place in 0..text.len() {
            for letter in ["0", "z", "Z", "_", " ", "é"] {
                if text[place..].starts_with(letter) {
                    continue;
                }
                let wrong = format!("{}{letter}{}", &text[..place], &text[place + 1..]);
                assert!(Key::parse(&wrong).is_none(), "{wrong}");
            }
        }
        for wrong in [
            &text[1..],
            &text[..text.len() - 1],
            "",
            "fsk",
            "fsk__",
            "fsk_a_b",
        ] {
            assert!(Key::parse(wrong).is_none(), "{wrong}");
        }
        assert!(Key::parse(&format!("{text}0")).is_none());
    }

    #[test]
    fn the_debug_output_has_the_id_alone() {
        let key = Key::generate().unwrap();
        let debug = format!("{key:?}");
        assert!(debug.contains(key.id().as_str()));
        assert!(!debug.contains(key.secret()));
    }

    proptest! {
        #![proptest_config(crate::inputs())]

        #[test]
        fn strangers_texts_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            fuzz(&bytes);
        }

        #[test]
        fn texts_that_look_like_keys_are_read_without_a_panic(text in "fsk_[0-9a-z_]{0,20}_[0-9A-Za-zé]{0,60}") {
            fuzz(text.as_bytes());
        }
    }
}
