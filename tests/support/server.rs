//! Real servers: started on free ports and a socket of their own, stopped with the test process, whatever ends it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{
    Client, Connection, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo,
};

use super::certs::Pair;
use super::dir::TempDir;
use super::poll;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    Redis,
    Valkey,
}

impl Software {
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Redis => {
                ("CACHETORY_REDIS_SERVER", "redis-server", "apt-get install redis-server")
            }
            Self::Valkey => ("CACHETORY_VALKEY_SERVER", "valkey-server", "scripts/get-valkey"),
        }
    }

    /// By its environment variable, on the PATH, or where `scripts/get-valkey` puts it.
    pub fn find(self) -> Option<PathBuf> {
        let (variable, name, _) = self.names();
        if let Some(path) = std::env::var_os(variable) {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "{variable} is set to {}: no such file", path.display());
            return Some(path);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let fetched = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("servers");
        std::env::split_paths(&path)
            .chain([fetched])
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    }

    fn missing(self) -> String {
        let (variable, name, how) = self.names();
        format!("{name} is needed to test with: run {how}, or set {variable} to its path")
    }
}

/// How to start a server.
#[derive(Clone)]
pub struct Setup {
    software: Software,
    args: Vec<OsString>,
    password: Option<String>,
    tls: bool,
}

impl Setup {
    pub fn redis() -> Self {
        Self::of(Software::Redis)
    }

    pub fn of(software: Software) -> Self {
        Self { software, args: Vec::new(), password: None, tls: false }
    }

    /// Further arguments for the command line; those of a server's own override the usual ones.
    pub fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.args(["--requirepass", password])
    }

    /// Listens with TLS on a port besides. With `client_ca` clients must show a certificate of that authority.
    pub fn tls(mut self, server: &Pair, client_ca: Option<&Pair>) -> Self {
        self.tls = true;
        let auth = if client_ca.is_some() { "yes" } else { "no" };
        let ca = &client_ca.unwrap_or(server).cert;
        self.args(["--tls-auth-clients", auth])
            .args([OsString::from("--tls-cert-file"), server.cert.clone().into()])
            .args([OsString::from("--tls-key-file"), server.key.clone().into()])
            .args([OsString::from("--tls-ca-cert-file"), ca.clone().into()])
    }

    #[track_caller]
    pub fn start(self) -> Server {
        let Some(program) = self.software.find() else { panic!("{}", self.software.missing()) };
        let child = Mutex::new(None);
        let mut server =
            Server { program, setup: self, port: 0, tls_port: 0, child, dir: TempDir::new() };
        // Another process may take a port between the look and the start; then the server ends at once.
        for _ in 0..20 {
            server.port = free_port();
            server.tls_port = if server.setup.tls { free_port() } else { 0 };
            match server.launch() {
                Ok(()) => return server,
                Err(log) if log.contains("in use") => (),
                Err(log) => panic!("{} did not start:\n{log}", server.program.display()),
            }
        }
        panic!("found no free port");
    }
}

/// A running server. It listens on a TCP port, on a Unix socket, and on a second port if it speaks TLS.
pub struct Server {
    program: PathBuf,
    setup: Setup,
    port: u16,
    tls_port: u16,
    child: Mutex<Option<Child>>,
    dir: TempDir,
}

impl Server {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tls_port(&self) -> u16 {
        assert!(self.setup.tls, "a server without TLS");
        self.tls_port
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    pub fn software(&self) -> Software {
        self.setup.software
    }

    pub fn pid(&self) -> u32 {
        self.child().as_ref().expect("a running server").id()
    }

