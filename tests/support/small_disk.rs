//! A real disk that fills up: a small file system in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many mebibytes in `directory`, where the machine lets us.
    pub(crate) fn mount(directory: &Path, mebibytes: u32) -> Self {
        Self::try_mount(directory, mebibytes).expect("it could be mounted before")
    }

    /// Whether the machine lets us: only root may.
    pub(crate) fn is_possible() -> bool {
        let directory = tempfile::tempdir().expect("a directory");
        Self::try_mount(directory.path(), 1).is_some()
    }

    fn try_mount(directory: &Path, mebibytes: u32) -> Option<Self> {
        let path = directory.join("small");
        fs::create_dir(&path).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(&path);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status().expect("umount starts");
        assert!(unmounted.success() || std::thread::panicking());
    }
}
