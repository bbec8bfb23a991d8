//! What a campaign's cluster stands on: disks, a network, settings, further load.
//!
//! Owns: which fault needs what of these, and their end behind the cluster's. Must never: hurt anything; the faults do.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::crash::Crashes;
use super::disks::{self, Disks};
use super::isolate;
use super::load::Load;
use super::network::Network;
use super::retry::Named;
use super::{Fault, FileCall, crash, damage, full, snapshot, upgrade};
use crate::cluster::{Cluster, Site};

/// A library to be loaded into every node: a disk that lies can be planted so.
const PRELOAD: &str = "SYNOD_CAMPAIGN_PRELOAD";

/// What a fault's cluster stands on.
pub(super) struct Rig {
    settings: Option<&'static str>,
    pub(super) disks: Option<Disks>,
    pub(super) network: Option<Network>,
    pub(super) named: Mutex<Named>,
    pub(super) crashes: Mutex<Crashes>,
    /// What runs the nodes at first, where that is not the binary under test.
    binary: Option<PathBuf>,
}

/// Whether a fault needs namespaces of the campaign's own.
pub(super) fn needs_isolation(fault: Fault) -> bool {
    matches!(fault, Fault::PowerLoss | Fault::PowerLossOne | Fault::DiskFull | Fault::Partition)
}

impl Rig {
    /// Makes it.
    pub(super) fn new(fault: Fault) -> Result<Rig, String> {
        let (named, crashes) = (Mutex::default(), Mutex::default());
        let mut rig = Rig { settings: None, disks: None, network: None, named, crashes, binary: None };
        match fault {
            Fault::PowerLoss | Fault::PowerLossOne => {
                isolate::settle()?;
                rig.disks = Some(Disks::new(disks::AMPLE)?);
            }
            Fault::DiskFull => {
                isolate::settle()?;
                rig.disks = Some(Disks::in_memory(full::DISK)?);
                rig.settings = Some(full::SETTINGS);
            }
            Fault::Partition => rig.network = Some(Network::new()?),
            // So that the state's files are written every second or so.
            Fault::FileError(FileCall::Fsync) => rig.settings = Some("[storage]\nstate_memory = \"1MiB\"\n"),
            Fault::Damage => rig.settings = Some(damage::SETTINGS),
            // Retries meet sessions that came by snapshot.
            Fault::Snapshot | Fault::Retry => rig.settings = Some(snapshot::SETTINGS),
            Fault::CrashPoint => rig.settings = Some(crash::SETTINGS),
            Fault::Upgrade => rig.binary = Some(upgrade::old()?),
            _ => {}
        }
        Ok(rig)
    }

    /// A cluster on it, ready for writes.
    #[track_caller]
    pub(super) fn cluster(&self) -> Cluster {
        let mut sites = match (&self.disks, &self.network) {
            (Some(disks), _) => disks.sites(),
            (None, Some(network)) => network.sites(),
            (None, None) => vec![Site::default(); 3],
        };
        if let Ok(library) = std::env::var(PRELOAD) {
            sites.iter_mut().for_each(|site| site.env.push(("LD_PRELOAD".into(), library.clone())));
        }
        sites.iter_mut().for_each(|site| site.binary.clone_from(&self.binary));
        Cluster::start_at(sites, self.settings)
    }

    /// What is to be checked at the end, beside the history.
    pub(super) fn finish(&self, cluster: &Cluster, load: &Load) -> Result<(), String> {
        self.named.lock().map_err(|_| "a turn failed")?.check(cluster, load)
    }

    /// Copies what a failure needs to be understood.
    pub(super) fn keep(&self, to: &Path) -> Result<(), String> {
        self.disks.as_ref().map_or(Ok(()), |disks| disks.keep(to))
    }
}
