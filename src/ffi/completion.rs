//! A completion as the caller gets it, and its way back.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use super::guard::report;
use super::status::{CACHETORY_NOT_FOUND, CACHETORY_NOT_STORED, CACHETORY_OK};
use super::types::*;
use crate::completion::Completion;
use crate::error::{Error, Result};
use crate::op::Answer;
use crate::reserve;

/// What became of an asynchronous call. It belongs to the caller, who releases it with cachetory_completion_free.
///
/// `value` and `values` are owned on their own: release them, or move them out by zeroing the member, before
/// cachetory_completion_free, which releases what is left. Up to 16 values below 1000 bytes that came together share
/// one buffer, which is freed when the last of them is released.
#[repr(C)]
#[derive(Debug)]
pub struct cachetory_completion_t {
    /// The caller's own, from the submission.
    pub tag: u64,
    /// What the synchronous call would have returned.
    pub status: cachetory_status_t,
    /// CACHETORY_ERROR_RETRYABLE | CACHETORY_ERROR_MAYBE_APPLIED
    pub flags: u32,
    /// cachetory_get_async, on CACHETORY_OK. Else empty.
    pub value: cachetory_value_t,
    /// cachetory_mget_async, on CACHETORY_OK. Else empty.
    pub values: cachetory_values_t,
    /// cachetory_mdelete_async, on CACHETORY_OK. Else 0.
    pub deleted: u64,
    /// Where status < 0: why, NUL-terminated UTF-8. Else NULL. Released with the completion.
    pub message: *const c_char,
    /// Opaque; do not touch.
    pub owner: *mut c_void,
    /// Zero.
    pub reserved: [u64; 5],
}

impl cachetory_completion_t {
    pub const EMPTY: Self = Self {
        tag: 0,
        status: CACHETORY_OK,
        flags: 0,
        value: cachetory_value_t::EMPTY,
        values: cachetory_values_t::EMPTY,
        deleted: 0,
        message: ptr::null(),
        owner: ptr::null_mut(),
        reserved: [0; 5],
    };

    fn fill(&mut self, answer: Answer) -> Result<()> {
        match answer {
            Answer::Done => {}
            Answer::NotFound => self.status = CACHETORY_NOT_FOUND,
            Answer::NotStored => self.status = CACHETORY_NOT_STORED,
            Answer::Value(value) => self.value = give_value(value),
            Answer::Values(values) => self.values = give_values(values)?,
            Answer::Deleted(number) => self.deleted = number,
        }
        Ok(())
    }

    #[cold]
    fn fail(&mut self, failure: &Error) {
        let error = report(failure);
        (self.status, self.flags) = (error.status, error.flags);
        // SAFETY: `report` terminated it.
        match copy(unsafe { CStr::from_ptr(error.message.as_ptr()) }) {
            Some(message) => {
                self.owner = message.into_raw().cast();
                self.message = self.owner.cast();
            }
            None => self.message = c"(no memory for the message)".as_ptr(),
        }
    }
}

fn copy(text: &CStr) -> Option<CString> {
    let mut bytes = Vec::new();
    let len = text.count_bytes() + 1;
    reserve::without(|| bytes.try_reserve_exact(len)).ok()?;
    bytes.extend_from_slice(text.to_bytes_with_nul());
    CString::from_vec_with_nul(bytes).ok()
}

/// Hands a completion over to the caller, who has room for it at `place`.
///
/// # Safety
/// `place` may be written.
pub unsafe fn give_completion(place: *mut cachetory_completion_t, completion: Completion) {
    // SAFETY: by the caller's promise.
    let given = unsafe {
        place.write(cachetory_completion_t::EMPTY);
        &mut *place
    };
    given.tag = completion.tag;
    if let Err(failure) = completion.result.and_then(|answer| given.fill(answer)) {
        given.fail(&failure);
    }
}

/// Whether it takes but a few steps to hand it over.
pub fn is_brief(completion: &Completion) -> bool {
    completion.result.as_ref().is_ok_and(|answer| !matches!(answer, Answer::Values(_)))
}

/// Takes back what [`give_completion`] gave, and empties the caller's struct.
///
/// # Safety
/// `completion` is one that this library filled, or all zero; its `value` and `values` may have been moved out.
pub unsafe fn release_completion(completion: &mut cachetory_completion_t) {
    // SAFETY: by the caller's promise each is ours or empty, and the owner is a message of ours or NULL.
    unsafe {
        release_value(&mut completion.value);
        if !completion.values.owner.is_null() {
            release_values(&mut completion.values);
        }
        if !completion.owner.is_null() {
            drop(CString::from_raw(completion.owner.cast()));
        }
    }
    *completion = cachetory_completion_t::EMPTY;
}
