//! What a TLS client trusts, and what it shows: read from the files that the options name, and again when they change.

mod der;
mod encrypted;
mod files;
mod identity;
mod p521;
mod pem;
mod roots;
mod rsa_pss;
mod verify;

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use ring::digest::Context;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;

use self::der::{Certificate, Der};
use self::files::Look;
use self::identity::{Identity, Shown};
use self::pem::Section;
use self::roots::{Roots, Sources};
use self::verify::{TrustAnything, Verifier};
use crate::config::TlsOptions;
use crate::deadline::Deadline;
use crate::error::is_scarcity;
use crate::{reserve, sys, threads};

/// More than the certificates take that systems trust.
const MATERIAL: usize = 2 << 20;

pub use self::identity::was_asked;
pub use self::verify::Reason;

/// Why there is no configuration.
#[derive(Clone, Debug)]
pub enum Unusable {
    /// What the options name cannot be used; the text names the file.
    Bad(String),
    /// A descriptor, memory or a thread could not be had.
    Scarce(String),
    /// The files could not be read in time.
    Timeout,
}

/// How long a dial waits for files that changed before it goes on with what was read of them before.
const PATIENCE: Duration = Duration::from_secs(1);
/// A file that changes while it is read is read again so often, where there is nothing older.
const MOST_READINGS: u32 = 5;

/// The configuration of a cache's TLS sessions, made with its first connection. Reading the trusted certificates takes
/// milliseconds, and may hang with the file system: so it is done on a thread of its own, which callers wait for no
/// longer than they can.
///
/// Before each dial the files are looked at, by the thread that dials, and read again if they have changed, or a
/// handshake failed for what was read of them. The old stays in use while the new cannot be read.
pub struct Trust {
    options: TlsOptions,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A reading is over.
    changed: Condvar,
    /// What was read last, once more for a child process.
    kept: Kept,
    /// A server has refused what this client showed it, after the handshake.
    is_doubted: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    /// Since when the files are being read.
    reading: Option<Instant>,
    /// How many readings are over.
    readings: u64,
    /// What the last one came to, where it came to nothing; for those who waited. The next call tries again, for the
    /// files may have been mended.
    failed: Option<Unusable>,
}

#[derive(Clone)]
struct Current {
    config: Arc<ClientConfig>,
    material: Arc<Material>,
}

/// What was read. Each part is as old as it has to be.
#[derive(Clone)]
struct Material {
    /// `None`: nothing is verified.
    roots: Option<Part<Roots>>,
    /// `None`: the options name none.
    identity: Option<Part<Identity>>,
}

struct Part<T> {
    value: Arc<T>,
    /// The files as they were when they were read last, in vain or not.
    look: Look,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), look: self.look.clone() }
    }
}

/// A digest of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(context: Context) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

/// The same twice, each under a lock of its own: a thread that stores it has one of them at a time. So a child process
/// finds one that is free, whatever its parent's threads were doing.
#[derive(Default)]
struct Kept([Mutex<Option<Arc<Material>>>; 2]);

