//! What a C caller can get wrong, or may leave out. Every backend refuses the same, before it looks at a byte.

use std::ffi::c_char;
use std::mem::size_of;
use std::ptr;

use cachetory::ffi::cache::*;
use cachetory::ffi::types::*;

use crate::fixture::{Case, Fixture, case};
use crate::support::capi::*;

pub fn cases() -> Vec<Case> {
    let mut cases = refusals();
    cases.extend([
        case(null_with_length_zero_is_empty),
        case(a_key_may_be_measured_by_its_terminator),
        case(the_error_output_may_be_null),
        case(the_count_of_mdelete_may_be_null),
        case(what_is_passed_in_is_not_kept_after_the_call),
    ]);
    cases
}

/// Those that hold where nothing is stored, too.
pub fn refusals() -> Vec<Case> {
    vec![
        case(null_with_a_length_is_refused),
        case(null_outputs_are_refused),
        case(unknown_flags_are_refused),
        case(lengths_that_cannot_be_are_refused_untouched),
        case(too_long_for_the_server_is_refused_untouched),
        case(a_value_is_never_measured_by_its_terminator),
        case(errors_are_filled_on_success_and_failure),
    ]
}

const OK: Outcome = Ok(CACHETORY_OK);
const NO_BYTES: cachetory_bytes_t = cachetory_bytes_t { data: ptr::null(), len: 0 };
const NULL_AND_ONE: cachetory_bytes_t = cachetory_bytes_t { data: ptr::null(), len: 1 };

/// Every place of every function in which bytes go in, filled with these. Outputs that are not emptied show.
pub fn with_key(cache: cachetory_t, key: cachetory_bytes_t) -> Vec<(&'static str, Outcome)> {
    let good = borrow(b"good");
    let keys = [good, key, good];
    let items =
        [cachetory_item_t { key: good, value: good }, cachetory_item_t { key, value: good }];
    let (data, len) = (key.data.cast(), key.len);
    let mut value = rubbish_value();
    let mut values = rubbish_values();
    let mut deleted = 77;
    // SAFETY: what is passed is what these tests are about: the library must not touch what it refuses.
    let outcomes = unsafe {
        vec![
            ("get", outcome(|e| cachetory_get(cache, data, len, &mut value, e))),
            ("set", outcome(|e| cachetory_set(cache, data, len, ptr::null(), 0, NO_EXPIRY, 0, e))),
            ("expire_in", outcome(|e| cachetory_expire_in(cache, data, len, 60_000, e))),
            ("expire_at", outcome(|e| cachetory_expire_at(cache, data, len, NO_EXPIRY, e))),
            ("delete", outcome(|e| cachetory_delete(cache, data, len, e))),
            ("mget", outcome(|e| cachetory_mget(cache, keys.as_ptr(), 3, &mut values, e))),
            ("mset", outcome(|e| cachetory_mset(cache, items.as_ptr(), 2, NO_EXPIRY, 0, e))),
            ("mset ttl", outcome(|e| cachetory_mset(cache, items.as_ptr(), 2, 60_000, 0, e))),
            ("mdelete", outcome(|e| cachetory_mdelete(cache, keys.as_ptr(), 3, &mut deleted, e))),
        ]
    };
    if outcomes[0].1 != OK {
        assert!(value.data.is_null() && value.len == 0 && value.owner.is_null(), "get's output");
    }
    if outcomes[5].1 != OK {
        assert!(values.items.is_null() && values.len == 0 && values.owner.is_null());
    }
    if outcomes[8].1 != OK {
        assert_eq!(deleted, 0);
    }
    // SAFETY: filled by the library, or empty.
    unsafe {
        cachetory_value_free(&mut value);
        cachetory_values_free(&mut values);
    }
    outcomes
}

fn with_value(cache: cachetory_t, value: cachetory_bytes_t) -> Vec<(&'static str, Outcome)> {
    let good = borrow(b"good");
    let items =
        [cachetory_item_t { key: good, value: good }, cachetory_item_t { key: good, value }];
    let (key, key_len) = (good.data.cast(), good.len);
    let (data, len) = (value.data.cast(), value.len);
    // SAFETY: as above.
    unsafe {
        vec![
            ("set", outcome(|e| cachetory_set(cache, key, key_len, data, len, NO_EXPIRY, 0, e))),
            ("mset", outcome(|e| cachetory_mset(cache, items.as_ptr(), 2, NO_EXPIRY, 0, e))),
            ("mset ttl", outcome(|e| cachetory_mset(cache, items.as_ptr(), 2, 60_000, 0, e))),
        ]
    }
}

