//! `lb-agent counters`.

use std::path::PathBuf;

use clap::Args;
use comfy_table::{Table, presets::NOTHING};
use lb_common::{
    Counter,
    counter::{Hook, Outcome},
};

use crate::dataplane::bpf::{self, Error};

/// Flags of `lb-agent counters`.
#[derive(Args, Debug)]
pub struct CountersArgs {
    /// Directory of the pinned maps and programs.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lb")]
    pin_dir: PathBuf,
}

impl CountersArgs {
    /// What has been counted, as a table: packets by hook and outcome.
    ///
    /// # Errors
    ///
    /// [`Error`] if no maps are pinned there.
    pub fn table(&self) -> Result<Table, Error> {
        let counters = bpf::pinned_counters(&self.pin_dir)?;
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["HOOK", "OUTCOME", "PACKETS"]);
        for hook in Hook::ALL {
            for outcome in Outcome::ALL {
                let count = counters.get(Counter { hook, outcome }.index() as usize);
                if let Some(count) = count.filter(|count| **count > 0) {
                    table.add_row([
                        format!("{hook:?}"),
                        format!("{outcome:?}"),
                        count.to_string(),
                    ]);
                }
            }
        }
        Ok(table)
    }
}
