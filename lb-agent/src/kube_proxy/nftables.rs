//! The kernel's list of chains, those of iptables with nftables beneath among them.

use std::io;

use super::nfnetlink;

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = 10 << 8 | 4;
/// `NFTA_CHAIN_TABLE` and `NFTA_CHAIN_NAME`.
const TABLE: u16 = 1;
const NAME: u16 = 3;

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// As nft calls it.
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) name: String,
}

/// Every chain of this network namespace.
pub(super) fn chains() -> io::Result<Vec<Chain>> {
    let mut chains = Vec::new();
    nfnetlink::dump(GET_CHAIN, |family, attributes| {
        chains.extend(chain(family, attributes));
    })?;
    Ok(chains)
}

fn chain(family: i32, attributes: &[u8]) -> Option<Chain> {
    let family = match family {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    let text = |kind| {
        let text = String::from_utf8_lossy(nfnetlink::attribute(attributes, kind)?);
        Some(text.trim_end_matches('\0').to_owned())
    };
    Some(Chain {
        family,
        table: text(TABLE)?,
        name: text(NAME)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{nfnetlink::fixture::*, *};

    #[test]
    fn chains_are_read_with_their_tables() {
        let attributes = [
            attribute(TABLE, b"kube-proxy\0"),
            attribute(2, &[0; 8]),
            attribute(NAME, b"services\0"),
        ];
        let mut bytes = message(10 << 8 | 3, libc::NFPROTO_IPV6, &attributes.concat());
        bytes.extend(raw(libc::NLMSG_DONE as u16, &[0; 4]));
        let mut chains = Vec::new();
        let mut each = |family, attributes: &[u8]| chains.extend(chain(family, attributes));
        let read = nfnetlink::read(&bytes, &mut each).unwrap();
        assert_eq!(read, nfnetlink::Read::All);
        let expected = Chain {
            family: "ip6",
            table: "kube-proxy".into(),
            name: "services".into(),
        };
        assert_eq!(chains, [expected]);
    }
}
