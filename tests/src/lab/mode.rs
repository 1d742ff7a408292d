//! What all labs of a process have in common, whatever each of them asks for.
//!
//! The same tests run in more than one mode: what holds where packets are treated kindly must hold
//! where they are not.

use std::env;
use std::str::FromStr;

use anyhow::{Error, Result, bail};

use super::netns::Netns;
use super::script;

/// Names the mode; unset or empty for labs as they are asked for.
pub const MODE_VARIABLE: &str = "LB_LAB_MODE";

/// Makes every node take half a connection for none, and drop it: its conntrack must have seen all
/// of a connection, in both directions, or none of it.
const DROP_INVALID: &str = "
table inet invalid {
  chain forward { type filter hook forward priority filter; ct state invalid counter drop; }
  chain input { type filter hook input priority filter; ct state invalid counter drop; }
  chain output { type filter hook output priority filter; ct state invalid counter drop; }
}";

/// How unkind labs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// The host ends of pods' veths compute no checksums: a wrong partial one shows.
    pub tx_off: bool,
    /// Nodes drop packets that their conntrack takes for invalid.
    pub drop_invalid: bool,
}

impl Mode {
    /// The mode that the environment says.
    ///
    /// # Errors
    /// When it says something else.
    pub fn of_environment() -> Result<Self> {
        env::var(MODE_VARIABLE).unwrap_or_default().parse()
    }
}

impl FromStr for Mode {
    type Err = Error;

    /// Words with commas in between: `tx-off`, `drop-invalid`.
    fn from_str(words: &str) -> Result<Self> {
        let mut mode = Self::default();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            match word {
                "tx-off" => mode.tx_off = true,
                "drop-invalid" => mode.drop_invalid = true,
                _ => bail!("{MODE_VARIABLE} does not take {word:?}"),
            }
        }
        Ok(mode)
    }
}

/// Lets a node drop what its conntrack takes for invalid. Such a rule switches conntrack on.
pub(super) fn drop_invalid(node: &Netns) -> Result<()> {
    script::nft(node, DROP_INVALID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_a_list_of_words() {
        let both = Mode {
            tx_off: true,
            drop_invalid: true,
        };
        assert_eq!("".parse::<Mode>().unwrap(), Mode::default());
        assert_eq!("drop-invalid,tx-off".parse::<Mode>().unwrap(), both);
        assert!("tx-on".parse::<Mode>().is_err());
    }
}
