//! Files that certificates and keys lie in: read whole, and looked at for whether they have changed since.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::sys;

/// More is no file of certificates.
const MOST_BYTES: usize = 16 << 20;
/// What changed so lately may change once more without its times showing that.
const UNSETTLED: Duration = Duration::from_secs(1);

/// What a file was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    /// It could not be looked at, and why.
    Absent(i32),
    /// A pipe cannot be read again, so it never changes.
    Pipe {
        device: u64,
        inode: u64,
    },
    Is {
        device: u64,
        inode: u64,
        size: i64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
}

#[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        let (device, inode) = (stat.st_dev as u64, stat.st_ino as u64);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
            return Self::Pipe { device, inode };
        }
        Self::Is {
            device,
            inode,
            size: stat.st_size as i64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> Self {
        match rustix::fs::stat(path) {
            Ok(stat) => Self::from(&stat),
            Err(errno) => Self::Absent(errno.raw_os_error()),
        }
    }

    fn is_settled(&self, now: Duration) -> bool {
        let Self::Is { modified, changed, .. } = *self else { return true };
        let latest = modified.max(changed);
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(latest.0), u32::try_from(latest.1)) else {
            return true;
        };
        now.abs_diff(Duration::new(seconds, nanos)) > UNSETTLED
    }
}

/// What files were when they were looked at.
#[derive(Clone, Debug, Default)]
pub struct Look {
    stamps: Vec<Stamp>,
    /// None of them had just changed.
    is_settled: bool,
}

impl PartialEq for Look {
    fn eq(&self, other: &Self) -> bool {
        self.stamps == other.stamps
    }
}

impl Look {
    /// Looks at files and folders, and, with `entries`, at what is in the folders.
    pub fn at(files: &[PathBuf], folders: &[PathBuf], entries: bool) -> Self {
        let mut stamps: Vec<_> = files.iter().chain(folders).map(|path| Stamp::of(path)).collect();
        if entries {
            for path in folders.iter().filter_map(|folder| list(folder).ok()).flatten() {
                stamps.push(Stamp::of(&path));
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_settled = stamps.iter().all(|stamp| stamp.is_settled(now));
        Self { stamps, is_settled }
    }

    /// Whether what was read after this look is still what lies there, if a look now says `now`.
    pub fn holds(&self, now: &Self) -> bool {
        self.is_settled && self == now
    }
}

fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    sys::renumbered(retry(|| rustix::fs::open(path, flags, Mode::empty()))?)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// The whole of a file. May hang with its file system.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let fd = open(path, OFlags::empty())?;
    let before = Stamp::from(&rustix::fs::fstat(&fd)?);
    let bytes = read_all(fd.as_fd())?;
    if Stamp::from(&rustix::fs::fstat(&fd)?) != before {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, CHANGED));
    }
    Ok(bytes)
}

pub const CHANGED: &str = "it changed while it was read";

fn read_all(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    const PIECE: usize = 64 << 10;
    let mut bytes = Vec::new();
    loop {
        if bytes.len() > MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 16 MiB"));
        }
        bytes.try_reserve(PIECE).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let room = rustix::buffer::spare_capacity(&mut bytes);
        if retry_read(fd, room)? == 0 {
            return Ok(bytes);
        }
    }
}

fn retry_read(
    fd: std::os::fd::BorrowedFd<'_>,
    room: rustix::buffer::SpareCapacity<'_, u8>,
) -> io::Result<usize> {
    // A regular file's read is not interrupted, and a pipe's is tried again by the next call.
    Ok(rustix::io::read(fd, room)?)
}

/// Whether it is something else than a file: a pipe that nobody writes to, for one, would never be read to its end.
pub fn is_no_file(path: &Path) -> bool {
    rustix::fs::stat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile)
}

/// What is in a folder, in a fixed order.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let fd = open(folder, OFlags::DIRECTORY)?;
    let mut paths = Vec::new();
    for entry in Dir::new(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            paths.push(folder.join(OsStr::from_bytes(name)));
        }
    }
    paths.sort_unstable();
    Ok(paths)
}
