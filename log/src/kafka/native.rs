//! What belongs to librdkafka and is ours to free. This file and the two beside it that use it are
//! the only ones with calls into it.

// The crate's files with a reason for it: the client's safe interface has no word for what they
// ask.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use rdkafka::error::KafkaError;

/// Something of librdkafka's that is ours to free.
pub(super) struct Owned<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    pub(super) fn new(
        pointer: *mut T,
        free: unsafe extern "C" fn(*mut T),
    ) -> Result<Self, KafkaError> {
        let none = || KafkaError::AdminOpCreation("librdkafka is out of memory".into());
        NonNull::new(pointer)
            .map(|pointer| Self { pointer, free })
            .ok_or_else(none)
    }

    pub(super) fn pointer(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `free` is the function that librdkafka names for what the pointer came from, and
        // this is the only call of it.
        unsafe { (self.free)(self.pointer.as_ptr()) }
    }
}
