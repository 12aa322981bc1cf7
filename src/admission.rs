//! Which connections a server admits: so many of one address, and so many in a second.
//!
//! An [`Admission`] belongs to one server, all of whose threads share it. Each connection that is
//! admitted keeps an [`Admitted`], which gives its place back when the connection is gone, however
//! that comes about. So the counts are right whichever engine serves.
//!
//! The table has an entry for each address that has a connection. With a rate, it also keeps those
//! that had one of late; all of these are forgotten when there are too many, so the table is
//! bounded by the limit of connections (`idle_max`). An attacker with that many addresses can thus
//! reset its rate, and is limited by the rate and the number of all connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Nanos;
use crate::limits::{CloseReason, Limits};
use crate::network::counted;
use crate::rate::Bucket;

/// What a server knows of the addresses of its connections. Its clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Admission(Arc<State>);

#[derive(Debug, Default)]
struct State {
    limits: Limits,
    addresses: Mutex<HashMap<IpAddr, AddressEntry>>,
}

#[derive(Debug, Default)]
struct AddressEntry {
    connections: usize,
    bucket: Bucket,
}

/// The place of an admitted connection, which is given back when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    state: Arc<State>,
    address: IpAddr,
}

impl Admission {
    /// Admits connections within these limits.
    pub fn new(limits: &Limits) -> Admission {
        Admission(Arc::new(State { limits: limits.clone(), addresses: Mutex::default() }))
    }

    /// Admits a connection of the peer at `addr`. One without an IP address, as on a Unix socket,
    /// has no place: the permissions of its file apply.
    ///
    /// # Errors
    /// Its address has too many connections, or connects too often.
    pub fn admit(
        &self,
        addr: Option<SocketAddr>,
        now: Nanos,
    ) -> Result<Option<Admitted>, CloseReason> {
        // Behind a balancer, clients are admitted when their headers have come.
        let named_later = self.0.limits.proxy_protocol.is_some();
        let Some(peer) = addr.filter(|_| !named_later) else { return Ok(None) };
        let (state, address) = (&self.0, counted(peer.ip()));
        let limits = &state.limits;
        let mut addresses = state.lock();
        if addresses.len() >= state.idle_max() && !addresses.contains_key(&address) {
            addresses.retain(|_, entry| entry.connections > 0);
        }
        let entry = addresses.entry(address).or_default();
        let exempt = limits.exempt.iter().any(|network| network.contains(peer.ip()));
        if !exempt && entry.connections >= limits.connections_per_address.unwrap_or(usize::MAX) {
            drop(addresses);
            tracing::warn!(%peer, "its address has too many connections: one more is closed");
            return Err(CloseReason::AddressLimit);
        }
        if let Some(rate) = limits.accept_rate_per_address.filter(|_| !exempt) {
            if entry.bucket.empty_until(rate, now).is_some() {
                drop(addresses);
                tracing::warn!(%peer, "its address connects too often: a connection is closed");
                return Err(CloseReason::AddressRate);
            }
            entry.bucket.take(rate, now);
        }
        entry.connections += 1;
        Ok(Some(Admitted { state: Arc::clone(state), address }))
    }

    /// Logs that the connection of `addr` is the last that the limit of connections permits.
    pub fn report_full(&self, addr: Option<SocketAddr>) {
        let State { limits, .. } = &*self.0;
        let of_its_address = addr.map_or(0, |addr| self.connections_of(addr.ip()));
        let (peer, connections) = (addr.map(tracing::field::display), limits.connections);
        tracing::warn!(
            connections,
            peer,
            of_its_address,
            "full: further clients wait until a connection closes (--max-connections)"
        );
    }

    /// Returns how many connections this address has.
    pub fn connections_of(&self, address: IpAddr) -> usize {
        self.0.lock().get(&counted(address)).map_or(0, |entry| entry.connections)
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, AddressEntry>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With so many entries, those without a connection are forgotten. At most as many as there may
    /// be connections have one, so there is space for at least as many others until the next time.
    fn idle_max(&self) -> usize {
        self.limits.connections.saturating_mul(2).saturating_add(1024)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut addresses = self.state.lock();
        if let Entry::Occupied(mut entry) = addresses.entry(self.address) {
            entry.get_mut().connections -= 1;
            // With a rate, its bucket may not be full.
            if entry.get().connections == 0 && self.state.limits.accept_rate_per_address.is_none() {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rate::Rate;

    const NOW: Nanos = Nanos(1 << 40);

    fn admission(change: impl FnOnce(&mut Limits)) -> Admission {
        let mut limits = Limits { connections: 100, ..Limits::default() };
        change(&mut limits);
        Admission::new(&limits)
    }

    fn peer(text: &str) -> Option<SocketAddr> {
        Some(SocketAddr::new(text.parse().unwrap(), 1234))
    }

    #[test]
    fn an_address_has_so_many_connections_and_a_place_is_given_back() {
        let admission = admission(|limits| {
            limits.connections_per_address = Some(2);
            limits.exempt = vec!["10.0.0.0/8".parse().unwrap()];
        });
        let admit = |text| admission.admit(peer(text), NOW);
        let (one, _two) = (admit("1.2.3.4").unwrap(), admit("::ffff:1.2.3.4").unwrap());
        assert_eq!(admit("1.2.3.4").unwrap_err(), CloseReason::AddressLimit);
        let _other = admit("1.2.3.5").unwrap();
        drop(one);
        let _three = admit("1.2.3.4").unwrap();
        assert_eq!(admit("1.2.3.4").unwrap_err(), CloseReason::AddressLimit);
        let _v6 = [admit("2001:db8::1").unwrap(), admit("2001:db8::2").unwrap()];
        assert_eq!(admit("2001:db8::3").unwrap_err(), CloseReason::AddressLimit);
        let _next = admit("2001:db8:0:1::").unwrap();
        let exempt: Vec<_> = (0..10).map(|_| admit("10.1.2.3").unwrap()).collect();
        assert_eq!(admission.connections_of("10.1.2.3".parse().unwrap()), exempt.len());
        assert!(admission.admit(None, NOW).unwrap().is_none());
        drop(exempt);
        assert_eq!(admission.0.lock().len(), 4, "an address without a connection is forgotten");
    }

    #[test]
    fn an_address_connects_so_often_and_then_one_by_one() {
        let admission = admission(|limits| {
            limits.accept_rate_per_address = Some("3/s".parse().unwrap());
        });
        let mut now = NOW;
        let admitted = |text, now| admission.admit(peer(text), now).is_ok();
        assert_eq!((0..9).filter(|_| admitted("1.2.3.4", now)).count(), 3);
        assert!(admitted("1.2.3.5", now));
        now = now + Duration::from_millis(334);
        assert_eq!((0..9).filter(|_| admitted("1.2.3.4", now)).count(), 1);
        now = now + Duration::from_secs(9);
        assert_eq!((0..9).filter(|_| admitted("1.2.3.4", now)).count(), 3);
    }

    #[test]
    fn the_table_is_bounded_however_many_addresses_there_are() {
        let admission =
            admission(|limits| limits.accept_rate_per_address = Some(Rate::per_second(1)));
        let kept = admission.admit(peer("9.9.9.9"), NOW).unwrap();
        for address in 0..100_000u32 {
            let addr = SocketAddr::new(IpAddr::V4(address.into()), 1);
            admission.admit(Some(addr), NOW).unwrap();
            assert!(admission.0.lock().len() <= 2 * 100 + 1024);
        }
        assert_eq!(admission.connections_of("9.9.9.9".parse().unwrap()), 1);
        drop(kept);
    }
}
