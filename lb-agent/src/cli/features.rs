//! `lb-agent features`.

use std::io::{self, Write};

use clap::Args;
use comfy_table::{Table, presets::NOTHING};

use crate::dataplane::bpf::{self, Feature};

/// Flags of `lb-agent features`.
#[derive(Args, Debug)]
pub struct FeaturesArgs {}

/// Why nothing is said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not say.
    #[error("ask the kernel")]
    Kernel(#[from] bpf::Error),
    /// Something is missing for which there is no substitute.
    #[error("an agent does not start on this kernel: it has no {0}")]
    Missing(&'static str),
    /// Nobody listens.
    #[error("write what the kernel has")]
    Write(#[from] io::Error),
}

impl FeaturesArgs {
    /// Asks the kernel, and says what it has.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn run(&self, out: &mut impl Write) -> Result<(), Error> {
        tell(&bpf::features()?, out)
    }
}

fn tell(features: &[Feature], out: &mut impl Write) -> Result<(), Error> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for feature in features {
        let (there, without) = match feature {
            Feature { is_there: true, .. } => ("yes", ""),
            missing if missing.stops() => ("no", "no agent starts without"),
            missing => ("no", missing.without),
        };
        table.add_row([feature.name, there, without]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    match features.iter().find(|feature| feature.stops()) {
        Some(missing) => Err(Error::Missing(missing.name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(features: &[Feature]) -> (String, Result<(), Error>) {
        let mut out = Vec::new();
        let result = tell(features, &mut out);
        (String::from_utf8(out).unwrap(), result)
    }

    const TCX: Feature = Feature {
        name: "tcx",
        is_there: false,
        without: "filters",
    };

    #[test]
    fn what_is_missing_is_told_with_what_happens_instead() {
        let (text, result) = told(&[TCX]);
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(words, ["tcx", "no", "filters"]);
        assert!(result.is_ok());
    }

    #[test]
    fn what_nothing_works_without_is_an_error() {
        let maps = Feature {
            name: "ring buffers",
            without: "",
            ..TCX
        };
        let (text, result) = told(&[maps]);
        assert!(text.contains("no agent starts without"), "{text}");
        let error = result.unwrap_err().to_string();
        assert!(error.ends_with("it has no ring buffers"), "{error}");
    }
}