    /// Without credentials or options.
    pub fn tcp_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    pub fn unix_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port())
    }

    /// The independent client: the redis crate's own connection, over the Unix socket.
    #[track_caller]
    pub fn client(&self, db: i64) -> Connection {
        self.try_client(db).unwrap_or_else(|error| panic!("the redis crate: {error}"))
    }

    pub fn try_client(&self, db: i64) -> redis::RedisResult<Connection> {
        let mut settings = RedisConnectionInfo::default().set_db(db);
        if let Some(password) = &self.setup.password {
            settings = settings.set_password(password.as_str());
        }
        let info = ConnectionAddr::Unix(self.socket()).into_connection_info()?;
        let connection = Client::open(info.set_redis_settings(settings))?.get_connection()?;
        connection.set_read_timeout(Some(super::PATIENCE))?;
        Ok(connection)
    }

    /// One command of the independent client, in db 0.
    #[track_caller]
    pub fn query<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let answer = command.query(&mut self.client(0));
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// At once, as `kill -9` does. Its ports and its socket's path stay its own for [`Server::restart`].
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The same ports, the same socket, an empty store.
    #[track_caller]
    pub fn restart(&self) {
        self.kill();
        // A port may be in another process's hands for a moment.
        poll("the server comes back", || match self.launch() {
            Ok(()) => Some(()),
            Err(log) if log.contains("in use") => None,
            Err(log) => panic!("{} did not start again:\n{log}", self.program.display()),
        });
    }

    /// Stops it from doing anything; its connections stay open (SIGSTOP).
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        // SAFETY: a child of ours that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{}", io::Error::last_os_error());
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process and waits until it answers; the error is its log.
    fn launch(&self) -> Result<(), String> {
        let _ = fs::remove_file(self.socket());
        let log = self.dir.join("log");
        let output = File::create(&log).map_err(|error| error.to_string())?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.program);
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--databases", "64"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path());
        if self.setup.tls {
            command.args(["--tls-port", &self.tls_port.to_string()]);
        }
        command.args(&self.setup.args).stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut child = spawn(command).map_err(|error| error.to_string())?;
        let answers = poll("the server answers", || match child.try_wait() {
            Ok(None) => is_ready(&self.socket()).then_some(true),
            _ => Some(false),
        });
        if answers {
            *self.child() = Some(child);
            return Ok(());
        }
        Err(fs::read_to_string(log).unwrap_or_default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Any answer but LOADING will do: a server with a password says NOAUTH.
fn is_ready(socket: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer[..7])?;
        Ok::<_, io::Error>(!answer.starts_with(b"-LOADIN"))
    };
    ask().unwrap_or(false)
}

/// Below the range from which outgoing connections take theirs, so that a restarted server finds its port again.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = process::id().wrapping_mul(97).wrapping_add(now.subsec_micros());
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + start.wrapping_add(step * 7) % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Starts a process that the kernel kills when this one ends, however it ends. The kernel goes by the thread that
/// spawned it, so all are spawned by one thread that lives as long as the process: a test's own thread would take the
/// servers it shares along.
fn spawn(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (command, answer) in jobs {
                let _ = answer.send(spawn_here(command));
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    spawner.send((command, answer)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}

fn spawn_here(mut command: Command) -> io::Result<Child> {
    let parent = process::id();
    let bind_to_parent = move || {
        // SAFETY: both calls are allowed between fork and exec, and touch no memory.
        unsafe {
            #[cfg(target_os = "linux")]
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have ended before the kernel was told.
            if libc::getppid() as u32 != parent {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(bind_to_parent) };
    command.spawn()
}

/// The password of [`guarded`]: every character that a URL has a use for.
pub const PASSWORD: &str = "p@ss:w/o?r#d%&+ =[]";

/// A plain Redis for all tests of a binary. Each keeps to a database of its own.
pub fn redis() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Setup::redis().start())
}

/// A Redis that wants [`PASSWORD`].
pub fn guarded() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Setup::redis().password(PASSWORD).start())
}

/// A Redis that speaks TLS, with [`super::certs::Certs::server`].
pub fn with_tls() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Setup::redis().tls(&super::certs::certs().server, None).start())
}

/// A plain Valkey; nothing where it is missing and CACHETORY_ALLOW_MISSING_SERVERS=1 says that it may.
pub fn valkey() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let start = || {
        let may_miss =
            std::env::var_os("CACHETORY_ALLOW_MISSING_SERVERS").is_some_and(|v| v == "1");
        if may_miss && Software::Valkey.find().is_none() {
            super::note(&format!("SKIPPED: {}", Software::Valkey.missing()));
            return None;
        }
        Some(Setup::of(Software::Valkey).start())
    };
    SERVER.get_or_init(start).as_ref()
}
