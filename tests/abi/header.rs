//! The committed header is the one that the source gives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where the types, the macros and the functions of the ABI are written, in the order of the header. A function
/// elsewhere would be exported without being declared; `symbols` notices.
const SOURCES: [&str; 6] = [
    "src/ffi/status.rs",
    "src/ffi/types.rs",
    "src/ffi/completion.rs",
    "src/ffi/cache.rs",
    "src/ffi/queue.rs",
    "src/ffi/submit.rs",
];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn path() -> PathBuf {
    root().join("include/cachetory.h")
}

fn generate() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root().join(source));
    }
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    adjust(&String::from_utf8(text).unwrap())
}

/// What cbindgen has no setting for: the macro that Swift must see is spelled with capitals, and types go by their
/// typedef.
fn adjust(header: &str) -> String {
    let types =
        header.replace("typedef struct ", "typedef\0").replace("struct cachetory_", "cachetory_");
    types
        .replace("typedef\0", "typedef struct ")
        .replace("9223372036854775807ll", "9223372036854775807LL")
}

/// The committed header without comments and preprocessor lines.
pub fn code() -> String {
    let text = fs::read_to_string(path()).unwrap();
    let mut code = String::new();
    let mut rest = text.as_str();
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    code.push_str(rest);
    let lines = code.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The macros of the committed header, as C (rather than C++) sees them.
pub fn macros() -> BTreeMap<String, String> {
    let text = fs::read_to_string(path()).unwrap();
    let definitions = text.lines().filter_map(|line| line.strip_prefix("#define "));
    let pairs = definitions.filter_map(|line| line.split_once(' '));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn header_is_the_source() {
    let generated = generate();
    if env::var_os("CACHETORY_WRITE_HEADER").is_some() {
        fs::create_dir_all(path().parent().unwrap()).unwrap();
        fs::write(path(), generated).unwrap();
        return;
    }
    let committed = fs::read_to_string(path()).unwrap();
    for (number, (old, new)) in committed.lines().zip(generated.lines()).enumerate() {
        assert_eq!(old, new, "line {}: `make header` writes it anew", number + 1);
    }
    assert!(committed == generated, "one is longer: `make header` writes it anew");
}
