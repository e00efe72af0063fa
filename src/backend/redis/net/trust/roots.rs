//! Who may vouch for a server: the authorities that the options name, or the platform's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::files::{self, Look};
use super::{Fingerprint, Unusable, bad, pem_file};
use crate::config::TlsOptions;

#[derive(Debug)]
pub struct Roots {
    pub store: Arc<RootCertStore>,
    /// Those that the caller trusts in person: one of them may be the server's own, as with OpenSSL.
    pub pinned: Vec<CertificateDer<'static>>,
    /// What was in the files of a folder of the caller's, for when one of them cannot be read later.
    folder: HashMap<PathBuf, Vec<CertificateDer<'static>>>,
    pub fingerprint: Fingerprint,
    pub sources: Sources,
}

/// Where authorities lie. The environment says that too, and is asked only when they are read: a program may be about
/// to change it.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    /// The caller's own choice, all of which is to be there.
    are_own: bool,
}

impl Sources {
    pub fn new(options: &TlsOptions) -> Self {
        let files: Vec<_> = options.ca_certs.iter().cloned().collect();
        let folders: Vec<_> = options.ca_path.iter().cloned().collect();
        if files.is_empty() && folders.is_empty() {
            return Self::of_platform();
        }
        Self { files, folders, are_own: true }
    }

    /// As OpenSSL has them, by the environment first.
    fn of_platform() -> Self {
        let file = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
        let file = file.map(PathBuf::from);
        let folders = std::env::var_os("SSL_CERT_DIR");
        let folders: Vec<_> = folders
            .iter()
            .flat_map(std::env::split_paths)
            .filter(|folder| !folder.as_os_str().is_empty())
            .collect();
        if file.is_some() || !folders.is_empty() {
            return Self { files: file.into_iter().collect(), folders, are_own: false };
        }
        if cfg!(target_os = "macos") {
            return Self { files: Vec::new(), folders: Vec::new(), are_own: false };
        }
        let openssl_probe::ProbeResult { cert_file, cert_dir } = openssl_probe::probe();
        Self { files: cert_file.into_iter().collect(), folders: cert_dir, are_own: false }
    }

    pub fn look(&self) -> Look {
        // The platform's folders have hundreds of files, and are replaced as a whole or not at all.
        Look::at(&self.files, &self.folders, self.are_own)
    }
}

/// `old`: what was there before.
pub fn read(sources: &Sources, old: Option<&Roots>) -> Result<Roots, Unusable> {
    let mut roots = match sources.are_own {
        true => own(sources, old)?,
        false => platforms(sources)?,
    };
    roots.sources = sources.clone();
    Ok(roots)
}

fn own(sources: &Sources, old: Option<&Roots>) -> Result<Roots, Unusable> {
    let mut list = Vec::new();
    for file in &sources.files {
        list.extend(certificates(file)?);
    }
    let mut folder = HashMap::new();
    for path in &sources.folders {
        let found = in_folder(path, old.map(|old| &old.folder))?;
        if found.is_empty() {
            return Err(bad(format!("no certificate that can be used in {}", path.display())));
        }
        list.extend(found.iter().flat_map(|(_, found)| found.iter().cloned()));
        folder.extend(found);
    }
    let mut roots = Roots::new(&list)?;
    roots.pinned = list;
    roots.folder = folder;
    Ok(roots)
}

/// One bad certificate among the system's is no reason to fail.
fn platforms(sources: &Sources) -> Result<Roots, Unusable> {
    let mut list = Vec::new();
    let mut failed = None;
    for file in &sources.files {
        match certificates(file) {
            Ok(found) => list.extend(found),
            Err(unusable) => failed = failed.or(Some(unusable)),
        }
    }
    for folder in &sources.folders {
        match in_folder(folder, None) {
            Ok(found) => list.extend(found.into_iter().flat_map(|(_, found)| found)),
            Err(unusable) => failed = failed.or(Some(unusable)),
        }
    }
    #[cfg(target_os = "macos")]
    if sources.files.is_empty() && sources.folders.is_empty() {
        list = rustls_native_certs::load_native_certs().certs;
    }
    // Most lie there twice, in a file by themselves and in one with all.
    list.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    list.dedup();
    if !list.is_empty() {
        return Roots::new(&list);
    }
    Err(match failed {
        Some(Unusable::Bad(why)) => {
            bad(format!("cannot load the platform's trusted certificates: {why}"))
        }
        Some(unusable) => unusable,
        None => bad("cannot load the platform's trusted certificates: none found"),
    })
}

impl Roots {
    fn new(list: &[CertificateDer<'static>]) -> Result<Self, Unusable> {
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(list.iter().cloned());
        if added == 0 {
            return Err(bad("none of the trusted certificates can be used"));
        }
        let mut fingerprint = Context::new(&SHA256);
        list.iter().for_each(|certificate| fingerprint.update(certificate));
        Ok(Self {
            store: Arc::new(store),
            pinned: Vec::new(),
            folder: HashMap::new(),
            fingerprint: Fingerprint::of(fingerprint),
            sources: Sources::default(),
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let sections = pem_file(path)?;
    let mut list: Vec<_> = sections.iter().filter_map(super::certificate).collect();
    list.retain(|certificate| webpki::anchor_from_trusted_cert(certificate).is_ok());
    if list.is_empty() {
        return Err(bad(format!("no certificate that can be used in {}", path.display())));
    }
    Ok(list)
}

type Found = Vec<(PathBuf, Vec<CertificateDer<'static>>)>;

/// Such folders hold other things too (revocation lists, notes), which OpenSSL passes over. What could be read before
/// and cannot be read now is as it was.
fn in_folder(
    folder: &Path,
    before: Option<&HashMap<PathBuf, Vec<CertificateDer<'static>>>>,
) -> Result<Found, Unusable> {
    let paths = files::list(folder).map_err(|error| super::unread(folder, &error))?;
    let mut list = Vec::new();
    for path in paths.into_iter().filter(|path| !files::is_no_file(path)) {
        match certificates(&path) {
            Ok(found) => list.push((path, found)),
            Err(scarce @ Unusable::Scarce(_)) => return Err(scarce),
            Err(_) => {
                let old = before.and_then(|before| before.get(&path)).cloned();
                let is_there = || path.try_exists().unwrap_or(true);
                list.extend(old.filter(|_| is_there()).map(|old| (path, old)));
            }
        }
    }
    Ok(list)
}
