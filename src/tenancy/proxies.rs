//! Proxies whose word counts for where a call came from.
//!
//! Invariant: what a caller writes into `x-forwarded-for` itself never counts, since each trusted proxy adds the address that it heard from at the end.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

/// Header in which each proxy adds the address that it heard from.
pub const FORWARDED: &str = "x-forwarded-for";

/// Networks of trusted proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl FromStr for Proxies {
    type Err = String;

    /// Reads networks (`10.0.0.0/8`) and addresses with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split(',').map(str::trim);
        let words = words.filter(|word| !word.is_empty());
        let networks = words.map(|word| {
            let network = word.parse().or_else(|_| word.parse().map(IpAddr::into));
            network.map_err(|_: std::net::AddrParseError| {
                let shown: String = word.chars().take(80).collect();
                format!("{shown:?} is no network: expected 10.0.0.0/8, 10.0.0.7 or fd00::/8")
            })
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

impl Proxies {
    /// Whether an address is a trusted proxy's.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address that a call came from: the nearest one, seen from here, that is not of a trusted proxy. `forwarded` has the values of the header in their
    /// order.
    pub fn origin<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> IpAddr {
        let mut nearest = peer.to_canonical();
        if self.0.is_empty() {
            return nearest;
        }
        let hops = forwarded.rev().flat_map(|value| {
            let hops = value.rsplit(|byte| *byte == b',');
            hops.map(|hop| std::str::from_utf8(hop).unwrap_or_default())
        });
        for hop in hops {
            if !self.has(nearest) {
                break;
            }
            // What cannot be read was not written by a proxy that can be trusted.
            let Some(address) = read(hop.trim()) else {
                break;
            };
            nearest = address.to_canonical();
        }
        nearest
    }
}

/// The address of a hop, which some proxies write with a port.
fn read(hop: &str) -> Option<IpAddr> {
    let plain = hop
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address: Result<IpAddr, _> = plain.unwrap_or(hop).parse();
    let with_port = || hop.parse::<SocketAddr>().map(|address| address.ip());
    address.or_else(|_| with_port()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(proxies: &str, peer: &str, forwarded: &[&str]) -> String {
        let proxies: Proxies = proxies.parse().unwrap();
        let values = forwarded.iter().map(|value| value.as_bytes());
        proxies.origin(peer.parse().unwrap(), values).to_string()
    }

    #[test]
    fn an_origin_is_the_nearest_address_that_is_no_trusted_proxy() {
        let trusted = "10.0.0.0/8, 192.168.7.7, fd00::/8";
        for (peer, forwarded, expected) in [
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            // What the caller wrote itself is further away.
            ("10.1.2.3", &["127.0.0.1, 198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["127.0.0.1", "198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["198.51.100.1, 192.168.7.7"], "198.51.100.1"),
            (
                "10.1.2.3",
                &["198.51.100.1", "10.9.9.9 , fd00::1"],
                "198.51.100.1",
            ),
            ("::ffff:10.1.2.3", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.1.2.3", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.1.2.3", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.1.2.3", &[], "10.1.2.3"),
            ("10.1.2.3", &["unknown"], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.1, "], "10.1.2.3"),
            ("10.1.2.3", &["10.0.0.1"], "10.0.0.1"),
        ] {
            assert_eq!(origin(trusted, peer, forwarded), expected, "{forwarded:?}");
        }
        assert_eq!(origin("", "10.1.2.3", &["198.51.100.1"]), "10.1.2.3");
        for bad in ["10.0.0.0/33", "proxy.example", "10.0.0"] {
            assert!(bad.parse::<Proxies>().is_err(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(crate::inputs())]

        #[test]
        fn strangers_headers_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let proxies: Proxies = "0.0.0.0/0,::/0".parse().unwrap();
            let values = bytes.split(|byte| *byte == b'\n');
            proxies.origin("10.0.0.1".parse().unwrap(), values);
        }
    }
}
