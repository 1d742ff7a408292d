//! What SNAT sends from.

use std::collections::BTreeMap;

use lb_common::{Addr, DatapathConfig, Interface};

/// Addresses that only SNAT sends from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnatAddresses {
    /// Of IPv4.
    pub v4: Option<Addr>,
    /// Of IPv6.
    pub v6: Option<Addr>,
}

impl SnatAddresses {
    /// The constants of programs with these addresses.
    pub(super) fn config(self) -> DatapathConfig {
        let addrs = self.v4.into_iter().chain(self.v6);
        addrs.fold(DatapathConfig::DEFAULT, DatapathConfig::with_snat_address)
    }

    /// What the programs are to know about devices, of which `interfaces` are their own addresses.
    pub(super) fn on(self, mut interfaces: BTreeMap<u32, Interface>) -> BTreeMap<u32, Interface> {
        for interface in interfaces.values_mut() {
            interface.snat4 = self.v4.unwrap_or(interface.snat4);
            interface.snat6 = self.v6.unwrap_or(interface.snat6);
        }
        interfaces
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn a_device_keeps_its_own_address_in_a_family_without_another() {
        let addr = |addr: &str| Addr::from(addr.parse::<IpAddr>().expect("an address"));
        let own = Interface {
            snat4: addr("192.0.2.1"),
            snat6: addr("2001:db8::1"),
            ..Interface::default()
        };
        let snat = SnatAddresses {
            v4: Some(Ipv4Addr::new(192, 0, 2, 7).into()),
            v6: None,
        };
        let on = snat.on(BTreeMap::from([(2, own)]));
        assert_eq!((on[&2].snat4, on[&2].snat6), (addr("192.0.2.7"), own.snat6));
    }
}
