//! The permits that connections to the gRPC port hold, and what a connection is counted as.
//!
//! Owns: four pools of permits: for clients, for peers, a few for operators, and the entrance for connections that get no
//! other. Must never: give a peer's permit to a connection before a hello on it was checked, or hold more connections than
//! all pools together allow.
//!
//! A connection begins with a client's permit, where one is free, or at the entrance. At the entrance only the calls of peers
//! are served; a client is told why, and has to leave. A command of an operator, which says so, gets one of the permits kept
//! for operators: whoever wants to see why there is no room must get in. Once a hello on a connection was checked, the
//! connection gets a peer's permit and gives back the one that it had.

use crate::node::complaints::Complaints;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge, Registry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Permits for connections of peers. A peer holds up to six: its link, its pulse, maps, snapshots.
pub const PEER_PERMITS: usize = 256;
/// Permits for operators' commands that get no client's permit. A command holds up to three.
pub const OPERATOR_PERMITS: usize = 32;
/// Permits for connections that get no other: a client is refused with the reason and has to leave.
pub const ENTRANCE_PERMITS: usize = 128;
/// How long a connection may stay at the entrance before it has said whose it is.
const ENTRANCE_STAY: Duration = Duration::from_secs(6);
/// How long it may stay after it was refused, so that the answer arrives.
const TOLD_STAY: Duration = Duration::from_millis(250);
/// How long a connection may take to show its protocol: with a client's permit, and at the entrance.
const CLIENT_HANDSHAKE: Duration = Duration::from_secs(5);
const ENTRANCE_HANDSHAKE: Duration = Duration::from_secs(1);
/// The setting that limits the clients' permits.
const KNOB: &str = "network.connections_max";

/// All permits of a node.
#[derive(Debug)]
pub struct Permits {
    clients: Arc<Semaphore>,
    entrance: Arc<Semaphore>,
    peers: Arc<Semaphore>,
    operators: Arc<Semaphore>,
    clients_max: usize,
    complaints: Complaints,
    refused: IntCounter,
    unfinished: IntCounter,
    gauges: [IntGauge; 2],
}

/// The pool that a connection's permit is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Client,
    Entrance,
    Peer,
    Operator,
}

/// One connection's permit.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    held: Mutex<(Kind, OwnedSemaphorePermit)>,
    told: AtomicBool,
}

impl Permits {
    /// With `clients_max` permits for clients.
    #[must_use]
    pub fn new(clients_max: usize) -> Arc<Self> {
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("a valid name");
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a valid name");
        Arc::new(Self {
            clients: Arc::new(Semaphore::new(clients_max)),
            entrance: Arc::new(Semaphore::new(ENTRANCE_PERMITS)),
            peers: Arc::new(Semaphore::new(PEER_PERMITS)),
            operators: Arc::new(Semaphore::new(OPERATOR_PERMITS)),
            clients_max,
            complaints: Complaints::default(),
            refused: counter(
                "synod_connections_refused_total",
                "Connections refused because network.connections_max connections of clients were open",
            ),
            unfinished: counter(
                "synod_connections_unfinished_total",
                "Connections ended because they did not say in time how they begin",
            ),
            gauges: [
                gauge("synod_connections_clients", "Open connections of clients"),
                gauge("synod_connections_peers", "Open connections of peers"),
            ],
        })
    }

    /// Lets the registry show what is counted here.
    ///
    /// # Errors
    /// The registry holds metrics of the same names.
    pub fn register(self: &Arc<Self>, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.refused.clone()))?;
        registry.register(Box::new(self.unfinished.clone()))?;
        self.gauges.iter().try_for_each(|gauge| registry.register(Box::new(gauge.clone())))
    }

    /// A permit for a new connection; none where the entrance is full too.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Arc<Permit>> {
        let permit = |pool: &Arc<Semaphore>, kind| Some((kind, Arc::clone(pool).try_acquire_owned().ok()?));
        let Some(held) = permit(&self.clients, Kind::Client).or_else(|| permit(&self.entrance, Kind::Entrance)) else {
            self.count_refused();
            return None;
        };
        self.gauge(held.0, 1);
        Some(Arc::new(Permit { permits: Arc::clone(self), held: Mutex::new(held), told: AtomicBool::new(false) }))
    }

    /// A connection did not say in time how it begins.
    pub(super) fn count_unfinished(&self) {
        self.unfinished.inc();
    }

    fn count_refused(&self) {
        self.refused.inc();
        let what = format!(
            "connections are refused: {} connections of clients are open, and {KNOB} allows no more",
            self.clients_max
        );
        if self.complaints.is_new(&what) {
            tracing::warn!("{what}; synod_connections_refused_total counts them");
        }
    }

    fn gauge(&self, kind: Kind, change: i64) {
        match kind {
            Kind::Client => self.gauges[0].add(change),
            Kind::Peer => self.gauges[1].add(change),
            Kind::Entrance | Kind::Operator => {}
        }
    }
}

