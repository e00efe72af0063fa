//! C programs: what only a plain process can show, with its signals, forks and limits as the kernel gives them.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::dir::TempDir;
use super::pause;

/// How long a program may run before it counts as hanging: longer than whatever in it tells an end from a hang.
const LONGEST: Duration = Duration::from_secs(600);

/// A compiled program.
pub struct Program {
    path: PathBuf,
    _dir: TempDir,
}

impl Program {
    /// Compiles `tests/c/<name>.c` against the public header and the shared library that Cargo has just built.
    #[track_caller]
    pub fn build(name: &str) -> Self {
        Self::build_with(name, &[])
    }

    /// The same, with libraries that pkg-config knows.
    #[track_caller]
    pub fn build_with(name: &str, libraries: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = with_library();
        let path = dir.join(name);
        let flags: Vec<_> = libraries.iter().flat_map(|library| flags_of(library)).collect();
        let output = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-pthread", "-I"])
            .arg(root.join("include"))
            .arg(root.join("tests/c").join(name).with_extension("c"))
            .arg("-o")
            .arg(&path)
            .arg("-L")
            .arg(dir.path())
            .args([
                "-Wl,--as-needed",
                "-lcachetory",
                &format!("-Wl,-rpath,{}", dir.path().display()),
            ])
            .args(flags)
            .output()
            .expect("a C compiler");
        assert!(output.status.success(), "{name}.c:\n{}", text(&output.stderr));
        Self { path, _dir: dir }
    }

    /// Builds the Go program `tests/go/<name>`: offline, and with a build cache that outlives this run, for cgo takes a
    /// while.
    #[track_caller]
    pub fn build_go(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = with_library();
        let path = dir.join(name);
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("go-cache");
        let libraries = format!("-L{0} -lcachetory -Wl,-rpath,{0}", dir.path().display());
        let output = Command::new("go")
            .args(["build", "-o"])
            .arg(&path)
            .arg(".")
            .current_dir(root.join("tests/go").join(name))
            .envs([("CGO_ENABLED", "1"), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local")])
            .envs([("GOFLAGS", "-buildvcs=false"), ("CGO_LDFLAGS", &libraries)])
            .env("CGO_CFLAGS", format!("-I{}", root.join("include").display()))
            .env("GOCACHE", std::env::var_os("GOCACHE").unwrap_or_else(|| cache.into()))
            .output()
            .expect("go is needed to test with: run scripts/setup go");
        assert!(output.status.success(), "{name}:\n{}", text(&output.stderr));
        Self { path, _dir: dir }
    }

    /// Runs it to its end, which must be a good one; what it printed. The words of CACHETORY_TEST_UNDER, if set, are
    /// put before the command: `valgrind -q --error-exitcode=9`, say.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let output = self.finish(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let name = self.path.file_name().unwrap().display();
        assert!(output.status.success(), "{name} ended with {}\n{out}{err}", output.status);
        out
    }

    fn finish<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        let under = std::env::var("CACHETORY_TEST_UNDER").unwrap_or_default();
        let mut words = under.split_whitespace();
        let mut command = match words.next() {
            Some(tool) => Command::new(tool),
            None => Command::new(&self.path),
        };
        if !under.is_empty() {
            command.args(words).arg(&self.path);
        }
        let mut child = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (stdout, stderr) = (Vec::new(), Vec::new());
        let mut output = Output { status: ExitStatus::default(), stdout, stderr };
        thread::scope(|scope| {
            scope.spawn(|| out.read_to_end(&mut output.stdout));
            scope.spawn(|| err.read_to_end(&mut output.stderr));
            let end = Instant::now() + LONGEST;
            output.status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                if Instant::now() > end {
                    child.kill().unwrap();
                    break child.wait().unwrap();
                }
                pause::before_the_next_look();
            };
        });
        output
    }
}

/// A folder with the shared library that Cargo has just built, by the names that programs ask for.
fn with_library() -> TempDir {
    let dir = TempDir::new();
    let test = std::env::current_exe().unwrap();
    let built = test.parent().unwrap().join("libcachetory.so");
    // Programs ask for it by its soname.
    for link in ["libcachetory.so", "libcachetory.so.0"] {
        std::os::unix::fs::symlink(&built, dir.join(link)).unwrap();
    }
    dir
}

/// What a compiler is told of a library. Its headers are the system's, which are not held to this project's warnings.
#[track_caller]
fn flags_of(library: &str) -> Vec<String> {
    let asked = Command::new("pkg-config").args(["--cflags", "--libs", library]).output();
    let asked = asked.expect("pkg-config is needed to test with: run scripts/setup pkg-config");
    let name = library.split(['-', '_']).next().unwrap();
    let name = if name == "glib" { "libglib" } else { name };
    assert!(asked.status.success(), "{library} is needed to test with: run scripts/setup {name}");
    let flags = text(&asked.stdout);
    flags.split_whitespace().map(|flag| flag.replacen("-I", "-isystem", 1)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
