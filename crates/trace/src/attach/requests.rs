//! The requests in flight on one ring. A request is identified by its address where the kernel
//! traces it, and by its user data otherwise: programs may give many requests the same.

use std::collections::hash_map::Entry;

use super::hash::FastMap;
use crate::kernel::KernelEvent;
use proactor_record::format::CQE_NOTIFICATION;

/// `IORING_OP_*` of requests that may have many completions: poll_add, timeout, accept, recvmsg,
/// recv, uring_cmd, send_zc, sendmsg_zc, read_multishot, recv_zc.
const MANY: [u8; 10] = [6, 11, 13, 10, 27, 46, 47, 48, 49, 58];

/// The identity of a request: its address and zero, or zero and its user data where the kernel does
/// not trace the address.
pub(super) type RequestKey = (u64, u64);

/// A request in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) opcode: Option<u8>,
    pub(super) user_data: u64,
    /// The time of the submission, if it was seen.
    pub(super) begun: Option<u64>,
    /// The time of an arrival that no completion has reported yet.
    pub(super) arrived: Option<u64>,
    pub(super) shots: u64,
    /// Its number, modulo 2¹⁶: that of few others in flight.
    pub(super) number: u16,
    /// Whether it was handed to a worker thread.
    pub(super) punted: bool,
    /// The index of the file that it uses, if the kernel traces it.
    pub(super) file: Option<usize>,
}

impl Request {
    fn may_have_many(&self) -> bool {
        self.shots > 0 || self.opcode.is_some_and(|opcode| MANY.contains(&opcode))
    }
}

/// The requests in flight.
#[derive(Debug, Default)]
pub(super) struct RequestTable {
    requests: FastMap<RequestKey, Request>,
    /// Those with each user data: one, and the later ones.
    by_user_data: FastMap<u64, (RequestKey, Vec<RequestKey>)>,
    /// How many were begun, modulo 2¹⁶.
    begun: u16,
}

impl RequestTable {
    pub(super) fn get(&self, key: RequestKey) -> Option<&Request> {
        self.requests.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: RequestKey) -> Option<&mut Request> {
        self.requests.get_mut(&key)
    }

    /// Adds a request. Returns its key, and the request that had the same address: it has ended.
    pub(super) fn begin(
        &mut self,
        event: &KernelEvent,
        begun: Option<u64>,
    ) -> (RequestKey, Option<Request>) {
        let KernelEvent { opcode, user_data, request: address, .. } = *event;
        let key = (address, if address == 0 { user_data } else { 0 });
        let old = self.end(key);
        self.begun = self.begun.wrapping_add(1);
        let number = self.begun;
        let (arrived, shots, punted, file) = (None, 0, false, None);
        let request = Request { opcode, user_data, begun, arrived, shots, number, punted, file };
        self.requests.insert(key, request);
        match self.by_user_data.entry(user_data) {
            Entry::Vacant(place) => _ = place.insert((key, Vec::new())),
            Entry::Occupied(mut all) => all.get_mut().1.push(key),
        }
        (key, old)
    }

    /// Removes a request, which has ended.
    pub(super) fn end(&mut self, key: RequestKey) -> Option<Request> {
        let request = self.requests.remove(&key)?;
        if let Entry::Occupied(mut all) = self.by_user_data.entry(request.user_data) {
            let (first, later) = all.get_mut();
            match (*first == key, later.is_empty()) {
                (true, true) => _ = all.remove(),
                (true, false) => *first = later.remove(0),
                (false, _) => later.retain(|other| *other != key),
            }
        }
        Some(request)
    }

    /// Finds the request of an event. Of the completions of a multishot request only the last has
    /// the address, a completion outside a full queue has none, and a notification has another.
    pub(super) fn find(&self, event: &KernelEvent) -> Option<RequestKey> {
        let key = (event.request, 0);
        if let Some(request) = self.requests.get(&key).filter(|_| event.request != 0) {
            return (request.user_data == event.user_data).then_some(key);
        }
        let is_notification =
            event.completion().is_some_and(|(_, flags)| flags & CQE_NOTIFICATION != 0);
        if event.request != 0 && !is_notification {
            return None;
        }
        let (first, later) = self.by_user_data.get(&event.user_data)?;
        let latest_first = later.iter().rev().chain([first]);
        // The one that it fits best; of several, the latest.
        let has_more = event.more() || is_notification;
        let fit = |key: &&RequestKey| {
            let request = self.requests.get(key);
            request.map(|request| match has_more {
                true => (request.shots > 0, request.may_have_many()),
                false => (!request.may_have_many(), request.shots == 0),
            })
        };
        latest_first.reduce(|best, key| if fit(&key) > fit(&best) { key } else { best }).copied()
    }

    /// Forgets all, because events were lost.
    pub(super) fn clear(&mut self) {
        self.requests.clear();
        self.by_user_data.clear();
    }

    /// The sizes of both tables.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.requests.len(), self.by_user_data.len())
    }
}
