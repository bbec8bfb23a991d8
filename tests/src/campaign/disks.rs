//! A disk for each node that can lose its power, or be filled: an ext4 image on a loop device. Its power fails by
//! `EXT4_IOC_SHUTDOWN` without a flush of its journal: what was not synced is gone then, as when the machine's power fails;
//! what was is there.
//!
//! Owns: the images, their mounts, and the proof at every loss that it was one: a file written and not synced has vanished
//! or is short, one that was synced is whole. Must never: touch a file system that it did not make.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use super::isolate::tool;
use crate::cluster::Site;
use crate::run::until;

/// Of an image that is not to be filled; it takes only what is written to it.
pub(super) const AMPLE: u64 = 4 << 30;
/// How much is written to the files that prove a loss.
const PROOF: usize = 64 << 10;

/// The disks of three nodes, mounted.
pub(super) struct Disks {
    dir: TempDir,
    /// Whether the images lie in memory.
    memory: bool,
}

impl Disks {
    /// Makes and mounts them in memory, of so many bytes each: what fills up is not to wait for this machine's own disk.
    pub(super) fn in_memory(bytes: u64) -> Result<Disks, String> {
        let mut disks = Disks::at()?;
        disks.memory = true;
        tool("mount", &["-t", "tmpfs", "tmpfs", &disks.dir.path().display().to_string()])?;
        disks.made(bytes)
    }

    /// Makes and mounts them, of so many bytes each.
    pub(super) fn new(bytes: u64) -> Result<Disks, String> {
        Disks::at()?.made(bytes)
    }

    fn at() -> Result<Disks, String> {
        let dir = tempfile::Builder::new().prefix("synod-disks-").tempdir().map_err(said("a directory"))?;
        Ok(Disks { dir, memory: false })
    }

    fn made(self, bytes: u64) -> Result<Disks, String> {
        let disks = self;
        for number in 1..=3 {
            let image = File::create(disks.image(number)).map_err(said("an image"))?;
            image.set_len(bytes).map_err(said("an image"))?;
            // Nothing is kept back for root, as whom nodes may run here.
            tool("mkfs.ext4", &["-q", "-F", "-m", "0", &disks.image(number).display().to_string()])?;
            fs::create_dir(disks.root(number)).map_err(said("a mount point"))?;
            disks.mount(number)?;
        }
        Ok(disks)
    }

    /// The places of three nodes on them.
    pub(super) fn sites(&self) -> Vec<Site> {
        (1..=3).map(|number| Site { disk: Some(self.root(number)), ..Site::default() }).collect()
    }

    fn image(&self, number: u16) -> PathBuf {
        self.dir.path().join(format!("disk-{number}.img"))
    }

    fn root(&self, number: u16) -> PathBuf {
        self.dir.path().join(format!("disk-{number}"))
    }

    fn others(&self, number: u16) -> PathBuf {
        self.root(number).join("others")
    }

    /// Files of others leave so much room on a disk; nothing where there is less already.
    pub(super) fn leave(&self, number: u16, bytes: u64) -> Result<(), String> {
        let stat = statvfs(&self.root(number)).map_err(|error| format!("statvfs: {error}"))?;
        let free = stat.blocks_available() * stat.fragment_size();
        let Some(more) = free.checked_sub(bytes).filter(|more| *more > 0) else { return Ok(()) };
        let file = OpenOptions::new().create(true).append(true).open(self.others(number)).map_err(said("a file"))?;
        let length = |bytes: u64| i64::try_from(bytes).map_err(|error| error.to_string());
        let from = file.metadata().map_err(said("a file"))?.len();
        match posix_fallocate(&file, length(from)?, length(more)?) {
            // Where all is to be taken the file's own map may need the last of it; what it got stays its own.
            Err(Errno::ENOSPC) if bytes == 0 => Ok(()),
            done => done.map_err(|error| format!("fallocate: {error}")),
        }
    }

    /// Files of others go.
    pub(super) fn release(&self, number: u16) {
        // There may be none.
        let _ = fs::remove_file(self.others(number));
    }

    fn synced(&self, number: u16) -> PathBuf {
        self.root(number).join("proof-synced")
    }

    fn unsynced(&self, number: u16) -> PathBuf {
        self.root(number).join("proof-unsynced")
    }

