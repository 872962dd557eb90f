//! A report for people.
//!
//! Invariant: names and metadata come from strangers, so control characters are escaped and long values cut; the JSON form has them whole.

use std::fmt;

use super::{Adapters, Backbone, File, Inspection, Kind};

/// Characters of a metadata value that are shown.
const MAX_VALUE: usize = 240;

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Backbone => "backbone",
            Kind::AdapterSet => "adapter set",
            Kind::Tensors => "tensors",
        };
        writeln!(f, "{}: {kind}", plain(&self.path.to_string_lossy()))?;
        if let Some(backbone) = &self.backbone {
            write!(f, "{backbone}")?;
        }
        if let Some(adapters) = &self.adapters {
            write!(f, "{adapters}")?;
        }
        if let Some(refusal) = &self.refusal {
            writeln!(f, "  not a backbone that can be loaded: {}", plain(refusal))?;
        }
        self.files.iter().try_for_each(|file| write!(f, "{file}"))
    }
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  family         {}", self.family)?;
        writeln!(f, "  format         {}, {}", self.format, self.stored_as)?;
        writeln!(f, "  digest         {}", self.digest)?;
        writeln!(f, "  parameters     {}", self.parameters)?;
        if self.besides > 0 {
            writeln!(f, "  besides        {} tensors, not read", self.besides)?;
        }
        writeln!(
            f,
            "  input          {side} x {side} pixels in patches of {patch} x {patch}",
            side = self.image_size,
            patch = self.patch_size
        )?;
        writeln!(
            f,
            "  blocks         {} of width {}, {} heads, MLP {}, {}, eps {:e}",
            self.layers, self.width, self.heads, self.mlp_width, self.activation, self.eps
        )?;
        let normalization = self.normalization;
        writeln!(
            f,
            "  normalization  mean {:?}, std {:?}",
            normalization.mean, normalization.std
        )?;
        self.decisions.iter().try_for_each(|decided| {
            let from = plain(&decided.from);
            writeln!(
                f,
                "  decided        {}: {} ({from})",
                decided.field, decided.value
            )
        })
    }
}

impl fmt::Display for Adapters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |number: Option<usize>| number.map_or("?".to_owned(), |n| n.to_string());
        writeln!(
            f,
            "  head           {}, {} classes, for a backbone of width {}",
            self.head,
            known(self.classes),
            known(self.width)
        )?;
        writeln!(f, "  parameters     {}", self.parameters)?;
        if self.sites.is_empty() && self.head != "mean" {
            return writeln!(f, "  adapters       none");
        }
        if self.sites.is_empty() {
            return writeln!(f, "  adapters       none: a linear probe");
        }
        for site in &self.sites {
            let kernel = match site.adapter_kernel_size {
                Some([t, h, w]) => format!("{t} x {h} x {w}"),
                None => "?".to_owned(),
            };
            writeln!(
                f,
                "  adapter        block {}, {}, width {}, kernel {kernel}",
                site.block,
                site.place,
                known(site.adapter_width)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{}: {}, {} bytes, {} tensors, {} elements\n  sha256 {}",
            plain(&self.name),
            self.format,
            self.bytes,
            self.tensors.len(),
            self.elements,
            self.sha256
        )?;
        for key in &self.not_read {
            writeln!(f, "  not read {}", plain(key))?;
        }
        for passed in &self.passed_over {
            writeln!(f, "  passed over {}", plain(&passed.to_string()))?;
        }
        for (key, value) in &self.metadata {
            writeln!(f, "  metadata {} = {}", plain(key), short(value))?;
        }
        for tensor in &self.tensors {
            let shape = format!("{:?}", tensor.shape);
            let name = plain(&tensor.name);
            writeln!(f, "  {:<4} {shape:<20} {name}", tensor.dtype)?;
        }
        Ok(())
    }
}

/// Escapes control characters, which could rewrite a terminal.
fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            let escaped = letter.is_control().then(|| letter.escape_default());
            let own = escaped.is_none().then_some(letter);
            escaped.into_iter().flatten().chain(own)
        })
        .collect()
}

fn short(text: &str) -> String {
    let mut letters = text.chars();
    let mut short = plain(&letters.by_ref().take(MAX_VALUE).collect::<String>());
    let left = letters.count();
    if left > 0 {
        short.push_str(&format!(" … and {left} more characters"));
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_wrote_cannot_move_the_cursor() {
        assert_eq!(plain("a\u{1b}[2J\nß"), "a\\u{1b}[2J\\nß");
        let long = short(&"x".repeat(300));
        assert!(long.ends_with("… and 60 more characters"), "{long}");
    }
}
