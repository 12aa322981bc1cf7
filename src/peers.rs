//! Every open connection: who is to be resumed, what they say to one another, who must wait.
//!
//! Drivers of every kind keep their connections here, each beside something of the driver's own
//! (`D`: its socket, what is in flight). A driver reports events; `Peers` steps the connection,
//! *marks* it, and hands what it said on to the others of its room. Then the driver asks for those
//! that are marked and resumes each once, however much happened to it. Whoever is marked while a
//! turn's peers are resumed waits for the next turn.
//!
//! # A reader may be as slow as it likes, until somebody waits for it
//!
//! * *Hushed*: a peer that is owed too much is *congested*. While anyone in a room is congested,
//!   those of the room who talk (have broadcast) are not received from. So a flood runs at the
//!   speed of the slowest listener, and nobody who reads loses a line.
//! * *Starved*: a peer wanted a buffer and there was none: they are all in what others are owed.
//!
//! While somebody waits in either way, a peer that is owed bytes and takes none of them for
//! [`SOFT`] is evicted. (The words are those of redis' `client-output-buffer-limit`.)

mod operator;

use std::collections::VecDeque;
use std::time::Duration;

use crate::buffer::Chunk;
use crate::clock::Nanos;
use crate::connection::Connection;
use crate::keys::{ConnId, Keys};
use crate::protocol::{Post, Protocol};

/// How long a peer for whom somebody waits may take nothing of what it is owed: at least this long,
/// and at most twice as long.
pub const SOFT: Duration = Duration::from_secs(1);
/// How long a connection that has said all goes on discarding, so that its close does not reset
/// the connection and destroy what the peer has not yet read.
pub const LINGER: Duration = Duration::from_secs(2);

/// Those who hear one another: the connections of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Room(pub u16);

/// A connection and what its driver keeps beside it.
#[derive(Debug)]
pub struct Peer<P, D> {
    /// The connection.
    pub connection: Connection<P>,
    /// The driver's own.
    pub driver: D,
    /// The how-manieth it was to come to this server.
    number: u64,
    room: Room,
    /// Bytes received from it.
    received: u64,
    /// Bytes sent to it.
    sent: u64,
    /// True exactly when it stands in `ready` or `marked`.
    marked: bool,
    /// True once it has broadcast: others may have to be waited for.
    talks: bool,
    /// True exactly when it is counted in its room's `congested`.
    congested: bool,
    /// True exactly when it stands in `starved`.
    starved: bool,
    /// True from starving until bytes arrive: it takes whatever size of buffer there is most of.
    hungry: bool,
    /// True for a line to another process of the house: see [`Peers::open_line`].
    line: bool,
    /// True if, since the last look at the stalled, it took some of what it is owed or was owed
    /// nothing.
    progressed: bool,
}

/// A peer whose turn it is.
#[derive(Debug)]
pub struct Ready<'a, P, D> {
    /// Which.
    pub id: ConnId,
    /// The peer.
    pub peer: &'a mut Peer<P, D>,
    /// Whether it would receive, and need not wait for others.
    pub wants_recv: bool,
    /// Whether it has starved since it last received: better any buffer than the right one.
    pub hungry: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Crowd {
    congested: usize,
    talkers: usize,
    /// Of those, how many are lines to other processes.
    lines: usize,
}

/// Every open connection.
#[derive(Debug)]
pub struct Peers<P, D> {
    keys: Keys<Peer<P, D>>,
    /// Whose turn it is, from `next` on.
    ready: Vec<ConnId>,
    next: usize,
    /// Whose turn it will be. Ids of peers that have left meanwhile are skipped.
    marked: Vec<ConnId>,
    /// Who waits for a buffer, longest first. Ids of peers that have left are skipped.
    starved: VecDeque<ConnId>,
    /// How many of those have not left.
    starving: usize,
    /// By room.
    crowds: Vec<Crowd>,
    /// How many have ever come: the number of the last.
    came: u64,
    /// Emptied before every return: its capacity is kept.
    posts: Vec<Post>,
    /// Whether there is an operator to be told anything.
    attended: bool,
    /// What is for the operator.
    told: Vec<Chunk>,
    /// Who has said all and discards, and until when; in order of time.
    lingering: VecDeque<(Nanos, ConnId)>,
    /// Who began to linger since the clock was last read.
    fresh: Vec<ConnId>,
    /// When the stalled are next looked for; `Some` exactly while somebody waits.
    look_at: Option<Nanos>,
    evicted: u64,
}