    /// The loop device ends with the mount.
    fn mount(&self, number: u16) -> Result<(), String> {
        let (image, root) = (self.image(number).display().to_string(), self.root(number).display().to_string());
        tool("mount", &["-t", "ext4", "-o", "loop", &image, &root])?;
        let mut proof = File::create(self.synced(number)).map_err(said("a file"))?;
        proof.write_all(&[b'+'; PROOF]).and_then(|()| proof.sync_all()).map_err(said("a synced file"))
    }

    /// The power of these disks fails, one right behind the other; `stop` stops their processes just before.
    ///
    /// It must: of a write that is being synced at that moment the kernel may say, a moment later, that it is synced, though
    /// it is lost (seen in 10 of 300 cuts of a program that does nothing else, in none of 400 where it was stopped before).
    /// Where power really fails nobody lives to hear that.
    pub(super) fn cut(&self, numbers: &[u16], stop: impl FnOnce()) -> Result<(), String> {
        let mut roots = Vec::new();
        for number in numbers {
            let mut proof = File::create(self.unsynced(*number)).map_err(said("a file"))?;
            proof.write_all(&[b'-'; PROOF]).map_err(said("an unsynced file"))?;
            roots.push(File::open(self.root(*number)).map_err(said("a mounted disk"))?);
        }
        stop();
        roots.iter().try_for_each(shut_down).map_err(said("EXT4_IOC_SHUTDOWN"))
    }

    /// Their power comes back: unmounted, and mounted again with a replay of the journal. Their processes have ended.
    pub(super) fn restore(&self, numbers: &[u16]) -> Result<(), String> {
        for number in numbers {
            let root = self.root(*number).display().to_string();
            // The last of a process's mappings may take a moment to go.
            let mut why = String::new();
            let unmounted = until(Duration::from_secs(10), "the disk can be unmounted", || {
                tool("umount", &[&root]).map_err(|error| why = error).ok()
            });
            unmounted.map_err(|late| format!("{late}: {why}"))?;
            let image = self.image(*number).display().to_string();
            tool("mount", &["-t", "ext4", "-o", "loop", &image, &root])?;
            self.prove(*number)?;
        }
        Ok(())
    }

    /// That what was synced is there, and what was not is gone.
    fn prove(&self, number: u16) -> Result<(), String> {
        let kept = fs::read(self.synced(number)).unwrap_or_default();
        if kept != [b'+'; PROOF] {
            return Err(format!("disk {number}: of a synced file {} bytes are left", kept.len()));
        }
        let left = fs::read(self.unsynced(number)).unwrap_or_default();
        if left.iter().filter(|byte| **byte == b'-').count() == PROOF {
            return Err(format!("disk {number}: this was no power loss, an unsynced file is whole"));
        }
        let _ = fs::remove_file(self.unsynced(number));
        Ok(())
    }

    /// Copies the images, without their holes.
    pub(super) fn keep(&self, to: &Path) -> Result<(), String> {
        for number in 1..=3 {
            let (from, to) = (self.image(number), to.join(format!("disk-{number}.img")));
            tool("cp", &["--sparse=always", &from.display().to_string(), &to.display().to_string()])?;
        }
        Ok(())
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for number in 1..=3 {
            // It may not be mounted; and what is left ends with this process's mount namespace.
            let _ = tool("umount", &["-l", &self.root(number).display().to_string()]);
        }
        if self.memory {
            let _ = tool("umount", &["-l", &self.dir.path().display().to_string()]);
        }
    }
}

fn said(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

#[expect(unsafe_code, reason = "there is no safe wrapper for this ioctl")]
fn shut_down(root: &File) -> io::Result<()> {
    /// `_IOR('X', 125, __u32)`.
    const EXT4_IOC_SHUTDOWN: nix::libc::Ioctl = 0x8004_587d;
    /// At once: neither dirty pages nor the journal are written.
    const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;
    // SAFETY: the descriptor is open, and the kernel reads the four bytes pointed to while the call lasts.
    let done = unsafe { nix::libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &EXT4_GOING_FLAGS_NOLOGFLUSH) };
    Errno::result(done).map(drop).map_err(io::Error::from)
}