#[track_caller]
fn all_refused(outcomes: Vec<(&'static str, Outcome)>) {
    for (name, outcome) in outcomes {
        let Err(failure) = outcome else { panic!("{name} was not refused") };
        assert_eq!(failure.status, CACHETORY_ERR_INVALID_ARGUMENT, "{name}: {failure:?}");
        assert_eq!(failure.flags, 0, "{name}: {failure:?}");
    }
}

/// Nothing that was refused had an effect, and the cache goes on.
#[track_caller]
fn untouched(f: &Fixture) {
    assert_eq!(f.cache.get("good"), Ok(None));
    assert_eq!(f.cache.ping(), OK);
}

fn null_with_length_zero_is_empty(f: &Fixture) {
    let cache = f.cache.raw();
    for (name, outcome) in with_key(cache, NO_BYTES) {
        assert!(outcome.is_ok(), "{name}: {outcome:?}");
    }
    assert_eq!(f.cache.clear(), OK);
    for (name, outcome) in with_value(cache, NO_BYTES) {
        assert_eq!(outcome, OK, "{name}");
        assert_eq!(f.cache.get("good"), Ok(Some(Vec::new())), "{name}");
    }
    let mut values = rubbish_values();
    let mut deleted = 77;
    // SAFETY: (NULL, 0) is an empty array.
    unsafe {
        assert_eq!(outcome(|e| cachetory_mget(cache, ptr::null(), 0, &mut values, e)), OK);
        assert_eq!(outcome(|e| cachetory_mset(cache, ptr::null(), 0, NO_EXPIRY, 0, e)), OK);
        assert_eq!(outcome(|e| cachetory_mdelete(cache, ptr::null(), 0, &mut deleted, e)), OK);
        assert_eq!((values.len, deleted), (0, 0));
        cachetory_values_free(&mut values);
    }
}

fn null_with_a_length_is_refused(f: &Fixture) {
    let cache = f.cache.raw();
    for len in [1, 3, isize::MAX as usize, isize::MAX as usize + 1, STRLEN] {
        all_refused(with_key(cache, cachetory_bytes_t { data: ptr::null(), len }));
        all_refused(with_value(cache, cachetory_bytes_t { data: ptr::null(), len }));
        let mut values = rubbish_values();
        let mut deleted = 77;
        // SAFETY: refused before it is touched.
        let arrays = unsafe {
            vec![
                ("mget", outcome(|e| cachetory_mget(cache, ptr::null(), len, &mut values, e))),
                ("mset", outcome(|e| cachetory_mset(cache, ptr::null(), len, NO_EXPIRY, 0, e))),
                (
                    "mdelete",
                    outcome(|e| cachetory_mdelete(cache, ptr::null(), len, &mut deleted, e)),
                ),
            ]
        };
        all_refused(arrays);
        assert!(values.items.is_null() && values.len == 0 && values.owner.is_null());
        assert_eq!(deleted, 0);
    }
    untouched(f);
}

fn null_outputs_are_refused(f: &Fixture) {
    let cache = f.cache.raw();
    let key = borrow(b"good");
    let url = c"dummy://";
    let mut out = cachetory_t { id: 77 };
    // SAFETY: NULL is refused.
    all_refused(unsafe {
        vec![
            ("get", outcome(|e| cachetory_get(cache, key.data.cast(), 4, ptr::null_mut(), e))),
            ("mget", outcome(|e| cachetory_mget(cache, &key, 1, ptr::null_mut(), e))),
            ("mget 0", outcome(|e| cachetory_mget(cache, ptr::null(), 0, ptr::null_mut(), e))),
            ("open", outcome(|e| cachetory_open_url(url.as_ptr(), ptr::null_mut(), e))),
            ("open NULL", outcome(|e| cachetory_open_url(ptr::null(), &mut out, e))),
        ]
    });
    assert_eq!(out.id, 0);
    untouched(f);
}

fn unknown_flags_are_refused(f: &Fixture) {
    let cache = f.cache.raw();
    let key = borrow(b"good");
    let item = cachetory_item_t { key, value: key };
    for flags in [2, 3, 4, 1 << 31, u32::MAX] {
        let set = f.cache.set_with("good", "value", NO_EXPIRY, flags);
        all_refused(vec![("set", set)]);
    }
    for flags in [IF_NOT_EXISTS, 2, u32::MAX] {
        for count in [0, 1] {
            // SAFETY: one item, borrowed for the call.
            let mset =
                outcome(|e| unsafe { cachetory_mset(cache, &item, count, 60_000, flags, e) });
            all_refused(vec![("mset", mset)]);
        }
    }
    untouched(f);
}

/// Memory that ends the process if it is touched.
struct Forbidden {
    start: *mut libc::c_void,
    len: usize,
}

impl Forbidden {
    fn new(len: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, wherever there is room.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start, len }
    }

    fn bytes(&self, len: usize) -> cachetory_bytes_t {
        cachetory_bytes_t { data: self.start.cast::<c_char>(), len }
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

fn lengths_that_cannot_be_are_refused_untouched(f: &Fixture) {
    let cache = f.cache.raw();
    let forbidden = Forbidden::new(4096);
    for len in [isize::MAX as usize, isize::MAX as usize + 1, STRLEN - 1] {
        all_refused(with_key(cache, forbidden.bytes(len)));
        all_refused(with_value(cache, forbidden.bytes(len)));
    }
    let keys = forbidden.start.cast_const();
    let mut values = rubbish_values();
    let mut deleted = 77;
    let too_many = isize::MAX as usize / size_of::<cachetory_bytes_t>() + 1;
    for count in [too_many, isize::MAX as usize, usize::MAX] {
        // SAFETY: refused before it is touched.
        all_refused(unsafe {
            vec![
                ("mget", outcome(|e| cachetory_mget(cache, keys.cast(), count, &mut values, e))),
                ("mset", outcome(|e| cachetory_mset(cache, keys.cast(), count, 1000, 0, e))),
                (
                    "mdelete",
                    outcome(|e| cachetory_mdelete(cache, keys.cast(), count, &mut deleted, e)),
                ),
            ]
        });
        assert!(values.items.is_null() && deleted == 0);
    }
    untouched(f);
}

fn too_long_for_the_server_is_refused_untouched(f: &Fixture) {
    const LONGEST: usize = 512 << 20;
    let cache = f.cache.raw();
    let forbidden = Forbidden::new(LONGEST + 4096);
    for len in [LONGEST + 1, LONGEST + 4096] {
        all_refused(with_key(cache, forbidden.bytes(len)));
        all_refused(with_value(cache, forbidden.bytes(len)));
    }
    if !f.prefix().is_empty() {
        // The prefix counts.
        all_refused(with_key(cache, forbidden.bytes(LONGEST)));
        all_refused(with_key(cache, forbidden.bytes(LONGEST - f.prefix().len() + 1)));
    }
    untouched(f);
}

fn a_key_may_be_measured_by_its_terminator(f: &Fixture) {
    let cache = f.cache.raw();
    let key = cachetory_bytes_t { data: c"measured".as_ptr(), len: STRLEN };
    assert_eq!(f.cache.set("measured", "value"), OK);
    for (name, outcome) in with_key(cache, key) {
        assert_eq!(outcome, OK, "{name}");
    }
    assert_eq!(f.cache.get("measured"), Ok(None), "deleted under that name");
    // SAFETY: the key is terminated.
    let set = |e| unsafe {
        cachetory_set(cache, key.data.cast(), STRLEN, c"v".as_ptr().cast(), 1, NO_EXPIRY, 0, e)
    };
    assert_eq!(outcome(set), OK);
    assert_eq!(f.cache.get("measured"), Ok(Some(b"v".to_vec())));
    assert_eq!(f.cache.get("measured\0"), Ok(None));
    let empty = cachetory_bytes_t { data: c"".as_ptr(), len: STRLEN };
    assert_eq!(f.cache.set("", "value"), OK);
    for (name, outcome) in with_key(cache, empty) {
        assert_eq!(outcome, OK, "{name}, the empty key");
    }
}

fn a_value_is_never_measured_by_its_terminator(f: &Fixture) {
    let text = cachetory_bytes_t { data: c"text".as_ptr(), len: STRLEN };
    all_refused(with_value(f.cache.raw(), text));
    untouched(f);
}

fn the_error_output_may_be_null(f: &Fixture) {
    let cache = f.cache.raw();
    let none = ptr::null_mut::<cachetory_error_t>();
    let key = borrow(b"good");
    let (data, len) = (key.data.cast(), key.len);
    let item = cachetory_item_t { key, value: key };
    let mut value = rubbish_value();
    let mut values = rubbish_values();
    let mut opened = cachetory_t { id: 77 };
    // SAFETY: everything is borrowed for the calls.
    unsafe {
        assert_eq!(cachetory_open_url(c"dummy://".as_ptr(), &mut opened, none), CACHETORY_OK);
        assert_eq!(cachetory_close(opened), CACHETORY_OK);
        let nowhere = cachetory_open_url(c"nowhere://".as_ptr(), &mut opened, none);
        assert_eq!(nowhere, CACHETORY_ERR_INVALID_URL);
        assert_eq!(cachetory_ping(cache, none), CACHETORY_OK);
        assert_eq!(cachetory_get(cache, data, len, &mut value, none), CACHETORY_NOT_FOUND);
        let set = cachetory_set(cache, data, len, data, len, NO_EXPIRY, IF_NOT_EXISTS, none);
        assert_eq!(set, CACHETORY_OK);
        let set = cachetory_set(cache, data, len, data, len, NO_EXPIRY, IF_NOT_EXISTS, none);
        assert_eq!(set, CACHETORY_NOT_STORED);
        assert_eq!(cachetory_mset(cache, &item, 1, 60_000, 0, none), CACHETORY_OK);
        assert_eq!(cachetory_mget(cache, &key, 1, &mut values, none), CACHETORY_OK);
        assert_eq!(cachetory_expire_in(cache, data, len, NO_EXPIRY, none), CACHETORY_OK);
        assert_eq!(cachetory_expire_at(cache, data, len, NO_EXPIRY, none), CACHETORY_OK);
        assert_eq!(cachetory_delete(cache, data, len, none), CACHETORY_OK);
        assert_eq!(cachetory_mdelete(cache, &key, 1, ptr::null_mut(), none), CACHETORY_OK);
        assert_eq!(cachetory_clear(cache, none), CACHETORY_OK);
        let refused = cachetory_get(cache, data, len, ptr::null_mut(), none);
        assert_eq!(refused, CACHETORY_ERR_INVALID_ARGUMENT);
        assert_eq!(cachetory_ping(cachetory_t { id: 0 }, none), CACHETORY_ERR_CLOSED);
        cachetory_values_free(&mut values);
    }
}

fn errors_are_filled_on_success_and_failure(f: &Fixture) {
    let cache = f.cache.raw();
    let mut error = rubbish_error();
    // SAFETY: the error is ours.
    unsafe {
        let refused = cachetory_set(cache, ptr::null(), 1, ptr::null(), 0, 1, 0, &mut error);
        assert_eq!(refused, error.status);
        assert_ne!(message(&error), "");
        // The same struct serves the next call.
        assert_eq!(cachetory_ping(cache, &mut error), CACHETORY_OK);
    }
    assert_eq!((error.status, error.flags, error.message[0]), (CACHETORY_OK, 0, 0));
    assert_ne!(error.message[1], 0, "only the first byte is written");
}

fn the_count_of_mdelete_may_be_null(f: &Fixture) {
    assert_eq!(f.cache.mset(&[("a", "1"), ("b", "2")], NO_EXPIRY), OK);
    let keys = borrow_all(&["a", "b"]);
    // SAFETY: the keys are borrowed for the call.
    let mdelete =
        |e| unsafe { cachetory_mdelete(f.cache.raw(), keys.as_ptr(), 2, ptr::null_mut(), e) };
    assert_eq!(outcome(mdelete), OK);
    assert_eq!(f.cache.mget(&["a", "b"]), Ok(vec![None, None]));
    all_refused(vec![(
        "mdelete",
        // SAFETY: refused.
        outcome(|e| unsafe {
            cachetory_mdelete(f.cache.raw(), &NULL_AND_ONE, 1, ptr::null_mut(), e)
        }),
    )]);
}

fn what_is_passed_in_is_not_kept_after_the_call(f: &Fixture) {
    let mut key = b"key-0".to_vec();
    let mut value = vec![b'a'; 100_000];
    for round in 0..5 {
        key[4] = b'0' + round;
        value.fill(b'a' + round);
        assert_eq!(f.cache.set(&key, &value), OK);
    }
    value.fill(b'!');
    for round in 0..5 {
        let answer = f.cache.get(format!("key-{round}")).unwrap();
        assert!(answer == Some(vec![b'a' + round; 100_000]), "round {round}");
    }
}
