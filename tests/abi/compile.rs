//! The header compiles alone and included twice, in every language it is meant for, under gcc and clang.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::header::root;
use crate::symbols;

const TWICE: &str = "#include \"cachetory.h\"\n#include \"cachetory.h\"\nint nothing;\n";

/// gcc, and clang under whichever name it is installed.
pub fn compilers() -> [String; 2] {
    let runs = |name: &String| {
        let mut probe = Command::new(name);
        probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    let versions = (11..=30).rev().map(|version| format!("clang-{version}"));
    let clang = std::iter::once("clang".to_owned()).chain(versions).find(runs);
    let gcc = Some("gcc".to_owned()).filter(runs);
    match (gcc, clang) {
        (Some(gcc), Some(clang)) => [gcc, clang],
        _ => panic!("gcc and clang are needed; scripts/setup installs them"),
    }
}

/// Checks `source` without writing anything, with the warnings a careful C programmer has on.
pub fn check(compiler: &str, language: &str, arguments: &[&str], source: &str) {
    let mut child = Command::new(compiler)
        .args(["-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wundef"])
        .args(arguments)
        .arg("-I")
        .arg(root().join("include"))
        .args(["-x", language, "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler} {language} {arguments:?}:\n{complaint}");
}

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn the_header_compiles_as_c_without_a_warning() {
    for compiler in compilers() {
        for standard in ["-std=c99", "-std=c11", "-std=c17", "-std=gnu17"] {
            check(&compiler, "c", &[standard, "-Wstrict-prototypes", "-Wc++-compat"], TWICE);
        }
    }
}

#[test]
fn the_header_compiles_as_cpp_without_a_warning() {
    for compiler in compilers() {
        for standard in ["-std=c++11", "-std=c++17", "-std=c++20"] {
            check(&compiler, "c++", &[standard], TWICE);
        }
    }
}

/// The types of the functions, parameter by parameter, as the contract of the ABI has them.
#[test]
fn functions_and_structs_have_the_promised_types() {
    let source = fs::read_to_string(root().join("tests/c/abi_prototypes.c")).unwrap();
    for function in symbols::declared() {
        assert!(source.contains(&format!("{function}(")), "{function} is not in abi_prototypes.c");
    }
    for compiler in compilers() {
        check(&compiler, "c", &["-std=c11"], &source);
    }
}

/// What Swift does with include/module.modulemap, as far as clang can tell.
#[test]
fn the_module_map_for_swift_is_valid() {
    let [_, clang] = compilers();
    let cache = scratch("modules");
    let cache = format!("-fmodules-cache-path={}", cache.display());
    let map = format!("-fmodule-map-file={}", root().join("include/module.modulemap").display());
    let source = "@import Cachetory;\ncachetory_status_t status = CACHETORY_OK;\n";
    check(&clang, "objective-c", &["-fmodules", &cache, &map], source);
}
