//! What the agent has programmed, as the model wants to see it.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::{Addr, Extent, Frontend, FrontendKey, Slot, frontend::flags};

use super::{
    Disagreement,
    services::{self, Served},
};
use crate::{
    model::{Tables, Vip},
    programs::{Bench, Family},
};

/// What the node was told. Of addresses and source ranges the Services themselves tell.
pub(super) fn tables(
    bench: &mut Bench,
    services: &[Served],
    nets: &[IpNet],
) -> Result<Tables, Disagreement> {
    let frontends = bench.programmed().frontends().clone();
    let backends = bench.programmed().backends().iter();
    Ok(Tables {
        backends: backends
            .map(|(index, backend)| (*index, *backend))
            .collect(),
        tables: look_up_tables(&frontends, bench.slots())?,
        vips: vips(&frontends, services),
        ranges: ranges(&frontends, services),
        frontends: frontends.into_iter().collect(),
        nets: nets.to_vec(),
    })
}

/// The tables of all frontends, by their place.
fn look_up_tables(
    frontends: &BTreeMap<FrontendKey, Frontend>,
    slots: &[Slot],
) -> Result<HashMap<u32, Vec<Slot>>, Disagreement> {
    let mut tables = HashMap::new();
    for (key, frontend) in frontends {
        for extent in [frontend.inside, frontend.outside] {
            if extent == Extent::EMPTY || tables.contains_key(&extent.offset) {
                continue;
            }
            let start = extent.offset as usize;
            let table = slots.get(start..start + extent.elements() as usize);
            let header = Slot::header(frontend.service, frontend.generation);
            match table.and_then(<[Slot]>::split_first) {
                Some((first, table)) if *first == header => {
                    tables.insert(extent.offset, table.to_vec());
                }
                _ => return Err(Disagreement(format!("no table at {extent:?} for {key:?}"))),
            }
        }
    }
    Ok(tables)
}

/// Addresses of Services, and whether somebody serves there.
fn vips(frontends: &BTreeMap<FrontendKey, Frontend>, services: &[Served]) -> HashMap<Addr, Vip> {
    let mut vips: HashMap<Addr, Vip> = HashMap::new();
    for service in services {
        for family in Family::ALL {
            let vip = vips.entry(family.vip(service.number).into()).or_default();
            vip.is_cluster_ip = true;
        }
    }
    for family in Family::ALL {
        vips.entry(family.node(1).into()).or_default().is_node = true;
    }
    for (key, frontend) in frontends {
        if frontend.flags & flags::NODE_PORT == 0 {
            let vip = vips.entry(key.addr).or_default();
            vip.served |= frontend.flags & flags::HAS_ENDPOINTS != 0;
        }
    }
    vips
}

/// Whose connections Service ports take that do not take all.
fn ranges(
    frontends: &BTreeMap<FrontendKey, Frontend>,
    services: &[Served],
) -> HashMap<u32, Vec<IpNet>> {
    let mut ranges = HashMap::new();
    for (key, frontend) in frontends {
        let addr: IpAddr = key.addr.to_ip();
        let family = if addr.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let mut owners = services.iter().filter(|service| !service.ranges.is_empty());
        let owner = owners.find(|service| services::balanced(family, service.number) == addr);
        if let Some(owner) = owner {
            ranges.insert(frontend.service, owner.ranges.clone());
        }
    }
    ranges
}
