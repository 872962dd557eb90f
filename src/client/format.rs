//! Forms of the files that commands write, by the file's ending or as asked for.

use std::path::Path;

use clap::ValueEnum;

use super::Error;

/// Form of a file of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Answers {
    /// One JSON object a line
    Jsonl,
    /// Parquet, one row an answer
    Parquet,
}

/// Form of a file of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Features {
    /// One NumPy array, and a .json beside it that says which row is which video
    Npy,
    /// Parquet, one row a video or, with --per-frame, a frame
    Parquet,
}

/// The form of a file: as asked for, else by its ending, else `usual`.
///
/// # Errors
/// When the ending names another form than the one that is asked for.
pub(super) fn of<F: ValueEnum + PartialEq + Copy>(
    out: &Path,
    asked: Option<F>,
    usual: F,
) -> Result<F, Error> {
    let ending = out.extension().and_then(|ending| ending.to_str());
    let named = ending.and_then(|ending| F::from_str(ending, true).ok());
    match (asked, named) {
        (Some(asked), Some(named)) if asked != named => {
            let form = asked.to_possible_value();
            let form = form.as_ref().map_or("", |form| form.get_name());
            Err(Error::Usage(format!(
                "--format {form}: {} ends in the name of another form",
                out.display()
            )))
        }
        (Some(form), _) | (None, Some(form)) => Ok(form),
        (None, None) => Ok(usual),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_decides_unless_a_form_is_asked_for() {
        let form = |out: &str, asked| of(Path::new(out), asked, Features::Npy).ok();
        for (out, asked, expected) in [
            ("a.npy", None, Some(Features::Npy)),
            ("a.parquet", None, Some(Features::Parquet)),
            ("a.PARQUET", None, Some(Features::Parquet)),
            ("a", None, Some(Features::Npy)),
            ("a.pq", Some(Features::Parquet), Some(Features::Parquet)),
            (
                "a.parquet",
                Some(Features::Parquet),
                Some(Features::Parquet),
            ),
            ("a.parquet", Some(Features::Npy), None),
            ("a.npy", Some(Features::Parquet), None),
        ] {
            assert_eq!(form(out, asked), expected, "{out} {asked:?}");
        }
        let refused = of(Path::new("a.parquet"), Some(Answers::Jsonl), Answers::Jsonl);
        assert_eq!(refused.unwrap_err().exit_code(), 64);
    }
}