impl Permit {
    /// A hello on this connection was checked: from now on it has a peer's permit. `false` where none is free; it then keeps
    /// the one that it has.
    pub fn vouch(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0 == Kind::Peer {
            return true;
        }
        let Ok(permit) = Arc::clone(&self.permits.peers).try_acquire_owned() else { return false };
        self.permits.gauge(held.0, -1);
        *held = (Kind::Peer, permit);
        self.permits.gauge(Kind::Peer, 1);
        true
    }

    /// As [`Self::vouch`].
    ///
    /// # Errors
    /// No peer's permit is free, and the connection is at the entrance, where it may not stay.
    pub fn serve_peer(&self) -> Result<(), Status> {
        if self.vouch() || !self.is_at_entrance() {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "this node allows {PEER_PERMITS} connections of peers, and all are open"
        )))
    }

    /// Why a client's call on this connection is not served, where it is not.
    ///
    /// # Errors
    /// No client's permit was free.
    pub fn serve_client(&self) -> Result<(), Status> {
        if !self.is_at_entrance() {
            return Ok(());
        }
        if !self.told.swap(true, Ordering::AcqRel) {
            self.permits.count_refused();
        }
        let most = self.permits.clients_max;
        Err(Status::resource_exhausted(format!(
            "this node holds {most} connections of clients, and {KNOB} = {most} allows no more: use another node, close some, \
             or raise {KNOB}"
        )))
    }

    /// As [`Self::serve_client`], for a call that says it is an operator's: at the entrance it gets an operator's permit.
    ///
    /// # Errors
    /// Neither a client's nor an operator's permit was free.
    pub fn serve_operator(&self) -> Result<(), Status> {
        {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.0 == Kind::Entrance
                && let Ok(permit) = Arc::clone(&self.permits.operators).try_acquire_owned()
            {
                *held = (Kind::Operator, permit);
            }
        }
        self.serve_client()
    }

    pub(super) fn is_at_entrance(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).0 == Kind::Entrance
    }

    /// How long the connection may take to say how it begins.
    pub(super) fn handshake(&self) -> Duration {
        if self.is_at_entrance() { ENTRANCE_HANDSHAKE } else { CLIENT_HANDSHAKE }
    }

    /// How long the connection may stay at the entrance from now on.
    pub(super) fn stay(&self) -> Duration {
        if self.was_told() { TOLD_STAY } else { ENTRANCE_STAY }
    }

    pub(super) fn was_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let kind = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).0;
        self.permits.gauge(kind, -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_too_many_is_told_and_a_peer_gives_its_place_back() {
        let permits = Permits::new(2);
        let (first, second) = (permits.admit().unwrap(), permits.admit().unwrap());
        assert!(first.serve_client().is_ok() && second.serve_client().is_ok());
        let third = permits.admit().unwrap();
        let why = third.serve_client().unwrap_err();
        assert!(why.message().contains("network.connections_max = 2"), "{why}");
        assert!(third.serve_client().is_err());
        assert_eq!(permits.refused.get(), 1, "one connection, counted once");
        assert!(third.was_told() && third.stay() < ENTRANCE_STAY);
        assert!(first.vouch() && first.vouch());
        assert_eq!((permits.gauges[0].get(), permits.gauges[1].get()), (1, 1));
        let fourth = permits.admit().unwrap();
        assert!(fourth.serve_client().is_ok(), "it has the permit that the peer gave back");
        assert!(third.vouch() && third.serve_client().is_ok(), "also from the entrance");
        drop((first, second, third, fourth));
        assert_eq!((permits.gauges[0].get(), permits.gauges[1].get()), (0, 0));
        assert_eq!(permits.clients.available_permits(), 2);
    }

    #[test]
    fn an_operator_finds_a_place_where_clients_find_none() {
        let permits = Permits::new(1);
        let client = permits.admit().unwrap();
        assert!(client.serve_operator().is_ok(), "it has the client's permit");
        let operators: Vec<_> = (0..OPERATOR_PERMITS).map(|_| permits.admit().unwrap()).collect();
        for permit in &operators {
            assert!(permit.serve_operator().is_ok() && !permit.is_at_entrance() && permit.serve_client().is_ok());
        }
        let one_more = permits.admit().unwrap();
        assert!(one_more.serve_operator().unwrap_err().message().contains("network.connections_max = 1"));
        drop(operators);
        assert!(one_more.serve_operator().is_ok());
        drop((client, one_more));
        assert_eq!((permits.gauges[0].get(), permits.operators.available_permits()), (0, OPERATOR_PERMITS));
    }

    #[test]
    fn every_pool_is_bounded() {
        let permits = Permits::new(1);
        let held: Vec<_> = (0..=ENTRANCE_PERMITS).map(|_| permits.admit().unwrap()).collect();
        assert!(permits.admit().is_none());
        assert_eq!(permits.refused.get(), 1);
        drop(held);
        let peers: Vec<_> =
            (0..PEER_PERMITS).map(|_| permits.admit().filter(|permit| permit.vouch()).unwrap()).collect();
        let one_more = permits.admit().unwrap();
        assert!(!one_more.vouch() && one_more.serve_client().is_ok(), "it keeps the permit it has");
        drop(peers);
        assert!(one_more.vouch());
    }
}
