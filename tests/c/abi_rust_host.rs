//! A Rust program that links the static library beside a Rust standard library of its own: their symbols must not
//! clash.

use std::ffi::{CStr, c_char};

unsafe extern "C" {
    fn cachetory_version() -> *const c_char;
}

fn main() {
    // A panic of the host's own, so that both personalities and allocators are at work.
    let caught = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(7)));
    assert_eq!(caught.unwrap_err().downcast_ref::<i32>(), Some(&7));
    // SAFETY: the library's static text.
    println!("cachetory {} works", unsafe { CStr::from_ptr(cachetory_version()) }.to_str().unwrap());
}
