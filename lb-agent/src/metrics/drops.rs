//! Dropped packets.

use std::{collections::BTreeMap, fmt};

use lb_common::{DropKey, counter::Outcome};
use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter},
};

use super::{
    maps::snake_case,
    registry::{Described, described},
};
use crate::drops::{Names, Row, rows};

const DROPS: Described = described(
    "lb_drop_count",
    "Packets that went no further (and refused socket calls, without an interface), by why and where",
);

const SNAT_EXHAUSTED: Described = described(
    "lb_snat_exhausted",
    "Packets dropped because no source port towards a backend was free",
);

/// Encodes the elements of `DROPS`.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    drops: &BTreeMap<DropKey, u64>,
    names: &impl Names,
) -> fmt::Result {
    let rows = rows(drops, names);
    let counter = MetricType::Counter;
    DROPS.encode_rows(encoder, counter, sums(&rows, |row| Some(by_place(row))))?;
    let by_backend = |row: &Row| {
        let is_exhausted = row.reason == Outcome::NoSnatPort;
        let backend = row.backend.clone().filter(|_| is_exhausted)?;
        Some([("backend", backend)])
    };
    SNAT_EXHAUSTED.encode_rows(encoder, counter, sums(&rows, by_backend))
}

fn by_place(row: &Row) -> Labels<3> {
    [
        ("reason", snake_case(&format!("{:?}", row.reason))),
        ("interface", row.interface.clone().unwrap_or_default()),
        ("hook", snake_case(&format!("{:?}", row.hook))),
    ]
}

type Labels<const N: usize> = [(&'static str, String); N];

/// Packets by the labels that rows have, if they have some.
fn sums<const N: usize>(
    rows: &[Row],
    labels: impl Fn(&Row) -> Option<Labels<N>>,
) -> Vec<(Labels<N>, ConstCounter<u64>)> {
    let mut sums = BTreeMap::new();
    for row in rows {
        if let Some(labels) = labels(row) {
            *sums.entry(labels).or_insert(0_u64) += row.packets;
        }
    }
    let sums = sums.into_iter();
    sums.map(|(labels, packets)| (labels, ConstCounter::new(packets)))
        .collect()
}