impl<P: Protocol, D> Peers<P, D> {
    /// Nobody is here.
    pub fn new() -> Peers<P, D> {
        Peers {
            keys: Keys::new(),
            ready: Vec::new(),
            next: 0,
            marked: Vec::new(),
            starved: VecDeque::new(),
            starving: 0,
            crowds: Vec::new(),
            came: 0,
            posts: Vec::new(),
            attended: false,
            told: Vec::new(),
            lingering: VecDeque::new(),
            fresh: Vec::new(),
            look_at: None,
            evicted: 0,
        }
    }

    // Events: each steps a connection, marks it, and hands on what it said. Those of peers that
    // have left are nothing: an answer may come late.

    /// Somebody has come.
    pub fn open(&mut self, protocol: P, room: Room, driver: D) -> ConnId {
        self.admit(protocol, room, driver, false)
    }

    /// A line to another process of the house has come: one that talks for others, and listens for
    /// them.
    ///
    /// It differs in three ways. It is never evicted for taking nothing: the process at its other
    /// end evicts whom it waits for. It lingers for as long as it takes: that process may have to
    /// wait before it hears the last word. And it is received from however much it is owed, while
    /// nobody else in its room is congested: were both ends to wait until the other receives, both
    /// would wait for ever (kernel-notes §45).
    pub fn open_line(&mut self, protocol: P, room: Room, driver: D) -> ConnId {
        self.admit(protocol, room, driver, true)
    }

    /// By what the next who comes will be known.
    pub fn next_id(&self) -> ConnId {
        self.keys.next_id()
    }

    fn admit(&mut self, protocol: P, room: Room, driver: D, line: bool) -> ConnId {
        if self.crowds.len() <= room.0 as usize {
            self.crowds.resize(room.0 as usize + 1, Crowd::default());
        }
        self.came += 1;
        let connection = Connection::open(protocol, self.came, &mut self.posts);
        self.crowds[room.0 as usize].lines += usize::from(line);
        let id = self.keys.insert(Peer {
            connection,
            driver,
            number: self.came,
            room,
            received: 0,
            sent: 0,
            marked: false,
            talks: false,
            congested: false,
            starved: false,
            hungry: false,
            line,
            progressed: false,
        });
        self.settle(id);
        id
    }

    /// Bytes arrived from it.
    pub fn received(&mut self, id: ConnId, chunk: Chunk) {
        let Some(peer) = self.keys.get_mut(id) else { return };
        peer.progressed |= peer.connection.outgoing().is_empty();
        peer.hungry = false;
        peer.received += chunk.len() as u64;
        peer.connection.received(chunk, &mut self.posts);
        // Only who is received from can be hushed: to come and to go is not to talk.
        if !peer.talks && self.posts.iter().any(|post| matches!(post, Post::Others(_))) {
            peer.talks = true;
            self.crowds[peer.room.0 as usize].talkers += 1;
        }
        self.settle(id);
    }

    /// It will send no more.
    pub fn ended(&mut self, id: ConnId) {
        self.step(id, |peer, posts| peer.connection.ended(posts));
    }

    /// It took `n` bytes of what it is owed.
    pub fn sent(&mut self, id: ConnId, n: usize) {
        self.step(id, |peer, posts| {
            peer.progressed |= n > 0;
            peer.sent += n as u64;
            peer.connection.sent(n, posts);
        });
    }

    /// Its outbound direction has been shut down.
    pub fn shut_down(&mut self, id: ConnId) {
        self.step(id, |peer, _| peer.connection.shut_down());
        if self.keys.get(id).is_some_and(|peer| !peer.line) {
            self.fresh.push(id);
        }
    }

