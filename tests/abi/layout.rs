//! Sizes, offsets and macro values, once as Rust has them and once as a C compiler reads them from the header.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::{align_of, offset_of, size_of};

use cachetory::ffi::completion::cachetory_completion_t;
use cachetory::ffi::status::*;
use cachetory::ffi::types::*;

use crate::compile::{check, compilers};
use crate::header;

/// The macros as the contract spells them. Swift imports literals only; a cast, a suffix more or a name would hide
/// them.
const SPELLING: [(&str, &str, i64); 27] = [
    ("CACHETORY_OK", "0", CACHETORY_OK as i64),
    ("CACHETORY_NOT_FOUND", "1", CACHETORY_NOT_FOUND as i64),
    ("CACHETORY_NOT_STORED", "2", CACHETORY_NOT_STORED as i64),
    ("CACHETORY_ERR_INVALID_ARGUMENT", "-1", CACHETORY_ERR_INVALID_ARGUMENT as i64),
    ("CACHETORY_ERR_INVALID_URL", "-2", CACHETORY_ERR_INVALID_URL as i64),
    ("CACHETORY_ERR_CLOSED", "-3", CACHETORY_ERR_CLOSED as i64),
    ("CACHETORY_ERR_CONNECT", "-4", CACHETORY_ERR_CONNECT as i64),
    ("CACHETORY_ERR_TLS", "-5", CACHETORY_ERR_TLS as i64),
    ("CACHETORY_ERR_AUTH", "-6", CACHETORY_ERR_AUTH as i64),
    ("CACHETORY_ERR_TIMEOUT", "-7", CACHETORY_ERR_TIMEOUT as i64),
    ("CACHETORY_ERR_IO", "-8", CACHETORY_ERR_IO as i64),
    ("CACHETORY_ERR_PROTOCOL", "-9", CACHETORY_ERR_PROTOCOL as i64),
    ("CACHETORY_ERR_SERVER", "-10", CACHETORY_ERR_SERVER as i64),
    ("CACHETORY_ERR_UNSUPPORTED", "-11", CACHETORY_ERR_UNSUPPORTED as i64),
    ("CACHETORY_ERR_CANCELLED", "-12", CACHETORY_ERR_CANCELLED as i64),
    ("CACHETORY_ERR_INTERNAL", "-13", CACHETORY_ERR_INTERNAL as i64),
    ("CACHETORY_ERR_BUSY", "-14", CACHETORY_ERR_BUSY as i64),
    ("CACHETORY_ERR_NO_MEMORY", "-15", CACHETORY_ERR_NO_MEMORY as i64),
    ("CACHETORY_ERR_DOWN", "-16", CACHETORY_ERR_DOWN as i64),
    ("CACHETORY_VERSION_MAJOR", "0", CACHETORY_VERSION_MAJOR as i64),
    ("CACHETORY_VERSION_MINOR", "1", CACHETORY_VERSION_MINOR as i64),
    ("CACHETORY_VERSION_PATCH", "0", CACHETORY_VERSION_PATCH as i64),
    ("CACHETORY_NO_EXPIRY", "9223372036854775807LL", CACHETORY_NO_EXPIRY),
    ("CACHETORY_SET_IF_NOT_EXISTS", "1u", CACHETORY_SET_IF_NOT_EXISTS as i64),
    ("CACHETORY_ERROR_RETRYABLE", "1u", CACHETORY_ERROR_RETRYABLE as i64),
    ("CACHETORY_ERROR_MAYBE_APPLIED", "2u", CACHETORY_ERROR_MAYBE_APPLIED as i64),
    ("CACHETORY_STRLEN", "((size_t)-1)", usize::MAX as i64),
];

/// A struct's name, size and alignment, and the names and offsets of its members.
type Struct = (&'static str, usize, usize, Vec<(&'static str, usize)>);

