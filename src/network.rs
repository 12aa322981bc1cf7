//! Networks of IP addresses, and the network that a limit per address counts.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A network, as `10.0.0.0/8` or `2001:db8::/32`; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Returns true if `address` is in it. An IPv4 address that is mapped into IPv6 counts as what
    /// it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address == masked(address.to_canonical(), self.bits)
            && self.address.is_ipv4() == address.to_canonical().is_ipv4()
    }
}

/// Returns what counts as one address: IPv4 addresses one by one, IPv6 by /64, because one host
/// has all addresses of such a network.
pub fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        address => masked(address, 64),
    }
}

/// Returns the first `bits` bits of an address.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let invalid = || format!("invalid network {text:?}: write 10.0.0.0/8 or 2001:db8::/32");
        let (address, bits) = text.split_once('/').unzip();
        let address: IpAddr = address.unwrap_or(text).parse().map_err(|_| invalid())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| invalid())?;
        if bits > most {
            return Err(invalid());
        }
        match masked(address, bits) {
            first if first == address => Ok(Network { address, bits }),
            first => Err(format!("invalid network {text:?}: its first address is {first}")),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_other() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "ffff::", "1.2.3.4"),
            ("::1", "::1", "::"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(address(inside)), "{network} {inside}");
            assert!(!parsed.contains(address(outside)), "{network} {outside}");
        }
    }

    #[test]
    fn an_invalid_network_is_refused_with_the_reason() {
        for wrong in ["", "/8", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "host", "10.0.0/8"] {
            assert!(wrong.parse::<Network>().unwrap_err().contains("10.0.0.0/8"), "{wrong}");
        }
        assert!("10.1.0.0/8".parse::<Network>().unwrap_err().contains("10.0.0.0"));
    }

    #[test]
    fn an_ipv6_host_is_counted_by_its_network_and_a_mapped_address_as_ipv4() {
        assert_eq!(counted(address("2001:db8:0:1:2:3:4:5")), address("2001:db8:0:1::"));
        assert_ne!(counted(address("2001:db8:0:2::")), counted(address("2001:db8:0:1::")));
        assert_eq!(counted(address("::ffff:1.2.3.4")), address("1.2.3.4"));
    }
}
