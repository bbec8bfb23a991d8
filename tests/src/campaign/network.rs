//! A network of the campaign's own: each node in a network namespace on one bridge, the clients beside the bridge.
//!
//! Owns: the namespaces, the links between them, and who hears whom. A host is made deaf to another by a routing rule of its
//! own, which drops what comes from that one: nothing is refused and nobody is told, as on a cut cable. Must never: exist
//! outside the campaign's own namespaces, with which it ends.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::isolate::{settle, tool};
use crate::cluster::Site;

/// A host on the network: a node by its number, or the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Node(u16),
    Clients,
}

impl Host {
    fn ip_addr(self) -> Ipv4Addr {
        let last = match self {
            Host::Node(number) => u8::try_from(number).expect("three nodes"),
            Host::Clients => 254,
        };
        Ipv4Addr::new(10, 99, 0, last)
    }

    fn addr(self) -> String {
        self.ip_addr().to_string()
    }

    /// `ip` on this host.
    fn ip(self, args: &str) -> Result<(), String> {
        let name = namespace_of(self);
        let within = name.iter().flat_map(|name| ["-n", name.as_str()]);
        tool("ip", &within.chain(args.split(' ')).collect::<Vec<_>>())
    }

    /// The rule against what this host sends.
    fn rule(self) -> String {
        let preference = match self {
            Host::Node(number) => 10 + number,
            Host::Clients => 10,
        };
        format!("pref {preference} from {} blackhole", self.addr())
    }
}

fn namespace_of(host: Host) -> Option<String> {
    match host {
        Host::Node(number) => Some(format!("synod-{number}")),
        Host::Clients => None,
    }
}

/// The network of three nodes and their clients.
pub(super) struct Network(());

impl Network {
    /// Makes it.
    pub(super) fn new() -> Result<Network, String> {
        settle()?;
        let clients = Host::Clients;
        clients.ip("link add synod type bridge")?;
        clients.ip(&format!("addr add {}/24 dev synod", clients.addr()))?;
        clients.ip("link set synod up")?;
        for number in 1..=3 {
            let node = Host::Node(number);
            let name = namespace_of(node).expect("a node has one");
            clients.ip(&format!("netns add {name}"))?;
            clients.ip(&format!("link add synod-{number} type veth peer name eth0 netns {name}"))?;
            clients.ip(&format!("link set synod-{number} master synod up"))?;
            node.ip(&format!("addr add {}/24 dev eth0", node.addr()))?;
            node.ip("link set eth0 up")?;
            node.ip("link set lo up")?;
        }
        for host in [Host::Node(1), Host::Node(2), Host::Node(3), clients] {
            // Room for rules that are asked before it is known that a packet has arrived.
            host.ip("rule add pref 100 lookup local")?;
            host.ip("rule del pref 0")?;
        }
        let network = Network(());
        network.prove()?;
        Ok(network)
    }

    /// That a cut is one, in both directions: nobody listens yet, so a node that is heard refuses a connection at once.
    fn prove(&self) -> Result<(), String> {
        let (node, clients) = (Host::Node(1), Host::Clients);
        let refused = || {
            let addr = SocketAddr::from((node.ip_addr(), 9));
            let connected = TcpStream::connect_timeout(&addr, Duration::from_millis(300));
            connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        };
        for cut in [(node, clients), (clients, node)] {
            let before = refused();
            self.deafen(cut)?;
            let during = refused();
            self.heal(cut)?;
            if (before, during, refused()) != (true, false, true) {
                return Err(format!("a cut of the network is none: {cut:?}"));
            }
        }
        Ok(())
    }

    /// The places of the three nodes on it.
    pub(super) fn sites(&self) -> Vec<Site> {
        let site = |number| {
            let node = Host::Node(number);
            let name = namespace_of(node).expect("a node has one");
            let within = ["ip", "netns", "exec", &name].map(String::from).to_vec();
            Site { host: Some(node.addr()), within, ..Site::default() }
        };
        (1..=3).map(site).collect()
    }

    /// The first no longer hears the second.
    pub(super) fn deafen(&self, (deaf, to): (Host, Host)) -> Result<(), String> {
        deaf.ip(&format!("rule add {}", to.rule()))
    }

    /// The first hears the second again.
    pub(super) fn heal(&self, (deaf, to): (Host, Host)) -> Result<(), String> {
        deaf.ip(&format!("rule del {}", to.rule()))
    }
}
