//! The shared library exports the functions that the header declares and nothing else, under a name that says its
//! version.

use std::collections::BTreeSet;
use std::env;
use std::ffi::CStr;
use std::path::PathBuf;
use std::process::Command;

use cachetory::ffi::cache::cachetory_version;

use crate::header;

/// Cargo builds every kind of the library before a test that uses it, into the directory of the test's own executable.
fn library() -> PathBuf {
    env::current_exe().unwrap().with_file_name("libcachetory.so")
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).arg(library()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every identifier that the header follows with a parenthesis, outside of comments and macros.
pub fn declared() -> BTreeSet<String> {
    let header = header::code();
    let word = |text: &str| {
        let at = text.rfind(|byte: char| !byte.is_ascii_alphanumeric() && byte != '_');
        text[at.map_or(0, |at| at + 1)..].to_owned()
    };
    let before = header.match_indices('(').map(|(at, _)| word(&header[..at]));
    before.filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_library_exports_exactly_the_declared_functions() {
    let table = run("nm", &["-D", "--defined-only", "--format=posix"]);
    let exported: BTreeSet<String> =
        table.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(exported.iter().all(|name| name.starts_with("cachetory_")), "{exported:?}");
    assert_eq!(exported, declared());
}

#[test]
fn the_library_names_its_version_and_stays_loaded() {
    let section = run("readelf", &["--dynamic", "--wide"]);
    let soname = format!("[libcachetory.so.{}]", env!("CARGO_PKG_VERSION_MAJOR"));
    let line = |tag: &str| section.lines().find(|line| line.contains(tag)).unwrap_or_default();
    assert!(line("(SONAME)").ends_with(&soname), "{section}");
    assert!(line("(FLAGS_1)").contains("NODELETE"), "{section}");
}

#[test]
fn the_versions_of_package_header_and_library_agree() {
    // SAFETY: the library's own static text.
    let version = unsafe { CStr::from_ptr(cachetory_version()) };
    assert_eq!(version.to_str(), Ok(env!("CARGO_PKG_VERSION")));
    let text = ["MAJOR", "MINOR", "PATCH"]
        .map(|part| header::macros()[&format!("CACHETORY_VERSION_{part}")].clone());
    assert_eq!(text.join("."), env!("CARGO_PKG_VERSION"));
}