    /// It was reset.
    pub fn broken(&mut self, id: ConnId) {
        self.step(id, |peer, posts| {
            peer.connection.broken();
            peer.connection.close(posts);
        });
    }

    /// A receive of it found no buffer: it waits until [`feed`](Peers::feed) lets it try again.
    pub fn starve(&mut self, id: ConnId) {
        self.step(id, |peer, _| peer.connection.starved());
        let Some(peer) = self.keys.get_mut(id) else { return };
        if !peer.starved {
            (peer.starved, peer.hungry) = (true, true);
            self.starving += 1;
            self.starved.push_back(id);
        }
    }

    /// It is gone. Answers what the driver kept beside it.
    pub fn remove(&mut self, id: ConnId) -> Option<D> {
        let peer = self.keys.remove(id)?;
        let Peer { mut connection, room, talks, congested, starved, line, driver, .. } = peer;
        self.starving -= usize::from(starved);
        let crowd = &mut self.crowds[room.0 as usize];
        crowd.talkers -= usize::from(talks);
        crowd.lines -= usize::from(line);
        if congested {
            crowd.congested -= 1;
            self.wake_talkers(room);
        }
        connection.close(&mut self.posts);
        self.hand_on(id, room);
        Some(driver)
    }

    /// Something changed in what the driver keeps beside it.
    pub fn mark(&mut self, id: ConnId) {
        if let Some(peer) = self.keys.get_mut(id) {
            mark(peer, id, &mut self.marked);
        }
    }

    // Commands, to all.

    /// Has all send what they are owed, and end.
    pub fn finish_all(&mut self) {
        for (id, peer) in self.keys.iter_mut() {
            peer.connection.finish();
            mark(peer, id, &mut self.marked);
        }
    }

