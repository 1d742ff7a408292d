//! `lb-agent drops`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets::NOTHING};
use lb_common::{counter::Outcome, drops::Event};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{
    dataplane::bpf,
    drops::{Kernel, Row, backend, device, others, packet, rows},
};

/// Between two looks of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// Flags of `lb-agent drops`.
#[derive(Args, Debug)]
pub struct DropsArgs {
    /// Directory of the pinned maps and programs.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lb")]
    pin_dir: PathBuf,

    /// Show it again every second, with packets a second.
    #[arg(long)]
    watch: bool,

    /// A table for people, or JSON for programs: with --watch, a line each time.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table, and what it means.
    Table,
    /// JSON.
    Json,
}

/// Why the drops cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No maps are pinned there, or they cannot be read.
    #[error("read the drops")]
    Maps(#[from] bpf::Error),
    /// The clock of the samples cannot be read.
    #[error("read the clock")]
    Clock(#[source] nix::Error),
    /// Nobody listens.
    #[error("write the drops")]
    Write(#[from] io::Error),
}

impl DropsArgs {
    /// Writes what was dropped; with `--watch` for ever.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn run(&self, out: &mut impl Write) -> Result<(), Error> {
        let mut before = None;
        loop {
            let look = Look::new(&self.pin_dir, before.as_ref())?;
            match (self.output, self.watch) {
                (Output::Table, _) => write!(out, "{}", look.text())?,
                (Output::Json, false) => writeln!(out, "{:#}", look.json())?,
                (Output::Json, true) => writeln!(out, "{}", look.json())?,
            }
            if !self.watch {
                return Ok(());
            }
            out.flush()?;
            thread::sleep(INTERVAL);
            if self.output == Output::Table {
                writeln!(out)?;
            }
            before = Some(look);
        }
    }
}

/// What there is to see at a moment.
#[derive(Debug)]
struct Look {
    at: Instant,
    rows: Vec<Counted>,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Counted {
    row: Row,
    /// Packets a second since the last look.
    rate: Option<f64>,
}

/// The last packet that was dropped for a reason.
#[derive(Debug)]
struct Sample {
    reason: Outcome,
    event: Event,
    device: String,
    backend: Option<String>,
    age: Duration,
}

impl Look {
    fn new(pin_dir: &Path, before: Option<&Self>) -> Result<Self, Error> {
        let names = Kernel {
            pin_dir: pin_dir.to_owned(),
        };
        // In this order: what is dropped meanwhile must not seem to belong to no device.
        let counters = bpf::pinned_counters(pin_dir)?;
        let drops = bpf::pinned_drops(pin_dir)?;
        let at = Instant::now();
        let mut rows = rows(&drops, &names);
        rows.extend(others(&counters, &drops));
        rows.sort_by_key(|row| row.reason as u8);
        let rows = rows.into_iter().map(|row| Counted {
            rate: before.map(|before| before.rate_of(&row, at)),
            row,
        });
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(Error::Clock)?;
        let now = Duration::from(now);
        let samples = bpf::pinned_last_drops(pin_dir)?;
        let samples = samples.into_iter().filter_map(|event| {
            Some(Sample {
                reason: event.reason()?,
                device: device(event.ifindex, &names),
                backend: backend(event.backend, &names),
                age: now.saturating_sub(Duration::from_nanos(event.time_ns)),
                event,
            })
        });
        Ok(Self {
            at,
            rows: rows.collect(),
            samples: samples.collect(),
        })
    }

    fn rate_of(&self, row: &Row, at: Instant) -> f64 {
        let place = |row: &Row| {
            let Row {
                reason,
                hook,
                interface,
                backend,
                packets: _,
            } = row.clone();
            (reason, hook, interface, backend)
        };
        let same = self.rows.iter().find(|c| place(&c.row) == place(row));
        let before = same.map_or(0, |counted| counted.row.packets);
        let elapsed = at.saturating_duration_since(self.at).as_secs_f64();
        row.packets.saturating_sub(before) as f64 / elapsed.max(f64::MIN_POSITIVE)
    }

    /// For people.
    fn text(&self) -> String {
        if self.rows.is_empty() {
            return "no packet was dropped\n".into();
        }
        let has_rates = self.rows.iter().any(|counted| counted.rate.is_some());
        let mut table = Table::new();
        table.load_style(NOTHING);
        let mut header = vec!["REASON", "INTERFACE", "HOOK", "BACKEND", "PACKETS"];
        header.extend(has_rates.then_some("PER SECOND"));
        table.set_header(header);
        for Counted { row, rate } in &self.rows {
            let nothing = || "-".to_owned();
            let mut cells = vec![
                format!("{:?}", row.reason),
                row.interface.clone().unwrap_or_else(nothing),
                format!("{:?}", row.hook),
                row.backend.clone().unwrap_or_else(nothing),
                row.packets.to_string(),
            ];
            cells.extend(rate.map(|rate| format!("{rate:.0}")));
            table.add_row(cells);
        }
        let reasons: BTreeMap<u8, Outcome> = self
            .rows
            .iter()
            .map(|counted| (counted.row.reason as u8, counted.row.reason))
            .collect();
        let told: String = reasons.into_values().map(|r| self.tell(r)).collect();
        format!("{table}\n{told}")
    }

    /// A reason in some lines.
    fn tell(&self, reason: Outcome) -> String {
        let Some(told) = reason.drop_reason() else {
            return String::new();
        };
        let (meaning, advice) = (told.meaning, told.advice);
        let mut text = format!("\n{reason:?}: {meaning}\n  what to do: {advice}\n");
        for sample in self.samples.iter().filter(|s| s.reason == reason) {
            text += &format!(
                "  last one: {:.0?} ago at {}, {}\n",
                sample.age,
                sample.device,
                packet(&sample.event)
            );
        }
        text
    }

    /// For programs.
    fn json(&self) -> Value {
        let items: Vec<Value> = self.rows.iter().map(Counted::json).collect();
        let reasons: BTreeSet<u8> = self.rows.iter().map(|c| c.row.reason as u8).collect();
        let reasons = reasons.into_iter().filter_map(Outcome::from_number);
        let reasons: Vec<Value> = reasons.map(|reason| self.reason_json(reason)).collect();
        json!({
            "apiVersion": "lb-agent.io/v1", "kind": "DropList",
            "items": items, "reasons": reasons,
        })
    }

    fn reason_json(&self, reason: Outcome) -> Value {
        let told = reason.drop_reason();
        let last = self.samples.iter().find(|sample| sample.reason == reason);
        json!({
            "reason": format!("{reason:?}"),
            "meaning": told.map(|told| told.meaning),
            "advice": told.map(|told| told.advice),
            "last": last.map(Sample::json),
        })
    }
}

impl Counted {
    fn json(&self) -> Value {
        let Self { row, rate } = self;
        let mut value = json!({
            "reason": format!("{:?}", row.reason),
            "interface": row.interface,
            "hook": format!("{:?}", row.hook),
            "backend": row.backend,
            "packets": row.packets,
        });
        if let Some(rate) = rate {
            value["packetsPerSecond"] = json!(rate);
        }
        value
    }
}

impl Sample {
    fn json(&self) -> Value {
        let Self { event, .. } = self;
        json!({
            "ageSeconds": self.age.as_secs_f64(),
            "interface": self.device,
            "hook": event.hook().map(|hook| format!("{hook:?}")),
            "backend": self.backend,
            "source": event.src.to_ip(),
            "sourcePort": event.src_port,
            "destination": event.dst.to_ip(),
            "destinationPort": event.dst_port,
            "protocol": event.protocol,
            "tcpFlags": event.tcp_flags,
            "ipLength": event.ip_len,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use lb_common::counter::Hook;

    use super::*;

    fn look(packets: u64, before: Option<&Look>, at: Instant) -> Look {
        let row = Row {
            reason: Outcome::NoSnatPort,
            hook: Hook::PodIngress,
            interface: Some("veth7".into()),
            backend: Some("10.244.2.3:80".into()),
            packets,
        };
        let rate = before.map(|before| before.rate_of(&row, at));
        let sample = Sample {
            reason: row.reason,
            event: Event::zeroed(),
            device: "veth7".into(),
            backend: row.backend.clone(),
            age: Duration::from_secs(3),
        };
        Look {
            at,
            rows: vec![Counted { row, rate }],
            samples: vec![sample],
        }
    }

    #[test]
    fn the_table_says_what_a_reason_means_and_what_to_do() {
        let text = look(5, None, Instant::now()).text();
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        let cells: Vec<_> = lines[1].split_whitespace().collect();
        let expected = ["NoSnatPort", "veth7", "PodIngress", "10.244.2.3:80", "5"];
        assert_eq!(cells, expected);
        assert!(lines[3].starts_with("NoSnatPort: every port"), "{text}");
        assert!(lines[4].starts_with("  what to do: give"), "{text}");
        let last = "  last one: 3s ago at veth7, a packet that could not be read";
        assert_eq!(lines[5], last);
        assert!(!text.contains("PER SECOND"));
    }

    #[test]
    fn a_watch_shows_rates() {
        let first = look(5, None, Instant::now());
        let second = look(25, Some(&first), first.at + Duration::from_secs(2));
        assert!(second.text().contains("PER SECOND"));
        assert_eq!(second.json()["items"][0]["packetsPerSecond"], 10.0);
        assert!(first.json()["items"][0].get("packetsPerSecond").is_none());
    }

    #[test]
    fn nothing_dropped_is_said() {
        let empty = Look {
            rows: Vec::new(),
            ..look(0, None, Instant::now())
        };
        assert_eq!(empty.text(), "no packet was dropped\n");
        assert_eq!(empty.json()["items"], json!([]));
    }
}