fn structs() -> [Struct; 8] {
    [
        (
            "cachetory_t",
            size_of::<cachetory_t>(),
            align_of::<cachetory_t>(),
            vec![("id", offset_of!(cachetory_t, id))],
        ),
        (
            "cachetory_bytes_t",
            size_of::<cachetory_bytes_t>(),
            align_of::<cachetory_bytes_t>(),
            vec![
                ("data", offset_of!(cachetory_bytes_t, data)),
                ("len", offset_of!(cachetory_bytes_t, len)),
            ],
        ),
        (
            "cachetory_item_t",
            size_of::<cachetory_item_t>(),
            align_of::<cachetory_item_t>(),
            vec![
                ("key", offset_of!(cachetory_item_t, key)),
                ("value", offset_of!(cachetory_item_t, value)),
            ],
        ),
        (
            "cachetory_value_t",
            size_of::<cachetory_value_t>(),
            align_of::<cachetory_value_t>(),
            vec![
                ("data", offset_of!(cachetory_value_t, data)),
                ("len", offset_of!(cachetory_value_t, len)),
                ("owner", offset_of!(cachetory_value_t, owner)),
            ],
        ),
        (
            "cachetory_values_t",
            size_of::<cachetory_values_t>(),
            align_of::<cachetory_values_t>(),
            vec![
                ("items", offset_of!(cachetory_values_t, items)),
                ("len", offset_of!(cachetory_values_t, len)),
                ("owner", offset_of!(cachetory_values_t, owner)),
            ],
        ),
        (
            "cachetory_error_t",
            size_of::<cachetory_error_t>(),
            align_of::<cachetory_error_t>(),
            vec![
                ("status", offset_of!(cachetory_error_t, status)),
                ("flags", offset_of!(cachetory_error_t, flags)),
                ("message", offset_of!(cachetory_error_t, message)),
            ],
        ),
        (
            "cachetory_queue_t",
            size_of::<cachetory_queue_t>(),
            align_of::<cachetory_queue_t>(),
            vec![("id", offset_of!(cachetory_queue_t, id))],
        ),
        (
            "cachetory_completion_t",
            size_of::<cachetory_completion_t>(),
            align_of::<cachetory_completion_t>(),
            vec![
                ("tag", offset_of!(cachetory_completion_t, tag)),
                ("status", offset_of!(cachetory_completion_t, status)),
                ("flags", offset_of!(cachetory_completion_t, flags)),
                ("value", offset_of!(cachetory_completion_t, value)),
                ("values", offset_of!(cachetory_completion_t, values)),
                ("deleted", offset_of!(cachetory_completion_t, deleted)),
                ("message", offset_of!(cachetory_completion_t, message)),
                ("owner", offset_of!(cachetory_completion_t, owner)),
                ("reserved", offset_of!(cachetory_completion_t, reserved)),
            ],
        ),
    ]
}

/// The header's structs with the names of their members.
fn declared_structs() -> BTreeMap<String, BTreeSet<String>> {
    let code = header::code();
    let bodies = code.split("typedef struct ").skip(1);
    let member = |text: &str| {
        let text = text.split('[').next().unwrap();
        text.rsplit([' ', '*']).next().unwrap().to_owned()
    };
    let parse = |text: &str| {
        let (name, rest) = text.split_once('{').unwrap();
        let members = rest.split_once('}').unwrap().0.split(';');
        let members = members.map(str::trim).filter(|text| !text.is_empty()).map(member);
        (name.trim().to_owned(), members.collect())
    };
    bodies.map(parse).collect()
}

#[test]
fn macros_are_spelled_as_promised() {
    let promised =
        SPELLING.iter().map(|(name, text, _)| ((*name).to_owned(), (*text).to_owned())).collect();
    assert_eq!(header::macros(), promised);
}

#[test]
fn no_struct_or_member_is_left_out_here() {
    let here = |(name, _, _, members): &Struct| {
        ((*name).to_owned(), members.iter().map(|(name, _)| (*name).to_owned()).collect())
    };
    assert_eq!(declared_structs(), structs().iter().map(here).collect());
}

#[test]
fn structs_and_macros_are_the_same_in_c_and_in_rust() {
    let mut facts = vec![
        ("sizeof(cachetory_error_t)".to_owned(), 512),
        ("sizeof(cachetory_completion_t)".to_owned(), 128),
    ];
    for (name, size, align, members) in structs() {
        facts.push((format!("sizeof({name})"), size as i64));
        facts.push((format!("ALIGNOF({name})"), align as i64));
        for (member, offset) in members {
            facts.push((format!("offsetof({name}, {member})"), offset as i64));
        }
    }
    facts.push(("sizeof(cachetory_status_t)".to_owned(), size_of::<cachetory_status_t>() as i64));
    facts.extend(SPELLING.iter().map(|(name, _, value)| ((*name).to_owned(), *value)));

    let mut source = String::from(
        "#include \"cachetory.h\"\n#ifdef __cplusplus\n#define ALIGNOF alignof\n#define ASSERT static_assert\n\
         #else\n#define ALIGNOF _Alignof\n#define ASSERT _Static_assert\n#endif\n",
    );
    for (expression, value) in facts {
        source.push_str(&format!(
            "ASSERT((long long)({expression}) == {value}LL, \"{expression} is {value} in Rust\");\n"
        ));
    }
    for compiler in compilers() {
        check(&compiler, "c", &["-std=c11"], &source);
        check(&compiler, "c++", &["-std=c++11"], &source);
    }
}