    /// Gives up on all.
    pub fn break_all(&mut self) {
        let ids: Vec<ConnId> = self.keys.iter_mut().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.broken(id));
    }

    /// Lets those who starve try again, longest waiting first: as many as there are `buffers` of
    /// the size that they will get. Nobody waits while there is one.
    pub fn feed(&mut self, mut buffers: usize) {
        while buffers > 0
            && let Some(id) = self.starved.pop_front()
        {
            if let Some(peer) = self.keys.get_mut(id).filter(|peer| peer.starved) {
                buffers -= 1;
                self.starving -= 1;
                peer.starved = false;
                mark(peer, id, &mut self.marked);
            }
        }
    }

    // The turn.

    /// Begins a turn: those marked until now are ready.
    pub fn begin(&mut self) {
        debug_assert_eq!(self.next, self.ready.len(), "a turn is resumed to its end");
        self.ready.clear();
        self.next = 0;
        std::mem::swap(&mut self.ready, &mut self.marked);
    }

    /// The next who is ready, until none is.
    pub fn next_ready(&mut self) -> Option<Ready<'_, P, D>> {
        let id = loop {
            let id = *self.ready.get(self.next)?;
            self.next += 1;
            if self.keys.get(id).is_some() {
                break id;
            }
        };
        let peer = self.keys.get_mut(id).expect("it is here");
        peer.marked = false;
        let (wants_recv, hungry) = (wants_recv(peer, &self.crowds), peer.hungry);
        Some(Ready { id, peer, wants_recv, hungry })
    }

    /// Whether it would receive, and need not wait for others: what [`Ready`] said of it may have
    /// changed by what it said since.
    pub fn wants_recv(&self, id: ConnId) -> bool {
        self.keys.get(id).is_some_and(|peer| wants_recv(peer, &self.crowds))
    }

    /// Whether anyone is marked: there is no time to sleep.
    pub fn has_marked(&self) -> bool {
        !self.marked.is_empty()
    }

    /// Does what is due by the clock, and answers when something will next be due. The clock is
    /// read only if anyone lingers or waits.
    pub fn tick(&mut self, clock: impl FnOnce() -> Nanos) -> Option<Nanos> {
        let waits = self.starving > 0
            || self.crowds.iter().any(|crowd| crowd.congested > 0 && crowd.talkers > 0);
        if !waits {
            self.look_at = None;
            if self.fresh.is_empty() && self.lingering.is_empty() {
                return None;
            }
        }
        let now = clock();
        self.lingering.extend(self.fresh.drain(..).map(|id| (now + LINGER, id)));
        while let Some(&(_, id)) = self.lingering.front().filter(|(until, _)| *until <= now) {
            self.lingering.pop_front();
            self.broken(id);
        }
        if waits && self.look_at.is_none_or(|at| at <= now) {
            self.evict_stalled(self.look_at.is_some());
            self.look_at = Some(now + SOFT);
        }
        let lingers = self.lingering.front().map(|&(until, _)| until);
        [lingers, self.look_at].into_iter().flatten().min()
    }

    /// Evicts who is owed bytes and took none since the last look, if this is not the first.
    fn evict_stalled(&mut self, evict: bool) {
        let mut stalled = Vec::new();
        for (id, peer) in self.keys.iter_mut() {
            // Others: who waits for itself alone may do so for as long as it likes.
            let starving = self.starving - usize::from(peer.starved);
            let talkers = self.crowds[peer.room.0 as usize].talkers - usize::from(peer.talks);
            let waited_for = (starving > 0 && peer.connection.outgoing().leases() > 0)
                || (talkers > 0 && peer.congested);
            if waited_for && !peer.line && !std::mem::take(&mut peer.progressed) && evict {
                stalled.push(id);
            }
            peer.progressed = false;
        }
        for id in stalled {
            tracing::warn!(%id, "evicted: others wait, and it takes nothing of what it is owed");
            self.evicted += 1;
            self.broken(id);
        }
    }

    // Getters.

    /// A peer.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Peer<P, D>> {
        self.keys.get_mut(id)
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut Peer<P, D>)> {
        self.keys.iter_mut()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether anybody waits for a buffer.
    pub fn is_starving(&self) -> bool {
        self.starving > 0
    }

    /// How many have been evicted.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    // Within.

    fn step(&mut self, id: ConnId, event: impl FnOnce(&mut Peer<P, D>, &mut Vec<Post>)) {
        let Some(peer) = self.keys.get_mut(id) else { return };
        peer.progressed |= peer.connection.outgoing().is_empty();
        event(peer, &mut self.posts);
        self.settle(id);
    }

    /// After any change of a connection: mark it, count it, hand on what it said.
    fn settle(&mut self, id: ConnId) {
        let peer = self.keys.get_mut(id).expect("a peer settles while it is here");
        mark(peer, id, &mut self.marked);
        let room = peer.room;
        if weigh(peer, &mut self.crowds) {
            self.wake_talkers(room);
        }
        self.hand_on(id, room);
    }

    /// Hands `posts` on to the others of the room or to the operator, and then what is said by the
    /// going of those whom that evicts.
    #[inline]
    fn hand_on(&mut self, from: ConnId, room: Room) {
        if self.posts.is_empty() {
            return;
        }
        let mut evicted = Vec::new();
        self.hand_on_once(from, room, &mut evicted);
        while let Some(id) = evicted.pop() {
            let peer = self.keys.get_mut(id).expect("who is evicted is still to be closed");
            peer.connection.close(&mut self.posts);
            self.hand_on_once(id, room, &mut evicted);
        }
    }

    fn hand_on_once(&mut self, from: ConnId, room: Room, evicted: &mut Vec<ConnId>) {
        let (told, attended) = (&mut self.told, self.attended);
        self.posts.retain(|post| match post {
            Post::Others(_) => true,
            Post::Operator(chunk) => {
                told.extend(attended.then(|| chunk.clone()));
                false
            }
        });
        if self.posts.is_empty() {
            return;
        }
        let mut relieved = false;
        for (id, peer) in self.keys.iter_mut().filter(|(_, peer)| peer.room == room) {
            if id != from {
                peer.progressed |= peer.connection.outgoing().is_empty();
                let broken = peer.connection.is_broken();
                for post in &self.posts {
                    let (Post::Others(chunk) | Post::Operator(chunk)) = post;
                    peer.connection.deliver(chunk.clone());
                }
                if peer.connection.is_broken() && !broken {
                    tracing::warn!(%id, "evicted: it is owed too much");
                    self.evicted += 1;
                    evicted.push(id);
                }
                mark(peer, id, &mut self.marked);
                relieved |= weigh(peer, &mut self.crowds); // by its eviction
            }
        }
        self.posts.clear();
        if relieved {
            self.wake_talkers(room);
        }
    }

    /// Has those who talk resumed, if nobody of their room is congested any more; or one only, which
    /// may be a line, and does not wait for itself.
    fn wake_talkers(&mut self, room: Room) {
        let crowd = self.crowds[room.0 as usize];
        if crowd.congested <= usize::from(crowd.lines > 0) && crowd.talkers > 0 {
            for (id, peer) in self.keys.iter_mut().filter(|(_, peer)| peer.room == room) {
                if peer.talks {
                    mark(peer, id, &mut self.marked);
                }
            }
        }
    }
}