impl Kept {
    fn store(&self, material: &Arc<Material>) {
        for slot in &self.0 {
            let old =
                slot.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(material));
            drop(old);
        }
    }

    /// Waits for nobody.
    fn find(&self) -> Option<Arc<Material>> {
        self.0.iter().find_map(|slot| match slot.try_lock() {
            Ok(slot) => slot.clone(),
            Err(TryLockError::Poisoned(slot)) => slot.into_inner().clone(),
            Err(TryLockError::WouldBlock) => None,
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, result: Result<Current, Unusable>) {
        let mut state = self.state();
        state.reading = None;
        state.readings += 1;
        match result {
            Ok(current) => {
                self.kept.store(&current.material);
                state.current = Some(current);
                state.failed = None;
            }
            Err(unusable) => state.failed = Some(unusable),
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl Trust {
    pub fn new(options: &TlsOptions) -> Self {
        Self { options: options.clone(), shared: Arc::default() }
    }

    /// For a child process: what its parent had read, whose files it may have no right to. Sessions and locks of the
    /// parent's are left alone.
    pub fn inherit(&self) -> Self {
        let trust = Self::new(&self.options);
        if let Some(material) = self.shared.kept.find()
            && let Ok(config) = client_config(&self.options, &material)
        {
            trust.shared.settle(Ok(Current { config: Arc::new(config), material }));
        }
        trust
    }

    /// To be set when a server has refused what this client showed it.
    pub fn doubt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.is_doubted)
    }

    pub fn config(&self, deadline: &Deadline) -> Result<Arc<ClientConfig>, Unusable> {
        let is_doubted = self.shared.is_doubted.swap(false, Ordering::Relaxed);
        let current = self.shared.state().current.clone();
        match current {
            Some(current) if !is_doubted && current.material.is_fresh(&self.options) => {
                Ok(current.config)
            }
            _ => self.read(deadline, PATIENCE),
        }
    }

    /// After a handshake that failed with `config`: another, if there is other material now.
    pub fn other(
        &self,
        config: &Arc<ClientConfig>,
        deadline: &Deadline,
    ) -> Option<Arc<ClientConfig>> {
        let now = self.read(deadline, Deadline::LONGEST).ok()?;
        (!Arc::ptr_eq(&now, config)).then_some(now)
    }

    /// Has the files read, or waits for who is at it, which has been for no longer than `patience` where there is
    /// something older.
    fn read(&self, deadline: &Deadline, patience: Duration) -> Result<Arc<ClientConfig>, Unusable> {
        let mut state = self.shared.state();
        let since = match state.reading {
            Some(since) => since,
            None => match self.start(&mut state) {
                Ok(since) => since,
                Err(unusable) => {
                    return state.current.as_ref().map(|it| Arc::clone(&it.config)).ok_or(unusable);
                }
            },
        };
        let until = match state.current {
            Some(_) => deadline.instant().min(since + patience),
            None => deadline.instant(),
        };
        let readings = state.readings;
        let mut left = until.saturating_duration_since(Instant::now());
        while state.readings == readings && !left.is_zero() {
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            left = until.saturating_duration_since(Instant::now());
        }
        match (&state.current, &state.failed) {
            (Some(current), _) => Ok(Arc::clone(&current.config)),
            (None, Some(unusable)) if state.readings != readings => Err(unusable.clone()),
            _ => Err(Unusable::Timeout),
        }
    }

    fn start(&self, state: &mut State) -> Result<Instant, Unusable> {
        let (shared, options) = (Arc::clone(&self.shared), self.options.clone());
        let old = state.current.clone();
        threads::spawn(c"cachetory-tls", move || {
            sys::leave_descriptor_table();
            let read = panic::catch_unwind(AssertUnwindSafe(|| renew(&options, old)));
            shared.settle(read.unwrap_or_else(|_| Err(bad("reading them panicked"))));
        })
        .map_err(|error| Unusable::Scarce(format!("a thread: {error}")))?;
        let since = Instant::now();
        state.reading = Some(since);
        Ok(since)
    }
}

impl Material {
    /// Whether the files are as they were when they were read.
    fn is_fresh(&self, options: &TlsOptions) -> bool {
        let roots = self.roots.as_ref();
        let identity = self.identity.as_ref();
        roots.is_none_or(|part| part.look.holds(&part.value.sources.look()))
            && identity.is_none_or(|part| part.look.holds(&identity::look(options)))
    }

    fn is_same(&self, other: &Self) -> bool {
        let roots = |it: &Self| it.roots.as_ref().map(|part| part.value.fingerprint);
        let identity = |it: &Self| it.identity.as_ref().map(|part| part.value.fingerprint);
        roots(self) == roots(other) && identity(self) == identity(other)
    }
}

/// Reads the files. Where there is nothing new in them, the configuration stays, and with it its sessions.
fn renew(options: &TlsOptions, old: Option<Current>) -> Result<Current, Unusable> {
    // Certificates are full of small pieces that cannot fail.
    reserve::expect(MATERIAL).map_err(|error| Unusable::Scarce(error.to_string()))?;
    let before = old.as_ref().map(|old| &*old.material);
    let roots = match options.verify {
        false => None,
        true => {
            let old = before.and_then(|material| material.roots.as_ref());
            let sources = Sources::new(options);
            let read = || roots::read(&sources, old.map(|old| &*old.value)).map(Some);
            part(old, || sources.look(), read)?
        }
    };
    let old_identity = before.and_then(|material| material.identity.as_ref());
    let identity = part(old_identity, || identity::look(options), || identity::read(options))?;
    let material = Arc::new(Material { roots, identity });
    match old {
        Some(old) if old.material.is_same(&material) => Ok(Current { material, ..old }),
        _ => {
            let config = client_config(options, &material).map_err(bad)?;
            Ok(Current { config: Arc::new(config), material })
        }
    }
}

/// Reads one part. What cannot be read, or changes meanwhile, stays as it was.
fn part<T>(
    old: Option<&Part<T>>,
    look: impl Fn() -> Look,
    read: impl Fn() -> Result<Option<T>, Unusable>,
) -> Result<Option<Part<T>>, Unusable> {
    for _ in 0..MOST_READINGS {
        let before = look();
        let value = read();
        let has_changed = look() != before;
        match (value, old) {
            (Ok(None), _) => return Ok(None),
            (Ok(Some(value)), _) if !has_changed => {
                return Ok(Some(Part { value: Arc::new(value), look: before }));
            }
            // It is read again by the next dial, for the reason is none of the files'.
            (Err(Unusable::Scarce(_)), Some(old)) => return Ok(Some(old.clone())),
            (Err(_), Some(old)) if !has_changed => {
                return Ok(Some(Part { value: Arc::clone(&old.value), look: before }));
            }
            (_, Some(old)) => return Ok(Some(old.clone())),
            (Err(unusable), None) if !has_changed => return Err(unusable),
            (_, None) => {}
        }
    }
    Err(bad(format!("certificates cannot be read, for {}", files::CHANGED)))
}

fn client_config(options: &TlsOptions, material: &Material) -> Result<ClientConfig, String> {
    let provider = Arc::new(verify::provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = match &material.roots {
        Some(roots) => Arc::new(Verifier::new(&roots.value, options.check_hostname, &provider)?),
        None => Arc::new(TrustAnything),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let identity = material.identity.as_ref();
    let shown = Shown(identity.map(|identity| Arc::clone(&identity.value.certified)));
    Ok(builder.with_client_cert_resolver(Arc::new(shown)))
}

#[cold]
fn bad(text: impl Into<String>) -> Unusable {
    Unusable::Bad(text.into())
}

fn unread(path: &Path, error: &io::Error) -> Unusable {
    match is_scarcity(error) {
        true => Unusable::Scarce(error.to_string()),
        false => bad(format!("cannot read {}: {error}", path.display())),
    }
}

fn pem_file(path: &Path) -> Result<Vec<Section>, Unusable> {
    let bytes = files::read(path).map_err(|error| unread(path, &error))?;
    pem::sections(&bytes).map_err(|broken| bad(format!("{} {}", path.display(), broken.0)))
}

/// The certificate in a section, of whatever version.
fn certificate(section: &Section) -> Option<CertificateDer<'static>> {
    let der = match section.label.as_str() {
        "CERTIFICATE" | "X509 CERTIFICATE" => &section.der[..],
        // What it is trusted for comes behind it.
        "TRUSTED CERTIFICATE" => Der::new(&section.der).any()?.whole,
        _ => return None,
    };
    Certificate::read(der)?;
    Some(CertificateDer::from(der.to_vec()))
}
