//! Directories for a server's socket and log, removed whatever becomes of the test.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

const NAME: &str = "cachetory-test";

/// What `exit` has to remove: what a static holds is never dropped.
static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A directory that goes with this value, or with the process. Its path is short enough for a Unix socket's.
pub struct TempDir {
    path: PathBuf,
    /// A forked child must not remove what its parent uses.
    process: u32,
}

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static PREPARED: OnceLock<()> = OnceLock::new();
        PREPARED.get_or_init(prepare);
        let process = process::id();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{NAME}-{process}-{number}"));
        fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        live().push(path.clone());
        Self { path, process }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if self.process == process::id() {
            let _ = fs::remove_dir_all(&self.path);
            live().retain(|path| *path != self.path);
        }
    }
}

fn live() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prepare() {
    // SAFETY: the handler is a plain function of this program.
    unsafe { libc::atexit(remove_all) };
    sweep();
}

extern "C" fn remove_all() {
    let own = format!("{NAME}-{}-", process::id());
    for path in live().drain(..) {
        if path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(&own)) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Removes what killed test processes left behind.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(owner) else { continue };
        // SAFETY: signal 0 only asks whether the process exists.
        if unsafe { libc::kill(owner, 0) } == -1 {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn owner(name: &str) -> Option<i32> {
    name.strip_prefix(NAME)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}