impl<P: Protocol, D> Default for Peers<P, D> {
    fn default() -> Peers<P, D> {
        Peers::new()
    }
}

fn mark<P, D>(peer: &mut Peer<P, D>, id: ConnId, marked: &mut Vec<ConnId>) {
    if !std::mem::replace(&mut peer.marked, true) {
        marked.push(id);
    }
}

/// Whether a peer would receive, and waits neither for a listener nor for a buffer.
fn wants_recv<P: Protocol, D>(peer: &Peer<P, D>, crowds: &[Crowd]) -> bool {
    let mut congested = crowds[peer.room.0 as usize].congested;
    let wants = if peer.line {
        congested -= usize::from(peer.congested);
        peer.connection.could_recv()
    } else {
        peer.connection.wants_recv()
    };
    wants && !(peer.talks && congested > 0) && !peer.starved
}

/// Counts a peer as congested or not; answers whether it just ceased to be.
fn weigh<P: Protocol, D>(peer: &mut Peer<P, D>, crowds: &mut [Crowd]) -> bool {
    let (was, is) = (peer.congested, peer.connection.is_paused());
    peer.congested = is;
    let crowd = &mut crowds[peer.room.0 as usize];
    crowd.congested = crowd.congested + usize::from(is) - usize::from(was);
    was && !is
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::buffer::{Pool, Shape, Size};
    use crate::connection::{HARD, HIGH, LOW};
    use crate::protocol::testing::Tell;
    use crate::protocol::{Chat, Echo};

    const ROOM: Room = Room(0);

    /// Talking peers, whose drivers are nothing.
    fn chat<const N: usize>() -> (Peers<Tell, ()>, [ConnId; N]) {
        let mut peers = Peers::new();
        let ids = [(); N].map(|()| peers.open(Tell, ROOM, ()));
        turn(&mut peers);
        (peers, ids)
    }

    /// A turn of nobody's: whose it was, and whether they would receive.
    fn turn(peers: &mut Peers<Tell, ()>) -> Vec<(ConnId, bool)> {
        peers.begin();
        std::iter::from_fn(|| peers.next_ready().map(|ready| (ready.id, ready.wants_recv)))
            .collect()
    }

    fn say(peers: &mut Peers<Tell, ()>, id: ConnId, lines: usize) {
        let text: Vec<u8> = b"0123456\n".repeat(lines / 8);
        peers.received(id, Chunk::from(text));
    }

    fn pooled(pool: &Rc<Pool>) -> Chunk {
        Chunk::received(pool.lease(Size(0)).unwrap(), 1000)
    }

    fn owed(peers: &mut Peers<Tell, ()>, id: ConnId) -> usize {
        peers.get_mut(id).unwrap().connection.outgoing().bytes()
    }

    fn at(seconds: u64) -> impl FnOnce() -> Nanos {
        move || Nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_one_says_the_others_of_its_room_are_owed() {
        let (mut peers, [a, b]) = chat();
        let elsewhere = peers.open(Tell, Room(1), ());
        say(&mut peers, a, 8);
        assert_eq!([a, b, elsewhere].map(|id| owed(&mut peers, id)), [0, 8, 0]);
    }

    /// What a peer is owed, which is then sent.
    fn heard(peers: &mut Peers<Chat, ()>, id: ConnId) -> String {
        let queue = peers.get_mut(id).unwrap().connection.outgoing();
        let bytes: Vec<u8> = queue.iter().flat_map(|chunk| chunk.to_vec()).collect();
        peers.sent(id, bytes.len());
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_number_is_given_once_in_order_of_arrival() {
        let mut peers = Peers::new();
        let [first, second] = [(); 2].map(|()| peers.open(Chat::default(), ROOM, ()));
        peers.open(Chat::default(), Room(1), ());
        peers.remove(second);
        peers.open(Chat::default(), ROOM, ());
        assert_eq!(heard(&mut peers, first), "* 2 joined\n* 2 left\n* 4 joined\n");
    }

    #[test]
    fn who_goes_away_says_so_once_however_it_goes() {
        type Way = fn(&mut Peers<Chat, ()>, ConnId);
        let ways: [Way; 4] = [
            |_, _| {},
            |peers, id| peers.ended(id),
            |peers, id| peers.broken(id),
            |peers, id| {
                let post = Chunk::from(vec![b'x'; HARD + 1]);
                peers.get_mut(id).unwrap().connection.deliver(post);
                assert!(peers.get_mut(id).unwrap().connection.is_broken());
            },
        ];
        for way in ways {
            let mut peers = Peers::new();
            let [stays, leaves] = [(); 2].map(|()| peers.open(Chat::default(), ROOM, ()));
            way(&mut peers, leaves);
            peers.remove(leaves);
            assert_eq!(heard(&mut peers, stays), "* 2 joined\n* 2 left\n");
        }
    }

    #[test]
    fn who_is_evicted_says_so_at_once_and_those_whom_that_evicts_too() {
        let mut peers = Peers::new();
        let [talker, slow, slower] = [(); 3].map(|()| peers.open(Chat::default(), ROOM, ()));
        heard(&mut peers, talker);
        for (id, room) in [(slow, 10), (slower, 5)] {
            heard(&mut peers, id);
            let most = Chunk::from(vec![b'x'; HARD - room]);
            peers.get_mut(id).unwrap().connection.deliver(most);
        }
        // `[1] a` is too much for the one, and then `* 3 left` for the other.
        peers.received(talker, Chunk::from("a\n"));
        assert_eq!(
            (heard(&mut peers, talker), peers.evicted()),
            ("* 3 left\n* 2 left\n".into(), 2)
        );
        for id in [slow, slower] {
            assert_eq!(peers.remove(id), Some(()));
        }
        assert_eq!(heard(&mut peers, talker), "");
    }

    #[test]
    fn to_come_and_to_go_is_not_to_talk() {
        let mut peers = Peers::new();
        let [quiet, slow] = [(); 2].map(|()| peers.open(Chat::default(), ROOM, ()));
        peers.get_mut(slow).unwrap().connection.deliver(Chunk::from(vec![b'x'; HIGH]));
        peers.sent(slow, 1);
        peers.begin();
        while let Some(ready) = peers.next_ready() {
            assert!(ready.wants_recv == (ready.id == quiet));
        }
        assert_eq!(peers.tick(at(10)), None);
    }

    #[test]
    fn a_peer_is_resumed_once_however_much_happened_to_it() {
        let (mut peers, [a, b]) = chat();
        (0..3).for_each(|_| say(&mut peers, a, 8));
        assert_eq!(turn(&mut peers), [(a, true), (b, true)]);
        assert_eq!(turn(&mut peers), []);
    }

    #[test]
    fn who_is_marked_during_a_turn_waits_for_the_next() {
        let (mut peers, [a, b]) = chat();
        peers.mark(a);
        peers.begin();
        assert_eq!(peers.next_ready().map(|ready| ready.id), Some(a));
        peers.mark(a);
        peers.mark(b);
        assert!(peers.next_ready().is_none() && peers.has_marked());
        assert_eq!(turn(&mut peers).len(), 2);
    }

    #[test]
    fn late_events_of_who_has_left_are_nothing() {
        let (mut peers, [a, b]) = chat();
        peers.mark(a);
        assert_eq!(peers.remove(a), Some(()));
        assert_eq!(peers.remove(a), None);
        say(&mut peers, a, 8);
        peers.ended(a);
        peers.sent(a, 1);
        peers.broken(a);
        peers.starve(a);
        peers.mark(a);
        assert_eq!(owed(&mut peers, b), 0);
        assert_eq!(turn(&mut peers), []);
    }

    #[test]
    fn a_talker_is_hushed_while_anyone_is_congested_and_woken_after() {
        let (mut peers, [talker, slow, quiet]) = chat();
        say(&mut peers, talker, HIGH);
        assert_eq!(turn(&mut peers), [(talker, false), (slow, false), (quiet, false)]);
        peers.sent(quiet, HIGH);
        assert_eq!(turn(&mut peers), [(quiet, true)], "who does not talk need not wait");
        peers.sent(slow, HIGH - LOW);
        let woken = turn(&mut peers);
        assert!(woken.contains(&(talker, true)), "{woken:?}");
    }

    #[test]
    fn a_congestion_that_leaves_wakes_the_talkers() {
        let (mut peers, [talker, slow]) = chat();
        say(&mut peers, talker, HIGH);
        turn(&mut peers);
        peers.remove(slow);
        assert_eq!(turn(&mut peers), [(talker, true)]);
    }

    #[test]
    fn a_line_is_received_from_however_much_it_is_owed_unless_others_are_congested() {
        let mut peers = Peers::new();
        let line = peers.open_line(Tell, ROOM, ());
        let guest = peers.open(Tell, ROOM, ());
        say(&mut peers, line, 8);
        say(&mut peers, guest, HIGH);
        assert_eq!(
            turn(&mut peers),
            [(line, true), (guest, false)],
            "the guest waits for the line"
        );
        say(&mut peers, line, HIGH);
        assert_eq!(turn(&mut peers), [(line, false), (guest, false)], "and the line for the guest");
        peers.sent(guest, HIGH);
        let woken = turn(&mut peers);
        assert!(woken.contains(&(line, true)), "the line waits for nobody now: {woken:?}");
        peers.sent(line, HIGH);
        assert!(turn(&mut peers).contains(&(guest, true)));
    }

    #[test]
    fn a_line_is_never_given_up_for_taking_its_time() {
        let mut peers = Peers::new();
        let line = peers.open_line(Tell, ROOM, ());
        let [talker, slow] = [(); 2].map(|()| peers.open(Tell, ROOM, ()));
        say(&mut peers, talker, HIGH);
        for second in 0..10 {
            peers.tick(at(second));
        }
        assert!(peers.get_mut(slow).unwrap().connection.is_broken());
        assert!(!peers.get_mut(line).unwrap().connection.is_broken());
        assert_eq!(peers.evicted(), 1);
        peers.finish_all();
        peers.shut_down(line);
        peers.tick(at(100));
        peers.tick(at(200));
        assert!(!peers.get_mut(line).unwrap().connection.is_broken(), "nor for lingering");
        peers.remove(line);
        assert_eq!(peers.crowds[0].lines, 0);
    }

    #[test]
    fn the_hard_limit_evicts_at_once_and_wakes_the_talkers() {
        let (mut peers, [a, b, slow]) = chat();
        say(&mut peers, b, 8);
        while owed(&mut peers, slow) > 0 {
            say(&mut peers, a, HARD / 4);
            let all = owed(&mut peers, b);
            peers.sent(b, all);
        }
        assert!(peers.get_mut(slow).unwrap().connection.is_broken());
        assert_eq!(peers.evicted(), 1);
        let ready = turn(&mut peers);
        assert!(ready.contains(&(a, true)) && ready.contains(&(b, true)), "{ready:?}");
    }

    #[test]
    fn who_takes_nothing_while_others_wait_is_evicted_and_who_takes_little_is_not() {
        let (mut peers, [talker, stalled, slow]) = chat();
        say(&mut peers, talker, HIGH);
        assert_eq!(peers.tick(at(10)), Some(Nanos(11_000_000_000)));
        peers.sent(slow, 1);
        peers.tick(at(11));
        assert!(peers.get_mut(stalled).unwrap().connection.is_broken());
        assert!(!peers.get_mut(slow).unwrap().connection.is_broken());
        assert_eq!(peers.evicted(), 1);
    }

    #[test]
    fn who_was_owed_nothing_a_moment_ago_is_not_stalled() {
        let (mut peers, [talker, stalled, quick]) = chat();
        say(&mut peers, talker, HIGH);
        peers.sent(quick, HIGH);
        peers.tick(at(10));
        say(&mut peers, talker, 8); // Owed since just now, and by the next look not yet sent.
        peers.tick(at(11));
        assert!(peers.get_mut(stalled).unwrap().connection.is_broken());
        assert!(!peers.get_mut(quick).unwrap().connection.is_broken());
    }

    #[test]
    fn who_has_just_begun_to_be_answered_is_not_stalled() {
        let pool = Pool::new(&[Shape { bytes: 1024, count: 1 }]).unwrap();
        let mut peers = Peers::new();
        let [starved, quick] = [(); 2].map(|()| peers.open(Echo, ROOM, ()));
        peers.starve(starved);
        peers.tick(at(10));
        peers.received(quick, pooled(&pool));
        peers.tick(at(11));
        assert!(!peers.get_mut(quick).unwrap().connection.is_broken());
        peers.tick(at(12));
        assert!(peers.get_mut(quick).unwrap().connection.is_broken());
    }

    #[test]
    fn nobody_is_evicted_for_its_own_sake() {
        let pool = Pool::new(&[Shape { bytes: 1024, count: 1 }]).unwrap();
        let (mut peers, [idler, starved]) = chat();
        peers.get_mut(idler).unwrap().connection.deliver(pooled(&pool));
        peers.starve(idler);
        for second in 10..15 {
            peers.tick(at(second));
        }
        assert!(!peers.get_mut(idler).unwrap().connection.is_broken());
        peers.starve(starved);
        for second in 15..18 {
            peers.tick(at(second));
        }
        assert!(peers.get_mut(idler).unwrap().connection.is_broken());
    }

    #[test]
    fn nobody_is_evicted_while_nobody_waits() {
        let (mut peers, [talker, slow]) = chat();
        say(&mut peers, talker, LOW);
        for second in 0..10 {
            assert_eq!(peers.tick(at(second)), None);
        }
        assert!(!peers.get_mut(slow).unwrap().connection.is_broken());
    }

    #[test]
    fn the_starved_are_fed_in_order_and_only_as_many_as_there_are_buffers() {
        let (mut peers, [a, b, c]) = chat();
        [a, b, c].into_iter().for_each(|id| peers.starve(id));
        peers.starve(b); // twice is once
        assert!(turn(&mut peers).iter().all(|&(_, wants_recv)| !wants_recv));
        peers.feed(0);
        assert_eq!(turn(&mut peers), []);
        peers.remove(a);
        peers.feed(1);
        assert_eq!(turn(&mut peers), [(b, true)]);
        peers.feed(5);
        assert_eq!(turn(&mut peers), [(c, true)]);
    }

    #[test]
    fn who_lingers_too_long_is_broken() {
        let (mut peers, [a]) = chat();
        assert_eq!(peers.tick(|| unreachable!("no reason to look at the clock")), None);
        peers.finish_all();
        peers.shut_down(a);
        assert_eq!(peers.tick(at(1)), Some(Nanos(3_000_000_000)));
        assert!(!peers.get_mut(a).unwrap().connection.is_broken());
        assert_eq!(peers.tick(at(3)), None);
        assert!(peers.get_mut(a).unwrap().connection.is_broken());
    }
}
